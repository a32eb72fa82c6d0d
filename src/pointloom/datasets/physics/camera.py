"""The camera: where it stands, what it sees, and random ways to move it.

Axes of the camera are OpenCV's: x to the right, y down, z into the picture. Pixels are integers at their centres. A
pose is given as the camera's position in the world and the rotation whose columns are its axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from pointloom.geometry import inside

FIELD_OF_VIEW = (38.0, 62.0)  # degrees, over the height of the frame
DISTANCE = (1.2, 2.6)  # metres from what the camera looks at
ELEVATION = (0.1, 1.0)  # radians above the horizon
# Changes from one frame to the next, at difficulty 1; drawn from normal distributions
TURN, RISE, APPROACH, PAN, ROLL = 0.03, 0.012, 0.025, 0.02, 0.008  # radians, radians, metres, metres, radians
SHAKEN_SHARE = 0.4  # of the cameras that move
SHAKE = 0.006  # radians, at difficulty 1
ROLLED = 0.06  # radians, standard deviation
ATTEMPTS = 12
IN_VIEW = 0.6  # share of the objects, over all frames, with which an attempt is good enough
WALL_GAP, OBJECT_GAP = 0.2, 0.25  # metres that the camera keeps from walls and from the balls around objects


@dataclass(frozen=True)
class Lens:
    """A pinhole without distortion, whose axis meets the middle of the frame.

    size   (width, height) in pixels
    focal  in pixels
    """

    size: tuple[int, int]
    focal: float

    @property
    def centre(self) -> Float[np.ndarray, " 2"]:
        """Where the axis meets the frame, in pixels."""
        return (np.array(self.size) - 1) / 2

    @property
    def field_of_view(self) -> float:
        """Degrees, over the height of the frame."""
        return float(np.degrees(2 * np.arctan(self.size[1] / (2 * self.focal))))

    def project(self, points: Float[np.ndarray, "*shape 3"]) -> Float[np.ndarray, "*shape 2"]:
        """Points before the camera, in its own axes -> pixels."""
        return self.focal * points[..., :2] / points[..., 2:] + self.centre

    def directions(self, xy: Float[np.ndarray, "*shape 2"]) -> Float[np.ndarray, "*shape 3"]:
        """Pixels -> directions in the camera's axes, one metre deep."""
        flat = (xy - self.centre) / self.focal
        return np.concatenate([flat, np.ones_like(flat[..., :1])], axis=-1)


class View(NamedTuple):
    """Poses of the camera: positions in the world, and rotations whose columns are its axes."""

    position: Float[np.ndarray, "T 3"]
    rotation: Float[np.ndarray, "T 3 3"]


@dataclass(frozen=True)
class CameraPath:
    """A smooth path in time, counted in frames; also between frames.

    The camera looks at a target from a distance, an azimuth and an elevation. Each of these, and the roll about its
    axis, changes evenly; hand shake turns it a little besides.
    """

    target: Float[np.ndarray, "2 3"]  # at frame 0, and its change from frame to frame; the same below
    distance: Float[np.ndarray, " 2"]
    azimuth: Float[np.ndarray, " 2"]
    elevation: Float[np.ndarray, " 2"]
    roll: Float[np.ndarray, " 2"]
    shake: Float[np.ndarray, "3 waves 3"]  # amplitude, frequency and phase of the waves about the three axes

    def view(self, time: Float[np.ndarray, " T"]) -> View:
        """Poses at the given times."""
        target, distance, azimuth, elevation, roll = (
            line[0] + np.multiply.outer(time, line[1])
            for line in (self.target, self.distance, self.azimuth, self.elevation, self.roll)
        )
        level = np.cos(elevation)
        outward = np.stack([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)], axis=-1)
        forward = -outward
        right = np.stack([-np.sin(azimuth), np.cos(azimuth), np.zeros_like(azimuth)], axis=-1)
        down = np.cross(forward, right)
        level_axes = np.stack([right, down, forward], axis=-1)  # (T, 3, 3)
        amplitude, frequency, phase = self.shake
        angles = (amplitude * np.sin(np.multiply.outer(time, frequency) + phase)).sum(axis=1)  # (T, 3)
        angles[:, 2] += roll
        return View(target + distance[:, None] * outward, level_axes @ rotations(angles))


