"""What physics clips to make."""

from __future__ import annotations

from dataclasses import dataclass

from pointloom.errors import OptionError

SMALLEST_SIDE, LARGEST_SIDE = 32, 2048
MOST_OBJECTS = 64


@dataclass(frozen=True)
class PhysicsConfig:
    """What physics clips to make. Ranges are (lowest, highest) and drawn uniformly, once a clip.

    size           (width, height) of the frames in pixels
    frames         number of frames
    tracks         number of tracks: half on objects, half on the room, as far as both can be seen
    difficulty     factor for the time between two frames, and so for the speed of everything: 0.08 s at 1
    objects        number of objects
    models         share of the objects that are taken from the models at hand, if there are any; others are drawn
    still_cameras  share of the clips whose camera does not move at all
    blurred        share of the clips with motion blur
    wear           strength of noise, compression and changes of light, 0 to 1
    """

    size: tuple[int, int] = (256, 192)
    frames: int = 24
    tracks: int = 512
    difficulty: tuple[float, float] = (0.1, 1.0)
    objects: tuple[int, int] = (3, 12)
    models: float = 0.6
    still_cameras: float = 0.25
    blurred: float = 0.5
    wear: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if min(self.size) < SMALLEST_SIDE or max(self.size) > LARGEST_SIDE:
            raise OptionError(f"size must lie in {SMALLEST_SIDE}..{LARGEST_SIDE} pixels a side, got {self.size}.")
        for name, number in (("frames", self.frames), ("tracks", self.tracks)):
            if number < 1:
                raise OptionError(f"{name} must be at least 1, got {number}.")
        for name, low, pair, high in (
            ("difficulty", 0, self.difficulty, 4),
            ("objects", 0, self.objects, MOST_OBJECTS),
        ):
            if not low <= pair[0] <= pair[1] <= high:
                raise OptionError(f"{name} must be (lowest, highest), both in {low}..{high}, got {pair}.")
        for name, share in (
            ("models", self.models),
            ("still_cameras", self.still_cameras),
            ("blurred", self.blurred),
            ("wear", self.wear),
        ):
            if not 0 <= share <= 1:
                raise OptionError(f"{name} must lie in 0..1, got {share}.")
