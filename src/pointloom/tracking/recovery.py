"""Lost points: where else a window looks for them.

A window starts where the one before it left each point. What a lost point lay on goes on without it, and a model sees
only what is near its estimate: once left behind, a point rarely comes back. So for a lost point the window starts from
other places as well, and of what is refined from there and from where the point was left, that counts which the model
trusts most:

    turned   where the points that were around it when it was last sure would have it: moved, turned and scaled as they
             have been since
    shifted  moved as they have been
    onward   where its own speed would have taken it

Not in the paper; `docs/training.md` has what it brings.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Complex, Float, Int64
from torch import Tensor

from pointloom.geometry import Size, inside
from pointloom.models.base import Estimate, PointFeatures

# visibility times confidence; chosen on held-back generated clips
LOST = 0.35  # a point is lost if it has less in the mean of the frames that are handed on
SURE = 0.6  # a frame in which a point has more is worth going back to
SURE_NEIGHBOUR = 0.5  # a point that has more is one to go by

NEIGHBOURS = 10
LEAST_NEIGHBOURS = 2
ALIKE = 3  # nearest neighbours that count nearly alike; those farther away count less
NEAR_PX = 4.0  # and so do those that are nearer than this
LEAST_WEIGHT = 1e-3  # of one that is far away
STIFFNESS = 0.02  # of the video's short side: neighbours closer together than this say little about a turn
SPEED_FRAMES = 4  # over which speed is measured
ONWARD_FRAMES = 12  # for which it is believed
TRIES = 3  # other places in which a lost point is looked for, at most
ROWS_AT_ONCE = 256  # lost points whose neighbours are looked for together


@dataclass(frozen=True)
class Past:
    """What the window before found, of which the last frames are those that the next one begins with.

    start        its first frame
    step         how many frames later the next one begins
    ids          the caller's numbers of the points
    query_frame  where each begins
    xy           at its query it lies on it
    score        visibility times confidence: 1 at a point's query and 0 before it
    """

    start: int
    step: int
    ids: Int64[Tensor, " N"]
    query_frame: Int64[Tensor, " N"]
    xy: Float[Tensor, "T N 2"]
    score: Float[Tensor, "T N"]

    @staticmethod
    def of(result: Estimate, points: PointFeatures, ids: Int64[Tensor, " N"], *, start: int, step: int) -> Past:
        """Read a window's result."""
        xy, query_frame = result.xy[0], points.frame[0]
        since = torch.arange(start, start + len(xy), device=xy.device)[:, None] - query_frame
        xy = torch.where((since == 0)[..., None], points.queries[0, :, 1:], xy)
        score = (result.visibility * result.confidence)[0] * (since > 0)
        return Past(start, step, ids.to(xy.device), query_frame, xy, torch.where(since == 0, 1.0, score))


@dataclass(frozen=True)
class Sightings:
    """Where lost points were last sure, and what was around them. One row a lost point.

    ids         the caller's numbers of the lost points
    frame       when each was last sure
    xy          where it was then
    speed       how far it went in a frame
    neighbours  the caller's numbers of the points around it, nearest first; -1 where there were no more
    around      where these were then
    """

    ids: Int64[Tensor, " L"]
    frame: Int64[Tensor, " L"]
    xy: Float[Tensor, "L 2"]
    speed: Float[Tensor, "L 2"]
    neighbours: Int64[Tensor, "L K"]
    around: Float[Tensor, "L K 2"]

    def select(self, index: Tensor) -> Sightings:
        """Return some of the rows."""
        return Sightings(*(getattr(self, f.name)[index] for f in fields(self)))

    def without(self, ids: Int64[Tensor, " K"]) -> Sightings:
        """Forget points. Where they were around others they stay in the list, and are not found any more."""
        return self.select(~torch.isin(self.ids, ids.to(self.ids.device)))

    def joined(self, other: Sightings) -> Sightings:
        """Put rows together."""
        return Sightings(*(torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))


@dataclass(frozen=True)
class Tries:
    """Other places to start from. One row a try; the tries of one point do not follow each other.

    rows  which of the window's points each belongs to
    xy    where it starts, in the frames of the window
    """

    rows: Int64[Tensor, " M"]
    xy: Float[Tensor, "T M 2"]


def sightings(before: Sightings | None, past: Past) -> Sightings:
    """Return where the points that are lost now were last sure. `before` has those that were lost in windows before."""
    lost = (past.score[past.step :].mean(0) < LOST) & (past.query_frame < past.start + past.step)
    rows = lost.nonzero()[:, 0]
    score = past.score[:, rows]
    sure = score > SURE
    seen_now = sure.any(0)
    moments = torch.arange(1, len(score) + 1, device=score.device)[:, None]
    last = torch.where(seen_now, (sure * moments).amax(0) - 1, score.argmax(0))
    found = _sighted(past, rows, last)
    if before is None:
        return found
    remembered = torch.isin(before.ids, found.ids[~seen_now])
    new = ~torch.isin(found.ids, before.ids[remembered])
    return before.select(remembered).joined(found.select(new))


