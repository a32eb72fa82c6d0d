"""The training loop: one recipe in, a folder with checkpoints, metrics and weights out.

    runs/NAME/ recipe.yaml   metrics.jsonl   passed.jsonl   checkpoints/step_*.pt   events.* (TensorBoard)
               best.safetensors   weights.safetensors

The same call starts a run and goes on with it. Clips of a step depend on (seed, step, number of the clip) and other
random numbers on (seed, step, process) alone, so a run that was killed continues as if it had not been. Several
processes (`processes`, or torchrun) average their gradients.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pointloom.datasets.pool import ClipPool
from pointloom.errors import ModelError, OptionError
from pointloom.models.base import Model
from pointloom.models.weight_files import load_model, save_weights
from pointloom.models.zoo import build_model, config_named, initial_model
from pointloom.training.batches import draw_pairs, draw_tracks
from pointloom.training.checkpoint import load_newest, save_checkpoint
from pointloom.training.log import Log
from pointloom.training.objectives import MatchingObjective, tracking_objective
from pointloom.training.optimization import blend_into, learning_rate, make_optimizer
from pointloom.training.recipe import Recipe, load_recipe
from pointloom.training.sources import Passed, Sources
from pointloom.training.validate import Picture, Scores, validate_matching, validate_tracking

LAST_OF_BLOCKS = (".to_out.weight", ".mlp.fc2.weight", ".fine_context.weight")  # what a block adds comes from these


def train(recipe: Recipe, run: Path) -> Path:
    """Run a recipe to its end, or go on with it, and return the path of the weights."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    devices, nodes = devices_and_nodes(recipe.processes)
    fabric = Fabric(
        accelerator="auto",
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if recipe.processes > 1 else "auto",
    )
    fabric.launch()
    return _train(fabric, recipe, run)


def devices_and_nodes(processes: int) -> tuple[int, int]:
    """Return how many processes run on this machine, and on how many machines, as torchrun says in the environment."""
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return processes, 1
    here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    if everywhere != processes:
        raise OptionError(
            f"the recipe is for {processes} processes, but {everywhere} were started. What is learned depends on their "
            f"number: start {processes}, or change the recipe with processes={everywhere}."
        )
    return here, everywhere // here


def _train(fabric: Fabric, recipe: Recipe, run: Path) -> Path:
    model = starting_model(recipe)
    if recipe.objective == "matching":
        objective: nn.Module = MatchingObjective(model)
    else:
        frozen = recipe.optimizer.encoder_rate == 0
        objective = tracking_objective(model, recipe.tracking, encoder_frozen=frozen)
    optimizer = make_optimizer(objective, recipe.optimizer)
    average = {k: v.detach().clone() for k, v in model.state_dict().items()} if recipe.optimizer.average else None
    held_back = ClipPool.open(recipe.validation) if recipe.validation else None
    _claim(fabric, recipe, run)  # not before what can be wrong with the recipe: a mended one may have the folder
    step, best, seconds, skipped = 0, -math.inf, 0.0, 0
    state = load_newest(run / "checkpoints")
    if state is not None:
        objective.load_state_dict(state["objective"])
        average, step, best = state["average"], state["step"], state["best"]
        seconds, skipped = state["seconds"], state["skipped"]
    wrapped, wrapped_optimizer = fabric.setup(objective, optimizer)
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])  # now that the parameters are on their device
    average = fabric.to_device(average)
    log = Log(fabric, run, recipe.steps, step, seconds, skipped)
    drawn = Steps(recipe, fabric.global_rank).from_step(step)
    saved = time.monotonic()

    def save() -> None:
        if fabric.is_global_zero:
            state = {
                "objective": objective.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
                "step": step,
                "best": best,
                "seconds": log.seconds,
                "skipped": log.skipped,
            }
            save_checkpoint(run / "checkpoints", step, state)

    def save_trained(path: Path) -> None:
        if fabric.is_global_zero:
            trained = build_model(config_named(recipe.model))
            trained.load_state_dict(average or model.state_dict())
            about = {"recipe": run.name, "steps": str(step), "hours": f"{log.seconds / 3600:.2f}"}
            save_weights(path, trained, about)

    while step < recipe.steps:
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(recipe.optimizer, step, recipe.steps)
        with log.waiting():
            arguments, passed = next(drawn)
        log.passed_over(step + 1, passed)
        torch.manual_seed(int(generator(recipe.seed, step, "torch", fabric.global_rank).integers(2**31)))
        # not Fabric's mixed precision: it rounds the inputs too, and bfloat16 positions are off by a pixel
        with torch.autocast(fabric.device.type, torch.bfloat16, enabled=recipe.precision == "bf16-mixed"):
            losses = wrapped(*fabric.to_device(arguments))
        fabric.backward(losses["total"])
        norm = fabric.clip_gradients(
            wrapped, wrapped_optimizer, max_norm=recipe.optimizer.clip, error_if_nonfinite=False
        )
        if norm is not None and torch.isfinite(norm):
            wrapped_optimizer.step()
        else:
            log.skipped += 1
        wrapped_optimizer.zero_grad()
        step += 1
        if average is not None:
            blend_into(average, model, recipe.optimizer.average, step)
        log.step(step, losses, norm)
        if held_back and (step % recipe.validate_every == 0 or step == recipe.steps):
            scores, pictures = validate(fabric, objective, model, average, held_back, recipe)
            log.scores(step, scores, pictures)
            if scores["score"] > best:
                best = scores["score"]
                save_trained(run / "best.safetensors")
            save()
            saved = time.monotonic()
        elif time.monotonic() - saved > 60 * recipe.checkpoint_minutes:
            save()
            saved = time.monotonic()
    save()
    log.close()
    save_trained(run / "weights.safetensors")
    fabric.barrier()
    return run / "weights.safetensors"


