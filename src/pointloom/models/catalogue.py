"""The list of models: what each is, who may use its weights, and what was measured of it.

Scores are in the header of the file that they belong to, so that they are never told of other weights; so is the speed.
Where a header has none, no scores are shown, and the speed is that of the same network before training, if it is in
`speeds.json` beside this file.

    save_weights(path, model, {"recipe": ..., **measured(scores, speed)})
"""

from __future__ import annotations

import json
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pointloom.errors import FormatError, PointloomWarning
from pointloom.models.download import find_file
from pointloom.models.weight_files import read_config, read_header
from pointloom.models.zoo import ZOO, ZooEntry, build_model, list_models

SCORES, SPEED = "scores", "speed"  # entries of a header
LABELS = {"aj": "AJ", "oa": "OA"}
USE = {True: "yes", False: "no", None: "see terms"}
SPEEDS_FILE = Path(__file__).with_name("speeds.json")
WIDTH = 100  # characters of a line
INDENT = " " * 4


@dataclass(frozen=True)
class Score:
    """A metric (`aj`, `delta_avg` ...) in percent: a mean over videos of a data set, measured by a protocol."""

    dataset: str
    metric: str
    value: float
    protocol: str
    videos: int


@dataclass(frozen=True)
class Speed:
    """Time for one point in one frame, when so many of both were tracked in frames of (width, height), and where."""

    microseconds_per_frame_and_point: float
    points: int
    frames: int
    size: tuple[int, int]
    machine: str


@dataclass(frozen=True)
class ModelRow:
    """What the list shows of a model.

    outputs     what it estimates besides positions
    shipped     whether its weights come with the package
    commercial  whether their licence lets a company use them; None if that is not known
    """

    name: str
    parameters: int
    modes: tuple[str, ...]
    outputs: tuple[str, ...]
    shipped: bool
    licence: str
    commercial: bool | None
    summary: str
    citation: str
    scores: tuple[Score, ...]
    speed: Speed | None


# ----------------------------------------------------------------------------------------------- headers of weights


def measured(scores: Iterable[Score] = (), speed: Speed | None = None) -> dict[str, str]:
    """Return what `save_weights` writes into a header."""
    header = {SCORES: json.dumps([asdict(score) for score in scores])}
    return header if speed is None else {**header, SPEED: json.dumps(asdict(speed))}


def read_measured(header: Mapping[str, str]) -> tuple[tuple[Score, ...], Speed | None]:
    """Return what a header says was measured. Raises FormatError if it is not understood."""
    try:
        scores = tuple(Score(**score) for score in json.loads(header.get(SCORES, "[]")))
        if SPEED not in header:
            return scores, None
        return scores, _read_speed(json.loads(header[SPEED]))
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(f"scores or speed in the header of the weights are not understood: {error}") from error


def measured_untrained() -> dict[str, Speed]:
    """Return the speed of named models' networks, measured with random weights."""
    return {name: _read_speed(fields) for name, fields in json.loads(SPEEDS_FILE.read_text()).items()}


def _read_speed(fields: dict[str, Any]) -> Speed:
    return Speed(**{**fields, "size": tuple(fields["size"])})


# ------------------------------------------------------------------------------------------------------- the list


def catalogue() -> list[ModelRow]:
    """Describe every named model; one of another package that cannot be built is left out with a warning."""
    rows = []
    for entry in list_models():
        try:
            rows.append(describe(entry))
        except Exception as error:  # the code of strangers may raise anything
            if entry.name in ZOO:
                raise
            warnings.warn(
                f"the model {entry.name!r} is left out, since it could not be built: {type(error).__name__}: {error}",
                PointloomWarning,
                stacklevel=2,
            )
    return rows


def describe(entry: ZooEntry) -> ModelRow:
    """Describe a named model. Of a file that comes with a package its header is read; no weights are."""
    file = entry.file if entry.shipped else None
    path = find_file(entry) if file is not None and file.endswith(".safetensors") else None
    with torch.device("meta"):
        info = build_model(entry.config if path is None else read_config(path)).info
    scores, speed = ((), None) if path is None else _measured_of(entry.name, path)
    return ModelRow(
        name=entry.name,
        parameters=info.parameters,
        modes=info.modes,
        outputs=info.outputs,
        shipped=entry.shipped,
        licence=entry.licence,
        commercial=entry.commercial,
        summary=entry.summary,
        citation=entry.citation,
        scores=scores,
        speed=speed or measured_untrained().get(entry.name),
    )


def _measured_of(name: str, path: Path) -> tuple[tuple[Score, ...], Speed | None]:
    try:
        return read_measured(read_header(path))
    except FormatError as error:
        warnings.warn(f"{name}: {error}", PointloomWarning, stacklevel=2)
        return (), None


# ------------------------------------------------------------------------------------------------- for people to read


def format_catalogue(rows: Sequence[ModelRow]) -> str:
    """A line of columns for each model, and below it what it is and what was measured of it, in 100 characters."""
    cells = [("model", "size", "modes", "says", "licence", "companies")]
    cells += [
        (
            row.name,
            f"{row.parameters / 1e6:5.1f} M" if row.parameters else "-",
            ", ".join(row.modes),
            ", ".join(row.outputs),
            row.licence,
            USE[row.commercial],
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([lines[0], *(f"{line}\n{_details(row)}" for line, row in zip(lines[1:], rows, strict=True))])


def _details(row: ModelRow) -> str:
    where = "In the package" if row.shipped else "Downloaded on first use"
    place = where if row.parameters else "Learns nothing"
    about = ". ".join(part for part in (row.summary, place, row.citation) if part)
    return "\n".join(
        textwrap.fill(text, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT + "  ")
        for text in (about, *_measurements(row))
    )


def _measurements(row: ModelRow) -> list[str]:
    if not row.scores and row.speed is None:
        return ["Scores and speed: not measured"]
    runs: dict[tuple[str, str, int], list[Score]] = {}
    for score in row.scores:
        runs.setdefault((score.dataset, score.protocol, score.videos), []).append(score)
    lines = [
        f"{dataset}: {', '.join(f'{LABELS.get(s.metric, s.metric)} {s.value:.1f}' for s in scores)} "
        f"({protocol}, {videos} videos)"
        for (dataset, protocol, videos), scores in runs.items()
    ] or ["Scores: not measured"]
    return [*lines, "Speed: not measured" if row.speed is None else _speed(row.speed)]


def _speed(speed: Speed) -> str:
    width, height = speed.size
    return (
        f"{speed.microseconds_per_frame_and_point:.1f} us per frame and point "
        f"({speed.points} points, {speed.frames} frames of {width} x {height}; {speed.machine})"
    )
