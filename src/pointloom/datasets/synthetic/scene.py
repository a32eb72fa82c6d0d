"""What is in a layered clip: a background, objects and their shadows, drawn from a random generator."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from pointloom.datasets.synthetic.config import LayeredConfig
from pointloom.datasets.synthetic.figures import random_figure
from pointloom.datasets.synthetic.layers import Layer, Ripple, enlarging
from pointloom.datasets.synthetic.motion import Homographies, card, drive, local_scale, shift
from pointloom.datasets.synthetic.movement import (
    OBJECT_SPEED,
    Motion,
    Terms,
    moving_camera,
    object_motion,
    still_camera,
    sweep,
)
from pointloom.datasets.synthetic.patterns import Image, gradient
from pointloom.datasets.synthetic.shapes import MARGIN_PX, random_mask, rounded_mask
from pointloom.datasets.synthetic.textures import (
    BACKGROUND_MIX,
    OBJECT_MIX,
    Photo,
    TextureBank,
    TextureMix,
    cut_out,
    random_texture,
    resize,
)

Sticker = UInt8[np.ndarray, "height width 4"]

RESIZED_SHARE = 0.4  # clips that are drawn at another size and resized, as most videos are
COARSE_SHARE, COARSE, FINE = 0.65, (0.6, 0.95), (1.2, 1.5)  # of those, and the sizes relative to the frame
SHUTTER_SHARE, SHUTTER = 0.5, (0.3, 1.0)  # clips with motion blur, and its length in frames

SMALL_SHARE, SMALL_PX, COMMON_PX = 0.35, (8.0, 26.0), (28.0, 130.0)  # diameters in frames 256 pixels wide
FIGURE_PX, OTHER_COVER_SHARE, TRUNK_KINDS = (40.0, 180.0), 0.4, ("ellipse", "box", "blob")
SPECIMENS, GREY_SHARE, SKIN = (1, 4), 0.5, (192, 192)  # animals of a laboratory, and pixels of what covers them
GROUND_MIX = TextureMix(pattern=0.15, weak=0.6, graphic=0.0)
SWEEP_SHARE, SWEEP_PX = 0.25, (100.0, 200.0)
LOOKALIKE_SHARE, ALIKE_SHARE, LOOKALIKE_TEXTURE = 0.25, 0.6, 128  # clips, objects of those, pixels
CAMOUFLAGE_SHARE = 0.1  # objects cut out of the background's own photo
RECOLOURED_SHARE = 0.5
DEFOCUSED_SHARE, DEFOCUS = 0.2, (0.4, 1.6)
RIPPLE_SHARE, BACKGROUND_RIPPLE_SHARE = 0.25, 0.1
RIPPLE_SLOPE = 0.27  # of each axis: together below 0.4, so that a ripple never folds
SHADOW_SHARE, SPOT_SHARE = 0.3, 0.2  # objects with a shadow; clips with shadows or lights of things out of view
THIN = 110  # opacity of shadows and lights: below the one from which on a layer hides what is behind it

LARGEST_TEXTURE, SMALLEST_TEXTURE = 640, 10  # sides in pixels
LARGEST_DENSITY = 1.5  # texture pixels for one frame pixel
SPOT_TEXTURE = 48


@dataclass(frozen=True)
class Scene:
    """Layers from back to front, the first being the endless background, and how they are recorded.

    grey     whether it is recorded without colours
    shutter  share of a frame's time during which the shutter is open: 0 is no motion blur
    canvas   (width, height) at which frames are drawn, before they are resized to the size of the clip
    """

    layers: tuple[Layer, ...]
    shutter: float
    canvas: tuple[int, int]
    grey: bool = False


def random_scene(rng: np.random.Generator, textures: TextureBank, config: LayeredConfig) -> Scene:
    """Draw a scene."""
    terms = _terms(rng, config)
    if config.specimens and rng.random() < config.specimens:
        return _specimens(rng, textures, terms)
    camera = still_camera(terms) if rng.random() < config.still_cameras else moving_camera(rng, terms)
    photo = textures.pick(rng)
    layers = [_background(rng, photo, camera, terms)]
    side = LOOKALIKE_TEXTURE
    lookalike = _sticker(rng, textures.pick(rng), (side, side)) if rng.random() < LOOKALIKE_SHARE else None
    for _ in range(int(rng.integers(config.objects[0], config.objects[1] + 1))):
        diameter = _log_uniform(rng, SMALL_PX if rng.random() < SMALL_SHARE else COMMON_PX)
        if config.figures and rng.random() < config.figures:
            layers += _figure(rng, textures, camera, terms)
            continue
        motion = object_motion(rng, camera, terms, diameter)
        cover = photo if rng.random() < CAMOUFLAGE_SHARE else textures.pick(rng)
        if lookalike is not None and rng.random() < ALIKE_SHARE:
            cover = lookalike
        layers += _object(rng, cover, motion, terms, diameter=diameter)
    if config.objects[1] > 0 and rng.random() < SWEEP_SHARE:
        diameter = rng.uniform(*SWEEP_PX)
        layers += _object(rng, textures.pick(rng), sweep(rng, terms, diameter), terms, diameter=diameter)
    if rng.random() < SPOT_SHARE * terms.wear:
        layers += [_spot(rng, terms) for _ in range(int(rng.integers(1, 4)))]
    return Scene(tuple(layers), _shutter(rng, terms), _canvas(terms))


def _specimens(rng: np.random.Generator, textures: TextureBank, terms: Terms) -> Scene:
    """Draw a few plain animals on a plain ground, under a still camera."""
    camera = still_camera(terms)
    layers = [_background(rng, textures.pick(rng), camera, terms, GROUND_MIX)]
    for _ in range(int(rng.integers(*SPECIMENS, endpoint=True))):
        layers += _figure(rng, textures, camera, terms, specimen=True)
    return Scene(tuple(layers), _shutter(rng, terms), _canvas(terms), grey=rng.random() < GREY_SHARE)


def _shutter(rng: np.random.Generator, terms: Terms) -> float:
    return rng.uniform(*SHUTTER) * terms.wear if rng.random() < SHUTTER_SHARE else 0.0


def _canvas(terms: Terms) -> tuple[int, int]:
    return round(terms.view[0] * terms.resolution), round(terms.view[1] * terms.resolution)


def _terms(rng: np.random.Generator, config: LayeredConfig) -> Terms:
    resolution = 1.0
    if rng.random() < RESIZED_SHARE * (config.wear > 0):
        resolution = rng.uniform(*(COARSE if rng.random() < COARSE_SHARE else FINE))
    difficulty, turning = rng.uniform(*config.difficulty), rng.uniform(*config.turning)
    return Terms(config.frames, config.size, difficulty, turning, config.wear, resolution)


def _background(
    rng: np.random.Generator, photo: Photo, camera: Homographies, terms: Terms, mix: TextureMix = BACKGROUND_MIX
) -> Layer:
    width = terms.view[0] * rng.uniform(1.1, 2.4)  # of the photo in the world
    height = width * photo.shape[0] / photo.shape[1]
    size, density = _texture_size(width, height, camera, terms)
    texture = random_texture(rng, photo, size, coverage=np.inf, mix=mix)
    texture = _maybe_defocused(rng, texture, terms)
    ripple = _ripple(rng, max(size) / 3, terms) if rng.random() < BACKGROUND_RIPPLE_SHARE else None
    maps = camera @ _centred(size, density)
    return Layer(texture, maps, np.ones(terms.frames), terms.view, ripple=ripple, endless=True)


def _object(
    rng: np.random.Generator, cover: Photo | Sticker, motion: Motion, terms: Terms, *, diameter: float
) -> list[Layer]:
    """An object of a diameter in reference pixels, with its shadow, if it has one, before it.

    `cover` is a photo to cut the object from, or a finished sticker.
    """
    finished = cover.shape[2] == 4
    aspect = 1.0 if finished else np.exp(rng.uniform(-0.5, 0.5))
    width, height = diameter * terms.unit * np.sqrt(aspect), diameter * terms.unit / np.sqrt(aspect)
    size, density = _texture_size(width, height, motion.maps, terms)
    texture = resize(cover, *size) if finished else _sticker(rng, cover, size)
    texture = _maybe_defocused(rng, texture, terms)
    ripple = _ripple(rng, float(min(size)), terms) if rng.random() < RIPPLE_SHARE else None
    layer = Layer(texture, motion.maps @ _centred(size, density), motion.gain, terms.view, ripple=ripple)
    shadow = [_shadow(rng, layer, diameter * terms.unit)] if rng.random() < SHADOW_SHARE * terms.wear else []
    return [*shadow, layer]


def _figure(
    rng: np.random.Generator, textures: TextureBank, camera: Homographies, terms: Terms, *, specimen: bool = False
) -> list[Layer]:
    """A jointed figure: pieces that look alike are covered with the same texture; all those of a specimen with one."""
    diameter = _log_uniform(rng, FIGURE_PX)
    motion = object_motion(rng, camera, terms, diameter)
    photo = gradient(rng, *SKIN) if specimen else textures.pick(rng)
    stickers: dict[int, Sticker] = {}
    layers = []
    for part in random_figure(rng, terms.frames, diameter * terms.unit, specimen=specimen):
        maps = motion.maps @ part.maps
        size, _ = _texture_size(*part.size, maps, terms)
        if part.cover not in stickers:
            if specimen:
                cover = cut_out(rng, photo, *size, coverage=1.0)
            else:
                cover = _cover(rng, textures.pick(rng) if rng.random() < OTHER_COVER_SHARE else photo, size)
            mask = random_mask(rng, *size, kinds=TRUNK_KINDS) if part.trunk else rounded_mask(*size)
            stickers[part.cover] = _maybe_defocused(rng, np.dstack([cover, mask]), terms)
        sticker = stickers[part.cover]
        size = sticker.shape[1], sticker.shape[0]
        density = size[0] / part.size[0], size[1] / part.size[1]
        marks = (np.reshape(part.marks, (-1, 2)) * density) + (np.array(size) - 1) / 2
        marks = np.clip(marks, MARGIN_PX, np.array(size) - 1 - MARGIN_PX)  # a tip is the last of what is covered
        layers.append(Layer(sticker, maps @ _centred(size, density), motion.gain, terms.view, marks=marks))
    return layers


def _texture_size(
    width: float, height: float, maps: Homographies, terms: Terms
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Size in pixels and density (x, y) of a texture that is still sharp when a card of this size is closest."""
    density = min(float(local_scale(maps).max()) * terms.resolution, LARGEST_DENSITY)
    density = min(density, LARGEST_TEXTURE / max(width, height))
    size = max(SMALLEST_TEXTURE, round(width * density)), max(SMALLEST_TEXTURE, round(height * density))
    return size, (size[0] / width, size[1] / height)