def _sighted(past: Past, rows: Int64[Tensor, " L"], moment: Int64[Tensor, " L"]) -> Sightings:
    """Describe some points, each at a moment of the window."""
    here = past.xy[moment, rows]
    begun = (past.query_frame[rows] - past.start).clamp(min=0)
    earlier = torch.maximum(moment - SPEED_FRAMES, begun)
    speed = (here - past.xy[earlier, rows]) / (moment - earlier).clamp(min=1)[:, None]
    most = min(NEIGHBOURS, len(past.ids))
    neighbours = rows.new_full((len(rows), NEIGHBOURS), -1)
    around = here[:, None].repeat(1, NEIGHBOURS, 1)
    for some in torch.arange(len(rows), device=rows.device).split(ROWS_AT_ONCE):
        everyone = past.xy[moment[some]]  # (l, N, 2)
        apart = (everyone - here[some, None]).norm(dim=-1)
        apart[past.score[moment[some]] <= SURE_NEIGHBOUR] = torch.inf
        apart.scatter_(1, rows[some, None], torch.inf)
        nearest = apart.topk(most, largest=False)
        neighbours[some, :most] = torch.where(nearest.values.isfinite(), past.ids[nearest.indices], -1)
        around[some, :most] = everyone.gather(1, nearest.indices[..., None].expand(-1, -1, 2))
    return Sightings(past.ids[rows], moment + past.start, here, speed, neighbours, around)


def tries(seen: Sightings, past: Past, *, window: int, size: Size) -> Tries:
    """Return where else the window after `past` looks for lost points in a video of this (width, height).

    Nowhere where only what lies outside the picture could be found.
    """
    xy, score = past.xy[past.step :], past.score[past.step :]
    rows, _ = _rows_of(seen.ids, past.ids)
    now, known = _rows_of(seen.neighbours, past.ids)
    counts = known & (score[:, now] > SURE_NEIGHBOUR)  # (T, L, K)
    apart = (seen.around - seen.xy[:, None]).norm(dim=-1)
    unit = apart.where(known, 0)[:, :ALIKE].amax(-1, keepdim=True).clamp(min=NEAR_PX)
    turned, shifted = _led(
        counts * (torch.exp(-((apart / unit) ** 2) / 2) + LEAST_WEIGHT),
        torch.view_as_complex(seen.around),
        torch.view_as_complex(xy[:, now]),
        torch.view_as_complex(seen.xy),
        (STIFFNESS * min(size)) ** 2,
    )
    led = (counts.sum(-1) >= LEAST_NEIGHBOURS).all(0)
    frames = torch.arange(len(xy), device=xy.device)[:, None] + past.start + past.step
    onward = seen.xy + seen.speed * (frames - seen.frame).clamp(max=ONWARD_FRAMES)[..., None]
    places = torch.cat([turned[:, led], shifted[:, led], onward], dim=1)
    in_picture = inside(places, size).any(0)
    places = places[:, in_picture]
    places = torch.cat([places, places[-1:].expand(window - len(places), -1, -1)])
    return Tries(torch.cat([rows[led], rows[led], rows])[in_picture], places)


def _led(
    weight: Float[Tensor, "T L K"],
    then: Complex[Tensor, "L K"],
    now: Complex[Tensor, "T L K"],
    own: Complex[Tensor, " L"],
    stiffness: float,
) -> tuple[Float[Tensor, "T L 2"], Float[Tensor, "T L 2"]]:
    """Move each point as its neighbours have moved since: by the similarity that fits them best, and without its turn.

    Points of the plane as complex numbers, so that a turn and a scale are one factor.
    """
    total = weight.sum(-1).clamp(min=torch.finfo(weight.dtype).tiny)
    middle_then = (weight * then).sum(-1) / total
    middle_now = (weight * now).sum(-1) / total
    x, y = then - middle_then[..., None], now - middle_now[..., None]
    rest = stiffness * total
    factor = ((weight * x.conj() * y).sum(-1) + rest) / ((weight * x.abs().square()).sum(-1) + rest)
    arm = own - middle_then
    return torch.view_as_real(middle_now + factor * arm), torch.view_as_real(middle_now + arm)


def with_tries(points: PointFeatures, prior: Estimate, tried: Tries) -> tuple[PointFeatures, Estimate]:
    """Add the tries behind the points, as copies of theirs that start elsewhere."""
    N = len(points)
    everyone = torch.cat([torch.arange(N, device=tried.rows.device), tried.rows])
    start = prior.select(everyone)
    return points.select(everyone), replace(start, xy=torch.cat([start.xy[:, :, :N], tried.xy[None]], dim=2))


def best(result: Estimate, tried: Tries, frames: int) -> Estimate:
    """Choose for each point what the model trusts most in the first `frames` frames.

    `result` has the points from where they were left, and after them the tries.
    """
    points = result.xy.shape[2] - len(tried.rows)
    trust = (result.visibility * result.confidence)[0, :frames].mean(0)
    own, of_tries = trust[:points], trust[points:]
    highest = own.scatter_reduce(0, tried.rows, of_tries, "amax")[tried.rows]
    won = (of_tries == highest) & (of_tries > own[tried.rows])
    source = torch.arange(points, device=trust.device)
    source[tried.rows[won]] = points + won.nonzero()[:, 0]
    return result.select(source)


def _rows_of(wanted: Int64[Tensor, "*A"], ids: Int64[Tensor, " N"]) -> tuple[Int64[Tensor, "*A"], Bool[Tensor, "*A"]]:
    """Return in which rows of `ids` numbers stand, and whether they do at all."""
    ordered, order = ids.sort()
    place = torch.searchsorted(ordered, wanted).clamp(max=len(ids) - 1)
    return order[place], ordered[place] == wanted
