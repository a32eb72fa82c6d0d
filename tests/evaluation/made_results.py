"""A small set of results with everything that can be odd: names to escape, missing values, no intervals."""

from __future__ import annotations

import math

from pointloom.evaluation.protocols import POINTLOOM
from pointloom.evaluation.results import ALL, Calibration, Curve, Difference, Kind, Results, Row, VideoScores
from pointloom.evaluation.score import LOWER_ENDS

NAN = math.nan
HOSTILE = 'b/<script>alert("$x^2$")</script>'


def row(
    group: str,
    model: str,
    metric: str,
    value: float,
    low: float = NAN,
    high: float = NAN,
    *,
    videos: int = 2,
    kind: Kind = "points",
    missing: tuple[str, ...] = (),
) -> Row:
    weights = "abc123" if model == "tiny" else None
    return Row("made", group, kind, model, weights, "first", metric, "%", value, low, high, videos, list(missing))


def curve(model: str, against: str) -> Curve:
    classes = len(LOWER_ENDS[against])
    known = [90.0, 80.0, 70.0]
    rest = [NAN] * (classes - len(known))
    nothing = [0] * len(rest)
    return Curve(
        model,
        against,
        list(LOWER_ENDS[against]),
        known + rest,
        [v - 5 for v in known] + rest,
        [v + 5 for v in known] + rest,
        [0.5, 1.0, 2.0, *rest],
        [100.0, 99.0, 98.0, *rest],
        [10, 10, 10, *nothing],
        [2, 2, 2, *nothing],
    )


def video(name: str, model: str, aj: float, kind: Kind = "points") -> VideoScores:
    scores = {"aj": aj, "delta_avg": aj + 5, "oa": 90.0} if kind == "points" else {"badja": aj, "badja_3px": aj / 2}
    return VideoScores(name, name.rpartition("/")[0], kind, model, "first", scores)


RESULTS = Results(
    run={
        "date": "2026-01-02T03:04:05+00:00",
        "dataset": {"name": "made", "folder": "clips & more"},
        "command": "pointloom evaluate made:clips --model tiny",
        "protocol": POINTLOOM.as_meta(),
        "versions": {"pointloom": "0.1.0", "python": "3.11"},
        "machine": {"system": "Linux"},
        "bootstrap": {"resamples": 2000},
    },
    rows=[
        row(ALL, "tiny", "aj", 61.25, 40, 80, missing=("a/blank",)),
        row(ALL, "tiny", "delta_avg", 70, 60, 80),
        row(ALL, "still", "aj", 7, 5, 9),
        row(ALL, "still", "oa", NAN, missing=("a/blank", "a/one")),
        *(row(ALL, "tiny", f"{kind}_{d}", 50 + d) for kind in ("jaccard",) for d in (1, 2, 4, 8, 16)),
        row("composite", "tiny", "aj", 30, 20, 40),
        row("rare", "tiny", "aj", 50.0, videos=1),
        row("joints", "tiny", "badja", 55.5, kind="joints"),
        row("joints", "still", "badja", 60.5, kind="joints"),
        row("masks", "tiny", "mf", 45.5, kind="masks"),
        row("masks", "tiny", "s_obj", 72.5, kind="masks"),
        row("masks", "still", "mf", 35.5, kind="masks"),
        row("masks", "still", "s_obj", 98.5, kind="masks"),
    ],
    differences=[
        Difference(ALL, "points", "aj", "tiny", "still", 54.25, 40, 60, 2, 2),
        Difference(ALL, "points", "oa", "tiny", "still", NAN, NAN, NAN, 0, 0),
    ],
    curves=[curve(model, against) for model in ("tiny", "still") for against in LOWER_ENDS],
    calibration=[Calibration("tiny", "visibility", 4.5, 0.1, [0.2, NAN, 0.9], [0.1, NAN, 0.95], [20, 0, 80])],
    per_video=[
        video("a/one", "tiny", 80),
        video("a/one", "still", 9),
        video(HOSTILE, "tiny", 40),
        video(HOSTILE, "still", 5),
        video("a/blank", "tiny", NAN),
        video("a/blank", "still", NAN),
        video("joints/cat", "tiny", 55.5, "joints"),
        video("joints/cat", "still", 60.5, "joints"),
    ],
)
