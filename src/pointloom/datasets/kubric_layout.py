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

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from pointloom import geometry
from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.generated import ClipLayout, unfinished_clip
from pointloom.errors import VideoError


@dataclass(frozen=True)
class SceneTruth:
    """What the layout has room for besides frames and tracks, in the units above.

    camera  the dictionary of that name
    """

    depth: Float32[np.ndarray, "T H W"]
    segmentation: UInt8[np.ndarray, "T H W"]
    flow: Float32[np.ndarray, "T1 H W 2"]
    track_depth: Float32[np.ndarray, "N T"]
    camera: dict[str, Any]


def write_sequence(folder: Path, clip: AnnotatedClip, scene: SceneTruth | None = None) -> None:
    """Add a clip to a folder of sequences. It appears under its name only when it is complete; what is there stays.

    Without `scene` nothing is written of what it would hold.
    """
    coords = np.where(clip.valid[..., None], geometry.to_raster(clip.xy), np.nan).astype(np.float32)
    content: dict[str, Any] = {"coords": coords, "visibility": ~clip.visible}
    with unfinished_clip(folder, clip.name) as unfinished:
        _write_images(unfinished / "frames", clip.frames[..., ::-1])
        if scene is not None:
            content |= {"coords_depth": scene.track_depth, "camera": scene.camera}
            _write_images(unfinished / "segmentations", scene.segmentation)
            _write_arrays(unfinished / "depths", scene.depth)
            _write_arrays(unfinished / "forward_flows", scene.flow)
        np.save(unfinished / f"{clip.name}.npy", np.array(content, dtype=object))


KUBRIC = ClipLayout("kubric", "{name}.npy", write_sequence)


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
