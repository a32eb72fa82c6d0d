"""Score models and baselines on a folder of annotated clips and print a table, group by group.

    python benchmarks/clips_table.py FOLDER tiny lucas-kanade static --json scores.json

Queries at the first visible frame, positions scaled to 256 x 256 (TAP-Vid's rules), frames at full resolution, mean
over the clips of a group. `valid` is honoured. For groups of joints, delta_avg only says something at 4 px and above.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.clips import ClipsFolder, group_of
from pointloom.datasets.pool import ClipPool
from pointloom.evaluation.metrics import evaluated_frames, sample_queries, tapvid, to_evaluation
from pointloom.models.classical import lucas_kanade, static_point
from pointloom.models.zoo import load_model
from pointloom.queries import Queries
from pointloom.tracking.tracker import Tracker

SHOWN = ("aj", "delta_avg", "oa", "delta_1", "delta_4", "delta_16")


def predict(model: str, clip: AnnotatedClip, queries: np.ndarray, tracker: Tracker | None):
    """Return positions (N, T, 2) and what is seen (N, T)."""
    if model == "lucas-kanade":
        found = lucas_kanade(clip.frames, queries)
        return found.xy, found.seen
    if model == "static":
        found = static_point(queries, len(clip.frames))
        return found.xy, found.seen
    assert tracker is not None
    tracks = tracker.track(clip.frames, Queries.points(queries))
    return tracks.xy, tracks.seen()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--limit", type=int, help="clips at most")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if next(arguments.folder.glob("*/frames.npy"), None):
        pool = ClipPool.open(arguments.folder)
        clips = [pool[i] for i in range(len(pool))]
    else:
        folder = ClipsFolder(arguments.folder)
        clips = [folder[name] for name in folder.names]
    rows = []
    for model in arguments.models:
        tracker = None if model in ("lucas-kanade", "static") else Tracker(load_model(model))
        for clip in clips[: arguments.limit]:
            sampled = sample_queries(clip.xy, clip.visible, mode="first")
            started = time.monotonic()
            xy, seen = predict(model, clip, sampled.queries, tracker)
            seconds = time.monotonic() - started
            truth, visible, valid = (a[sampled.track] for a in (clip.xy, clip.visible, clip.valid))
            scores = tapvid(
                to_evaluation(xy, clip.size),
                to_evaluation(truth, clip.size),
                predicted_visible=seen,
                visible=visible,
                evaluated=evaluated_frames(sampled.queries[:, 0], len(clip.frames), mode="first", valid=valid),
            )
            rows.append(
                {"model": model, "clip": clip.name, "group": group_of(clip.name) or "all", "seconds": seconds} | scores
            )
    groups = sorted({row["group"] for row in rows})
    print(f"{'group':<12}{'model':<34}{'clips':>6}" + "".join(f"{name:>11}" for name in SHOWN))
    for group in groups:
        by_model = defaultdict(list)
        for row in rows:
            if row["group"] == group:
                by_model[row["model"]].append(row)
        for model, part in by_model.items():
            means = [np.nanmean([row[name] for row in part]) for name in SHOWN]
            print(f"{group:<12}{model[-32:]:<34}{len(part):>6}" + "".join(f"{mean:>11.1f}" for mean in means))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
