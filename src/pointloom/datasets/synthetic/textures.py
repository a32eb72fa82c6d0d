"""What layers are covered with: photos, repeated patterns, weak gradients and sharp graphics.

Real scenes hold more than photo-like texture. Boards of chess squares or tags, facades, lines of text and rows of
dots look the same every few pixels, so that only the order of things tells which corner is which; smooth surfaces
have hardly anything to hold on to. A tracker that has not met them guesses. A `TextureBank` holds the photos; the
rest is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from pointloom.datasets.synthetic.patterns import Image, gradient, graphic, procedural_photo, random_pattern
from pointloom.errors import DatasetError, OptionError

Photo = UInt8[np.ndarray, "h w 3"]

LONGEST_SIDE = 576  # photos are shrunk to this once; frames of 256 pixels need no more
SHORTEST_SIDE = 16
MIRRORED_SHARE = 0.5  # of the cut-outs
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class TextureMix:
    """Shares of the layers that show something else than a photo."""

    pattern: float  # repeated, as boards, facades, text
    weak: float  # hardly any texture
    graphic: float  # a few sharp shapes


OBJECT_MIX = TextureMix(pattern=0.2, weak=0.08, graphic=0.06)
BACKGROUND_MIX = TextureMix(pattern=0.17, weak=0.06, graphic=0.03)


class TextureBank:
    """Photos to cover layers with.

        bank = TextureBank.from_folder("photos")     # jpg and png
        bank = TextureBank(frames_of_a_video)        # RGB arrays of any size
        bank = TextureBank.procedural(seed=0)        # nothing at hand: drawn ones

    Photos are shrunk once, to at most 576 pixels on the longer side. The order of the photos counts: the same photos in
    another order give other clips for the same seed.
    """

    def __init__(self, photos: Sequence[np.ndarray]) -> None:
        """Check and shrink the photos."""
        if len(photos) == 0:
            raise OptionError("A texture bank needs at least one photo, got none. Use TextureBank.procedural().")
        self.photos: tuple[UInt8[np.ndarray, "_h _w 3"], ...] = tuple(
            _shrink(_checked(photo, i)) for i, photo in enumerate(photos)
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> TextureBank:
        """All jpg and png files of a folder, in the order of their names."""
        folder = Path(folder)
        if not folder.is_dir():
            raise DatasetError(f"The folder of photos {folder} does not exist. Give a folder with jpg or png files.")
        photos = []
        for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
            packed = np.frombuffer(path.read_bytes(), np.uint8)
            image = cv2.imdecode(packed, cv2.IMREAD_COLOR_RGB) if len(packed) else None
            if image is None:
                raise DatasetError(f"The photo {path} cannot be decoded. Remove it or save it again as jpg or png.")
            photos.append(np.asarray(image))
        if not photos:
            raise DatasetError(f"The folder {folder} holds no jpg or png file. Give a folder with photos.")
        return cls(photos)

    @classmethod
    def procedural(cls, seed: int = 0, count: int = 16) -> TextureBank:
        """Drawn textures with detail at every scale, for use without any photo."""
        rng = np.random.default_rng(seed)
        return cls([procedural_photo(rng, 384, 288) for _ in range(count)])

    def pick(self, rng: np.random.Generator) -> Photo:
        """One of the photos."""
        return self.photos[int(rng.integers(len(self.photos)))]


def random_texture(
    rng: np.random.Generator, photo: Photo, size: tuple[int, int], *, coverage: float, mix: TextureMix
) -> Image:
    """A texture of the given size (width, height): mostly a cut-out of `photo`, else drawn.

    `coverage` is the number of photo pixels, along a side, that one pixel of texture shows; less where the photo is too
    small for it.
    """
    kinds = (gradient, graphic, random_pattern)
    shares = np.cumsum([mix.weak, mix.graphic, mix.pattern])
    kind = int(np.searchsorted(shares, rng.random(), side="right"))
    return kinds[kind](rng, *size) if kind < len(kinds) else cut_out(rng, photo, *size, coverage=coverage)


def cut_out(rng: np.random.Generator, photo: Photo, width: int, height: int, *, coverage: float) -> Image:
    """A random part of a photo, shrunk to the given size."""
    photo_height, photo_width = photo.shape[:2]
    coverage = min(coverage, photo_width / width, photo_height / height)
    part_width, part_height = max(1, round(width * coverage)), max(1, round(height * coverage))
    left = int(rng.integers(photo_width - part_width + 1))
    top = int(rng.integers(photo_height - part_height + 1))
    part = resize(photo[top : top + part_height, left : left + part_width], width, height)
    return np.ascontiguousarray(part[:, ::-1]) if rng.random() < MIRRORED_SHARE else part


def resize(
    image: UInt8[np.ndarray, "h w *channels"], width: int, height: int
) -> UInt8[np.ndarray, "height width *channels"]:
    """Resize without aliasing: by area when shrinking, bilinear when enlarging."""
    shrinks = width < image.shape[1] or height < image.shape[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method))


def _checked(photo: np.ndarray, index: int) -> Photo:
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
        raise OptionError(
            f"Photo {index} has shape {photo.shape} and type {photo.dtype}. Give uint8 RGB images, (height, width, 3)."
        )
    if min(photo.shape[:2]) < SHORTEST_SIDE:
        raise OptionError(f"Photo {index} has shape {photo.shape}. Its sides must be at least {SHORTEST_SIDE} pixels.")
    return photo


def _shrink(photo: Photo) -> Image:
    height, width = photo.shape[:2]
    factor = LONGEST_SIDE / max(height, width)
    return resize(photo, max(1, round(width * factor)), max(1, round(height * factor))) if factor < 1 else photo
