"""Changes of what a clip looks like, each a function of explicit parameters: covered patches, colours, kinds of blur.

After CoTracker3 (Karaev et al. 2024) and PIPs before it (Harley et al. 2022). A covered point is where it was, but
cannot be seen, which teaches a tracker to guess through occlusion. Positions are raster pixels (the centre of the first
pixel is (0.5, 0.5)), in which a box of pixels left..right-1 covers left <= x < right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

LARGEST = 255.0  # of a colour
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # share of red, green and blue in how light a pixel is (BT.601)
HUE_CIRCLE = 360.0  # OpenCV's hue of float images
BLUR_KERNEL = (11, 11)

Frames = UInt8[np.ndarray, "T H W 3"]
Frame = UInt8[np.ndarray, "H W 3"]
Positions = Float[np.ndarray, "N T 2"]
Visible = Bool[np.ndarray, "N T"]


class Box(NamedTuple):
    """Pixels left..right-1 of rows top..bottom-1."""

    left: int
    top: int
    right: int
    bottom: int

    @staticmethod
    def around(centre: tuple[int, int], extent: tuple[int, int], size: tuple[int, int]) -> Box:
        """Return the box of a width and height around a pixel, cut at the outermost pixels of the frame."""
        (x, y), (dx, dy), (width, height) = centre, extent, size
        corners = np.clip([x - dx / 2, y - dy / 2, x + dx / 2, y + dy / 2], 0, [width - 1, height - 1] * 2)
        return Box(*np.rint(corners).astype(int).tolist())

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Index of the box in a frame."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def empty(self) -> bool:
        """Whether it covers nothing, as happens in frames one pixel wide."""
        return self.left >= self.right or self.top >= self.bottom


class Erasure(NamedTuple):
    """A box of one frame that takes its own mean colour."""

    frame: int
    box: Box


class Replacement(NamedTuple):
    """A box of one frame that shows another frame instead, from `corner` (left, top) on."""

    frame: int
    box: Box
    source: int
    corner: tuple[int, int]


@dataclass(frozen=True)
class ColourChange:
    """Factors of brightness, contrast and saturation, a turn of the hue (1 is the full circle), and their order."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    order: tuple[str, ...] = ("brightness", "contrast", "saturation", "hue")


def erased(frames: Frames, xy: Positions, visible: Visible, erasures: Sequence[Erasure]) -> tuple[Frames, Visible]:
    """Fill boxes with their mean colour, one after the other. Points in them cannot be seen in that frame."""
    frames, visible = frames.copy(), visible.copy()
    for t in sorted({erasure.frame for erasure in erasures}):
        canvas = frames[t].astype(np.float64)
        for box in (erasure.box for erasure in erasures if erasure.frame == t and not erasure.box.empty):
            canvas[box.pixels] = canvas[box.pixels].mean(axis=(0, 1))
            visible[:, t] &= ~_covered(xy[:, t], box)
        frames[t] = canvas.astype(np.uint8)
    return frames, visible


def replaced(
    frames: Frames, xy: Positions, visible: Visible, replacements: Sequence[Replacement], sources: Frames
) -> tuple[Frames, Visible]:
    """Fill boxes with boxes of the same size out of `sources`. Points in them cannot be seen in that frame."""
    frames, visible = frames.copy(), visible.copy()
    for t, box, source, (left, top) in replacements:
        height, width = box.bottom - box.top, box.right - box.left
        frames[t][box.pixels] = sources[source, top : top + height, left : left + width]
        visible[:, t] &= ~_covered(xy[:, t], box)
    return frames, visible


def recoloured(frame: Frame, change: ColourChange) -> Frame:
    """Change the colours of a frame; after each of the four changes they are cut to 0..255."""
    image = frame.astype(np.float32)
    for name in change.order:
        if name == "brightness":
            image = image * np.float32(change.brightness)
        elif name == "contrast":
            image = _away_from((image @ GREY).mean(), image, change.contrast)
        elif name == "saturation":
            image = _away_from((image @ GREY)[..., None], image, change.saturation)
        else:
            hsv = cv2.cvtColor(image / LARGEST, cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0] + change.hue * HUE_CIRCLE) % HUE_CIRCLE
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * LARGEST
        image = np.clip(image, 0, LARGEST)
    return np.rint(image).astype(np.uint8)


def blurred(frame: Frame, sigma_px: float) -> Frame:
    """Blur a frame with a Gaussian of the given standard deviation."""
    return np.asarray(cv2.GaussianBlur(frame, BLUR_KERNEL, sigma_px))


def exposed_longer(before: Frame, frame: Frame, after: Frame) -> Frame:
    """Mix a frame with its neighbours, half of it and a quarter of each: what moves is blurred, and stays in place."""
    of_three = before.astype(np.uint16) + 2 * frame.astype(np.uint16) + after
    return ((of_three + 2) // 4).astype(np.uint8)


def softened(frame: Frame, factor: float) -> Frame:
    """Make a frame smaller by this factor, and as large as before: so an enlarged video looks. Nothing moves."""
    height, width, _ = frame.shape
    small = max(round(width / factor), 1), max(round(height / factor), 1)
    reduced = cv2.resize(frame, small, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(reduced, (width, height), interpolation=cv2.INTER_LINEAR))


def _away_from(
    middle: Float32[np.ndarray, "H W 1"] | np.float32, image: Float32[np.ndarray, "H W 3"], factor: float
) -> Float32[np.ndarray, "H W 3"]:
    return middle + np.float32(factor) * (image - middle)


def _covered(xy: Float[np.ndarray, "N 2"], box: Box) -> Bool[np.ndarray, " N"]:
    low, high = (box.left, box.top), (box.right, box.bottom)
    return np.asarray(((xy >= low) & (xy < high)).all(axis=-1))
