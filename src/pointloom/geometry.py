"""Coordinate conventions and the conversions between them. No other file knows a half pixel.

Pointloom's own convention is OpenCV's: x to the right, y down, integers are pixel centres, so that `frame[y, x]` is the
pixel at (x, y) and a frame of W x H pixels covers [-0.5, W - 0.5] x [-0.5, H - 0.5].

Two others are met at the doors (models, datasets, exporters):

* raster: the upper-left corner of the upper-left pixel is (0, 0), its centre (0.5, 0.5). TAP-Vid, TAPIR, Kubric.
* y up: some editors count y from the bottom of the frame.

And two rules for resizing an image, each with its own map of coordinates:

* `aligned`: the centres of the corner pixels stay on each other (`align_corners=True`); coordinates scale with
  (new - 1) / (old - 1). CoTracker.
* `area`: the corners of the frame stay on each other (`align_corners=False`, OpenCV, Pillow); raster coordinates scale
  with new / old. TAP-Vid, TAPIR.

Sizes are (width, height) in this file. Functions take NumPy arrays or torch tensors whose last axis is (x, y).
"""

from __future__ import annotations

from typing import Any

Size = tuple[int, int]


def to_raster(xy: Any) -> Any:
    """Pixel centres at integers -> pixel centres at one half."""
    return xy + 0.5


def from_raster(xy: Any) -> Any:
    """Pixel centres at one half -> pixel centres at integers."""
    return xy - 0.5


def aligned_scale(old: Size, new: Size) -> tuple[float, float]:
    """Factors for (x, y) when a frame is resized with its corner pixel centres held in place.

    A side of one pixel has no second centre to hold: every coordinate of that side maps to 0, and back to 0.
    """
    return (
        (new[0] - 1) / (old[0] - 1) if old[0] > 1 else 0.0,
        (new[1] - 1) / (old[1] - 1) if old[1] > 1 else 0.0,
    )


def resize_aligned(xy: Any, old: Size, new: Size) -> Any:
    """Move points along with a frame that is resized with `align_corners=True`."""
    scale = aligned_scale(old, new)
    return xy * _like(xy, scale)


def resize_area(xy: Any, old: Size, new: Size) -> Any:
    """Move points (integer pixel centres) along with a frame that is resized with `align_corners=False`."""
    scale = _like(xy, (new[0] / old[0], new[1] / old[1]))
    return (xy + 0.5) * scale - 0.5


def inside(xy: Any, size: Size) -> Any:
    """True where a point lies in the frame: in [-0.5, W - 0.5] x [-0.5, H - 0.5]."""
    x, y = xy[..., 0], xy[..., 1]
    return (x >= -0.5) & (x <= size[0] - 0.5) & (y >= -0.5) & (y <= size[1] - 0.5)


def flip_y(xy: Any, height: int) -> Any:
    """y counted downwards from the top pixel centre -> y counted upwards from the bottom pixel centre, and back."""
    return _like(xy, (0.0, height - 1.0)) + xy * _like(xy, (1.0, -1.0))


def _like(xy: Any, pair: tuple[float, float]) -> Any:
    """`pair` as an array or tensor of the kind, type and device of `xy`."""
    if hasattr(xy, "new_tensor"):
        return xy.new_tensor(pair)
    import numpy as np

    return np.asarray(pair, dtype=xy.dtype)
