"""Golden cases of CoTracker v2: which model belongs to one, and how near an answer must be. See `golden_cases`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from golden.weights import fill_one
from golden_cases import Case, Run
from pointloom.models.base import Estimate, FrameFeatures, PointFeatures
from pointloom.models.cotracker2 import CoTracker2, CoTracker2Config

TABLES = ("time_emb", "pos_emb")  # as the model builds them, not filled


@dataclass(frozen=True)
class Tolerances:
    """The largest difference that rounding explains. Intermediates are stored in single precision."""

    dtype: torch.dtype
    pixels: float
    probability: float
    encoder: float
    correlation: float
    tokens: float
    later_tokens: float  # where positions are no longer equal to the last bit: the embedding of displacements is steep
    change: float
    later_change: float


DOUBLE = Tolerances(torch.float64, 1e-9, 1e-9, 1e-6, 1e-6, 2e-6, 2e-6, 1e-10, 1e-10)
SINGLE = Tolerances(torch.float32, 1e-3, 1e-3, 5e-5, 5e-5, 5e-5, 1e-2, 5e-6, 5e-5)
PRECISIONS = {"float64": DOUBLE, "float32": SINGLE}


class RecordingCoTracker2(CoTracker2):
    """CoTracker v2 that remembers its runs, so that a test can look inside a driver."""

    def __init__(self, config: CoTracker2Config) -> None:
        super().__init__(config)
        self.runs: list[Run] = []

    def iterate(
        self, features: FrameFeatures, points: PointFeatures, prior: Estimate | None = None, **options: Any
    ) -> Iterator[Estimate]:
        run = Run(features, points, prior)
        self.runs.append(run)
        for estimate in super().iterate(features, points, prior, **options):
            run.estimates.append(estimate)
            yield estimate


@cache
def unscaled(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights by the rule of the golden cases. Kept, since 45 million random numbers take longer than a small case."""
    return fill_one(key, shape).astype(np.float64)


def model_of(case: Case, dtype: torch.dtype, **changes: Any) -> RecordingCoTracker2:
    """The model of a case with its weights. By itself it takes the video as it is; predictors resize."""
    given = case.config
    values: dict[str, Any] = {
        "window": given["window_len"],
        "iterations": given["iters"],
        "resize": "stretch" if case.name == "predictor" else "as_is",
        "resolution": tuple(given["model_resolution"]),
        "stride": given["stride"],
        "virtual_tracks": given["num_virtual_tracks"],
    }
    model = RecordingCoTracker2(CoTracker2Config(**(values | changes))).to(dtype)
    state = model.state_dict()
    for key in state.keys() - set(TABLES):
        state[key] = torch.from_numpy(unscaled(key, tuple(state[key].shape)) * case.scale.get(key, 1.0)).to(dtype)
    model.load_state_dict(state)
    return model
