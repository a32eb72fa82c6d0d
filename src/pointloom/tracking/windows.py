"""How a windowed model walks over a video: where its windows start, and what one hands to the next.

    frames   0         8         16        24
    window 0 [-------------------)
    window 1           [-------------------)        the overlap starts from window 0's result; the new half repeats its
    window 2                     [-----------...    last frame; points whose query lies beyond the overlap start there

After CoTracker3's online model (Karaev et al. 2024): window 16, step 8.

There a point of frame 0 has to be found in 15 frames at once, from where it was. With a lead-in (not in the paper) the
first windows are shorter, so that every point begins among the new frames of a window and is then followed further:

    frames   0         8         16        24
    window 0 [---------)
    window 1 [-------------------)
    window 2           [-------------------)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from pointloom.models.base import Estimate, FrameFeatures, Model, PointFeatures


@dataclass(frozen=True)
class WindowResult:
    """What one window gave, over all its frames (also those that only pad the video).

    estimates  the estimate after each iteration; the last one is the result
    prior      where the iterations started
    """

    start: int
    prior: Estimate
    estimates: list[Estimate]

    @property
    def result(self) -> Estimate:
        """The last estimate."""
        return self.estimates[-1] if self.estimates else self.prior


def first_stop(window: int, step: int, *, lead_in: bool) -> int:
    """One past the last frame of the first window. With a lead-in a window ends at every step from the first on."""
    return (window - 1) % step + 1 if lead_in else window


def start_of(stop: int, window: int) -> int:
    """First frame of the window that ends before frame `stop`: those of a lead-in are cut off at the first frame."""
    return max(stop - window, 0)


def window_spans(frames: int, window: int, step: int, *, lead_in: bool = False) -> list[tuple[int, int]]:
    """(start, stop) of the windows that cover a video. Every one brings a new frame; the last may go beyond the end."""
    if not frames:
        return []
    first = first_stop(window, step, lead_in=lead_in)
    stops = [first, *range(first + step, frames + step, step)]
    return [(start_of(stop, window), stop) for stop in stops]


def carried(previous: Estimate | None, points: PointFeatures, start: int, window: int, step: int) -> Estimate:
    """Return where the window at `start` begins, given the result of the one before it (which began `step` earlier).

    What is remembered is taken over, and the estimates of the frames that both have.
    """
    fresh = Estimate.at_queries(points.queries, window)
    if previous is None:
        return fresh
    overlap = previous.xy.shape[1] - step
    if overlap > 0:
        handed_on = previous.frames(step, step + overlap).extended(window)
        tracked_already = points.frame < start + overlap
        fresh = handed_on.where(tracked_already, fresh)
    return replace(fresh, memory=previous.memory)


def attended_frames(points: PointFeatures, start: int, window: int) -> Bool[Tensor, "B T N"]:
    """True from each point's query frame on: a point that starts later must not be looked at before."""
    frames = torch.arange(start, start + window, device=points.queries.device)
    return points.frame[:, None] <= frames[None, :, None]


def run_window(
    model: Model,
    features: FrameFeatures,
    points: PointFeatures,
    prior: Estimate,
    *,
    iterations: int | None = None,
    masked: bool = False,
) -> WindowResult:
    """Refine one window. Points whose query lies beyond it take part, described by nothing, unless `masked`."""
    window = len(features)
    reached = replace(points, reached=points.frame < features.start + window)
    attended = attended_frames(points, features.start, window) if masked else None
    estimates = list(model.iterate(features, reached, prior, iterations=iterations, attended=attended))
    return WindowResult(features.start, prior, estimates)


def walk(
    model: Model,
    features: FrameFeatures,
    points: PointFeatures,
    *,
    window: int,
    step: int,
    iterations: int | None = None,
    masked: bool = False,
    prior: Estimate | None = None,
    lead_in: bool = False,
) -> Iterator[WindowResult]:
    """Run every window over features that are all at hand, handing each result to the next window.

    `prior` is where the first window starts (None: at the queries).
    """
    previous, last_start = None, 0
    for start, stop in window_spans(len(features), window, step, lead_in=lead_in):
        seen = features.between(start, min(stop, features.stop)).padded(stop - start)
        if previous is not None or prior is None:
            prior = carried(previous, points, start, stop - start, start - last_start)
        done = run_window(model, seen, points, prior, iterations=iterations, masked=masked)
        previous, last_start = done.result, start
        yield done
