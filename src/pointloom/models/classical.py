"""Trackers that learn nothing, to measure the others against: motion chained from frame to frame, and a point at rest.

Lucas-Kanade (1981) finds, for a small window around a point, the shift that makes it fit the next frame best; on a
pyramid of smaller and smaller frames (Bouguet 2001, as in OpenCV) large shifts are found as well. Dense inverse search
(DIS, Kroeger et al. 2016) finds the motion of every pixel; where a patch says nothing, its neighbours decide. Chained
from frame to frame both drift and cannot come back from behind something, but where nothing covers the point they are
precise. A way back that does not end where it began tells that the point was lost.

Pure functions of arrays: frames uint8 RGB, queries (frame, x, y), positions in pixels of the video.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, Real, UInt8

from pointloom import geometry
from pointloom.errors import OptionError
from pointloom.queries.base import check_queries

Direction = Literal["forward", "both"]
# where points of one grey frame are in another, and for which that could be computed
Flow = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

WINDOW = (21, 21)  # pixels compared around a point
LEVELS = 4  # of the pyramid, the frame itself included; each halves the sides
DENSE_PRESET = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM  # OpenCV's slowest and best
DENSE_LEAST_PX = 32  # OpenCV crashes on frames that its pyramid makes smaller than a patch

SEEN_BELOW_PX = 1.0  # a point is seen if the way there and back ends nearer than this to where it began
SEEN_SIZE = (256, 256)  # (width, height) of the frame in which that is measured


class ClassicalTracks(NamedTuple):
    """Where points are in every frame.

    xy    pixels of the video; the query in frames that were not looked at
    seen  whether the point can be seen there
    forward_backward_px
          distance between the point in the frame before and where the way back from this frame ends, in pixels of a
          frame of 256 x 256; 0 in the query frame, infinite in frames that were not looked at
    """

    xy: Float32[np.ndarray, "N T 2"]
    seen: Bool[np.ndarray, "N T"]
    forward_backward_px: Float32[np.ndarray, "N T"]


def static_point(queries: Real[np.ndarray, "N 3"], frames: int) -> ClassicalTracks:
    """Leave every point where its query is, and see it always: what a tracker has to beat."""
    xy = np.repeat(queries[:, None, 1:].astype(np.float32), frames, axis=1)
    return ClassicalTracks(xy, np.ones(xy.shape[:2], bool), np.zeros(xy.shape[:2], np.float32))


def lucas_kanade(
    frames: UInt8[np.ndarray, "T H W 3"], queries: Real[np.ndarray, "N 3"], *, direction: Direction = "forward"
) -> ClassicalTracks:
    """Follow each point from its query frame to the end, and with `both` also to the beginning, frame by frame.

    A point is seen in a frame if it lies in the frame and the way back to the frame before ends within 1 px of where it
    began (at 256 x 256). It is followed from wherever it was found, seen or not. Raises QueryError for a query that
    is not in the video.
    """
    return _follow(frames, queries, _sparse, direction)


def dis_flow(
    frames: UInt8[np.ndarray, "T H W 3"], queries: Real[np.ndarray, "N 3"], *, direction: Direction = "forward"
) -> ClassicalTracks:
    """Chain dense optical flow from frame to frame; otherwise as `lucas_kanade`.

    A point that has left the frame stays where it left. Raises OptionError for frames too small for dense flow.
    """
    if min(frames.shape[1:3]) < DENSE_LEAST_PX:
        raise OptionError(
            f"dense flow needs frames of at least {DENSE_LEAST_PX} x {DENSE_LEAST_PX} pixels, "
            f"got {frames.shape[2]} x {frames.shape[1]}."
        )
    finder = cv2.DISOpticalFlow.create(DENSE_PRESET)
    return _follow(frames, queries, lambda here, there, xy: _dense(finder, here, there, xy), direction)


def _follow(
    frames: UInt8[np.ndarray, "T H W 3"], queries: Real[np.ndarray, "N 3"], flow: Flow, direction: Direction
) -> ClassicalTracks:
    queries = queries.astype(np.float32)
    check_queries(queries, frames=len(frames), size=(frames.shape[2], frames.shape[1]))
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    start, origin = queries[:, 0].astype(int), queries[:, 1:]
    later = _chain(grey, start, origin, flow)
    if direction == "forward":
        return later
    earlier = ClassicalTracks(*(part[:, ::-1] for part in _chain(grey[::-1], len(grey) - 1 - start, origin, flow)))
    before = np.arange(len(grey)) < start[:, None]
    return ClassicalTracks(
        np.where(before[..., None], earlier.xy, later.xy),
        np.where(before, earlier.seen, later.seen),
        np.where(before, earlier.forward_backward_px, later.forward_backward_px),
    )


def _chain(
    grey: list[np.ndarray], start: Int[np.ndarray, " N"], origin: Float32[np.ndarray, "N 2"], flow: Flow
) -> ClassicalTracks:
    """Follow points from frame `start` to the last one."""
    N, T = len(origin), len(grey)
    height, width = grey[0].shape
    size = width, height
    xy = np.repeat(origin[:, None], T, axis=1)  # (N, T, 2)
    seen = np.zeros((N, T), bool)
    back_px = np.full((N, T), np.inf, np.float32)
    query = np.arange(N), start
    seen[query], back_px[query] = True, 0
    for t in range(T - 1):
        begun = np.flatnonzero(start <= t)
        if not begun.size:
            continue
        here = xy[begun, t]
        there, found = flow(grey[t], grey[t + 1], here)
        back, found_back = flow(grey[t + 1], grey[t], there)
        gap = geometry.resize_area(here, size, SEEN_SIZE) - geometry.resize_area(back, size, SEEN_SIZE)
        gap_px = np.linalg.norm(gap, axis=-1)
        xy[begun, t + 1] = there
        back_px[begun, t + 1] = gap_px
        seen[begun, t + 1] = found & found_back & (gap_px < SEEN_BELOW_PX) & geometry.inside(there, size)
    return ClassicalTracks(xy, seen, back_px)


def _sparse(
    here: UInt8[np.ndarray, "H W"], there: UInt8[np.ndarray, "H W"], xy: Float32[np.ndarray, "N 2"]
) -> tuple[Float32[np.ndarray, "N 2"], Bool[np.ndarray, " N"]]:
    """Lucas-Kanade around each point."""
    moved, found, _ = cv2.calcOpticalFlowPyrLK(here, there, xy, np.empty_like(xy), winSize=WINDOW, maxLevel=LEVELS - 1)
    return np.asarray(moved), np.asarray(found)[:, 0] > 0


def _dense(
    finder: cv2.DISOpticalFlow,
    here: UInt8[np.ndarray, "H W"],
    there: UInt8[np.ndarray, "H W"],
    xy: Float32[np.ndarray, "N 2"],
) -> tuple[Float32[np.ndarray, "N 2"], Bool[np.ndarray, " N"]]:
    """Motion of every pixel, read between pixels at each point. Outside the frame nothing is known, nothing moves."""
    height, width = here.shape
    motion = finder.calc(here, there, np.zeros((height, width, 2), np.float32))
    inside = geometry.inside(xy, (width, height))
    moved = xy.copy()
    moved[inside] += _between_pixels(motion, xy[inside])
    return moved, inside


def _between_pixels(values: Float32[np.ndarray, "H W 2"], xy: Float32[np.ndarray, "N 2"]) -> Float32[np.ndarray, "N 2"]:
    """Values of an image at points, bilinear; in the half pixel around the centres those of the border."""
    last = np.array(values.shape[1::-1]) - 1
    low = np.floor(xy).astype(int).clip(0, last - 1)
    (x, y), (u, v) = low.T, (xy.clip(0, last) - low).T[..., None]
    upper = values[y, x] * (1 - u) + values[y, x + 1] * u
    lower = values[y + 1, x] * (1 - u) + values[y + 1, x + 1] * u
    blended: np.ndarray = upper * (1 - v) + lower * v
    return blended.astype(np.float32)
