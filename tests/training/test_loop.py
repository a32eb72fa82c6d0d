"""The loop: it learns, it resumes exactly, it survives a broken checkpoint and refuses another recipe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pointloom.datasets.pool import fill_pool
from pointloom.datasets.synthetic import LayeredConfig, TextureBank, make_clip
from pointloom.errors import OptionError, PointloomWarning
from pointloom.models import zoo
from pointloom.models.cotracker3 import TINY, CoTracker3, initialise
from pointloom.training.checkpoint import load_newest, save_checkpoint
from pointloom.training.loop import learning_rate, starting_model, train
from pointloom.training.recipe import DataRecipe, OptimizerRecipe, PoolShare, Recipe, TrackingRecipe, load_recipe

SMALL = replace(
    TINY, channels=16, fine_channels=8, hidden=32, heads=2, correlation_hidden=16, correlation_width=8, levels=2
)


@pytest.fixture(autouse=True)
def small_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(zoo.ZOO["tiny"], name="small", config=SMALL)
    monkeypatch.setitem(zoo.ZOO, "small", entry)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pool")
    bank = TextureBank.procedural(count=2)
    config = LayeredConfig(size=(64, 48), frames=10, tracks=64)
    fill_pool(folder, range(3), lambda seed: make_clip(config, bank, seed))
    return str(folder)


def recipe(pool: str, objective: str, steps: int) -> Recipe:
    return Recipe(
        model="small",
        objective=objective,  # type: ignore[arg-type]
        steps=steps,
        precision="32-true",
        data=DataRecipe(pools=[PoolShare(pool)], clips=2, points=16, frames=(8, 10)),
        optimizer=OptimizerRecipe(warmup=2, average=0.9),
        tracking=TrackingRecipe(iterations=2, jittered=0.5, window=(4, 8), matching_weight=0.5),
        validation=pool,
        validation_clips=2,
        validate_every=4,
    )


def rows(run: Path, group: str) -> list[dict[str, float]]:
    return [
        row for line in (run / "metrics.jsonl").read_text().splitlines() if (row := json.loads(line))["group"] == group
    ]


@pytest.mark.parametrize("objective", ["matching", "tracking"])
def test_a_run_that_stopped_goes_on_as_if_it_had_not(pool: str, tmp_path: Path, objective: str) -> None:
    whole = train(recipe(pool, objective, 8), tmp_path / "whole")
    broken = tmp_path / "broken"
    train(recipe(pool, objective, 8), broken)
    for path in (broken / "checkpoints").glob("step_*8.pt"):
        path.unlink()  # back to step 4
    assert load_newest(broken / "checkpoints")["step"] == 4  # type: ignore[index]
    (broken / "weights.safetensors").unlink()
    again = train(recipe(pool, objective, 8), broken)
    assert zoo.weights_hash(zoo.load_model(again)) == zoo.weights_hash(zoo.load_model(whole))


def test_blocks_that_the_start_does_not_have_add_nothing_at_first(pool: str, tmp_path: Path) -> None:
    without = CoTracker3(replace(SMALL, resize="as_is", space_attention=False))
    initialise(without, seed=5)
    torch.nn.init.normal_(without.updateformer.flow_head.weight)  # type: ignore[union-attr]
    zoo.save_weights(tmp_path / "start.safetensors", without, {})
    grown = starting_model(replace(recipe(pool, "tracking", 1), start_from=str(tmp_path / "start.safetensors")))
    assert grown.config.space_attention
    frames = torch.randint(0, 256, (1, 4, 48, 64, 3)).float()
    queries = torch.tensor([[[0.0, 20, 20], [1, 30, 10]]])

    def track(model: CoTracker3) -> torch.Tensor:
        features = model.encode(frames)
        return model.refine(features, model.describe(features, queries)).xy

    assert torch.equal(track(grown), track(without))
    assert not torch.equal(track(grown), queries[:, None, :, 1:].expand(-1, 4, -1, -1))


def test_matching_learns(pool: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(replace(recipe(pool, "matching", 60), validate_every=2), run)
    found = [row["within_4px"] for row in rows(run, "validation")]
    assert found[0] < 20
    assert found[-1] > 40


def test_a_run_leaves_its_recipe_scores_and_weights(pool: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    weights = train(recipe(pool, "tracking", 4), run)
    assert weights == run / "weights.safetensors"
    assert load_recipe(run / "recipe.yaml") == recipe(pool, "tracking", 4)
    assert 0 <= rows(run, "validation")[-1]["delta_avg"] <= 100
    assert zoo.load_model(weights).config == SMALL  # with its own resize rule, not the one it was trained with


def test_another_recipe_is_refused_in_the_same_folder(pool: str, tmp_path: Path) -> None:
    train(recipe(pool, "matching", 2), tmp_path)
    with pytest.raises(OptionError, match="another recipe"):
        train(recipe(pool, "matching", 3), tmp_path)


def test_a_broken_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"step": 1})
    newest = save_checkpoint(tmp_path, 2, {"step": 2})
    newest.write_bytes(newest.read_bytes()[:50])
    with pytest.warns(PointloomWarning, match="going on from the one before"):
        state = load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 1


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in range(5):
        save_checkpoint(tmp_path, step, {"step": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000003.pt", "step_00000004.pt"]


def test_the_rate_warms_up_and_falls_along_a_cosine() -> None:
    rates = OptimizerRecipe(rate=1.0, warmup=10, final_rate=0.1)
    values = [learning_rate(rates, step, 110) for step in range(111)]
    assert values[0] == pytest.approx(0.1)
    assert max(values) == pytest.approx(1.0)
    assert values[60] == pytest.approx(0.55)  # half of the way down
    assert values[110] == pytest.approx(0.1)
    assert np.all(np.diff(values[10:]) < 0)


def test_recipes_of_the_repository_are_readable() -> None:
    folder = Path(__file__).parents[2] / "recipes"
    files = sorted(folder.glob("*.yaml"))
    assert files
    for path in files:
        assert load_recipe(path).steps > 0


def test_a_wrong_recipe_names_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: tiny\nobjective: tracking\nsteps: 5\ndata: {pools: [{folder: x}]}\n")
    assert load_recipe(path, ["optimizer.rate=0.5"]).optimizer.rate == 0.5
    with pytest.raises(OptionError, match="speed"):
        load_recipe(path, ["optimizer.speed=1"])
    path.write_text("model: tiny\nobjective: tracking\nsteps: 5\n")
    with pytest.raises(OptionError, match="names no clips"):
        load_recipe(path)


def test_positions_stay_exact_in_mixed_precision(pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pointloom.training import objectives

    seen: list[torch.dtype] = []
    original = objectives.MatchingObjective.forward

    def watching(self: objectives.MatchingObjective, batch: objectives.PairBatch) -> dict[str, torch.Tensor]:
        seen.append(batch.first.dtype)
        return original(self, batch)

    monkeypatch.setattr(objectives.MatchingObjective, "forward", watching)
    train(replace(recipe(pool, "matching", 2), precision="bf16-mixed"), tmp_path)
    assert set(seen) == {torch.float32}
