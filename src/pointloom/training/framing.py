"""A clip seen through a moving frame: black borders, a zoom and a crop that drift, mirror images.

After CoTracker3 (Karaev et al. 2024), whose rules, with their truncations and limits, are kept to the digit. All is a
function of explicit parameters. Positions are raster pixels (the centre of the first pixel is (0.5, 0.5)): in them a
mirror image takes x to W - x. A zoom scales positions by (new - 1) / (old - 1) while the pixels are resized by their
areas, which differ by up to a quarter of a pixel at the border. Sizes are (width, height).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from pointloom.geometry import Size, aligned_scale

KEPT, FRESH = 0.8, 0.2  # shares of a drift that stay from frame to frame, and that are drawn anew
SMALLEST_ZOOM, LARGEST_ZOOM = 0.2, 2.0
MARGIN_PX = 10  # a zoomed frame is larger than the crop by this at least


@dataclass(frozen=True)
class Framing:
    """What is drawn for one clip of T frames, T1 = T - 1 of them after the first.

    padding     pixels of black border: left, right, top, bottom
    zoom        factor at the first frame
    zoom_drift  what moves the factors for x and y, at the frames after the first
    crop_drift  what moves the crop, in pixels, likewise
    flip_x, flip_y  mirror left and right, above and below
    """

    padding: tuple[int, int, int, int]
    zoom: float
    zoom_drift: Float[np.ndarray, "T1 2"]
    crop_drift: Int[np.ndarray, "T1 2"]
    flip_x: bool
    flip_y: bool


def framed(
    frames: UInt8[np.ndarray, "T H W 3"],
    xy: Float[np.ndarray, "N T 2"],
    visible: Bool[np.ndarray, "N T"],
    framing: Framing,
    size: Size,
) -> tuple[Float32[np.ndarray, "T h w 3"], Float[np.ndarray, "N T 2"]]:
    """Return the clip as seen through a frame of `size`, and where its points are there.

    The crop starts around the mean of the points that are visible in the first frame.
    """
    left, right, top, bottom = framing.padding
    padded = frames.shape[2] + left + right, frames.shape[1] + top + bottom
    sizes = zoom_path(padded, framing.zoom, framing.zoom_drift, size)
    xy = (xy + np.array([left, top])) * np.array([aligned_scale(padded, zoomed) for zoomed in sizes])
    seen = xy[visible[:, 0], 0]
    corners = crop_path(sizes, seen.mean(axis=0) if len(seen) else np.array(size, float), framing.crop_drift, size)
    xy = xy - corners

    video = np.empty((len(frames), size[1], size[0], 3), np.float32)
    for t, (zoomed, (x, y)) in enumerate(zip(sizes, corners.tolist(), strict=True)):
        bordered = cv2.copyMakeBorder(frames[t], top, bottom, left, right, cv2.BORDER_CONSTANT)
        large = cv2.resize(bordered.astype(np.float32), zoomed, interpolation=cv2.INTER_LINEAR)
        video[t] = large[y : y + size[1], x : x + size[0]]
    return mirrored(video, xy, framing.flip_x, framing.flip_y)


def zoom_path(old: Size, zoom: float, drift: Float[np.ndarray, "T1 2"], crop: Size) -> list[Size]:
    """Return the size to which each frame is resized: it drifts, x and y nearly alike, and has room for the crop."""
    whole, smallest = np.array(old), np.array(crop) + MARGIN_PX
    factor = np.array([zoom, zoom])
    sizes = []
    for change in _eased(drift):
        factor = factor + change
        factor = np.clip((factor + factor.mean()) / 2, SMALLEST_ZOOM, LARGEST_ZOOM)
        size = np.maximum((whole * factor).astype(int), smallest)
        factor = (size - 1) / (whole - 1)
        sizes.append((int(size[0]), int(size[1])))
    return sizes


def crop_path(
    sizes: list[Size], centre: Float[np.ndarray, " 2"], drift: Int[np.ndarray, "T1 2"], crop: Size
) -> Int[np.ndarray, "T1+1 2"]:
    """Return the upper left corner of the crop in each frame: it drifts in whole pixels and stays inside."""
    corner = (centre - np.array(crop) / 2).astype(int)
    corners = []
    for size, change in zip(sizes, _eased(drift, whole=True), strict=True):
        corner = np.clip(corner + change, 0, np.array(size) - crop - 1)
        corners.append(corner)
    return np.stack(corners)


def mirrored(
    video: Float32[np.ndarray, "T h w 3"], xy: Float[np.ndarray, "N T 2"], flip_x: bool, flip_y: bool
) -> tuple[Float32[np.ndarray, "T h w 3"], Float[np.ndarray, "N T 2"]]:
    """Mirror a clip and its points (raster)."""
    flips = np.array([flip_x, flip_y])
    size = np.array([video.shape[2], video.shape[1]])
    video = video[:, :: -1 if flip_y else 1, :: -1 if flip_x else 1]
    return np.ascontiguousarray(video), np.where(flips, size - xy, xy)


def _eased(draws: Float[np.ndarray, "T1 2"] | Int[np.ndarray, "T1 2"], *, whole: bool = False) -> list[np.ndarray]:
    """Return a drift for every frame: none, then the first draw, then mostly the one before. `whole` truncates."""
    drifts = [np.zeros(2, draws.dtype), *draws[:1]]
    for draw in draws[1:]:
        drift = KEPT * drifts[-1] + FRESH * draw
        drifts.append(drift.astype(int) if whole else drift)
    return drifts
