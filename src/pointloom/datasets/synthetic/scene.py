"""What is in a layered clip and how it moves: a camera, a background, objects and their shadows, drawn from a seed.

Speeds are tied to one difficulty a clip, turning and zooming to a factor of their own: most clips of people's phones are
slow, a few are fast, and some calm ones turn upside down. The numbers were set so that the median speed of tracks is about
2 pixels a frame and the 99th percentile about 15 in frames of 256 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from pointloom.datasets.synthetic.layers import Layer, Ripple, enlarging
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
from pointloom.datasets.synthetic.shapes import random_mask
from pointloom.datasets.synthetic.textures import (
    BACKGROUND_MIX,
    OBJECT_MIX,
    TextureBank,
    random_texture,
    resize,
)

REFERENCE_WIDTH = 256  # sizes and speeds below are pixels of a frame this wide

CALM_SHARE, CALM_SPEED = 0.25, 0.15  # of the cameras that move
PAN_SPEED = 5.0  # pixels a frame at difficulty 1
SHAKE_SHARE, SHAKE_PX, SHAKE_ROLL = 0.5, (0.2, 1.5), 0.004  # radians
STRONG_TURN_SHARE = 0.35
CAMERA_ROLL, CAMERA_ROLL_RATE = np.pi, np.radians(9)  # a clip may stand on its head
CAMERA_ZOOM, ZOOM_RATE = 0.75 * np.log(3), 0.06  # logarithms
CAMERA_TILT, CAMERA_TILT_RATE = 0.22, 0.02  # radians
QUIET = 0.06  # what is left of a turn, a zoom or a tilt where it is not a strong one
CAMERA_FOCAL = 1.2  # widths of the frame

OBJECT_SPEED = 6.0  # pixels a frame at difficulty 1
SMALL_SHARE, SMALL_HASTE = 0.35, 1.6
SMALL_PX, COMMON_PX = (8.0, 26.0), (28.0, 130.0)
SWEEP_SHARE, SWEEP_PX, SWEEP_SPEED = 0.25, (100.0, 200.0), (8.0, 28.0)
ANCHORED_SHARE = 0.45  # objects that stand or move on the background and follow the camera's motion
PARKED_SHARE = 0.4  # of those that stand still there
INDOORS_SHARE = 0.25  # of the others that bounce at the edges of the frame
HOP_SHARE = 0.12
OBJECT_TURN, OBJECT_TURN_RATE = np.pi, np.radians(12)
OBJECT_ZOOM = 0.6 * np.log(3)
OBJECT_TILT, OBJECT_TILT_RATE = 0.95, 0.08
OBJECT_QUIET = 0.15
RIPPLE_SHARE, BACKGROUND_RIPPLE_SHARE, RIPPLE_SLOPE = 0.25, 0.1, 0.27
LOOKALIKE_SHARE = 0.25  # clips with several objects that look the same
CAMOUFLAGE_SHARE = 0.1  # objects cut out of the background's own photo
RECOLOURED_SHARE = 0.5
DEFOCUSED_SHARE = 0.2
SHADOW_SHARE = 0.3
SPOT_SHARE = 0.2  # clips with shadows or lights of things that are not in the picture

SHADOW_OPACITY = 110  # below the opacity from which on a layer hides what is behind it
LARGEST_TEXTURE = 640  # side in pixels
SMALLEST_TEXTURE = 10


@dataclass(frozen=True)
class Scene:
    """Layers from back to front (the first is the endless background) and how they are recorded.

    shutter     share of a frame's time during which the shutter is open: 0 is no motion blur
    resolution  size of the canvas that is drawn, in frame sizes; the frame is resized from it
    """

    layers: tuple[Layer, ...]
    shutter: float
    resolution: float


@dataclass(frozen=True)
class Pace:
    """How lively a clip is.

    frames      number of frames
    view        (width, height) of the frame
    difficulty  factor for all speeds
    turning     factor for rotation, zoom and tilt
    """

    frames: int
    view: tuple[int, int]
    difficulty: float
    turning: float

    @property
    def unit(self) -> float:
        """Pixels of this frame for one pixel of a frame of the reference width."""
        return self.view[0] / REFERENCE_WIDTH


def random_scene(
    rng: np.random.Generator,
    textures: TextureBank,
    pace: Pace,
    *,
    objects: tuple[int, int],
    still_cameras: float,
    wear: float,
) -> Scene:
    """Draw a scene. `objects` is the range of their number, `still_cameras` the share of cameras that do not move.

    `wear` in [0, 1] is the strength of blur and other faults of the recording.
    """
    resolution = 1.0
    if wear > 0 and rng.random() < 0.4:
        resolution = rng.uniform(0.6, 0.95) if rng.random() < 0.65 else rng.uniform(1.2, 1.5)
    camera = _still(pace) if rng.random() < still_cameras else _camera(rng, pace)
    photo = textures.pick(rng)
    layers = [_background(rng, photo, camera, pace, resolution, wear)]

    lookalike = _sticker(rng, textures.pick(rng), 128, 128) if rng.random() < LOOKALIKE_SHARE else None
    for _ in range(int(rng.integers(objects[0], objects[1] + 1))):
        alike = lookalike is not None and rng.random() < 0.6
        source = photo if rng.random() < CAMOUFLAGE_SHARE else textures.pick(rng)
        size = _size(rng)
        motion = _object_motion(rng, camera, pace, size, haste=SMALL_HASTE if size < SMALL_PX[1] else 1.0)
        layers += _object(rng, source, motion, size, pace, resolution, wear, lookalike if alike else None)
    if objects[1] > 0 and rng.random() < SWEEP_SHARE:
        size = rng.uniform(*SWEEP_PX)
        motion = _sweep(rng, pace)
        layers += _object(rng, textures.pick(rng), motion, size, pace, resolution, wear, None)
    if rng.random() < SPOT_SHARE * wear:
        layers += [_spot(rng, pace) for _ in range(int(rng.integers(1, 4)))]
    shutter = rng.uniform(0.3, 1.0) * wear if rng.random() < 0.5 else 0.0
    return Scene(tuple(layers), shutter, resolution)


# ---- the camera and what it looks at


def _still(pace: Pace) -> Homographies:
    centre = (np.array(pace.view) - 1) / 2
    return shift(np.tile(centre, (pace.frames, 1)))


def _camera(rng: np.random.Generator, pace: Pace) -> Homographies:
    """World -> frame. The world's origin is where the camera starts to look, its scale that of a frame without zoom."""
    T, unit = pace.frames, pace.unit
    strength = CALM_SPEED if rng.random() < CALM_SHARE else 1.0
    pan = drive(rng, T, strength * PAN_SPEED * pace.difficulty * unit)
    pan += np.stack([wave(rng, T, 4.0 * strength * pace.difficulty * unit) for _ in range(2)], axis=-1)
    if rng.random() < 0.5:  # comes back instead of leaving for ever
        reach = rng.uniform(0.2, 0.8) * pace.view[0]
        pan = reach * np.sin(pan / reach)
    position = np.tile((np.array(pace.view) - 1) / 2, (T, 1))
    turning = pace.turning
    roll = swing(rng, T, CAMERA_ROLL * _emphasis(rng) * turning, CAMERA_ROLL_RATE * turning)
    zoom = swing(rng, T, CAMERA_ZOOM * _emphasis(rng) * turning, ZOOM_RATE * turning)
    tilt = swing_pair(rng, T, CAMERA_TILT * turning, CAMERA_TILT_RATE * turning)
    if rng.random() < SHAKE_SHARE:
        tremor = rng.uniform(*SHAKE_PX) * strength * pace.difficulty * unit
        position = position + np.stack([shake(rng, T, tremor) for _ in range(2)], axis=-1)
        roll = roll + shake(rng, T, SHAKE_ROLL * strength * pace.difficulty)
    focal = CAMERA_FOCAL * pace.view[0]
    return card(position, angle=roll, scale=np.exp(zoom), tilt=tilt, focal=focal) @ shift(-pan)


