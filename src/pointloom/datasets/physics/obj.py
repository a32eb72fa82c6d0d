"""Models from OBJ files, with the textures that their materials name.

Read are vertices, texture coordinates, faces of any number of corners, and of each material its colour picture
(`map_Kd`). Beside a model may lie `collision.json`, a list of convex pieces, each a list of vertices [x, y, z]; without
it the model collides as its convex hull does. Units and axes do not matter: models are scaled and turned when they are
thrown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from pointloom.datasets.physics.shapes import Solid, Surface, Texture, Thing
from pointloom.errors import DatasetError

MOST_FACES = 50_000  # of one model; scans of more are slow to compile, and no pixel of a small frame shows it
LARGEST_TEXTURE = 512  # pixels a side
COLLISION_FILE = "collision.json"


@dataclass(frozen=True)
class ModelBank:
    """Models to throw, in order of their files' names."""

    things: tuple[Thing, ...] = ()

    @classmethod
    def from_folder(cls, folder: str | Path) -> ModelBank:
        """All OBJ files in a folder and in the folders within."""
        folder = Path(folder)
        if not folder.is_dir():
            raise DatasetError(f"The folder of models {folder} does not exist. Give a folder with OBJ files.")
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".obj")
        if not files:
            raise DatasetError(f"The folder {folder} holds no OBJ file. Give a folder with models.")
        return cls(tuple(read_obj(path) for path in files))

    def pick(self, rng: np.random.Generator) -> Thing:
        """One of the models: the thinner it is, the more seldom, since of a fork hardly a pixel is seen."""
        chances = np.array([thing.bulk for thing in self.things])
        return self.things[int(rng.choice(len(self.things), p=chances / chances.sum()))]


def read_obj(path: Path) -> Thing:
    """Read a model, and move the middle of the box around it to the origin."""
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise DatasetError(f"The model {path} cannot be read: {error}.") from error
    places: dict[str, list[list[float]]] = {"v": [], "vt": []}
    corners: dict[str, list[tuple[list[int], list[int]]]] = {}  # of each material: triangles, as vertices and places
    textures: dict[str, Texture] = {}
    material = ""
    for number, line in enumerate(text.splitlines(), 1):
        key, *words = line.split("#")[0].split() or [""]
        try:
            if key in places:
                places[key].append(_coordinates(words, 3 if key == "v" else 2))
            elif key == "f":
                corners.setdefault(material, []).extend(_triangles(words, len(places["v"]), len(places["vt"])))
            elif key == "usemtl":
                material = " ".join(words)
            elif key == "mtllib":
                textures |= dict(_textures(path.parent / " ".join(words)))
        except ValueError as error:
            raise DatasetError(f"The model {path} is damaged in line {number}, {line.strip()!r}: {error}.") from error
    vertices = np.array(places["v"], float).reshape(-1, 3)
    uv = np.array(places["vt"], float).reshape(-1, 2)
    count = sum(map(len, corners.values()))
    if not 0 < count <= MOST_FACES:
        raise DatasetError(
            f"The model {path} has {count} triangles, but needs 1..{MOST_FACES}. Remove it, or simplify it."
        )
    if not np.isfinite(vertices).all() or not np.isfinite(uv).all() or np.ptp(vertices, axis=0).max() <= 0:
        raise DatasetError(f"The model {path} has no extent, or numbers that are no numbers. Remove it.")
    surfaces = tuple(_surface(vertices, uv, found, textures.get(name)) for name, found in corners.items())
    low, high = (bound(np.concatenate([s.vertices for s in surfaces]), axis=0) for bound in (np.min, np.max))
    middle = (low + high) / 2
    surfaces = tuple(Surface(s.vertices - middle, s.faces, s.uv, s.uv_faces, s.texture) for s in surfaces)
    pieces = _pieces(path.with_name(COLLISION_FILE)) or [np.concatenate([s.vertices for s in surfaces]) + middle]
    name = path.parent.name if path.stem == "model" else path.stem
    return Thing(name, surfaces, tuple(Solid.hull(points - middle) for points in pieces))


