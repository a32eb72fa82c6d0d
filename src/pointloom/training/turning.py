"""Light changes of small frames: turning and zooming, mirror images, other colours.

For trackers that are trained on two cores with generated clips, which already show what `augment` would add. Positions
are pixels, integers are pixel centres.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, UInt8

TURN_DEGREES = 40.0  # standard deviation of a rotation; one in five turns by any angle
ZOOM_LOG2 = 0.6  # standard deviation of its zoom


def random_similarity(size: tuple[int, int], rng: np.random.Generator) -> Float[np.ndarray, "2 3"]:
    """Draw a rotation and zoom about a point near the middle."""
    angle = rng.uniform(-180, 180) if rng.random() < 0.2 else rng.normal(0, TURN_DEGREES)
    zoom = 2.0 ** float(np.clip(rng.normal(0, ZOOM_LOG2), -1.6, 1.3))
    centre = np.array(size) / 2 + rng.normal(0, 0.1, 2) * size
    return cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), angle, zoom)


def drifting(end: Float[np.ndarray, "2 3"], size: tuple[int, int], frames: int) -> list[Float[np.ndarray, "2 3"]]:
    """Go smoothly from no change to the similarity `end`, in rotation, zoom and place alike."""
    linear = complex(end[0, 0], end[1, 0])
    centre = np.array([size[0] / 2, size[1] / 2])
    moved = end[:, :2] @ centre + end[:, 2] - centre
    matrices = []
    for t in range(frames):
        share = 0.5 - 0.5 * np.cos(np.pi * t / max(frames - 1, 1))
        z = np.exp(share * np.log(linear))
        rotation = np.array([[z.real, -z.imag], [z.imag, z.real]])
        matrices.append(np.concatenate([rotation, (centre + share * moved - rotation @ centre)[:, None]], axis=1))
    return matrices


def warped(
    frame: UInt8[np.ndarray, "H W 3"], xy: Float[np.ndarray, "N 2"], matrix: Float[np.ndarray, "2 3"]
) -> tuple[UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "N 2"]]:
    """Turn and zoom a frame and its points; the border is mirrored."""
    size = (frame.shape[1], frame.shape[0])
    moved = cv2.warpAffine(frame, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return moved, (xy @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def recoloured_and_flipped(
    frames: UInt8[np.ndarray, "T H W 3"], xy: Float[np.ndarray, "N T 2"], rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "T H W 3"], Float[np.ndarray, "N T 2"]]:
    """Shuffle the colour channels and flip, for the whole clip alike."""
    width, height = frames.shape[2], frames.shape[1]
    if rng.random() < 0.5:
        frames, xy = frames[:, :, ::-1], xy * np.array([-1, 1], np.float32) + np.array([width - 1, 0], np.float32)
    if rng.random() < 0.5:
        frames, xy = frames[:, ::-1], xy * np.array([1, -1], np.float32) + np.array([0, height - 1], np.float32)
    if rng.random() < 0.7:
        frames = frames[..., rng.permutation(3)]
    return np.ascontiguousarray(frames), xy
