"""All changes of a clip in the order of CoTracker3 (Karaev et al. 2024), with their random draws.

Played backwards, patches erased or replaced, colours, blur, then seen through a frame that zooms and drifts. What each
change does is in `appearance` and `framing`; here is how often and how much, from a recipe and a generator. Both files
count in raster pixels, in which the rules were written; this one converts at the door.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from pointloom.geometry import Size, from_raster, to_raster
from pointloom.training.appearance import (
    Box,
    ColourChange,
    Erasure,
    Replacement,
    blurred,
    erased,
    recoloured,
    replaced,
)
from pointloom.training.framing import Framing, framed
from pointloom.training.recipe import Augmentation


class Changed(NamedTuple):
    """A changed clip."""

    frames: UInt8[np.ndarray, "T h w 3"]
    xy: Float32[np.ndarray, "N T 2"]
    visible: Bool[np.ndarray, "N T"]
    valid: Bool[np.ndarray, "N T"]


def augmented(
    frames: UInt8[np.ndarray, "T H W 3"],
    xy: Float[np.ndarray, "N T 2"],
    visible: Bool[np.ndarray, "N T"],
    valid: Bool[np.ndarray, "N T"],
    recipe: Augmentation,
    rng: np.random.Generator,
) -> Changed:
    """Change a clip at random. Positions are pixels (integers are pixel centres), before and after.

    Points stay visible where the frame they are seen through does not reach; positions say so.
    """
    T, H, W, _ = frames.shape
    size = W, H
    xy = to_raster(xy.astype(np.float64))
    if rng.random() < recipe.reversed:
        frames, xy, visible, valid = (frames[::-1], *(a[:, ::-1] for a in (xy, visible, valid)))
    if recipe.erased:
        erasures = [Erasure(t, box) for t, box in draw_patches(recipe.erased, T, size, recipe, rng)]
        frames, visible = erased(frames, xy, visible, erasures)
    if recipe.replaced:
        sources = np.stack([recoloured(frame, draw_colours(recipe, rng)) for frame in frames])
        patches = draw_patches(recipe.replaced, T, size, recipe, rng)
        replacements = [draw_replacement(t, box, T, size, rng) for t, box in patches]
        frames, visible = replaced(frames, xy, visible, replacements, sources)
    if rng.random() < recipe.recoloured:
        frames = np.stack([recoloured(frame, draw_colours(recipe, rng)) for frame in frames])
    if rng.random() < recipe.blurred:
        frames = np.stack([blurred(frame, rng.uniform(*recipe.blur_px)) for frame in frames])
    video, xy = framed(frames, xy, visible, draw_framing(recipe, T, rng), recipe.size)
    return Changed(np.rint(video).astype(np.uint8), from_raster(xy).astype(np.float32), visible, valid)


def draw_patches(
    chance: float, frames: int, size: Size, recipe: Augmentation, rng: np.random.Generator
) -> list[tuple[int, Box]]:
    """Draw patches for some frames after the first."""
    return [
        (t, _draw_box(size, recipe, rng))
        for t in range(1, frames)
        if rng.random() < chance
        for _ in range(rng.integers(*recipe.patches, endpoint=True))
    ]


def _draw_box(size: Size, recipe: Augmentation, rng: np.random.Generator) -> Box:
    x, y = (int(rng.integers(side)) for side in size)
    dx, dy = (int(extent) for extent in rng.integers(*recipe.patch_px, size=2, endpoint=True))
    return Box.around((x, y), (dx, dy), size)


def draw_replacement(frame: int, box: Box, frames: int, size: Size, rng: np.random.Generator) -> Replacement:
    """Draw the frame and the place that a patch shows."""
    left = int(rng.integers(size[0] - (box.right - box.left) + 1))
    top = int(rng.integers(size[1] - (box.bottom - box.top) + 1))
    return Replacement(frame, box, int(rng.integers(frames)), (left, top))


def draw_colours(recipe: Augmentation, rng: np.random.Generator) -> ColourChange:
    """Draw a change of colours, its parts in random order."""
    strengths = (recipe.brightness, recipe.contrast, recipe.saturation)
    brightness, contrast, saturation = (float(rng.uniform(1 - s, 1 + s)) for s in strengths)
    order = tuple(rng.permutation(ColourChange.order).tolist())
    return ColourChange(brightness, contrast, saturation, float(rng.uniform(-recipe.hue, recipe.hue)), order)


def draw_framing(recipe: Augmentation, frames: int, rng: np.random.Generator) -> Framing:
    """Draw borders, the drifting zoom and crop, and mirror images."""
    left, right, top, bottom = rng.integers(recipe.padding_px, size=4, endpoint=True).tolist()
    zoom_drift = rng.uniform(-recipe.zoom_drift, recipe.zoom_drift, (frames - 1, 2))
    furthest = recipe.crop_drift_px
    crop_drift = rng.integers(-furthest, furthest, (frames - 1, 2), endpoint=True)
    crop_drift[:1] = rng.integers(-furthest, max(furthest, 1), 2)  # the first one's upper end is excluded
    flip_x, flip_y = (bool(rng.random() < chance) for chance in recipe.flipped)
    zoom = float(rng.uniform(*recipe.zoom))
    return Framing((left, right, top, bottom), zoom, zoom_drift, crop_drift, flip_x, flip_y)
