"""Golden cases of CoTracker3: how one is read, which model belongs to it, and how near an answer must be.

A case is a file of inputs and answers of the reference, computed in float64. It carries no weights: a model is filled
by the rule of `golden/weights.py` from the names and shapes of its parameters. In float64 an implementation must agree
nearly to rounding, in float32 to what rounding in single precision was measured to cost, times five to fifty.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from golden.weights import fill
from pointloom.geometry import resize_aligned
from pointloom.models.base import Estimate, FrameFeatures, PointFeatures
from pointloom.models.cotracker3 import CoTracker3, CoTracker3Config

FOLDER = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Tolerances:
    """The largest difference that rounding explains, for each kind of number."""

    dtype: torch.dtype
    pixels: float
    probability: float
    logit: float
    intermediate: float
    total: float  # of a sum, relative to the sum of absolute values
    model_pixels: float  # of what a predictor's model gives, its support points included
    model_probability: float


DOUBLE = Tolerances(torch.float64, 1e-7, 1e-9, 1e-7, 1e-9, 1e-9, 1e-7, 1e-9)
SINGLE = Tolerances(torch.float32, 1e-3, 5e-5, 5e-4, 2e-4, 1e-4, 3e-3, 2e-4)
PRECISIONS = {"float64": DOUBLE, "float32": SINGLE}


@dataclass(frozen=True)
class Case:
    """Inputs and answers of one golden file."""

    name: str
    arrays: Mapping[str, np.ndarray]
    config: Mapping[str, Any] = field(default_factory=dict)
    scale: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def tensor(self, key: str, dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(self.arrays[key]).to(dtype)


def load(folder: str, name: str) -> Case:
    with np.load(FOLDER / folder / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file}
    described = {key: json.loads(str(arrays.pop(key))) for key in ("config", "scale") if key in arrays}
    return Case(name, arrays, **described)


def config_of(case: Case, **changes: Any) -> CoTracker3Config:
    """The configuration of a case. Predictors resize, a model by itself takes the video as it is."""
    given, widths = case.config, case.config.get("widths", {})
    online = given["kind"] == "online"
    window = given["window_len"]
    values: dict[str, Any] = {
        "modes": ("windowed",) if online else ("full",),
        "window": window,
        "step": window // 2 if online else window,
        "iterations": given.get("iters", 6),
        "resize": "stretch" if given.get("case") in ("predictor", "streaming", "evaluation") else "as_is",
        "resolution": tuple(given["model_resolution"]),
        "stride": given["stride"],
        "levels": given["corr_levels"],
        "radius": given["corr_radius"],
        "support_radius": given["corr_radius"],
        "virtual_tracks": given["num_virtual_tracks"],
        "space_attention": given.get("add_space_attn", True),
        "separate_heads": given.get("linear_layer_for_vis_conf", True),
    }
    names = {"latent_dim": "channels", "corr_hidden": "correlation_hidden", "corr_out": "correlation_width"}
    values |= {names.get(key, key): value for key, value in widths.items()}
    return CoTracker3Config(**(values | changes))


@dataclass
class Run:
    """One call of a model's `iterate`: what it was given and what it gave."""

    features: FrameFeatures
    points: PointFeatures
    prior: Estimate | None
    estimates: list[Estimate] = field(default_factory=list)

    @property
    def model_queries(self) -> torch.Tensor:
        """The queries in pixels of the frames that the network sees."""
        xy = self.to_model(self.points.queries[..., 1:])
        return torch.cat([self.points.queries[..., :1], xy], dim=-1)

    def to_model(self, xy: torch.Tensor) -> torch.Tensor:
        """Pixels of the video -> pixels of the frames that the network sees."""
        return resize_aligned(xy, self.features.size, self.features.input)

    @property
    def support_norm(self) -> torch.Tensor:
        """Length of each point's level-0 support patch; zero while its query lies ahead. (N)"""
        support = self.points.support[0][0]
        if self.points.reached is not None:
            support = support * self.points.reached[0, :, None, None, None]
        return support.flatten(1).norm(dim=1)


class RecordingModel(CoTracker3):
    """CoTracker3 that remembers its runs, so that a test can look inside a driver."""

    def __init__(self, config: CoTracker3Config) -> None:
        super().__init__(config)
        self.runs: list[Run] = []
        self.encoded_frames = 0

    def encode(self, frames: torch.Tensor, start: int = 0) -> FrameFeatures:
        self.encoded_frames += frames.shape[1]
        return super().encode(frames, start)

    def iterate(
        self, features: FrameFeatures, points: PointFeatures, prior: Estimate | None = None, **options: Any
    ) -> Iterator[Estimate]:
        run = Run(features, points, prior)
        self.runs.append(run)
        for estimate in super().iterate(features, points, prior, **options):
            run.estimates.append(estimate)
            yield estimate


