"""How well predicted tracks agree with the truth: every measure that Pointloom reports, as functions of arrays.

* TAP-Vid (Doersch et al. 2022): which frames count, average Jaccard, position accuracy, occlusion accuracy, and the two
  ways of drawing queries from annotated tracks.
* Endpoint errors: no benchmark fixes them; the definition here is the project's own.
* Dynamic Replica as evaluated with CoTracker (Karaev et al. 2023): accuracy of visible and of hidden points, survival.
* AJ_RD (TAPNext++): how well a point is found again after it was hidden.
* BADJA (Biggs et al. 2018; the rule of PIPs, Harley et al. 2022): animal joints against the size of the animal.
* Mask agreement: for clips that have the mask of one object and no tracks.

One call takes one video. Points come first, then frames, and masks say what is *visible*. A function that has
thresholds in pixels wants positions in the frame of 256 x 256 that `to_evaluation` gives, whatever the size of the
video; BADJA and mask agreement work in pixels of the video itself. Scores are percentages. NaN means that there was
nothing to count, and nothing replaces it. A position that is not a number is wrong, not an error.

Letters: N points, T frames, M queries, K events, D thresholds, H W the frame; 2 is (x, y).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Real

from pointloom import geometry
from pointloom.errors import OptionError

QueryMode = Literal["first", "strided"]
ResizeRule = Literal["area", "aligned"]

EVALUATION_SIZE = (256, 256)  # (width, height): thresholds are pixels of this frame; the aspect ratio is not kept
THRESHOLDS_PX = (1, 2, 4, 8, 16)
QUERY_STRIDE = 5  # frames between the query frames of the mode `strided`

LOST_PX = 50  # Dynamic Replica: a visible point farther away than this has been lost
EMPTY = 1e-6  # Dynamic Replica adds this to each denominator, so that nothing counted gives 0

HIDDEN_FRAMES = (1, 4, 16, 64, 256)  # AJ_RD: classes of how long a point was hidden, each including the longer ones

BADJA_SHARE = 0.2  # BADJA: a joint may be off by this share of the square root of the animal's area
BADJA_SIZE = (512, 384)  # frame in which the finer BADJA measure counts pixels (CoTracker 1)
BADJA_FINE_PX = 3

MASK_GRID = 16  # mask agreement: queries on a side, over the frame and once more over the object
MASK_MARGIN_PX = 3  # queries nearer to the outline than this, in the evaluation frame, are left out

Scores = dict[str, float]


def to_evaluation(xy: Any, size: tuple[int, int], *, rule: ResizeRule = "area") -> Any:
    """Move points from pixels of a video of `size` (width, height) into the frame of 256 x 256.

    `area` holds the corners of the frame in place (TAP-Vid's own rule), `aligned` the centres of its corner pixels
    (CoTracker's). Truth, queries and predictions must take the same rule; mixing the two can cost half a point of AJ.
    """
    if rule == "area":
        return geometry.resize_area(xy, size, EVALUATION_SIZE)
    if rule == "aligned":
        return geometry.resize_aligned(xy, size, EVALUATION_SIZE)
    raise OptionError(f"rule must be 'area' or 'aligned', got {rule!r}.")


# ---------------------------------------------------------------------------------------------------------------------
# TAP-Vid
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SampledQueries:
    """Queries drawn from annotated tracks.

    queries  (frame, x, y), positions as they were given
    track    index of the annotated track that each query belongs to; its truth is `xy[track]`, `visible[track]`
    """

    queries: Float[np.ndarray, "M 3"]
    track: Int[np.ndarray, " M"]


def sample_queries(
    xy: Float[np.ndarray, "N T 2"], visible: Bool[np.ndarray, "N T"], *, mode: QueryMode, stride: int = QUERY_STRIDE
) -> SampledQueries:
    """Draw queries from annotated tracks; a track that can never be seen gives none.

    `first`: one query a track, where it can first be seen. `strided`: in every `stride`-th frame one query for every
    track that can be seen there, ordered by frame and then by track.
    """
    _check_shapes(xy.shape[:-1], visible=visible)
    if mode == "first":
        track = np.flatnonzero(visible.any(axis=1))
        frame = visible[track].argmax(axis=1) if len(track) else track
    elif mode == "strided":
        step, track = np.nonzero(visible[:, ::stride].T)
        frame = step * stride
    else:
        raise _unknown_mode(mode)
    queries = np.column_stack([frame, xy[track, frame]]).astype(xy.dtype)
    return SampledQueries(queries, track)


def evaluated_frames(
    query_frame: Real[np.ndarray, " N"], frames: int, *, mode: QueryMode, valid: Bool[np.ndarray, "N T"] | None = None
) -> Bool[np.ndarray, "N T"]:
    """Say which frames of each track count.

    `first`: those after the query frame. `strided`: all but the query frame. A fractional query frame is rounded to
    the nearest frame, halves to the even one. Frames in which the truth is hidden count (for visibility); those in
    which the annotation cannot be trusted (`valid` is False) do not.
    """
    time = np.arange(frames)
    start = np.round(query_frame).astype(int)[:, None]
    evaluated: np.ndarray
    if mode == "first":
        evaluated = time > start
    elif mode == "strided":
        evaluated = time != start
    else:
        raise _unknown_mode(mode)
    if valid is not None:
        _check_shapes(evaluated.shape, valid=valid)
        evaluated &= valid
    return evaluated


def tapvid(
    predicted: Float[np.ndarray, "N T 2"],
    truth: Float[np.ndarray, "N T 2"],
    *,
    predicted_visible: Bool[np.ndarray, "N T"],
    visible: Bool[np.ndarray, "N T"],
    evaluated: Bool[np.ndarray, "N T"],
) -> Scores:
    """Score one video by TAP-Vid's rules; all points and frames of the video are pooled.

    Positions are in the frame of 256 x 256, `evaluated` comes from `evaluated_frames`.

    oa           share of evaluated frames in which the visibility is right
    delta_<d>    share of visible points strictly nearer than d px, whatever visibility was predicted
    jaccard_<d>  TP / (visible + FP); TP are visible points that are said visible and nearer than d px, FP are points
                 said visible that are hidden or too far away. Said visible and too far is a miss and an FP
    delta_avg    mean of delta_<d> over the five distances
    aj           mean of jaccard_<d> over the five distances

    A score of a data set is the plain mean over its videos. NaN where nothing can be counted (no visible point: delta;
    neither a visible point nor one said visible: jaccard; no counted frame: all).
    """
    scores = _tapvid(
        predicted, truth, predicted_visible=predicted_visible, visible=visible, evaluated=evaluated, axes=(0, 1)
    )
    return {name: float(value) for name, value in scores.items()}


def tapvid_per_track(
    predicted: Float[np.ndarray, "N T 2"],
    truth: Float[np.ndarray, "N T 2"],
    *,
    predicted_visible: Bool[np.ndarray, "N T"],
    visible: Bool[np.ndarray, "N T"],
    evaluated: Bool[np.ndarray, "N T"],
) -> dict[str, Float[np.ndarray, " N"]]:
    """Score each track by itself, as `tapvid` does a video. The mean over tracks is not the score of the video."""
    return _tapvid(
        predicted, truth, predicted_visible=predicted_visible, visible=visible, evaluated=evaluated, axes=(1,)
    )


def _tapvid(
    predicted: Float[np.ndarray, "N T 2"],
    truth: Float[np.ndarray, "N T 2"],
    *,
    predicted_visible: Bool[np.ndarray, "N T"],
    visible: Bool[np.ndarray, "N T"],
    evaluated: Bool[np.ndarray, "N T"],
    axes: tuple[int, ...],
) -> dict[str, Any]:
    """Count over `axes`: (0, 1) pools a video, (1,) keeps the tracks apart."""
    squared = _squared_distance(predicted, truth)
    _check_shapes(squared.shape, predicted_visible=predicted_visible, visible=visible, evaluated=evaluated)
    counted = evaluated & visible
    delta, jaccard = [], []
    for threshold in THRESHOLDS_PX:
        near = squared < threshold**2
        delta.append(_percent((counted & near).sum(axis=axes), counted.sum(axis=axes)))
        jaccard.append(_jaccard(near, visible, predicted_visible, evaluated, axes))
    agreement = (evaluated & (visible == predicted_visible)).sum(axis=axes)
    return {
        "aj": np.mean(jaccard, axis=0),
        "delta_avg": np.mean(delta, axis=0),
        "oa": _percent(agreement, evaluated.sum(axis=axes)),
        **{f"delta_{d}": value for d, value in zip(THRESHOLDS_PX, delta, strict=True)},
        **{f"jaccard_{d}": value for d, value in zip(THRESHOLDS_PX, jaccard, strict=True)},
    }


def _jaccard(
    near: Bool[np.ndarray, "..."],
    visible: Bool[np.ndarray, "..."],
    predicted_visible: Bool[np.ndarray, "..."],
    evaluated: Bool[np.ndarray, "..."],
    axes: tuple[int, ...],
) -> Any:
    """Percentage TP / (visible + FP) over `axes`, see `tapvid`."""
    claimed = evaluated & predicted_visible
    right = visible & near
    present = (evaluated & visible).sum(axis=axes)
    return _percent((claimed & right).sum(axis=axes), present + (claimed & ~right).sum(axis=axes))


# ---------------------------------------------------------------------------------------------------------------------
# Endpoint errors (project definition)
# ---------------------------------------------------------------------------------------------------------------------


def endpoint_errors(
    predicted: Float[np.ndarray, "N T 2"],
    truth: Float[np.ndarray, "N T 2"],
    *,
    visible: Bool[np.ndarray, "N T"],
    evaluated: Bool[np.ndarray, "N T"],
) -> Scores:
    """Distances to the truth in pixels of 256 x 256, pooled over a video. Not a percentage, and a project definition.

    epe, epe_median  mean and median over evaluated frames in which the truth is visible
    epe_all          mean over all evaluated frames; means something only if the truth is known where it is hidden
    """
    distance = np.sqrt(_squared_distance(predicted, truth))
    _check_shapes(distance.shape, visible=visible, evaluated=evaluated)
    seen, all_of_them = distance[evaluated & visible], distance[evaluated]
    return {
        "epe": float(seen.mean()) if seen.size else np.nan,
        "epe_median": float(np.median(seen)) if seen.size else np.nan,
        "epe_all": float(all_of_them.mean()) if all_of_them.size else np.nan,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Dynamic Replica
# ---------------------------------------------------------------------------------------------------------------------


def dynamic_replica(
    predicted: Float[np.ndarray, "N T 2"], truth: Float[np.ndarray, "N T 2"], *, visible: Bool[np.ndarray, "N T"]
) -> Scores:
    """Score one video by the rules used for Dynamic Replica. Predicted visibility plays no part.

    Positions are in the frame of 256 x 256 by the rule `aligned`. The truth must be known where a point is hidden.

    delta_visible, delta_occluded, delta_all  share of points strictly nearer than 1, 2, 4, 8, 16 px, mean of the five
                 (`_<d>`: of one), over frames after the point was first visible. 0, not NaN, where nothing is counted
    survival     mean share of a track's frames before it is lost; it is lost at the first visible frame in which it is
                 more than 50 px away, and for good
    """
    distance = np.sqrt(_squared_distance(predicted, truth))
    _check_shapes(distance.shape, visible=visible)
    time = np.arange(distance.shape[1])
    first = visible.argmax(axis=1) if time.size else np.zeros(len(visible), int)  # 0 for a point never visible
    started = time > first[:, None]
    groups = {"visible": started & visible, "occluded": started & ~visible, "all": started}

    scores: Scores = {}
    for group, counted in groups.items():
        shares = [100 * (counted & (distance < d)).sum() / (EMPTY + counted.sum()) for d in THRESHOLDS_PX]
        scores[f"delta_{group}"] = float(np.mean(shares))
        scores |= {f"delta_{group}_{d}": float(share) for d, share in zip(THRESHOLDS_PX, shares, strict=True)}
    lost = np.logical_or.accumulate(visible & (distance > LOST_PX), axis=1)
    scores["survival"] = float(_percent((~lost).sum(), lost.size))
    return scores


# ---------------------------------------------------------------------------------------------------------------------
# AJ_RD: being found again
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reappearances:
    """Moments at which points of a video come back after being hidden for longer than ever before.

    point, frame  which point comes back, and the first frame in which it is visible again
    hidden        for how many frames it was hidden just before
    jaccard       percentage for each distance of `THRESHOLDS_PX`, from `frame` to the end of the video
    """

    point: Int[np.ndarray, " K"]
    frame: Int[np.ndarray, " K"]
    hidden: Int[np.ndarray, " K"]
    jaccard: Float[np.ndarray, "K D"]


def reappearances(
    predicted: Float[np.ndarray, "N T 2"],
    truth: Float[np.ndarray, "N T 2"],
    *,
    predicted_visible: Bool[np.ndarray, "N T"],
    visible: Bool[np.ndarray, "N T"],
    valid: Bool[np.ndarray, "N T"] | None = None,
) -> Reappearances:
    """Find and score the re-appearances of one video, ordered by frame and then by point.

    Of a track's re-appearances only those count whose hidden stretch is longer than all earlier ones. A point hidden
    from frame 0 has been hidden since frame 0; where its first appearance is the query, set `valid` to False before
    it. A distance equal to the threshold is near enough here, unlike in TAP-Vid. Positions are in the frame of
    256 x 256. Frames that are not `valid` end a hidden stretch and are not scored (the published measure has no such
    frames).
    """
    squared = _squared_distance(predicted, truth)
    valid = np.ones(squared.shape, bool) if valid is None else valid
    _check_shapes(squared.shape, predicted_visible=predicted_visible, visible=visible, valid=valid)
    N, T = squared.shape
    hidden = valid & ~visible
    events: list[tuple[int, int, int]] = []  # (point, frame, frames hidden)
    stretch, longest = np.zeros(N, int), np.zeros(N, int)
    for t in range(T):
        back = valid[:, t] & visible[:, t] & (stretch > longest)
        events += [(int(n), t, int(stretch[n])) for n in np.flatnonzero(back)]
        longest = np.where(back, stretch, longest)
        stretch = np.where(hidden[:, t], stretch + 1, 0)
    point, frame, length = np.array(events, int).reshape(-1, 3).T

    thresholds = np.array(THRESHOLDS_PX)[:, None]
    jaccard = [
        _jaccard(np.sqrt(squared[n, t:]) <= thresholds, visible[n, t:], predicted_visible[n, t:], valid[n, t:], (-1,))
        for n, t in zip(point, frame, strict=True)
    ]
    return Reappearances(point, frame, length, np.array(jaccard, float).reshape(-1, len(THRESHOLDS_PX)))


def aj_rd(videos: Sequence[Reappearances]) -> Scores:
    """Pool the re-appearances of videos into AJ_RD.

    aj_rd_hidden_<f>_within_<d>  mean Jaccard at d px over points that were hidden for f frames or more
    aj_rd_hidden_<f>             mean over the five distances
    aj_rd                        mean over those f (1, 4, 16, 64, 256) for which there is a re-appearance

    NaN where there is none. The publication names no mean over videos: all those of one call are pooled.
    """
    hidden = np.concatenate([video.hidden for video in videos]) if videos else np.zeros(0, int)
    jaccard = np.concatenate([video.jaccard for video in videos]) if videos else np.zeros((0, len(THRESHOLDS_PX)))
    by_length: Scores = {}
    by_distance: Scores = {}
    for frames in HIDDEN_FRAMES:
        chosen = jaccard[hidden >= frames]
        means = chosen.mean(axis=0) if len(chosen) else np.full(len(THRESHOLDS_PX), np.nan)
        by_length[f"aj_rd_hidden_{frames}"] = float(means.mean())
        for d, mean in zip(THRESHOLDS_PX, means, strict=True):
            by_distance[f"aj_rd_hidden_{frames}_within_{d}"] = float(mean)
    known = [value for value in by_length.values() if not np.isnan(value)]
    return {"aj_rd": float(np.mean(known)) if known else np.nan, **by_length, **by_distance}


# ---------------------------------------------------------------------------------------------------------------------
# BADJA: animal joints
# ---------------------------------------------------------------------------------------------------------------------


def badja(
    predicted: Float[np.ndarray, "N T 2"],
    truth: Float[np.ndarray, "N T 2"],
    *,
    visible: Bool[np.ndarray, "N T"],
    area: Real[np.ndarray, " T"],
    evaluated: Bool[np.ndarray, "N T"],
    size: tuple[int, int],
) -> Scores:
    """Score animal joints of one video. Positions are pixels of the video, whose `size` is (width, height).

    badja      share of visible joints nearer than 0.2 * sqrt(area), `area` being the animal's pixels in that frame
    badja_3px  share nearer than 3 px when the frame is 512 x 384 (CoTracker 1)

    Frames without a known area (NaN) are left out of `badja`. As published, all joints start in the first annotated
    frame and `evaluated` marks the annotated frames after it. Predicted visibility plays no part.
    """
    squared = _squared_distance(predicted, truth)
    _check_shapes(squared.shape, visible=visible, evaluated=evaluated)
    _check_shapes(squared.shape[1:], area=area)
    counted = evaluated & visible
    measured = counted & np.isfinite(area)
    near = np.sqrt(squared) < BADJA_SHARE * np.sqrt(area)
    fine = _squared_distance(
        geometry.resize_area(predicted, size, BADJA_SIZE), geometry.resize_area(truth, size, BADJA_SIZE)
    )
    return {
        "badja": float(_percent((measured & near).sum(), measured.sum())),
        "badja_3px": float(_percent((counted & (fine < BADJA_FINE_PX**2)).sum(), counted.sum())),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Mask agreement
# ---------------------------------------------------------------------------------------------------------------------


def mask_queries(mask: Bool[np.ndarray, "H W"]) -> tuple[Float32[np.ndarray, "N 2"], Bool[np.ndarray, " N"]]:
    """Choose points of a frame to track for mask agreement: positions, and whether each lies on the object.

    Cell centres of a 16 x 16 grid over the frame and of one over the bounding box of the object; those within 3 px of
    the outline (in the frame of 256 x 256) are left out. Positions are pixels of the mask.
    """
    H, W = mask.shape
    boxes = [(0, W, 0, H)]
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if columns.size:
        boxes.append((columns[0], columns[-1] + 1, rows[0], rows[-1] + 1))
    cell = (np.arange(MASK_GRID) + 0.5) / MASK_GRID
    grids = [np.stack(np.meshgrid(x0 + cell * (x1 - x0), y0 + cell * (y1 - y0)), axis=-1) for x0, x1, y0, y1 in boxes]
    raster = np.concatenate([grid.reshape(-1, 2) for grid in grids])
    column, row = np.floor(raster).astype(int).T
    kept = ~_near_outline(mask, column, row)
    return geometry.from_raster(raster[kept]).astype(np.float32), mask[row[kept], column[kept]]


def mask_agreement(
    masks: Bool[np.ndarray, "T H W"],
    xy: Float[np.ndarray, "N T 2"],
    *,
    predicted_visible: Bool[np.ndarray, "N T"],
    on_object: Bool[np.ndarray, " N"],
) -> Scores:
    """Score tracks of points queried in frame 0 by the mask of one object; frame 0 is not counted.

    Positions are pixels of the masks; a position is right if it lies on the same side (object or background) as its
    query did. Outside the frame is wrong.

    a_obj, a_bg  of the positions said visible, the share that is right, for points of the object and the background;
                 0 if none is said visible
    s_obj, s_bg  share of positions said visible
    y_obj        share of positions said visible and right, for points of the object in frames that show the object
    ma           mean of a_obj and a_bg
    mf           harmonic mean of ma and y_obj

    Sees neither sliding within the object nor drift within the background: a check, never a replacement for tracks.
    """
    T, H, W = masks.shape
    _check_shapes((len(on_object), T), predicted_visible=predicted_visible)
    _check_shapes((*predicted_visible.shape, 2), xy=xy)
    column, row = np.moveaxis(np.floor(geometry.to_raster(xy)), -1, 0)
    inside = (column >= 0) & (column < W) & (row >= 0) & (row < H)
    at = np.where(inside, row, 0).astype(int), np.where(inside, column, 0).astype(int)
    right = predicted_visible & inside & (masks[np.arange(T), *at] == on_object[:, None])
    right, said = right[:, 1:], predicted_visible[:, 1:]
    shown = masks[1:].any(axis=(1, 2))

    scores: Scores = {}
    for side, points in (("obj", on_object), ("bg", ~on_object)):
        counted = max(said[points].sum(), 1) if said[points].size else 0
        scores[f"a_{side}"] = float(_percent(right[points].sum(), counted))
        scores[f"s_{side}"] = float(_percent(said[points].sum(), said[points].size))
    found = right[on_object][:, shown]
    scores["y_obj"] = float(_percent(found.sum(), found.size))
    scores["ma"] = (scores["a_obj"] + scores["a_bg"]) / 2
    both = scores["ma"] + scores["y_obj"]
    scores["mf"] = 2 * scores["ma"] * scores["y_obj"] / both if both != 0 else 0.0
    return scores


def _near_outline(
    mask: Bool[np.ndarray, "H W"], column: Int[np.ndarray, " N"], row: Int[np.ndarray, " N"]
) -> Bool[np.ndarray, " N"]:
    """Whether a pixel of the other label lies nearer than the margin, measured in the evaluation frame."""
    H, W = mask.shape
    scale_x, scale_y = EVALUATION_SIZE[0] / W, EVALUATION_SIZE[1] / H
    reach_x, reach_y = int(MASK_MARGIN_PX / scale_x), int(MASK_MARGIN_PX / scale_y)
    dx, dy = np.meshgrid(np.arange(-reach_x, reach_x + 1), np.arange(-reach_y, reach_y + 1))
    near = (dx * scale_x) ** 2 + (dy * scale_y) ** 2 < MASK_MARGIN_PX**2
    columns, rows = column[:, None] + dx[near], row[:, None] + dy[near]  # (N, neighbours)
    # a neighbour outside the frame stands for the border pixel beside it, which is nearer still and looked at anyway
    labels = mask[rows.clip(0, H - 1), columns.clip(0, W - 1)]
    differs: np.ndarray = labels != mask[row, column][:, None]
    return np.logical_or.reduce(differs, axis=1)


# ---------------------------------------------------------------------------------------------------------------------
# Shared by all
# ---------------------------------------------------------------------------------------------------------------------


def _squared_distance(
    predicted: Float[np.ndarray, "N T 2"], truth: Float[np.ndarray, "N T 2"]
) -> Float[np.ndarray, "N T"]:
    """Squared distances in the precision of the input, as in TAP-Vid; too large becomes infinite."""
    _check_shapes(truth.shape, predicted=predicted)
    with np.errstate(over="ignore", invalid="ignore"):
        squared: np.ndarray = ((predicted - truth) ** 2).sum(axis=-1)
    return squared


def _percent(part: Any, whole: Any) -> Any:
    """100 * part / whole; NaN for 0 / 0."""
    with np.errstate(invalid="ignore"):
        return 100 * (np.asarray(part, float) / np.asarray(whole, float))


def _check_shapes(expected: tuple[int, ...], **arrays: np.ndarray) -> None:
    """Refuse arrays that NumPy would silently stretch to fit."""
    for name, array in arrays.items():
        if array.shape != expected:
            raise OptionError(
                f"{name} has shape {array.shape}, but the other arrays ask for {expected}. "
                f"Points come first, then frames."
            )


def _unknown_mode(mode: str) -> OptionError:
    return OptionError(f"mode must be 'first' or 'strided', got {mode!r}.")
