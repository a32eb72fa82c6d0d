"""The predictors with which CoTracker's authors published their numbers, rule by rule (Karaev et al. 2023, 2024).

They are here for parity: a table of this project stands beside a published one only if every hidden choice is the same
(support points, thresholds, what is forced at the query frame). The evaluation protocols call them. For anything else
use `Tracker` and `Stream`, whose choices are better: here a point that starts later influences the ones before it,
support points all lie in frame 0, and confidence is sometimes dropped.

    track_offline              the demo and `cotracker3_offline`: queries, a grid, a masked grid, or every pixel
    begin_online, step_online  `cotracker3_online`: a stream; also the online rows of the published tables
    track_online               the same over a whole video
    evaluate_one_by_one        the offline rows of the published tables: each query with support points of its own
    evaluate_jointly           the faster protocol of the evaluation script: all queries at once

Queries are (frame, x, y) in pixels of the video and may lie anywhere; a fractional frame is cut to an integer. All run
six iterations. Frames are encoded once, also where the original encodes them again (backward pass, dense points, one
query at a time, overlap of a stream). Grids are laid out in *model pixels*: of the frames as the network sees them.

CoTracker v2 has the same predictors. It gives no confidence, so that a product with it is the visibility alone, and no
numbers are published of it for `evaluate_one_by_one`, which the original cannot run.

Axes: B videos, T frames, N points, M points with those added for support.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from pointloom.errors import OptionError
from pointloom.geometry import resize_aligned
from pointloom.models.base import Estimate, FrameFeatures, Model, PointFeatures
from pointloom.models.cotracker2 import CoTracker2
from pointloom.models.cotracker3 import CoTracker3
from pointloom.queries.grid import grid_points
from pointloom.tracking.windows import WindowResult, carried, run_window, walk
from pointloom.tracks import SEEN_RULES

ITERATIONS = 6
OFFLINE_VISIBILITY = SEEN_RULES["cotracker3-offline"].threshold  # visible above it, whatever the confidence
ONLINE_PRODUCT = SEEN_RULES["cotracker3-online"].threshold  # visible where visibility x confidence lies above it
SUPPORT_GRID = 6  # points a side
GLOBAL_GRID = 5
LOCAL_GRID = 8
LOCAL_EXTENT = 50.0  # model pixels
DENSE_COLUMNS = 80  # at least so many points side by side in one run of the dense mode
ENCODED_AT_ONCE = 32  # frames; bounds memory, changes nothing

CoTracker = CoTracker2 | CoTracker3
Frames = UInt8[Tensor, "B T H W 3"] | Float[Tensor, "B T H W 3"]


@dataclass(frozen=True)
class SeenTracks:
    """Positions in pixels of the video, and whether the point is visible there by the predictor's rule."""

    xy: Float[Tensor, "B T N 2"]
    visible: Bool[Tensor, "B T N"]


# --------------------------------------------------------------------------------------------------- the whole video


def encoded(model: Model, frames: Frames) -> FrameFeatures:
    """Encode a whole video, some frames at a time."""
    starts = range(0, frames.shape[1], ENCODED_AT_ONCE)
    return FrameFeatures.join([model.encode(frames[:, a : a + ENCODED_AT_ONCE], start=a) for a in starts])


def whole_video(
    model: Model, features: FrameFeatures, points: PointFeatures, *, iterations: int = ITERATIONS
) -> Estimate:
    """Track over all frames as the model was released: at once, or window by window.

    A windowed model is not run on a video of at most `step` frames: positions are then (0, 0) and both logits 0.
    """
    if model.info.modes[0] != "windowed":
        return model.refine(features, points, iterations=iterations)
    window, step, frames = model.info.window, model.info.step, len(features)
    if frames <= step:
        return _untracked(points.queries, frames)
    windows = list(walk(model, features, points, window=window, step=step, iterations=iterations))
    return _assembled(windows, frames)


def _untracked(queries: Float[Tensor, "B N 3"], frames: int) -> Estimate:
    return Estimate.at_queries(torch.zeros_like(queries), frames)


