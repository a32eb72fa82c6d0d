"""What an evaluation found, as plain values, and the files they are kept in.

    results.json   everything: the run, rows, differences, curves, calibration, the scores of each video
    results.csv    the rows alone, for a spreadsheet

A row is one number: a metric of one model over one group of a data set. NaN is null in JSON and empty in CSV.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pointloom.errors import FormatError
from pointloom.models.catalogue import Score

FILE_FORMAT = 1
ALL, GROUPS = "all", "mean of groups"  # every clip with points counts the same; every group does

# What a clip tells. Scores of different kinds are never averaged.
Kind = Literal["points", "trajectories", "joints", "masks"]
HEADLINES: dict[Kind, tuple[str, ...]] = {
    "points": ("aj", "delta_avg", "oa", "delta_1", "delta_2", "delta_4", "delta_8", "delta_16"),
    "trajectories": ("delta_visible", "delta_occluded", "delta_all", "survival"),
    "joints": ("badja", "badja_3px", "delta_avg", "delta_4", "delta_8", "delta_16"),
    "masks": ("mf", "ma", "y_obj", "a_obj", "a_bg", "s_obj", "s_bg"),
}
CARRIED = ("delta_avg", "aj", "oa")  # scores that go into the header of weights
GROUP_NOTES = {"composite": "semi-synthetic"}  # said wherever the group is shown
COMPARED = 3  # of the first kinds of headline scores: how many are compared between models
PIXEL_METRICS = ("epe", "epe_median")


@dataclass(frozen=True)
class Row:
    """One metric of one model over one group.

    weights   hash of the model's weights, None without
    value     mean over videos, in percent or in pixels of 256 x 256 (`unit`); `low` and `high` end its 95 % interval
    videos    how many have a value
    missing   those that have none, because nothing in them can be counted; they are not in the mean
    """

    dataset: str
    group: str
    kind: Kind
    model: str
    weights: str | None
    query_mode: str
    metric: str
    unit: str
    value: float
    low: float
    high: float
    videos: int
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Difference:
    """How much better one model is than another on the videos that both have a value for. `wins`: on how many."""

    group: str
    kind: Kind
    metric: str
    model: str
    versus: str
    value: float
    low: float
    high: float
    videos: int
    wins: int


@dataclass(frozen=True)
class Curve:
    """Accuracy of one model on all clips with points, in classes of something.

    against     `since_query`, `displacement`, `since_reappearance`
    lower_ends  where the classes begin; each reaches to the next one
    delta_avg   percent, mean over videos, with the ends of its interval
    error_px    median distance to the truth, median over videos
    said_seen   percentage of visible points that were said to be visible, mean over videos
    videos      how many have points in the class
    """

    model: str
    against: str
    lower_ends: list[float]
    delta_avg: list[float]
    low: list[float]
    high: list[float]
    error_px: list[float]
    said_seen: list[float]
    points: list[int]
    videos: list[int]


@dataclass(frozen=True)
class Calibration:
    """Whether probabilities of one model mean what they say, over all clips with points.

    of         `visibility` or `confidence`
    error      expected calibration error in percent
    brier      mean squared error of the probability
    predicted  mean probability in each class, NaN in an empty one; `observed`: how often it was so
    """

    model: str
    of: str
    error: float
    brier: float
    predicted: list[float]
    observed: list[float]
    points: list[int]


@dataclass(frozen=True)
class VideoScores:
    """Every score of one model on one clip."""

    video: str
    group: str
    kind: Kind
    model: str
    query_mode: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Results:
    """What an evaluation found. `run` says by what: versions, machine, protocol, data set."""

    run: dict[str, Any]
    rows: list[Row]
    differences: list[Difference] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    calibration: list[Calibration] = field(default_factory=list)
    per_video: list[VideoScores] = field(default_factory=list)

    @property
    def models(self) -> list[str]:
        """Names of the models, in the order in which they were asked for."""
        return list(dict.fromkeys(row.model for row in self.rows))

    def groups(self, kind: Kind) -> list[str]:
        """Groups of a kind: means first, then by name."""
        found = {row.group for row in self.rows if row.kind == kind}
        means = [name for name in (ALL, GROUPS) if name in found]
        return means + sorted(found - set(means))

    def find(self, model: str, group: str, kind: Kind, metric: str) -> Row | None:
        """Look a row up."""
        wanted = model, group, kind, metric
        return next((row for row in self.rows if (row.model, row.group, row.kind, row.metric) == wanted), None)

    def scores(self, model: str) -> list[Score]:
        """What weights may say of themselves in their header: means over all clips with points."""
        dataset = f"{self.run['dataset']['name']}:{self.run['dataset']['folder']}"
        protocol = self.run["protocol"]["name"]
        found = [self.find(model, ALL, "points", metric) for metric in CARRIED]
        return [
            Score(dataset, row.metric, row.value, protocol, row.videos)
            for row in found
            if row is not None and math.isfinite(row.value)
        ]

    def save(self, folder: Path) -> None:
        """Write `results.json` and `results.csv`, each in one moment."""
        write_text(folder / "results.json", self.to_json())
        write_text(folder / "results.csv", self.to_csv())

    def to_json(self) -> str:
        """Return everything as text."""
        content = {"format": FILE_FORMAT, **_without_nan(dataclasses.asdict(self))}
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """Return the rows as text."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [f.name for f in dataclasses.fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            cells = _without_nan(dataclasses.asdict(row))
            writer.writerow({**cells, "missing": " ".join(row.missing)})
        return text.getvalue()

    @staticmethod
    def load(path: Path) -> Results:
        """Read `results.json`. Raises FormatError for anything else."""
        try:
            content = json.loads(path.read_text())
            version = content.pop("format")
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise FormatError(f"{path} is not a file of results: {error}.") from error
        if version != FILE_FORMAT:
            raise FormatError(f"{path} has format {version!r}; this version reads format {FILE_FORMAT}.")
        kinds = {
            "rows": Row,
            "differences": Difference,
            "curves": Curve,
            "calibration": Calibration,
            "per_video": VideoScores,
        }
        try:
            lists = {name: [kind(**_with_nan(part)) for part in content[name]] for name, kind in kinds.items()}
            return Results(run=content["run"], **lists)
        except (KeyError, TypeError) as error:
            raise FormatError(f"{path} does not hold what results are made of: {error}.") from error


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place, then move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _without_nan(value: Any) -> Any:
    """Put None where a number is not finite, which JSON cannot hold."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(part: dict[str, Any]) -> dict[str, Any]:
    """Put NaN back where a number is null; only the weights of a baseline are null on purpose."""
    back: dict[str, Any] = {}
    for name, value in part.items():
        if isinstance(value, list):
            back[name] = [math.nan if v is None else v for v in value]
        elif isinstance(value, dict):
            back[name] = _with_nan(value)
        else:
            back[name] = math.nan if value is None and name != "weights" else value
    return back
