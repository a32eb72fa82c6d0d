"""Queries that the caller already knows, and files of them."""

from __future__ import annotations

import csv
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy.typing import ArrayLike

from pointloom.errors import FormatError, QueryError
from pointloom.queries.base import VideoLike, on_frame

FRAME_NAMES = ("frame", "t")  # of a column or a key
ARRAY_NAMES = ("queries", "query")  # of an array in an .npz; the second one is that of tracks


class Points:
    """Given queries: an array (N, 3) of (frame, x, y), or (N, 2) of (x, y) that all start in `frame` (default 0)."""

    def __init__(self, points: ArrayLike, frame: int | None = None) -> None:
        """Copy the points."""
        try:
            array = np.asarray(points, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise QueryError(f"queries must be an array of numbers, (N, 3) or (N, 2): {error}.") from error
        if array.size == 0:
            array = array.reshape(0, 3)
            frame = None
        if array.ndim != 2 or array.shape[1] not in (2, 3):
            raise QueryError(
                f"queries must have the shape (N, 3) for (frame, x, y), or (N, 2) for (x, y); got {array.shape}. "
                f"A single query is [[frame, x, y]]."
            )
        if array.shape[1] == 3 and frame is not None:
            raise QueryError(f"queries of three numbers say their frame themselves; leave out frame={frame}.")
        self.queries = array.copy() if array.shape[1] == 3 else on_frame(array, frame or 0)

    def __repr__(self) -> str:
        """Say how many there are."""
        return f"Points({len(self.queries)})"

    def sample(self, video: VideoLike) -> Float32[np.ndarray, "N 3"]:
        """Return them, whatever the video."""
        return self.queries.copy()


def read_queries(path: str | Path) -> Float32[np.ndarray, "N 3"]:
    """Read queries from a file.

    .csv   columns frame (or t), x, y in any order if the first line names them, otherwise in this order; x, y alone
           start in frame 0
    .json  a list of [frame, x, y], or of {"frame": ..., "x": ..., "y": ...}
    .npy   an array (N, 3) or (N, 2)
    .npz   the same under the name `queries`, or a file of tracks, whose queries are taken
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise FormatError(f"queries are read from {', '.join(READERS)}, not from {path.name!r}.")
    if not path.is_file():
        raise FormatError(f"there is no file {path}.")
    try:
        return Points(reader(path)).queries
    except QueryError as error:
        raise QueryError(f"{path.name}: {error}") from error
    except (OSError, ValueError, KeyError, EOFError, csv.Error, zipfile.BadZipFile, zlib.error) as error:
        raise FormatError(f"{path} cannot be read as queries: {error}") from error


def _read_csv(path: Path) -> list[list[float]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        rows = [(lines.line_num, [cell.strip() for cell in row]) for row in lines]
    rows = [(line, row) for line, row in rows if any(row)]
    if not rows:
        return []
    columns = range(len(rows[0][1]))
    names = [name.lower() for name in rows[0][1]]
    if "x" in names or "y" in names:
        columns = _columns(names)
        rows = rows[1:]
    queries = []
    for line, row in rows:
        try:
            queries.append([float(row[column]) for column in columns])
        except (ValueError, IndexError):
            raise QueryError(
                f"line {line} is {','.join(row)!r}, expected numbers frame,x,y separated by commas, decimal point."
            ) from None
    return queries


def _columns(names: list[str]) -> Any:
    if "x" not in names or "y" not in names:
        raise QueryError(f"the columns are {', '.join(names)}; expected frame, x and y.")
    frame = [names.index(name) for name in FRAME_NAMES if name in names][:1]
    return [*frame, names.index("x"), names.index("y")]


def _read_json(path: Path) -> list[Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, list):
        raise QueryError(f"expected a list of queries, found {type(content).__name__}.")
    return [_from_json(n, query) for n, query in enumerate(content)]


def _from_json(n: int, query: Any) -> Sequence[Any]:
    if isinstance(query, Mapping):
        frame = next((query[name] for name in FRAME_NAMES if name in query), 0)
        if "x" in query and "y" in query:
            return frame, query["x"], query["y"]
    elif isinstance(query, list):
        return query
    raise QueryError(f"query {n} is {query!r}, expected [frame, x, y] or {{'frame': ..., 'x': ..., 'y': ...}}.")


def _read_array(path: Path) -> Any:
    with path.open("rb") as file:
        array = np.load(file, allow_pickle=False)
        if not isinstance(array, np.lib.npyio.NpzFile):
            return array
        name = next((name for name in ARRAY_NAMES if name in array), None)
        if name is None:
            raise QueryError(f"holds {', '.join(array.files)}; expected an array called {ARRAY_NAMES[0]}.")
        return array[name]


READERS = {".csv": _read_csv, ".json": _read_json, ".npy": _read_array, ".npz": _read_array}
