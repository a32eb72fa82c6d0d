"""TAPIR's parts by themselves: resolutions, the patch of correlation, how points and frames may be cut into pieces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pointloom.errors import OptionError
from pointloom.models import zoo
from pointloom.models.base import Estimate, Memory
from pointloom.models.catalogue import describe
from pointloom.models.tapir import TAPIR, TINY, Tapir, TapirConfig, patch_correlation, resolutions, soft_peak
from pointloom.models.weight_files import load_model, save_weights, weights_hash
from tapir_cases import SMALL, SMALL_CAUSAL, sampled_correlation, small_tapir

EQUAL_PX = 1e-9  # double precision
MODEL, CAUSAL = small_tapir(), small_tapir(SMALL_CAUSAL)
FRAMES = 7
WIDTH, HEIGHT = 40, 32


@pytest.fixture(scope="module")
def video() -> torch.Tensor:
    return 255 * torch.rand(1, FRAMES, HEIGHT, WIDTH, 3, dtype=torch.float64, generator=torch.manual_seed(0))


@pytest.fixture(scope="module")
def queries() -> torch.Tensor:
    return torch.tensor([[[0, 5, 9], [3, 30.25, 20], [0, 39.5, -0.5], [6, 12, 31]]], dtype=torch.float64)


def assert_same(a: Estimate, b: Estimate, tolerance: float = EQUAL_PX) -> None:
    for name in ("xy", "visibility_logit", "confidence_logit"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=tolerance, rtol=0)


def tracked(model: Tapir, video: torch.Tensor, queries: torch.Tensor, prior: Estimate | None = None) -> Estimate:
    features = model.encode(video)
    return model.refine(features, model.describe(features, queries), prior)


def in_pieces(model: Tapir, video: torch.Tensor, queries: torch.Tensor, lengths: list[int]) -> Estimate:
    """A causal run from nothing remembered, some frames at a time."""
    features = model.encode(video)
    points = model.describe(features, queries)
    parts, memory, start = [], Memory(), 0
    for length in lengths:
        prior = replace(Estimate.at_queries(queries, length), memory=memory)
        parts.append(model.refine(features.between(start, start + length), points, prior))
        assert parts[-1].memory is not None
        memory, start = parts[-1].memory, start + length
    return Estimate.join(parts, axis="frames")


# ---- resolutions


@pytest.mark.parametrize(
    ("first", "video", "expected"),
    [
        # (height, width); the formula worked out by hand, 8 floor(a (b / a)^(i / n) / 8)
        (256, (256, 256), [(256, 256)]),
        (256, (96, 128), [(256, 256)]),
        (256, (480, 854), [(256, 256), (344, 464), (480, 848)]),
        (256, (512, 512), [(256, 256), (512, 512)]),
        (256, (200, 300), [(256, 256), (200, 296)]),
        (256, (720, 1280), [(256, 256), (360, 432), (504, 744), (720, 1280)]),
        (256, (250, 260), [(256, 256), (248, 256)]),
        (64, (96, 144), [(64, 64), (72, 96), (96, 144)]),
        (88, (120, 120), [(88, 88), (112, 112)]),  # 120 is missed by a rounding error
        (64, (2, 128), [(64, 64), (8, 128)]),  # never nothing
    ],
    ids=str,
)
def test_refinements_grow_to_the_resolution_of_the_video(
    first: int, video: tuple[int, int], expected: list[tuple[int, int]]
) -> None:
    config = TapirConfig(resolution=(first, first), refinements=None)
    assert resolutions(config, video[::-1]) == [(first, first), *expected]


def test_a_resolution_after_that_of_the_video_is_not_taken_up() -> None:
    config = TapirConfig(resolution=(64, 64), refinements=((64, 64), (96, 96), (128, 128)))
    assert resolutions(config, (96, 96)) == [(64, 64), (64, 64), (96, 96), (96, 96)]
    assert resolutions(config, (100, 96)) == [(64, 64), (64, 64), (96, 96), (128, 128)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 0}, "0 iterations"),
        ({"refinements": ()}, r"iterations at \(\)"),
        ({"resolution": (250, 256)}, "multiple of 8 .* got 250 x 256"),
        ({"refinements": ((256, 256), (256, 300))}, "got 256 x 300"),
        ({"resolution": (8, 8)}, "at least 16; got 8 x 8"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_computed_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        replace(TAPIR, **changes)


def test_a_map_too_small_to_be_pooled_is_refused() -> None:
    model = small_tapir(replace(SMALL, resolution=(8, 64), refinements=((8, 64),)))
    with pytest.raises(OptionError, match="8 x 1 cells cannot be halved"):
        model.encode(torch.zeros(1, 1, 8, 64, 3))


def test_tiny_has_about_a_million_parameters() -> None:
    with torch.device("meta"):
        assert 0.5e6 < Tapir(TINY).info.parameters < 1.5e6


def test_a_saved_network_is_read_back_with_its_resolutions(tmp_path: Path) -> None:
    model = small_tapir(SMALL_CAUSAL).float()
    save_weights(tmp_path / "mine.safetensors", model, {})
    again = load_model(tmp_path / "mine.safetensors")
    assert again.config == SMALL_CAUSAL
    assert weights_hash(again) == weights_hash(model)


@pytest.mark.parametrize(
    ("name", "file", "modes"),
    [
        ("tapir", "tapir_checkpoint_panning.pt", ("full",)),
        ("bootstapir", "bootstapir_checkpoint_v2.pt", ("full",)),
        ("causal-bootstapir", "causal_bootstapir_checkpoint.pt", ("causal", "full")),
    ],
)
def test_the_released_files_have_names_and_may_be_used_by_a_company(
    name: str, file: str, modes: tuple[str, ...]
) -> None:
    entry = zoo.find_entry(name)
    row = describe(entry)
    assert (entry.file, row.modes, row.licence, row.commercial) == (file, modes, "Apache-2.0", True)


def test_weights_come_from_the_seed_alone() -> None:
    one, same, other = (small_tapir(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    assert not torch.equal(one["resnet_torch.initial_conv.weight"], other["resnet_torch.initial_conv.weight"])


# ---- parts


@pytest.mark.parametrize("size", [(6, 6), (6, 9), (7, 4)], ids=str)
def test_correlation_is_that_of_sampled_patches_with_x_divided_by_the_height(size: tuple[int, int]) -> None:
    random = torch.manual_seed(0)
    h, w = size
    maps, features = (torch.randn(*s, dtype=torch.float64, generator=random) for s in ((2, 3, h, w, 5), (2, 3, 8, 5)))
    cells = 16 * torch.rand(2, 3, 8, 2, dtype=torch.float64, generator=random) - 4  # some of it outside
    cells[0, 0, 0] = 1e6
    found = patch_correlation(maps, cells, features, 2)
    assert found.shape == (2, 3, 8, 25)
    assert found[0, 0, 0].abs().max() == 0
    torch.testing.assert_close(found, sampled_correlation(maps, cells, features, 2, x_over=h), atol=1e-12, rtol=0)


def test_the_peak_is_the_mean_around_the_largest_value() -> None:
    probability = torch.zeros(1, 16, 16, dtype=torch.float64)
    probability[0, 2, 3], probability[0, 2, 5], probability[0, 2, 8] = 0.6, 0.2, 0.2  # the last is 5 cells away
    assert soft_peak(probability, 5.0).tolist() == [[pytest.approx(0.75 * 3.5 + 0.25 * 5.5), pytest.approx(2.5)]]


# ---- runs


def test_points_do_not_look_at_each_other(video: torch.Tensor, queries: torch.Tensor) -> None:
    together = tracked(MODEL, video, queries)
    order = torch.tensor([2, 0, 3, 1])
    assert_same(tracked(MODEL, video, queries[:, order]), together.select(order))
    for k in range(queries.shape[1]):
        assert_same(tracked(MODEL, video, queries[:, k : k + 1]), together.select(slice(k, k + 1)))


def test_without_points_there_is_an_empty_answer(video: torch.Tensor) -> None:
    assert tracked(MODEL, video, torch.zeros(1, 0, 3, dtype=torch.float64)).xy.shape == (1, FRAMES, 0, 2)


def test_videos_of_a_batch_are_tracked_each_by_itself(video: torch.Tensor, queries: torch.Tensor) -> None:
    both = tracked(MODEL, torch.cat([video, video.flip(1)]), queries.expand(2, -1, -1))
    for k, alone in enumerate((video, video.flip(1))):
        estimate = tracked(MODEL, alone, queries)
        torch.testing.assert_close(both.xy[k], estimate.xy[0], atol=EQUAL_PX, rtol=0)


def test_all_parameters_learn(video: torch.Tensor, queries: torch.Tensor) -> None:
    model = small_tapir().train().requires_grad_(True)
    features = model.encode(video)
    estimates = list(model.iterate(features, model.describe(features, queries)))
    sum(e.xy.sum() + e.visibility_logit.sum() + e.confidence_logit.sum() for e in estimates).backward()
    unmoved = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert unmoved <= {"torch_cost_volume_track_mods.hid2.bias"}  # shifts all that one softmax sees: mere rounding


# ---- causal


@pytest.mark.parametrize("lengths", [[FRAMES], [1] * FRAMES, [2, 4, 1]], ids=str)
def test_a_causal_run_may_be_cut_anywhere(video: torch.Tensor, queries: torch.Tensor, lengths: list[int]) -> None:
    """As if nothing but zeros had been before, and without putting points on their queries."""
    whole = in_pieces(CAUSAL, video, queries, [FRAMES])
    assert_same(in_pieces(CAUSAL, video, queries, lengths), whole)


def test_a_causal_model_does_not_see_later_frames(video: torch.Tensor, queries: torch.Tensor) -> None:
    early = queries[:, [0, 2]]
    changed = video.clone()
    changed[:, 4:] = 255 - changed[:, 4:]
    for model, same in ((CAUSAL, True), (MODEL, False)):
        before, after = (tracked(model, v, early).frames(0, 4) for v in (video, changed))
        assert bool((before.xy - after.xy).abs().max() < EQUAL_PX) == same


def test_only_without_a_memory_a_point_is_put_on_its_query_at_first(video: torch.Tensor, queries: torch.Tensor) -> None:
    features = CAUSAL.encode(video)
    points = CAUSAL.describe(features, queries)
    remembering = replace(Estimate.at_queries(queries, FRAMES), memory=Memory())
    for prior, distance in ((None, 0), (remembering, 1)):
        first = next(CAUSAL.iterate(features, points, prior))
        at_query = first.xy[0, queries[0, :, 0].long(), torch.arange(queries.shape[1])]
        assert ((at_query - queries[0, :, 1:]).abs().max() > 1e-9) == distance


def test_a_memory_of_another_number_of_iterations_is_refused(video: torch.Tensor, queries: torch.Tensor) -> None:
    features = CAUSAL.encode(video)
    points = CAUSAL.describe(features, queries)
    beginning = replace(Estimate.at_queries(queries, FRAMES), memory=Memory())
    after = CAUSAL.refine(features, points, beginning, iterations=1)
    with pytest.raises(OptionError, match="comes from 1 iterations, and these are 2"):
        CAUSAL.refine(features, points, after)
