"""Optical flow of a scene of rigid bodies, from depth: each pixel is lifted, carried by its body, and seen again."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int

from pointloom.datasets.physics.camera import Lens, View
from pointloom.datasets.physics.stage import Poses

NEAREST_M = 0.01


def optical_flow(
    depth: Float32[np.ndarray, "H W"], owner: Int[np.ndarray, "H W"], t: int, poses: Poses, view: View, lens: Lens
) -> Float32[np.ndarray, "H W 2"]:
    """Where what is seen at each pixel of frame `t` moves until frame `t + 1`, in pixels (x, y).

    Exact for what is in front in frame `t`, whether it is hidden in the next one or not.
    """
    pixels = np.stack(np.meshgrid(*map(np.arange, lens.size)), axis=-1).astype(float)  # (H, W, 2)
    points = lens.directions(pixels) * depth[..., None]  # (H, W, 3)
    carried = np.empty_like(points)
    for index in np.unique(owner):
        mask = owner == index
        before, after = poses.rotation[t, index], poses.rotation[t + 1, index]
        # camera t -> world -> body -> world -> camera t + 1, as one rotation and one shift of row vectors
        onto = view.rotation[t + 1].T @ after @ before.T
        there = onto @ (view.position[t] - poses.position[t, index])
        shift = there + view.rotation[t + 1].T @ (poses.position[t + 1, index] - view.position[t + 1])
        carried[mask] = points[mask] @ (onto @ view.rotation[t]).T + shift
    carried[..., 2] = np.maximum(carried[..., 2], NEAREST_M)
    return (lens.project(carried) - pixels).astype(np.float32)
