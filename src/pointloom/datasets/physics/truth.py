"""What is known of a physics clip's scene, as Kubric's layout holds it: cameras in Blender's axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from pointloom import geometry
from pointloom.datasets.kubric_layout import SceneTruth
from pointloom.datasets.physics.film import FullClip

SENSOR_WIDTH_MM = 32.0  # of Kubric's cameras
TO_BLENDER = np.diag([1.0, -1.0, -1.0])  # y down, z ahead -> y up, z back


def scene_truth(clip: FullClip) -> SceneTruth:
    """Collect what `write_sequence` takes besides the clip."""
    return SceneTruth(clip.depth, clip.segmentation, clip.flow, clip.track_depth, _camera(clip))


def _camera(clip: FullClip) -> dict[str, Any]:
    x, y = geometry.to_raster(clip.lens.centre)
    focal = clip.lens.focal
    return {
        "positions": clip.view.position,
        "quaternions": np.array([quaternion(rotation @ TO_BLENDER) for rotation in clip.view.rotation]),
        "focal_length": focal * SENSOR_WIDTH_MM / clip.lens.size[0],
        "sensor_width": SENSOR_WIDTH_MM,
        "intrinsics": np.array([[focal, 0, x], [0, focal, y], [0, 0, 1]]),
    }


def quaternion(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 4"]:
    """A rotation as (w, x, y, z), with w not negative: the eigenvector that belongs to Bar-Itzhack's largest value."""
    m = rotation
    k = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [0, m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [0, 0, m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [0, 0, 0, m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    vector = np.linalg.eigh(k, UPLO="U")[1][:, -1]
    return np.asarray(vector if vector[0] >= 0 else -vector)
