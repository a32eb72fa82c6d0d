"""The points of a walk over a video, as a value that each window turns into the next one.

Which points a window knows decides what a later query can do to an earlier answer. `masked`, our default: a point does
not take part before a window has reached its query, nor, inside a window, before its query's frame. Without it, as in
the official CoTracker3, all points take part from the first window on, and a query in the future changes the present.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pointloom.models.base import Estimate, FrameFeatures, Memory, Model, PointFeatures
from pointloom.tracking.recovery import Past, Sightings, best, sightings, tries, with_tries
from pointloom.tracking.windows import attended_frames, carried


@dataclass(frozen=True)
class WalkState:
    """Points that the walk has reached, and points that wait in later frames.

    ids       the caller's number of each reached point, in the order of `points` and `previous`
    points    what the reached points look like; None before the first
    previous  where the last window found them, and what a causal model remembers; None before the first window of a
              model that remembers nothing
    lost      where points that are lost were seen last; None where nobody looks for them
    """

    waiting_ids: Int64[Tensor, " M"]
    waiting: Float[Tensor, "M 3"]
    ids: Int64[Tensor, " N"]
    points: PointFeatures | None = None
    previous: Estimate | None = None
    lost: Sightings | None = None

    @staticmethod
    def of(queries: Float[Tensor, "N 3"], *, causal: bool = False) -> WalkState:
        """Begin with points that all wait, numbered from 0. `causal`: and with an empty memory, for a causal model."""
        ids = torch.arange(len(queries))
        beginning = replace(Estimate.at_queries(queries[None, :0], 0), memory=Memory()) if causal else None
        return WalkState(ids, queries, ids[:0], previous=beginning)

    def added(self, ids: Int64[Tensor, " K"], queries: Float[Tensor, "K 3"]) -> WalkState:
        """Let more points wait."""
        return replace(
            self,
            waiting_ids=torch.cat([self.waiting_ids, ids]),
            waiting=torch.cat([self.waiting, queries.to(self.waiting)]),
        )

    def without(self, ids: Int64[Tensor, " K"]) -> WalkState:
        """Forget points."""
        stays, waits = ~torch.isin(self.ids, ids), ~torch.isin(self.waiting_ids, ids)
        index = stays.nonzero()[:, 0].to(self.waiting.device)
        return WalkState(
            self.waiting_ids[waits],
            self.waiting[waits.to(self.waiting.device)],
            self.ids[stays],
            None if self.points is None else self.points.select(index),
            None if self.previous is None else self.previous.select(index),
            None if self.lost is None else self.lost.without(ids),
        )

    def reaching(self, model: Model, features: FrameFeatures, stop: int) -> WalkState:
        """Describe the points that wait before frame `stop`. They begin where their queries are."""
        arrived = self.waiting[:, 0] < stop
        if not arrived.any():
            return self
        queries = self.waiting[arrived][None]
        points = model.describe(features, queries)
        here = arrived.cpu()
        return WalkState(
            self.waiting_ids[~here],
            self.waiting[~arrived],
            torch.cat([self.ids, self.waiting_ids[here]]),
            points if self.points is None else PointFeatures.join([self.points, points]),
            None if self.previous is None else self.previous.with_points(queries),
            self.lost,
        )


def advance(
    model: Model,
    state: WalkState,
    features: FrameFeatures,
    *,
    stop: int,
    step: int,
    iterations: int | None,
    masked: bool,
    recover: bool = False,
) -> WalkState:
    """Run one window, which begins `step` frames after the one before it. The result is the new state's `previous`.

    `features` are those of the whole window; from frame `stop` on they only repeat the last frame that exists.
    `recover`: points that the window before lost are looked for in other places, too.
    """
    state = state.reaching(model, features, stop)
    points = state.points
    if points is None or not len(points):
        return state
    window = len(features)
    prior = carried(state.previous, points, features.start, window, step)
    tried = None
    if recover and state.previous is not None:
        past = Past.of(state.previous, points, state.ids, start=features.start - step, step=step)
        lost = sightings(state.lost, past)
        state = replace(state, lost=lost)
        tried = tries(lost, past, window=window, size=features.size)
        points, prior = with_tries(points, prior, tried)
    if masked:
        attended = attended_frames(points, features.start, window)
        result = model.refine(features, points, prior, iterations=iterations, attended=attended)
    else:
        everyone, begin = _with_waiting(model, state.waiting, points, features, prior)
        result = model.refine(features, everyone, begin, iterations=iterations).select(slice(len(points)))
    return replace(state, previous=result if tried is None else best(result, tried, stop - features.start))


def _with_waiting(
    model: Model, waiting: Float[Tensor, "M 3"], points: PointFeatures, features: FrameFeatures, prior: Estimate
) -> tuple[PointFeatures, Estimate]:
    """Add the points that wait: at their queries, in every frame, and described by nothing."""
    if not len(waiting):
        return points, prior
    queries = waiting[None]
    in_sight = queries.clone()
    in_sight[..., 0] = features.start  # any frame will do: the description is not used
    unknown = replace(model.describe(features, in_sight), queries=queries)
    reached = torch.arange(len(points) + len(unknown), device=queries.device) < len(points)
    everyone = replace(PointFeatures.join([points, unknown]), reached=reached[None])
    return everyone, prior.with_points(queries)
