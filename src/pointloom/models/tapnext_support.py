"""Points around a query that TAPNext++ tracks with it and drops, as it did for VOTS (Jung et al. 2026).

Positions are raster pixels: a frame begins at (0, 0), centres of pixels lie at halves.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SUPPORT_POINTS = 64  # for each point
SUPPORT_RADIUS = 32.0  # pixels of the frame that the network sees


def grid_points(count: int, size: tuple[float, float]) -> Float[Tensor, "N 2"]:
    """Centres of the first `count` cells of a grid over (width, height), x first, with cells as square as they can be.

    Positions are raster: the grid begins at (0, 0).
    """
    width, height = size
    columns = max(1, round((count * width / height) ** 0.5))
    rows = max(1, -(-count // columns))
    y, x = torch.meshgrid(
        (torch.arange(rows) + 0.5) * (height / rows), (torch.arange(columns) + 0.5) * (width / columns), indexing="ij"
    )
    return torch.stack([x, y], dim=-1).flatten(0, 1)[:count]  # (N, 2)


def support_points(
    xy: Float[Tensor, "N 2"], size: tuple[int, int], seen: int, *, count: int = SUPPORT_POINTS
) -> Float[Tensor, "M 2"]:
    """Points around each of `xy`, to be tracked with them and dropped: `count` for the first one, then for the next.

    They reach 32 pixels to each side in frames as the network sees them, of `seen` x `seen`. Positions are raster
    pixels of a frame of `size` (width, height), and stay in it. After what TAPNext++ did for VOTS.
    """
    width, height = size
    radius = (SUPPORT_RADIUS * width / seen, SUPPORT_RADIUS * height / seen)
    grid = grid_points(count, (2 * radius[0], 2 * radius[1])) - torch.tensor(radius)
    around = (xy[:, None] + grid.to(xy)).flatten(0, 1)
    return around.clamp(min=torch.zeros(2).to(xy), max=torch.tensor([width - 1.0, height - 1.0]).to(xy))