def _sticker(rng: np.random.Generator, photo: Photo, size: tuple[int, int]) -> Sticker:
    """A texture cut to a random shape."""
    return np.dstack([_cover(rng, photo, size), random_mask(rng, *size)])


def _cover(rng: np.random.Generator, photo: Photo, size: tuple[int, int]) -> Image:
    """A texture for an object, in other colours or not."""
    texture = random_texture(rng, photo, size, coverage=rng.uniform(1.0, 3.5), mix=OBJECT_MIX)
    if rng.random() < RECOLOURED_SHARE:
        contrast, colour = rng.uniform(0.6, 1.4), rng.uniform(-40, 40, 3)
        curve = 128 + (np.arange(256)[:, None] - 128) * contrast + colour
        texture = cv2.LUT(texture, np.clip(curve, 0, 255).astype(np.uint8)[None])
    return texture


def _maybe_defocused(
    rng: np.random.Generator, texture: UInt8[np.ndarray, "height width channels"], terms: Terms
) -> UInt8[np.ndarray, "height width channels"]:
    if rng.random() >= DEFOCUSED_SHARE * (terms.wear > 0):
        return texture
    sigma = rng.uniform(*DEFOCUS) * terms.wear * terms.unit
    return np.asarray(cv2.GaussianBlur(texture, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))