def _emphasis(rng: np.random.Generator, quiet: float = QUIET) -> float:
    return 1.0 if rng.random() < STRONG_TURN_SHARE else quiet


def swing_pair(rng: np.random.Generator, frames: int, amplitude: float, max_rate: float) -> PlanePath:
    """Two independent swings, one for each axis."""
    return np.stack([swing(rng, frames, amplitude, max_rate) for _ in range(2)], axis=-1)


def _background(
    rng: np.random.Generator,
    photo: UInt8[np.ndarray, "h w 3"],
    camera: Homographies,
    pace: Pace,
    resolution: float,
    wear: float,
) -> Layer:
    width = pace.view[0] * rng.uniform(1.1, 2.4)  # of the photo in the world
    height = width * photo.shape[0] / photo.shape[1]
    density = min(resolution * float(local_scale(camera).max()), 1.5, LARGEST_TEXTURE / max(width, height))
    size = max(SMALLEST_TEXTURE, round(width * density)), max(SMALLEST_TEXTURE, round(height * density))
    texture = random_texture(rng, photo, size, coverage=np.inf, mix=BACKGROUND_MIX)
    if wear > 0 and rng.random() < DEFOCUSED_SHARE:
        texture = cv2.GaussianBlur(texture, (0, 0), rng.uniform(0.5, 2.0) * wear * density)
    maps = camera @ _centred(size, size[0] / width)
    ripple = _ripple(rng, max(size) / 3, pace.difficulty) if rng.random() < BACKGROUND_RIPPLE_SHARE else None
    return Layer(texture, maps, np.ones(pace.frames), pace.view, ripple, endless=True)