def rotations(angles: Float[np.ndarray, "T 3"]) -> Float[np.ndarray, "T 3 3"]:
    """Rotations about z, then y, then x, by the given angles in radians."""
    c, s = np.cos(angles).T, np.sin(angles).T
    zero, one = np.zeros_like(c[0]), np.ones_like(c[0])
    x = [[one, zero, zero], [zero, c[0], -s[0]], [zero, s[0], c[0]]]
    y = [[c[1], zero, s[1]], [zero, one, zero], [-s[1], zero, c[1]]]
    z = [[c[2], -s[2], zero], [s[2], c[2], zero], [zero, zero, one]]
    about_x, about_y, about_z = (np.moveaxis(np.array(rows), -1, 0) for rows in (x, y, z))
    return np.asarray(about_x @ about_y @ about_z)


def to_camera(points: Float[np.ndarray, "N T 3"], view: View) -> Float[np.ndarray, "N T 3"]:
    """Points of the world -> the axes of the camera, in each frame."""
    return np.einsum("ntj,tji->nti", points - view.position, view.rotation)


def random_lens(rng: np.random.Generator, size: tuple[int, int]) -> Lens:
    """Draw a lens."""
    return Lens(size, size[1] / (2 * np.tan(np.radians(rng.uniform(*FIELD_OF_VIEW)) / 2)))


def random_path(
    rng: np.random.Generator,
    lens: Lens,
    *,
    difficulty: float,
    moving: bool,
    room: Float[np.ndarray, " 3"],
    centres: Float[np.ndarray, "K T 3"],
    radii: Float[np.ndarray, " K"],
) -> CameraPath:
    """Draw a path that stays inside the room and out of the objects, and sees most of them for most of the time.

    `room` holds half its length and width, and its height; `centres` and `radii` the balls around the objects in each
    frame. Where no attempt is good enough, the best one is kept.
    """
    best, best_view = None, -np.inf
    for _ in range(ATTEMPTS):
        path = _any_path(rng, difficulty * moving, room, centres)
        view = _view(path, lens, room, centres, radii)
        if view > best_view:
            best, best_view = path, view
        if view >= IN_VIEW:
            break
    assert best is not None
    return best


def _any_path(
    rng: np.random.Generator, speed: float, room: Float[np.ndarray, " 3"], centres: Float[np.ndarray, "K T 3"]
) -> CameraPath:
    T = centres.shape[1]
    middle = (T - 1) / 2
    aim = centres.mean(axis=(0, 1)) if len(centres) else np.array([0, 0, 0.3])
    target = np.clip(aim, -room / 3, room / 3) + rng.normal(0, 0.12, 3)

    def line(value: np.ndarray | float, change: float) -> Float[np.ndarray, "2 ..."]:
        """A value in the middle of the clip, and its change."""
        slope = rng.normal(0, change * speed, np.shape(value))
        return np.array([value - middle * slope, slope])

    shaken = speed * SHAKE * (rng.random() < SHAKEN_SHARE)
    waves = np.stack([rng.uniform(0, shaken, (3, 3)), rng.uniform(0.3, 1.5, (3, 3)), rng.uniform(0, 2 * np.pi, (3, 3))])
    return CameraPath(
        target=line(target, PAN / 2),
        distance=line(rng.uniform(*DISTANCE), APPROACH),
        azimuth=line(rng.uniform(0, 2 * np.pi), TURN),
        elevation=line(rng.uniform(*ELEVATION), RISE),
        roll=line(rng.normal(0, ROLLED), ROLL),
        shake=waves,
    )


def _view(
    path: CameraPath,
    lens: Lens,
    room: Float[np.ndarray, " 3"],
    centres: Float[np.ndarray, "K T 3"],
    radii: Float[np.ndarray, " K"],
) -> float:
    """Share of the objects that are in view, less one if the camera is where it must not be."""
    at = path.view(np.arange(centres.shape[1], dtype=float))
    position = at.position
    half, height = room[:2] - WALL_GAP, room[2] - WALL_GAP
    free: Bool[np.ndarray, " T"] = (np.abs(position[:, :2]) < half).all(axis=1)
    free &= (position[:, 2] > WALL_GAP) & (position[:, 2] < height)
    free &= (np.linalg.norm(centres - position, axis=-1) > radii[:, None] + OBJECT_GAP).all(axis=0)
    seen = to_camera(centres, at)
    ahead = seen[..., 2] > OBJECT_GAP
    xy = lens.project(np.where(ahead[..., None], seen, 1.0))
    in_view = ahead & inside(xy, lens.size)
    return float(in_view.mean() if len(centres) else 1.0) - (not free.all())
