"""Measure the networks of all named models with random weights, for the list that `pointloom models` shows.

    python recipes/model_speeds.py [MODEL ...] [--frames N]

Fewer frames than 24 are for models that take minutes for each. Downloads nothing.
Writes src/pointloom/models/speeds.json; of models that are not named there, what it says stays.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from pointloom.evaluation.bench import Case, Repeats, bench, speed_of
from pointloom.models.catalogue import SPEEDS_FILE
from pointloom.models.zoo import ZOO, find_entry


def main() -> None:
    """Measure one model after the other, and note each as soon as it is known."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--frames", type=int, default=24)
    arguments = parser.parse_args()
    case = Case(points=100, frames=arguments.frames, size=(640, 360))
    entries = [find_entry(name) for name in arguments.models] or [entry for entry in ZOO.values() if not entry.shipped]
    measured = {}  # networks that several models share are measured once
    for entry in entries:
        if entry.config not in measured:
            result = bench([entry.name], [case], Repeats(warm_up=0, measured=2), untrained=True)
            measured[entry.config] = speed_of(entry.name, result)
        known = json.loads(SPEEDS_FILE.read_text()) if SPEEDS_FILE.exists() else {}
        known[entry.name] = asdict(measured[entry.config])
        SPEEDS_FILE.write_text(json.dumps(known, indent=1) + "\n")
        print(f"{entry.name}: {measured[entry.config].microseconds_per_frame_and_point:.0f} us per frame and point")


if __name__ == "__main__":
    main()