# ---- objects


@dataclass(frozen=True)
class _Motion:
    """Map of a centred card of unit density into the frame, and its brightness as it turns in the light."""

    maps: Homographies
    gain: Path


def _size(rng: np.random.Generator) -> float:
    """Diameter in reference pixels."""
    low, high = SMALL_PX if rng.random() < SMALL_SHARE else COMMON_PX
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _object_motion(rng: np.random.Generator, camera: Homographies, pace: Pace, size: float, haste: float) -> _Motion:
    T, unit, view = pace.frames, pace.unit, np.array(pace.view)
    when, place = int(rng.integers(T)), rng.uniform(0, 1, 2) * view  # it is in the frame at least then, unless it hops
    speed = haste * OBJECT_SPEED * pace.difficulty * unit
    own = drive(rng, T, speed)
    if rng.random() < HOP_SHARE:
        own[:, 1] += hop(rng, T, rng.uniform(10, 50) * pace.difficulty * unit)
    angle, scale, tilt = _own_turning(rng, pace)
    focal = size * unit * rng.uniform(1.3, 4)
    if rng.random() < ANCHORED_SHARE:
        if rng.random() < PARKED_SHARE:
            own = np.zeros_like(own)
            angle, scale, tilt = angle[when].repeat(T), scale[when].repeat(T), tilt[[when] * T]
        world = _project(np.linalg.inv(camera[when]), place)
        scale = scale / local_scale(camera @ shift(np.tile(world, (T, 1))))[when]
        path = world + (own - own[when]) * 0.6
        maps = camera @ card(path, angle=angle, scale=scale, tilt=tilt, focal=focal)
    else:
        margin = size * unit * (-0.3 if rng.random() < INDOORS_SHARE else rng.uniform(0.5, 1.5))
        low, high = np.minimum(-margin, view / 2 - 1), np.maximum(view + margin, view / 2 + 1)
        path = place + own - own[when]
        path = np.stack([bounce(path[:, i], low[i], high[i]) for i in range(2)], axis=-1)
        maps = card(path, angle=angle, scale=scale, tilt=tilt, focal=focal)
    light = rng.uniform(-0.4, 0.4)
    gain = np.exp(light * np.sin(tilt).sum(axis=-1) + swing(rng, T, 0.1 * pace.difficulty))
    return _Motion(maps, gain)


