"""A causal model whose answers can be worked out by hand: it counts the frames that it has seen."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointloom.models.base import Estimate, FrameFeatures, Memory, Model, ModelInfo, PointFeatures

PER_FRAME_PX = (1.0, 0.125)  # (x, y) of a point's first frame and each frame after it
SHARED_LOGIT = 0.25  # a frame since the first one that the model saw


@dataclass(frozen=True)
class CounterConfig:
    """`shared`: whether the model remembers something that belongs to no single point."""

    shared: bool = True


class Counter(Model):
    """Moves each point by a step in each frame since its own first one, and is surer the more frames it has seen.

    The colour of the upper left pixel is the only feature; confidence tells it, so that tests see which frame it was.
    """

    def __init__(self, config: CounterConfig) -> None:
        super().__init__()
        self.config = config
        self.zero = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.worked_on: list[tuple[int, int, int]] = []  # first frame, frames, points

    @property
    def info(self) -> ModelInfo:
        return ModelInfo("Counter", ("causal",), 1, 1, 1, ("visibility", "confidence"), 1, "none", "none", "none")

    def encode(self, frames: torch.Tensor, start: int = 0) -> FrameFeatures:
        size = frames.shape[3], frames.shape[2]
        return FrameFeatures((frames[:, :, :1, :1, :1].double(),), size=size, input=size, start=start)

    def describe(self, features: FrameFeatures, queries: torch.Tensor) -> PointFeatures:
        return PointFeatures(queries, (queries[..., None, None, :1],))

    def iterate(self, features, points, prior=None, *, iterations=None, attended=None):
        B, T, N = len(points.queries), len(features), len(points)
        self.worked_on.append((features.start, T, N))
        memory = prior.memory
        age = memory.points[0] if memory.points else torch.zeros(B, N, 1, dtype=torch.float64)
        seen = memory.shared[0] if memory.shared else torch.zeros(B, 1, dtype=torch.float64)
        frame = torch.arange(1, T + 1, dtype=torch.float64)
        ages = age.transpose(1, 2) + frame[:, None]  # (B, T, N)
        xy = points.queries[:, None, :, 1:] + ages[..., None] * torch.tensor(PER_FRAME_PX)
        sure = (SHARED_LOGIT * (seen + frame) * self.config.shared)[..., None].expand(B, T, N)
        colour = features.maps[0][..., 0, 0, :].expand(B, T, N)
        shared = (seen + T,) if self.config.shared else ()
        yield Estimate(xy, sure, colour / 64, Memory((age + T,), shared))
