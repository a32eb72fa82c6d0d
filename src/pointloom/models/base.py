"""The interface that every tracker fulfils, and the values that pass through it.

A tracker is three functions, so that what depends on the frames alone is computed once whatever happens afterwards:

    encode(frames)                   -> FrameFeatures    per frame; can be sliced, reversed and joined in time
    describe(features, queries)      -> PointFeatures    what each query looks like; can be selected and joined
    refine(features, points, prior)  -> Estimate         where each point is in these frames

Drivers (`pointloom.tracking`) decide which frames a model sees and carry the prior; they read `ModelInfo` and never ask
which model it is. Outside a model positions are pixels of the video (integers are pixel centres); how frames are
resized and how a model counts pixels inside stays in its own file.

Axes: B videos, T frames, N points, C channels, h w feature map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

Mode = Literal["full", "windowed", "causal"]


@dataclass(frozen=True)
class ModelInfo:
    """What a driver and a reader of the model list need to know.

    modes       how the model can be driven: `full` sees all frames at once, `windowed` walks over the video, `causal`
                takes frames as they come, any number at a time, and remembers what it needs. The first is the default
    window      frames seen at once in windowed mode; `step` of them are new in each window. 1 and 1 without that mode
    iterations  refinements of the estimate that the model was made for
    confidence_px  confidence is the probability that a position is nearer to the truth than this, in pixels of the
                frames as the model sees them. None: it has no confidence, or nobody knows what it means
    recovers    windowed mode: whether drivers look for lost points in other places, unless they are told otherwise
    leads_in    windowed mode: whether the first windows are shorter, one at every step from the first frame on
    """

    family: str
    modes: tuple[Mode, ...]
    window: int
    step: int
    iterations: int
    outputs: tuple[str, ...]
    parameters: int
    code_licence: str
    weights_licence: str
    citation: str
    confidence_px: float | None = None
    recovers: bool = False
    leads_in: bool = False


@dataclass(frozen=True)
class FrameFeatures:
    """What a model knows of frames `start`, `start + 1`, ...

    maps    feature maps, channels last, (B, T, h, w, C), finest first
    size    (width, height) of the video's frames
    input   (width, height) of the frames as the model saw them
    start   index of the first frame in the video
    """

    maps: tuple[Float[Tensor, "B T _h _w _C"], ...]
    size: tuple[int, int]
    input: tuple[int, int]
    start: int = 0

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.maps[0].shape[1]

    @property
    def stop(self) -> int:
        """One past the index of the last frame."""
        return self.start + len(self)

    def between(self, start: int, stop: int) -> FrameFeatures:
        """Return the features of frames start..stop-1 (indices of the video). Copies nothing."""
        first, last = start - self.start, stop - self.start
        return replace(self, maps=tuple(m[:, first:last] for m in self.maps), start=start)

    def padded(self, length: int) -> FrameFeatures:
        """Repeat the last frame until there are `length` frames."""
        missing = length - len(self)
        if missing <= 0:
            return self
        maps = tuple(torch.cat([m, m[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1) for m in self.maps)
        return replace(self, maps=maps)

    def reversed(self) -> FrameFeatures:
        """Return the same frames with time running backwards; the last one becomes frame 0."""
        return replace(self, maps=tuple(m.flip(1) for m in self.maps), start=0)

    @staticmethod
    def join(parts: list[FrameFeatures]) -> FrameFeatures:
        """Put consecutive pieces together."""
        if len(parts) == 1:
            return parts[0]
        maps = tuple(torch.cat(pieces, dim=1) for pieces in zip(*(p.maps for p in parts), strict=True))
        return replace(parts[0], maps=maps)


@dataclass(frozen=True)
class PointFeatures:
    """What a model knows of each query.

    queries  (frame, x, y); the frame counts from the start of the video, x and y are pixels of the video
    support  features around the query, one tensor a level, (B, N, P, P, C), axes x offset, y offset
    reached  False for points whose query frame no frame has been seen of yet; None when all are reached
    """

    queries: Float[Tensor, "B N 3"]
    support: tuple[Float[Tensor, "B N _P _P _C"], ...]
    reached: Bool[Tensor, "B N"] | None = None

    def __len__(self) -> int:
        """Return the number of points."""
        return self.queries.shape[1]

    @property
    def frame(self) -> Tensor:
        """Query frame of each point, (B, N), cut to an integer."""
        return self.queries[..., 0].long()

    def select(self, index: Tensor | slice) -> PointFeatures:
        """Return some of the points."""
        return PointFeatures(
            self.queries[:, index],
            tuple(s[:, index] for s in self.support),
            None if self.reached is None else self.reached[:, index],
        )

    @staticmethod
    def join(parts: list[PointFeatures]) -> PointFeatures:
        """Put points together, in order. All of them are taken as reached."""
        return PointFeatures(
            torch.cat([p.queries for p in parts], dim=1),
            tuple(torch.cat(pieces, dim=1) for pieces in zip(*(p.support for p in parts), strict=True)),
        )


@dataclass(frozen=True)
class Memory:
    """What a model remembers of the frames before: tensors and nothing else. `Memory()` is the beginning.

    points  one row a point, (B, N, ...); a row of zeros remembers nothing
    shared  what belongs to no single point, (B, ...)
    """

    points: tuple[Float[Tensor, "B N ..."], ...] = ()
    shared: tuple[Float[Tensor, "B ..."], ...] = ()

    def select(self, index: Tensor | slice) -> Memory:
        """Return what is remembered of some of the points."""
        return replace(self, points=tuple(rows[:, index] for rows in self.points))

    def extended(self, count: int) -> Memory:
        """Add points that nothing is remembered of until there are `count`."""
        return replace(self, points=tuple(_with_zero_rows(rows, count) for rows in self.points))


def _with_zero_rows(rows: Float[Tensor, "B N ..."], count: int) -> Float[Tensor, "B M ..."]:
    missing = count - rows.shape[1]
    return torch.cat([rows, rows.new_zeros(len(rows), missing, *rows.shape[2:])], dim=1)


@dataclass(frozen=True)
class Estimate:
    """Where points are in a run of frames, and how sure that is.

    xy                pixels of the video
    visibility_logit  the logistic function of it is the probability that the point can be seen
    confidence_logit  the logistic function of it is the probability that the position is right
    memory            what the model remembers after the last of these frames. None: nothing, or this is no whole run of
                      frames
    """

    xy: Float[Tensor, "B T N 2"]
    visibility_logit: Float[Tensor, "B T N"]
    confidence_logit: Float[Tensor, "B T N"]
    memory: Memory | None = None

    @property
    def visibility(self) -> Float[Tensor, "B T N"]:
        """Probability that the point can be seen."""
        return self.visibility_logit.sigmoid()

    @property
    def confidence(self) -> Float[Tensor, "B T N"]:
        """Probability that the position is right: see `ModelInfo.confidence_px`."""
        return self.confidence_logit.sigmoid()

    @staticmethod
    def at_queries(queries: Float[Tensor, "B N 3"], frames: int) -> Estimate:
        """Return the state that knows nothing: every point at its query in every frame, both logits zero."""
        xy = queries[:, None, :, 1:].expand(-1, frames, -1, -1)
        zeros = queries.new_zeros(xy.shape[:-1])
        return Estimate(xy, zeros, zeros)

    def frames(self, start: int, stop: int) -> Estimate:
        """Return frames start..stop-1 of this run."""
        return self._map(lambda a: a[:, start:stop])

    def extended(self, frames: int) -> Estimate:
        """Repeat the last frame until there are `frames` frames."""
        missing = frames - self.xy.shape[1]
        return self._map(lambda a: torch.cat([a, a[:, -1:].expand(-1, missing, *a.shape[2:])], dim=1))

    def where(self, chosen: Bool[Tensor, "B N"], other: Estimate) -> Estimate:
        """Take this estimate for the chosen points and the other one for the rest."""
        mask = chosen[:, None]
        return Estimate(
            torch.where(mask[..., None], self.xy, other.xy),
            torch.where(mask, self.visibility_logit, other.visibility_logit),
            torch.where(mask, self.confidence_logit, other.confidence_logit),
        )

    def with_points(self, queries: Float[Tensor, "B K 3"]) -> Estimate:
        """Add points that are at their queries in every frame, and of which nothing is remembered."""
        joined = Estimate.join([self, Estimate.at_queries(queries, self.xy.shape[1])], axis="points")
        return replace(joined, memory=None if self.memory is None else self.memory.extended(joined.xy.shape[2]))

    def select(self, index: Tensor | slice) -> Estimate:
        """Return some of the points, and what is remembered of them."""
        memory = None if self.memory is None else self.memory.select(index)
        return replace(self._map(lambda a: a[:, :, index]), memory=memory)

    def reversed(self) -> Estimate:
        """Return the same estimate with time running backwards."""
        return self._map(lambda a: a.flip(1))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Estimate:
        return Estimate(function(self.xy), function(self.visibility_logit), function(self.confidence_logit))

    @staticmethod
    def join(parts: list[Estimate], *, axis: Literal["frames", "points"]) -> Estimate:
        """Put estimates together along time or along points. The result has no memory."""
        dim = 1 if axis == "frames" else 2
        return Estimate(
            torch.cat([p.xy for p in parts], dim=dim),
            torch.cat([p.visibility_logit for p in parts], dim=dim),
            torch.cat([p.confidence_logit for p in parts], dim=dim),
        )


class Model(nn.Module, ABC):
    """A tracker. See the top of this file. `config` is a frozen dataclass from which an equal network can be built."""

    config: Any

    @property
    @abstractmethod
    def info(self) -> ModelInfo:
        """What a driver needs to know."""

    @abstractmethod
    def encode(self, frames: UInt8[Tensor, "B T H W 3"] | Float[Tensor, "B T H W 3"], start: int = 0) -> FrameFeatures:
        """Compute the features of frames (RGB, 0..255). Frames do not influence one another."""

    @abstractmethod
    def describe(self, features: FrameFeatures, queries: Float[Tensor, "B N 3"]) -> PointFeatures:
        """Describe queries (frame, x, y), whose frames lie among those of `features`."""

    @abstractmethod
    def iterate(
        self,
        features: FrameFeatures,
        points: PointFeatures,
        prior: Estimate | None = None,
        *,
        iterations: int | None = None,
        attended: Bool[Tensor, "B T N"] | None = None,
    ) -> Iterator[Estimate]:
        """Refine an estimate step by step, yielding each one.

        `prior` is where to start (None: at the queries); a model that finds its own start yields that first, and makes
        no use of the prior's positions. If the prior has a memory, it is that of the frame before the first of these,
        and the last estimate has that of the last. `attended` says in which frames a point may be looked at by the
        others (None: always).
        """

    def refine(
        self,
        features: FrameFeatures,
        points: PointFeatures,
        prior: Estimate | None = None,
        *,
        iterations: int | None = None,
        attended: Bool[Tensor, "B T N"] | None = None,
    ) -> Estimate:
        """Return the last estimate of `iterate`."""
        estimates = list(self.iterate(features, points, prior, iterations=iterations, attended=attended))
        return estimates[-1] if estimates else prior or Estimate.at_queries(points.queries, len(features))