def _assembled(windows: list[WindowResult], frames: int) -> Estimate:
    """Put windows together: where two overlap the later one counts, and what pads the video is dropped."""
    until = [*(window.start for window in windows[1:]), frames]
    parts = [window.result.frames(0, stop - window.start) for window, stop in zip(windows, until, strict=True)]
    return Estimate.join(parts, axis="frames")


# -------------------------------------------------------------------------------------------------- grids of queries


def grid_queries(
    grid_size: int,
    *,
    size: tuple[int, int],
    seen: tuple[int, int],
    frame: int = 0,
    mask: Bool[Tensor, "H W"] | None = None,
) -> Float[Tensor, "1 N 3"]:
    """Lay a grid over a frame as the network sees it; return its points, or those on the mask, as queries of one video.

    `size` is (width, height) of the video, `seen` that of the frames as the network sees them.
    """
    width, height = seen
    points = torch.from_numpy(grid_points(grid_size, (height, width)))  # (N, 2), model pixels
    if mask is not None:
        # nearest pixel by the older rule, floor(i * old / new), looked up at coordinates rounded half to even
        resized = F.interpolate(mask[None, None].double().cpu(), size=(height, width), mode="nearest")[0, 0]
        column, row = points.round().long().unbind(-1)
        points = points[resized[row, column] != 0]
    return _in_frame(resize_aligned(points, seen, size), frame)