def _coordinates(words: list[str], count: int) -> list[float]:
    if len(words) < count:
        raise ValueError(f"{count} coordinates are needed")
    return [float(word) for word in words[:count]]  # more of them are weights or colours


def _triangles(words: list[str], vertices: int, places: int) -> Iterator[tuple[list[int], list[int]]]:
    """A fan of triangles for a face such as `1/1 2/2 3/3 4/4`. OBJ counts from 1, or back from the end."""
    corners = [
        [_index(part, count) for part, count in zip(word.split("/"), (vertices, places), strict=False)]
        for word in words
    ]
    if len(corners) < 3:
        raise ValueError("a face has at least three corners")
    for second, third in pairwise(corners[1:]):
        fan = (corners[0], second, third)
        yield [corner[0] for corner in fan], [corner[1] if len(corner) > 1 else -1 for corner in fan]


def _index(word: str, count: int) -> int:
    if not word:
        return -1
    index = int(word)
    index = index - 1 if index > 0 else count + index
    if not 0 <= index < count:
        raise ValueError(f"there is no {word} among {count}")
    return index


def _surface(
    vertices: np.ndarray, uv: np.ndarray, found: list[tuple[list[int], list[int]]], texture: Texture | None
) -> Surface:
    """The triangles of one material. Those without places in a texture get them from their positions."""
    faces = np.array([triangle for triangle, _ in found])
    uv_faces = np.array([triangle for _, triangle in found])
    used, faces = np.unique(faces, return_inverse=True)
    vertices, faces = vertices[used], faces.reshape(-1, 3)
    if (uv_faces < 0).any():
        return Surface(vertices, faces, *_unfolded(vertices, faces), None)
    used, uv_faces = np.unique(uv_faces, return_inverse=True)
    return Surface(vertices, faces, uv[used], uv_faces.reshape(-1, 3), texture)


def _unfolded(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in a texture that is seen from six sides, each triangle from the one that it faces most."""
    corners = vertices[faces]  # (F, 3, 3)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    axis = np.abs(normal).argmax(axis=1)
    flat = np.array([(1, 2), (0, 2), (0, 1)])[axis]
    uv = np.take_along_axis(corners, flat[:, None, :], axis=2).reshape(-1, 2)
    low, extent = vertices.min(axis=0), np.ptp(vertices, axis=0).max()
    uv = (uv - low[np.repeat(flat, 3, axis=0)]) / extent
    return uv, np.arange(len(uv)).reshape(-1, 3)


def _textures(path: Path) -> Iterator[tuple[str, Texture]]:
    """The colour pictures of a library of materials. What is missing is covered with a photo later."""
    if not path.is_file():
        return
    material = ""
    for line in path.read_text(errors="replace").splitlines():
        key, *words = line.split() or [""]
        if key == "newmtl":
            material = " ".join(words)
        elif key == "map_Kd" and words:
            name = words[-1] if words[0].startswith("-") else " ".join(words)  # after options, a name is one word
            yield material, _picture(path.parent / name.replace("\\", "/"))


def _picture(path: Path) -> Texture:
    packed = np.frombuffer(path.read_bytes(), np.uint8) if path.is_file() else np.zeros(0, np.uint8)
    image = cv2.imdecode(packed, cv2.IMREAD_COLOR_RGB) if len(packed) else None
    if image is None:
        raise DatasetError(f"The texture {path} of a model is missing or cannot be decoded.")
    factor = LARGEST_TEXTURE / max(image.shape[:2])
    if factor < 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return np.asarray(image, np.uint8)


def _pieces(path: Path) -> list[np.ndarray]:
    """The convex pieces of a model, if somebody worked them out."""
    if not path.is_file():
        return []
    try:
        pieces = [np.array(piece, float) for piece in json.loads(path.read_text())]
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{path} is not a list of convex pieces: {error}.") from error
    if any(piece.ndim != 2 or piece.shape[1:] != (3,) or not np.isfinite(piece).all() for piece in pieces):
        raise DatasetError(f"{path}: a convex piece must be a list of vertices [x, y, z].")
    return pieces
