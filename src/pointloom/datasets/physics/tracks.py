"""Tracks of points on rigid bodies: chosen where they can be seen, carried by their bodies, hidden by what is in front.

A point is a constant in the frame of its body, so its path is exact, also while it is hidden. Whether it is hidden is
asked of the same engine that draws: a ray goes from the eye to the point, and whatever it meets first is in front. Rays
meet the surfaces that are drawn, to a part in a million of the depth buffer's distances, but know neither pixels nor
slopes; a comparison of depths at the nearest pixel goes wrong at every outline.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from pointloom.datasets.physics.camera import Lens, View, to_camera
from pointloom.datasets.physics.stage import Poses, Stage
from pointloom.geometry import inside

CHOOSING_FRAMES = 6
REACH_M = 0.002  # a ray that ends this much before a point has met the point
NEAREST_M = 0.05  # nearer to the plane of the eye, or behind it, a position means nothing


class Tracks(NamedTuple):
    """Positions in pixels, metres along the camera's axis, and what is known; see `AnnotatedClip`."""

    xy: Float32[np.ndarray, "N T 2"]
    depth: Float32[np.ndarray, "N T"]
    visible: Bool[np.ndarray, "N T"]
    valid: Bool[np.ndarray, "N T"]


def draw_tracks(
    rng: np.random.Generator,
    stage: Stage,
    states: Float[np.ndarray, "T state"],
    view: View,
    lens: Lens,
    count: int,
) -> Tracks:
    """Choose points that can be seen in some of the frames, and follow them through all of them."""
    poses = stage.poses(states)
    points, owner = _choose_points(rng, stage, states, view, lens, poses, count)
    return follow(stage, states, view, lens, poses, points, owner)


def follow(
    stage: Stage,
    states: Float[np.ndarray, "T state"],
    view: View,
    lens: Lens,
    poses: Poses,
    points: Float[np.ndarray, "N 3"],
    owner: Int[np.ndarray, " N"],
) -> Tracks:
    """Tracks of points that are given in the frames of their owners."""
    world = poses.to_world(points, owner)  # (N, T, 3)
    seen = to_camera(world, view)
    valid = seen[..., 2] > NEAREST_M
    xy = lens.project(np.where(valid[..., None], seen, 1.0))
    visible = valid & inside(xy, lens.size)
    for t, state in enumerate(states):
        stage.set_up(state, view.position[t], view.rotation[t])
        asked = np.flatnonzero(visible[:, t])
        sight = world[asked, t] - view.position[t]
        reached, _ = stage.cast(view.position[t], sight)
        visible[asked, t] = reached * np.linalg.norm(sight, axis=1) > np.linalg.norm(sight, axis=1) - REACH_M
    xy = np.where(valid[..., None], xy, 0).astype(np.float32)
    return Tracks(xy, seen[..., 2].astype(np.float32), visible, valid)


def _choose_points(
    rng: np.random.Generator,
    stage: Stage,
    states: Float[np.ndarray, "T state"],
    view: View,
    lens: Lens,
    poses: Poses,
    count: int,
) -> tuple[Float[np.ndarray, "N 3"], Int[np.ndarray, " N"]]:
    frames = np.sort(rng.permutation(len(states))[:CHOOSING_FRAMES]).tolist()
    points, owners = [], []
    for t in frames:
        stage.set_up(states[t], view.position[t], view.rotation[t])
        pixels = choose_pixels(rng, stage.owners(), -(-count // len(frames)))
        directions = lens.directions(pixels + rng.uniform(-0.5, 0.5, pixels.shape)) @ view.rotation[t].T
        distance, owner = stage.cast(view.position[t], directions)
        hit = owner >= 0  # a ray may slip through where two walls meet
        world = view.position[t] + distance[hit, None] * directions[hit]
        points.append(poses.to_owner(world, owner[hit], t))
        owners.append(owner[hit])
    kept = np.resize(rng.permutation(sum(map(len, owners))), count)
    return np.concatenate(points)[kept], np.concatenate(owners)[kept]


def choose_pixels(rng: np.random.Generator, owner: Int[np.ndarray, "H W"], count: int) -> Float[np.ndarray, "N 2"]:
    """Pixels (x, y), half of them on actors and half on the room, as far as both can be seen.

    The share of an actor grows with the root of its area, so that small ones get some.
    """
    area = np.bincount(owner.ravel())
    weight = 1 / np.sqrt(area[owner.ravel()])
    for part in (owner.ravel() > 0, owner.ravel() == 0):
        weight[part] /= max(weight[part].sum(), 1e-9)
    total = np.cumsum(weight)
    chosen = np.searchsorted(total, rng.random(count) * total[-1], side="right")
    row, column = np.divmod(chosen, owner.shape[1])
    return np.stack([column, row], axis=-1).astype(float)
