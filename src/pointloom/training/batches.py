"""What a training step sees: pairs of frames or whole clips, drawn from sources, changed, and their points chosen.

Every clip of a batch is a pure function of sources, recipe and its own generator. The loop makes the generators from
seed, step and the number of the clip in the whole step: a resumed run draws what an uninterrupted one would, and it
does not matter which process draws a clip. Positions are pixels, integers are pixel centres.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from pointloom.datasets.clip import AnnotatedClip
from pointloom.errors import DatasetError, OptionError
from pointloom.geometry import inside
from pointloom.training.appearance import exposed_longer, softened
from pointloom.training.augment import augmented
from pointloom.training.recipe import DataRecipe, Moment
from pointloom.training.sources import Passed, Sources
from pointloom.training.turning import drifting, random_similarity, recoloured_and_flipped, warped

GAPS = (1, 2, 4, 8, 12, 20)  # frames between the two of a pair, each as likely
SOFTENED = (1.0, 2.0)  # by how much a clip seems to have been enlarged

Part = TypeVar("Part", bound=tuple[np.ndarray, ...])


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

    @property
    def seen_at_known_place(self) -> Bool[Tensor, "B T N"]:
        """Where a point can be matched; see `ClipPart`."""
        return self.visible & self.valid


class ClipPart(NamedTuple):
    """A clip on its way into a batch."""

    frames: UInt8[np.ndarray, "T H W 3"]
    xy: Float[np.ndarray, "N T 2"]
    visible: Bool[np.ndarray, "N T"]
    valid: Bool[np.ndarray, "N T"]

    @property
    def seen_at_known_place(self) -> Bool[np.ndarray, "N T"]:
        """Where a query may lie: in labels of real clips a point may be seen, but nobody knows where."""
        return self.visible & self.valid

    def points(self, chosen: Int[np.ndarray, " K"]) -> ClipPart:
        """Return the chosen points only."""
        return ClipPart(self.frames, self.xy[chosen], self.visible[chosen], self.valid[chosen])

    def lengthened(self, frames: int) -> ClipPart:
        """Repeat the last frame of a clip that is too short."""
        t = np.minimum(np.arange(frames), len(self.frames) - 1)
        return ClipPart(self.frames[t], self.xy[:, t], self.visible[:, t], self.valid[:, t])


# --------------------------------------------------------------------------------------------------------------- pairs


def draw_pairs(
    sources: Sources, data: DataRecipe, rngs: Sequence[np.random.Generator]
) -> tuple[PairBatch, list[Passed]]:
    """Draw a pair of frames with each generator, of random gaps, half of them in reversed order.

    Some are turned and zoomed. Also returns what was passed over.
    """
    drawn = [sources.draw(rng, partial(pair_of, data=data, rng=rng)) for rng in rngs]
    return PairBatch(*_stacked([pair for pair, _ in drawn])), [one for _, passed in drawn for one in passed]


def pair_of(
    clip: AnnotatedClip, data: DataRecipe, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "2 H W 3"], Float[np.ndarray, "K 2"], Float[np.ndarray, "K 2"]]:
    """Draw two frames of a clip and points that are visible in both."""
    gap = min(int(rng.choice(GAPS)), len(clip.frames) - 1)
    start = int(rng.integers(len(clip.frames) - gap))
    order = [start, start + gap] if rng.random() < 0.5 else [start + gap, start]
    frames = np.stack([clip.frames[i] for i in order])
    xy, visible = clip.xy[:, order], (clip.visible & clip.valid)[:, order].all(1)
    if rng.random() < data.warped:
        frames[1], xy[:, 1] = warped(frames[1], xy[:, 1], random_similarity(clip.size, rng))
    chosen = _take(np.flatnonzero(visible & inside(xy, clip.size).all(1)), data, rng)
    frames, xy = recoloured_and_flipped(frames, xy[chosen], rng)
    return frames, xy[:, 0], xy[:, 1]


# --------------------------------------------------------------------------------------------------------------- clips


def draw_tracks(
    sources: Sources, data: DataRecipe, frames: int, rngs: Sequence[np.random.Generator]
) -> tuple[TrackBatch, list[Passed]]:
    """Draw a clip of `frames` frames with each generator. Also returns what was passed over."""
    drawn = [sources.draw(rng, partial(sample_of, data=data, frames=frames, rng=rng)) for rng in rngs]
    video, xy, visible, valid, queries = _stacked([sample for sample, _ in drawn])
    batch = TrackBatch(video, xy.transpose(1, 2), visible.transpose(1, 2), valid.transpose(1, 2), queries)
    return batch, [one for _, passed in drawn for one in passed]


def sample_of(clip: AnnotatedClip, data: DataRecipe, frames: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Cut a clip, change it, choose points and their queries: video, positions, visibility, validity, queries."""
    taken = frames_of(len(clip.frames), frames, data.longest_stride, rng)
    long_exposure = taken.step > 1 and rng.random() < data.long_exposure
    video = _exposed_longer(clip.frames, taken) if long_exposure else np.array(clip.frames[taken])
    cut = ClipPart(video, clip.xy[:, taken].copy(), clip.visible[:, taken], clip.valid[:, taken])
    changed = _changed(cut, data, rng)
    if data.farthest_px is not None:
        changed = changed.points(np.flatnonzero(_stay_near(changed, data.farthest_px)))
    chosen = changed.points(_take(candidates(changed.seen_at_known_place, data.seen_in), data, rng))
    queries = queries_of(chosen.xy, chosen.seen_at_known_place, data.anywhere, rng)
    return *(np.ascontiguousarray(part) for part in chosen.lengthened(frames)), queries


