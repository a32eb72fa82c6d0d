"""A layer: a textured, flat but perhaps rippling sheet, and its exact map into every frame.

The same map does three things that must agree to a hundredth of a pixel: it draws the sheet, it says where a point of the
sheet is in each frame (also when nobody can see it), and it says whether the sheet covers a given place. A sheet point
`p` (pixels of the texture) is found from an image point `y` in closed form,

    q = H_t^-1 y,        p = q + d_t(q),

with a homography `H_t` and, for sheets that ripple like cloth, a small sum of sines `d_t`. That is the direction drawing
needs. The way from `p` to `y` inverts `q + d_t(q) = p` by fixed-point iteration, which converges because the slope of
`d_t` stays well below one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pointloom.datasets.synthetic.motion import Homographies

RIPPLE_ITERATIONS = 20  # the slope of a ripple is at most 0.4: 0.4^20 is a hundred-millionth
COVERED = 128  # from this opacity on, a pixel belongs to the layer
PYRAMID_LEVELS = 3
SMALLEST_LEVEL = 8  # sides below this are not halved again
FRONT_DEPTH = 0.05  # third homogeneous coordinate from which on a point counts as before the eye
SHORTEST_BLUR, LONGEST_BLUR = 1.0, 24.0  # pixels


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

    def displacement(self, q: Float[np.ndarray, "*shape 2"], t: Float[np.ndarray, "*shape"] | int) -> np.ndarray:
        """What is added to `q` to find the sheet point that lies there in frame `t`."""
        phase = q @ self.waves.T + self.phases + self.pace * np.asarray(t, dtype=q.dtype)[..., None]
        return self.amplitude * np.sin(phase.astype(np.float32)).astype(q.dtype)


class Patch(NamedTuple):
    """What of a sheet is seen in one frame.

    colours  RGB, or premultiplied RGB and opacity, with motion blur
    covered  pixels that belong to the sheet, without motion blur
    box      rows and columns of the canvas that the patch fills
    """

    colours: UInt8[np.ndarray, "h w channels"]
    covered: Bool[np.ndarray, "h w"]
    box: tuple[slice, slice]


@dataclass(frozen=True)
class Layer:
    """A sheet with its motion.

    texture   RGB, or RGB with opacity (not premultiplied: `sheet_pyramid` does that once)
    to_frame  homographies from pixels of the texture to pixels of the frame
    gain      brightness of the sheet in each frame
    view      (width, height) of the frame
    ripple    None for a stiff sheet
    endless   beyond its border the sheet goes on as its own mirror image
    """

    texture: UInt8[np.ndarray, "height width channels"]
    to_frame: Homographies
    gain: Float[np.ndarray, " T"]
    view: tuple[int, int]
    ripple: Ripple | None = None
    endless: bool = False

    @cached_property
    def to_sheet(self) -> Homographies:
        """Homographies from the frame back to the sheet, before ripples."""
        return np.linalg.inv(self.to_frame)

    @cached_property
    def opaque(self) -> bool:
        """Whether the sheet hides anything; shadows and lights do not."""
        return self.endless or int(self.texture[..., 3].max()) >= COVERED

    @cached_property
    def pyramid(self) -> list[UInt8[np.ndarray, "height width channels"]]:
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
        height, width = self.texture.shape[:2]
        room = 0.5 + (self.ripple.amplitude if self.ripple else 0.0)
        left, right, top, bottom = -room, width - 1 + room, -room, height - 1 + room
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
        """The sheet point to judge speed and size by: its middle, or for an endless sheet what the frame's centre shows."""
        height, width = self.texture.shape[:2]
        if not self.endless:
            return np.tile([(width - 1) / 2, (height - 1) / 2], (len(self.to_frame), 1))
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
            p, t = q, np.broadcast_to(np.arange(T), q.shape[:2])
            for _ in range(RIPPLE_ITERATIONS):
                q = p - self.ripple.displacement(q, t)
        image = np.einsum("tij,ntj->nti", self.to_frame[..., :2], q) + self.to_frame[..., 2]  # (N, T, 3)
        depth = image[..., 2:]
        return image[..., :2] / np.maximum(depth, FRONT_DEPTH), (depth[..., 0] > FRONT_DEPTH).all(axis=1)

    def lift(self, xy: Float[np.ndarray, "M 2"], t: int) -> Float[np.ndarray, "M 2"]:
        """The points of the sheet that lie at image points `xy` in frame `t`."""
        lifted = xy @ self.to_sheet[t, :, :2].T + self.to_sheet[t, :, 2]
        q = lifted[:, :2] / lifted[:, 2:]
        return q if self.ripple is None else q + self.ripple.displacement(q, t)

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
        p = q if self.ripple is None else q + self.ripple.displacement(q, t)
        p = np.clip(p, -2, np.array(self.texture.shape[1::-1]) + 2).astype(np.float32)
        opacity = cv2.remap(self.texture[..., 3], p[None], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        covered[point, t] = opacity[0] >= COVERED
        return covered

    def patch(self, t: int, canvas: tuple[int, int], shutter: float) -> Patch | None:
        """The sheet as it looks in frame `t`, drawn on a canvas of the given size (width, height).

        The canvas shows the whole frame, in any resolution. Colours are blurred along the motion while the shutter is
        open (a share of the time of a frame). None where the sheet is out of sight.
        """
        to_canvas = enlarging(self.view, canvas)
        blur = self.velocity[t] * shutter * canvas[0] / self.view[0]
        kernel = line_kernel(blur) if np.hypot(*blur) >= SHORTEST_BLUR else None
        margin = kernel.shape[0] // 2 if kernel is not None else 0
        left, top, right, bottom = 0, 0, *canvas
        if not self.endless:
            if not self.present[t]:
                return None
            image = self.corners[t] @ to_canvas.T
            image = image[:, :2] / image[:, 2:]
            low = np.floor(image.min(axis=0)).astype(int) - margin
            high = np.ceil(image.max(axis=0)).astype(int) + 1 + margin
            left, top = np.maximum(low, 0).tolist()
            right, bottom = np.minimum(high, canvas).tolist()
            if left >= right or top >= bottom:
                return None
        # The box is drawn with a margin, also beyond the canvas, so that the blur finds what moves in from there.
        drawn = self._warp(t, to_canvas, (left - margin, top - margin, right + margin, bottom + margin))
        unblurred = (slice(margin, margin + bottom - top), slice(margin, margin + right - left))
        sharp = drawn[unblurred]
        if kernel is not None:
            drawn = cv2.filter2D(drawn, -1, kernel, borderType=cv2.BORDER_REPLICATE)
        return Patch(drawn[unblurred], sharp[..., -1] >= COVERED, (slice(top, bottom), slice(left, right)))

    def _warp(self, t: int, to_canvas: Float[np.ndarray, "3 3"], box: tuple[int, int, int, int]) -> np.ndarray:
        left, top, right, bottom = box
        back = self.to_sheet[t] @ np.linalg.inv(to_canvas) @ np.array([[1.0, 0, left], [0, 1, top], [0, 0, 1]])
        source = self.pyramid[self._level(t, to_canvas[0, 0])]
        to_level = enlarging(self.texture.shape[1::-1], source.shape[1::-1])
        border = cv2.BORDER_REFLECT if self.endless else cv2.BORDER_CONSTANT
        size = (right - left, bottom - top)
        if self.ripple is None:
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            return np.asarray(cv2.warpPerspective(source, to_level @ back, size, flags=flags, borderMode=border))
        x, y = np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32)[:, None]
        back = back.astype(np.float32)
        lifted = [back[i, 0] * x + (back[i, 1] * y + back[i, 2]) for i in range(3)]
        q = np.stack([lifted[0] / lifted[2], lifted[1] / lifted[2]], axis=-1)  # (h, w, 2)
        p = q + self.ripple.displacement(q, t)
        p = p * np.float32([to_level[0, 0], to_level[1, 1]]) + np.float32([to_level[0, 2], to_level[1, 2]])
        return np.asarray(cv2.remap(source, p.astype(np.float32), None, cv2.INTER_LINEAR, borderMode=border))

    def _level(self, t: int, zoom: float) -> int:
        """The level of the pyramid whose pixels are about as large as those of the canvas."""
        return int(np.clip(round(-np.log2(zoom * self.magnification[t])), 0, len(self.pyramid) - 1))