def dense_queries(size: tuple[int, int], frame: int) -> list[Float[Tensor, "1 N 3"]]:
    """Every pixel as a query, in interleaved grids: each run of the model sees points all over the frame.

    Where width or height are no multiple of the spacing, the last few columns or rows are left out. Raises OptionError
    for a video narrower than 80 pixels.
    """
    width, height = size
    spacing = width // DENSE_COLUMNS
    if spacing == 0:
        raise OptionError(
            f"dense tracking needs a video at least {DENSE_COLUMNS} pixels wide, got {width}. "
            f"Enlarge the video, or pass queries or a grid_size."
        )
    y, x = torch.meshgrid(torch.arange(height // spacing), torch.arange(width // spacing), indexing="ij")
    corners = torch.stack([x.flatten(), y.flatten()], dim=-1) * spacing
    offsets = [(k % spacing, k // spacing) for k in range(spacing**2)]
    return [_in_frame((corners + torch.tensor(offset)).double(), frame) for offset in offsets]


def _in_frame(xy: Float[Tensor, "N 2"], frame: int) -> Float[Tensor, "1 N 3"]:
    return F.pad(xy, (1, 0), value=frame)[None]


def _suited(queries: Float[Tensor, "A N 3"], features: FrameFeatures) -> Float[Tensor, "B N 3"]:
    """Bring queries to the type and device of the features, and queries of one video to every video of a batch."""
    maps = features.maps[0]
    return queries.to(maps).expand(len(maps), -1, -1)


# ------------------------------------------------------------------------------------------------- offline predictor


@torch.inference_mode()
def track_offline(
    model: Model,
    frames: Frames,
    queries: Float[Tensor, "B N 3"] | None = None,
    *,
    grid_size: int = 0,
    grid_frame: int = 0,
    mask: Bool[Tensor, "H W"] | None = None,
    backward: bool = False,
) -> SeenTracks:
    """Track queries, or a grid of grid_size x grid_size points in frame `grid_frame`, or (with neither) every pixel.

    Given queries win over a grid. `mask` keeps the points of the grid that lie on it. Queries by themselves and masked
    grids are joined by 6 x 6 support points in frame 0. With `backward`, frames before a query come from a second run
    on the reversed video; without, from the same run as those after it. In its own frame a point lies at its query and
    is visible. Raises OptionError where every pixel of a video narrower than 80 pixels is asked for.
    """
    features = encoded(model, frames)
    mirrored = features.reversed() if backward else None
    size, seen = features.size, features.input
    if queries is None and not grid_size:
        parts = [_offline(model, features, mirrored, _suited(q, features)) for q in dense_queries(size, grid_frame)]
        return SeenTracks(torch.cat([p.xy for p in parts], dim=2), torch.cat([p.visible for p in parts], dim=2))
    support = None
    if not grid_size or mask is not None:
        support = _suited(grid_queries(SUPPORT_GRID, size=size, seen=seen), features)
    if queries is None:
        queries = grid_queries(grid_size, size=size, seen=seen, frame=grid_frame, mask=mask)
    return _offline(model, features, mirrored, _suited(queries, features), support)


def _offline(
    model: Model,
    features: FrameFeatures,
    mirrored: FrameFeatures | None,
    queries: Float[Tensor, "B N 3"],
    support: Float[Tensor, "B S 3"] | None = None,
) -> SeenTracks:
    """One run, or two if there are mirrored features, and what the predictor makes of them."""
    asked = slice(queries.shape[1])
    joined = queries if support is None else torch.cat([queries, support], dim=1)  # (B, M, 3)
    forth = whole_video(model, features, model.describe(features, joined)).select(asked)
    frame = torch.arange(len(features), device=queries.device)[None, :, None]
    asked_in = queries[:, None, :, 0].long()  # (B, 1, N)
    xy, visibility = forth.xy, forth.visibility
    if mirrored is not None:
        # a frame is cut to an integer after it was mirrored: 5.7 of 12 is frame 5 on the way there, 6 on the way back
        joined = torch.cat([len(features) - 1 - joined[..., :1], joined[..., 1:]], dim=-1)
        back = whole_video(model, mirrored, model.describe(mirrored, joined)).select(asked).reversed()
        before = frame < asked_in
        xy = torch.where(before[..., None], back.xy, xy)
        visibility = torch.where(before, back.visibility, visibility)
    at_query = frame == asked_in
    xy = torch.where(at_query[..., None], queries[:, None, :, 1:], xy)
    return SeenTracks(xy, (visibility > OFFLINE_VISIBILITY) | at_query)


# -------------------------------------------------------------------------------------------------- online predictor


@dataclass(frozen=True)
class OnlineState:
    """Everything the online predictor knows between two chunks. Only the stored results grow with the stream.

    queries   points asked for, then support points; their frames count from the start of the stream
    asked     how many of them were asked for
    start     first frame of the next window
    features  of those of its frames that have come already; None before the first chunk, like what follows
    support   features around each query, zero for those that lie ahead
    previous  result of the last window
    stored    the latest result for every frame so far, support points included
    """

    queries: Float[Tensor, "B M 3"]
    asked: int
    start: int = 0
    features: FrameFeatures | None = None
    support: tuple[Float[Tensor, "B M P P C"], ...] | None = None
    previous: Estimate | None = None
    stored: Estimate | None = None


def begin_online(
    model: CoTracker,
    size: tuple[int, int],
    queries: Float[Tensor, "B N 3"] | None = None,
    *,
    grid_size: int = 5,
    grid_frame: int = 0,
    support_grid: bool = False,
) -> OnlineState:
    """Return the state before the first frame of a stream whose frames have this (width, height).

    Without queries a grid of grid_size x grid_size points in frame `grid_frame` is tracked (one video, B = 1).
    `support_grid` adds 6 x 6 points in frame 0 to given queries.
    """
    seen = model.input_size(size)
    if queries is None:
        grid = grid_queries(grid_size, size=size, seen=seen, frame=grid_frame)
        return OnlineState(grid, asked=grid.shape[1])
    asked = queries.shape[1]
    if support_grid:
        support = grid_queries(SUPPORT_GRID, size=size, seen=seen).to(queries.device)
        queries = torch.cat([queries.double(), support.expand(len(queries), -1, -1)], dim=1)
    return OnlineState(queries, asked)


@torch.inference_mode()
def step_online(model: Model, state: OnlineState, frames: Frames) -> tuple[OnlineState, SeenTracks]:
    """Take the next frames of a stream and return the new state and the tracks over all frames so far.

    The first chunk has `window` frames and every other one `step`; a shorter one ends the stream. (The original takes
    the overlap with the chunk before a second time and encodes it again.) Raises OptionError for a chunk that is too
    long, is empty, or comes after the end.
    """
    window, step = model.info.window, model.info.step
    overlap = 0 if state.features is None else len(state.features)
    if state.previous is not None and overlap < window - step:
        raise OptionError("the stream has ended: the last chunk was a short one. Begin another with begin_online.")
    if not 0 < frames.shape[1] <= window - overlap:
        raise OptionError(f"the next chunk must have 1..{window - overlap} frames, got {frames.shape[1]}.")
    new = model.encode(frames, start=state.start + overlap)
    features = new if state.features is None else FrameFeatures.join([state.features, new])

    padded = features.padded(window)
    points = model.describe(padded, _suited(state.queries, features))
    if state.support is not None:
        known = points.frame < state.start + overlap
        support = zip(state.support, points.support, strict=True)
        points = replace(points, support=tuple(torch.where(known[..., None, None, None], a, b) for a, b in support))
    prior = carried(state.previous, points, state.start, window, step)
    result = run_window(model, padded, points, prior, iterations=ITERATIONS).result
    stored = result.frames(0, len(features))
    if state.stored is not None:
        stored = Estimate.join([state.stored.frames(0, state.start), stored], axis="frames")

    start = state.start + step
    kept = features.between(min(start, features.stop), features.stop)
    state = replace(state, start=start, features=kept, support=points.support, previous=result, stored=stored)
    return state, _seen_online(stored.select(slice(state.asked)))


@torch.inference_mode()
def track_online(
    model: CoTracker, frames: Frames, queries: Float[Tensor, "B N 3"] | None = None, *, grid_size: int = 5
) -> SeenTracks:
    """Stream a whole video as the official evaluation of the online model does: all queries at once, no support points.

    A video of at most `step` frames is not tracked at all: every position is (0, 0) and nothing is visible.
    """
    window, step, total = model.info.window, model.info.step, frames.shape[1]
    state = begin_online(model, (frames.shape[3], frames.shape[2]), queries, grid_size=grid_size)
    if total <= step:
        return _seen_online(_untracked(state.queries, total))
    for start, stop in pairwise([0, *range(window, total, step), total]):
        state, answer = step_online(model, state, frames[:, start:stop])
    return answer


def _seen_online(estimate: Estimate) -> SeenTracks:
    return SeenTracks(estimate.xy, estimate.visibility * estimate.confidence > ONLINE_PRODUCT)


# ---------------------------------------------------------------------------------------------- evaluation predictor


@torch.inference_mode()
def evaluate_jointly(model: Model, frames: Frames, queries: Float[Tensor, "B N 3"]) -> Estimate:
    """Track all queries in one run, with 5 x 5 support points in frame 0.

    Published scores count a point as visible where visibility x confidence lies above 0.6 (`ONLINE_PRODUCT`).
    """
    features = encoded(model, frames)
    queries = _suited(queries, features)
    points = model.describe(features, torch.cat([queries, _global_queries(features)], dim=1))
    return whole_video(model, features, points).select(slice(queries.shape[1]))


@torch.inference_mode()
def evaluate_one_by_one(model: Model, frames: Frames, queries: Float[Tensor, "B N 3"]) -> Estimate:
    """Track each query in a run of its own, with 8 x 8 support points within 25 model pixels and 5 x 5 over the frame.

    All support points lie in frame 0, also those around a query on a later frame, and they may lie outside the image.
    Visible: see `evaluate_jointly`.
    """
    features = encoded(model, frames)
    queries = _suited(queries, features)
    around = torch.from_numpy(grid_points(LOCAL_GRID, (LOCAL_EXTENT, LOCAL_EXTENT), centre=(0, 0)))
    around = _suited(_in_frame(resize_aligned(around, features.input, features.size), 0), features)
    everywhere = model.describe(features, _global_queries(features))
    estimates = [Estimate.at_queries(queries[:, :0], len(features))]
    for n in range(queries.shape[1]):
        query = queries[:, n : n + 1]
        nearby = around + F.pad(query[..., 1:], (1, 0))  # in frame 0
        own = model.describe(features, torch.cat([query, nearby], dim=1))
        estimates.append(whole_video(model, features, PointFeatures.join([own, everywhere])).select(slice(1)))
    return Estimate.join(estimates, axis="points")


def _global_queries(features: FrameFeatures) -> Float[Tensor, "B S 3"]:
    return _suited(grid_queries(GLOBAL_GRID, size=features.size, seen=features.input), features)
