"""CoTracker3 against the reference: state dict, parts, and whole offline runs, in double and in single precision."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from golden_cases import (
    DOUBLE,
    FOLDER,
    PRECISIONS,
    Case,
    FirstIteration,
    RecordingModel,
    Run,
    Tolerances,
    assert_close,
    assert_sums,
    load,
    model_of,
    watched,
)
from pointloom.models.cotracker3 import OFFLINE, ONLINE, CoTracker3, CoTracker3Config
from pointloom.models.layers import fourier_embedding, resampled_time, sample_patches, time_table
from pointloom.queries.grid import grid_points

MODEL_CASES = (
    "small_offline",
    "small_offline_batch_oddsize",
    "small_offline_t1",
    "small_offline_flags",
    "offline_t24",
    "offline_t60",
)


@pytest.fixture(scope="module", params=PRECISIONS)
def tolerances(request: pytest.FixtureRequest) -> Tolerances:
    return PRECISIONS[request.param]


# -------------------------------------------------------------------------------------------------- state dict


@pytest.mark.parametrize(("config", "name"), [(OFFLINE, "state_offline"), (ONLINE, "state_online")])
def test_state_dict_has_the_names_shapes_and_order_of_the_released_checkpoints(
    config: CoTracker3Config, name: str
) -> None:
    expected = json.loads((FOLDER / "cotracker3" / f"{name}.json").read_text())
    with torch.device("meta"):
        model = CoTracker3(config)
    buffers = {key for key, _ in model.named_buffers()}
    found = [[k, list(v.shape), "buffer" if k in buffers else "parameter"] for k, v in model.state_dict().items()]
    assert found == expected


def test_the_released_configuration_has_as_many_parameters_as_published() -> None:
    with torch.device("meta"):
        assert CoTracker3(OFFLINE).info.parameters == 25_385_700


# ------------------------------------------------------------------------------------------------------- parts

ENCODER_STAGES = {
    "conv1": "conv1",
    "layer1": "layer1",
    "layer2_block0": "layer2.0",
    "layer2": "layer2",
    "layer3": "layer3",
    "layer4": "layer4",
    "conv2": "conv2",
    "conv3": "conv3",
}


@pytest.mark.parametrize("image", ["a", "b"])
def test_every_stage_of_the_encoder(image: str, tolerances: Tolerances) -> None:
    case = load("cotracker3", "component_encoder")
    model = model_of(case, tolerances.dtype)
    stages: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _module, _arguments, answer: stages.__setitem__(name, answer)

    def keep_input(name: str) -> Any:
        return lambda _module, arguments: stages.__setitem__(name, arguments[0])

    for name, path in ENCODER_STAGES.items():
        model.fnet.get_submodule(path).register_forward_hook(keep(name))
    model.fnet.conv2.register_forward_pre_hook(keep_input("fused"))
    with torch.inference_mode():
        features = model.encode(torch.from_numpy(case[f"{image}_image"])[None])
    stages["norm1"] = F.instance_norm(stages["conv1"], eps=1e-5)
    stages["norm2"] = F.instance_norm(stages["conv2"], eps=1e-5)
    stages["normalised"] = features.maps[0][0].movedim(-1, 1)
    for name, values in stages.items():
        key = f"{image}_{name}"
        assert list(values.shape) == case[f"{key}_shape"].tolist(), key
        frame, y, x = case[f"{key}_index"].T
        assert_close(values[frame, :, y, x], case[f"{key}_value"], tolerances.intermediate, key)
        assert_sums(values, case[f"{key}_stats"], tolerances.total, key)
    assert len(stages) == 12


def test_every_block_of_the_transformer(tolerances: Tolerances) -> None:
    case = load("cotracker3", "component_transformer")
    former = model_of(case, tolerances.dtype).updateformer
    modules = {"input_transform": former.input_transform, "time0_attention": former.time_blocks[0].attn}
    for i in range(3):
        modules |= {
            f"time{i}": former.time_blocks[i],
            f"virtual_from_point{i}": former.space_virtual2point_blocks[i],
            f"virtual{i}": former.space_virtual_blocks[i],
            f"point{i}": former.space_point2virtual_blocks[i],
        }
    blocks: dict[str, torch.Tensor] = {}
    for name, module in modules.items():
        module.register_forward_hook(lambda _module, _arguments, answer, name=name: blocks.__setitem__(name, answer))
    with torch.inference_mode():
        output = former(case.tensor("tokens", tolerances.dtype))
    assert list(blocks) != []
    for name, values in blocks.items():
        assert list(values.shape) == case[f"{name}_shape"].tolist(), name
        chosen = values[tuple(case[f"{name}_index"].T)]
        assert_close(chosen, case[f"{name}_value"], tolerances.intermediate, name)
        assert_sums(values, case[f"{name}_stats"], tolerances.total, name)
    assert_close(output, case["output"], tolerances.intermediate, "output")


def test_patches_at_borders_and_outside(tolerances: Tolerances) -> None:
    case = load("cotracker3", "component_sampling")
    queries = case.tensor("queries", tolerances.dtype)
    levels = [case.tensor("features", tolerances.dtype)]  # (1, T, C, h, w)
    for _ in range(2):
        levels.append(F.avg_pool2d(levels[-1][0], 2)[None])
    for i, level in enumerate(levels):
        assert list(level.shape) == case[f"level{i}_shape"].tolist()
        maps = level.movedim(2, -1)
        frame, xy = queries[..., 0].long(), queries[..., 1:] / 2**i
        assert_close(
            sample_patches(maps, frame, xy, 3)[0], case[f"support_l{i}"], tolerances.intermediate, f"support_l{i}"
        )
        centre = sample_patches(maps, frame, xy, 0)[0, :, 0, 0]
        assert_close(centre, case[f"centre_l{i}"], tolerances.intermediate, f"centre_l{i}")
    coords = case.tensor("coords", tolerances.dtype)  # (T, N, 2)
    T, N, _ = coords.shape
    frame = torch.arange(T).repeat_interleave(N)[None]
    patches = sample_patches(levels[0].movedim(2, -1), frame, coords.reshape(1, T * N, 2), 3)
    assert_close(patches[0].unflatten(0, (T, N)), case["frame_l0"], tolerances.intermediate, "frame_l0")


def test_embeddings_of_displacement_and_time(tolerances: Tolerances) -> None:
    case = load("cotracker3", "component_embeddings")
    embedded = fourier_embedding(case.tensor("posenc_input", tolerances.dtype), 10)
    assert_close(embedded, case["posenc_output"], tolerances.intermediate, "posenc_output")
    columns = case["time_columns"]
    for rows in (60, 16):
        table = time_table(rows, 1110)
        assert table.dtype == torch.float32
        assert_close(table[0, :, columns], case[f"time_table_{rows}"], 1e-9, f"time_table_{rows}")
        assert_sums(table, case[f"time_table_{rows}_stats"], 1e-9, f"time_table_{rows}_stats")
        for frames in (1, 2, 5, 24, rows, 97):
            key = f"time_interp_{rows}_to_{frames}"
            stretched = resampled_time(table.to(tolerances.dtype), frames)[0, :, columns]
            assert_close(stretched, case[key], tolerances.intermediate, key)


def test_grids_of_points() -> None:
    case = load("cotracker3", "component_grid")
    for i in range(7):
        size, height, width, *centre = case[f"args_{i}"]
        points = grid_points(int(size), (height, width), None if np.isnan(centre[0]) else tuple(centre))
        assert_close(points, case[f"grid_{i}"], DOUBLE.intermediate, f"grid_{i}")


# ------------------------------------------------------------------------------------------------- offline runs


@dataclass
class OfflineRun:
    case: Case
    tolerances: Tolerances
    run: Run
    first: FirstIteration


@pytest.fixture(scope="module", params=[(name, p) for name in MODEL_CASES for p in PRECISIONS], ids="-".join)
def offline(request: pytest.FixtureRequest) -> OfflineRun:
    name, precision = request.param
    case, tolerances = load("cotracker3", name), PRECISIONS[precision]
    model: RecordingModel = model_of(case, tolerances.dtype)
    with (
        torch.inference_mode(),
        watched(model.corr_mlp, calls=model.config.levels) as correlation,
        watched(model.updateformer, calls=1) as update,
    ):
        features = model.encode(torch.from_numpy(case["video"]))
        points = model.describe(features, case.tensor("queries", tolerances.dtype))
        model.refine(features, points)
    return OfflineRun(case, tolerances, model.runs[0], FirstIteration(features, points, correlation, update))


def test_tracks_visibility_and_confidence(offline: OfflineRun) -> None:
    case, result = offline.case, offline.run.estimates[-1]
    assert_close(result.xy, case["tracks"], offline.tolerances.pixels, "tracks")
    assert_close(result.visibility, case["visibility"], offline.tolerances.probability, "visibility")
    assert_close(result.confidence, case["confidence"], offline.tolerances.probability, "confidence")


def test_the_estimate_after_every_iteration(offline: OfflineRun) -> None:
    case, estimates = offline.case, offline.run.estimates
    assert_close(torch.stack([e.xy for e in estimates]), case["iter_coords"], offline.tolerances.pixels, "iter_coords")
    for key, name in [("iter_vis_logit", "visibility_logit"), ("iter_conf_logit", "confidence_logit")]:
        logits = torch.stack([getattr(e, name) for e in estimates])
        assert_close(logits, case[key], offline.tolerances.logit, key)


def test_everything_inside_the_first_iteration(offline: OfflineRun) -> None:
    offline.first.assert_equals(offline.case, offline.tolerances)
