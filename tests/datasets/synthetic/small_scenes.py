"""Small layers and textures whose tracks can be worked out by hand."""

import numpy as np

from pointloom.datasets.synthetic.layers import Layer
from pointloom.datasets.synthetic.motion import shift

VIEW = (64, 48)


def noise(width=64, height=48, seed=0):
    return np.random.default_rng(seed).integers(50, 206, (height, width, 3), dtype=np.uint8)


def spots(centres, width, height, sigma=2.0):
    """Bright round spots on black: their centre of mass can be measured to a hundredth of a pixel."""
    x, y = np.arange(width), np.arange(height)[:, None]
    light = sum(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2)) for cx, cy in centres)
    return np.repeat(np.rint(250 * np.minimum(light, 1))[..., None], 3, axis=2).astype(np.uint8)


def centre_of_mass(image):
    grey = image[..., 0].astype(float)
    return (
        np.array([(grey * np.arange(grey.shape[1])).sum(), (grey * np.arange(grey.shape[0])[:, None]).sum()])
        / grey.sum()
    )


def background(offsets, texture=None, view=VIEW, **options):
    """An endless layer whose pixel (0, 0) lies at `offsets` in each frame."""
    maps = shift(np.array(offsets, float))
    return Layer(noise() if texture is None else texture, maps, np.ones(len(maps)), view, endless=True, **options)


def board(offsets, width=12, height=12, opacity=255, view=VIEW, **options):
    """A grey board whose upper left pixel lies at `offsets` in each frame."""
    texture = np.full((height, width, 4), 128, np.uint8)
    texture[..., 3] = opacity
    maps = shift(np.array(offsets, float))
    return Layer(texture, maps, np.ones(len(maps)), view, **options)
