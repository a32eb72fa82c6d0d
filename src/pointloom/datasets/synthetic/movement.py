"""How the camera and the objects of a layered clip move.

All speeds follow one difficulty a clip, all turning and zooming a factor of its own, because the two come apart in
real videos: most hand-held clips are slow, a few are fast, and some of the slow ones turn upside down. The numbers
were set so that the median speed of visible points is about 2 pixels a frame and the 99th percentile about 15 in
frames 256 pixels wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pointloom.datasets.synthetic.motion import (
    Homographies,
    Path,
    PlanePath,
    bounce,
    card,
    drive,
    hop,
    local_scale,
    shake,
    shift,
    swing,
    wave,
)

REFERENCE_WIDTH = 256  # sizes and speeds below are pixels of a frame this wide

CALM_SHARE, CALM_SPEED = 0.25, 0.15  # of the cameras that move
PAN_SPEED, SWAY_PX = 5.0, 4.0  # at difficulty 1
RETURN_SHARE, RETURN_REACH = 0.5, (0.2, 0.8)  # cameras that soon come back; how far they go, in frame widths
FAR_REACH = 2.0  # frame widths, for the others
SHAKE_SHARE, SHAKE_PX, SHAKE_ROLL = 0.5, (0.2, 1.5), 0.004  # pixels and radians, at difficulty 1
STRONG_SHARE = 0.3  # of the clips and objects that turn strongly; the same again for zoom, and for tilt
CAMERA_QUIET = 0.06  # of the strong roll and zoom, for the other cameras
CAMERA_ROLL, CAMERA_ROLL_RATE = np.pi, np.radians(8)  # radians and radians a frame: a clip may stand on its head
CAMERA_ZOOM, ZOOM_RATE = 0.6 * np.log(3), 0.08  # of the logarithm
CAMERA_TILT, CAMERA_TILT_RATE = 0.22, 0.02  # radians and radians a frame
CAMERA_FOCAL = 1.2  # frame widths

OBJECT_SPEED = 6.0  # at difficulty 1
SMALL_PX, SMALL_HASTE = 26.0, 1.6  # objects up to this size are faster by this factor
ANCHORED_SHARE = 0.45  # objects that stand or move on the background and follow its motion
ANCHORED_SPEED = 0.6  # of the speed of the others
PARKED_SHARE = 0.4  # of the anchored objects that stand still
INDOORS_SHARE = 0.25  # of the free objects that bounce at the edges of the frame; others leave and come back
HOP_SHARE, HOP_PX = 0.12, (10.0, 50.0)
OBJECT_QUIET = 0.15
OBJECT_TURN, OBJECT_TURN_RATE = np.pi, np.radians(12)
OBJECT_ZOOM = 0.7 * np.log(3)
OBJECT_TILT, OBJECT_TILT_RATE = 0.95, 0.08
OBJECT_LEAN = 0.3  # radians by which an object may stand askew
SWEEP_SPEED = (8.0, 28.0)  # of large objects that cross the frame


@dataclass(frozen=True)
class Terms:
    """What is fixed for one clip: frames, (width, height) of the view, and the factors of `LayeredConfig`.

    resolution is the size at which frames are drawn, before they are resized to the size of the view.
    """

    frames: int
    view: tuple[int, int]
    difficulty: float
    turning: float
    wear: float
    resolution: float

    @property
    def unit(self) -> float:
        """Pixels of the view for one pixel of a frame of the reference width."""
        return self.view[0] / REFERENCE_WIDTH

    @property
    def speed(self) -> float:
        """Pixels of the view for one pixel of a frame of the reference width at difficulty 1."""
        return self.difficulty * self.unit


@dataclass(frozen=True)
class Motion:
    """Maps of a card of unit density, whose origin is its centre, into the frame, and its brightness in each frame."""

    maps: Homographies
    gain: Path


def still_camera(terms: Terms) -> Homographies:
    """World -> frame for a camera on a tripod. The world's origin is in the middle of the frame."""
    return shift(np.tile((np.array(terms.view) - 1) / 2, (terms.frames, 1)))


def moving_camera(rng: np.random.Generator, terms: Terms) -> Homographies:
    """World -> frame. The world's scale is that of a frame without zoom."""
    T, turning = terms.frames, terms.turning
    speed = terms.speed * (CALM_SPEED if rng.random() < CALM_SHARE else 1.0)
    pan = drive(rng, T, PAN_SPEED * speed)
    pan += np.stack([wave(rng, T, SWAY_PX * speed) for _ in range(2)], axis=-1)
    reach = terms.view[0] * (rng.uniform(*RETURN_REACH) if rng.random() < RETURN_SHARE else FAR_REACH)
    pan = reach * np.sin(pan / reach)
    roll = swing(rng, T, CAMERA_ROLL * _emphasis(rng, CAMERA_QUIET) * turning, CAMERA_ROLL_RATE * turning)
    zoom = swing(rng, T, CAMERA_ZOOM * _emphasis(rng, CAMERA_QUIET) * turning, ZOOM_RATE * turning)
    tilt = _swings(rng, T, CAMERA_TILT * turning, CAMERA_TILT_RATE * turning)
    position = np.tile((np.array(terms.view) - 1) / 2, (T, 1))
    if rng.random() < SHAKE_SHARE:
        tremor = rng.uniform(*SHAKE_PX) * speed
        position += np.stack([shake(rng, T, tremor) for _ in range(2)], axis=-1)
        roll += shake(rng, T, SHAKE_ROLL * speed / terms.unit)
    focal = CAMERA_FOCAL * terms.view[0]
    return card(position, angle=roll, scale=np.exp(zoom), tilt=tilt, focal=focal) @ shift(-pan)


