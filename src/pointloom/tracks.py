"""Tracks: where points are in every frame, and when a point counts as seen. The value that everything passes around.

Positions are pixels of the video (integers are pixel centres), visibility and confidence are probabilities. A file of
tracks is an `.npz` with one array a field and a JSON text of everything else, so that any program can read it.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from pointloom.errors import FormatError, OptionError

FILE_FORMAT = 1
RESERVED_META = "format"  # where the file keeps its format version among the meta data

# what NumPy, zipfile and json raise for files that are something else, cut off or hostile
_UNREADABLE = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OSError,
    EOFError,
    MemoryError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class SeenRule:
    """Turns visibility and confidence into yes or no: a point is seen where a probability is above a threshold.

    `on` says which one: `visibility` alone, or `product`, visibility times confidence. A position that is likely wrong
    is of no more use than one that is hidden.
    """

    on: Literal["visibility", "product"]
    threshold: float

    def __post_init__(self) -> None:
        """Refuse a threshold that is no probability."""
        if self.on not in ("visibility", "product"):
            raise OptionError(f"a rule is on 'visibility' or on 'product', got {self.on!r}.")
        if not 0 <= self.threshold <= 1:
            raise OptionError(f"the threshold of a rule lies in 0..1, got {self.threshold}.")

    def __call__(
        self, visibility: Float32[np.ndarray, "*A"], confidence: Float32[np.ndarray, "*A"]
    ) -> Bool[np.ndarray, "*A"]:
        """True where the probability is strictly above the threshold."""
        probability = visibility if self.on == "visibility" else visibility * confidence
        return probability > self.threshold


# The one default: both must hold. On held-back generated clips AJ is highest here (docs/training.md).
SEEN = SeenRule("product", 0.35)

# The rules of others, for comparing with their results.
SEEN_RULES: Mapping[str, SeenRule] = {
    "default": SEEN,
    "cotracker3-offline": SeenRule("visibility", 0.9),
    "cotracker3-online": SeenRule("product", 0.6),
    "cotracker3-evaluation": SeenRule("product", 0.6),
}


def seen_rule(rule: SeenRule | str) -> SeenRule:
    """Look a rule up by name; a rule is returned as it is."""
    if isinstance(rule, SeenRule):
        return rule
    if rule not in SEEN_RULES:
        raise OptionError(f"no rule is called {rule!r}. Known: {', '.join(SEEN_RULES)}; or give a SeenRule.")
    return SEEN_RULES[rule]


@dataclass(frozen=True, eq=False)
class Tracks:
    """Positions of N points in T frames.

    xy          pixels of the video
    visibility  probability that the point can be seen in the frame
    confidence  probability that the position is right
    query       (frame, x, y) where the tracking of each point began; frames count from 0
    seconds     when each frame is shown; may be irregular
    size        (width, height) of the video
    ids         one number a point, no two equal; counted from 0 if left out
    meta        where the tracks are from: model, options, source, ...; what JSON can hold
    """

    xy: Float32[np.ndarray, "N T 2"]
    visibility: Float32[np.ndarray, "N T"]
    confidence: Float32[np.ndarray, "N T"]
    query: Float32[np.ndarray, "N 3"]
    seconds: Float64[np.ndarray, " T"]
    size: tuple[int, int]
    ids: Int64[np.ndarray, " N"] = None  # type: ignore[assignment]  # filled below
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Bring every array to its type, and check the shapes against each other."""
        for name in ("xy", "visibility", "confidence", "query"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float32))
        object.__setattr__(self, "seconds", np.asarray(self.seconds, np.float64))
        ids = vars(self)["ids"]
        object.__setattr__(self, "ids", np.asarray(np.arange(len(self.xy)) if ids is None else ids, np.int64))
        width, height = self.size
        object.__setattr__(self, "size", (int(width), int(height)))
        self._check()

    def _check(self) -> None:
        if self.xy.ndim != 3 or self.xy.shape[2] != 2:
            raise OptionError(f"xy must have shape (points, frames, 2), got {self.xy.shape}.")
        N, T, _ = self.xy.shape
        expected = {"visibility": (N, T), "confidence": (N, T), "query": (N, 3), "seconds": (T,), "ids": (N,)}
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise OptionError(f"{name} must have shape {shape}, as xy has {self.xy.shape}; got {found}.")
        if len(np.unique(self.ids)) != N:
            raise OptionError("ids must all be different. Leave them out to count from 0.")

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.xy)

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.seconds)

    def __eq__(self, other: object) -> bool:
        """Every array equal to the last bit (NaN equals NaN), and size and meta equal."""
        if not isinstance(other, Tracks):
            return NotImplemented
        return (
            self.size == other.size
            and self.meta == other.meta
            and all(
                np.array_equal(getattr(self, name), getattr(other, name), equal_nan=name != "ids")
                for name in ("xy", "visibility", "confidence", "query", "seconds", "ids")
            )
        )

    __hash__ = None  # type: ignore[assignment]  # arrays can change

    def __repr__(self) -> str:
        """Say how much there is, not all of it."""
        return f"Tracks({len(self)} points, {self.frames} frames of {self.size[0]} x {self.size[1]})"

    def seen(self, rule: SeenRule | str = SEEN) -> Bool[np.ndarray, "N T"]:
        """Where each point counts as seen. `rule` is a SeenRule or the name of one in `SEEN_RULES`."""
        return seen_rule(rule)(self.visibility, self.confidence)

    # ---- parts

    def select(self, index: Any) -> Tracks:
        """Return some of the points: indices, a slice, or a bool for each point. They keep their ids."""
        return replace(
            self,
            xy=self.xy[index],
            visibility=self.visibility[index],
            confidence=self.confidence[index],
            query=self.query[index],
            ids=self.ids[index],
        )

    def between(self, start: int, stop: int) -> Tracks:
        """Return frames start..stop-1.

        Query frames count from the new first frame: a query in an earlier frame gets a negative one. Seconds stay those
        of the whole video.
        """
        if not 0 <= start <= stop <= self.frames:
            raise OptionError(f"frames {start}..{stop} do not lie in the {self.frames} frames of these tracks.")
        return replace(
            self,
            xy=self.xy[:, start:stop],
            visibility=self.visibility[:, start:stop],
            confidence=self.confidence[:, start:stop],
            query=self.query - np.array([start, 0, 0], np.float32),
            seconds=self.seconds[start:stop],
        )

    @staticmethod
    def join(parts: Sequence[Tracks]) -> Tracks:
        """Put points of the same frames together, in order.

        Ids are kept if they are all different, and counted from 0 otherwise. Meta data is that of the first part.
        """
        if not parts:
            raise OptionError("there is nothing to join: give at least one Tracks.")
        first = parts[0]
        for k, part in enumerate(parts):
            if part.size != first.size or not np.array_equal(part.seconds, first.seconds):
                raise OptionError(
                    f"part {k} is {part!r}, the first one {first!r}. Only tracks of the same frames can be joined; "
                    f"bring them to the same frames with .between() first."
                )
        ids = np.concatenate([part.ids for part in parts])
        return replace(
            first,
            xy=np.concatenate([part.xy for part in parts]),
            visibility=np.concatenate([part.visibility for part in parts]),
            confidence=np.concatenate([part.confidence for part in parts]),
            query=np.concatenate([part.query for part in parts]),
            ids=ids if len(np.unique(ids)) == len(ids) else np.arange(len(ids)),
        )

    # ---- files

    def save(self, path: str | Path) -> None:
        """Write an `.npz`. A file of that name is replaced, in one moment, once the new one is complete."""
        path = Path(path)
        if path.suffix != ".npz":
            raise OptionError(f"tracks are saved as .npz, got {path.name!r}.")
        try:
            meta = json.dumps({**self.meta, RESERVED_META: FILE_FORMAT}, sort_keys=True)
        except TypeError as error:
            raise OptionError(f"meta can only hold what JSON can: {error}.") from error
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with unfinished.open("wb") as file:
                np.savez(
                    file,
                    xy=self.xy,
                    visibility=self.visibility,
                    confidence=self.confidence,
                    query=self.query,
                    seconds=self.seconds,
                    size=np.array(self.size, np.int64),
                    ids=self.ids,
                    meta=np.array(meta),
                )
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    @staticmethod
    def load(path: str | Path) -> Tracks:
        """Read a file that `save` wrote. Raises FormatError for anything else, and for a newer format."""
        path = Path(path)
        if not path.is_file():
            raise FormatError(f"there is no file {path}.")
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            meta = json.loads(str(arrays.pop("meta")))
            version = meta.pop(RESERVED_META)
        except _UNREADABLE as error:
            raise FormatError(f"{path} is not a file of tracks, or it is damaged: {error}.") from error
        if version != FILE_FORMAT:
            raise FormatError(
                f"{path} has format {version!r}; this version reads format {FILE_FORMAT}. "
                f"It was probably saved by a newer version: upgrade, or save it again with an older one."
            )
        try:
            width, height = arrays.pop("size").tolist()
            return Tracks(**arrays, size=(width, height), meta=meta)
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path} does not hold what tracks are made of: {error}") from error