def generator(seed: int, step: int, purpose: Literal["clip", "shared", "torch"], number: int) -> np.random.Generator:
    """Return the generator of one purpose in one step; no two have anything in common."""
    return np.random.default_rng([seed, step, ("clip", "shared", "torch").index(purpose), number])


Drawn = tuple[tuple[Any, ...], list[Passed]]


class Steps(Dataset[Drawn]):
    """What each step of one process sees: the arguments of the objective, and which draws were passed over."""

    def __init__(self, recipe: Recipe, process: int) -> None:
        self.recipe = recipe
        self.process = process
        self.sources = Sources.open(recipe.data.sources)

    def from_step(self, step: int) -> Iterator[Drawn]:
        """Draw one step after the other, ahead of time if the recipe has workers."""
        order = range(step, self.recipe.steps)
        workers = self.recipe.data.workers
        return iter(DataLoader(self, batch_size=None, sampler=order, num_workers=workers, collate_fn=_as_drawn))

    def __getitem__(self, step: int) -> Drawn:
        """Draw a step. The length of its clips and its windows are the same in all processes."""
        recipe, data = self.recipe, self.recipe.data
        first = self.process * data.clips
        rngs = [generator(recipe.seed, step, "clip", first + i) for i in range(data.clips)]
        if recipe.objective == "matching":
            pairs, passed = draw_pairs(self.sources, data, rngs)
            return (pairs,), passed
        shared = generator(recipe.seed, step, "shared", 0)
        frames = int(shared.integers(data.frames[0], data.frames[1] + 1))
        if shared.random() < recipe.tracking.windowed:
            window = 2 * int(shared.integers(recipe.tracking.window[0] // 2, recipe.tracking.window[1] // 2 + 1))
            windows = (min(window, frames), min(window, frames) // 2)
            jittered = False
        else:
            windows = (frames, frames)
            jittered = bool(shared.random() < recipe.tracking.jittered)
        tracks, passed = draw_tracks(self.sources, data, frames, rngs)
        return (tracks, windows, jittered), passed


def starting_model(recipe: Recipe) -> Model:
    """Make the model of a recipe: initial weights, or those it starts from.

    A block that these weights do not have adds nothing at first, so that the model begins as good as they are. Raises
    ModelError for weights of other widths, or of another family.
    """
    config = config_named(recipe.model)
    if hasattr(config, "resize"):
        config = replace(config, resize="as_is")  # clips are made at the size to train on
    model = initial_model(config, recipe.seed)
    if recipe.start_from:
        other = load_model(recipe.start_from).state_dict()
        own = model.state_dict()
        known = {k: v for k, v in other.items() if k in own}
        changed = [k for k, v in known.items() if own[k].shape != v.shape]
        if changed or not known:
            what = f"{changed[0]} has another shape" if changed else "no name of a parameter is the same"
            raise ModelError(f"the model {recipe.model} cannot start from {recipe.start_from}: {what}.")
        quiet = {k: torch.zeros_like(v) for k, v in own.items() if k not in other and k.endswith(LAST_OF_BLOCKS)}
        model.load_state_dict(own | quiet | known)
    return model


def _as_drawn(drawn: Any) -> Any:
    """Keep a step as it is: the loader's own way turns tuples into lists."""
    return drawn


def validate(
    fabric: Fabric,
    objective: nn.Module,
    model: Model,
    average: dict[str, Tensor] | None,
    pool: ClipPool,
    recipe: Recipe,
) -> tuple[Scores, dict[str, Picture]]:
    """Score the (averaged) weights on held-back clips, each process its share of them, and draw some tracks."""
    mine = range(fabric.global_rank, min(recipe.validation_clips, len(pool)), fabric.world_size)
    kept = {k: v.clone() for k, v in model.state_dict().items()} if average else None
    if average:
        model.load_state_dict(average)
    pictures: dict[str, Picture] = {}
    with torch.inference_mode():
        if isinstance(objective, MatchingObjective):
            rows = validate_matching(objective, pool, mine)
        else:
            rows, pictures = validate_tracking(model, pool, mine, masked=recipe.tracking.masked)
    if kept:
        model.load_state_dict(kept)
    return mean_over_processes(fabric, rows), pictures


def mean_over_processes(fabric: Fabric, rows: list[Scores]) -> Scores:
    """Mean of each score over the clips of all processes for which there is one."""
    gathered: list[list[Scores]] = [rows]
    if fabric.world_size > 1:
        gathered = [[] for _ in range(fabric.world_size)]
        torch.distributed.all_gather_object(gathered, rows)
    everything = [row for of_one in gathered for row in of_one]
    names = everything[0] if everything else ()
    values = {name: [row[name] for row in everything if not math.isnan(row[name])] for name in names}
    return {"score": math.nan} | {name: sum(v) / len(v) if v else math.nan for name, v in values.items()}


def _claim(fabric: Fabric, recipe: Recipe, run: Path) -> None:
    """Write the recipe into the run's folder, or refuse a folder that holds another one."""
    path = run / "recipe.yaml"
    if path.exists() and load_recipe(path) != recipe:  # every process sees that, so that none waits for the others
        raise OptionError(f"{run} holds a run of another recipe. Give another folder, or the same recipe.")
    fabric.barrier()
    if fabric.is_global_zero:
        run.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(OmegaConf.to_yaml(OmegaConf.structured(recipe)))
        unfinished.replace(path)
    fabric.barrier()