def _own_turning(rng: np.random.Generator, pace: Pace) -> tuple[Path, Path, PlanePath]:
    """Angle, scale and tilt of an object."""
    T, turning = pace.frames, pace.turning
    angle = swing(rng, T, OBJECT_TURN * _emphasis(rng, OBJECT_QUIET) * turning, OBJECT_TURN_RATE * turning)
    zoom = swing(rng, T, OBJECT_ZOOM * _emphasis(rng, OBJECT_QUIET) * turning, ZOOM_RATE * turning)
    tilt = swing_pair(rng, T, OBJECT_TILT * _emphasis(rng, OBJECT_QUIET) * turning, OBJECT_TILT_RATE * turning)
    return angle + rng.uniform(-0.3, 0.3), np.exp(zoom), tilt


def _sweep(rng: np.random.Generator, pace: Pace) -> _Motion:
    """Something large that crosses the frame and hides much of it."""
    T, view = pace.frames, np.array(pace.view)
    heading = rng.uniform(-np.pi, np.pi)
    speed = rng.uniform(*SWEEP_SPEED) * (0.2 + 0.8 * pace.difficulty) * pace.unit * min(pace.difficulty * 10, 1)
    time = np.arange(T) - rng.uniform(0, T)
    path = view * rng.uniform(0.3, 0.7, 2) + time[:, None] * speed * np.array([np.cos(heading), np.sin(heading)])
    path = np.stack([bounce(path[:, i], -1.0 * view[i], 2.0 * view[i]) for i in range(2)], axis=-1)
    angle, scale, tilt = _own_turning(rng, pace)
    maps = card(path, angle=angle, scale=scale, tilt=tilt * 0.5, focal=3 * SWEEP_PX[1] * pace.unit)
    return _Motion(maps, np.ones(T))


def _object(
    rng: np.random.Generator,
    photo: UInt8[np.ndarray, "h w 3"],
    motion: _Motion,
    size: float,
    pace: Pace,
    resolution: float,
    wear: float,
    lookalike: UInt8[np.ndarray, "h w 4"] | None,
) -> list[Layer]:
    """An object of a diameter in reference pixels, with its shadow, if it has one, before it."""
    aspect = np.exp(rng.uniform(-0.5, 0.5)) if lookalike is None else 1.0
    width, height = size * pace.unit * np.sqrt(aspect), size * pace.unit / np.sqrt(aspect)
    density = resolution * float(local_scale(motion.maps).max())
    density = min(density, LARGEST_TEXTURE / max(width, height))
    pixels = max(SMALLEST_TEXTURE, round(width * density)), max(SMALLEST_TEXTURE, round(height * density))
    texture = _sticker(rng, photo, *pixels) if lookalike is None else resize(lookalike, *pixels)
    if wear > 0 and rng.random() < DEFOCUSED_SHARE:
        texture = cv2.GaussianBlur(texture, (0, 0), rng.uniform(0.4, 1.5) * wear, borderType=cv2.BORDER_REPLICATE)
    maps = motion.maps @ _centred(pixels, pixels[0] / width)
    ripple = _ripple(rng, min(pixels), pace.difficulty) if rng.random() < RIPPLE_SHARE else None
    layer = Layer(texture, maps, motion.gain, pace.view, ripple)
    return [_shadow(rng, layer, size * pace.unit), layer] if rng.random() < SHADOW_SHARE * wear else [layer]


def _sticker(
    rng: np.random.Generator, photo: UInt8[np.ndarray, "h w 3"], width: int, height: int
) -> UInt8[np.ndarray, "height width 4"]:
    """A texture cut to a random shape."""
    texture = random_texture(rng, photo, (width, height), coverage=rng.uniform(1.0, 3.5), mix=OBJECT_MIX)
    if rng.random() < RECOLOURED_SHARE:
        contrast, colour = rng.uniform(0.6, 1.4), rng.uniform(-40, 40, 3)
        curve = 128 + (np.arange(256)[:, None] - 128) * contrast + colour
        texture = cv2.LUT(texture, np.clip(curve, 0, 255).astype(np.uint8)[None])
    return np.dstack([texture, random_mask(rng, width, height)])


