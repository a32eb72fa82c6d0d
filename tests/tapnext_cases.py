"""Golden cases of TAPNext: which model belongs to one, how its numbers are counted, and how near an answer must be.

The answers were computed in float64. In float32 limits are five to twenty times what rounding was measured to cost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from golden.weights import fill
from golden_cases import Case
from pointloom.geometry import from_raster, resize_area, to_raster
from pointloom.models import tapnext
from pointloom.models.base import Estimate, FrameFeatures, Memory, PointFeatures
from pointloom.models.tapnext import BINS, Logits, TapNext, TapNextConfig

TABLE = "query_pos_embed"


@dataclass(frozen=True)
class Tolerances:
    """The largest difference that rounding explains, for each kind of number."""

    dtype: torch.dtype
    pixels: float
    logit: float
    state: float  # also of certainty and of everything on the way


DOUBLE = Tolerances(torch.float64, *[1e-8] * 3)
SINGLE = Tolerances(torch.float32, 5e-4, 2e-4, 1e-4)
SINGLE_FULL = Tolerances(torch.float32, 5e-3, 1e-2, 2e-3)
PRECISIONS = {"float64": DOUBLE, "float32": SINGLE}


def config_of(case: Case, **changes: Any) -> TapNextConfig:
    """The configuration of a case; frames are seen in the size of the tables' frame unless `resolution` is changed."""
    given = case.config
    native = tuple(given["image_size"])
    config = TapNextConfig(
        resolution=native,
        native=native,
        width=given["width"],
        recurrent_width=given["lru_width"],
        depth=given["depth"],
        heads=given["num_heads"],
    )
    return replace(config, **changes)


def weights_of(case: Case) -> dict[str, torch.Tensor]:
    """Weights of a case, in float64; the table of queries stays as built."""
    with torch.device("meta"):
        model = TapNext(config_of(case))
    shapes = {name: value.shape for name, value in model.state_dict().items() if name != TABLE}
    return {name: torch.from_numpy(value) for name, value in fill(shapes, case.config["scale"]).items()}


def model_of(
    case: Case, dtype: torch.dtype, *, weights: dict[str, torch.Tensor] | None = None, **changes: Any
) -> TapNext:
    """The model of a case with its weights."""
    model = TapNext(config_of(case, **changes)).eval().requires_grad_(False)
    state = weights_of(case) if weights is None else weights
    state = {name: value.to(dtype) for name, value in state.items()}
    model.load_state_dict(state | {TABLE: model.query_pos_embed.to(dtype)}, assign=True)
    return model


def encoded(model: TapNext, case: Case, key: str = "video") -> FrameFeatures:
    return model.encode(torch.from_numpy(case[key]))


def queries_of(model: TapNext, values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(t, y, x) in raster coordinates of the table's frame -> (frame, x, y) in pixels of the video."""
    t, y, x = values.unbind(-1)
    height, width = model.config.native
    xy = resize_area(from_raster(torch.stack([x, y], dim=-1)), (width, height), size)
    return torch.cat([t[..., None], xy], dim=-1)


def described(model: TapNext, case: Case, features: FrameFeatures, key: str = "query_points") -> PointFeatures:
    queries = queries_of(model, case.tensor(key, model.mask_token.dtype), features.size)
    return model.describe(features, queries)


def as_released(estimate: Estimate, size: tuple[int, int]) -> torch.Tensor:
    """(y, x) in raster coordinates of a frame of 256 x 256."""
    return to_raster(resize_area(estimate.xy, size, (BINS, BINS))).flip(-1)


@dataclass
class Answer:
    """What a model said of one call or of several, in the release's numbers, and its memory at the end."""

    tracks: torch.Tensor
    track_logits: torch.Tensor
    visible_logits: torch.Tensor
    certainty: torch.Tensor
    memory: Memory

    @property
    def recurrent_state(self) -> torch.Tensor:
        """Of all blocks, (depth, B*M, E)."""
        return self._rows(slice(0, 1))[:, :, 0]

    def convolution_state(self, tokens: Any) -> torch.Tensor:
        """Of all blocks and some tokens, (depth, tokens, 3, E)."""
        return self._rows(slice(1, None))[:, tokens]

    def _rows(self, rows: slice) -> torch.Tensor:
        points = self.memory.points[1:]
        blocks = [torch.cat(both, dim=1) for both in zip(self.memory.shared, points, strict=True)]
        return torch.stack([block[:, :, rows].flatten(0, 1) for block in blocks])


def run(
    model: TapNext,
    features: FrameFeatures,
    points: PointFeatures,
    chunks: list[int] | None = None,
    others: dict[int, PointFeatures] | None = None,
) -> Answer:
    """Drive a model through `iterate`, `chunks` frames at a time (None: all at once); some calls see other points."""
    heads: list[Logits] = []
    original = model.logits

    def kept(*arguments: Any, **options: Any) -> tuple[Logits, Memory]:
        answer = original(*arguments, **options)
        heads.append(answer[0])
        return answer

    model.logits = kept  # type: ignore[method-assign]
    estimates = []
    memory: Memory | None = Memory()
    start = 0
    for i, length in enumerate(chunks or [len(features)]):
        here = (others or {}).get(i, points)
        prior = replace(Estimate.at_queries(here.queries, length), memory=memory)
        estimate = model.refine(features.between(start, start + length), here, prior)
        memory = estimate.memory
        estimates.append(estimate)
        start += length
    del model.logits
    assert memory is not None
    whole = Estimate.join(estimates, axis="frames")
    return Answer(
        as_released(whole, features.size),
        torch.cat([h.position for h in heads], dim=1).flatten(-2),
        whole.visibility_logit[..., None],
        whole.confidence[..., None],
        memory,
    )


SMALL = TapNextConfig(resolution=(32, 48), native=(32, 32), width=16, recurrent_width=16, depth=2, heads=2)


def small_tapnext(config: TapNextConfig = SMALL, seed: int = 0) -> TapNext:
    """A very small network in double precision."""
    model = TapNext(config)
    tapnext.initialise(model, seed)
    return model.double().eval().requires_grad_(False)
