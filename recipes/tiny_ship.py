"""Put the weights of a run into the package, with a header that says how they came about and what was measured.

    python recipes/tiny_ship.py runs/tiny_15_blurred --hours 16.4 --data "generated clips"
    pointloom evaluate clips:EVAL --model tiny -o runs/evaluated/clips       # and further data sets
    pointloom bench --model tiny --points 100 --frames 48 --size 640x360 --json > runs/speed.json
    python recipes/tiny_ship.py runs/tiny_15_blurred --hours 16.4 --data "generated clips" \\
        --results runs/evaluated/clips --speed runs/speed.json

Twice, because scores belong to the weights as they are shipped, in float16; the second time changes the header alone.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from pointloom import load_model
from pointloom.evaluation.bench import speed_of
from pointloom.evaluation.results import Results
from pointloom.models.catalogue import measured
from pointloom.models.cotracker3 import TINY
from pointloom.models.download import find_file
from pointloom.models.weight_files import save_weights
from pointloom.models.zoo import build_model, find_entry
from pointloom.training.recipe import load_recipe

NAME = "tiny"


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--hours", type=float, required=True, help="of all phases, two cores")
    parser.add_argument("--data", required=True, help="what they were trained on, in a few words")
    parser.add_argument("--results", type=Path, nargs="*", default=[], help="folders that `pointloom evaluate` wrote")
    parser.add_argument("--speed", type=Path, help="what `pointloom bench --json` printed")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.run / "recipe.yaml", None)
    config = replace(TINY, confidence_px=recipe.tracking.confidence_px)
    model = build_model(config)
    model.load_state_dict(load_model(arguments.run / "weights.safetensors").state_dict())
    scores = [score for folder in arguments.results for score in Results.load(folder / "results.json").scores(NAME)]
    speed = speed_of(NAME, json.loads(arguments.speed.read_text())) if arguments.speed else None
    about = {
        "recipe": arguments.run.name,
        "steps": str(recipe.steps),
        "hours": str(arguments.hours),
        "data": arguments.data,
        "licence": "Apache-2.0",
        **measured(scores, speed),
    }
    path = find_file(find_entry(NAME))
    save_weights(path, model, about, dtype=torch.float16)
    print(f"{path}: {len(scores)} scores, {'a' if speed else 'no'} speed")


if __name__ == "__main__":
    main()