def _ripple(rng: np.random.Generator, length: float, terms: Terms) -> Ripple:
    """Waves about as long as `length`, in pixels of the sheet."""
    wave_number = 2 * np.pi / (length * rng.uniform(0.6, 2.0, 2))
    heading = rng.uniform(0, 2 * np.pi, 2)
    waves = wave_number[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    amplitude = rng.uniform(0.3, 1.0) * RIPPLE_SLOPE / float(wave_number.max())
    return Ripple(amplitude, waves, rng.uniform(0, 2 * np.pi, 2), rng.uniform(-0.4, 0.4) * terms.difficulty)


def _shadow(rng: np.random.Generator, layer: Layer, size: float) -> Layer:
    """A soft dark copy of an object's outline, a little aside. It is a layer too thin to hide anything."""
    coarse = resize(layer.texture[..., 3], max(4, layer.width // 3), max(4, layer.height // 3))
    sigma = max(0.5, rng.uniform(0.05, 0.2) * max(coarse.shape))
    margin = int(np.ceil(2 * sigma)) + 1
    padded = cv2.copyMakeBorder(coarse, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0)
    opacity = cv2.GaussianBlur(padded, (0, 0), sigma) * (rng.uniform(0.4, 1.0) * THIN / 255)
    texture = np.dstack([np.zeros((*opacity.shape, 3), np.uint8), np.rint(opacity).astype(np.uint8)])
    to_padded = shift(np.full((1, 2), float(margin)))[0] @ enlarging((layer.width, layer.height), coarse.shape[::-1])
    aside = shift(rng.normal(0, 0.15, (1, 2)) * size)
    return Layer(texture, aside @ layer.to_frame @ np.linalg.inv(to_padded), layer.gain, layer.view)


def _spot(rng: np.random.Generator, terms: Terms) -> Layer:
    """A soft dark or bright patch that wanders over the scene."""
    side, T = SPOT_TEXTURE, terms.frames
    distance = np.hypot(*np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side)))
    opacity = np.clip(1.2 - 1.2 * distance, 0, 1) * rng.uniform(0.3, 0.8) * THIN
    colour = 0 if rng.random() < 0.6 else 255
    texture = np.dstack([np.full((side, side, 3), colour, np.uint8), opacity.astype(np.uint8)])
    path = rng.random(2) * terms.view + drive(rng, T, 2 * OBJECT_SPEED * terms.speed)
    scale = np.full(T, rng.uniform(0.2, 0.8) * terms.view[0] / side)
    maps = card(path, angle=np.zeros(T), scale=scale, tilt=np.zeros((T, 2)), focal=float(side))
    return Layer(texture, maps @ _centred((side, side), (1.0, 1.0)), np.ones(T), terms.view)


def _centred(size: tuple[int, int], density: tuple[float, float]) -> Float[np.ndarray, "3 3"]:
    """Pixels of a texture -> a card of unit density whose origin is the texture's centre."""
    x, y = 1 / density[0], 1 / density[1]
    return np.array([[x, 0, -x * (size[0] - 1) / 2], [0, y, -y * (size[1] - 1) / 2], [0, 0, 1]])


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(limits))))
