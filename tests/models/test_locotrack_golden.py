"""LocoTrack, base and small, against the reference: keys, runs and what lies inside them, and ways to get it wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden.weights import fill
from golden_cases import FOLDER, Case, assert_close, difference, load, watched
from pointloom.geometry import from_raster, to_raster
from pointloom.models import locotrack
from pointloom.models.base import Estimate, FrameFeatures, PointFeatures
from pointloom.models.locotrack import BASE, SMALL, LocoTrack, LocoTrackConfig, State, resolutions

CASES = (
    "base_square",
    "small_nonsquare",
    "small_default_levels",
    "base_refine_96x128",
    "small_two_levels",
    "base_inference",
    "small_256",
    "base_one_query",
)
CASES_WITH_INTERMEDIATES = ("base_square", "small_nonsquare")
MAPS = ("hires", "lowres", "highest")  # in the order in which tokens have them
MANY = 100


@dataclass(frozen=True)
class Tolerances:
    """The largest difference that rounding explains. Intermediates are stored in single precision."""

    dtype: torch.dtype
    pixels: float
    logit: float
    intermediate: float


DOUBLE = Tolerances(torch.float64, 1e-8, 1e-8, 1e-6)
SINGLE = Tolerances(torch.float32, 5e-4, 5e-4, 5e-4)
PRECISIONS = {"float64": DOUBLE, "float32": SINGLE}


@pytest.mark.parametrize(
    ("config", "name", "parameters"),
    [pytest.param(BASE, "base", 11_519_717, id="base"), pytest.param(SMALL, "small", 8_236_133, id="small")],
)
def test_state_dict_has_the_names_shapes_and_order_of_the_released_checkpoints(
    config: LocoTrackConfig, name: str, parameters: int
) -> None:
    expected = json.loads((FOLDER / "locotrack" / f"state_{name}.json").read_text())
    with torch.device("meta"):
        model = LocoTrack(config)
    assert [[key, list(value.shape), "parameter"] for key, value in model.state_dict().items()] == expected
    assert model.info.parameters == parameters


# ------------------------------------------------------------------------------------------------------ whole runs


def config_of(case: Case) -> LocoTrackConfig:
    given = case.config
    refinements = [given["inference"]["resolution"]] if given["inference"] else given["refinement_resolutions"]
    return replace(
        {"base": BASE, "small": SMALL}[given["model_size"]],
        iterations=given["num_iterations"],
        resolution=tuple(given["initial_resolution"]),
        refinements=None if refinements is None else tuple(map(tuple, refinements)),
    )


def model_of(case: Case, dtype: torch.dtype) -> LocoTrack:
    model = LocoTrack(config_of(case)).to(dtype).eval().requires_grad_(False)
    weights = fill({key: value.shape for key, value in model.state_dict().items()}, case.scale)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    return model


def queries_of(case: Case, dtype: torch.dtype) -> Tensor:
    """(t, y, x) or (t, x, y) in raster coordinates -> (frame, x, y) with whole numbers at pixel centres."""
    given = case.tensor("query_points", dtype)[None]
    order = (case.config["inference"] or {}).get("query_format", "tyx")
    t, x, y = (given[..., order.index(axis)] for axis in "txy")
    return torch.stack([t, from_raster(x), from_raster(y)], dim=-1)


def points_first(values: Tensor) -> Tensor:
    """(1, T, N, ...) -> (N, T, ...)."""
    return values[0].transpose(0, 1)


@dataclass
class Run:
    case: Case
    tolerances: Tolerances
    model: LocoTrack
    features: FrameFeatures
    points: PointFeatures
    estimates: list[Estimate]
    seen: dict[str, list[tuple[Tensor, Tensor]]]  # of modules: first argument and answer of each call


@cache
def run_of(name: str, precision: str) -> Run:
    case, tolerances = load("locotrack", name), PRECISIONS[precision]
    model = model_of(case, tolerances.dtype)
    modules = {"cost": model.cost_conv, "refiner": model.torch_pips_mixer}
    modules |= dict(zip(MAPS, model.cmdtop, strict=True))
    with torch.inference_mode(), ExitStack() as stack:
        seen = {key: stack.enter_context(watched(module, calls=MANY)) for key, module in modules.items()}
        features = model.encode(torch.from_numpy(case["video"])[None])
        points = model.describe(features, queries_of(case, tolerances.dtype))
        estimates = list(model.iterate(features, points))
    return Run(case, tolerances, model, features, points, estimates, seen)


@pytest.fixture(scope="module", params=[(name, p) for name in CASES for p in PRECISIONS], ids="-".join)
def run(request: pytest.FixtureRequest) -> Run:
    return run_of(*request.param)


@pytest.fixture(scope="module", params=[(c, p) for c in CASES_WITH_INTERMEDIATES for p in PRECISIONS], ids="-".join)
def looked_into(request: pytest.FixtureRequest) -> Run:
    return run_of(*request.param)


@pytest.fixture(scope="module", autouse=True)
def runs_are_dropped_at_the_end() -> Iterator[None]:
    yield
    run_of.cache_clear()


def test_the_first_estimate_and_that_after_every_iteration(run: Run) -> None:
    case, t = run.case, run.tolerances
    assert len(run.estimates) == len(case["iter_tracks"])
    # the reference gives them in pixels of the frames that the network was given
    _, height, width, _ = case["video"].shape
    given = case.config["inference"]["resolution"] if case.config["inference"] else (height, width)
    scale = torch.tensor([given[1] / width, given[0] / height], dtype=t.dtype)
    for i, estimate in enumerate(run.estimates):
        xy = points_first(to_raster(estimate.xy) * scale)
        assert_close(xy, case["iter_tracks"][i], t.pixels, f"iter_tracks {i}")
        assert_close(-points_first(estimate.visibility_logit), case["iter_occlusion"][i], t.logit, f"occlusion {i}")
        assert_close(-points_first(estimate.confidence_logit), case["iter_expected_dist"][i], t.logit, f"distance {i}")


def test_tracks_and_what_is_visible(run: Run) -> None:
    last = run.estimates[-1]
    assert_close(points_first(to_raster(last.xy)), run.case["tracks"], run.tolerances.pixels, "tracks")
    visible = last.visibility * last.confidence > 0.5
    assert (points_first(visible).numpy() == ~run.case["occluded"]).all()


def test_resolutions_of_the_levels(run: Run) -> None:
    size = run.case["video"].shape[2], run.case["video"].shape[1]
    if run.case.config["inference"] is None:
        found = resolutions(run.model.config, size)
        assert [list(resolution) for resolution in found] == run.case.config["feature_resolutions"]


def test_maps_and_what_queries_look_like(looked_into: Run) -> None:
    case, tolerance, r = looked_into.case, looked_into.tolerances.intermediate, looked_into.model.config.radius
    sharp, fine, coarse = (m[0, 1] for m in looked_into.features.maps)
    assert_close(coarse, case["feat_lowres_last"], tolerance, "feat_lowres_last")
    assert_close(fine[::2, ::2], case["feat_hires_last"], tolerance, "feat_hires_last")
    assert_close(sharp[::4, ::4], case["feat_highest_last"], tolerance, "feat_highest_last")
    patches = looked_into.points.support[:3]
    for patch, name in zip(patches, ("highest", "hires", "lowres"), strict=True):
        assert_close(patch[0, :, r, r], case[f"query_{name}"], tolerance, f"query_{name}")
    assert_close(patches[1][0, 1].transpose(0, 1), case["support_hires_q1"], tolerance, "support_hires_q1")
    for alone, name in zip(looked_into.points.support[3:], ("hires", "lowres"), strict=True):
        assert_close(alone[0, :, 0, 0], case[f"query_{name}"], tolerance, f"query_{name} of the first estimate")


def test_the_match_of_a_point_with_every_frame(looked_into: Run) -> None:
    case, t = looked_into.case, looked_into.tolerances
    frames = len(looked_into.features)
    ((both, score),) = looked_into.seen["cost"]
    assert_close(both.unflatten(0, (frames, -1))[:, 1], case["cost_in_q1"], t.intermediate, "cost_in_q1")
    assert_close(score.unflatten(0, (frames, -1))[:, 1, 0], case["cost_out_q1"], t.intermediate, "cost_out_q1")
    first = points_first(to_raster(looked_into.estimates[0].xy))
    assert_close(first, case["init_points"], t.pixels, "init_points")


def test_correlations_and_what_the_refiner_sees_and_says(looked_into: Run) -> None:
    case, tolerance, frames = looked_into.case, looked_into.tolerances.intermediate, len(looked_into.features)
    for name in MAPS:
        volume, embedding = (v.unflatten(0, (-1, frames)) for v in looked_into.seen[name][0])
        one = volume[1, 2].transpose(0, 1).transpose(2, 3)
        assert_close(one, case[f"corr4d_{name}_iter0_q1_t2"], tolerance, f"corr4d_{name}_iter0_q1_t2")
        assert_close(embedding[:3], case[f"corr_emb_{name}_iter0"], tolerance, f"corr_emb_{name}_iter0")
    for i in (0, 3):
        tokens, change = looked_into.seen["refiner"][i]
        count = len(case[f"refiner_in_iter{i}"])
        assert_close(tokens[:count], case[f"refiner_in_iter{i}"], tolerance, f"refiner_in_iter{i}")
        assert_close(change[:count], case[f"refiner_out_iter{i}"], tolerance, f"refiner_out_iter{i}")


# ------------------------------------------------------------------------------------------------------ variants

Alter = Callable[[pytest.MonkeyPatch, LocoTrack], None]
"""One place of the model altered, as an implementer might have understood it."""


def excess(
    alter: Alter | None, tolerances: Tolerances, *, name: str = "small_nonsquare", encoder: bool = False
) -> float:
    """How many tolerances two iterations of the altered model lie away from the reference (in float64)."""
    run = run_of(name, "float64")
    case = run.case
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        if alter is not None:
            alter(patch, run.model)
        features = run.model.encode(torch.from_numpy(case["video"])[None]) if encoder else run.features
        points = run.model.describe(features, queries_of(case, torch.float64))
        found = 0.0
        for i, estimate in enumerate(run.model.iterate(features, points, iterations=2)):
            xy, hidden = points_first(to_raster(estimate.xy)), -points_first(estimate.visibility_logit)
            found = max(found, difference(xy, case["iter_tracks"][i]) / tolerances.pixels)
            found = max(found, difference(hidden, case["iter_occlusion"][i]) / tolerances.logit)
    return found


@pytest.mark.parametrize("name", ["small_nonsquare", "base_refine_96x128", "small_two_levels"])
def test_unaltered_the_model_lies_inside_the_strictest_tolerance(name: str) -> None:
    assert excess(None, DOUBLE, name=name, encoder=True) < 1


def value(name: str, altered: Any) -> Alter:
    return lambda patch, model: patch.setattr(locotrack, name, altered)


def function(name: str, change: Callable[..., Any]) -> Alter:
    """A function that is given the original and its arguments in place of a function of the module."""

    def alter(patch: pytest.MonkeyPatch, model: LocoTrack) -> None:
        original = getattr(locotrack, name)
        patch.setattr(locotrack, name, lambda *arguments, **options: change(original, *arguments, **options))

    return alter


def reading(change: Callable[[Tensor, Tensor], list[Tensor]]) -> Alter:
    def alter(patch: pytest.MonkeyPatch, model: LocoTrack) -> None:
        original = locotrack.CorrelationReader.forward
        altered = lambda reader, volume: torch.cat(change(*original(reader, volume).chunk(2, dim=-1)), dim=-1)  # noqa: E731
        patch.setattr(locotrack.CorrelationReader, "forward", altered)

    return alter


def sampled_half_a_cell_off(patch: pytest.MonkeyPatch, model: LocoTrack) -> None:
    for name in ("sample_between_frames", "correlation_volume"):
        arguments_before = 2 if name == "sample_between_frames" else 1
        original = getattr(locotrack, name)

        def altered(*given: Any, original: Any = original, k: int = arguments_before, **options: Any) -> Tensor:
            return original(*given[:k], given[k] + 0.5, *given[k + 1 :], **options)

        patch.setattr(locotrack, name, altered)


def padded_on_both_sides(patch: pytest.MonkeyPatch, model: LocoTrack) -> None:
    original = F.pad
    patch.setattr(F, "pad", lambda x, padding: original(x, (1, 1, 1, 1) if padding == (0, 1, 0, 1) else padding))


def enlarged_with_aligned_corners(patch: pytest.MonkeyPatch, model: LocoTrack) -> None:
    original = F.interpolate
    patch.setattr(F, "interpolate", lambda x, **options: original(x, **(options | {"align_corners": True})))


def not_put_on_the_query(patch: pytest.MonkeyPatch, model: LocoTrack) -> None:
    original = model.first_estimate
    later = torch.tensor([MANY, 0, 0])
    patch.setattr(
        model, "first_estimate", lambda f, points: original(f, replace(points, queries=points.queries + later))
    )


def put_on_the_query_in_every_iteration(patch: pytest.MonkeyPatch, model: LocoTrack) -> None:
    original, begun = model._improved, model.first_estimate

    def altered(features: FrameFeatures, points: PointFeatures, state: State) -> State:
        here = torch.arange(len(features))[:, None] == points.queries[:, None, :, 0].round()
        improved = original(features, points, state)
        return improved._replace(xy=torch.where(here[..., None], begun(features, points).xy, improved.xy))

    patch.setattr(model, "_improved", altered)


def tanh_gelu(patch: pytest.MonkeyPatch, model: LocoTrack) -> None:
    for module in model.modules():
        if isinstance(module, nn.GELU):
            patch.setattr(module, "approximate", "tanh")


def symmetric(original: Callable[[int, int], Tensor], frames: int, heads: int) -> Tensor:
    back, ahead = original(frames, heads).chunk(2)
    return torch.maximum(back, ahead).repeat(2, 1, 1)


def without_enlargement(patch: pytest.MonkeyPatch, model: LocoTrack) -> None:
    patch.setattr(model, "_enlargement", lambda features, state: state.xy.new_ones(2))


NOTICED: dict[str, Alter] = {
    "sampled half a cell off": sampled_half_a_cell_off,
    "zeros beyond the map around the query": function(
        "sample_between_frames", lambda original, m, t, xy, r: original(F.pad(m, (0, 0, 1, 1, 1, 1)), t, xy + 1, r)
    ),
    "the edge repeated around the track": function(
        "correlation_volume", lambda original, *arguments, outside: original(*arguments)
    ),
    "read over the place alone": reading(lambda place, query: [place, place]),
    "read over the query first": reading(lambda place, query: [query, place]),
    "coarse before fine": value("COMPARED_IN_TURN", (2, 1, 0)),
    "usual slopes": value("STEEPNESS", 2.0**8),
    "no bias": function("back_and_ahead", lambda original, *sizes: torch.zeros_like(original(*sizes))),
    "symmetric bias": function("back_and_ahead", symmetric),
    "enlarged with aligned corners": enlarged_with_aligned_corners,
    "temperature 10": value("TEMPERATURE", 10.0),
    "a wider peak": value("PEAK_RADIUS", 6.0),
    "not put on the query": not_put_on_the_query,
    "put on the query in every iteration": put_on_the_query_in_every_iteration,
    "step to the next frame with the other sign": function(
        "to_neighbours", lambda original, xy: original(xy) * torch.tensor([-1, -1, 1, 1])
    ),
    "pi in the embedding of motion": function(
        "fourier_embedding", lambda original, u, k: torch.cat([u, original(torch.pi * u, k)[..., 4:]], dim=-1)
    ),
}


@pytest.mark.parametrize("alter", NOTICED.values(), ids=NOTICED)
def test_altered_the_model_is_noticed_even_in_single_precision(alter: Alter) -> None:
    assert excess(alter, SINGLE) > 1


def test_an_altered_padding_is_noticed_even_in_single_precision() -> None:
    assert excess(padded_on_both_sides, SINGLE, encoder=True) > 1


def test_steps_in_pixels_of_another_resolution_are_noticed_even_in_single_precision() -> None:
    assert excess(without_enlargement, SINGLE, name="base_refine_96x128") > 1


def test_a_rule_of_resizing_put_right_is_noticed_even_in_single_precision() -> None:
    corrected = value("resolutions_used", lambda wanted, video: list(wanted))
    assert excess(corrected, SINGLE, name="small_two_levels", encoder=True) > 1


def test_the_other_gelu_is_noticed_in_double_precision() -> None:
    assert excess(tanh_gelu, DOUBLE) > 10
