"""Clips whose points leave the frame and come back: a rolling frame, a frame that swings in perspective.

After TAPNext++ (Jung et al. 2026, arXiv:2604.10582), for trackers that are to find points again. What moves is a sum of
slow and quick waves over the clip that starts at zero, so the first frame stays as it is. Two things are done that its
release leaves out: with rotation the frame keeps its size, and a point outside the frame is not visible. Positions are
pixels, integers are pixel centres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pointloom.geometry import inside

Rng = np.random.Generator | np.random.RandomState
Clip = tuple[UInt8[np.ndarray, "T H W 3"], Float[np.ndarray, "N T 2"], Bool[np.ndarray, "N T"]]

SLOW, QUICK = (math.pi, 4 * math.pi), (8 * math.pi, 16 * math.pi)  # frequencies, in radians a clip
ROLL_WAVES = 5  # slow ones, and as many quick ones
ROLL_X_PX, ROLL_Y_PX, ROLL_DEGREES = (30.0, 10.0), (20.0, 7.0), (10.0, 5.0)  # largest amplitudes: slow, quick
SWING_WAVES = 3
SWING = (0.05, 0.02)  # of the width or height
CORNER = 0.3  # share of the width and height that a corner keeps to
INWARDS = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])  # from each corner, clockwise from the upper left

BORDERS = {"black": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE}


def rolled(
    frames: UInt8[np.ndarray, "T H W 3"],
    xy: Float[np.ndarray, "N T 2"],
    visible: Bool[np.ndarray, "N T"],
    rng: Rng,
    *,
    strength: float = 1.0,
    turned: bool = True,
) -> Clip:
    """Roll the frames of a clip: what leaves on one side comes back on the other. `turned` also turns them."""
    T, H, W, _ = frames.shape
    ranges = (ROLL_X_PX, ROLL_Y_PX, ROLL_DEGREES)[: 3 if turned else 2]
    waves = [_roll_wave(rng, T, largest, strength) for largest in ranges]
    shift = np.rint(np.stack(waves[:2], axis=-1)).astype(int)  # (T, 2)
    border = math.ceil((math.hypot(H, W) - min(H, W)) / 2) if turned else 0
    sides = np.array([W, H]) + 2 * border
    padded = np.pad(frames, ((0, 0), (border, border), (border, border), (0, 0)))
    moved = np.stack([np.roll(frame, (dy, dx), axis=(0, 1)) for frame, (dx, dy) in zip(padded, shift, strict=True)])
    xy = (xy + border + shift + 0.5) % sides - 0.5  # the frame begins half a pixel before the first centre
    if turned:
        centre = (float(sides[0] // 2), float(sides[1] // 2))
        matrices = [cv2.getRotationMatrix2D(centre, float(angle), 1) for angle in waves[2]]
        size = (int(sides[0]), int(sides[1]))
        moved = np.stack([cv2.warpAffine(f, m, size) for f, m in zip(moved, matrices, strict=True)])
        xy = np.stack([xy[:, t] @ m[:, :2].T + m[:, 2] for t, m in enumerate(matrices)], axis=1)
    xy = xy - border
    return moved[:, border : border + H, border : border + W], xy, visible & inside(xy, (W, H))


def swung(
    frames: UInt8[np.ndarray, "T H W 3"],
    xy: Float[np.ndarray, "N T 2"],
    visible: Bool[np.ndarray, "N T"],
    rng: Rng,
    *,
    strength: float = 1.0,
    border: Literal["black", "replicate"] = "black",
) -> Clip:
    """Move the four corners of the frame inwards and back, and see the clip in that perspective."""
    T, H, W, _ = frames.shape
    size = np.array([W, H])
    waves = np.stack([_swing_wave(rng, T, strength) for _ in range(8)], axis=-1).reshape(T, 4, 2)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * (size - 1)
    low = np.where(corners > 0, size - 1 - CORNER * size, 0)
    moved = _reflected(corners + np.abs(waves) * size * INWARDS, low, low + CORNER * size)  # (T, 4, 2)
    matrices = [cv2.getPerspectiveTransform(corners.astype(np.float32), m.astype(np.float32)) for m in moved]
    seen = [
        cv2.warpPerspective(frame, matrix, (W, H), borderMode=BORDERS[border])
        for frame, matrix in zip(frames, matrices, strict=True)
    ]
    points = np.concatenate([xy, np.ones_like(xy[..., :1])], axis=-1)  # (N, T, 3)
    projected = np.einsum("tij,ntj->nti", np.stack(matrices), points)
    xy = projected[..., :2] / projected[..., 2:]
    return np.stack(seen), xy, visible & inside(xy, (W, H))


def _roll_wave(rng: Rng, T: int, largest: Sequence[float], strength: float) -> Float[np.ndarray, " T"]:
    slow, quick = (
        (rng.uniform(0, most, ROLL_WAVES), rng.uniform(*pace, ROLL_WAVES), rng.uniform(0, 2 * math.pi, ROLL_WAVES))
        for most, pace in zip(largest, (SLOW, QUICK), strict=True)
    )
    return _waves(T, *slow, strength) + _waves(T, *quick, strength)


def _swing_wave(rng: Rng, T: int, strength: float) -> Float[np.ndarray, " T"]:
    amplitudes = [rng.uniform(0, most, SWING_WAVES) for most in SWING]
    paces = [(rng.uniform(*pace, SWING_WAVES), rng.uniform(0, 2 * math.pi, SWING_WAVES)) for pace in (SLOW, QUICK)]
    slow, quick = (_waves(T, a, *pace, strength) for a, pace in zip(amplitudes, paces, strict=True))
    return slow + quick


def _waves(
    T: int,
    amplitude: Float[np.ndarray, " waves"],
    frequency: Float[np.ndarray, " waves"],
    phase: Float[np.ndarray, " waves"],
    strength: float,
) -> Float[np.ndarray, " T"]:
    """Sum of waves, less what it is in the first frame; the clip's length is 1."""
    time = np.arange(T)[:, None] / T
    wave: np.ndarray = strength * amplitude * (np.sin(time * frequency + phase) - np.sin(phase))  # (T, waves)
    return np.asarray(wave.sum(axis=1))


def _reflected(
    value: Float[np.ndarray, "T 4 2"], low: Float[np.ndarray, "4 2"], high: Float[np.ndarray, "4 2"]
) -> Float[np.ndarray, "T 4 2"]:
    """Fold values back at both ends of their range until they lie in it."""
    away = (value - low) % (2 * (high - low))
    return low + np.minimum(away, 2 * (high - low) - away)
