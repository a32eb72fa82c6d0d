"""The training loop: one recipe in, a folder with checkpoints, metrics and weights out.

    runs/NAME/ recipe.yaml   metrics.jsonl   checkpoints/step_*.pt   events.* (TensorBoard)   weights.safetensors

The same call starts a run and goes on with it. Batches and random numbers of a step depend on (seed, step, process)
alone, so a run that was killed continues as if it had not been. Several processes (`processes`, or torchrun) average
their gradients.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from pointloom.errors import OptionError
from pointloom.models.cotracker3 import CoTracker3, initialise
from pointloom.models.zoo import config_named, load_model, save_weights
from pointloom.training.batches import Source, draw_pairs, draw_tracks
from pointloom.training.checkpoint import load_newest, save_checkpoint
from pointloom.training.objectives import MatchingObjective, TrackingObjective
from pointloom.training.recipe import DataRecipe, OptimizerRecipe, PoolShare, Recipe
from pointloom.training.validate import validate_matching, validate_tracking

REPORT_EVERY = 20  # steps
LAST_OF_BLOCKS = (".to_out.weight", ".mlp.fc2.weight", ".fine_context.weight")  # what a block adds comes from these


def train(recipe: Recipe, run: Path) -> Path:
    """Run a recipe to its end, or go on with it, and return the path of the weights."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    fabric = Fabric(
        accelerator="auto",
        devices=recipe.processes,
        strategy="ddp" if recipe.processes > 1 else "auto",
    )
    fabric.launch()
    return _train(fabric, recipe, run)


def _train(fabric: Fabric, recipe: Recipe, run: Path) -> Path:
    _claim(fabric, recipe, run)
    model = starting_model(recipe)
    if recipe.objective == "matching":
        objective: nn.Module = MatchingObjective(model)
    else:
        frozen = recipe.optimizer.encoder_rate == 0
        objective = TrackingObjective(model, recipe.tracking, encoder_frozen=frozen)
    optimizer = make_optimizer(objective, recipe.optimizer)
    average = {k: v.detach().clone() for k, v in model.state_dict().items()} if recipe.optimizer.average else None
    step, best, seconds = 0, -math.inf, 0.0
    state = load_newest(run / "checkpoints")
    if state is not None:
        objective.load_state_dict(state["objective"])
        optimizer.load_state_dict(state["optimizer"])
        average, step, best, seconds = state["average"], state["step"], state["best"], state["seconds"]
    wrapped, wrapped_optimizer = fabric.setup(objective, optimizer)
    source = Source.open(recipe.data)
    log = Log(fabric, run, recipe.steps, step, seconds)
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
            }
            save_checkpoint(run / "checkpoints", step, state)

    while step < recipe.steps:
        rng = np.random.default_rng([recipe.seed, step, fabric.global_rank])
        torch.manual_seed(int(rng.integers(2**31)))
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(recipe.optimizer, step, recipe.steps)
        with log.waiting():
            arguments = draw_arguments(source, recipe, rng, step)
        # not Fabric's mixed precision: it rounds the inputs too, and bfloat16 positions are off by a pixel
        with torch.autocast(fabric.device.type, torch.bfloat16, enabled=recipe.precision == "bf16-mixed"):
            losses = wrapped(*arguments)
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
        if recipe.validation and (step % recipe.validate_every == 0 or step == recipe.steps):
            scores = validate(fabric, objective, model, average, recipe)
            log.scores(step, scores)
            best = max(best, scores["score"])
            save()
            saved = time.monotonic()
        elif time.monotonic() - saved > 60 * recipe.checkpoint_minutes:
            save()
            saved = time.monotonic()
    save()
    log.close()
    weights = run / "weights.safetensors"
    if fabric.is_global_zero:
        trained = CoTracker3(config_named(recipe.model))
        trained.load_state_dict(average or model.state_dict())
        save_weights(weights, trained, {"recipe": run.name, "steps": str(step), "hours": f"{log.seconds / 3600:.2f}"})
    fabric.barrier()
    return weights


def starting_model(recipe: Recipe) -> CoTracker3:
    """Make the model of a recipe: initial weights, or those it starts from.

    A block that these weights do not have adds nothing at first, so that the model begins as good as they are.
    """
    model = CoTracker3(replace(config_named(recipe.model), resize="as_is"))  # clips are made at the size to train on
    initialise(model, recipe.seed)
    if recipe.start_from:
        other = load_model(recipe.start_from).state_dict()
        own = model.state_dict()
        quiet = {k: torch.zeros_like(v) for k, v in own.items() if k not in other and k.endswith(LAST_OF_BLOCKS)}
        known = {k: v for k, v in other.items() if k in own and own[k].shape == v.shape}
        model.load_state_dict(own | quiet | known)
    return model


