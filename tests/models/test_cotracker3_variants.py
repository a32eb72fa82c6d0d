"""Each way to get CoTracker3 slightly wrong leaves the golden numbers.

A golden test is worth what it notices. Here one place of the model is altered at a time, as an implementer might have
understood it, and the answer must then lie outside the tolerance with which it lies inside unaltered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden_cases import DOUBLE, SINGLE, RecordingModel, Tolerances, difference, load, model_of
from pointloom.models import cotracker3, layers
from pointloom.models.base import Estimate
from pointloom.tracking import windows
from pointloom.tracking.official import encoded, track_offline, whole_video

Alter = Callable[[pytest.MonkeyPatch, RecordingModel], None]


def excess(name: str, tolerances: Tolerances, alter: Alter | None, **changes: Any) -> float:
    """How many tolerances a run in float64 lies away from the golden case."""
    case = load("cotracker3", name)
    model = model_of(case, torch.float64, **changes)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        if alter is not None:
            alter(patch, model)
        features = encoded(model, torch.from_numpy(case["video"]))
        points = model.describe(features, case.tensor("queries", torch.float64))
        result = whole_video(model, features, points, iterations=model.config.iterations)
    return max(
        difference(result.xy, case["tracks"]) / tolerances.pixels,
        difference(result.visibility, case["visibility"]) / tolerances.probability,
        difference(result.confidence, case["confidence"]) / tolerances.probability,
    )


@pytest.mark.parametrize("name", ["small_offline", "small_online_windowed"])
def test_unaltered_the_model_lies_inside_the_strictest_tolerance(name: str) -> None:
    assert excess(name, DOUBLE, None) < 1


# ---------------------------------------------------------------------------------------------------- alterations


def resize_in_encoder_without_aligned_corners(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    original = F.interpolate

    def altered(x: Tensor, **options: Any) -> Tensor:
        return original(x, **(options | {"align_corners": False}))

    patch.setattr(F, "interpolate", altered)


def no_relu_before_the_sum(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    def altered(block: cotracker3.ResidualBlock, x: Tensor) -> Tensor:
        y = F.relu(cotracker3.instance_norm(block.conv1(x)))
        y = cotracker3.instance_norm(block.conv2(y))
        shortcut = cotracker3.instance_norm(block.downsample(x)) if hasattr(block, "downsample") else x
        return F.relu(shortcut + y)

    patch.setattr(cotracker3.ResidualBlock, "forward", altered)


def pooled_levels_normalised_again(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    original = F.avg_pool2d
    patch.setattr(F, "avg_pool2d", lambda x, size: F.normalize(original(x, size), dim=1))


def volume_altered(change: Callable[[Tensor], Tensor]) -> Alter:
    def alter(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
        original = cotracker3.correlation_volume
        patch.setattr(cotracker3, "correlation_volume", lambda *arguments: change(original(*arguments)))

    return alter


def patches_with_the_y_offset_first(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    sample = cotracker3.sample_patches
    patch.setattr(cotracker3, "sample_patches", lambda *arguments: sample(*arguments).transpose(2, 3))
    volume_altered(lambda volume: volume.transpose(3, 4))(patch, model)


def zeros_outside_the_map(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    original = layers.neighbourhood

    def altered(maps: Tensor, frame: Tensor, xy: Tensor, radius: int) -> tuple[Tensor, Tensor]:
        pixels, fraction = original(maps, frame, xy, radius)
        h, w = maps.shape[2:4]
        offsets = torch.arange(-radius, radius + 2)
        x, y = (xy.floor()[..., None] + offsets).unbind(-2)
        inside = ((x >= 0) & (x < w))[..., :, None] & ((y >= 0) & (y < h))[..., None, :]
        return pixels * inside[..., None], fraction

    patch.setattr(layers, "neighbourhood", altered)


def half_a_pixel_between_levels(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    def shifted(original: Callable[..., Tensor], position: int) -> Callable[..., Tensor]:
        def altered(maps: Tensor, *arguments: Any) -> Tensor:
            scale = maps.shape[3] / 24  # cells of this level in one of level 0
            moved = list(arguments)
            moved[position] = moved[position] + (scale - 1) / 2
            return original(maps, *moved)

        return altered

    patch.setattr(cotracker3, "sample_patches", shifted(cotracker3.sample_patches, 1))
    patch.setattr(cotracker3, "correlation_volume", shifted(cotracker3.correlation_volume, 0))


def tanh_gelu_in_the_correlation_mlp(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    model.corr_mlp.approximate = "tanh"


def exact_gelu_in_the_transformer(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    for module in model.updateformer.modules():
        if isinstance(module, layers.Mlp):
            module.approximate = "none"


def displacements_embedded_as(change: Callable[[Tensor], Tensor]) -> Alter:
    def alter(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
        original = cotracker3.fourier_embedding
        patch.setattr(cotracker3, "fourier_embedding", lambda u, frequencies: original(change(u), frequencies))

    return alter


def frequencies_fast_and_components_slow(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    def altered(u: Tensor, frequencies: int) -> Tensor:
        scale = 2.0 ** torch.arange(frequencies, dtype=u.dtype)
        v = (u[..., :, None] * scale).flatten(-2)
        return torch.cat([u, v.sin(), (v + torch.pi / 2).sin()], dim=-1)

    patch.setattr(cotracker3, "fourier_embedding", altered)


def time_table_cut(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    patch.setattr(cotracker3, "resampled_time", lambda table, frames: table[:, :frames])


def time_table_stretched_corner_to_corner(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    def altered(table: Tensor, frames: int) -> Tensor:
        return F.interpolate(table.transpose(1, 2), size=frames, mode="linear", align_corners=True).transpose(1, 2)

    patch.setattr(cotracker3, "resampled_time", altered)


def logits_fed_after_the_logistic_function(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    original = model.tokens

    def altered(maps: Any, support: Any, cells: Tensor, visibility: Tensor, confidence: Tensor) -> Tensor:
        return original(maps, support, cells, visibility.sigmoid(), confidence.sigmoid())

    patch.setattr(model, "tokens", altered)


def virtual_tracks_zero(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    model.updateformer.virual_tracks.data.zero_()


def no_attention_across_tracks(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    model.updateformer.space_every = 0


def virtual_tracks_not_attending_to_each_other(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    blocks = model.updateformer.space_virtual_blocks
    model.updateformer.space_virtual_blocks = nn.ModuleList(nn.Identity() for _ in blocks)


def context_norm_without_parameters(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    for name, parameter in model.updateformer.named_parameters():
        if "norm_context" in name:
            parameter.data.fill_(1.0 if name.endswith("weight") else 0.0)


def larger_epsilon_in_layer_norms(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    patch.setattr(layers, "plain_norm", lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-5))


def smaller_epsilon_in_context_norms(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    for module in model.updateformer.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6


OFFLINE: dict[str, Alter] = {
    "resize in the encoder without aligned corners": resize_in_encoder_without_aligned_corners,
    "no ReLU on the branch before the sum": no_relu_before_the_sum,
    "pooled levels normalised again": pooled_levels_normalised_again,
    "volume flattened with the support patch first": volume_altered(lambda v: v.permute(0, 1, 2, 5, 6, 3, 4)),
    "correlation divided by sqrt(C)": volume_altered(lambda v: v / 32**0.5),
    "patches with the y offset first": patches_with_the_y_offset_first,
    "zeros outside the map": zeros_outside_the_map,
    "half a pixel between levels": half_a_pixel_between_levels,
    "tanh GELU in the correlation MLP": tanh_gelu_in_the_correlation_mlp,
    "exact GELU in the transformer": exact_gelu_in_the_transformer,
    "displacements from the last and to the next frame swapped": displacements_embedded_as(lambda u: u.roll(2, -1)),
    "displacements of the other sign": displacements_embedded_as(lambda u: -u),
    "frequencies fast and components slow": frequencies_fast_and_components_slow,
    "time table cut": time_table_cut,
    "time table stretched corner to corner": time_table_stretched_corner_to_corner,
    "logits fed after the logistic function": logits_fed_after_the_logistic_function,
    "virtual tracks zero": virtual_tracks_zero,
    "no attention across tracks": no_attention_across_tracks,
    "virtual tracks not attending to each other": virtual_tracks_not_attending_to_each_other,
    "context norm without parameters": context_norm_without_parameters,
}


@pytest.mark.parametrize("alter", OFFLINE.values(), ids=OFFLINE)
def test_altered_the_model_is_noticed_even_in_single_precision(alter: Alter) -> None:
    assert excess("small_offline", SINGLE, alter) > 1


@pytest.mark.parametrize("alter", [larger_epsilon_in_layer_norms, smaller_epsilon_in_context_norms])
def test_a_wrong_epsilon_is_noticed_in_double_precision(alter: Alter) -> None:
    assert excess("small_offline", DOUBLE, alter) > 10


@pytest.mark.parametrize(
    "changes",
    [{"iterations": 3}, {"resolution": (63, 95)}],
    ids=["one iteration fewer", "displacements in units of the resolution less one"],
)
def test_a_wrong_configuration_is_noticed_even_in_single_precision(changes: dict[str, Any]) -> None:
    assert excess("small_offline", SINGLE, None, **changes) > 1


# -------------------------------------------------------------------------------------------------------- windows


def carried_altered(change: Callable[[Estimate, Estimate], Estimate]) -> Alter:
    """Change what a window starts from, given that and the state that knows nothing."""

    def alter(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
        original = windows.carried

        def altered(previous: Any, points: Any, start: int, window: int, step: int) -> Estimate:
            fresh = Estimate.at_queries(points.queries, window)
            return change(original(previous, points, start, window, step), fresh)

        patch.setattr(windows, "carried", altered)

    return alter


def a_query_on_the_limit_carried(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    original = windows.carried
    patch.setattr(
        windows, "carried", lambda previous, points, start, *plan: original(previous, points, start + 1, *plan)
    )


def reached_altered(change: Callable[[Tensor, int, int], Tensor | None]) -> Alter:
    """Change which points a window knows the support of, given query frames, first frame and length."""

    def alter(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
        original = model.iterate

        def altered(features: Any, points: Any, prior: Any, **options: Any) -> Any:
            reached = change(points.frame, features.start, len(features))
            return original(features, replace(points, reached=reached), prior, **options)

        patch.setattr(model, "iterate", altered)

    return alter


def later_queries_not_attended_to(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    original = windows.run_window
    patch.setattr(
        windows, "run_window", lambda *arguments, **options: original(*arguments, **options | {"masked": True})
    )


def padding_with_the_first_frame(patch: pytest.MonkeyPatch, model: RecordingModel) -> None:
    original = cotracker3.FrameFeatures.padded

    def altered(features: Any, length: int) -> Any:
        padded = original(features, length)
        maps = tuple(torch.cat([m[:, : len(features)], m[:, :1].expand_as(m)], 1)[:, :length] for m in padded.maps)
        return replace(padded, maps=maps)

    patch.setattr(cotracker3.FrameFeatures, "padded", altered)


WINDOWED: dict[str, Alter] = {
    "positions not carried": carried_altered(
        lambda begun, fresh: Estimate(fresh.xy, begun.visibility_logit, begun.confidence_logit)
    ),
    "logits not carried": carried_altered(
        lambda begun, fresh: Estimate(begun.xy, fresh.visibility_logit, fresh.confidence_logit)
    ),
    "a query on the limit carried": a_query_on_the_limit_carried,
    "support of later queries kept": reached_altered(lambda frame, start, length: None),
    "support taken up one frame early": reached_altered(lambda frame, start, length: frame <= start + length),
    "later queries not attended to": later_queries_not_attended_to,
    "padding with the first frame": padding_with_the_first_frame,
}


@pytest.mark.parametrize("alter", WINDOWED.values(), ids=WINDOWED)
def test_an_altered_walk_is_noticed_even_in_single_precision(alter: Alter) -> None:
    assert excess("small_online_windowed", SINGLE, alter) > 1


@pytest.mark.parametrize("late", [0, 1])
def test_support_taken_up_one_frame_late_is_noticed(late: int) -> None:
    case = load("cotracker3", "small_predictor_windowed_backward")
    model = model_of(case, torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        reached_altered(lambda frame, start, length: frame < start + length - late)(patch, model)
        answer = track_offline(
            model, torch.from_numpy(case["video"]), case.tensor("queries", torch.float64), backward=True
        )
    assert (difference(answer.xy, case["tracks"]) > SINGLE.pixels) == bool(late)
