"""Golden cases of TAPIR: which model belongs to one, what it computes on the way, and how near an answer must be.

The answers were computed in float64. In float32 limits are five to fifty times what rounding was measured to cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from golden.weights import fill
from golden_cases import Case, assert_close
from pointloom.geometry import from_raster, to_raster
from pointloom.models import tapir
from pointloom.models.base import Estimate
from pointloom.models.tapir import Tapir, TapirConfig


@dataclass(frozen=True)
class Tolerances:
    """The largest difference that rounding explains, for each kind of number."""

    dtype: torch.dtype
    pixels: float
    logit: float
    feature: float
    heat: float
    cells: float
    mixer: float
    checksum: float


DOUBLE = Tolerances(torch.float64, *[1e-8] * 7)
SINGLE = Tolerances(torch.float32, 2e-3, 2e-4, 1e-5, 1e-4, 5e-4, 5e-4, 2e-2)
PRECISIONS = {"float64": DOUBLE, "float32": SINGLE}


def config_of(case: Case) -> TapirConfig:
    given = case.config
    refinements = given["refinement_resolutions"]
    return TapirConfig(
        causal=given["use_causal_conv"],
        iterations=given["num_pips_iter"],
        resolution=tuple(given["initial_resolution"]),
        refinements=None if refinements is None else tuple(map(tuple, refinements)),
        extra_blocks=5 * given["extra_convs"],
        pooled_maps=given["pyramid_level"],
        temperature=given["softmax_temperature"],
    )


class Weights:
    """Weights of golden models, made once each: 0.7 GB altogether."""

    def __init__(self) -> None:
        self._known: dict[int, dict[str, torch.Tensor]] = {}

    def model(self, case: Case, dtype: torch.dtype, config: TapirConfig | None = None) -> Tapir:
        """The model of a case, or one of another configuration with the weights of the case."""
        with torch.device("meta"):
            model = Tapir(config or config_of(case)).eval().requires_grad_(False)
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        if len(shapes) not in self._known:  # all cases have the same scales
            filled = fill(shapes, case.config["scale"])
            self._known[len(shapes)] = {name: torch.from_numpy(value) for name, value in filled.items()}
        state = self._known[len(shapes)]
        model.load_state_dict({name: value.to(dtype) for name, value in state.items()}, assign=True)
        return model


def queries_of(case: Case, dtype: torch.dtype, key: str = "query_points") -> torch.Tensor:
    """(t, y, x) in raster coordinates -> (frame, x, y) with whole numbers at pixel centres."""
    t, y, x = case.tensor(key, dtype).unbind(-1)
    return torch.stack([t, from_raster(x), from_raster(y)], dim=-1)


def as_released(estimate: Estimate) -> dict[str, torch.Tensor]:
    """Points before time, raster coordinates, and logits of the opposite sign."""
    return {
        "tracks": to_raster(estimate.xy).transpose(1, 2),
        "occlusion": -estimate.visibility_logit.transpose(1, 2),
        "expected_dist": -estimate.confidence_logit.transpose(1, 2),
    }


def checksum(values: torch.Tensor) -> np.ndarray:
    f = values.detach().double().flatten()
    weight = (torch.arange(len(f)) % 97 + 1).double() / 97
    return torch.stack([f.sum(), f.abs().sum(), (f * weight).sum()]).numpy()


def assert_checksum(actual: torch.Tensor, expected: np.ndarray, tolerance: float, what: str) -> None:
    """Sum, sum of absolute values and weighted sum. Rounding grows with what is summed up: 1e5 in small cases."""
    assert_close(checksum(actual), expected, tolerance * max(1.0, expected[1] / 1e5), what)


@dataclass
class Inside:
    """What a model computed on its way: outputs of modules, arguments and answers of functions, in order of calls."""

    modules: dict[str, list[Any]] = field(default_factory=dict)
    arguments: dict[str, list[Any]] = field(default_factory=dict)


@contextmanager
def watching(model: Tapir, *names: str) -> Iterator[Inside]:
    """Collect first arguments and answers of modules of a model, and of `soft_peak`."""
    inside = Inside()

    def note(name: str, argument: Any, answer: Any) -> None:
        inside.arguments.setdefault(name, []).append(argument)
        inside.modules.setdefault(name, []).append(answer)

    def hook(name: str) -> Any:
        return lambda _module, arguments, answer: note(name, arguments[0], answer)

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    original = tapir.soft_peak

    def noted_peak(probability: torch.Tensor, radius: float) -> torch.Tensor:
        answer = original(probability, radius)
        note("soft_peak", probability, answer)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tapir, "soft_peak", noted_peak)
        yield inside
    for handle in handles:
        handle.remove()


def sampled_correlation(maps: Any, cells: Any, features: Any, radius: int, x_over: int | None = None) -> torch.Tensor:
    """Patches by torch's own sampling; x divided by the width of the map, or by another number."""
    B, T, h, w, _ = maps.shape
    offset = torch.arange(-radius, radius + 1, dtype=cells.dtype)
    dy, dx = torch.meshgrid(offset, offset, indexing="ij")
    places = cells[..., None, :] + torch.stack([dx, dy], dim=-1).flatten(0, 1)  # (B, T, N, P*P, 2)
    grid = places / torch.tensor([x_over or w, h]) * 2 - 1
    patches = F.grid_sample(maps.flatten(0, 1).movedim(-1, 1), grid.flatten(0, 1), align_corners=False)
    return torch.einsum("acnp,anc->anp", patches, features.flatten(0, 1)).unflatten(0, (B, T))


SMALL = TapirConfig(
    iterations=2,
    resolution=(32, 48),
    refinements=((32, 48),),
    widths=(8, 8, 16, 16),
    expansion=2,
    pooled_maps=1,
    radius=1,
    mixer_width=16,
    mixer_depth=2,
)
SMALL_CAUSAL = replace(SMALL, causal=True)


def small_tapir(config: TapirConfig = SMALL, seed: int = 0) -> Tapir:
    """A very small network in double precision, whose tracks move."""
    model = Tapir(config)
    tapir.initialise(model, seed)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        nn.init.normal_(model.torch_pips_mixer.linear_1.weight, std=0.2)
    return model.double().eval().requires_grad_(False)
