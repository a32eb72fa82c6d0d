"""Things to throw: textured surfaces that are seen, and the convex solids that collide in their place.

Surfaces and solids are kept apart, since an engine collides convex bodies only while eyes see every dent. Most drawn
things are turned on a lathe: an outline of (radius, height) swept around the z axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

SPOKES = 40  # flat sides of what is turned on a lathe
ARC = 14  # points of a half circle
RING_SOLIDS = 10  # convex pieces of a ring
SHARP = 0.02  # share of its radius by which an edge of a turned thing is broken

Texture = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Surface:
    """Triangles with a texture.

    vertices  in metres, in the frame of the thing
    faces     three vertices each, counter-clockwise seen from outside
    uv        places in the texture: (0, 0) is its lower left corner, (1, 1) the upper right
    uv_faces  three of these places for each face
    texture   None for one that is chosen later
    """

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    uv: Float[np.ndarray, "U 2"]
    uv_faces: Int[np.ndarray, "F 3"]
    texture: Texture | None = None


@dataclass(frozen=True)
class Solid:
    """A convex body about the origin of its thing.

    kind    box and ball: `size` holds half their sides or axes; cylinder and capsule: radius, half the height (without
            caps), 0; hull: the convex hull of `points`
    """

    kind: Literal["box", "ball", "cylinder", "capsule", "hull"]
    size: Float[np.ndarray, " 3"]
    points: Float[np.ndarray, "P 3"]

    @classmethod
    def hull(cls, points: Float[np.ndarray, "P 3"]) -> Solid:
        """The hull of some points, or a thin box where they lie in one plane."""
        low, high = points.min(axis=0), points.max(axis=0)
        spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
        if len(points) < 4 or spread[2] < FLAT * spread[0]:
            centre, half = (low + high) / 2, np.maximum((high - low) / 2, FLAT * np.linalg.norm(high - low))
            points = centre + half * CORNERS
        return cls("hull", np.zeros(3), points)


FLAT = 0.01  # a hull thinner than this share of its length counts as flat
CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)


@dataclass(frozen=True)
class Thing:
    """A rigid thing: what is seen of it, and what collides."""

    name: str
    surfaces: tuple[Surface, ...]
    solids: tuple[Solid, ...]

    @cached_property
    def vertices(self) -> Float[np.ndarray, "V 3"]:
        """Of all surfaces."""
        return np.concatenate([surface.vertices for surface in self.surfaces])

    @property
    def length(self) -> float:
        """The longest side of the box around it, in metres."""
        return float(np.ptp(self.vertices, axis=0).max())

    @property
    def bulk(self) -> float:
        """How much of a cube about its longest side it fills, along a side: 1 for a cube, little for a fork."""
        sides = np.maximum(np.ptp(self.vertices, axis=0), FLAT * self.length)
        return float(np.prod(sides) ** (1 / 3) / self.length)

    @property
    def radius(self) -> float:
        """Of the ball about the origin that holds it, in metres."""
        return float(np.linalg.norm(self.vertices, axis=1).max())

    def scaled(self, factor: float) -> Thing:
        """The same thing, larger or smaller."""
        return Thing(
            self.name,
            tuple(replace(surface, vertices=surface.vertices * factor) for surface in self.surfaces),
            tuple(Solid(solid.kind, solid.size * factor, solid.points * factor) for solid in self.solids),
        )

    def covered(self, texture: Texture) -> Thing:
        """The same thing with a texture on every surface that has none."""
        return replace(
            self,
            surfaces=tuple(
                replace(surface, texture=texture) if surface.texture is None else surface for surface in self.surfaces
            ),
        )


# ---- drawn things, about one metre long


def random_shape(rng: np.random.Generator) -> Thing:
    """Draw a shape without a texture."""
    kind = rng.choice(list(SHAPES))
    return SHAPES[kind](rng)


def box(half: Float[np.ndarray, " 3"]) -> Thing:
    """A box; each side shows the whole texture, upright on the four upright sides."""
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
    sides = []
    for axis in range(3):
        for sign in (-1, 1):
            right = np.array([(0, sign, 0), (-sign, 0, 0), (1, 0, 0)][axis], float)
            out = sign * np.eye(3)[axis]
            sides.append(out + corners[:, :1] * right + corners[:, 1:] * np.cross(out, right))
    first = 4 * np.arange(6)[:, None, None]
    pair = np.array([(0, 1, 2), (0, 2, 3)])
    faces = (first + pair).reshape(-1, 3)
    uv_faces = np.tile(pair, (6, 1))
    surface = Surface(np.concatenate(sides) * half, faces, (corners + 1) / 2, uv_faces)
    return Thing("box", (surface,), (Solid("box", np.asarray(half, float), np.zeros((0, 3))),))


def ball(half: Float[np.ndarray, " 3"]) -> Thing:
    """A ball or an ellipsoid."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 2 * ARC)
    surface = lathe(np.stack([np.cos(angle), np.sin(angle)], axis=-1))
    surface = replace(surface, vertices=surface.vertices * half)
    return Thing("ball", (surface,), (Solid("ball", np.asarray(half, float), np.zeros((0, 3))),))