def model_of(case: Case, dtype: torch.dtype, **changes: Any) -> RecordingModel:
    """The model of a case with its weights; `time_emb` stays as built."""
    model = RecordingModel(config_of(case, **changes)).to(dtype)
    state = model.state_dict()
    filled = fill({key: value.shape for key, value in state.items() if key != "time_emb"}, case.scale)
    weights = {key: torch.from_numpy(value) for key, value in filled.items()}
    model.load_state_dict(weights | {"time_emb": state["time_emb"]})
    return model


def difference(actual: Any, expected: np.ndarray) -> float:
    """The largest absolute difference; shapes must be the same."""
    actual = np.asarray(actual.detach().double() if isinstance(actual, torch.Tensor) else actual)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    return float(np.abs(actual - expected).max(initial=0.0))


def assert_close(actual: Any, expected: np.ndarray, tolerance: float, what: str = "") -> None:
    found = difference(actual, expected)
    assert found <= tolerance, f"{what}: differs by {found:.3g}, more than {tolerance:.3g}"


def assert_sums(actual: torch.Tensor, expected: np.ndarray, tolerance: float, what: str = "") -> None:
    """Sum, sum of absolute values and, if stored, sum of squares; see `Tolerances.total`."""
    values = actual.detach().double()
    sums = [values.sum(), values.abs().sum(), values.square().sum()][: len(expected)]
    scales = [expected[1], *expected[1:]]
    for found, wanted, scale in zip(sums, expected, scales, strict=True):
        assert abs(float(found) - wanted) <= tolerance * scale, f"{what}: sum {float(found)}, expected {wanted}"


@contextmanager
def watched(module: nn.Module, calls: int) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Collect (first argument, answer) of the first calls of a module."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(_: nn.Module, arguments: tuple[torch.Tensor, ...], answer: torch.Tensor) -> None:
        if len(seen) < calls:
            seen.append((arguments[0], answer))

    handle = module.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


@dataclass
class FirstIteration:
    """What a model computed on its way through the first iteration of its first run."""

    features: FrameFeatures
    points: PointFeatures
    correlation: list[tuple[torch.Tensor, torch.Tensor]]  # of each level: the volume, its embedding
    update: list[tuple[torch.Tensor, torch.Tensor]]  # the tokens, the change

    def assert_equals(self, case: Case, tolerances: Tolerances) -> None:
        """Compare the pyramid, the support patches, the correlation, the tokens and the change with the case."""
        tolerance, total = tolerances.intermediate, tolerances.total
        for i, level in enumerate(self.features.maps):
            shape = level.movedim(-1, 2).shape
            assert list(shape) == case["pyramid_shape"][i].tolist(), f"pyramid_shape, level {i}"
            assert_sums(level, case["pyramid_stats"][i], total, f"pyramid_stats, level {i}")
            frame, y, x = case[f"pyramid_index_l{i}"].T
            assert_close(level[0, frame, y, x], case[f"pyramid_value_l{i}"], tolerance, f"pyramid_value_l{i}")
        for i, support in enumerate(self.points.support):
            chosen = support[0, case["support_queries"]][..., case["support_channels"]]
            assert_close(chosen, case[f"support_l{i}"], tolerance, f"support_l{i}")
            assert_sums(support, case["support_stats"][i], total, f"support_stats, level {i}")
        frame, query = case["token_pairs"].T
        for i, (volume, embedding) in enumerate(self.correlation):
            side = case[f"corr_volume_l{i}"].shape[1:]
            pair = volume[0, query[1], frame[1]].reshape(1, *side)
            assert_close(pair, case[f"corr_volume_l{i}"], tolerance, f"corr_volume_l{i}")
            assert_sums(volume, case[f"corr_volume_stats_l{i}"], total, f"corr_volume_stats_l{i}")
            assert_close(embedding[0, query, frame], case[f"corr_emb_l{i}"], tolerance, f"corr_emb_l{i}")
        ((tokens, delta),) = self.update
        assert_close(tokens[0, query, frame], case["tokens_iter0"], tolerance, "tokens_iter0")
        assert_close(delta, case["delta_iter0"], tolerance, "delta_iter0")
