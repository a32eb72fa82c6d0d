"""TAPIR, BootsTAPIR and the causal one against the reference: keys, parts and runs, in double and single precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from golden_cases import FOLDER, Case, assert_close, difference, load
from pointloom.models import tapir
from pointloom.models.base import Estimate, FrameFeatures, Memory, PointFeatures
from pointloom.models.tapir import BOOTSTAPIR, CAUSAL_BOOTSTAPIR, TAPIR, Tapir, TapirConfig, resolutions
from tapir_cases import (
    PRECISIONS,
    SINGLE,
    Inside,
    Tolerances,
    Weights,
    as_released,
    assert_checksum,
    checksum,
    queries_of,
    sampled_correlation,
    watching,
)

CASES = (
    "tapir_square",
    "tapir_default",
    "tapir_odd",
    "bootstapir_batch",
    "bootstapir_multires",
    "bootstapir_explicit",
    "causal_forward",
)
STEM, FINE, COARSE = "resnet_torch.initial_conv", "resnet_torch.block_groups.1", "resnet_torch.block_groups.3"
MATCH, MIXER = "torch_cost_volume_track_mods.hid1", "torch_pips_mixer"


@pytest.fixture(scope="module")
def weights() -> Weights:
    return Weights()


# ------------------------------------------------------------------------------------------------------ state dict


@pytest.mark.parametrize(
    ("config", "name", "parameters"),
    [
        pytest.param(TAPIR, "state_tapir", 31_072_327, id="TAPIR"),
        pytest.param(BOOTSTAPIR, "state_bootstapir", 54_699_335, id="BootsTAPIR"),
        pytest.param(CAUSAL_BOOTSTAPIR, "state_bootstapir", 54_699_335, id="causal BootsTAPIR"),
    ],
)
def test_state_dict_has_the_names_shapes_and_order_of_the_released_checkpoints(
    config: TapirConfig, name: str, parameters: int
) -> None:
    expected = json.loads((FOLDER / "tapir" / f"{name}.json").read_text())
    with torch.device("meta"):
        model = Tapir(config)
    assert [[key, list(value.shape), "parameter"] for key, value in model.state_dict().items()] == expected
    assert list(model.buffers()) == []
    assert model.info.parameters == parameters


# ------------------------------------------------------------------------------------------------------ whole runs


@dataclass
class Run:
    case: Case
    tolerances: Tolerances
    model: Tapir
    features: FrameFeatures
    points: PointFeatures
    estimates: list[Estimate]
    inside: Inside


@pytest.fixture(scope="module", params=[(name, p) for name in CASES for p in PRECISIONS], ids="-".join)
def run(request: pytest.FixtureRequest, weights: Weights) -> Run:
    name, precision = request.param
    case, tolerances = load("tapir", name), PRECISIONS[precision]
    model = weights.model(case, tolerances.dtype)
    names = [STEM, FINE, COARSE, MATCH, MIXER, *(["extra_convs"] if model.config.extra_blocks else [])]
    with torch.inference_mode(), watching(model, *names) as inside:
        features = model.encode(torch.from_numpy(case["video"]))
        points = model.describe(features, queries_of(case, tolerances.dtype))
        estimates = list(model.iterate(features, points))
    return Run(case, tolerances, model, features, points, estimates, inside)


def test_the_answer(run: Run) -> None:
    case, answer = run.case, as_released(run.estimates[-1])
    assert_close(answer["tracks"], case["tracks"], run.tolerances.pixels, "tracks")
    for key in ("occlusion", "expected_dist"):
        assert_close(answer[key], case[key], run.tolerances.logit, key)
    seen = run.estimates[-1].visibility * run.estimates[-1].confidence > 0.5
    assert (seen.transpose(1, 2).numpy() == case["visible"]).all()


def test_the_first_estimate_and_that_after_each_iteration(run: Run) -> None:
    iterations = len(run.case["iter_tracks"]) - 1
    assert len(run.estimates) == iterations + 1
    for i, estimate in enumerate(run.estimates[:iterations]):
        answer = as_released(estimate)
        assert_close(answer["tracks"], run.case["iter_tracks"][i], run.tolerances.pixels, f"iter_tracks {i}")
        for key in ("occlusion", "expected_dist"):
            assert_close(answer[key], run.case[f"iter_{key}"][i], run.tolerances.logit, f"iter_{key} {i}")


def test_the_stages_of_the_encoder(run: Run) -> None:
    case, tolerances, modules = run.case, run.tolerances, run.inside.modules
    frames = case["video"].shape[1]
    stem, fine, coarse = (modules[name][0].unflatten(0, (-1, frames))[0] for name in (STEM, FINE, COARSE))
    stages = [m.movedim(1, -1) for m in (stem, fine, coarse)]  # (T, h, w, C) of the first video
    rows, columns = torch.meshgrid(torch.tensor([1, 10, 19]), torch.tensor([2, 13, 24]), indexing="ij")
    assert_close(stages[0][0][rows, columns], case["initial_conv_probe"], tolerances.mixer, "initial_conv_probe")
    assert_close(stages[1][1, :3, :3], case["unit1_raw_probe"], tolerances.mixer, "unit1_raw_probe")
    assert_close(stages[2][1, -2:, -2:], case["unit3_raw_probe"], tolerances.mixer, "unit3_raw_probe")
    if run.model.config.extra_blocks:
        stages.append(modules["extra_convs"][0].unflatten(0, (-1, frames))[0])
        assert_close(stages[3][1, -2:, -2:], case["extra_convs_probe"], tolerances.mixer, "extra_convs_probe")
    assert len(stages) == len(case["raw_checksums"])
    for stage, expected in zip(stages, case["raw_checksums"], strict=True):
        assert_checksum(stage[:2], expected, tolerances.checksum, "raw_checksums")


def test_the_maps_and_the_features_of_the_queries(run: Run) -> None:
    case, tolerances = run.case, run.tolerances
    sizes = resolutions(run.model.config, run.features.size)
    assert sizes == [tuple(size) for size in case["resolutions"].tolist()]
    for i, level in enumerate(run.model._levels(run.features, run.points)):
        for k, kind in enumerate(("hires", "lowres")):
            maps = level.maps[k]
            assert list(maps.shape) == case[f"{kind}{i}_shape"].tolist()
            chosen = maps[tuple(case[f"{kind}{i}_pos"].T)]
            assert_close(chosen, case[f"{kind}{i}_val"], tolerances.feature, f"{kind}{i}_val")
            sums = case[f"feat{i}_checksums"][1 - k]
            assert_checksum(maps, sums, tolerances.checksum, f"feat{i}_checksums of {kind}")
        fine, coarse = level.query.split([run.model.config.fine, run.model.config.coarse], dim=-1)
        assert_close(fine, case[f"query_hires{i}"], tolerances.feature, f"query_hires{i}")
        assert_close(coarse, case[f"query_lowres{i}"], tolerances.feature, f"query_lowres{i}")


def test_the_match_with_single_frames(run: Run) -> None:
    case, tolerances = run.case, run.tolerances
    B, T, N = run.estimates[0].visibility_logit.shape
    one = int(case["heat_query"])
    for values, key, tolerance in (
        (run.inside.arguments[MATCH], "cost_volume", tolerances.feature),
        (run.inside.arguments["soft_peak"], "heatmap", tolerances.heat),
    ):
        images = torch.cat([v.reshape(-1, *v.shape[-2:]) for v in values]).unflatten(0, (B, T, N))
        assert_close(images[0, :, one], case[key], tolerance, key)
    cells = torch.cat(run.inside.modules["soft_peak"]).unflatten(0, (B, T, N)).transpose(1, 2)
    assert_close(cells, case["soft_argmax_grid"], tolerances.cells, "soft_argmax_grid")


def test_what_goes_into_the_mixer_and_comes_out(run: Run) -> None:
    case, one = run.case, int(run.case["mixer_query"])
    change, _ = run.inside.modules[MIXER][0]
    assert_close(change[one], case["mixer_out_iter0"], run.tolerances.mixer, "mixer_out_iter0")
    for i in (0, 1, 4):
        key = f"mixer_in_iter{i}"
        if key in case:
            assert_close(run.inside.arguments[MIXER][i][one], case[key], run.tolerances.mixer, key)


# ----------------------------------------------------------------------------------------------- frame after frame


@dataclass
class Streamed:
    """A causal run in pieces: the estimates of all frames, after each iteration, and the memory at the end."""

    estimates: list[Estimate]
    memory: Memory


def streamed(
    model: Tapir, features: FrameFeatures, points: PointFeatures, memory: Memory, pieces: list[int]
) -> Streamed:
    parts = []
    start = features.start
    for length in pieces:
        prior = replace(Estimate.at_queries(points.queries, length), memory=memory)
        parts.append(list(model.iterate(features.between(start, start + length), points, prior)))
        memory = parts[-1][-1].memory
        start += length
    return Streamed([Estimate.join(list(part), axis="frames") for part in zip(*parts, strict=True)], memory)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_stream_in_pieces_of_any_length_and_queries_that_are_replaced(weights: Weights, precision: str) -> None:
    case, tolerances = load("tapir", "causal_stream"), PRECISIONS[precision]
    dtype = tolerances.dtype
    model = weights.model(case, dtype)
    update, replaced = case.config["update_frame"], torch.tensor(case.config["update_indices"])
    with torch.inference_mode():
        features = model.encode(torch.from_numpy(case["video"]))
        points = model.describe(features, queries_of(case, dtype))
        begun = streamed(model, features.between(0, update), points, Memory(), [1, update - 1])
        rest = features.between(update, len(features))
        plain = streamed(model, rest, points, begun.memory, [3, len(rest) - 3])
        new = queries_of(case, dtype, "update_query_points") + torch.tensor([update, 0, 0])
        found = model.describe(rest, new)
        support = tuple(s.index_copy(1, replaced, f) for s, f in zip(points.support, found.support, strict=True))
        changed = PointFeatures(points.queries.index_copy(1, replaced, new), support)
        forgotten = Memory(tuple(rows.index_fill(1, replaced, 0) for rows in begun.memory.points))
        updated = streamed(model, rest, changed, forgotten, [1, 1, len(rest) - 2])

    for described, prefix in ((points, ""), (changed, "updated_")):
        for feature, kind in zip(described.support, ("hires1", "lowres1"), strict=True):
            key = f"{prefix}query_{kind}"
            assert_close(feature[:, :, 0, 0], case[key], tolerances.feature, key)
    for later, name in ((plain, "plain"), (updated, "updated")):
        for i, parts in enumerate(zip(begun.estimates, later.estimates, strict=True)):
            answer = as_released(Estimate.join(list(parts), axis="frames"))
            assert_close(answer["tracks"], case[f"{name}_iter_tracks"][i], tolerances.pixels, f"{name} {i}")
            for key in ("occlusion", "expected_dist"):
                assert_close(answer[key], case[f"{name}_iter_{key}"][i], tolerances.logit, f"{name} {i} {key}")

    one, runs = int(case["state_query"]), int(case["state_iters"])
    past = [rows.transpose(-1, -2) for rows in updated.memory.points]  # (B, N, depth, 2, C), two a run
    assert len(past) == 2 * runs
    for k in range(2):
        key = f"causal_{k + 1}"
        first, last = case[f"state_iter0_block_0_{key}"], case[f"state_last_block_11_{key}"]
        assert_close(past[k][0, one, 0], first, tolerances.mixer, f"first {key}")
        assert_close(past[2 * runs - 2 + k][0, one, -1], last, tolerances.mixer, f"last {key}")
    depth = past[0].shape[2]
    sums = np.stack([[checksum(past[2 * i + k][:, :, j]) for j in range(depth) for k in range(2)] for i in range(runs)])
    assert_close(sums, case["state_checksums"], tolerances.checksum, "state_checksums")


# -------------------------------------------------------------------------------------------------- wrong variants
#
# A golden test is worth what it notices. Here one place is altered at a time, as an implementer might have understood
# it, and the answer must lie well outside the tolerance. The first estimate and the first iteration are enough.

Alter = Callable[[pytest.MonkeyPatch, "Beginning"], None]


@dataclass
class Beginning:
    """A golden case with features of the right model, for variants that alter only what comes after."""

    case: Case
    model: Tapir
    features: FrameFeatures
    points: PointFeatures

    def excess(self) -> float:
        """How many single-precision tolerances the first two estimates lie away."""
        first_two = islice(self.model.iterate(self.features, self.points), 2)
        return max(tolerances_away(e, self.case, i) for i, e in enumerate(first_two))


def tolerances_away(estimate: Estimate, case: Case, iteration: int, chosen: Any = ...) -> float:
    answer = as_released(estimate)
    limits = {"tracks": SINGLE.pixels, "occlusion": SINGLE.logit, "expected_dist": SINGLE.logit}
    return max(difference(answer[key], case[f"iter_{key}"][iteration][chosen]) / limit for key, limit in limits.items())


@pytest.fixture(scope="module")
def begin(weights: Weights) -> Callable[[str], Beginning]:
    known: dict[str, Beginning] = {}

    def beginning(name: str) -> Beginning:
        if name not in known:
            case = load("tapir", name)
            model = weights.model(case, torch.float32)
            with torch.inference_mode():
                features = model.encode(torch.from_numpy(case["video"]))
                points = model.describe(features, queries_of(case, torch.float32))
            known[name] = Beginning(case, model, features, points)
        return replace(known[name])

    return beginning


def correlation(before: Callable[..., Any] | None = None, after: Callable[..., Any] | None = None) -> Alter:
    original = tapir.patch_correlation

    def altered(maps: Any, cells: Any, features: Any, radius: int) -> torch.Tensor:
        volume = original(maps, before(cells) if before else cells, features, radius)
        return after(volume) if after else volume

    return lambda patch, _: patch.setattr(tapir, "patch_correlation", altered)


def x_divided_by_the_width(patch: pytest.MonkeyPatch, _: Beginning) -> None:
    patch.setattr(tapir, "patch_correlation", sampled_correlation)


def first_estimate(*, pinned: bool = True, rounding: Callable[..., Any] = torch.round) -> Alter:
    original = Tapir.first_estimate

    def altered(self: Tapir, level: Any, features: Any, points: Any, *, pinned: bool = pinned) -> Any:
        t, xy = points.queries[..., :1], points.queries[..., 1:]
        moved = replace(points, queries=torch.cat([rounding(t), xy], dim=-1))
        return original(self, level, features, moved, pinned=pinned)

    if not pinned:
        return lambda patch, _: patch.setattr(
            Tapir, "first_estimate", lambda *arguments, **_: original(*arguments, pinned=False)
        )
    return lambda patch, _: patch.setattr(Tapir, "first_estimate", altered)


def padding(old: tuple[int, ...], new: tuple[int, ...]) -> Alter:
    original = F.pad

    def altered(x: torch.Tensor, pad: tuple[int, ...], **options: Any) -> torch.Tensor:
        return original(x, new if tuple(pad) == old else pad, **options)

    return lambda patch, _: patch.setattr(F, "pad", altered)


def configured(**changes: Any) -> Alter:
    return lambda patch, begun: patch.setattr(begun.model, "config", replace(begun.model.config, **changes))


def mixing(*, causal: bool) -> Alter:
    def alter(patch: pytest.MonkeyPatch, begun: Beginning) -> None:
        for block in begun.model.torch_pips_mixer.blocks:
            patch.setattr(block, "before", 2 if causal else 1)
            patch.setattr(block, "after", 0 if causal else 1)

    return alter


def pooled_maps_normalised(_: pytest.MonkeyPatch, begun: Beginning) -> None:
    maps = [F.normalize(m, dim=-1) if k % 3 == 2 else m for k, m in enumerate(begun.features.maps)]
    begun.features = replace(begun.features, maps=tuple(maps))


def test_unaltered_the_beginning_lies_inside(begin: Callable[[str], Beginning]) -> None:
    with torch.inference_mode():
        assert begin("tapir_square").excess() < 1


@pytest.mark.parametrize(
    ("name", "alter"),
    [
        pytest.param("tapir_square", configured(peak_radius=4.0), id="soft argmax within 4 cells"),
        pytest.param("tapir_square", configured(peak_radius=6.0), id="soft argmax within 6 cells"),
        pytest.param("tapir_square", configured(peak_radius=3.0), id="soft argmax within 3 cells"),
        pytest.param("tapir_square", configured(peak_radius=5.0001), id="soft argmax within and at 5 cells"),
        pytest.param("tapir_square", configured(peak_radius=1e3), id="soft argmax over the whole map"),
        pytest.param("tapir_square", configured(temperature=10.0), id="temperature 10"),
        pytest.param("tapir_square", correlation(before=lambda c: c + 0.5), id="patches without the half cell"),
        pytest.param(
            "tapir_square",
            correlation(after=lambda v: v.unflatten(-1, (7, 7)).transpose(-1, -2).flatten(-2)),
            id="patches with y fast",
        ),
        pytest.param("tapir_square", first_estimate(pinned=False), id="query frame not pinned"),
        pytest.param(
            "tapir_square", first_estimate(rounding=lambda t: (t + 0.5).floor()), id="query frame rounded half up"
        ),
        pytest.param("tapir_odd", padding((0, 2, 0, 2), (1, 1, 1, 1)), id="match padded on both sides"),
        pytest.param("tapir_odd", x_divided_by_the_width, id="x divided by the width"),
        pytest.param("bootstapir_batch", pooled_maps_normalised, id="pooled maps normalised"),
        pytest.param("bootstapir_batch", mixing(causal=True), id="causal in place of symmetric"),
        pytest.param("causal_forward", mixing(causal=False), id="symmetric in place of causal"),
        pytest.param("causal_forward", first_estimate(pinned=False), id="causal, query frame not pinned"),
    ],
)
def test_a_wrong_refinement_is_noticed(begin: Callable[[str], Beginning], name: str, alter: Alter) -> None:
    begun = begin(name)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        alter(patch, begun)
        assert begun.excess() > 10


def antialiased(patch: pytest.MonkeyPatch, _: Beginning) -> None:
    original = F.interpolate
    patch.setattr(F, "interpolate", lambda x, **options: original(x, **options, antialias=True))


def extra_blocks_from_their_input(patch: pytest.MonkeyPatch, _: Beginning) -> None:
    original = tapir.ExtraBlock.forward
    patch.setattr(tapir.ExtraBlock, "forward", lambda self, x: original(self, x) - self.layer_norm(x) + x)


@pytest.mark.parametrize(
    ("name", "alter"),
    [
        pytest.param("tapir_square", padding((2, 3, 2, 3), (3, 3, 3, 3)), id="stem padded alike on both sides"),
        pytest.param("tapir_square", padding((0, 1, 0, 1), (1, 1, 1, 1)), id="strides padded alike on both sides"),
        pytest.param("tapir_odd", antialiased, id="antialiased resize"),
        pytest.param("bootstapir_batch", configured(extra_blocks=0), id="no extra blocks"),
        pytest.param("bootstapir_batch", extra_blocks_from_their_input, id="extra blocks added to their input"),
    ],
)
def test_a_wrong_encoder_is_noticed(begin: Callable[[str], Beginning], name: str, alter: Alter) -> None:
    """The first estimate in the first two frames, of the points that begin there, needs no other frame."""
    begun, frames = begin(name), 2
    early = begun.points.queries[0, :, 0] < frames - 1
    assert early.any()
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        alter(patch, begun)
        features = begun.model.encode(torch.from_numpy(begun.case["video"][:1, :frames]))
        points = begun.model.describe(features, begun.points.queries[:1, early])
        first = next(begun.model.iterate(features, points))
        wanted = np.ix_([0], early.numpy(), range(frames))
        assert tolerances_away(first, begun.case, 0, wanted) > 10
