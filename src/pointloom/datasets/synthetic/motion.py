"""Paths over time and the homographies they make.

Everything that moves in a layered clip, the camera as well as the objects, is a flat card: it has a position, an
angle, a scale and a tilt out of the image plane in every frame. This file draws such paths from a random generator
and turns them into 3 x 3 matrices. Paths stay sensible for any number of frames: they are made of stretches that last
as long in a long clip as in a short one. Angles are in radians, speeds in pixels a frame.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Path = Float[np.ndarray, " T"]
PlanePath = Float[np.ndarray, "T 2"]
Homographies = Float[np.ndarray, "T 3 3"]

STRETCH_FRAMES = (8, 36)  # how long a mover keeps its velocity
KEY_FRAMES = (10, 40)  # how long a swing takes from one extreme to the next
EXTREMES = (0.3, 1.0)  # of a swing, as shares of its amplitude
PAUSE_SHARE = 0.2  # stretches in which nothing moves
PACES = (0.3, 1.0)  # of the other stretches of something that goes on
ABRUPT_SHARE = 0.25  # movers that change their velocity from one frame to the next, as after a blow
SPEED_SPREAD = 0.5  # of the logarithm of the speed, between the stretches of a mover
TURN_SPREAD = 0.7  # of the heading, between the stretches of a mover, radians


def drive(rng: np.random.Generator, frames: int, speed: float) -> PlanePath:
    """A path of stretches with a velocity each, starting at (0, 0): straight on, turning, pausing, speeding up."""
    starts = _key_times(rng, frames, STRETCH_FRAMES)
    heading = rng.uniform(-np.pi, np.pi) + np.cumsum(rng.normal(0, TURN_SPREAD, len(starts)))
    pace = speed * np.exp(rng.normal(0, SPEED_SPREAD, len(starts)))
    pace[rng.random(len(starts)) < PAUSE_SHARE] = 0.0
    velocity = pace[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=-1)  # (stretches, 2)
    if rng.random() < ABRUPT_SHARE:
        per_frame = velocity[np.searchsorted(starts, np.arange(frames), side="right") - 1]  # (T, 2)
    else:
        per_frame = np.stack([_ease(starts, velocity[:, axis], frames) for axis in (0, 1)], axis=-1)  # (T, 2)
    return np.cumsum(per_frame, axis=0) - per_frame[0]


def swing(rng: np.random.Generator, frames: int, amplitude: float, max_rate: float = np.inf) -> Path:
    """A value that eases to and fro between extremes in [-amplitude, amplitude], never changing faster than `max_rate`.

    A path that would be too fast keeps its form and gets a smaller amplitude.
    """
    times = _key_times(rng, frames, KEY_FRAMES)
    side = rng.choice((-1, 1)) * (-1) ** np.arange(len(times))
    path = _ease(times, amplitude * side * rng.uniform(*EXTREMES, len(times)), frames)
    fastest = float(np.abs(np.diff(path)).max()) if frames > 1 else 0.0
    return path * (max_rate / fastest) if fastest > max_rate else path


def pace(rng: np.random.Generator, frames: int) -> Path:
    """How fast something goes on, as a share of its full speed, in stretches: some of them are pauses."""
    starts = _key_times(rng, frames, STRETCH_FRAMES)
    shares = np.where(rng.random(len(starts)) < PAUSE_SHARE, 0.0, rng.uniform(*PACES, len(starts)))
    return _ease(starts, shares, frames)


def wave(rng: np.random.Generator, frames: int, amplitude: float) -> Path:
    """Two sines of random period and phase."""
    time = np.arange(frames)
    periods, phases = rng.uniform(12, 60, 2), rng.uniform(0, 2 * np.pi, 2)
    return amplitude * np.sin(2 * np.pi * time[:, None] / periods + phases).mean(axis=-1)


def shake(rng: np.random.Generator, frames: int, amplitude: float) -> Path:
    """The tremor of a hand: noise that forgets itself within a few frames, with standard deviation `amplitude`."""
    memory = rng.uniform(0.2, 0.8)
    noise = rng.normal(0, amplitude * np.sqrt(1 - memory**2), frames)
    path = np.empty(frames)
    value = rng.normal(0, amplitude)
    for t in range(frames):
        value = memory * value + noise[t]
        path[t] = value
    return path


def hop(rng: np.random.Generator, frames: int, height: float) -> Path:
    """The y of a ball that bounces: parabolas above 0 (y points down), one after the other."""
    period = rng.uniform(8, 20)
    phase = (np.arange(frames) / period + rng.random()) % 1.0
    return -4 * height * phase * (1 - phase)


def bounce(path: Path, low: float, high: float) -> Path:
    """Fold a path into [low, high], as a ball between two walls."""
    span = high - low
    folded = (path - low) % (2 * span)
    return low + np.minimum(folded, 2 * span - folded)


def card(
    position: PlanePath,
    *,
    angle: Path,
    scale: Path,
    tilt: PlanePath,
    focal: float,
) -> Homographies:
    """Maps of a flat card, whose origin is its centre, into the image.

    The card is tilted about its own x and y axes, seen from a distance of `focal` (in pixels of the card), turned by
    `angle`, scaled, and put with its centre at `position`. With a tilt of zero the map is a similarity. Points of the
    card with a positive third coordinate are in front of the eye.
    """
    sin_x, cos_x, sin_y, cos_y = np.sin(tilt[:, 0]), np.cos(tilt[:, 0]), np.sin(tilt[:, 1]), np.cos(tilt[:, 1])
    tilted = _matrices(
        [
            [cos_y, sin_x * sin_y, 0.0],
            [0.0, cos_x, 0.0],
            [-sin_y / focal, sin_x * cos_y / focal, 1.0],
        ],
        len(angle),
    )
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    placed = _matrices([[cos, -sin, position[:, 0]], [sin, cos, position[:, 1]], [0.0, 0.0, 1.0]], len(angle))
    return placed @ tilted


def shift(offset: PlanePath) -> Homographies:
    """Maps that move every point by `offset`."""
    return _matrices([[1.0, 0.0, offset[:, 0]], [0.0, 1.0, offset[:, 1]], [0.0, 0.0, 1.0]], len(offset))


def local_scale(maps: Homographies) -> Path:
    """How much larger the surroundings of the origin become: the root of the change of area."""
    depth = np.maximum(maps[:, 2, 2], 1e-6)
    return np.sqrt(np.abs(np.linalg.det(maps)) / depth**3)


def _key_times(rng: np.random.Generator, frames: int, spacing: tuple[int, int]) -> Float[np.ndarray, " keys"]:
    """Increasing times that begin at or before the first frame and end after the last one."""
    times = [-rng.uniform(0, spacing[0])]
    while times[-1] < frames:
        times.append(times[-1] + rng.uniform(*spacing))
    return np.array(times)


def _ease(times: Float[np.ndarray, " keys"], values: Float[np.ndarray, " keys"], frames: int) -> Path:
    """Values at `times`, with a smooth start and stop between each two."""
    time = np.arange(frames)
    left = np.clip(np.searchsorted(times, time, side="right") - 1, 0, len(times) - 2)
    share = (time - times[left]) / (times[left + 1] - times[left])
    share = share * share * (3 - 2 * share)
    return np.asarray(values[left] + share * (values[left + 1] - values[left]))


def _matrices(rows: list[list[Path | float]], frames: int) -> Homographies:
    matrices = np.empty((frames, 3, 3))
    for i, row in enumerate(rows):
        for j, entry in enumerate(row):
            matrices[:, i, j] = entry
    return matrices
