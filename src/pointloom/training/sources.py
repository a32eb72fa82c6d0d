"""Where training clips come from: folders read in any order, or clips made on the fly, mixed by weight.

What cannot be used (a file that cannot be read, a clip with too few points) is passed over for another draw and taken
note of. As draws depend on the generator alone, that happens in the same way in whichever process meets it, and no
process waits for another because of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.registry import open_dataset
from pointloom.datasets.synthetic import LayeredConfig, TextureBank, make_clip
from pointloom.errors import DatasetError, OptionError, PointloomError
from pointloom.training.recipe import LayeredRecipe, SourceShare

ATTEMPTS = 20  # draws in a row that may be passed over
LAYERED = "layered"
SEEDS = 2**62  # of layered clips

Sample = TypeVar("Sample")


class Passed(NamedTuple):
    """A draw that could not be used."""

    path: str
    reason: str


@runtime_checkable
class RandomAccess(Protocol):
    """Clips that can be read in any order."""

    names: tuple[str, ...]

    def __getitem__(self, index: int) -> AnnotatedClip:
        """Read a clip."""
        ...


@dataclass(frozen=True)
class StoredClips:
    """Clips on disk, each as likely."""

    folder: Path
    clips: RandomAccess

    @staticmethod
    def open(kind: str, folder: str) -> StoredClips:
        """Open a folder as the kind of data set that it is."""
        dataset = open_dataset(f"{kind}:{folder}")
        clips = dataset.entry.read(dataset.path)
        if not isinstance(clips, RandomAccess):
            raise OptionError(
                f"clips of the kind {kind!r} can only be read one after the other, and training draws them at random. "
                f"Write them into a pool with pointloom.datasets.pool.fill_pool."
            )
        return StoredClips(dataset.path, clips)

    def draw(self, rng: np.random.Generator) -> tuple[str, Callable[[], AnnotatedClip]]:
        """Choose a clip: its path, and how to read it."""
        index = int(rng.integers(len(self.clips.names)))
        return str(self.folder / self.clips.names[index]), lambda: self.clips[index]


@dataclass(frozen=True)
class LayeredClips:
    """Layered clips of random seeds."""

    config: LayeredConfig
    textures: TextureBank

    @staticmethod
    def open(recipe: LayeredRecipe, photos: str | None) -> LayeredClips:
        """Read the photos, or draw textures without any."""
        bank = TextureBank.from_folder(photos) if photos else TextureBank.procedural()
        return LayeredClips(LayeredConfig(size=recipe.size, frames=recipe.frames, tracks=recipe.tracks), bank)

    def draw(self, rng: np.random.Generator) -> tuple[str, Callable[[], AnnotatedClip]]:
        """Choose a seed: what the clip is called, and how to make it."""
        seed = int(rng.integers(SEEDS))
        return f"layered clip of seed {seed}", lambda: make_clip(self.config, self.textures, seed)


@dataclass(frozen=True)
class Sources:
    """All clips of a recipe, and the chance of each source."""

    sources: tuple[StoredClips | LayeredClips, ...]
    chances: tuple[float, ...]

    @staticmethod
    def open(shares: list[SourceShare]) -> Sources:
        """Open the sources of a recipe."""
        total = sum(share.weight for share in shares)
        if not shares or min(share.weight for share in shares) < 0 or total <= 0:
            raise OptionError(f"weights of sources must be positive, got {[share.weight for share in shares]}.")
        return Sources(tuple(_open(share) for share in shares), tuple(share.weight / total for share in shares))

    def draw(self, rng: np.random.Generator, use: Callable[[AnnotatedClip], Sample]) -> tuple[Sample, list[Passed]]:
        """Draw clips until one can be used; return what `use` makes of it, and what was passed over.

        `use` raises an error of ours for a clip that it cannot use.
        """
        passed: list[Passed] = []
        while len(passed) < ATTEMPTS:
            source = self.sources[int(rng.choice(len(self.sources), p=self.chances))]
            path, read = source.draw(rng)
            try:
                return use(read()), passed
            except PointloomError as error:
                passed.append(Passed(path, str(error)))
        raise DatasetError(
            f"{ATTEMPTS} clips in a row could not be used, the last one, {path}, because: {passed[-1].reason} "
            f"Are the sources of the recipe sound, and do they have enough points for it?"
        )


def _open(share: SourceShare) -> StoredClips | LayeredClips:
    if share.kind == LAYERED:
        return LayeredClips.open(share.layered, share.folder)
    if share.folder is None:
        raise OptionError(f"a source of the kind {share.kind!r} needs a folder.")
    return StoredClips.open(share.kind, share.folder)