def object_motion(rng: np.random.Generator, camera: Homographies, terms: Terms, diameter: float) -> Motion:
    """The motion of an object of a diameter in reference pixels, which is in view in at least one frame."""
    T, view, size = terms.frames, np.array(terms.view), diameter * terms.unit
    when, place = int(rng.integers(T)), rng.random(2) * view
    way = drive(rng, T, OBJECT_SPEED * (SMALL_HASTE if diameter <= SMALL_PX else 1.0) * terms.speed)
    if rng.random() < HOP_SHARE:
        way[:, 1] += hop(rng, T, rng.uniform(*HOP_PX) * terms.speed)
    way -= way[when]
    angle, scale, tilt = _turning(rng, terms)
    focal = size * rng.uniform(1.3, 4)  # short: seen from close by, with strong perspective
    if rng.random() < ANCHORED_SHARE:
        if rng.random() < PARKED_SHARE:
            way, angle, scale, tilt = (
                np.zeros_like(way),
                *(np.repeat(path[[when]], T, 0) for path in (angle, scale, tilt)),
            )
        world = _project(np.linalg.inv(camera[when]), place)
        scale = scale / local_scale(camera @ shift(world[None]))[when]
        path = world + way * ANCHORED_SPEED
        maps = camera @ card(path, angle=angle, scale=scale, tilt=tilt, focal=focal)
    else:
        margin = size * (-0.3 if rng.random() < INDOORS_SHARE else rng.uniform(0.5, 1.5))
        low, high = np.minimum(-margin, view / 2 - 1), np.maximum(view + margin, view / 2 + 1)
        path = np.stack([bounce(place[i] + way[:, i], low[i], high[i]) for i in range(2)], axis=-1)
        maps = card(path, angle=angle, scale=scale, tilt=tilt, focal=focal)
    light = rng.uniform(-0.4, 0.4) * np.sin(tilt).sum(axis=-1) + swing(rng, T, 0.1 * terms.difficulty)
    return Motion(maps, np.exp(terms.wear * light))


def sweep(rng: np.random.Generator, terms: Terms, diameter: float) -> Motion:
    """The motion of something large that crosses the frame and hides much of it."""
    T, view = terms.frames, np.array(terms.view)
    heading = rng.uniform(-np.pi, np.pi)
    velocity = rng.uniform(*SWEEP_SPEED) * terms.speed * np.array([np.cos(heading), np.sin(heading)])
    middle = view * rng.uniform(0.3, 0.7, 2)
    path = middle + (np.arange(T) - rng.uniform(0, T))[:, None] * velocity
    path = np.stack([bounce(path[:, i], -float(view[i]), 2.0 * float(view[i])) for i in range(2)], axis=-1)
    angle, scale, tilt = _turning(rng, terms)
    maps = card(path, angle=angle, scale=scale, tilt=tilt, focal=3 * diameter * terms.unit)
    return Motion(maps, np.ones(T))


def _turning(rng: np.random.Generator, terms: Terms) -> tuple[Path, Path, PlanePath]:
    """Angle, scale and tilt of an object."""
    T, turning = terms.frames, terms.turning
    angle = swing(rng, T, OBJECT_TURN * _emphasis(rng, OBJECT_QUIET) * turning, OBJECT_TURN_RATE * turning)
    zoom = swing(rng, T, OBJECT_ZOOM * _emphasis(rng, OBJECT_QUIET) * turning, ZOOM_RATE * turning)
    tilt = _swings(rng, T, OBJECT_TILT * _emphasis(rng, OBJECT_QUIET) * turning, OBJECT_TILT_RATE * turning)
    return angle + rng.uniform(-OBJECT_LEAN, OBJECT_LEAN), np.exp(zoom), tilt


def _emphasis(rng: np.random.Generator, quiet: float) -> float:
    return 1.0 if rng.random() < STRONG_SHARE else quiet


def _swings(rng: np.random.Generator, frames: int, amplitude: float, max_rate: float) -> PlanePath:
    """Two independent swings, one for each axis."""
    return np.stack([swing(rng, frames, amplitude, max_rate) for _ in range(2)], axis=-1)


def _project(homography: Float[np.ndarray, "3 3"], point: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " 2"]:
    image = homography[:, :2] @ point + homography[:, 2]
    return np.asarray(image[:2] / image[2])