def frames_of(length: int, frames: int, longest_stride: int, rng: np.random.Generator) -> slice:
    """Choose which frames of a clip to take: a random stride that the clip has room for, and a random start."""
    stride = int(rng.integers(1, max(min(longest_stride, length // frames), 1), endpoint=True))
    start = int(rng.integers(max(length - frames * stride, 1)))
    return slice(start, start + frames * stride, stride)


def _exposed_longer(video: UInt8[np.ndarray, "T H W 3"], taken: slice) -> UInt8[np.ndarray, "t H W 3"]:
    """Take frames that show a bit of those before and after them, as fast motion is seen by a camera."""
    last = len(video) - 1
    return np.stack(
        [
            exposed_longer(video[max(t - 1, 0)], video[t], video[min(t + 1, last)])
            for t in range(*taken.indices(len(video)))
        ]
    )


def candidates(visible: Bool[np.ndarray, "N T"], seen_in: Sequence[Moment]) -> Int[np.ndarray, " M"]:
    """Return the points that are seen in the given frames; a point that is seen in two of them comes twice.

    Without such frames, the points that are seen in any.
    """
    if not seen_in:
        return np.flatnonzero(visible.any(1))
    frame = {"first": 0, "middle": visible.shape[1] // 2, "last": -1}
    return np.concatenate([np.flatnonzero(visible[:, frame[moment]]) for moment in seen_in])


def queries_of(
    xy: Float[np.ndarray, "N T 2"], visible: Bool[np.ndarray, "N T"], anywhere: float, rng: np.random.Generator
) -> Float[np.ndarray, "N 3"]:
    """Put each query (t, x, y) into a frame where its point is visible: any for the first points, then the first one.

    `anywhere` is the share of the former, rounded down. Points must be in random order.
    """
    any_frame = np.where(visible, rng.random(visible.shape), -1.0).argmax(1)
    n = np.arange(len(xy))
    frame = np.where(n < int(anywhere * len(xy)), any_frame, visible.argmax(1))
    return np.concatenate([frame[:, None], xy[n, frame]], axis=1).astype(np.float32)


def _changed(cut: ClipPart, data: DataRecipe, rng: np.random.Generator) -> ClipPart:
    """Augment a clip, by the recipe's augmentation or lightly; points outside the frame are not visible then."""
    if data.augmentation:
        frames, xy, visible, valid = augmented(*cut, data.augmentation, rng)
        limit = np.array(data.augmentation.size) - 1
        between_outermost_centres = ((xy >= 0) & (xy <= limit)).all(-1)  # as CoTracker3, half a pixel inside the frame
        return ClipPart(frames, xy, visible & between_outermost_centres, valid)
    frames, xy, visible, valid = cut
    size = frames.shape[2], frames.shape[1]
    if rng.random() < data.warped:
        for t, matrix in enumerate(drifting(random_similarity(size, rng), size, len(frames))):
            frames[t], xy[:, t] = warped(frames[t], xy[:, t], matrix)
        visible = visible & inside(xy, size)
    if rng.random() < 0.5:
        frames, xy, visible, valid = frames[::-1], xy[:, ::-1], visible[:, ::-1], valid[:, ::-1]
    if rng.random() < data.softened:
        factor = rng.uniform(*SOFTENED)
        frames = np.stack([softened(frame, factor) for frame in frames])
    return ClipPart(*recoloured_and_flipped(frames, xy, rng), visible, valid)


def _stay_near(tracks: ClipPart, farthest_px: float) -> Bool[np.ndarray, " N"]:
    """True for tracks that are known in every frame and never further than that from the middle of the frame."""
    middle = np.array([tracks.frames.shape[2], tracks.frames.shape[1]]) / 2
    near = np.linalg.norm(tracks.xy - middle, axis=-1) < farthest_px
    return np.asarray((near & tracks.valid).all(axis=1))


def _take(among: Int[np.ndarray, " M"], data: DataRecipe, rng: np.random.Generator) -> Int[np.ndarray, " N"]:
    """Choose as many points as the recipe wants, in random order."""
    wanted = data.points
    if len(among) < (1 if data.repeated else wanted):
        raise DatasetError(f"too few points: {len(among)} can be chosen from, {wanted} are needed.")
    return rng.permutation(among)[:wanted] if len(among) >= wanted else rng.choice(among, wanted)


def _stacked(samples: Sequence[Part]) -> list[Tensor]:
    """Put samples of a step together."""
    sizes = {sample[0].shape for sample in samples}
    if len(sizes) > 1:
        raise OptionError(
            f"clips of different sizes cannot share a step, got {sorted(sizes)}. Set data.clips=1, use sources of one "
            f"size, or data.augmentation, which brings all to one."
        )
    return [torch.from_numpy(np.stack(parts)) for parts in zip(*samples, strict=True)]
