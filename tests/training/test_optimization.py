"""How the rate changes, and which parameters decay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pointloom.training.optimization import learning_rate, make_optimizer
from pointloom.training.recipe import OptimizerRecipe

CYCLE = OptimizerRecipe(rate=5e-4, schedule="one_cycle", warmup=2505)


def test_the_rate_warms_up_and_falls_along_a_cosine() -> None:
    rates = OptimizerRecipe(rate=1.0, warmup=10, final_rate=0.1)
    values = [learning_rate(rates, step, 110) for step in range(111)]
    assert values[0] == pytest.approx(0.1)
    assert max(values) == pytest.approx(1.0)
    assert values[60] == pytest.approx(0.55)  # half of the way down
    assert values[110] == pytest.approx(0.1)
    assert np.all(np.diff(values[10:]) < 0)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 2.0e-5),
        (1000, 1.853779e-4),
        (2504, 5.0e-4),
        (10000, 4.700176e-4),
        (25000, 2.714515e-4),
        (40000, 5.352005e-5),
        (50000, 7.3377e-9),
    ],
)
def test_one_cycle_has_the_published_rates(step: int, rate: float) -> None:
    assert learning_rate(CYCLE, step, 50_000) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize(("step", "rate"), [(0, 4.99999995e-5), (5000, 3.764541e-5), (15000, 5.5028e-9)])
def test_one_cycle_without_a_warmup_only_falls(step: int, rate: float) -> None:
    assert learning_rate(replace(CYCLE, rate=5e-5, warmup=0), step, 15_000) == pytest.approx(rate, rel=1e-6)


def test_one_cycle_equals_that_of_torch() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 5e-4, total_steps=400, pct_start=0.05, cycle_momentum=False, anneal_strategy="cos"
    )
    for step in range(300):
        assert learning_rate(replace(CYCLE, warmup=20), step, 300) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        theirs.step()


def test_vectors_decay_only_when_all_parameters_do() -> None:
    def decays(recipe: OptimizerRecipe) -> list[float]:
        groups = make_optimizer(nn.Linear(3, 2), recipe).param_groups
        return sorted(group["weight_decay"] for group in groups for _ in group["params"])

    assert decays(OptimizerRecipe(decay=0.5)) == [0, 0.5]
    assert decays(OptimizerRecipe(decay=0.5, decayed="all")) == [0.5, 0.5]
