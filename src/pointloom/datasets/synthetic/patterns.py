"""Drawn textures: repeated patterns, smooth gradients, sharp graphics, and something like a photo.

Boards of chess squares or tags, bricks, facades, lines of text and rows of dots look the same every few pixels, so that
only the order of things tells which corner is which.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8

Image = UInt8[np.ndarray, "height width 3"]

SHADED_SHARE = 0.5  # of patterns whose brightness changes slowly across them
WORDS = ("THE", "point", "of", "LOOM", "every", "thread", "stays", "where", "0123456789", "&", "then,", "47%", "MORE!")
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_PLAIN)


GRAIN = (2.0, 7.0)  # grey levels of the fine texture that even smooth surfaces have


def random_pattern(rng: np.random.Generator, width: int, height: int) -> Image:
    """One of the repeated patterns, in random colours and size."""
    pattern = _PATTERNS[int(rng.integers(len(_PATTERNS)))]
    cell = int(np.clip(round(min(width, height) / rng.uniform(2.5, 9)), 4, 40))
    image = pattern(rng, width, height, cell)
    if rng.random() < SHADED_SHARE:
        shade = _upsampled(rng.uniform(140, 255, (2, 3)), width, height)
        image = cv2.multiply(image, cv2.cvtColor(shade, cv2.COLOR_GRAY2RGB), scale=1 / 255)
    return image


def _two_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A dark and a light colour in random order; black and white in a third of the cases."""
    if rng.random() < 1 / 3:
        dark, light = np.full(3, 15.0), np.full(3, 240.0)
    else:
        dark, light = rng.uniform(0, 110, 3), rng.uniform(140, 255, 3)
    return (dark, light) if rng.random() < 0.5 else (light, dark)


def _plain(colour: np.ndarray, width: int, height: int) -> Image:
    return np.full((height, width, 3), np.round(colour).astype(np.uint8), np.uint8)


