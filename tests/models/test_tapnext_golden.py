"""TAPNext against the reference: keys, parts, and runs in one piece and frame by frame, in double and in single."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from golden_cases import FOLDER, Case, assert_close, load
from pointloom.errors import OptionError
from pointloom.geometry import from_raster, to_raster
from pointloom.models.base import Estimate, FrameFeatures, PointFeatures
from pointloom.models.tapnext import (
    TAPNEXT,
    TAPNEXT_512,
    GatedRecurrence,
    TapNext,
    TapNextConfig,
    TemporalConv,
    certainty,
    peak,
    stretched_positions,
)
from tapnext_cases import (
    DOUBLE,
    PRECISIONS,
    SINGLE_FULL,
    Answer,
    Tolerances,
    config_of,
    described,
    encoded,
    model_of,
    run,
    weights_of,
)


@pytest.fixture(scope="module", params=PRECISIONS)
def tolerances(request: pytest.FixtureRequest) -> Tolerances:
    return PRECISIONS[request.param]


def assert_answer(answer: Answer, case: Case, tolerances: Tolerances, prefix: str = "") -> None:
    """Compare whatever the case has."""
    limits = {
        "tracks": tolerances.pixels,
        "track_logits": tolerances.logit,
        "visible_logits": tolerances.logit,
        "certainty": tolerances.state,
    }
    compared = [key for key in limits if prefix + key in case]
    assert "tracks" in compared
    assert "visible_logits" in compared
    for key in compared:
        assert_close(getattr(answer, key), case[prefix + key], limits[key], prefix + key)
    if f"{prefix}visible_certain" in case:
        seen = answer.visible_logits[..., 0] > 0
        certain = (answer.visible_logits.sigmoid() * answer.certainty)[..., 0] > 0.5
        assert (seen.numpy() == case[f"{prefix}visible"]).all()
        assert (certain.numpy() == case[f"{prefix}visible_certain"]).all()


def assert_states(answer: Answer, case: Case, tolerances: Tolerances, prefix: str) -> None:
    assert_close(answer.recurrent_state, case[f"{prefix}_rg_lru"], tolerances.state, f"{prefix}_rg_lru")
    tokens = case[f"{prefix}_conv1d_tokens"]
    found = answer.convolution_state(tokens)
    assert_close(found, case[f"{prefix}_conv1d"], tolerances.state, f"{prefix}_conv1d")


# ------------------------------------------------------------------------------------------------------ state dict


@pytest.mark.parametrize("config", [TAPNEXT, TAPNEXT_512], ids=["256", "512"])
def test_state_dict_has_the_names_shapes_and_order_of_the_released_checkpoints(config: TapNextConfig) -> None:
    with torch.device("meta"):
        model = TapNext(config)
    buffers = {key for key, _ in model.named_buffers()}
    found = [[k, list(v.shape), "buffer" if k in buffers else "parameter"] for k, v in model.state_dict().items()]
    assert found == json.loads((FOLDER / "tapnext" / "state_tapnext.json").read_text())
    assert model.info.parameters == 194_202_881


def test_the_reduced_configuration_has_the_state_dict_of_its_list() -> None:
    expected = json.loads((FOLDER / "tapnext" / "state_small.json").read_text())
    with torch.device("meta"):
        model = TapNext(config_of(load("tapnext", "small_clip")))
    assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == [row[:2] for row in expected]


# ----------------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("carried", [False, True], ids=["fresh", "carried"])
def test_the_convolution_and_the_recurrence_and_their_gradients(carried: bool) -> None:
    case = load("tapnext", "rg_lru")
    prefix = "carried" if carried else "fresh"
    width = case["x"].shape[-1]
    conv, lru = TemporalConv(width).double(), GatedRecurrence(width, len(case["param_input_gate_w"])).double()
    parameters = {
        "conv_w": conv.w,
        "conv_b": conv.b,
        "a_param": lru.a_param,
        "input_gate_w": lru.input_gate.w,
        "input_gate_b": lru.input_gate.b,
        "a_gate_w": lru.a_gate.w,
        "a_gate_b": lru.a_gate.b,
    }
    for name, parameter in parameters.items():
        parameter.data = case.tensor(f"param_{name}", torch.float64)
    x = case.tensor("x", torch.float64).requires_grad_()
    h0, conv0 = (case.tensor(key, torch.float64) * carried for key in ("h0", "conv0"))
    begun = torch.full(x.shape[:1], carried)
    # the rows of the case are the tokens of one frame
    convolved, earlier = conv(x.transpose(0, 1)[None], conv0[None])
    out, state = lru(convolved, h0[None], begun[None])
    (out[0].transpose(0, 1) * case.tensor("grad_out", torch.float64)).sum().backward()
    assert_close(convolved[0].transpose(0, 1), case[f"{prefix}_conv"], DOUBLE.state, "conv")
    assert_close(out[0].transpose(0, 1), case[f"{prefix}_out"], DOUBLE.state, "out")
    assert_close(state[0], case[f"{prefix}_state"], DOUBLE.state, "state")
    assert_close(earlier[0], case[f"{prefix}_conv_state"], DOUBLE.state, "conv_state")
    gradients = {name: parameter.grad for name, parameter in parameters.items()} | {"x": x.grad}
    stored = [name for name in gradients if f"{prefix}_grad_{name}" in case]
    assert len(stored) == 5
    for name in stored:
        assert_close(gradients[name], case[f"{prefix}_grad_{name}"], DOUBLE.state, f"gradient of {name}")


def test_positions_and_certainty_are_read_from_logits(tolerances: Tolerances) -> None:
    case = load("tapnext", "heads")
    logits = case.tensor("track_logits", tolerances.dtype).unflatten(-1, (2, -1))
    assert_close(to_raster(peak(logits)), case["tracks"], tolerances.pixels, "tracks")
    yx = from_raster(case.tensor("tracks", torch.float64)).to(tolerances.dtype)
    for radius in (4, 6, 8, 10):
        found = certainty(logits, yx, radius)
        assert_close(found[..., None], case[f"certainty_r{radius}"], tolerances.state, f"certainty_r{radius}")
    logits = case.tensor("certainty2_logits", tolerances.dtype).unflatten(-1, (2, -1))
    found = certainty(logits, from_raster(case.tensor("certainty2_coords", tolerances.dtype)))
    assert_close(found[..., None], case["certainty2_r8"], tolerances.state, "certainty2_r8")


# ---------------------------------------------------------------------------------------------- the reduced network


@dataclass
class Clip:
    """A run over a whole clip, and what modules gave on the way."""

    case: Case
    tolerances: Tolerances
    model: TapNext
    features: FrameFeatures
    points: PointFeatures
    answer: Answer
    given: dict[str, torch.Tensor]

    def tokens(self, name: str) -> torch.Tensor:
        """What a module of the recurrent half gave for the probed tokens, (tokens, T, C)."""
        return self.given[name][0][:, self.case["probe_tokens"]].transpose(0, 1)


def watch(module: nn.Module, name: str, given: dict[str, torch.Tensor]) -> None:
    """Keep the first thing that a module gives, or, if the name begins with `in`, the first that it is given."""

    def keep(_: nn.Module, arguments: tuple[Any, ...], answer: Any) -> None:
        if name.startswith("in"):
            given[name] = arguments[0]
        else:
            given[name] = answer[0] if isinstance(answer, tuple) else answer

    module.register_forward_hook(keep)


@pytest.fixture(scope="module")
def clip(tolerances: Tolerances) -> Clip:
    case = load("tapnext", "small_clip")
    model = model_of(case, tolerances.dtype)
    given: dict[str, torch.Tensor] = {}
    for name, module in model.blocks[0].named_modules():
        watch(module, name, given)
    for i, block in enumerate(model.blocks):
        watch(block, f"in{i}", given)
    watch(model.encoder_norm, "encoder_norm", given)
    with torch.inference_mode():
        features = encoded(model, case)
        points = described(model, case, features)
        answer = run(model, features, points)
    return Clip(case, tolerances, model, features, points, answer, given)


def test_a_whole_clip(clip: Clip) -> None:
    assert_answer(clip.answer, clip.case, clip.tolerances)
    assert_states(clip.answer, clip.case, clip.tolerances, "state_after8")


def test_the_tokens_of_queries(clip: Clip) -> None:
    case = clip.case
    rows = clip.model.query_pos_embed[0, case["query_pos_embed_row_index"]]
    assert_close(rows, case["query_pos_embed_rows"], 1e-8, "query_pos_embed")
    tokens = clip.model.point_tokens(clip.features, clip.points)
    assert_close(tokens, case["point_tokens"], clip.tolerances.state, "point_tokens")


def test_everything_inside_the_first_block(clip: Clip) -> None:
    recurrent = "ssm_block.recurrent_block"
    names = {
        "block0_temporal_norm": "ssm_block.temporal_pre_norm",
        "block0_linear_y": f"{recurrent}.linear_y",
        "block0_linear_x": f"{recurrent}.linear_x",
        "block0_conv": f"{recurrent}.conv_1d",
        "block0_input_gate_pre": f"{recurrent}.rg_lru.input_gate",
        "block0_a_gate_pre": f"{recurrent}.rg_lru.a_gate",
        "block0_lru_out": f"{recurrent}.rg_lru",
        "block0_recurrent_out": recurrent,
        "block0_channel_norm": "ssm_block.channel_pre_norm",
        "block0_gated_mlp_out": "ssm_block.mlp_block",
        "block0_ssm_out": "ssm_block",
    }
    case, tolerance = clip.case, clip.tolerances.state
    for key, name in names.items():
        assert_close(clip.tokens(name), case[key], tolerance, key)
    probe = case["probe_tokens"]
    assert_close(clip.given["vit_block.self_attention"][:, probe], case["block0_attention_out"], tolerance, "attention")
    assert_close(clip.given[""][0][:, probe], case["block0_out_probe"], tolerance, "block0_out_probe")
    assert_close(clip.given[""][0][case["block0_out_frames"]], case["block0_out"], tolerance, "block0_out")


def test_what_goes_into_every_block_and_into_the_heads(clip: Clip) -> None:
    case, tolerance = clip.case, clip.tolerances.state
    for i in range(3):
        found = clip.given[f"in{i}"][:, :, case["probe_tokens"]]
        assert_close(found, case["block_in"][i], tolerance, f"block_in {i}")
    assert_close(clip.given["encoder_norm"], case["encoder_norm_points"], tolerance, "encoder_norm_points")


def test_frame_by_frame_and_in_chunks(tolerances: Tolerances) -> None:
    case = load("tapnext", "small_stream")
    model = model_of(case, tolerances.dtype)
    with torch.inference_mode():
        features = encoded(model, case)
        points = described(model, case, features)
        assert_answer(run(model, features, points, [1] * 8), case, tolerances)
        assert_answer(run(model, features, points, [3, 1, 4]), case, tolerances, "chunk314_")
        for frames in (1, 4):
            answer = run(model, features, points, [1] * frames)
            assert_states(answer, case, tolerances, f"state_after{frames}")
        assert_states(run(model, features, points, [3]), case, tolerances, "chunk_state_after3")
        others = {1: described(model, case, features, "override_query_points")}
        answer = run(model, features, points, case["override_chunks"].tolist(), others)
        assert_answer(answer, case, tolerances, "override_")


def test_odd_queries(tolerances: Tolerances) -> None:
    case = load("tapnext", "small_odd_queries")
    model = model_of(case, tolerances.dtype)
    with torch.inference_mode():
        features = encoded(model, case)
        points = described(model, case, features)
        tokens = model.point_tokens(features, points)
        assert_close(tokens, case["point_tokens"], tolerances.state, "point_tokens")
        assert_answer(run(model, features, points), case, tolerances)
        assert_answer(run(model, features, points, [1] * 8), case, tolerances, "stream_")


@pytest.mark.parametrize("size", [(128, 128), (96, 64), (32, 128), (48, 48), (67, 70)], ids=str)
def test_frames_of_other_sizes(size: tuple[int, int], tolerances: Tolerances) -> None:
    case = load("tapnext", "small_resolutions")
    name = f"r{size[0]}x{size[1]}"
    model = model_of(case, tolerances.dtype, resolution=size)
    with torch.inference_mode():
        features = encoded(model, case, f"{name}_video")
        h, w = features.maps[0].shape[2:4]
        positions = stretched_positions(model.image_pos_emb, (h, w))
        assert_close(positions[0, ::5], case[f"{name}_pos_emb_probe"], tolerances.state, "positions")
        answer = run(model, features, described(model, case, features))
    assert_answer(answer, case, tolerances, f"{name}_")
    assert_close(answer.recurrent_state[-1, ::7], case[f"{name}_rg_lru_last"], tolerances.state, "rg_lru_last")


def test_two_videos_and_single_frames(tolerances: Tolerances) -> None:
    case = load("tapnext", "small_batch")
    model = model_of(case, tolerances.dtype)
    with torch.inference_mode():
        features = encoded(model, case)
        points = described(model, case, features)
        answer = run(model, features, points)
        assert_answer(answer, case, tolerances)
        assert_states(answer, case, tolerances, "state_after5")
        assert_answer(run(model, features.between(0, 1), points), case, tolerances, "single_frame_")


def test_backwards_in_time(tolerances: Tolerances) -> None:
    case = load("tapnext", "small_backward")
    model = model_of(case, tolerances.dtype)
    with torch.inference_mode():
        features = encoded(model, case)
        points = described(model, case, features)
        there = run(model, features, points)
        turned = described(model, case, features, "backward_query_points")
        back = run(model, features.reversed(), turned)
    assert_close(there.tracks, case["forward_tracks"], tolerances.pixels, "forward_tracks")
    assert_close(back.tracks.flip(1), case["backward_tracks"], tolerances.pixels, "backward_tracks")
    before = torch.arange(len(features))[:, None] < points.queries[:, None, :, 0]
    merged = torch.where(before[..., None], back.tracks.flip(1), there.tracks)
    assert_close(merged, case["merged_tracks"], tolerances.pixels, "merged_tracks")
    merged = torch.where(before[..., None], back.visible_logits.flip(1), there.visible_logits)
    assert_close(merged, case["merged_visible_logits"], tolerances.logit, "merged_visible_logits")


def test_tables_for_frames_that_are_not_square(tolerances: Tolerances) -> None:
    case = load("tapnext", "small_nonsquare_native")
    model = model_of(case, tolerances.dtype)
    with torch.inference_mode():
        features = encoded(model, case)
        points = described(model, case, features)
        assert_close(model.point_tokens(features, points), case["point_tokens"], tolerances.state, "point_tokens")
        assert_answer(run(model, features, points), case, tolerances)
    rows = model.query_pos_embed[0, case["query_pos_embed_row_index"]]
    assert_close(rows, case["query_pos_embed_rows"], 1e-8, "query_pos_embed")


@pytest.mark.parametrize("resolution", [(64, 64), (96, 96)], ids=str)
def test_positions_that_are_no_square_cannot_be_stretched(resolution: tuple[int, int]) -> None:
    config = TapNextConfig(resolution=resolution, native=(64, 96), width=8, recurrent_width=8, depth=1, heads=1)
    with pytest.raises(OptionError, match="positions for 96 patches, which are no square"):
        TapNext(config).encode(torch.zeros(1, 1, 64, 64, 3))
    as_many = replace(config, resolution=(96, 64))
    assert TapNext(as_many).encode(torch.zeros(1, 1, 64, 64, 3)).maps[0].shape == (1, 1, 12, 8, 8)


def test_videos_of_any_size_are_resized_and_points_come_back_in_their_pixels(tolerances: Tolerances) -> None:
    case = load("tapnext", "wrapper_support")
    model = model_of(case, tolerances.dtype, resolution=(128, 128))
    seen: dict[str, torch.Tensor] = {}
    watch(model.lin_proj, "in", seen)
    with torch.inference_mode():
        features = model.encode(torch.from_numpy(case["video_rgb"])[None])
        assert_close(
            seen["in"][-1].movedim(0, -1)[::4, ::4], case["preprocessed_last_frame"], tolerances.state, "input"
        )
        real, support = (case.tensor(key, tolerances.dtype) for key in ("queries_xy", "support_xy"))

        def track(xy: torch.Tensor) -> Estimate:
            queries = torch.nn.functional.pad(from_raster(xy), (1, 0))[None]
            return model.refine(features, model.describe(features, queries))

        together, alone = track(torch.cat([real, support])), track(real)
    # stored positions are rounded to float32
    tolerance = max(tolerances.pixels, 5e-5)
    for estimate, name in ((together, "with_support"), (alone, "alone")):
        assert_close(to_raster(estimate.xy[0, :, :3]), case[f"tracks_xy_{name}"], tolerance, f"tracks_xy_{name}")
        assert ((estimate.visibility_logit[0, :, :3] > 0).numpy() == case[f"visible_{name}"]).all()
    assert_close(to_raster(together.xy[0, :, ::9]), case["tracks_xy_all"], tolerance, "tracks_xy_all")


# ------------------------------------------------------------------------------------------- the released network


@pytest.fixture(scope="module")
def full_weights() -> dict[str, torch.Tensor]:
    """Of all cases of the released configuration."""
    return weights_of(load("tapnext", "full_tiny"))


@pytest.mark.parametrize("tolerances", [DOUBLE, SINGLE_FULL], ids=["float64", "float32"])
def test_the_released_configuration(tolerances: Tolerances, full_weights: dict[str, torch.Tensor]) -> None:
    case = load("tapnext", "full_tiny")
    model = model_of(case, tolerances.dtype, weights=full_weights, resolution=(64, 64))
    given: dict[str, torch.Tensor] = {}
    for i in case["block_in_index"]:
        watch(model.blocks[int(i)], f"in{i}", given)
    watch(model.blocks[0].ssm_block, "ssm", given)
    watch(model.encoder_norm, "encoder_norm", given)
    with torch.inference_mode():
        features = encoded(model, case)
        answer = run(model, features, described(model, case, features))
    assert_answer(answer, case, tolerances)
    probe, tolerance = case["probe_tokens"], tolerances.state
    for k, i in enumerate(case["block_in_index"]):
        assert_close(given[f"in{i}"][:, :, probe, ::8], case["block_in"][k], tolerance, f"block_in {i}")
    assert_close(given["ssm"][0][:, probe, ::8].transpose(0, 1), case["block0_ssm_out"], tolerance, "block0_ssm_out")
    assert_close(given["encoder_norm"], case["encoder_norm_points"], tolerance, "encoder_norm_points")
    assert_close(answer.recurrent_state[:, probe, ::8], case["rg_lru_after3"], tolerance, "rg_lru_after3")
    assert_close(answer.convolution_state(probe)[..., ::8], case["conv1d_after3"], tolerance, "conv1d_after3")


def test_the_released_configuration_at_its_own_size_frame_by_frame(full_weights: dict[str, torch.Tensor]) -> None:
    case = load("tapnext", "full_256_stream")
    model = model_of(case, torch.float32, weights=full_weights)
    with torch.inference_mode():
        features = encoded(model, case)
        answer = run(model, features, described(model, case, features), [1, 1])
    assert_answer(answer, case, SINGLE_FULL)
    found = answer.recurrent_state[:, case["probe_tokens"], ::8]
    assert_close(found, case["rg_lru_after2"], SINGLE_FULL.state, "rg_lru_after2")
