"""Data sets by name: `clips:FOLDER`, `tapvid-davis:FOLDER`. A reader is a function with a decorator, in any file here.

    @register("clips", summary="folders of annotated clips")
    def read(path: Path) -> Iterable[Clip]: ...

    for clip in open_dataset("clips:benchmarks/clips"): ...

A reader yields its clips one at a time, so that a data set never has to fit into memory, and in the same order every
time. Names of clips are unique within a data set; what comes before the last slash of a name is its group.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias, TypeVar

from pointloom import datasets
from pointloom.datasets.clip import Clip
from pointloom.errors import DatasetError

Reader: TypeAlias = Callable[[Path], Iterable[Clip]]
AnyReader = TypeVar("AnyReader", bound=Reader)


@dataclass(frozen=True)
class DatasetEntry:
    """A kind of data set, and who made the one that it is named after."""

    name: str
    read: Reader
    summary: str
    licence: str
    citation: str


@dataclass(frozen=True)
class Dataset:
    """A data set on disk. Iterating reads its clips, each time anew."""

    entry: DatasetEntry
    path: Path

    @property
    def name(self) -> str:
        """Name of the kind of data set."""
        return self.entry.name

    def __iter__(self) -> Iterator[Clip]:
        """Read the clips, one after the other."""
        return iter(self.entry.read(self.path))

    def __length_hint__(self) -> int:
        """Return the number of clips, where a reader knows it before reading."""
        clips = self.entry.read(self.path)
        return len(clips) if isinstance(clips, Sized) else NotImplemented


_ENTRIES: dict[str, DatasetEntry] = {}


def register(name: str, *, summary: str, licence: str = "", citation: str = "") -> Callable[[AnyReader], AnyReader]:
    """Make a reader known by a name."""

    def add(read: AnyReader) -> AnyReader:
        assert name not in _ENTRIES, f"two readers are called {name}"
        _ENTRIES[name] = DatasetEntry(name, read, summary, licence, citation)
        return read

    return add


def list_datasets() -> list[DatasetEntry]:
    """Return every kind of data set, by name."""
    _import_readers()
    return [_ENTRIES[name] for name in sorted(_ENTRIES)]


def find_dataset(name: str) -> DatasetEntry:
    """Look a name up; an unknown one is answered with the nearest known names."""
    known = {entry.name: entry for entry in list_datasets()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise DatasetError(f"no data set is called {name!r}. {hint}Known: {', '.join(known)}.")


def open_dataset(source: str) -> Dataset:
    """Open `NAME:PATH`, such as `clips:benchmarks/clips`."""
    name, colon, path = source.partition(":")
    entry = find_dataset(name)
    if not colon or not path:
        raise DatasetError(f"{source!r} does not say where the data set is. Write {name}:FOLDER.")
    if not Path(path).exists():
        raise DatasetError(f"there is no {path}. Write {name}:FOLDER with a folder that exists.")
    return Dataset(entry, Path(path))


@cache
def _import_readers() -> None:
    """Import the files beside this one, whose readers then are registered."""
    for module in pkgutil.iter_modules(datasets.__path__):
        if not module.ispkg:
            importlib.import_module(f"{datasets.__name__}.{module.name}")
