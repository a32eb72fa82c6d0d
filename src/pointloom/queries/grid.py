"""CoTracker's grid of points (Karaev et al. 2024): its predictors use it for queries and for support points."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

MARGIN = 1 / 64  # of the width, on all four sides


def grid_points(
    size: int, extent: tuple[float, float], centre: tuple[float, float] | None = None
) -> Float64[np.ndarray, "N 2"]:
    """Return size x size points (x, y), row by row, over an area of `extent` (height, width) around `centre` (y, x).

    Both ends included, equally spaced, a 64th of the width away from the edge. The centre is (height / 2, width / 2) if
    left out. A grid of one point is that middle, whatever the centre.
    """
    height, width = extent
    if size == 1:
        return np.array([[width / 2, height / 2]])
    centre_y, centre_x = centre if centre is not None else (height / 2, width / 2)
    margin = width * MARGIN
    along_x = np.linspace(centre_x - width / 2 + margin, centre_x + width / 2 - margin, size)
    along_y = np.linspace(centre_y - height / 2 + margin, centre_y + height / 2 - margin, size)
    x, y = np.meshgrid(along_x, along_y)
    return np.stack([x.ravel(), y.ravel()], axis=1)
