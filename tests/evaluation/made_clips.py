"""Small clips whose truth is known, of every kind, and a data set made of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from pointloom.datasets.clip import AnnotatedClip, Clip, JointClip, MaskedClip
from pointloom.datasets.registry import Dataset, DatasetEntry

SIZE = (96, 64)
FRAMES = 8
STEP = np.array([2.0, -1.0])  # pixels a frame
START = np.array([[30, 40], [50.25, 30.5], [40, 50]])


def sliding_frames(seed: int = 0, frames: int = FRAMES, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A texture that moves by `STEP` in every frame."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), np.uint8)
    smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)
    image = cv2.cvtColor(smooth, cv2.COLOR_GRAY2RGB)
    shifts = [np.array([[1, 0, t * STEP[0]], [0, 1, t * STEP[1]]]) for t in range(frames)]
    return np.stack([cv2.warpAffine(image, shift, size, borderMode=cv2.BORDER_REFLECT) for shift in shifts])


def sliding_clip(name: str = "clip", seed: int = 0, frames: int = FRAMES) -> AnnotatedClip:
    """Three points that move along; the last one is first visible in frame 2 and hidden in frames 4 and 5."""
    xy = (START[:, None] + np.arange(frames)[:, None] * STEP).astype(np.float32)
    visible = np.ones(xy.shape[:2], bool)
    visible[2, [0, 1, 4, 5]] = False
    return AnnotatedClip(name, sliding_frames(seed, frames), xy, visible, np.ones_like(visible))


def joint_clip(name: str = "joints/cat") -> JointClip:
    """The same points as joints, annotated in frames 1, 3, 5 and 7; the animal has 400 pixels."""
    clip = sliding_clip(name)
    valid = np.zeros_like(clip.valid)
    valid[:, 1::2] = True
    visible = clip.visible & valid
    return JointClip(name, clip.frames, clip.xy, visible, valid, np.full(FRAMES, 400, np.float32), np.arange(3))


def masked_clip(name: str = "masks/box") -> MaskedClip:
    """A rectangle that moves by `STEP`."""
    masks = np.zeros((FRAMES, SIZE[1], SIZE[0]), bool)
    for t in range(FRAMES):
        x, y = (np.array([24, 24]) + t * STEP).astype(int)
        masks[t, y : y + 32, x : x + 40] = True
    return MaskedClip(name, sliding_frames(), masks)


def dataset(*clips: Clip, name: str = "made") -> Dataset:
    """A data set of clips in memory."""

    def read(path: Path) -> Iterable[Clip]:
        return clips

    return Dataset(DatasetEntry(name, read, "", "", ""), Path("made"))
