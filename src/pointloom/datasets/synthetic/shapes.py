"""Outlines of objects: antialiased masks of random shape.

A mask is drawn larger than needed and shrunk, so that its border pixels hold the share of their area that is covered.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

OVERSAMPLING = 3
MARGIN_PX = 2  # empty pixels around the shape, so that sampling beyond the border meets nothing
HOLE_SHARE = 0.2  # of the blobs and ellipses
KINDS = ("ellipse", "box", "polygon", "blob", "fence")
KIND_SHARES = (0.22, 0.26, 0.2, 0.26, 0.06)


def random_mask(
    rng: np.random.Generator, width: int, height: int, *, kinds: Sequence[str] = KINDS
) -> UInt8[np.ndarray, "height width"]:
    """A random shape, of one of some kinds, that fills the given size: 255 inside, 0 outside."""
    shares = np.array([KIND_SHARES[KINDS.index(kind)] for kind in kinds])
    kind = rng.choice(kinds, p=shares / shares.sum())
    outlines = _fence(rng) if kind == "fence" else [_OUTLINES[kind](rng)]
    holes = []
    if kind in ("blob", "ellipse") and rng.random() < HOLE_SHARE:
        holes = [_blob(rng) * rng.uniform(0.15, 0.45) + rng.uniform(-0.35, 0.35, 2)]
    return _filled(outlines, holes, width, height)


def rounded_mask(width: int, height: int) -> UInt8[np.ndarray, "height width"]:
    """A bar with round ends that fills the given size; an ellipse, if it is nearly as wide as long."""
    x, y = _polar(np.ones(64), _circle(64)).T
    across, along = max(width - 2 * MARGIN_PX, 1), max(height - 2 * MARGIN_PX, 1)
    straight = max(1 - across / along, 0.0)
    return _filled([np.stack([x, np.sign(y) * straight + (1 - straight) * y], axis=-1)], [], width, height)


def _filled(
    outlines: Sequence[Float[np.ndarray, "_points 2"]],
    holes: Sequence[Float[np.ndarray, "_points 2"]],
    width: int,
    height: int,
) -> UInt8[np.ndarray, "height width"]:
    """Fill outlines in the unit square [-1, 1], which is spread over the given size."""
    inner = np.array([width - 2 * MARGIN_PX, height - 2 * MARGIN_PX], dtype=float)
    large = np.zeros((height * OVERSAMPLING, width * OVERSAMPLING), np.uint8)
    for value, shapes in ((255, outlines), (0, holes)):
        for shape in shapes:
            pixels = ((shape + 1) / 2 * inner + MARGIN_PX) * OVERSAMPLING
            cv2.fillPoly(large, [np.round(pixels).astype(np.int32)], value)
    return np.asarray(cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA))


def _circle(points: int) -> Float[np.ndarray, " points"]:
    return np.arange(points) * (2 * np.pi / points)


def _polar(radius: Float[np.ndarray, " points"], angle: Float[np.ndarray, " points"]) -> Float[np.ndarray, "points 2"]:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def _ellipse(rng: np.random.Generator) -> Float[np.ndarray, "points 2"]:
    return _polar(np.ones(40), _circle(40))


def _box(rng: np.random.Generator) -> Float[np.ndarray, "points 2"]:
    """A box whose corners are sharp or rounded: a superellipse of high power."""
    if rng.random() < 0.6:
        return np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    unit = _polar(np.ones(64), _circle(64))
    return np.sign(unit) * np.abs(unit) ** (2 / rng.uniform(4, 10))


def _polygon(rng: np.random.Generator) -> Float[np.ndarray, "points 2"]:
    corners = int(rng.integers(3, 10))
    return _polar(rng.uniform(0.45, 1.0, corners), _circle(corners) + rng.uniform(-0.3, 0.3, corners))


def _blob(rng: np.random.Generator) -> Float[np.ndarray, "points 2"]:
    angle = _circle(64)
    radius = np.ones(64)
    for order in range(1, 6):
        radius += rng.normal(0, 0.35 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    radius = np.maximum(radius, 0.25)
    return _polar(radius / radius.max(), angle)


def _fence(rng: np.random.Generator) -> list[Float[np.ndarray, "points 2"]]:
    """Upright bars between two rails: what lies behind is seen and hidden in turn."""
    bars = int(rng.integers(3, 7))
    thickness = rng.uniform(0.25, 0.5) / bars
    box = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    upright = [box * (thickness, 1) + (x, 0) for x in np.linspace(thickness - 1, 1 - thickness, bars)]
    rails = [box * (1, 0.08) + (0, y) for y in (-0.8, 0.8)]
    return upright + rails


_OUTLINES = {"ellipse": _ellipse, "box": _box, "polygon": _polygon, "blob": _blob}
