"""What layered clips to make."""

from __future__ import annotations

from dataclasses import dataclass

from pointloom.errors import OptionError

SMALLEST_SIDE = 16


@dataclass(frozen=True)
class LayeredConfig:
    """What layered clips to make. Ranges are (lowest, highest) and drawn uniformly, once a clip.

    size           (width, height) of the frames in pixels
    frames         number of frames
    tracks         number of tracks: half on objects, half on the background, as far as both can be seen
    difficulty     factor for the speed of everything: at 1 the fastest points cross 20 pixels in a frame of 256
    turning        factor for rotation, zoom and tilt: at 1 cameras and objects turn by up to 180 degrees and change
                   their size up to threefold within a second
    objects        number of objects
    figures        share of the objects that are jointed figures, whose limbs swing
    specimens      share of the clips that look like recordings of animals in a laboratory: a still camera, and nothing
                   but figures with hardly any texture, which step and pause, before a plain ground
    landmarks      share of the tracks that are joints and tips of limbs, as people mark them, where figures are seen
    still_cameras  share of the clips whose camera does not move at all
    wear           strength of blur, noise, compression and changes of light, 0 to 1
    """

    size: tuple[int, int] = (256, 192)
    frames: int = 24
    tracks: int = 512
    difficulty: tuple[float, float] = (0.1, 1.0)
    turning: tuple[float, float] = (0.0, 1.0)
    objects: tuple[int, int] = (3, 12)
    figures: float = 0.2
    specimens: float = 0.0
    landmarks: float = 0.0
    still_cameras: float = 0.2
    wear: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if min(self.size) < SMALLEST_SIDE:
            raise OptionError(f"size must be at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels, got {self.size}.")
        for name, number in (("frames", self.frames), ("tracks", self.tracks)):
            if number < 1:
                raise OptionError(f"{name} must be at least 1, got {number}.")
        for name, pair in (("difficulty", self.difficulty), ("turning", self.turning), ("objects", self.objects)):
            if not 0 <= pair[0] <= pair[1]:
                raise OptionError(f"{name} must be (lowest, highest) with 0 <= lowest <= highest, got {pair}.")
        if self.turning[1] > 1:
            raise OptionError(f"turning must lie in 0..1, got {self.turning}. At 1, cameras already turn upside down.")
        for name, share in (
            ("figures", self.figures),
            ("specimens", self.specimens),
            ("landmarks", self.landmarks),
            ("still_cameras", self.still_cameras),
            ("wear", self.wear),
        ):
            if not 0 <= share <= 1:
                raise OptionError(f"{name} must lie in 0..1, got {share}.")
