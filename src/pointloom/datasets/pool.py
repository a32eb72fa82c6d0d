"""A pool of generated clips on disk, so that a trainer never waits for data; also a data set to evaluate on.

One folder a clip: `frames.npy` (T, H, W, 3) uint8 and `tracks.npz`. Frames are memory-mapped, so reading two frames of
a clip reads two frames. A folder appears under its name only when it is complete.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.generated import ClipLayout, fill_folder, unfinished_clip
from pointloom.datasets.registry import register
from pointloom.errors import DatasetError


@dataclass(frozen=True)
class ClipPool:
    """Clips in a folder, in order of their names."""

    folder: Path
    names: tuple[str, ...]

    @staticmethod
    def open(folder: Path | str) -> ClipPool:
        """List the complete clips of a folder."""
        folder = Path(folder)
        names = tuple(sorted(p.parent.name for p in folder.glob("*/tracks.npz") if not p.parent.name.startswith(".")))
        if not names:
            raise DatasetError(f"{folder} holds no clips. Make some with: pointloom synth layered {folder} --clips 100")
        return ClipPool(folder, names)

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.names)

    def __getitem__(self, index: int) -> AnnotatedClip:
        """Open a clip. Its frames are a memory map: index them before use."""
        folder = self.folder / self.names[index]
        try:
            frames = np.load(folder / "frames.npy", mmap_mode="r")
            with (folder / "tracks.npz").open("rb") as file, np.load(file) as tracks:
                return AnnotatedClip(self.names[index], frames, tracks["xy"], tracks["visible"], tracks["valid"])
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise DatasetError(f"{folder} is damaged: {error}. Remove it, and make its clip again.") from error

    def __iter__(self) -> Iterator[AnnotatedClip]:
        """Open the clips, one after the other."""
        return (self[index] for index in range(len(self)))


@register("pool", summary="generated clips, as `pointloom synth` makes them")
def read_pool(path: Path) -> ClipPool:
    """Open a pool as a data set."""
    return ClipPool.open(path)


def write_clip(folder: Path, clip: AnnotatedClip) -> None:
    """Add a clip to a pool; what has its name is replaced."""
    with unfinished_clip(folder, clip.name) as unfinished:
        np.save(unfinished / "frames.npy", clip.frames)
        np.savez(unfinished / "tracks.npz", xy=clip.xy, visible=clip.visible, valid=clip.valid)
        shutil.rmtree(folder / clip.name, ignore_errors=True)


POOL = ClipLayout("pool", "tracks.npz", write_clip)


def fill_pool(
    folder: Path, seeds: range, make: Callable[[int], AnnotatedClip], progress: Callable[[float], None] | None = None
) -> int:
    """Make the clips of `seeds` that the pool lacks, and return how many were made. Can be interrupted."""
    return fill_folder(folder, seeds, make, POOL, progress)
