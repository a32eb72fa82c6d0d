"""A layer: a textured, flat but perhaps rippling sheet, and its exact map into every frame.

The same map does three things that must agree to a hundredth of a pixel: it draws the sheet, it says where a point of
the sheet is in each frame (also when nobody can see it), and it says whether the sheet covers a given place. A sheet
point `p` (pixels of the texture) is found from an image point `y` in closed form,

    q = H_t^-1 y,        p = q + d_t(q),

with a homography `H_t` and, for sheets that ripple like cloth, a small sum of sines `d_t`. That is the direction
drawing needs. The way from `p` to `y` inverts `q + d_t(q) = p` by fixed-point iteration, which converges because the
slope of `d_t` stays well below one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pointloom.datasets.synthetic.motion import Homographies

RIPPLE_ITERATIONS = 12  # the slope of a ripple is at most 0.4: 0.4^12 is a hundred-thousandth
COVERED = 128  # from this opacity on, a pixel belongs to the layer
PYRAMID_LEVELS = 3
SMALLEST_LEVEL = 8  # sides below this are not halved again
SAMPLES_A_ROW = 4096
FRONT_DEPTH = 0.05  # third homogeneous coordinate from which on a point counts as before the eye


@dataclass(frozen=True)
class Ripple:
    """A displacement of a sheet by travelling sines, in pixels of the sheet.

    `waves` are the wave vectors (radians a pixel) of the x and of the y displacement, `phases` their phases at frame 0,
    `pace` the radians by which the phases grow in each frame.
    """

    amplitude: float
    waves: Float[np.ndarray, "2 2"]
    phases: Float[np.ndarray, " 2"]
    pace: float

    def displacement(self, x: np.ndarray, y: np.ndarray, t: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
        """What is added to (x, y) to find the sheet point that lies there in frame `t`; in the precision of `x`."""
        moved = []
        for wave, phase in zip(self.waves.astype(x.dtype), self.phases, strict=True):
            angle = wave[0] * x + wave[1] * y
            angle += np.asarray(phase + self.pace * t, dtype=x.dtype)
            np.sin(angle, out=angle)
            angle *= x.dtype.type(self.amplitude)
            moved.append(angle)
        return moved[0], moved[1]

    def bend(self, q: Float[np.ndarray, "*shape 2"], t: np.ndarray | int) -> Float[np.ndarray, "*shape 2"]:
        """The sheet points found at `q` of the stiff sheet in frame `t`."""
        return q + np.stack(self.displacement(q[..., 0], q[..., 1], t), axis=-1)

    def unbend(self, p: Float[np.ndarray, "*shape 2"], t: np.ndarray | int) -> Float[np.ndarray, "*shape 2"]:
        """Where on the stiff sheet the sheet points `p` are found in frame `t`."""
        q = p
        for _ in range(RIPPLE_ITERATIONS):
            q = p - np.stack(self.displacement(q[..., 0], q[..., 1], t), axis=-1)
        return q


@dataclass(frozen=True)
class Layer:
    """A sheet with its motion.

    texture   RGB, or RGB with opacity (not yet multiplied into the colours)
    to_frame  homographies from pixels of the texture to pixels of the frame
    gain      brightness of the sheet in each frame
    view      (width, height) of the frame
    ripple    None for a stiff sheet
    endless   beyond its border the sheet goes on as its own mirror image
    marks     points of the sheet that people would mark
    """

    texture: UInt8[np.ndarray, "height width channels"]
    to_frame: Homographies
    gain: Float[np.ndarray, " T"]
    view: tuple[int, int]
    ripple: Ripple | None = None
    endless: bool = False
    marks: Float[np.ndarray, "K 2"] = field(default_factory=lambda: np.zeros((0, 2)))

    @property
    def width(self) -> int:
        """Of the sheet, in pixels of its texture."""
        return self.texture.shape[1]

    @property
    def height(self) -> int:
        """Of the sheet, in pixels of its texture."""
        return self.texture.shape[0]

    @cached_property
    def to_sheet(self) -> Homographies:
        """Homographies from the frame back to the sheet, before ripples."""
        return np.linalg.inv(self.to_frame)

    @cached_property
    def opaque(self) -> bool:
        """Whether the sheet hides anything; shadows and lights do not."""
        return self.endless or int(self.texture[..., 3].max()) >= COVERED

    @cached_property
    def pyramid(self) -> list[UInt8[np.ndarray, "_height _width channels"]]:
        """The texture, premultiplied with its opacity, at half, quarter ... size."""
        level = self.texture
        if not self.endless:
            opaque = cv2.cvtColor(level[..., 3], cv2.COLOR_GRAY2RGB)
            level = np.dstack(
                [cv2.multiply(np.ascontiguousarray(level[..., :3]), opaque, scale=1 / 255), level[..., 3]]
            )
        levels = [level]
        while len(levels) < PYRAMID_LEVELS and min(level.shape[:2]) >= 2 * SMALLEST_LEVEL:
            level = cv2.resize(level, (level.shape[1] // 2, level.shape[0] // 2), interpolation=cv2.INTER_AREA)
            levels.append(level)
        return levels

    @cached_property
    def corners(self) -> Float[np.ndarray, "T 4 3"]:
        """The four corners of the sheet, with room for ripples, in homogeneous frame coordinates."""
        room = 0.5 + (self.ripple.amplitude if self.ripple else 0.0)
        left, right, top, bottom = -room, self.width - 1 + room, -room, self.height - 1 + room
        sheet = np.array([[left, top, 1], [right, top, 1], [right, bottom, 1], [left, bottom, 1]])
        return sheet @ self.to_frame.transpose(0, 2, 1)  # (T, 4, 3)

    @cached_property
    def present(self) -> Bool[np.ndarray, " T"]:
        """Frames in which the whole sheet is before the eye; in others it is neither drawn nor covers anything."""
        if self.endless:
            return np.ones(len(self.to_frame), bool)
        return np.asarray((self.corners[..., 2] > FRONT_DEPTH).all(axis=1))

    @cached_property
    def focus(self) -> Float[np.ndarray, "T 2"]:
        """The sheet point to judge speed and size by: its middle; of an endless one, what the frame's centre shows."""
        if not self.endless:
            return np.tile([(self.width - 1) / 2, (self.height - 1) / 2], (len(self.to_frame), 1))
        centre = (np.array(self.view) - 1) / 2
        return _project(self.to_sheet, np.tile(centre, (len(self.to_frame), 1)))

    @cached_property
    def magnification(self) -> Float[np.ndarray, " T"]:
        """Frame pixels for one texture pixel around the focus."""
        depth = np.einsum("ti,ti->t", self.to_frame[:, 2, :2], self.focus) + self.to_frame[:, 2, 2]
        return np.sqrt(np.abs(np.linalg.det(self.to_frame)) / np.maximum(depth, FRONT_DEPTH) ** 3)

    @cached_property
    def velocity(self) -> Float[np.ndarray, "T 2"]:
        """Pixels a frame by which the focus moves in the frame: half of the way from the frame before to the next."""
        last = len(self.to_frame) - 1
        t = np.arange(last + 1)
        before, after = np.maximum(t - 1, 0), np.minimum(t + 1, last)
        way = _project(self.to_frame[after], self.focus) - _project(self.to_frame[before], self.focus)
        return way / np.maximum(after - before, 1)[:, None]

    def locate(self, points: Float[np.ndarray, "N 2"]) -> tuple[Float[np.ndarray, "N T 2"], Bool[np.ndarray, " N"]]:
        """Where points of the sheet are in every frame, and which of them stay before the eye all the time."""
        T = len(self.to_frame)
        q = np.broadcast_to(points[:, None], (len(points), T, 2)).astype(float)  # (N, T, 2)
        if self.ripple is not None:
            q = self.ripple.unbend(q, np.arange(T))
        image = np.einsum("tij,ntj->nti", self.to_frame[..., :2], q) + self.to_frame[..., 2]  # (N, T, 3)
        depth = image[..., 2:]
        return image[..., :2] / np.maximum(depth, FRONT_DEPTH), (depth[..., 0] > FRONT_DEPTH).all(axis=1)

    def lift(self, xy: Float[np.ndarray, "M 2"], t: int) -> Float[np.ndarray, "M 2"]:
        """The points of the sheet that lie at image points `xy` in frame `t`."""
        lifted = xy @ self.to_sheet[t, :, :2].T + self.to_sheet[t, :, 2]
        q = lifted[:, :2] / lifted[:, 2:]
        return q if self.ripple is None else self.ripple.bend(q, t)

    def covers(self, xy: Float[np.ndarray, "N T 2"]) -> Bool[np.ndarray, "N T"]:
        """Whether the sheet lies over the image points `xy`, frame by frame."""
        covered = np.zeros(xy.shape[:2], bool)
        image = self.corners[..., :2] / np.maximum(self.corners[..., 2:], FRONT_DEPTH)  # (T, 4, 2)
        near = ((xy >= image.min(axis=1)) & (xy <= image.max(axis=1))).all(axis=-1) & self.present  # (N, T)
        point, t = np.nonzero(near)
        if len(point) == 0:
            return covered
        lifted = np.einsum("mij,mj->mi", self.to_sheet[t][..., :2], xy[point, t]) + self.to_sheet[t][..., 2]
        q = lifted[:, :2] / lifted[:, 2:]
        p = q if self.ripple is None else self.ripple.bend(q, t)
        covered[point, t] = _sample(self.texture[..., 3], p) >= COVERED
        return covered


