"""A model so small that a run takes seconds. As a program: train a recipe with it, in processes of its own.

python small_run.py RECIPE RUN
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from pointloom.models import zoo
from pointloom.models.cotracker3 import TINY
from pointloom.training import log
from pointloom.training.loop import train
from pointloom.training.recipe import load_recipe

SMALL = replace(
    TINY, channels=16, fine_channels=8, hidden=32, heads=2, correlation_hidden=16, correlation_width=8, levels=2
)
ENTRY = replace(zoo.ZOO["tiny"], name="small", config=SMALL)

if __name__ == "__main__":
    zoo.ZOO["small"] = ENTRY
    log.REPORT_EVERY = 1
    train(load_recipe(sys.argv[1]), Path(sys.argv[2]))
