"""Which points are refined together: queries in groups that fit memory, each group with support points of its own.

A model whose points look at each other gives answers that depend on the company: a query alone is helped by support
points around it and over the whole frame, as in CoTracker3's evaluation on TAP-Vid (Karaev et al. 2024). Support points
lie on the frame of the queries that they support, are tracked like these, and are not returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from pointloom.geometry import from_raster
from pointloom.queries.base import on_frame
from pointloom.queries.grid import grid_points

LOCAL_GRID = 8  # points a side, around each query that is tracked alone
LOCAL_EXTENT_PX = 50  # in pixels of the frame as the model sees it
GLOBAL_GRID = 5
ALONE = 1 + LOCAL_GRID**2 + GLOBAL_GRID**2  # points that are refined for a query that is tracked alone


@dataclass(frozen=True)
class Batch:
    """Points that are refined together.

    rows    which queries of the user they begin with
    points  (frame, x, y) of those queries, then of support points
    """

    rows: Int64[np.ndarray, " n"]
    points: Float32[np.ndarray, "m 3"]


def joint_batches(
    queries: Float32[np.ndarray, "N 3"], size: tuple[int, int], *, support_grid: int, most: int
) -> Iterator[Batch]:
    """Group queries of near frames, at most `most` points at once, with a support grid on each frame of the group."""
    order = np.argsort(queries[:, 0], kind="stable")
    start, points, frame = 0, 0, None
    for position, row in enumerate(order):
        needs = 1 + (support_grid**2 if queries[row, 0] != frame else 0)
        if points and points + needs > most:
            yield _joint(order[start:position], queries, size, support_grid)
            start, points = position, 0
            needs = 1 + support_grid**2
        points += needs
        frame = queries[row, 0]
    if points:
        yield _joint(order[start:], queries, size, support_grid)


def single_batches(
    queries: Float32[np.ndarray, "N 3"], size: tuple[int, int], seen_size: tuple[int, int]
) -> Iterator[Batch]:
    """Give each query its own support points: 8 x 8 within 50 px around it, and 5 x 5 over the frame.

    The 50 px are pixels of the frame as the model sees it, (width, height) `seen_size`. Points around a query near the
    edge may lie outside the frame.
    """
    around = grid_points(LOCAL_GRID, (LOCAL_EXTENT_PX, LOCAL_EXTENT_PX), (0.0, 0.0)) * np.divide(size, seen_size)
    everywhere = _spread(GLOBAL_GRID, size)
    for row, query in enumerate(queries):
        xy = np.concatenate([query[None, 1:], query[1:] + around, everywhere])
        yield Batch(np.array([row]), on_frame(xy, int(query[0])))


def _joint(
    rows: Int64[np.ndarray, " n"], queries: Float32[np.ndarray, "N 3"], size: tuple[int, int], support_grid: int
) -> Batch:
    own = queries[rows]
    if not support_grid:
        return Batch(rows, own)
    grid = _spread(support_grid, size)
    return Batch(rows, np.concatenate([own, *(on_frame(grid, int(frame)) for frame in np.unique(own[:, 0]))]))


def _spread(points: int, size: tuple[int, int]) -> Float32[np.ndarray, "n 2"]:
    width, height = size
    return from_raster(grid_points(points, (height, width))).astype(np.float32)