def _ripple(rng: np.random.Generator, length: float, difficulty: float) -> Ripple:
    """Waves about as long as `length`, in pixels of the sheet."""
    wave_number = 2 * np.pi / (length * rng.uniform(0.6, 2.0, 2))
    heading = rng.uniform(0, 2 * np.pi, 2)
    waves = wave_number[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    amplitude = rng.uniform(0.3, 1.0) * RIPPLE_SLOPE / float(wave_number.max())
    pace = rng.uniform(-0.4, 0.4) * difficulty
    return Ripple(amplitude, waves, rng.uniform(0, 2 * np.pi, 2), pace)


# ---- shadows and lights: layers too thin to hide anything


def _shadow(rng: np.random.Generator, layer: Layer, size: float) -> Layer:
    """A soft dark copy of an object's outline, a little aside."""
    softness = rng.uniform(0.05, 0.2) * size
    outline = layer.texture[..., 3]
    coarse = resize(outline, max(4, outline.shape[1] // 3), max(4, outline.shape[0] // 3))
    ratio = coarse.shape[1] / outline.shape[1]
    sigma = max(0.5, softness * ratio)
    margin = int(np.ceil(2 * sigma)) + 1
    padded = cv2.copyMakeBorder(coarse, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0)
    opacity = cv2.GaussianBlur(padded, (0, 0), sigma) * (rng.uniform(0.4, 1.0) * SHADOW_OPACITY / 255)
    texture = np.dstack([np.zeros((*opacity.shape, 3), np.uint8), np.rint(opacity).astype(np.uint8)])
    to_padded = shift(np.full((1, 2), float(margin)))[0] @ enlarging(layer.texture.shape[1::-1], coarse.shape[1::-1])
    to_sheet = np.linalg.inv(to_padded)
    aside = rng.normal(0, 0.15, 2) * size
    maps = shift(np.tile(aside, (len(layer.to_frame), 1))) @ layer.to_frame @ to_sheet
    return Layer(texture, maps, layer.gain, layer.view)


def _spot(rng: np.random.Generator, pace: Pace) -> Layer:
    """A soft dark or bright patch that wanders over the scene."""
    side, T = 48, pace.frames
    distance = np.hypot(*np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side)))
    opacity = np.clip(1.2 - 1.2 * distance, 0, 1) * rng.uniform(0.3, 0.8) * SHADOW_OPACITY
    colour = 0 if rng.random() < 0.6 else 255
    texture = np.dstack([np.full((side, side, 3), colour, np.uint8), opacity.astype(np.uint8)])
    path = rng.uniform(0, 1, 2) * pace.view + drive(rng, T, 2 * OBJECT_SPEED * pace.difficulty * pace.unit)
    scale = np.full(T, rng.uniform(0.2, 0.8) * pace.view[0] / side)
    maps = card(path, angle=np.zeros(T), scale=scale, tilt=np.zeros((T, 2)), focal=10.0 * side)
    return Layer(texture, maps @ _centred((side, side), 1.0), np.ones(T), pace.view)


# ---- small maps


def _centred(size: tuple[int, int], density: float) -> Float[np.ndarray, "3 3"]:
    """Pixels of a texture -> a card of unit density whose origin is the texture's centre."""
    scale = 1 / density
    return np.array([[scale, 0, -scale * (size[0] - 1) / 2], [0, scale, -scale * (size[1] - 1) / 2], [0, 0, 1]])


def _project(homography: Float[np.ndarray, "3 3"], point: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " 2"]:
    image = homography[:, :2] @ point + homography[:, 2]
    return np.asarray(image[:2] / image[2])
