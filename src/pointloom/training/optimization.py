"""AdamW, the rate at each step, and the running average of the weights. Two schedules:

    cosine      a straight line up to the highest rate in `warmup` steps, then a cosine down to `final_rate` times it
    one_cycle   CoTracker3's (after Smith & Topin 2018): a cosine up from 1/25 of the highest rate to it in `warmup`
                steps, then a cosine down towards 1/250,000 of it, planned for 100 steps more than are made

Both depend on the step alone, so that nothing of them has to be stored.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pointloom.training.parts import in_encoder
from pointloom.training.recipe import OptimizerRecipe

FIRST, LAST = 1 / 25, 1 / 250_000  # of the highest rate: where a cycle starts and ends
UNUSED_STEPS = 100  # at the end of a cycle


def make_optimizer(objective: nn.Module, recipe: OptimizerRecipe) -> torch.optim.Optimizer:
    """AdamW with groups: the encoder's rate has a factor, and vectors may be spared the decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            factor = recipe.encoder_rate if in_encoder(name) else 1.0
            decay = recipe.decay if recipe.decayed == "all" or parameter.ndim > 1 else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "factor": factor, "weight_decay": decay} for (factor, decay), p in groups.items()],
        lr=recipe.rate,
        betas=recipe.betas,
    )


def learning_rate(recipe: OptimizerRecipe, step: int, steps: int) -> float:
    """Rate of a step, counted from 0."""
    return (one_cycle if recipe.schedule == "one_cycle" else warmup_and_cosine)(recipe, step, steps)


def warmup_and_cosine(recipe: OptimizerRecipe, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to `final_rate` times the top."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(steps - recipe.warmup, 1)
    return _cosine(recipe.rate, recipe.rate * recipe.final_rate, progress)


def one_cycle(recipe: OptimizerRecipe, step: int, steps: int) -> float:
    """A cosine up and a cosine down; the step before `warmup` has the highest rate."""
    top, end = recipe.warmup - 1, steps + UNUSED_STEPS - 1
    if step <= top:
        return _cosine(recipe.rate * FIRST, recipe.rate, step / max(top, 1))
    return _cosine(recipe.rate, recipe.rate * LAST, (step - top) / (end - top))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (0.5 + 0.5 * math.cos(math.pi * progress))


@torch.no_grad()
def blend_into(average: dict[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Move the running average towards the weights; the first steps count more, as in a plain mean."""
    decay = min(decay, (1 + step) / (10 + step))
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            average[key].lerp_(value, 1 - decay)
