"""Very small networks with random weights, whose tracks move, and videos for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pointloom.models.base import FrameFeatures, Model, PointFeatures
from pointloom.models.cotracker3 import CoTracker3, CoTracker3Config, initialise

SIZE = (40, 32)  # (width, height) of the videos
WINDOW, STEP = 8, 4

ALONE = CoTracker3Config(
    modes=("windowed", "full"),
    window=WINDOW,
    step=STEP,
    iterations=2,
    resolution=(32, 48),
    encoder="light",
    channels=16,
    levels=2,
    radius=1,
    support_radius=1,
    correlation_hidden=16,
    correlation_width=8,
    hidden=16,
    heads=2,
    mlp_ratio=2,
    time_depth=1,
    space_depth=1,
    virtual_tracks=0,
    space_attention=False,
)
# Points look at each other, and how they looked lately is remembered: all that a driver has to hand on
TOGETHER = replace(ALONE, virtual_tracks=4, space_attention=True, time_depth=2, space_depth=2, recent=True)
LEADING_IN = replace(TOGETHER, leads_in=True)  # the first windows are shorter


def small_model(config: CoTracker3Config = ALONE, seed: int = 0) -> CoTracker3:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CoTracker3(config)
        initialise(model, seed)
        for head in (model.updateformer.flow_head, model.updateformer.vis_conf_head):
            head.weight.normal_(std=0.02)
        if config.space_attention:
            for block in (
                *model.updateformer.space_virtual2point_blocks,
                *model.updateformer.space_point2virtual_blocks,
            ):
                block.cross_attn.to_out.weight.mul_(3)  # so that points influence each other well above rounding
    return model.eval().requires_grad_(False)


class Blind(Model):
    """Sees nothing of the frames, and knows of a point where it was at its query: a base for models made by hand."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.zero = torch.nn.Parameter(torch.zeros(1))  # by which drivers know the type of numbers

    def encode(self, frames: torch.Tensor, start: int = 0) -> FrameFeatures:
        size = frames.shape[3], frames.shape[2]
        return FrameFeatures((frames[:, :, :1, :1, :1].float(),), size=size, input=size, start=start)

    def describe(self, features: FrameFeatures, queries: torch.Tensor) -> PointFeatures:
        return PointFeatures(queries, (queries[..., None, None, 1:],))


def moving_noise(frames: int, size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    """A blurred random picture that slides by a pixel a frame."""
    width, height = size
    rough = np.random.default_rng(seed).uniform(0, 255, (height + 4, width + frames + 4, 3))
    smooth = sum(rough[y : y + height, x : x + width + frames] for y in range(4) for x in range(4)) / 16
    return np.stack([smooth[:, t : t + width] for t in range(frames)]).astype(np.uint8)


def some_queries(count: int, frames: int, size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    """Queries anywhere in a video, at least one of them in the first frame."""
    random = np.random.default_rng(seed)
    frame = random.integers(0, frames, count)
    frame[:1] = 0
    xy = random.uniform(0, np.array(size) - 1, (count, 2))
    return np.column_stack([frame, xy]).astype(np.float32)


@dataclass
class CountingVideo:
    """A video in memory that notes which frames were read; `fault` is the first frame that cannot be."""

    array: np.ndarray
    fault: int | None = None
    name: str = "counting"

    def __post_init__(self) -> None:
        self.read: list[int] = []
        self.length = len(self.array)

    @property
    def size(self):
        return self.array.shape[2], self.array.shape[1]

    @property
    def seconds(self):
        return np.arange(self.length) / 25

    def __len__(self):
        return self.length

    def __getitem__(self, frames):
        wanted = range(*frames.indices(self.length))
        if self.fault is not None and wanted.stop > self.fault:
            self.length = self.fault
            wanted = wanted[: max(self.fault - wanted.start, 0)]
        self.read += wanted
        return self.array[wanted.start : wanted.stop] if len(wanted) else self.array[:0]
