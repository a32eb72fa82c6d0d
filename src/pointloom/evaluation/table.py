"""The scores of an evaluation as lines of text: groups and models down, metrics across."""

from __future__ import annotations

import math

from pointloom.evaluation.results import GROUP_NOTES, HEADLINES, Kind, Results, Row

TITLES: dict[Kind, str] = {
    "points": "Points: percent, mean over clips; 95 % interval of the first score",
    "trajectories": "Trajectories: percent, mean over clips; 95 % interval of the first score",
    "joints": "Joints of animals (in no mean above)",
    "masks": "Agreement with masks (in no mean above)",
}
NAME_WIDTH = 16  # least width of the columns for groups and models
INTERVAL_WIDTH = 14
NOTHING = "-"


def as_text(results: Results) -> str:
    """Return a table for each kind of truth, and what has to be said about them."""
    tables = [_table(results, kind) for kind in HEADLINES if results.groups(kind)]
    return "\n\n".join([*tables, *_notes(results)])


def _table(results: Results, kind: Kind) -> str:
    metrics = HEADLINES[kind]
    groups = results.groups(kind)
    group_width = max(NAME_WIDTH, *map(len, groups)) + 2
    model_width = max(NAME_WIDTH, *map(len, results.models)) + 2
    widths = [max(len(metric), 6) + 2 for metric in metrics]
    head = "".join(
        f"{metric:>{width}}" + " " * INTERVAL_WIDTH * (place == 0)
        for place, (metric, width) in enumerate(zip(metrics, widths, strict=True))
    )
    lines = [TITLES[kind], "", f"{'group':<{group_width}}{'model':<{model_width}}{'clips':>5}{head}"]
    for group in groups:
        label = group
        for model in results.models:
            rows = [results.find(model, group, kind, metric) for metric in metrics]
            if rows[0] is None:
                continue
            cells = "".join(
                f"{_number(row):>{width}}" + _interval(row) * (place == 0)
                for place, (row, width) in enumerate(zip(rows, widths, strict=True))
            )
            lines.append(f"{label:<{group_width}}{model:<{model_width}}{rows[0].videos:>5}{cells}")
            label = ""
    return "\n".join(line.rstrip() for line in lines)


def _number(row: Row | None) -> str:
    if row is None or not math.isfinite(row.value):
        return NOTHING
    return f"{row.value:.1f}{'*' if row.missing else ''}"


def _interval(row: Row | None) -> str:
    known = row is not None and math.isfinite(row.low)
    return f"{f' [{row.low:.1f}, {row.high:.1f}]' if row and known else '':<{INTERVAL_WIDTH}}"


def _notes(results: Results) -> list[str]:
    """Say which groups are special, and which clips have no value."""
    groups = {row.group for row in results.rows}
    notes = [f"{group}: {note}." for group, note in GROUP_NOTES.items() if group in groups]
    shown = [row for row in results.rows if row.metric in HEADLINES[row.kind]]
    missing = sorted({video for row in shown for video in row.missing})
    if missing:
        notes.append(f"* without {', '.join(missing)}: nothing in them can be counted for this score.")
    return ["\n".join(notes)] if notes else []
