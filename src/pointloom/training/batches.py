"""What a training step sees: pairs of frames or whole clips, drawn from pools and augmented.

Every batch is a pure function of pools, recipe and generator, and the loop makes the generator from seed, step and
process: a resumed run draws what an uninterrupted one would. Positions are pixels, integers are pixel centres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.pool import ClipPool
from pointloom.errors import DatasetError
from pointloom.geometry import inside
from pointloom.training.recipe import DataRecipe

GAPS = (1, 2, 4, 8, 12, 20)  # frames between the two of a pair, each as likely
TURN_DEGREES = 40.0  # standard deviation of a warp's rotation; one warp in five turns by any angle
ZOOM_LOG2 = 0.6  # standard deviation of its zoom
ATTEMPTS = 20


class PairBatch(NamedTuple):
    """Pairs of frames and points that are visible in both."""

    frames: UInt8[Tensor, "B 2 H W 3"]
    first: Float[Tensor, "B K 2"]
    second: Float[Tensor, "B K 2"]


class TrackBatch(NamedTuple):
    """Clips, true tracks and queries."""

    frames: UInt8[Tensor, "B T H W 3"]
    xy: Float[Tensor, "B T N 2"]
    visible: Bool[Tensor, "B T N"]
    valid: Bool[Tensor, "B T N"]
    queries: Float[Tensor, "B N 3"]


@dataclass(frozen=True)
class Source:
    """Pools and the chance of each."""

    pools: tuple[ClipPool, ...]
    chances: tuple[float, ...]

    @staticmethod
    def open(data: DataRecipe) -> Source:
        """Open the pools of a recipe."""
        total = sum(share.weight for share in data.pools)
        return Source(
            tuple(ClipPool.open(share.folder) for share in data.pools),
            tuple(share.weight / total for share in data.pools),
        )

    def draw(self, rng: np.random.Generator) -> AnnotatedClip:
        """Return a random clip."""
        pool = self.pools[rng.choice(len(self.pools), p=self.chances)]
        return pool[int(rng.integers(len(pool)))]


def draw_pairs(source: Source, data: DataRecipe, rng: np.random.Generator) -> PairBatch:
    """Draw pairs of frames of random gaps, half of them in reversed order, some turned and zoomed."""
    pairs = [_draw_pair(source, data, rng) for _ in range(data.clips)]
    return PairBatch(*(torch.from_numpy(np.stack(parts)) for parts in zip(*pairs, strict=True)))


def _draw_pair(
    source: Source, data: DataRecipe, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "2 H W 3"], Float[np.ndarray, "K 2"], Float[np.ndarray, "K 2"]]:
    for _ in range(ATTEMPTS):
        clip = source.draw(rng)
        gap = min(int(rng.choice(GAPS)), len(clip.frames) - 1)
        start = int(rng.integers(len(clip.frames) - gap))
        order = [start, start + gap] if rng.random() < 0.5 else [start + gap, start]
        frames = np.stack([clip.frames[i] for i in order])
        xy, visible = clip.xy[:, order], clip.visible[:, order].all(1)
        if rng.random() < data.warped:
            frames[1], xy[:, 1] = warped(frames[1], xy[:, 1], random_similarity(clip.size, rng))
        visible &= inside(xy, clip.size).all(1)
        chosen = np.flatnonzero(visible)
        if len(chosen):
            chosen = rng.choice(chosen, data.points, replace=len(chosen) < data.points)
            frames, xy = recoloured_and_flipped(frames, xy[chosen], rng)
            return frames, xy[:, 0], xy[:, 1]
    raise DatasetError(f"{ATTEMPTS} clips in a row had no point visible in two frames; is the pool sound?")


def draw_tracks(source: Source, data: DataRecipe, frames: int, rng: np.random.Generator) -> TrackBatch:
    """Draw clips of `frames` frames. Queries lie on visible frames: half on the first one, half on any."""
    samples = [_draw_track(source, data, frames, rng) for _ in range(data.clips)]
    stacked = [torch.from_numpy(np.stack(parts)) for parts in zip(*samples, strict=True)]
    video, xy, visible, valid, queries = stacked
    return TrackBatch(video, xy.transpose(1, 2), visible.transpose(1, 2), valid.transpose(1, 2), queries)


def _draw_track(source: Source, data: DataRecipe, frames: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    for _ in range(ATTEMPTS):
        clip = source.draw(rng)
        length = min(frames, len(clip.frames))
        start = int(rng.integers(len(clip.frames) - length + 1))
        taken = slice(start, start + length)
        video, xy = np.array(clip.frames[taken]), clip.xy[:, taken].copy()
        visible, valid = clip.visible[:, taken].copy(), clip.valid[:, taken]
        if rng.random() < data.warped:
            turn = random_similarity(clip.size, rng)
            for t, matrix in enumerate(drifting(turn, clip.size, length)):
                video[t], xy[:, t] = warped(video[t], xy[:, t], matrix)
            visible &= inside(xy, clip.size)
        if rng.random() < 0.5:
            video, xy, visible, valid = video[::-1], xy[:, ::-1], visible[:, ::-1], valid[:, ::-1]
        seen = np.flatnonzero(visible.any(1))
        if not len(seen):
            continue
        chosen = rng.choice(seen, data.points, replace=len(seen) < data.points)
        xy, visible, valid = xy[chosen], visible[chosen], valid[chosen]
        video, xy = recoloured_and_flipped(video, xy, rng)
        first = visible.argmax(1)
        anywhere = np.where(visible, rng.random(visible.shape), -1.0).argmax(1)
        frame = np.where(rng.random(len(chosen)) < 0.5, first, anywhere)
        queries = np.concatenate([frame[:, None], xy[np.arange(len(chosen)), frame]], axis=1).astype(np.float32)
        length_padded = [
            _lengthened(video, frames, 0),
            *(_lengthened(a, frames, 1) for a in (xy, visible, valid)),
        ]
        return *(np.ascontiguousarray(a) for a in length_padded), queries
    raise DatasetError(f"{ATTEMPTS} clips in a row had no visible point; is the pool sound?")


def _lengthened(a: np.ndarray, frames: int, axis: int) -> np.ndarray:
    """Repeat the last frame of a clip that is too short."""
    missing = frames - a.shape[axis]
    return a if missing <= 0 else np.concatenate([a, np.repeat(a.take([-1], axis), missing, axis)], axis)


def random_similarity(size: tuple[int, int], rng: np.random.Generator) -> Float[np.ndarray, "2 3"]:
    """Draw a rotation and zoom about a point near the middle."""
    angle = rng.uniform(-180, 180) if rng.random() < 0.2 else rng.normal(0, TURN_DEGREES)
    zoom = 2.0 ** float(np.clip(rng.normal(0, ZOOM_LOG2), -1.6, 1.3))
    centre = np.array(size) / 2 + rng.normal(0, 0.1, 2) * size
    return cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), angle, zoom)


def drifting(end: Float[np.ndarray, "2 3"], size: tuple[int, int], frames: int) -> list[Float[np.ndarray, "2 3"]]:
    """Go smoothly from no change to the similarity `end`, in rotation, zoom and place alike."""
    linear = complex(end[0, 0], end[1, 0])
    centre = np.array([size[0] / 2, size[1] / 2])
    moved = end[:, :2] @ centre + end[:, 2] - centre
    matrices = []
    for t in range(frames):
        share = 0.5 - 0.5 * np.cos(np.pi * t / max(frames - 1, 1))
        z = np.exp(share * np.log(linear))
        rotation = np.array([[z.real, -z.imag], [z.imag, z.real]])
        matrices.append(np.concatenate([rotation, (centre + share * moved - rotation @ centre)[:, None]], axis=1))
    return matrices


def warped(
    frame: UInt8[np.ndarray, "H W 3"], xy: Float[np.ndarray, "N 2"], matrix: Float[np.ndarray, "2 3"]
) -> tuple[UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "N 2"]]:
    """Turn and zoom a frame and its points; the border is mirrored."""
    size = (frame.shape[1], frame.shape[0])
    moved = cv2.warpAffine(frame, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return moved, (xy @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def recoloured_and_flipped(
    frames: UInt8[np.ndarray, "T H W 3"], xy: Float[np.ndarray, "N T 2"], rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "T H W 3"], Float[np.ndarray, "N T 2"]]:
    """Shuffle the colour channels and flip, for the whole clip alike."""
    width, height = frames.shape[2], frames.shape[1]
    if rng.random() < 0.5:
        frames, xy = frames[:, :, ::-1], xy * np.array([-1, 1], np.float32) + np.array([width - 1, 0], np.float32)
    if rng.random() < 0.5:
        frames, xy = frames[:, ::-1], xy * np.array([1, -1], np.float32) + np.array([0, height - 1], np.float32)
    if rng.random() < 0.7:
        frames = frames[..., rng.permutation(3)]
    return np.ascontiguousarray(frames), xy
