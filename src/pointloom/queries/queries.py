"""Queries: the value in which a user says what to track, before there is a video or after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from numpy.typing import ArrayLike

from pointloom.queries.base import Sampler, VideoLike, check_queries
from pointloom.queries.lattice import Dense, Grid
from pointloom.queries.mask import DEFAULT_SPACING_PX, Mask
from pointloom.queries.points import Points, read_queries
from pointloom.queries.sift import Sift


@dataclass(frozen=True)
class Queries:
    """Which points to track: the points of some samplers, one after the other. Put several together with `+`.

        Queries.grid(20) + Queries.points([[30, 120.5, 64]])

    Nothing is looked at before `resolve` gets a video. Equal queries may occur more than once; there may be none.
    """

    samplers: tuple[Sampler, ...] = ()

    @staticmethod
    def points(points: ArrayLike, frame: int | None = None) -> Queries:
        """Take known points: (N, 3) of (frame, x, y), or (N, 2) of (x, y) in one frame (default 0)."""
        return Queries((Points(points, frame),))

    @staticmethod
    def grid(size: int, frame: int = 0) -> Queries:
        """Spread size x size points over a frame."""
        return Queries((Grid(size, frame),))

    @staticmethod
    def dense(stride: int, frame: int = 0) -> Queries:
        """Take one point every `stride` pixels of a frame."""
        return Queries((Dense(stride, frame),))

    @staticmethod
    def mask(mask: ArrayLike | str | Path, *, spacing_px: int = DEFAULT_SPACING_PX, frame: int = 0) -> Queries:
        """Take points `spacing_px` apart on an object, given by an array (H, W) or an image file."""
        return Queries((Mask(mask, spacing_px=spacing_px, frame=frame),))

    @staticmethod
    def sift(count: int, frame: int = 0) -> Queries:
        """Take the strongest SIFT key points of a frame."""
        return Queries((Sift(count, frame),))

    @staticmethod
    def from_file(path: str | Path) -> Queries:
        """Read known points from a .csv, .json, .npy or .npz (see `read_queries`)."""
        return Queries((Points(read_queries(path)),))

    def __add__(self, other: Queries) -> Queries:
        """Return these points, then the others."""
        if not isinstance(other, Queries):
            return NotImplemented
        return Queries(self.samplers + other.samplers)

    def resolve(self, video: VideoLike) -> Float32[np.ndarray, "N 3"]:
        """Return all points as (frame, x, y). Raises QueryError for the first that cannot be tracked in this video."""
        parts = [np.zeros((0, 3), np.float32), *(sampler.sample(video) for sampler in self.samplers)]
        queries = np.concatenate(parts)
        check_queries(queries, frames=len(video), size=video.size)
        return queries