def _project(maps: Homographies, points: Float[np.ndarray, "T 2"]) -> Float[np.ndarray, "T 2"]:
    image = np.einsum("tij,tj->ti", maps[..., :2], points) + maps[..., 2]
    return np.asarray(image[:, :2] / np.maximum(image[:, 2:], 1e-6))


def line_kernel(length: Float[np.ndarray, " 2"]) -> Float[np.ndarray, "k k"]:
    """A blur along a straight line of the given extent (x, y) in pixels, centred, with sum one."""
    length = length * min(1.0, LONGEST_BLUR / float(np.hypot(*length)))
    reach = int(np.ceil(np.abs(length).max() / 2))
    samples = 4 * int(np.ceil(np.hypot(*length))) + 1
    x, y = (np.linspace(-0.5, 0.5, samples)[:, None] * length + reach).T
    kernel = np.zeros((2 * reach + 2, 2 * reach + 2))
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    for dx in (0, 1):
        for dy in (0, 1):
            weight = np.abs(1 - dx - (x - left)) * np.abs(1 - dy - (y - top))
            np.add.at(kernel, (top + dy, left + dx), weight)
    return kernel[:-1, :-1] / samples


def enlarging(old: Sequence[int], new: Sequence[int]) -> Float[np.ndarray, "3 3"]:
    """Pixels of an image of size `old` -> pixels of the same image resized to `new`; the corners of the image stay."""
    x, y = new[0] / old[0], new[1] / old[1]
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])
