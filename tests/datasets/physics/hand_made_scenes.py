"""Scenes put together by hand, whose pictures can be foretold: a bright mark at a known place of a thing."""

import numpy as np

from pointloom.datasets.physics.camera import Lens, View
from pointloom.datasets.physics.scene import Actor, Room, Scene

LENS = Lens((160, 120), 180.0)
GREY, MARK = 60, 255
SIDE = 256  # of a marked texture, pixels


def marked(u, v, sigma=4.0):
    """A grey texture with a soft white spot at (u, v), counted from the lower left corner."""
    x, y = (np.arange(SIDE) + 0.5) / SIDE, 1 - (np.arange(SIDE)[:, None] + 0.5) / SIDE
    spot = np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * (sigma / SIDE) ** 2))
    return np.repeat(np.rint(GREY + (MARK - GREY) * spot)[..., None], 3, axis=2).astype(np.uint8)


def place_on(thing, u, v):
    """All points of a thing's surface that show the place (u, v) of its texture, and the normals there."""
    points, normals = [], []
    for surface in thing.surfaces:
        corners, places = surface.vertices[surface.faces], surface.uv[surface.uv_faces]  # (F, 3, 3), (F, 3, 2)
        edges = np.stack([places[:, 1] - places[:, 0], places[:, 2] - places[:, 0]], axis=-1)
        flat = np.abs(np.linalg.det(edges)) > 1e-12
        share = np.linalg.solve(edges[flat], (np.array([u, v]) - places[flat, 0])[..., None])[..., 0]  # (F, 2)
        within = (share >= 0).all(axis=1) & (share.sum(axis=1) <= 1)
        a, b, c = np.moveaxis(corners[flat][within], 1, 0)
        points.append(a + share[within, :1] * (b - a) + share[within, 1:] * (c - a))
        normals.append(np.cross(b - a, c - a))
    normals = np.concatenate(normals)
    return np.concatenate(points), normals / np.linalg.norm(normals, axis=1, keepdims=True)


def black_room():
    black = np.zeros((8, 8, 3), np.uint8)
    return Room(np.array([3.0, 3.0, 3.0]), (black,) * 6, np.ones(6))


def actor(thing, position=(0, 0, 1.0), quaternion=(1, 0, 0, 0), velocity=(0, 0, 0), spin=(0, 0, 0), fixed=True):
    vectors = (np.array(v, float) for v in (position, quaternion, velocity, spin))
    return Actor(thing, *vectors, 500.0, fixed)


def scene(*actors, room=None):
    """Lit from everywhere alike, so that nothing is shaded."""
    return Scene(room or black_room(), actors, (), np.full(3, 0.9))


def looking(eye, target):
    """Position and axes of a level camera."""
    forward = np.subtract(target, eye) / np.linalg.norm(np.subtract(target, eye))
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    return np.array(eye, float), np.stack([right, np.cross(forward, right), forward], axis=-1)


def views(*poses):
    return View(*(np.stack(parts) for parts in zip(*poses, strict=True)))


def brightest_spot(frame, near, reach=6):
    """Centre of mass of what is brighter than the texture, around a pixel."""
    x0, y0 = np.rint(near).astype(int)
    window = frame[y0 - reach : y0 + reach + 1, x0 - reach : x0 + reach + 1, 0].astype(float)
    light = np.maximum(window - np.median(window) - 15, 0)
    assert light.max() > 20, f"no mark near {near}"
    x, y = np.arange(-reach, reach + 1), np.arange(-reach, reach + 1)[:, None]
    return np.array([x0 + (light * x).sum() / light.sum(), y0 + (light * y).sum() / light.sum()])
