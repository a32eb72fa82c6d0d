"""Each way to get TAPNext slightly wrong leaves the golden numbers.

One place of the model is altered at a time, as an implementer might have understood it, and the answer must then lie
outside the tolerance of single precision (of double precision, where rounding in single would hide it), with which it
lies inside unaltered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden_cases import Case, difference, load
from pointloom.models import tapnext
from pointloom.models.tapnext import GatedRecurrence, GroupedLinear, RecurrentBlock, RmsNorm, TapNext
from tapnext_cases import DOUBLE, SINGLE, Tolerances, described, encoded, model_of, run, weights_of

Alter = Callable[[pytest.MonkeyPatch, TapNext], None]


@cache
def case_and_weights(name: str) -> tuple[Case, dict[str, Tensor]]:
    case = load("tapnext", name)
    return case, weights_of(case)


def excess(
    name: str,
    tolerances: Tolerances,
    alter: Alter | None,
    *,
    chunks: list[int] | None = None,
    size: tuple[int, int] | None = None,
) -> float:
    """How many tolerances a run in float64 lies away from a golden case, or from its part for frames of a size."""
    case, weights = case_and_weights(name)
    model = model_of(case, torch.float64, weights=dict(weights), **({} if size is None else {"resolution": size}))
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    prefix = "" if size is None else f"r{size[0]}x{size[1]}_"
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        if alter is not None:
            alter(patch, model)
        features = encoded(model, case, f"{prefix}video")
        answer = run(model, features, described(model, case, features), chunks)
    limits = {
        "tracks": tolerances.pixels,
        "track_logits": tolerances.logit,
        "visible_logits": tolerances.logit,
        "certainty": tolerances.state,
    }
    return max(
        difference(getattr(answer, key), case[prefix + key]) / limit
        for key, limit in limits.items()
        if prefix + key in case
    )


def each(model: nn.Module, kind: type[nn.Module]) -> Iterator[Any]:
    return (module for module in model.modules() if isinstance(module, kind))


# ------------------------------------------------------------------------------------------------------ alterations


def exact_gelu_in_the_recurrent_half(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    original = F.gelu
    patch.setattr(F, "gelu", lambda x, approximate="none": original(x))


def tanh_gelu_in_the_attention_half(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    for module in each(model.blocks, nn.GELU):
        module.approximate = "tanh"


def tanh_gelu_in_the_heads(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    for module in (*each(model.coordinate_head, nn.GELU), *each(model.visible_head, nn.GELU)):
        module.approximate = "tanh"


def norms_without_the_added_one(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    for module in each(model, RmsNorm):
        module.scale -= 1


def gates_transposed(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    for module in each(model, GroupedLinear):
        module.w.copy_(module.w.transpose(1, 2).clone())


def groups_interleaved(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    def altered(layer: GroupedLinear, x: Tensor) -> Tensor:
        grouped = x.unflatten(-1, layer.b.shape[::-1]).transpose(-1, -2)
        mapped = torch.einsum("...gi,gij->...gj", grouped, layer.w) + layer.b
        return mapped.transpose(-1, -2).flatten(-2)

    patch.setattr(GroupedLinear, "forward", altered)


def taps_reversed(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    for block in model.blocks:
        conv = block.ssm_block.recurrent_block.conv_1d
        conv.w.copy_(conv.w.flip(0))


def past_filled_with_the_bias(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    original = RecurrentBlock.forward

    def altered(block: RecurrentBlock, x: Tensor, past: Tensor, begun: Tensor) -> Any:
        filled = past.clone()
        filled[:, :, 1:] += block.linear_x.bias * ~begun[:, :, None, None]
        return original(block, x, filled, begun)

    patch.setattr(RecurrentBlock, "forward", altered)


def decay_of_the_logistic_function(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    original = F.softplus
    patch.setattr(F, "softplus", lambda x: original(-x))


def begun_taken_as(value: bool) -> Alter:
    def alter(patch: pytest.MonkeyPatch, model: TapNext) -> None:
        original = GatedRecurrence.forward
        patch.setattr(
            GatedRecurrence,
            "forward",
            lambda unit, x, state, begun: original(unit, x, state, torch.full_like(begun, value)),
        )

    return alter


def halves_of_the_gated_mlp_swapped(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    for block in model.blocks:
        up = block.ssm_block.mlp_block.ffw_up
        up.w.copy_(up.w.flip(0))
        up.b.copy_(up.b.flip(0))


def attention_before_the_recurrence(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    def altered(block: tapnext.Block, x: Tensor, past: Tensor, begun: Tensor, seen: Tensor | None) -> Any:
        x = block.vit_block(x.flatten(0, 1), None).unflatten(0, x.shape[:2])
        return block.ssm_block(x, past, begun)

    patch.setattr(tapnext.Block, "forward", altered)


def value_before_key(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    C = model.config.width
    order = torch.cat([torch.arange(C), torch.arange(2 * C, 3 * C), torch.arange(C, 2 * C)])
    for block in model.blocks:
        attention = block.vit_block.self_attention
        attention.in_proj_weight.copy_(attention.in_proj_weight[order])
        attention.in_proj_bias.copy_(attention.in_proj_bias[order])


def table_with_y_first(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    model.query_pos_embed = model.query_pos_embed.roll(model.config.width // 2, -1)


def table_read_at(change: Callable[[Tensor, tuple[int, int]], Tensor]) -> Alter:
    def alter(patch: pytest.MonkeyPatch, model: TapNext) -> None:
        original = tapnext.read_table
        patch.setattr(tapnext, "read_table", lambda table, size, xy: original(table, size, change(xy, size)))

    return alter


def into_the_frame(xy: Tensor, size: tuple[int, int]) -> Tensor:
    return xy.clamp(torch.zeros(2, dtype=xy.dtype), xy.new_tensor([size[1] - 1, size[0] - 1]))


def masks_before_the_query(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    model.unknown_token.copy_(model.mask_token[0])


def queries_shown_for_two_frames(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    original = torch.eq
    patch.setattr(torch, "eq", lambda frame, query: original(frame, query) | original(frame, query + 1))


def constant(name: str, value: float) -> Alter:
    return lambda patch, model: patch.setattr(tapnext, name, value)


def disc_not_transposed(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    patch.setattr(tapnext, "certainty", probability_of_the_disc)


def probability_of_the_disc(logits: Tensor, yx: Tensor) -> Tensor:
    bins = torch.arange(logits.shape[-1])
    begin = (yx - 8).floor().clamp(0, len(bins) - 17)[..., None]
    inside = (bins >= begin) & (bins < begin + 17)
    y, x = (logits.softmax(-1) * inside).unbind(-2)
    above, left = (bins - yx[..., None]).square().unbind(-2)
    near = above[..., :, None] + left[..., None, :] <= 64 + 1e-8
    return (y[..., :, None] * x[..., None, :] * near).sum((-2, -1))


def x_read_before_y(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    original = tapnext.peak
    patch.setattr(tapnext, "peak", lambda logits: original(logits).flip(-1))


CLIP: dict[str, Alter] = {
    "exact GELU in the recurrent half": exact_gelu_in_the_recurrent_half,
    "tanh GELU in the attention half": tanh_gelu_in_the_attention_half,
    "tanh GELU in the heads": tanh_gelu_in_the_heads,
    "norms without the added one": norms_without_the_added_one,
    "gates transposed": gates_transposed,
    "groups of gates interleaved": groups_interleaved,
    "taps reversed": taps_reversed,
    "past filled with the bias": past_filled_with_the_bias,
    "decay of the logistic function": decay_of_the_logistic_function,
    "square root in the first frame too": begun_taken_as(True),
    "halves of the gated MLP swapped": halves_of_the_gated_mlp_swapped,
    "attention before the recurrence": attention_before_the_recurrence,
    "value before key": value_before_key,
    "table with y first": table_with_y_first,
    "table read half a pixel away": table_read_at(lambda xy, size: xy + 0.5),
    "masks before the query": masks_before_the_query,
    "queries shown for two frames": queries_shown_for_two_frames,
    "temperature of one": constant("TEMPERATURE", 1.0),
    "five bins near the best": constant("NEAR_BINS", 5),
    "nineteen bins near the best": constant("NEAR_BINS", 19),
    "disc not transposed": disc_not_transposed,
    "x read before y": x_read_before_y,
}


def test_unaltered_the_model_lies_inside_the_strictest_tolerance() -> None:
    assert excess("small_clip", DOUBLE, None) < 1
    assert excess("small_stream", DOUBLE, None, chunks=[1] * 8) < 1
    assert excess("small_odd_queries", DOUBLE, None) < 1


@pytest.mark.parametrize("alter", CLIP.values(), ids=CLIP)
def test_altered_the_model_is_noticed_even_in_single_precision(alter: Alter) -> None:
    assert excess("small_clip", SINGLE, alter) > 1


def test_a_first_frame_in_every_call_is_noticed() -> None:
    assert excess("small_stream", SINGLE, begun_taken_as(False), chunks=[1] * 8) > 1


def test_a_table_whose_border_is_repeated_is_noticed() -> None:
    assert excess("small_odd_queries", SINGLE, table_read_at(into_the_frame)) > 1


# ---------------------------------------------------------------------------------------------------------- epsilons


def epsilon(value: float, of: Callable[[TapNext], nn.Module]) -> Alter:
    def alter(patch: pytest.MonkeyPatch, model: TapNext) -> None:
        for module in each(of(model), nn.LayerNorm):
            module.eps = value

    return alter


def larger_epsilon_in_root_mean_squares(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    def altered(norm: RmsNorm, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * (1 + norm.scale)

    patch.setattr(RmsNorm, "forward", altered)


EPSILONS: dict[str, Alter] = {
    "of the last norm": epsilon(1e-6, lambda model: model.encoder_norm),
    "of the head of positions": epsilon(1e-6, lambda model: model.coordinate_head),
    "of the head of visibility": epsilon(1e-6, lambda model: model.visible_head),
    "of the norms in blocks": epsilon(1e-5, lambda model: model.blocks),
    "of the root mean squares": larger_epsilon_in_root_mean_squares,
}


@pytest.mark.parametrize("alter", EPSILONS.values(), ids=EPSILONS)
def test_a_wrong_epsilon_is_noticed_in_double_precision(alter: Alter) -> None:
    assert excess("small_clip", DOUBLE, alter) > 10


# ------------------------------------------------------------------------------------------- positions of patches


def interpolation_altered(**options: Any) -> Alter:
    def alter(patch: pytest.MonkeyPatch, model: TapNext) -> None:
        original = F.interpolate
        patch.setattr(F, "interpolate", lambda x, **given: original(x, **(given | options)))

    return alter


def stretched_although_the_number_fits(patch: pytest.MonkeyPatch, model: TapNext) -> None:
    def altered(table: Tensor, size: tuple[int, int]) -> Tensor:
        square = table.unflatten(1, (8, 8)).movedim(-1, 1)
        return F.interpolate(square, size=size, mode="bicubic", align_corners=False).flatten(2).movedim(1, -1)

    patch.setattr(tapnext, "stretched_positions", altered)


@pytest.mark.parametrize("size", [(128, 128), (48, 48)], ids=str)
@pytest.mark.parametrize(
    "alter",
    [
        pytest.param(interpolation_altered(mode="bilinear"), id="bilinear"),
        pytest.param(interpolation_altered(align_corners=True), id="corners aligned"),
        pytest.param(interpolation_altered(antialias=True), id="antialiased"),
    ],
)
def test_positions_stretched_otherwise_are_noticed(alter: Alter, size: tuple[int, int]) -> None:
    assert excess("small_resolutions", SINGLE, alter, size=size) > 1


def test_positions_stretched_although_their_number_fits_are_noticed() -> None:
    assert excess("small_resolutions", DOUBLE, None, size=(32, 128)) < 1
    assert excess("small_resolutions", SINGLE, stretched_although_the_number_fits, size=(32, 128)) > 1
