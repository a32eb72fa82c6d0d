"""What a step minimises: as the reference with the recipes of CoTracker3, and the same however a batch is split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import SMALL

from golden_cases import load, model_of
from pointloom.models.cotracker3 import CoTracker3, initialise
from pointloom.tracking.windows import WindowResult
from pointloom.training.batches import TrackBatch
from pointloom.training.objectives import TrackingObjective, tracking_objective
from pointloom.training.recipe import TrackingRecipe, load_recipe
from pointloom.training.recompute import IMAGES_AT_ONCE

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("kind", ["online", "offline"])
def test_the_recipes_of_cotracker3_have_the_losses_of_the_reference(kind: str) -> None:
    case = load("losses", f"step_{kind}")
    model = model_of(case, torch.float64)
    recipe = load_recipe(RECIPES / f"cotracker3_{kind}.yaml").tracking
    objective = tracking_objective(model, replace(recipe, iterations=3), encoder_frozen=False)
    batch = TrackBatch(
        torch.from_numpy(case["video"])[None],
        case.tensor("gt", torch.float64)[None],
        case.tensor("vis", torch.bool)[None],
        case.tensor("valid", torch.bool)[None],
        case.tensor("queries", torch.float64)[None],
    )
    frames = batch.frames.shape[1]
    windows = (model.config.window, model.config.step) if kind == "online" else (frames, frames)
    with torch.no_grad():
        losses = objective(batch, windows, False)
    for part, key in {"visible": "visible", "occluded": "occluded", "confidence": "conf", "visibility": "vis"}.items():
        assert losses[part].item() == pytest.approx(float(case[f"loss_{key}"]), rel=1e-9), part
    assert losses["total"].item() == pytest.approx(float(case["total"]), rel=1e-9)


def random_batch(clips: int = 2, frames: int = 10, points: int = 5) -> TrackBatch:
    rng = np.random.default_rng(0)
    xy = rng.uniform(4, 28, (clips, frames, points, 2)).astype(np.float32)
    frame = rng.integers(0, frames, (clips, points))
    queries = np.concatenate([frame[..., None], np.take_along_axis(xy, frame[:, None, :, None], 1)[:, 0]], axis=-1)
    return TrackBatch(
        torch.from_numpy(rng.integers(0, 256, (clips, frames, 32, 32, 3), dtype=np.uint8)),
        torch.from_numpy(xy),
        torch.from_numpy(rng.random((clips, frames, points)) < [[[0.8]], [[0.3]]]),
        torch.ones(clips, frames, points, dtype=torch.bool),
        torch.from_numpy(queries.astype(np.float32)),
    )


def objective_of(**changes: float) -> TrackingObjective:
    model = CoTracker3(replace(SMALL, resize="as_is"))
    initialise(model, seed=1)
    return tracking_objective(model, TrackingRecipe(iterations=2, **changes), encoder_frozen=False)


def gradients(objective: TrackingObjective, batch: TrackBatch) -> dict[str, torch.Tensor]:
    objective.zero_grad()
    objective(batch, (8, 4), False)["total"].backward()
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("leads_in", "windows", "spans"),
    [
        (True, (8, 4), [(0, 4), (0, 8), (4, 12)]),
        (False, (8, 4), [(0, 8), (4, 12)]),
        (True, (10, 10), [(0, 10)]),
    ],
)
def test_windows_are_those_by_which_the_model_is_driven(
    leads_in: bool, windows: tuple[int, int], spans: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = objective_of()
    objective.model.config = replace(objective.model.config, leads_in=leads_in)
    seen = []
    losses_of = objective.losses_of

    def noted(windows: list[WindowResult], *rest: Any) -> dict[str, torch.Tensor]:
        seen.append([(w.start, w.start + w.result.xy.shape[1]) for w in windows])
        return losses_of(windows, *rest)

    monkeypatch.setattr(objective, "losses_of", noted)
    objective(random_batch(clips=1), windows, False)["total"].backward()
    assert seen == [spans]


def test_a_batch_is_learned_from_like_its_clips_one_by_one() -> None:
    objective, batch = objective_of(), random_batch()
    together = gradients(objective, batch)
    parts = [gradients(objective, TrackBatch(*(part[b : b + 1] for part in batch))) for b in range(2)]
    largest = max(float(gradient.abs().max()) for gradient in together.values())
    for name, gradient in together.items():
        mean = (parts[0][name] + parts[1][name]) / 2
        assert float((gradient - mean).abs().max()) < 1e-5 * largest, name


@pytest.mark.parametrize("known_only", [False, True])
def test_visibility_is_learned_from_what_is_known_alone_if_the_recipe_says_so(known_only: bool) -> None:
    batch = random_batch()
    valid = batch.valid.clone()
    valid[:, ::3] = False
    losses = []
    for visible in (batch.visible & valid, batch.visible | ~valid):
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append(
                objective_of(known_only=known_only)(batch._replace(visible=visible, valid=valid), (10, 10), False)
            )
    for part in ("confidence", "visibility"):
        assert (losses[0][part].item() == losses[1][part].item()) == known_only


def test_recomputed_activations_give_the_same_gradients() -> None:
    plain, recomputed = objective_of(), objective_of(recomputed=True)
    batch = random_batch()
    calls = []
    for objective in (plain, recomputed):
        passes: list[int] = []
        objective.model.fnet.stem1.register_forward_hook(lambda _, images, __, to=passes: to.append(len(images[0])))
        calls.append(passes)
    expected, found = gradients(plain, batch), gradients(recomputed, batch)
    assert calls == [[20], [IMAGES_AT_ONCE, 4, 4, IMAGES_AT_ONCE]]
    assert expected.keys() == found.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert float((gradient - found[name]).abs().max()) < 1e-5 * largest, name


def test_recomputed_activations_cost_nothing_without_gradients() -> None:
    objective = objective_of(recomputed=True)
    passes: list[int] = []
    objective.model.fnet.stem1.register_forward_hook(lambda *_: passes.append(1))
    with torch.inference_mode():
        objective.model.encode(random_batch().frames)
    assert len(passes) == 2  # groups of images, each once


def test_all_that_is_trained_has_a_gradient_although_no_pair_of_frames_shows_a_point() -> None:
    """Else a process would not hear of the others, which have one."""
    batch = random_batch()
    batch = batch._replace(visible=torch.zeros_like(batch.visible))
    objective = objective_of(matching_weight=0.5)
    assert gradients(objective, batch).keys() == gradients(objective, random_batch()).keys()
