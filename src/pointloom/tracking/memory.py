"""How many frames and points are worked on at once, so that tracking stays within a number of bytes.

    features      frames x frame          the frames of a window twice (while it moves on), or all frames of the video
    encoding      frames x 10 x frame     for the frames that are encoded at once
    descriptions  points x point          for the points that walk over the video together; for a causal model also
                                          what it remembers of them, twice (while it moves on)
    shared        twice                   what a causal model remembers besides, for the points refined together; then
                                          no others walk with them
    refining      points x frames x pair  for the points that are refined together, over the frames of a window

`frame`, `point` and `shared` are counted on a blank frame. `pair`, what a model needs for one point in one frame, is
estimated for a tracker that correlates: it reads 64 feature vectors around the present position, and has about six
arrays of products of those with the vectors of its description. What does not grow with the points (virtual tracks)
counts as ten more of them. The numbers are measured on CoTracker3's networks; encoding takes 9 times the features
there, and 4 times in `tiny`. Weights, the video, and the tracks come on top.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from pointloom.errors import OptionError
from pointloom.models.base import Estimate, FrameFeatures, Memory, PointFeatures
from pointloom.tracking.runner import Runner

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

ENCODING_FACTOR = 10
POSITIONS_READ = 64  # (2 * 3 + 2)^2: whole cells around a position with a radius of 3
PRODUCT_ARRAYS = 6
FIXED_POINTS = 10
MOST_FRAMES_AT_ONCE = 8  # more are not faster

SHARE_OF_KEPT_FEATURES = 0.5  # of the budget, for features of a whole video that would otherwise be computed again
SHARE_OF_DESCRIPTIONS = 0.5  # of what the features leave


def parse_bytes(text: str | int) -> int:
    """Return a number of bytes: `4000000000`, `"4GB"`, `"3.5 GiB"`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    if match is None or match[2].upper() not in UNITS or float(match[1]) == 0:
        raise OptionError(f"memory is given in bytes or as a text such as '4GB' or '500 MiB', got {text!r}.")
    return int(float(match[1]) * UNITS[match[2].upper()])


@dataclass(frozen=True)
class Costs:
    """Bytes that a model needs for videos of one size (see the top), and the (width, height) at which it sees them."""

    frame: int
    point: int
    pair: int
    input: tuple[int, int]
    shared: int = 0

    @property
    def encoding(self) -> int:
        """Bytes while one frame is encoded."""
        return ENCODING_FACTOR * self.frame


def measure_costs(runner: Runner, size: tuple[int, int], *, causal: bool = False) -> Costs:
    """Encode a blank frame, describe a point in it, and count; `causal`: and track it there, and count its memory."""
    width, height = size
    features = runner.encode(np.zeros((1, height, width, 3), np.uint8), 0)
    point = runner.model.describe(features, runner.positions(np.zeros((1, 3), np.float32))[None])
    levels = [(patch.shape[-1], patch[0, 0, ..., 0].numel(), patch.element_size()) for patch in point.support]
    memory = _first_memory(runner, features, point) if causal else Memory()
    return Costs(
        frame=sum(m.nbytes for m in features.maps),
        point=sum(patch.nbytes for patch in point.support) + 2 * sum(rows.nbytes for rows in memory.points),
        pair=max(POSITIONS_READ * (C + PRODUCT_ARRAYS * positions) * item for C, positions, item in levels),
        input=features.input,
        shared=2 * sum(values.nbytes for values in memory.shared),
    )


def _first_memory(runner: Runner, features: FrameFeatures, point: PointFeatures) -> Memory:
    beginning = replace(Estimate.at_queries(point.queries, 1), memory=Memory())
    return runner.model.refine(features, point, beginning).memory or Memory()


@dataclass(frozen=True)
class MemoryPlan:
    """What is worked on at once.

    frames_at_once  frames that are encoded together
    keep_features   whether the features of the whole video stay
    points_at_once  points that are refined together
    points_a_walk   points that walk over the video together, window by window
    """

    frames_at_once: int
    keep_features: bool
    points_at_once: int
    points_a_walk: int


def plan_memory(
    budget: int, costs: Costs, *, full: bool, frames: int, window: int, points: int, together: int, directions: int
) -> MemoryPlan:
    """Fit tracking of `points` in `frames` into `budget` bytes.

    `together` is the least number of points that must be refined at once (a query and its support points). `directions`
    is how often the video is walked over. Raises OptionError if even the least does not fit.
    """
    whole = frames * costs.frame + (0 if full else window * costs.frame)
    least_refining = (FIXED_POINTS + together) * (window * costs.pair + costs.point)
    if full:
        _require(budget, whole + max(costs.encoding, least_refining), full=True, frames=frames)
        left = budget - whole
        at_once = left // (window * costs.pair + costs.point) - FIXED_POINTS
        return MemoryPlan(_frames_at_once(left, costs), True, at_once, max(points, together))

    budget -= costs.shared
    passing = 2 * window * costs.frame
    _require(budget, passing + max(costs.encoding, least_refining), full=False, frames=window)
    walk = _points_a_walk(budget - passing, costs, together)
    again = directions > 1 or walk < points
    keep = again and whole + max(costs.encoding, least_refining) <= SHARE_OF_KEPT_FEATURES * budget
    left = budget - (whole if keep else passing)
    walk = _points_a_walk(left, costs, together)
    left -= min(points, walk) * costs.point
    at_once = max(left // (window * costs.pair) - FIXED_POINTS, together)
    return MemoryPlan(_frames_at_once(left, costs), keep, at_once, min(walk, at_once) if costs.shared else walk)


def _points_a_walk(left: int, costs: Costs, together: int) -> int:
    return max(int(SHARE_OF_DESCRIPTIONS * left) // costs.point, together)


def _frames_at_once(left: int, costs: Costs) -> int:
    return min(max(left // costs.encoding, 1), MOST_FRAMES_AT_ONCE)


def _require(budget: int, least: int, *, full: bool, frames: int) -> None:
    if least <= budget:
        return
    need = f"needs about {_readable(least)}, more than memory_budget ({_readable(budget)})"
    if full:
        raise OptionError(
            f"seeing all {frames} frames at once {need}. Use mode='windowed' with a model that has it, so that the "
            f"need does not grow with the video; a larger memory_budget; or a shorter clip."
        )
    raise OptionError(
        f"one window of {frames} frames {need}. Use a larger memory_budget, fewer support points, or smaller frames."
    )


def _readable(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 10**9 else f"{count / 1e6:.3g} MB"
