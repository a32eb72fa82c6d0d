"""Where the time of tracking goes: a video and a model that tell a clock which stage begins and ends.

    decode       reading frames
    encode       features of frames
    describe     features of points
    correlation  refining, all but the transformer: comparing features, and the updates
    transformer  the part of refining that is learned attention
    output       the rest: planning, carrying from window to window, writing tracks

Nothing inside a model is replaced: `encode`, `describe` and `refine` are called through `TimedModel`, and the
transformer tells by a hook when it is entered and left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from pointloom.models.base import Estimate, FrameFeatures, Model, ModelInfo, PointFeatures
from pointloom.queries.base import VideoLike

STAGES = ("decode", "encode", "describe", "correlation", "transformer", "output")
TRANSFORMER = "updateformer"  # name of that part in the models that have one


class StageClock:
    """Adds up the time of each stage. A moment belongs to the innermost stage that is open, and to no other."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._clock = clock
        self._open: list[str] = []
        self._since = 0.0

    def enter(self, stage: str) -> None:
        """Open a stage. The one around it stops until this one is left."""
        self._pass()
        self._open.append(stage)

    def leave(self) -> None:
        """Close the innermost stage."""
        self._pass()
        self._open.pop()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Open a stage for a `with` block."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def _pass(self) -> None:
        now = self._clock()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


class TimedVideo:
    """A video whose reading is timed as `decode`."""

    def __init__(self, video: VideoLike, clock: StageClock) -> None:
        self._video = video
        self._clock = clock

    @property
    def name(self) -> str:
        """Where it is from."""
        return self._video.name

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self._video.size

    @property
    def seconds(self) -> Float64[np.ndarray, " T"]:
        """When each frame is shown."""
        return self._video.seconds

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._video)

    def __getitem__(self, frames: slice, /) -> UInt8[np.ndarray, "T H W 3"]:
        """Read consecutive frames."""
        with self._clock.stage("decode"):
            return self._video[frames]


class TimedModel(Model):
    """A model whose functions are timed. It answers as the model does."""

    def __init__(self, model: Model, clock: StageClock) -> None:
        super().__init__()
        self.model = model
        self._clock = clock
        transformer = getattr(model, TRANSFORMER, None)
        if transformer is not None:
            transformer.register_forward_pre_hook(lambda *_: clock.enter("transformer"))
            transformer.register_forward_hook(lambda *_: clock.leave())

    @property
    def info(self) -> ModelInfo:
        """That of the model."""
        return self.model.info

    def encode(self, frames: UInt8[Tensor, "B T H W 3"] | Float[Tensor, "B T H W 3"], start: int = 0) -> FrameFeatures:
        """Compute the features of frames."""
        with self._clock.stage("encode"):
            return self.model.encode(frames, start)

    def describe(self, features: FrameFeatures, queries: Float[Tensor, "B N 3"]) -> PointFeatures:
        """Describe queries."""
        with self._clock.stage("describe"):
            return self.model.describe(features, queries)

    def refine(
        self,
        features: FrameFeatures,
        points: PointFeatures,
        prior: Estimate | None = None,
        *,
        iterations: int | None = None,
        attended: Bool[Tensor, "B T N"] | None = None,
    ) -> Estimate:
        """Refine an estimate."""
        with self._clock.stage("correlation"):
            return self.model.refine(features, points, prior, iterations=iterations, attended=attended)

    def iterate(self, *arguments: Any, **options: Any) -> Iterator[Estimate]:
        """Refine step by step: not timed, since what happens between the steps is not the model's."""
        return self.model.iterate(*arguments, **options)