def _chessboard(rng: np.random.Generator, width: int, height: int, cell: int) -> Image:
    palette = np.stack(_two_colours(rng)).astype(np.uint8)  # (2, 3)
    return palette[(np.arange(height)[:, None] // cell + np.arange(width) // cell) % 2]


def _tag_board(rng: np.random.Generator, width: int, height: int, cell: int) -> Image:
    """Square tags with a white border, as used for calibration and pose."""
    cell = max(cell, 12)
    names = (cv2.aruco.DICT_4X4_50, cv2.aruco.DICT_5X5_50, cv2.aruco.DICT_6X6_50)
    dictionary = cv2.aruco.getPredefinedDictionary(names[int(rng.integers(len(names)))])
    image = np.full((height, width), 255, np.uint8)
    tag = min(max(8, round(cell * 0.8)), width, height)
    margin = min(cell // 8, width - tag, height - tag)
    same = rng.random() < 0.2
    number = int(rng.integers(50))
    for top in range(margin, height - tag + 1, cell):
        for left in range(margin, width - tag + 1, cell):
            number = number if same else (number + 1) % 50
            image[top : top + tag, left : left + tag] = cv2.aruco.generateImageMarker(dictionary, number, tag)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB))


def _bricks(rng: np.random.Generator, width: int, height: int, cell: int) -> Image:
    mortar, brick = _two_colours(rng)
    image = _plain(mortar, width, height)
    long, gap, spread = 2 * cell, max(1, cell // 8), rng.uniform(0, 20)
    for row, top in enumerate(range(0, height, cell)):
        for left in range(-(row % 2) * cell, width, long):
            colour = np.clip(brick + rng.normal(0, spread), 0, 255)
            right, bottom = left + long - gap - 1, top + cell - gap - 1
            cv2.rectangle(image, (left, top), (right, bottom), colour.tolist(), cv2.FILLED)
    return image


def _facade(rng: np.random.Generator, width: int, height: int, cell: int) -> Image:
    """Rows of equal windows with a frame and a cross bar."""
    wall, glass = _two_colours(rng)
    image = _plain(wall, width, height)
    cell = max(cell, 8)
    wide, high, spread = round(cell * rng.uniform(0.45, 0.75)), round(cell * rng.uniform(0.5, 0.8)), rng.uniform(0, 40)
    for top in range(cell // 6, height, cell):
        for left in range(cell // 6, width, cell):
            colour = np.clip(glass + rng.normal(0, spread), 0, 255)
            cv2.rectangle(image, (left, top), (left + wide, top + high), colour.tolist(), cv2.FILLED)
            middle = left + wide // 2
            cv2.line(image, (middle, top), (middle, top + high), wall.tolist(), 1)
    return image


def _text(rng: np.random.Generator, width: int, height: int, cell: int) -> Image:
    paper, ink = _two_colours(rng)
    image = _plain(paper, width, height)
    font = FONTS[int(rng.integers(len(FONTS)))]
    line = int(np.clip(cell, 9, 30))
    size = line / (22.0 if font == cv2.FONT_HERSHEY_PLAIN else 38.0) * 1.1
    for baseline in range(line - 2, height + line, line):
        words = " ".join(rng.permutation(WORDS)[: 2 + width // (line * 2)])
        place = (int(rng.integers(-line, line)), baseline)
        cv2.putText(image, words, place, font, size, ink.tolist(), 1 + line // 18, cv2.LINE_AA)
    return image


def _dots(rng: np.random.Generator, width: int, height: int, cell: int) -> Image:
    ground, dot = _two_colours(rng)
    image = _plain(ground, width, height)
    radius, staggered = max(1, round(cell * rng.uniform(0.2, 0.4))), rng.random() < 0.5
    for row, y in enumerate(range(cell // 2, height + cell, cell)):
        for x in range(cell // 2 - (cell // 2 if staggered and row % 2 else 0), width + cell, cell):
            cv2.circle(image, (x, y), radius, dot.tolist(), cv2.FILLED, cv2.LINE_AA)
    return image


_PATTERNS: tuple[Callable[[np.random.Generator, int, int, int], Image], ...] = (
    _chessboard,
    _tag_board,
    _bricks,
    _facade,
    _text,
    _dots,
)


def _upsampled(coarse: np.ndarray, width: int, height: int) -> np.ndarray:
    """A few random values as a smooth image."""
    smooth = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(smooth, 0, 255).astype(np.uint8))


def gradient(rng: np.random.Generator, width: int, height: int) -> Image:
    """Smooth colours with a little grain."""
    colour, contrast = rng.uniform(30, 225, 3), rng.uniform(10, 60)
    return _grained(rng, _upsampled(colour + rng.normal(0, contrast, (3, 4, 3)), width, height))


def graphic(rng: np.random.Generator, width: int, height: int) -> Image:
    """Overlapping shapes in strong colours, like a poster or a package."""
    image = _upsampled(rng.uniform(0, 255, 3) + rng.normal(0, 15, (2, 3, 3)), width, height)
    for _ in range(int(rng.integers(8, 30))):
        colour = rng.uniform(0, 255, 3).tolist()
        x, y = int(rng.integers(width)), int(rng.integers(height))
        reach = max(2, int(min(width, height) * np.exp(rng.uniform(np.log(0.03), np.log(0.35)))))
        if rng.random() < 0.4:
            cv2.circle(image, (x, y), reach, colour, cv2.FILLED, cv2.LINE_AA)
        else:
            corners = np.array([x, y]) + rng.integers(-reach, reach + 1, (int(rng.integers(3, 6)), 2))
            cv2.fillPoly(image, [corners.astype(np.int32)], colour, cv2.LINE_AA)
    return _grained(rng, image)


def _grained(rng: np.random.Generator, image: Image) -> Image:
    grain = rng.normal(0, rng.uniform(*GRAIN), image.shape[:2])
    return np.asarray(cv2.add(image, np.repeat(np.rint(grain).astype(np.int16)[..., None], 3, axis=2), dtype=cv2.CV_8U))


def procedural_photo(rng: np.random.Generator, width: int, height: int) -> Image:
    """Coloured noise of every scale, with shapes in front."""
    image = np.zeros((height, width, 3), np.float32)
    for octave in range(7):
        cells = 3 * 2**octave
        coarse = rng.normal(0, 1 / (1.45**octave), (max(2, cells * height // width), cells, 3)).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image = 128 + image * (50 / image.std())
    photo = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(5, 40))):
        center, reach = rng.integers((width, height)), rng.uniform(5, 60)
        corners = center + rng.uniform(-reach, reach, (int(rng.integers(3, 7)), 2))
        colour = rng.uniform(0, 255, 3)
        covered = cv2.fillPoly(photo.copy(), [corners.astype(np.int32)], colour.tolist(), cv2.LINE_AA)
        opacity = rng.uniform(0.3, 0.9)
        photo = cv2.addWeighted(covered, opacity, photo, 1 - opacity, 0)
    return photo