def _sample(image: UInt8[np.ndarray, "height width"], points: Float[np.ndarray, "M 2"]) -> UInt8[np.ndarray, " M"]:
    """Values of an image between its pixels, 0 outside. In rows of points, because OpenCV limits the length of one."""
    rows = -(-len(points) // SAMPLES_A_ROW)
    x, y = np.zeros((2, rows * SAMPLES_A_ROW), np.float32)
    x[: len(points)], y[: len(points)] = np.clip(points, -2, np.array(image.shape[::-1]) + 2).T
    grid = x.reshape(rows, SAMPLES_A_ROW), y.reshape(rows, SAMPLES_A_ROW)
    sampled = cv2.remap(image, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(sampled.ravel()[: len(points)])


def _project(maps: Homographies, points: Float[np.ndarray, "T 2"]) -> Float[np.ndarray, "T 2"]:
    image = np.einsum("tij,tj->ti", maps[..., :2], points) + maps[..., 2]
    return np.asarray(image[:, :2] / np.maximum(image[:, 2:], 1e-6))


def enlarging(old: Sequence[int], new: Sequence[int]) -> Float[np.ndarray, "3 3"]:
    """Pixels of an image of size `old` -> pixels of the same image resized to `new`; the corners of the image stay."""
    x, y = new[0] / old[0], new[1] / old[1]
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])
