"""TAPNext beyond golden numbers: properties, conventions, memory, released files."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pointloom.errors import ModelError, OptionError, UnsafeFileError
from pointloom.models import zoo
from pointloom.models.base import Estimate, FrameFeatures, Memory, PointFeatures
from pointloom.models.tapnext import BINS, FRAMES_AT_ONCE, TINY, TapNext, TapNextConfig, read_table, root
from pointloom.models.weight_files import load_model, save_weights, weights_hash
from tapnext_cases import SMALL, small_tapnext

T = FRAMES_AT_ONCE + 3
SIZE = (60, 40)  # width, height of the video


@pytest.fixture(scope="module")
def model() -> TapNext:
    return small_tapnext()


@pytest.fixture(scope="module")
def features(model: TapNext) -> FrameFeatures:
    generator = torch.Generator().manual_seed(1)
    return model.encode(torch.randint(0, 256, (1, T, SIZE[1], SIZE[0], 3), generator=generator, dtype=torch.uint8))


def points_at(model: TapNext, features: FrameFeatures, *queries: tuple[float, float, float]) -> PointFeatures:
    return model.describe(features, torch.tensor([queries], dtype=torch.float64))


def remembering(points: PointFeatures, memory: Memory) -> Estimate:
    return replace(Estimate.at_queries(points.queries, 1), memory=memory)


def memory_of(estimate: Estimate) -> Memory:
    assert estimate.memory is not None
    return estimate.memory


def assert_equal(found: Estimate, expected: Estimate, pixels: float = 1e-9) -> None:
    torch.testing.assert_close(found.xy, expected.xy, rtol=0, atol=pixels)
    torch.testing.assert_close(found.visibility_logit, expected.visibility_logit, rtol=0, atol=pixels)
    torch.testing.assert_close(found.confidence, expected.confidence, rtol=0, atol=pixels)


THREE = ((0, 10.0, 5.0), (2, 31.5, 20.25), (9, 50.0, 33.0))


# ------------------------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("length", [1, 2, FRAMES_AT_ONCE, FRAMES_AT_ONCE + 1])
def test_chunks_of_any_length_give_what_the_whole_gives(model: TapNext, features: FrameFeatures, length: int) -> None:
    points = points_at(model, features, *THREE)
    whole = model.refine(features, points)
    assert whole.memory is None
    memory, parts = Memory(), []
    for start in range(0, T, length):
        part = model.refine(features.between(start, min(start + length, T)), points, remembering(points, memory))
        memory = memory_of(part)
        parts.append(part)
    assert_equal(Estimate.join(parts, axis="frames"), whole)


def test_the_order_of_queries_does_not_matter(model: TapNext, features: FrameFeatures) -> None:
    points = points_at(model, features, *THREE)
    order = torch.tensor([2, 0, 1])
    assert_equal(model.refine(features, points.select(order)), model.refine(features, points).select(order))


def test_later_frames_change_nothing_in_earlier_ones(model: TapNext, features: FrameFeatures) -> None:
    points = points_at(model, features, *THREE)
    changed = replace(features, maps=(torch.cat([features.maps[0][:, :5], features.maps[0][:, 5:] + 1], dim=1),))
    before, after = model.refine(features, points), model.refine(changed, points)
    assert_equal(after.frames(0, 5), before.frames(0, 5))
    assert (after.visibility_logit[:, 5] != before.visibility_logit[:, 5]).all()


def test_points_that_have_not_begun_are_all_alike(model: TapNext, features: FrameFeatures) -> None:
    points = points_at(model, features, (0, 10, 5), (6, 31.5, 20.25), (9, 50, 33))
    found = model.refine(features, points).visibility_logit[0]
    torch.testing.assert_close(found[:6, 1], found[:6, 2], rtol=0, atol=1e-12)
    assert found[6, 1] != found[6, 2]


def test_a_point_that_may_not_be_looked_at_changes_nothing_for_the_others(
    model: TapNext, features: FrameFeatures
) -> None:
    one, two = points_at(model, features, THREE[0]), points_at(model, features, *THREE[:2])
    attended = torch.ones(1, T, 2, dtype=torch.bool)
    everyone = model.refine(features, two, attended=attended)
    assert_equal(everyone, model.refine(features, two))
    attended[..., 1] = False
    hidden = model.refine(features, two, attended=attended)
    assert_equal(hidden.select(slice(1)), model.refine(features, one))
    assert (hidden.visibility_logit - everyone.visibility_logit).abs().max() > 1e-4


# ----------------------------------------------------------------------------------------------------------- memory


def test_a_point_that_comes_later_begins_with_nothing_remembered(features: FrameFeatures) -> None:
    model = small_tapnext()
    for block in model.blocks:  # no token looks at another, so that each depends on its own past only
        block.vit_block.self_attention.out_proj.weight.zero_()
    start, stop = 4, 7
    both = points_at(model, features, THREE[0], (start, 31.5, 20.25))
    first = both.select(slice(1))
    begun = memory_of(model.refine(features.between(0, start), first, remembering(first, Memory())))
    joined = model.refine(features.between(start, stop), both, remembering(both, begun.extended(2)))
    late = both.select(slice(1, 2))
    alone = model.refine(features.between(start, stop), late, remembering(late, Memory()))
    assert_equal(joined.select(slice(1, 2)), alone)
    as_if_begun = replace(begun.extended(2), points=(torch.ones(1, 2), *begun.extended(2).points[1:]))
    wrong = model.refine(features.between(start, stop), both, remembering(both, as_if_begun))
    assert (wrong.visibility_logit[0, 0, 1] - alone.visibility_logit[0, 0, 0]).abs() > 1e-4


def test_a_walk_whose_points_have_all_gone_begins_anew(model: TapNext, features: FrameFeatures) -> None:
    gone, new = points_at(model, features, THREE[0]), points_at(model, features, (5, 31.5, 20.25))
    memory = memory_of(model.refine(features.between(0, 4), gone, remembering(gone, Memory())))
    left = memory.select(torch.tensor([], dtype=torch.long)).extended(1)
    again = model.refine(features.between(5, 8), new, remembering(new, left))
    assert_equal(again, model.refine(features.between(5, 8), new, remembering(new, Memory())))


def test_the_memory_of_a_point_is_one_past_a_block_and_does_not_grow(model: TapNext, features: FrameFeatures) -> None:
    points = points_at(model, features, *THREE)
    memory = memory_of(model.refine(features.between(0, 2), points, remembering(points, Memory())))
    later = memory_of(model.refine(features.between(2, 9), points, remembering(points, memory)))
    shapes = [tuple(rows.shape) for rows in memory.points]
    assert shapes == [(1, 3), (1, 3, 4, 16), (1, 3, 4, 16)]
    assert [tuple(rows.shape) for rows in memory.shared] == [(1, 24, 4, 16)] * 2
    assert [rows.shape for rows in later.points + later.shared] == [
        rows.shape for rows in memory.points + memory.shared
    ]


def test_half_precision_keeps_its_memory_in_single(features: FrameFeatures) -> None:
    model = small_tapnext().float()
    single = replace(features, maps=(features.maps[0].float(),))
    points = model.describe(single, torch.tensor([THREE]))
    with torch.autocast("cpu", torch.bfloat16):
        half = replace(single, maps=(single.maps[0].bfloat16(),))
        found = model.refine(half, points, remembering(points, Memory()))
    assert {rows.dtype for rows in memory_of(found).points} == {torch.float32}
    assert found.xy.dtype == torch.float32
    expected = model.refine(single, points)
    assert (found.visibility - expected.visibility).abs().max() < 0.05


# ------------------------------------------------------------------------------------------------------ conventions


def test_bin_k_is_the_centre_of_the_k_th_of_256_equal_parts_of_the_frame(model: TapNext) -> None:
    """For a video of 512 x 128: bin 100 covers columns 200 and 201, centre 200.5; bin 7 is half of row 3, at 3.25."""
    last = model.coordinate_head[-1]
    kept = last.bias.clone(), last.weight.clone()
    last.weight.zero_()
    last.bias.fill_(-100).unflatten(0, (2, BINS))[0, 7] = 100
    last.bias.unflatten(0, (2, BINS))[1, 100] = 100
    features = model.encode(torch.zeros(1, 1, 128, 512, 3))
    found = model.refine(features, points_at(model, features, (0, 0, 0)))
    last.bias.copy_(kept[0])
    last.weight.copy_(kept[1])
    torch.testing.assert_close(found.xy[0, 0, 0], torch.tensor([200.5, 3.25], dtype=torch.float64))
    assert found.confidence.item() == pytest.approx(1)


def test_a_query_is_read_at_its_place_in_the_frame_of_the_table(model: TapNext) -> None:
    """In a video twice the size of the table's frame, (1.5, 2.5) lies in the middle between pixels (0, 1) and (1, 1)
    of that frame, and half a pixel lower for (1.5, 3.5): (2 * 0.5 + 0.5, 2 * 1 + 0.5)."""
    height, width = SMALL.native
    features = model.encode(torch.zeros(1, 1, 2 * height, 2 * width, 3))
    found = points_at(model, features, (0, 1.5, 2.5)).support[0][0, 0, 0, 0]
    table = model.query_pos_embed[0]
    expected = (table[width] + table[width + 1]) / 2 + model.point_query_token[0, 0, 0]
    torch.testing.assert_close(found, expected)


def test_a_query_on_the_corner_of_the_frame_keeps_a_quarter_of_its_position() -> None:
    table = torch.ones(1, 12, 1, dtype=torch.float64)
    xy = torch.tensor([[[-0.5, -0.5], [0, -0.5], [3, 2], [3.5, 1], [4, 1], [-1, 1]]], dtype=torch.float64)
    assert read_table(table, (3, 4), xy)[0, :, 0].tolist() == [0.25, 0.5, 1, 0.5, 0, 0]


def test_the_slope_of_the_root_is_at_most_a_thousand() -> None:
    v = torch.tensor([0, 1e-9, 0.25], dtype=torch.float64, requires_grad=True)
    values = root(v)
    values.sum().backward()
    assert v.grad is not None
    torch.testing.assert_close(values, v.sqrt())
    torch.testing.assert_close(v.grad, torch.tensor([1000, 1000, 1], dtype=torch.float64))


# ---------------------------------------------------------------------------------------------------- configurations


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "must be multiples of heads"),
        ({"width": 6, "recurrent_width": 6}, "multiple of 4"),
        ({"resolution": (7, 256)}, "at least 8 x 8"),
    ],
    ids=["heads", "width", "resolution"],
)
def test_sizes_that_cannot_work_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        replace(SMALL, **changes)


def test_tiny_fits_into_the_package() -> None:
    with torch.device("meta"):
        model = TapNext(TINY)
    assert 2 * model.info.parameters < 7e6  # bytes in half precision
    assert "query_pos_embed" not in model.state_dict()


def test_a_table_that_is_not_stored_is_computed_again(features: FrameFeatures, tmp_path: Path) -> None:
    config = replace(SMALL, stored_table=False)
    model = small_tapnext(config).float()
    save_weights(tmp_path / "mine.safetensors", model, {})
    again = load_model(tmp_path / "mine.safetensors")
    assert again.config == config
    single = replace(features, maps=(features.maps[0].float(),))
    queries = torch.tensor([THREE])
    assert_equal(
        again.refine(single, again.describe(single, queries)), model.refine(single, model.describe(single, queries)), 0
    )


def test_initial_weights_come_from_the_seed_and_keep_most_of_the_past() -> None:
    one, same, other = (small_tapnext(seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.lin_proj.weight, other.lin_proj.weight)
    decay = torch.exp(-8 * torch.nn.functional.softplus(one.blocks[0].ssm_block.recurrent_block.rg_lru.a_param))
    assert decay.min() >= 0.9 - 1e-6
    assert decay.max() <= 0.999 + 1e-6


# --------------------------------------------------------------------------------------------------- released files


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> zoo.ZooEntry:
    entry = zoo.ZooEntry("small", SMALL, "for a test", "Apache-2.0", "small.pt", url="https://nowhere.invalid")
    monkeypatch.setitem(zoo.ZOO, "small", entry)
    return entry


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "under state_dict"])
@pytest.mark.parametrize("prefix", ["", "tapnext."], ids=["plain names", "prefixed names"])
def test_files_of_pytorch_load_strictly(entry: zoo.ZooEntry, tmp_path: Path, wrapped: bool, prefix: str) -> None:
    model = small_tapnext().float()
    state = {prefix + name: value for name, value in model.state_dict().items()}
    path = tmp_path / "weights.ckpt"
    torch.save({"state_dict": state, "step": 7} if wrapped else state, path)
    assert weights_hash(load_model(path, name="small")) == weights_hash(model)
    del state[prefix + "blocks.1.vit_block.self_attention.in_proj_bias"]
    torch.save(state, path)
    with pytest.raises(ModelError, match=re.escape("blocks.1.vit_block.self_attention.in_proj_bias is missing")):
        load_model(path, name="small")


def as_jax(model: TapNext) -> dict[str, np.ndarray]:
    """The same weights as the release for JAX holds them."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    C, A = model.config.width, model.config.heads
    content = {f"backbone/{name}_token": state[f"{name}_token"] for name in ("mask", "unknown", "point_query")}
    content["backbone/pos_embedding"] = state["image_pos_emb"]
    content["backbone/embedding/kernel"] = state["lin_proj.weight"].transpose(2, 3, 1, 0)[None]
    content["backbone/embedding/bias"] = state["lin_proj.bias"]
    content["backbone/Transformer/encoder_norm/scale"] = state["encoder_norm.weight"]
    content["backbone/Transformer/encoder_norm/bias"] = state["encoder_norm.bias"]
    for i in range(model.config.depth):
        to, block = f"backbone/Transformer/encoderblock_{i}", f"blocks.{i}"
        recurrent = f"{block}.ssm_block."
        for name in [name for name in state if name.startswith(recurrent)]:
            path = f"{to}/ssm_block/{name.removeprefix(recurrent).replace('.', '/')}"
            if path.endswith("/weight"):
                content[path.removesuffix("weight") + "kernel"] = state[name].T
            else:
                content[path] = state[name]
        for k in (0, 1):
            content[f"{to}/vit_block/LayerNorm_{k}/scale"] = state[f"{block}.vit_block.ln_{k + 1}.weight"]
            content[f"{to}/vit_block/LayerNorm_{k}/bias"] = state[f"{block}.vit_block.ln_{k + 1}.bias"]
            dense = f"{to}/vit_block/MlpBlock_0/Dense_{k}"
            content[f"{dense}/kernel"] = state[f"{block}.vit_block.mlp.{3 * k}.weight"].T
            content[f"{dense}/bias"] = state[f"{block}.vit_block.mlp.{3 * k}.bias"]
        attention = f"{to}/vit_block/MultiHeadDotProductAttention_0"
        own = f"{block}.vit_block.self_attention"
        for k, part in enumerate(("query", "key", "value")):
            rows = slice(k * C, (k + 1) * C)
            content[f"{attention}/{part}/kernel"] = state[f"{own}.in_proj_weight"][rows].T.reshape(C, A, C // A)
            content[f"{attention}/{part}/bias"] = state[f"{own}.in_proj_bias"][rows].reshape(A, C // A)
        content[f"{attention}/out/kernel"] = state[f"{own}.out_proj.weight"].T.reshape(A, C // A, C)
        content[f"{attention}/out/bias"] = state[f"{own}.out_proj.bias"]
    for name in ("visible_head", "coordinate_head"):
        for k in (0, 3, 6):
            content[f"{name}/layers_{k}/kernel"] = state[f"{name}.{k}.weight"].T
            content[f"{name}/layers_{k}/bias"] = state[f"{name}.{k}.bias"]
        for k in (1, 4):
            content[f"{name}/layers_{k}/scale"] = state[f"{name}.{k}.weight"]
            content[f"{name}/layers_{k}/bias"] = state[f"{name}.{k}.bias"]
    return content


def distinct_weights(config: TapNextConfig) -> TapNext:
    """A network in which no two numbers are equal, so that none can be mistaken for another."""
    model = TapNext(config).eval().requires_grad_(False)
    start = 0
    for parameter in model.parameters():
        parameter.copy_(torch.arange(start, start + parameter.numel()).view(parameter.shape))
        start += parameter.numel()
    assert start < 2**24  # what float32 tells apart
    return model


def test_files_of_jax_load_strictly(entry: zoo.ZooEntry, tmp_path: Path) -> None:
    model = distinct_weights(SMALL)
    content, path = as_jax(model), tmp_path / "weights.npz"
    np.savez(path, **content)
    assert weights_hash(load_model(path, name="small")) == weights_hash(model)
    attention = "backbone/Transformer/encoderblock_1/vit_block/MultiHeadDotProductAttention_0"
    del content[f"{attention}/key/bias"]
    np.savez(path, **content)
    with pytest.raises(ModelError, match=re.escape("blocks.1.vit_block.self_attention.in_proj_bias is missing")):
        load_model(path, name="small")


def test_an_archive_of_objects_or_a_broken_one_is_refused(entry: zoo.ZooEntry, tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, weights=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UnsafeFileError, match="something else than numbers"):
        load_model(path, name="small")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(path, name="small")


@pytest.mark.parametrize(
    ("name", "resolution"),
    [("tapnext", 256), ("bootstapnext", 256), ("tapnext++", 256), ("tapnext++-512", 512)],
)
def test_the_released_models_are_known_by_name_with_a_licence_for_any_use(name: str, resolution: int) -> None:
    entry = zoo.find_entry(name)
    assert entry.config.resolution == (resolution, resolution)
    assert entry.commercial
    assert not entry.shipped