def cylinder(radius: float, half_height: float) -> Thing:
    """An upright cylinder."""
    bevel = SHARP * radius
    outline = [(0, -1), (radius - bevel, -1), (radius, -1), (radius, 1), (radius - bevel, 1), (0, 1)]
    surface = lathe(np.array(outline) * (1, half_height))
    return Thing("cylinder", (surface,), (Solid("cylinder", np.array([radius, half_height, 0]), np.zeros((0, 3))),))


def capsule(radius: float, half_height: float) -> Thing:
    """An upright cylinder with a half ball on either end."""
    angle = np.linspace(0, np.pi / 2, ARC)
    cap = radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1) + (0, half_height)
    surface = lathe(np.concatenate([cap[::-1] * (1, -1), cap]))
    return Thing("capsule", (surface,), (Solid("capsule", np.array([radius, half_height, 0]), np.zeros((0, 3))),))


def cone(bottom: float, top: float, half_height: float) -> Thing:
    """An upright cone, cut off where `top` is not 0."""
    bevel = SHARP * bottom
    outline = [(0, -1), (bottom - bevel, -1), (bottom, -1), (top, 1), (0, 1)]
    surface = lathe(np.array(outline) * (1, half_height))
    return Thing("cone", (surface,), (Solid.hull(surface.vertices),))


def ring(radius: float, thickness: float) -> Thing:
    """A ring that lies flat; things fit through its hole."""
    angle = np.linspace(-np.pi, np.pi, 2 * ARC)
    outline = (radius, 0) + thickness * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    surface = lathe(outline)
    spoke = np.arctan2(surface.vertices[:, 1], surface.vertices[:, 0]) % (2 * np.pi) / (2 * np.pi) * RING_SOLIDS
    pieces = [
        surface.vertices[np.abs((spoke - i - 0.5 + RING_SOLIDS / 2) % RING_SOLIDS - RING_SOLIDS / 2) <= 0.5 + 1e-6]
        for i in range(RING_SOLIDS)
    ]
    return Thing("ring", (surface,), tuple(Solid.hull(points) for points in pieces))


def vase(radii: Float[np.ndarray, " P"], half_height: float) -> Thing:
    """A closed vessel of any outline. It collides as its hull does."""
    height = np.linspace(-half_height, half_height, len(radii))
    outline = np.concatenate([[(0, -half_height)], np.stack([radii, height], axis=-1), [(0, half_height)]])
    surface = lathe(outline)
    return Thing("vase", (surface,), (Solid.hull(surface.vertices),))


def lathe(outline: Float[np.ndarray, "P 2"]) -> Surface:
    """Sweep an outline of (radius, height), from below to above, around the z axis.

    The texture goes once around, and over the length of the outline. Where the radius is 0 there is a single vertex.
    """
    count = len(outline)
    turn = np.arange(SPOKES) * (2 * np.pi / SPOKES)
    radius, height = outline[:, :1], outline[:, 1:]
    rings = np.stack([radius * np.cos(turn), radius * np.sin(turn), np.repeat(height, SPOKES, axis=1)], axis=-1)
    vertex = np.arange(count * SPOKES).reshape(count, SPOKES)
    vertex = np.where(radius <= 1e-9, vertex[:, :1], vertex)
    vertex = np.concatenate([vertex, vertex[:, :1]], axis=1)  # (P, SPOKES + 1)
    place = np.arange(count * (SPOKES + 1)).reshape(count, SPOKES + 1)
    step = np.linalg.norm(np.diff(outline, axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(step)]) / step.sum()
    uv = np.stack(np.broadcast_arrays(np.linspace(0, 1, SPOKES + 1), along[:, None]), axis=-1).reshape(-1, 2)

    def triangles(grid: Int[np.ndarray, "P S"]) -> Int[np.ndarray, "F 3"]:
        a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]
        return np.concatenate([np.stack([a, b, c], axis=-1), np.stack([a, c, d], axis=-1)]).reshape(-1, 3)

    faces, uv_faces = triangles(vertex), triangles(place)
    whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    used, faces = np.unique(faces[whole], return_inverse=True)
    return Surface(rings.reshape(-1, 3)[used], faces.reshape(-1, 3), uv, uv_faces[whole])


SHAPES: dict[str, Callable[[np.random.Generator], Thing]] = {
    "box": lambda rng: box(rng.uniform(0.15, 0.5, 3)),
    "ball": lambda rng: ball(np.full(3, 0.5) if rng.random() < 0.6 else rng.uniform(0.25, 0.5, 3)),
    "cylinder": lambda rng: cylinder(rng.uniform(0.15, 0.5), rng.uniform(0.1, 0.5)),
    "capsule": lambda rng: capsule(rng.uniform(0.12, 0.3), rng.uniform(0.1, 0.4)),
    "cone": lambda rng: cone(rng.uniform(0.25, 0.5), rng.choice([0.0, 0.15]), rng.uniform(0.2, 0.5)),
    "ring": lambda rng: ring(0.35, rng.uniform(0.06, 0.15)),
    "vase": lambda rng: vase(rng.uniform(0.15, 0.35, 5), 0.5),
}
