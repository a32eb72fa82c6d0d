"""The loop: it learns, it resumes exactly, it survives a broken checkpoint and refuses another recipe."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import small_run
import torch
from lightning_fabric import Fabric
from omegaconf import OmegaConf
from small_run import ENTRY, SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pointloom.datasets.pool import fill_pool
from pointloom.datasets.synthetic import LayeredConfig, TextureBank, make_clip
from pointloom.errors import DatasetError, FormatError, ModelError, OptionError, PointloomWarning
from pointloom.models import tapir, zoo
from pointloom.models.cotracker3 import CoTracker3, initialise
from pointloom.models.weight_files import load_model, save_weights, weights_hash
from pointloom.models.zoo import build_model
from pointloom.training import log
from pointloom.training.checkpoint import load_newest, save_checkpoint
from pointloom.training.loop import Steps, devices_and_nodes, generator, starting_model, train
from pointloom.training.recipe import (
    Augmentation,
    DataRecipe,
    OptimizerRecipe,
    Recipe,
    SourceShare,
    TrackingRecipe,
    load_recipe,
)

PROGRAM = Path(small_run.__file__)


@pytest.fixture(autouse=True)
def small_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(zoo.ZOO, "small", ENTRY)


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
        data=DataRecipe(sources=[SourceShare(folder=pool)], clips=2, points=16, frames=(8, 10)),
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
    assert weights_hash(load_model(again)) == weights_hash(load_model(whole))


def saved(recipe: Recipe, path: Path) -> Path:
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(recipe)))
    return path


def test_a_run_that_is_killed_goes_on_as_if_it_had_not(pool: str, tmp_path: Path) -> None:
    steps = 6
    small = replace(recipe(pool, "tracking", steps), checkpoint_minutes=0, validation=None)
    whole = train(small, tmp_path / "whole")
    run = tmp_path / "killed"
    command = [sys.executable, str(PROGRAM), str(saved(small, tmp_path / "recipe.yaml")), str(run)]
    last, later_s = random.randint(1, steps - 2), random.uniform(0, 0.2)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.startswith(f"step {last}/") for line in process.stdout)
        with suppress(subprocess.TimeoutExpired):
            process.wait(later_s)  # so that it is killed anywhere in a step, or while it saves
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (run / "weights.safetensors").exists()

    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    again = load_model(run / "weights.safetensors")
    assert weights_hash(again) == weights_hash(load_model(whole)), f"killed {later_s} s after step {last}"
    assert [row["step"] for row in rows(run, "train")] == list(range(1, steps + 1))
    assert not list((run / "checkpoints").glob("*.tmp"))


def test_two_processes_have_the_gradients_of_one_and_pass_over_the_same_clips(pool: str, tmp_path: Path) -> None:
    mixed = tmp_path / "pool"
    shutil.copytree(pool, mixed)
    for name in ("damaged-1", "damaged-2", "damaged-3"):
        shutil.copytree(mixed / "00000000", mixed / name)
        (mixed / name / "frames.npy").write_bytes(b"nothing")
    small = recipe(str(mixed), "tracking", 1)
    one = replace(
        small,
        tracking=replace(small.tracking, jittered=0, matching_weight=0),  # these draw for a process, not for a clip
        optimizer=replace(small.optimizer, clip=1e9),
        validation=None,
    )
    two = replace(one, processes=2, data=replace(one.data, clips=1))
    with pytest.warns(PointloomWarning, match="passed over .*damaged"):
        train(one, tmp_path / "one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(PROGRAM)]
    arguments = [str(saved(two, tmp_path / "recipe.yaml")), str(tmp_path / "two")]
    done = subprocess.run([*torchrun, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    moments = []
    for name in ("one", "two"):
        state = load_newest(tmp_path / name / "checkpoints")
        assert state is not None
        moments.append([moment["exp_avg"] for moment in state["optimizer"]["state"].values()])  # 0.1 x gradient
    largest = max(float(moment.abs().max()) for moment in moments[0])
    assert largest > 1e-4
    for a, b in zip(*moments, strict=True):
        assert float((a - b).abs().max()) < 1e-5 * largest

    passed = [
        [json.loads(line) for line in (tmp_path / name / "passed.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    paths = [sorted(row["path"] for row in of_run) for of_run in passed]
    assert paths[0] == paths[1]
    assert all(Path(path).name.startswith("damaged") and Path(path).parent == mixed for path in paths[0])
    for name, of_run in zip(("one", "two"), passed, strict=True):
        assert rows(tmp_path / name, "train")[-1]["passed"] == len(of_run)


def test_workers_prepare_what_the_process_itself_would(pool: str) -> None:
    small = recipe(pool, "tracking", 4)
    own = Steps(small, process=0)
    ahead = Steps(replace(small, data=replace(small.data, workers=1)), process=0).from_step(2)
    for step, ((tracks, *others), passed) in zip((2, 3), ahead, strict=True):
        (own_tracks, *own_others), own_passed = own[step]
        assert (others, passed) == (own_others, own_passed)
        assert all(torch.equal(a, b) for a, b in zip(tracks, own_tracks, strict=True))


def test_generators_of_a_step_have_nothing_in_common() -> None:
    drawn = {
        generator(seed, step, purpose, number).random()  # type: ignore[arg-type]
        for seed in (0, 1)
        for step in (0, 1)
        for purpose in ("clip", "shared", "torch")
        for number in (0, 1)
    }
    assert len(drawn) == 24


def test_torchrun_says_how_many_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices_and_nodes(2) == (2, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setenv("WORLD_SIZE", "32")
    assert devices_and_nodes(32) == (8, 4)
    with pytest.raises(OptionError, match="processes=32"):
        devices_and_nodes(8)


def test_validation_shows_tracks_and_keeps_the_best_weights(pool: str, tmp_path: Path) -> None:
    train(recipe(pool, "tracking", 4), tmp_path)
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert board.Tags()["images"] == ["tracks/00000000", "tracks/00000001"]
    (shown,) = board.Images("tracks/00000000")
    assert (shown.step, shown.width, shown.height) == (4, 4 * 320, 2 * 240)
    assert load_model(tmp_path / "best.safetensors").config == SMALL


def test_the_log_forgets_what_is_done_again(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a": 3}\n{"step": 4, "a')
    log.forget_after(metrics, 2)
    assert metrics.read_text() == '{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n'


def test_what_was_passed_over_is_counted_and_named_once_although_a_run_was_interrupted(
    pool: str, tmp_path: Path
) -> None:
    mixed, run = tmp_path / "pool", tmp_path / "run"
    shutil.copytree(pool, mixed)
    shutil.copytree(mixed / "00000000", mixed / "damaged")
    (mixed / "damaged" / "frames.npy").write_bytes(b"nothing")
    small = recipe(str(mixed), "tracking", 8)
    small = replace(small, validation=pool)
    with pytest.warns(PointloomWarning, match="passed over"):
        train(small, run)
    named = (run / "passed.jsonl").read_text()
    assert {json.loads(row)["step"] for row in named.splitlines()} & {5, 6, 7, 8}
    (run / "checkpoints" / "step_00000008.pt").unlink()
    with pytest.warns(PointloomWarning, match="passed over"):
        train(small, run)
    assert (run / "passed.jsonl").read_text() == named
    assert rows(run, "train")[-1]["passed"] == len(named.splitlines())


def test_a_start_that_does_not_fit_is_refused(pool: str, tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    small = replace(recipe(pool, "tracking", 1), start_from=str(start))
    save_weights(start, build_model(replace(SMALL, hidden=48)), {})
    with pytest.raises(ModelError, match=r"the model small cannot start from .* has another shape"):
        starting_model(small)
    save_weights(start, build_model(tapir.TINY), {})
    with pytest.raises(ModelError, match="no name of a parameter is the same"):
        starting_model(small)


def test_a_pool_for_validation_that_is_missing_is_noticed_before_the_first_step(pool: str, tmp_path: Path) -> None:
    small = replace(recipe(pool, "tracking", 100), validation=str(tmp_path / "nowhere"))
    with pytest.raises(DatasetError, match="nowhere holds no clips"):
        train(small, tmp_path / "run")
    assert not (tmp_path / "run").exists()  # so that the same folder can be used once the recipe is mended


def test_blocks_that_the_start_does_not_have_add_nothing_at_first(pool: str, tmp_path: Path) -> None:
    without = CoTracker3(replace(SMALL, resize="as_is", space_attention=False))
    initialise(without, seed=5)
    torch.nn.init.normal_(without.updateformer.flow_head.weight)  # type: ignore[union-attr]
    save_weights(tmp_path / "start.safetensors", without, {})
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
    assert load_model(weights).config == SMALL  # with its own resize rule, not the one it was trained with


def test_another_recipe_is_refused_in_the_same_folder(pool: str, tmp_path: Path) -> None:
    train(recipe(pool, "matching", 2), tmp_path)
    with pytest.raises(OptionError, match="another recipe"):
        train(recipe(pool, "matching", 3), tmp_path)


def test_every_process_refuses_another_recipe_and_none_waits(
    pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe(pool, "matching", 2), tmp_path)
    monkeypatch.setattr(Fabric, "is_global_zero", False)
    monkeypatch.setattr(Fabric, "barrier", lambda fabric: pytest.fail("waits for a process that has stopped"))
    with pytest.raises(OptionError, match="another recipe"):
        train(recipe(pool, "matching", 3), tmp_path)


def test_a_broken_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"step": 1})
    newest = save_checkpoint(tmp_path, 2, {"step": 2})
    newest.write_bytes(newest.read_bytes()[:50])
    with pytest.warns(PointloomWarning, match="trying the one before"):
        state = load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 1


def test_a_run_does_not_begin_again_because_its_checkpoints_cannot_be_read(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    save_checkpoint(tmp_path, 1, {"step": 1}).write_bytes(b"")
    with pytest.warns(PointloomWarning), pytest.raises(FormatError, match=r"no checkpoint in .* can be read"):
        load_newest(tmp_path)


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in range(5):
        save_checkpoint(tmp_path, step, {"step": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000003.pt", "step_00000004.pt"]


def test_recipes_of_the_repository_are_readable() -> None:
    folder = Path(__file__).parents[2] / "recipes"
    files = sorted(folder.glob("*.yaml"))
    assert files
    for path in files:
        assert load_recipe(path).steps > 0


def test_a_wrong_recipe_names_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: tiny\nobjective: tracking\nsteps: 5\ndata: {sources: [{folder: x}]}\n")
    assert load_recipe(path, ["optimizer.rate=0.5"]).optimizer.rate == 0.5
    with pytest.raises(OptionError, match="speed"):
        load_recipe(path, ["optimizer.speed=1"])
    for wrong, message in {
        "data.frames=[24,16]": "data.frames is the shortest and the longest clip",
        "tracking.window=[1,1]": "tracking.window is the shortest and the longest window, from 2",
        "validate_every=0": "validate_every must be at least 1",
        "seed=-1": "seed at least 0",
        "steps=0": "steps and processes must be at least 1",
    }.items():
        with pytest.raises(OptionError, match=message):
            load_recipe(path, [wrong])
    path.write_text("model: tiny\nobjective: tracking\nsteps: 5\n")
    with pytest.raises(OptionError, match="names no clips"):
        load_recipe(path)
    path.write_text("model: [tiny")
    with pytest.raises(OptionError, match=r"recipe\.yaml: "):
        load_recipe(path)
    with pytest.raises(OptionError, match=r"nowhere\.yaml cannot be read: No such file"):
        load_recipe(tmp_path / "nowhere.yaml")


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


@pytest.mark.parametrize(
    ("kind", "frames", "stride", "points", "seen_in", "anywhere", "windowed"),
    [
        ("offline", (30, 59), 4, 512, ["first", "middle", "last"], 1.0, 0),
        ("online", (64, 64), 1, 384, ["first", "middle"], 0.25, 1),
    ],
)
def test_the_recipes_of_cotracker3_are_the_published_ones(
    kind: str, frames: tuple[int, int], stride: int, points: int, seen_in: list[str], anywhere: float, windowed: float
) -> None:
    found = load_recipe(Path(__file__).parents[2] / "recipes" / f"cotracker3_{kind}.yaml")
    assert (found.model, found.steps, found.processes, found.seed) == (f"cotracker3-{kind}", 50_000, 32, 42)
    assert (found.precision, found.start_from) == ("bf16-mixed", None)
    data, optimizer, tracking = found.data, found.optimizer, found.tracking
    assert (data.clips, data.frames, data.longest_stride) == (1, frames, stride)
    assert (data.points, data.seen_in, data.anywhere) == (points, seen_in, anywhere)
    assert (data.repeated, data.farthest_px, data.augmentation) == (False, 1000, Augmentation())
    assert (optimizer.rate, optimizer.schedule, optimizer.warmup) == (5e-4, "one_cycle", 2505)
    assert (optimizer.decay, optimizer.decayed, optimizer.betas) == (5e-4, "all", (0.9, 0.999))
    assert (optimizer.clip, optimizer.average, optimizer.encoder_rate) == (1.0, 0, 1.0)
    assert (tracking.iterations, tracking.windowed, tracking.jittered, tracking.masked) == (4, windowed, 0, False)
    assert (tracking.visible, tracking.occluded, tracking.confidence, tracking.visibility) == (0.05, 0.01, 1, 1)
    assert (tracking.gamma, tracking.penalty, tracking.confidence_px) == (0.8, "huber", 12)
    assert (tracking.matching_weight, tracking.window if windowed else (16, 16)) == (0, (16, 16))
