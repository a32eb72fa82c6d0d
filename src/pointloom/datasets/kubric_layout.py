"""Writing clips in the layout of Kubric's sequences that `datasets/kubric.py` reads. One folder a clip:

    <name>/frames/000.png ...          the frames
    <name>/<name>.npy                  a pickled dictionary: coords (N, T, 2) raster pixels x, y, not a number where
                                       unknown; visibility (N, T), true where the point is hidden

and, of a clip of which more is known, besides:

    <name>/depths/000.npy ...          float32 (H, W), metres along the camera's axis
    <name>/segmentations/000.png ...   0 for the room, from 1 on for the objects
    <name>/forward_flows/000.npy ...   float32 (H, W, 2), pixels x, y until the next frame; one less than frames
    in <name>.npy                      coords_depth (N, T), metres along the camera's axis; camera: a dictionary of
                                       positions (T, 3), quaternions (T, 4) (w, x, y, z; Blender's axes: x right, y up,
                                       the camera looks along -z), focal_length and sensor_width in millimetres, and
                                       intrinsics (3, 3), raster pixels
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from pointloom import geometry
from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.physics.film import FullClip
from pointloom.errors import VideoError

SENSOR_WIDTH_MM = 32.0  # of Kubric's cameras
TO_BLENDER = np.diag([1.0, -1.0, -1.0])  # y down, z ahead -> y up, z back


def write_sequence(folder: Path, clip: AnnotatedClip) -> None:
    """Add a clip to a folder of sequences. It appears under its name only when it is complete; what is there stays."""
    unfinished = folder / f".{clip.name}.{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir(parents=True)
    coords = np.where(clip.valid[..., None], geometry.to_raster(clip.xy), np.nan).astype(np.float32)
    content: dict[str, Any] = {"coords": coords, "visibility": ~clip.visible}
    _write_images(unfinished / "frames", clip.frames[..., ::-1])
    if isinstance(clip, FullClip):
        content |= {"coords_depth": clip.track_depth, "camera": _camera(clip)}
        _write_images(unfinished / "segmentations", clip.segmentation)
        _write_arrays(unfinished / "depths", clip.depth)
        _write_arrays(unfinished / "forward_flows", clip.flow)
    np.save(unfinished / f"{clip.name}.npy", np.array(content, dtype=object))
    unfinished.rename(folder / clip.name)


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


def _write_images(folder: Path, images: np.ndarray) -> None:
    folder.mkdir()
    for t, image in enumerate(images):
        path = folder / f"{t:03}.png"
        if not cv2.imwrite(str(path), image):
            raise VideoError(f"{path} cannot be written. Is the disk full?")


def _write_arrays(folder: Path, arrays: np.ndarray) -> None:
    folder.mkdir()
    for t, array in enumerate(arrays):
        np.save(folder / f"{t:03}.npy", array)
