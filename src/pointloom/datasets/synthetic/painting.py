"""Painting layers onto the canvas of each frame.

A layer is warped only inside the box that it fills, from the level of its pyramid whose pixels are about as large as
those of the canvas, so that shrinking does not flicker. Its colours come multiplied with its opacity: then warping,
blurring and putting it over what lies behind never mixes in a colour from outside the object.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from pointloom.datasets.synthetic.layers import Layer, enlarging
from pointloom.datasets.synthetic.motion import shift

SHORTEST_BLUR, LONGEST_BLUR = 1.0, 24.0  # canvas pixels


class Patch(NamedTuple):
    """What of a layer is seen in one frame.

    t        the frame
    colours  RGB, or RGB multiplied with the opacity, and the opacity; with motion blur
    opacity  of the layer without motion blur; meaningless for an endless layer
    box      rows and columns of the canvas that the patch fills
    """

    t: int
    colours: UInt8[np.ndarray, "h w channels"]
    opacity: UInt8[np.ndarray, "h w"]
    box: tuple[slice, slice]


def draw(layer: Layer, canvas: tuple[int, int], shutter: float) -> Iterator[Patch]:
    """The layer in each frame in which it is in sight, drawn on a canvas of the given size (width, height).

    The canvas shows the whole frame, in any resolution. Colours are blurred along the motion while the shutter is open,
    a share of the time of a frame; the position of everything is that of the middle of this time.
    """
    T, zoom = len(layer.to_frame), canvas[0] / layer.view[0]
    blur = _limited(layer.velocity * zoom * shutter)  # (T, 2)
    margin = np.ceil(np.abs(blur).max(axis=1) / 2).astype(int)  # (T,)
    # Boxes are drawn with a margin, also beyond the canvas, so that the blur finds what moves in from there.
    low, high = _boxes(layer, canvas, margin)  # (T, 2) each
    level = np.clip(np.rint(-np.log2(zoom * layer.magnification)), 0, len(layer.pyramid) - 1).astype(int)
    to_level = np.stack([enlarging((layer.width, layer.height), image.shape[1::-1]) for image in layer.pyramid])[level]
    from_box = shift((low - margin[:, None]).astype(float))
    back = to_level @ layer.to_sheet @ np.linalg.inv(enlarging(layer.view, canvas)) @ from_box  # (T, 3, 3)
    seen = layer.present & (low < high).all(axis=1)
    boxes = np.concatenate([low, high], axis=1).tolist()
    for t in range(T):
        if not seen[t]:
            continue
        left, top, right, bottom = boxes[t]
        m = int(margin[t])
        drawn = _warp(layer, t, int(level[t]), back[t], (right - left + 2 * m, bottom - top + 2 * m))
        inner = (slice(m, m + bottom - top), slice(m, m + right - left))
        opacity = drawn[inner][..., -1]
        if m > 0:
            drawn = cv2.filter2D(drawn, -1, line_kernel(blur[t]), borderType=cv2.BORDER_REPLICATE)
        yield Patch(t, drawn[inner], opacity, (slice(top, bottom), slice(left, right)))


def put(canvas: UInt8[np.ndarray, "h w 3"], patch: Patch, gain: float) -> None:
    """Put a patch over what is on the canvas, with its brightness multiplied by `gain`."""
    colours = patch.colours
    if colours.shape[2] == 3:
        canvas[patch.box] = colours
        return
    behind = cv2.cvtColor(255 - colours[..., 3], cv2.COLOR_GRAY2RGB)
    front = cv2.convertScaleAbs(cv2.cvtColor(colours, cv2.COLOR_RGBA2RGB), alpha=gain)
    canvas[patch.box] = cv2.add(cv2.multiply(canvas[patch.box], behind, scale=1 / 255), front)


def line_kernel(extent: Float[np.ndarray, " 2"]) -> Float[np.ndarray, "k k"]:
    """A blur along a straight line of the given extent (x, y) in pixels, centred, with sum one."""
    length = float(np.hypot(*extent))
    reach = int(np.ceil(np.abs(extent).max() / 2))
    x = np.arange(-reach, reach + 1)
    along = np.abs(extent[0] * x + extent[1] * x[:, None]) / length
    across = np.abs(extent[1] * x - extent[0] * x[:, None]) / length
    kernel = np.clip(length / 2 + 0.5 - along, 0, 1) * np.clip(1 - across, 0, 1)
    return kernel / kernel.sum()


def _limited(blur: Float[np.ndarray, "T 2"]) -> Float[np.ndarray, "T 2"]:
    """Blur that is neither too short to be seen nor too long to be drawn."""
    length = np.maximum(np.hypot(*blur.T), 1e-9)
    return blur * ((length >= SHORTEST_BLUR) * np.minimum(1, LONGEST_BLUR / length))[:, None]


def _boxes(layer: Layer, canvas: tuple[int, int], margin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last (x, y) + 1 of the part of the canvas that the layer touches; empty where it is out of sight."""
    if layer.endless:
        return np.zeros((len(margin), 2), int), np.tile(canvas, (len(margin), 1))
    image = layer.corners @ enlarging(layer.view, canvas).T
    image = image[..., :2] / np.where(layer.present[:, None], image[..., 2], 1.0)[..., None]  # (T, 4, 2)
    image = np.clip(image, -1e6, 1e6)
    low = np.floor(image.min(axis=1)).astype(int) - margin[:, None]
    high = np.ceil(image.max(axis=1)).astype(int) + 1 + margin[:, None]
    return np.maximum(low, 0), np.minimum(high, canvas)


def _warp(
    layer: Layer, t: int, level: int, back: Float[np.ndarray, "3 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w channels"]:
    """A level of the layer's pyramid as seen in frame `t`; `back` leads from pixels of the box to the level's."""
    source = layer.pyramid[level]
    border = cv2.BORDER_REFLECT if layer.endless else cv2.BORDER_CONSTANT
    if layer.ripple is None:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpPerspective(source, back, size, flags=flags, borderMode=border))
    x, y = np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32)[:, None]
    lifted = [row[0] * x + (row[1] * y + row[2]) for row in back.astype(np.float32)]
    level_x, level_y = lifted[0] / lifted[2], lifted[1] / lifted[2]  # (h, w)
    scale_x, scale_y = np.float32(source.shape[1] / layer.width), np.float32(source.shape[0] / layer.height)
    dx, dy = layer.ripple.displacement((level_x + 0.5) / scale_x - 0.5, (level_y + 0.5) / scale_y - 0.5, t)
    return np.asarray(
        cv2.remap(source, level_x + scale_x * dx, level_y + scale_y * dy, cv2.INTER_LINEAR, borderMode=border)
    )
