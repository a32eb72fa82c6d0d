"""Trackers that learn nothing, to measure the others against: Lucas-Kanade from frame to frame, and a point at rest.

Lucas-Kanade (1981) finds, for a small window around a point, the shift that makes it fit the next frame best; on a
pyramid of smaller and smaller frames (Bouguet 2001, as in OpenCV) large shifts are found as well. Chained from frame to
frame it drifts and cannot come back from behind something, but where nothing covers the point it is precise. A way back
that does not end where it began tells that the point was lost.

Pure functions of arrays: frames uint8 RGB, queries (frame, x, y), positions in pixels of the video.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from pointloom import geometry
from pointloom.queries.base import check_queries

Direction = Literal["forward", "both"]

WINDOW = (21, 21)  # pixels compared around a point
LEVELS = 4  # of the pyramid, the frame itself included; each halves the sides

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


def static_point(queries: Float[np.ndarray, "N 3"], frames: int) -> ClassicalTracks:
    """Leave every point where its query is, and see it always: what a tracker has to beat."""
    xy = np.repeat(queries[:, None, 1:].astype(np.float32), frames, axis=1)
    return ClassicalTracks(xy, np.ones(xy.shape[:2], bool), np.zeros(xy.shape[:2], np.float32))


def lucas_kanade(
    frames: UInt8[np.ndarray, "T H W 3"], queries: Float[np.ndarray, "N 3"], *, direction: Direction = "forward"
) -> ClassicalTracks:
    """Follow each point from its query frame to the end, and with `both` also to the beginning, frame by frame.

    A point is seen in a frame if it lies in the frame and the way back to the frame before ends within 1 px of where it
    began (at 256 x 256). It is followed from wherever it was found, seen or not. Raises QueryError for a query that
    is not in the video.
    """
    queries = queries.astype(np.float32)
    check_queries(queries, frames=len(frames), size=(frames.shape[2], frames.shape[1]))
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    start, origin = queries[:, 0].astype(int), queries[:, 1:]
    later = _chain(grey, start, origin)
    if direction == "forward":
        return later
    earlier = ClassicalTracks(*(part[:, ::-1] for part in _chain(grey[::-1], len(grey) - 1 - start, origin)))
    before = np.arange(len(grey)) < start[:, None]
    return ClassicalTracks(
        np.where(before[..., None], earlier.xy, later.xy),
        np.where(before, earlier.seen, later.seen),
        np.where(before, earlier.forward_backward_px, later.forward_backward_px),
    )


def _chain(grey: list[np.ndarray], start: Int[np.ndarray, " N"], origin: Float32[np.ndarray, "N 2"]) -> ClassicalTracks:
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
        there, found = _flow(grey[t], grey[t + 1], here)
        back, found_back = _flow(grey[t + 1], grey[t], there)
        gap = geometry.resize_area(here, size, SEEN_SIZE) - geometry.resize_area(back, size, SEEN_SIZE)
        gap_px = np.linalg.norm(gap, axis=-1)
        xy[begun, t + 1] = there
        back_px[begun, t + 1] = gap_px
        seen[begun, t + 1] = found & found_back & (gap_px < SEEN_BELOW_PX) & geometry.inside(there, size)
    return ClassicalTracks(xy, seen, back_px)


def _flow(
    here: UInt8[np.ndarray, "H W"], there: UInt8[np.ndarray, "H W"], xy: Float32[np.ndarray, "N 2"]
) -> tuple[Float32[np.ndarray, "N 2"], Bool[np.ndarray, " N"]]:
    """Where points of one frame are in another, and for which that could be computed."""
    moved, found, _ = cv2.calcOpticalFlowPyrLK(here, there, xy, np.empty_like(xy), winSize=WINDOW, maxLevel=LEVELS - 1)
    return np.asarray(moved), np.asarray(found)[:, 0] > 0
