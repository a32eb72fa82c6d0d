"""CoTracker v2 and TAPIR learn in the same loop as CoTracker3; they resume, and say what they need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pointloom.datasets.pool import ClipPool, fill_pool
from pointloom.datasets.synthetic import LayeredConfig, TextureBank, make_clip
from pointloom.errors import ModelError, OptionError
from pointloom.models import zoo
from pointloom.models.base import Model
from pointloom.models.cotracker2 import CoTracker2Config
from pointloom.models.tapir import Tapir, TapirConfig, initialise
from pointloom.models.tapnext import TAPNEXT
from pointloom.models.weight_files import load_model, weights_hash
from pointloom.models.zoo import build_model
from pointloom.training.loop import Steps, starting_model, train
from pointloom.training.matching import first_estimate_loss
from pointloom.training.objectives import MatchingObjective, tracking_objective
from pointloom.training.recipe import DataRecipe, OptimizerRecipe, Recipe, SourceShare, TrackingRecipe, load_recipe
from pointloom.training.validate import validate_tracking

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL: dict[str, Any] = {
    "cotracker2": CoTracker2Config(
        window=8,
        iterations=2,
        resolution=(48, 64),
        channels=16,
        hidden=32,
        heads=2,
        time_depth=1,
        space_depth=1,
        virtual_tracks=4,
    ),
    "tapir": TapirConfig(
        iterations=2,
        resolution=(64, 64),
        refinements=((64, 64),),
        widths=(8, 8, 16, 16),
        pooled_maps=1,
        mixer_width=32,
        mixer_depth=1,
    ),
}
DRIVEN = {
    "cotracker2": TrackingRecipe(iterations=2, windowed=1, window=(8, 8), matching_weight=0.5, confidence=0.0),
    "tapir": TrackingRecipe(iterations=2, windowed=0, visible=0.05, matching_weight=0.5),
}
FAMILIES = sorted(SMALL)


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for family, config in SMALL.items():
        monkeypatch.setitem(zoo.UNTRAINED, f"{family}-small", config)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pool")
    config = LayeredConfig(size=(64, 48), frames=12, tracks=64)
    bank = TextureBank.procedural(count=2)
    fill_pool(folder, range(2), lambda seed: make_clip(config, bank, seed))
    return str(folder)


def recipe(family: str, pool: str, steps: int) -> Recipe:
    return Recipe(
        model=f"{family}-small",
        objective="tracking",
        steps=steps,
        precision="32-true",
        data=DataRecipe(sources=[SourceShare(folder=pool)], points=16, frames=(6, 12)),
        optimizer=OptimizerRecipe(rate=3e-3, warmup=2, average=0.9),
        tracking=DRIVEN[family],
    )


def loss_of(model: Model, small: Recipe) -> float:
    """Mean over the clips of a few steps."""
    objective = tracking_objective(model, small.tracking, encoder_frozen=False)
    steps = Steps(small, process=0)
    torch.manual_seed(0)
    with torch.no_grad():
        return sum(float(objective(*steps[step][0])["total"]) for step in range(4)) / 4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_few_steps_lower_the_loss(family: str, pool: str, tmp_path: Path) -> None:
    small = recipe(family, pool, 30)
    trained = load_model(train(small, tmp_path))
    assert trained.config == SMALL[family]  # with its own resize rule
    assert loss_of(trained, small) < 0.95 * loss_of(starting_model(small), small)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_that_stopped_goes_on_as_if_it_had_not(family: str, pool: str, tmp_path: Path) -> None:
    small = replace(recipe(family, pool, 4), checkpoint_minutes=0)
    whole = train(small, tmp_path)
    expected = weights_hash(load_model(whole))
    (tmp_path / "checkpoints" / "step_00000004.pt").unlink()  # back to step 3
    assert weights_hash(load_model(train(small, tmp_path))) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_learned(family: str, pool: str, tmp_path: Path) -> None:
    small = recipe(family, pool, 1)
    before = starting_model(small)
    after = load_model(train(replace(small, optimizer=OptimizerRecipe(warmup=0, decay=0)), tmp_path))
    same = [k for (k, a), b in zip(before.named_parameters(), after.parameters(), strict=True) if a.equal(b)]
    assert not same


def test_the_cell_of_the_first_estimate_is_the_most_probable_one(pool: str) -> None:
    """64 x 48 pixels seen as 64 x 64 are 8 x 8 cells, so the middle of cell (i, j) is pixel (8 i + 3.5, 6 j + 2.5)."""
    model = build_model(replace(SMALL["tapir"], peak_radius=0.5))  # so that it is the middle of the best cell
    assert isinstance(model, Tapir)
    initialise(model, seed=0)
    features = model.encode(torch.from_numpy(np.array(ClipPool.open(pool)[0].frames[:2]))[None])
    points = model.describe(features, torch.tensor([[[0.0, 20, 20]]]))
    columns, rows = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    middles = torch.stack([8 * columns + 3.5, 6 * rows + 2.5], dim=-1).flatten(0, 1)
    in_frame_1 = torch.tensor([[[False], [True]]])
    with torch.no_grad():
        found = next(iter(model.iterate(features, points))).xy[0, 1, 0]
        losses = [first_estimate_loss(model, features, points, m.expand(1, 2, 1, 2), in_frame_1) for m in middles]
    probabilities = torch.exp(-torch.stack(losses))
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(middles[probabilities.argmax()], found)


@pytest.mark.parametrize("family", FAMILIES)
def test_points_that_are_seen_at_no_known_place_are_not_matched(family: str, pool: str) -> None:
    small = recipe(family, pool, 1)
    model = starting_model(small)
    objective = tracking_objective(model, small.tracking, encoder_frozen=False)
    batch, *_ = Steps(small, process=0)[0][0]
    known = batch.valid.clone()
    known[:, :, 4:] = False
    batch = batch._replace(visible=torch.ones_like(known))
    losses = []
    for changed in (batch, batch._replace(valid=known), batch._replace(visible=known, valid=known)):
        features = model.encode(changed.frames)
        torch.manual_seed(0)
        points = model.describe(features, changed.queries)
        losses.append(objective.matching_part(features, points, changed).item())
    assert losses[1] == losses[2]
    assert losses[1] != losses[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_held_back_clips_are_scored_in_the_mode_of_the_model(family: str, pool: str) -> None:
    with torch.inference_mode():
        rows, pictures = validate_tracking(
            starting_model(recipe(family, pool, 1)), ClipPool.open(pool), [0, 1], masked=True
        )
    assert [set(row) for row in rows] == 2 * [{"aj", "delta_avg", "oa", "delta_1", "delta_16", "score"}]
    assert len(pictures) == 2


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("cotracker2", {"windowed": 0.5}, "tracking.windowed=1"),
        ("cotracker2", {"window": (8, 16)}, r"window=\[8,8\]"),
        ("cotracker2", {"confidence": 1.0}, "confidence=0"),
        ("tapir", {"windowed": 0.5}, "tracking.windowed=0"),
        ("tapir", {"jittered": 0.5}, "tracking.jittered=0"),
        ("tapir", {"gamma": 0.5, "masked": False}, "does not use tracking.gamma, tracking.masked"),
        ("tapir", {"known_only": True}, "does not use tracking.known_only"),
    ],
)
def test_a_recipe_that_does_not_suit_the_model_is_refused(family: str, changes: Any, message: str, pool: str) -> None:
    model = starting_model(recipe(family, pool, 1))
    with pytest.raises(OptionError, match=message):
        tracking_objective(model, replace(DRIVEN[family], **changes), encoder_frozen=False)


def test_a_family_without_a_loss_or_initial_weights_is_refused(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(zoo.UNTRAINED, "other", TAPNEXT)
    with pytest.raises(ModelError, match="'tapnext' does not say with which weights"):
        starting_model(replace(recipe("tapir", pool, 1), model="other"))
    with pytest.raises(OptionError, match="this is TAPIR"):
        MatchingObjective(starting_model(recipe("tapir", pool, 1)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_encoder_gets_no_gradients(family: str, pool: str) -> None:
    objective = tracking_objective(starting_model(recipe(family, pool, 1)), DRIVEN[family], encoder_frozen=True)
    encoder = {"cotracker2": "model.fnet.", "tapir": "model.resnet_torch."}[family]
    frozen = {name for name, parameter in objective.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in objective.named_parameters() if name.startswith(encoder)}


def test_a_recipe_chooses_the_penalty_of_distances(pool: str) -> None:
    model = starting_model(recipe("tapir", pool, 1))
    far = torch.tensor([10.0])
    costs, losses = [], []
    for penalty in ("huber", "charbonnier", "logarithmic"):
        small = recipe("tapir", pool, 1)
        small = replace(small, tracking=replace(small.tracking, penalty=penalty))
        costs.append(float(tracking_objective(model, small.tracking, encoder_frozen=False).penalty(far)))
        losses.append(loss_of(model, small))
    expected = [4 * (10 - 2), 9.51, 4 * np.log(1 + 9.51 / 4)]  # TAPIR's turns at 4 px
    assert costs == pytest.approx(expected, abs=0.01)
    assert losses[0] > 1.5 * losses[1]
    assert losses[1] > losses[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_recipe_of_the_repository_suits_its_model(family: str) -> None:
    found = load_recipe(RECIPES / f"tiny_{family}.yaml")
    assert found.model == f"{family}-tiny"
    model = starting_model(replace(found, start_from=None))
    tracking_objective(model, found.tracking, encoder_frozen=False)
    assert 2 * sum(value.numel() for value in model.state_dict().values()) < 12e6  # bytes, in float16
