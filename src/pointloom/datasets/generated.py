"""Filling a folder with generated clips, in one of several layouts; an interrupted run goes on.

A clip is a function of its seed, has a folder of its own that is named after the seed, and gets that name only when it
is complete. So what is there need not be made again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pointloom.datasets.clip import AnnotatedClip
from pointloom.errors import DatasetError


@dataclass(frozen=True)
class ClipLayout:
    """How clips lie in a folder.

    file   what a clip's folder holds if it is one of this layout; `{name}` stands for the name of the clip
    write  adds a clip to a folder, completely or not at all
    """

    name: str
    file: str
    write: Callable[[Path, AnnotatedClip], None]


def clip_name(seed: int) -> str:
    """Name of the clip of a seed, and of its folder."""
    return f"{seed:08d}"


@contextmanager
def unfinished_clip(folder: Path, name: str) -> Iterator[Path]:
    """Give a hidden folder to write a clip into; it takes the clip's name once all is written, or is removed."""
    unfinished = folder / f".{name}.{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        unfinished.rename(folder / name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def is_made(folder: Path, seed: int, layout: ClipLayout) -> bool:
    """Whether a clip is there. Raises DatasetError if something else has its place."""
    place = folder / clip_name(seed)
    if place.exists() and not (place / layout.file.format(name=place.name)).exists():
        raise DatasetError(
            f"{place} is there, but is not a clip in the layout {layout.name}. Take another folder, or remove it."
        )
    return place.exists()


def fill_folder(
    folder: Path,
    seeds: range,
    make: Callable[[int], AnnotatedClip],
    layout: ClipLayout,
    progress: Callable[[float], None] | None = None,
) -> int:
    """Make the clips of `seeds` that the folder lacks, and return how many were made. Can be interrupted."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if not is_made(folder, seed, layout)]
    there = len(seeds) - len(missing)
    for made, seed in enumerate(missing, 1):
        layout.write(folder, replace(make(seed), name=clip_name(seed)))
        if progress is not None:
            progress((there + made) / len(seeds))
    return len(missing)