def make_optimizer(objective: nn.Module, recipe: OptimizerRecipe) -> torch.optim.Optimizer:
    """AdamW with two groups: the encoder, whose rate has a factor, and the rest. Only matrices decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            factor = recipe.encoder_rate if name.startswith("model.fnet.") else 1.0
            decay = recipe.decay if parameter.ndim > 1 else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "factor": factor, "weight_decay": decay} for (factor, decay), p in groups.items()],
        lr=recipe.rate,
        betas=recipe.betas,
    )


def learning_rate(recipe: OptimizerRecipe, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to `final_rate` times the top."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(steps - recipe.warmup, 1)
    return recipe.rate * (recipe.final_rate + (1 - recipe.final_rate) * (0.5 + 0.5 * math.cos(math.pi * progress)))


def draw_arguments(source: Source, recipe: Recipe, rng: np.random.Generator, step: int) -> tuple[Any, ...]:
    """Return the arguments of the objective's forward pass. Clip lengths and windows are the same in all processes."""
    if recipe.objective == "matching":
        return (draw_pairs(source, recipe.data, rng),)
    shared = np.random.default_rng([recipe.seed, step])
    frames = int(shared.integers(recipe.data.frames[0], recipe.data.frames[1] + 1))
    if shared.random() < recipe.tracking.windowed:
        window = 2 * int(shared.integers(recipe.tracking.window[0] // 2, recipe.tracking.window[1] // 2 + 1))
        windows = (min(window, frames), min(window, frames) // 2)
        jittered = False
    else:
        windows = (frames, frames)
        jittered = bool(shared.random() < recipe.tracking.jittered)
    return draw_tracks(source, recipe.data, frames, rng), windows, jittered


@torch.no_grad()
def blend_into(average: dict[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Move the running average towards the weights; the first steps count more, as in a plain mean."""
    decay = min(decay, (1 + step) / (10 + step))
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            average[key].lerp_(value, 1 - decay)


def validate(
    fabric: Fabric, objective: nn.Module, model: CoTracker3, average: dict[str, Tensor] | None, recipe: Recipe
) -> dict[str, float]:
    """Score the (averaged) weights on held-back clips, each process its share of them."""
    assert recipe.validation is not None
    source = Source.open(DataRecipe(pools=[PoolShare(recipe.validation)]))
    pool = source.pools[0]
    mine = range(fabric.global_rank, min(recipe.validation_clips, len(pool)), fabric.world_size)
    kept = {k: v.clone() for k, v in model.state_dict().items()} if average else None
    if average:
        model.load_state_dict(average)
    with torch.inference_mode():
        if isinstance(objective, MatchingObjective):
            scores = validate_matching(objective, pool, mine)
        else:
            scores = validate_tracking(model, pool, mine)
    if kept:
        model.load_state_dict(kept)
    return {k: float(torch.as_tensor(fabric.all_reduce(torch.tensor(v), reduce_op="mean"))) for k, v in scores.items()}


def _claim(fabric: Fabric, recipe: Recipe, run: Path) -> None:
    """Write the recipe into the run's folder, or refuse a folder that holds another one."""
    path = run / "recipe.yaml"
    text = OmegaConf.to_yaml(OmegaConf.structured(recipe))
    if fabric.is_global_zero:
        if path.exists() and path.read_text() != text:
            raise OptionError(f"{run} holds a run of another recipe. Give another folder, or the same recipe.")
        run.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    fabric.barrier()


class Log:
    """A line on the screen, a line in metrics.jsonl and TensorBoard scalars, written by the first process."""

    def __init__(self, fabric: Fabric, run: Path, steps: int, step: int, seconds: float) -> None:
        self.fabric = fabric
        self.steps = steps
        self.first_step = step
        self.seconds_before = seconds
        self.skipped = 0
        self.started = time.monotonic()
        self.waited = 0.0
        self.sums: dict[str, float] = {}
        self.count = 0
        if fabric.is_global_zero:
            self.file = (run / "metrics.jsonl").open("a")
            self.board = SummaryWriter(str(run))

    @property
    def seconds(self) -> float:
        """Seconds trained so far, earlier calls included."""
        return self.seconds_before + time.monotonic() - self.started

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time what is spent on data."""
        start = time.monotonic()
        yield
        self.waited += time.monotonic() - start

    def step(self, step: int, losses: dict[str, Tensor], norm: Tensor | None) -> None:
        """Take note of a step."""
        for key, value in {**losses, "norm": norm}.items():
            if value is not None:
                self.sums[key] = self.sums.get(key, 0.0) + float(value.detach())
        self.count += 1
        if step % REPORT_EVERY == 0 or step == self.steps:
            elapsed = time.monotonic() - self.started
            rate = elapsed / max(step - self.first_step, 1)
            means = {key: value / self.count for key, value in self.sums.items()}
            means |= {"seconds_a_step": rate, "waiting": self.waited / elapsed, "skipped": float(self.skipped)}
            self._write({"step": step, "hours": self.seconds / 3600, **means}, "train")
            left = rate * (self.steps - step) / 60
            text = "  ".join(f"{key} {value:.4g}" for key, value in means.items())
            self._say(f"step {step}/{self.steps}  {text}  {left:.0f} min left")
            self.sums, self.count = {}, 0

    def scores(self, step: int, scores: dict[str, float]) -> None:
        """Take note of validation scores."""
        self._write({"step": step, "hours": self.seconds / 3600, **scores}, "validation")
        self._say(f"step {step}  validation  " + "  ".join(f"{k} {v:.2f}" for k, v in scores.items()))

    def close(self) -> None:
        """Close the files."""
        if self.fabric.is_global_zero:
            self.file.close()
            self.board.close()

    def _write(self, row: dict[str, float], group: str) -> None:
        if self.fabric.is_global_zero:
            self.file.write(json.dumps({"group": group, **row}) + "\n")
            self.file.flush()
            for key, value in row.items():
                self.board.add_scalar(f"{group}/{key}", value, int(row["step"]))

    def _say(self, text: str) -> None:
        self.fabric.print(text, flush=True)
