"""Scores from stored predictions and the truth; no model is needed.

One pass over the data set scores each clip by itself; `summarise` then makes the means, intervals, comparisons, curves
and calibration of a report. Kinds of truth are kept apart: points (TAP-Vid's scores), trajectories (those of Dynamic
Replica), joints of animals (BADJA) and masks. `all` and `mean of groups` are over clips with points alone.

A clip in which a score cannot be computed, because nothing in it can be counted, is named in the row and is not in the
mean. (The published evaluations take a plain mean, which such a clip turns into NaN as a whole.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, islice
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from pointloom import geometry
from pointloom.datasets.clip import AnnotatedClip, Clip, JointClip, MaskedClip
from pointloom.datasets.clips import group_of
from pointloom.datasets.registry import Dataset
from pointloom.errors import DatasetError
from pointloom.evaluation import profiles
from pointloom.evaluation.metrics import (
    EVALUATION_SIZE,
    HIDDEN_FRAMES,
    QueryMode,
    Reappearances,
    Scores,
    badja,
    dynamic_replica,
    endpoint_errors,
    evaluated_frames,
    mask_agreement,
    reappearances,
    tapvid,
)
from pointloom.evaluation.predict import (
    JOINTS,
    PredictionStore,
    Progress,
    Question,
    about_clip,
    count,
    questions,
    unique,
)
from pointloom.evaluation.profiles import Profile, Reliability, frames_since_reappearance, profile, reliability
from pointloom.evaluation.protocols import Protocol
from pointloom.evaluation.results import (
    ALL,
    COMPARED,
    GROUPS,
    HEADLINES,
    PIXEL_METRICS,
    Calibration,
    Curve,
    Difference,
    Kind,
    Results,
    Row,
    VideoScores,
)
from pointloom.evaluation.statistics import SEED, Interval, draws, interval, mean, mean_of_groups
from pointloom.tracks import Tracks

LEAST_MASK_QUERIES = 10  # on the object; with fewer, mask agreement is left to chance

LOWER_ENDS = {
    "since_query": profiles.SINCE_QUERY,
    "displacement": profiles.DISPLACEMENT,
    "since_reappearance": profiles.SINCE_REAPPEARANCE,
}


# ---------------------------------------------------------------------------------------------------------------------
# One clip
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoundAgain:
    """Jaccard of the re-appearances of one video, added up by how long points were hidden; see `metrics.aj_rd`."""

    jaccard: Float[np.ndarray, "F D"]
    events: Int[np.ndarray, " F"]


@dataclass(frozen=True)
class ClipScore:
    """Everything that is counted in one clip for one model."""

    scores: VideoScores
    weights: str | None
    found_again: FoundAgain | None = None
    profiles: dict[str, Profile] = field(default_factory=dict)
    reliability: dict[str, Reliability] = field(default_factory=dict)


def score(
    dataset: Dataset,
    models: Sequence[str],
    protocol: Protocol,
    store: PredictionStore,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> list[ClipScore]:
    """Score the stored predictions of some models, by name. Raises FormatError where one is missing or does not fit."""
    scored: list[ClipScore] = []
    made_by: dict[str, Any] = {}
    total = count(dataset, limit)
    for finished, clip in enumerate(unique(islice(dataset, limit))):
        if progress is not None:
            progress(finished, total)
        asked = questions(clip, protocol)
        about = [about_clip(clip, protocol, question.mode) for question in asked]
        for model in models:
            answers = []
            for question, fields in zip(asked, about, strict=True):
                tracks = store.load(model, clip.name, question, {**fields, **made_by.get(model, {})})
                made_by.setdefault(model, {key: tracks.meta[key] for key in ("model", "pointloom")})  # all by the same
                answers.append(tracks)
            scored.append(score_clip(clip, model, protocol, asked, answers))
    return scored


def score_clip(
    clip: Clip, model: str, protocol: Protocol, asked: Sequence[Question], answers: Sequence[Tracks]
) -> ClipScore:
    """Score one clip. `answers` are what was tracked for each question, in order."""
    weights = answers[0].meta["model"]["weights"]
    kind: Kind
    if isinstance(clip, MaskedClip):
        kind, scores = "masks", _mask_scores(clip, protocol, asked[0], answers[0])
    elif protocol.scoring == "dynamic-replica":
        kind, scores = "trajectories", _trajectory_scores(clip, protocol, asked[0], answers[0])
    elif isinstance(clip, JointClip):
        kind, scores = "joints", _joint_scores(clip, protocol, asked, answers)
    else:
        pairs = _compare(clip, protocol, asked[0], answers[0])
        own = VideoScores(
            clip.name, group_of(clip.name), "points", model, asked[0].mode, {**pairs.tapvid(), **pairs.endpoints()}
        )
        return ClipScore(own, weights, pairs.found_again(), pairs.profiles(), pairs.reliability())
    return ClipScore(VideoScores(clip.name, group_of(clip.name), kind, model, asked[0].mode, scores), weights)


@dataclass(frozen=True)
class _Pairs:
    """Predicted and true positions side by side; one row a query. Positions are pixels of 256 x 256."""

    predicted: Float[np.ndarray, "M T 2"]
    truth: Float[np.ndarray, "M T 2"]
    said_seen: np.ndarray  # (M, T) bool
    visible: np.ndarray  # (M, T) bool
    valid: np.ndarray  # (M, T) bool
    evaluated: np.ndarray  # (M, T) bool
    tracks: Tracks

    def tapvid(self) -> Scores:
        return tapvid(
            self.predicted,
            self.truth,
            predicted_visible=self.said_seen,
            visible=self.visible,
            evaluated=self.evaluated,
        )

    def endpoints(self) -> Scores:
        errors = endpoint_errors(self.predicted, self.truth, visible=self.visible, evaluated=self.evaluated)
        return {name: errors[name] for name in PIXEL_METRICS}

    @property
    def query_frame(self) -> np.ndarray:
        return self.tracks.query[:, 0].astype(int)

    def found_again(self) -> FoundAgain:
        after = np.arange(self.tracks.frames) > self.query_frame[:, None]
        return _found_again(
            reappearances(
                self.predicted,
                self.truth,
                predicted_visible=self.said_seen,
                visible=self.visible,
                valid=self.valid & after,
            )
        )

    def profiles(self) -> dict[str, Profile]:
        distance = _distance(self.predicted, self.truth)
        frame = np.arange(self.tracks.frames)
        start = self.truth[np.arange(len(self.truth)), self.query_frame]
        against = {
            "since_query": np.abs(frame - self.query_frame[:, None]),
            "displacement": np.linalg.norm(self.truth - start[:, None], axis=-1),
            "since_reappearance": frames_since_reappearance(self.visible, self.valid, self.query_frame),
        }
        counted = self.evaluated & self.visible
        return {
            name: profile(values, LOWER_ENDS[name], distance=distance, said_seen=self.said_seen, counted=counted)
            for name, values in against.items()
        }

    def reliability(self) -> dict[str, Reliability]:
        found = {"visibility": reliability(self.tracks.visibility[self.evaluated], self.visible[self.evaluated])}
        input_size, confidence_px = self.tracks.meta["input_size"], self.tracks.meta.get("confidence_px")
        if self.tracks.meta["confidence"] and input_size is not None and confidence_px is not None:
            counted = self.evaluated & self.visible
            seen_by_network = [
                geometry.resize_area(xy, EVALUATION_SIZE, tuple(input_size)) for xy in (self.predicted, self.truth)
            ]
            near = _distance(*seen_by_network) < confidence_px
            found["confidence"] = reliability(self.tracks.confidence[counted], near[counted])
        return found


def _compare(clip: AnnotatedClip, protocol: Protocol, question: Question, tracks: Tracks) -> _Pairs:
    visible, valid = clip.visible[question.track], clip.valid[question.track]
    truth = protocol.measured(protocol.enter(clip.xy[question.track], clip.size), clip.size)
    mode: QueryMode = "strided" if question.mode == "strided" else "first"
    evaluated = evaluated_frames(tracks.query[:, 0], tracks.frames, mode=mode, valid=valid)
    return _Pairs(
        protocol.measured(tracks.xy, clip.size), truth, tracks.seen(protocol.seen), visible, valid, evaluated, tracks
    )


def _distance(predicted: Float[np.ndarray, "M T 2"], truth: Float[np.ndarray, "M T 2"]) -> Float[np.ndarray, "M T"]:
    """Distances; infinite where a position is not a number, which is as wrong as can be."""
    with np.errstate(over="ignore", invalid="ignore"):
        distance: np.ndarray = np.linalg.norm(predicted - truth, axis=-1)
    return np.nan_to_num(distance, nan=np.inf, posinf=np.inf)


def _found_again(events: Reappearances) -> FoundAgain:
    chosen = [events.jaccard[events.hidden >= frames] for frames in HIDDEN_FRAMES]
    return FoundAgain(np.array([part.sum(axis=0) for part in chosen]), np.array([len(part) for part in chosen]))


def _joint_scores(clip: JointClip, protocol: Protocol, asked: Sequence[Question], answers: Sequence[Tracks]) -> Scores:
    """Accuracy from each joint's own query, and BADJA from the first annotated frame. Visibility is not scored."""
    pairs = _compare(clip, protocol, asked[0], answers[0])
    scores = {name: value for name, value in pairs.tapvid().items() if name.startswith("delta")}
    question, tracks = next((q, t) for q, t in zip(asked, answers, strict=True) if q.mode == JOINTS)
    valid = clip.valid[question.track]
    measured = badja(
        protocol.leave(tracks.xy, clip.size),
        clip.xy[question.track],
        visible=clip.visible[question.track],
        area=clip.area,
        evaluated=evaluated_frames(tracks.query[:, 0], tracks.frames, mode="first", valid=valid),
        size=clip.size,
    )
    return {**measured, **scores, **pairs.endpoints()}


def _trajectory_scores(clip: AnnotatedClip, protocol: Protocol, question: Question, tracks: Tracks) -> Scores:
    if not clip.valid.all():
        raise DatasetError(
            f"{clip.name} has frames in which the annotation of a track is not valid, but {protocol.name} needs it in "
            f"all frames, also where a point is hidden. Choose another protocol."
        )
    pairs = _compare(clip, protocol, question, tracks)
    return dynamic_replica(pairs.predicted, pairs.truth, visible=pairs.visible)


def _mask_scores(clip: MaskedClip, protocol: Protocol, question: Question, tracks: Tracks) -> Scores:
    on_object = question.track == 1
    scores = mask_agreement(
        clip.masks,
        protocol.leave(tracks.xy, clip.size),
        predicted_visible=tracks.seen(protocol.seen),
        on_object=on_object,
    )
    return scores if on_object.sum() >= LEAST_MASK_QUERIES else dict.fromkeys(scores, np.nan)


# ---------------------------------------------------------------------------------------------------------------------
# All clips
# ---------------------------------------------------------------------------------------------------------------------


def summarise(scored: Sequence[ClipScore], run: dict[str, Any], *, dataset: str, seed: int = SEED) -> Results:
    """Make means, intervals, comparisons, curves and calibration of the scores of clips."""
    parts = [part for kind in HEADLINES for part in _parts(scored, kind)]
    models = list(dict.fromkeys(clip.scores.model for clip in scored))
    points = {name: [c for c in scored if c.scores.kind == "points" and c.scores.model == name] for name in models}
    with_points = {name: clips for name, clips in points.items() if clips}
    return Results(
        run,
        rows=[row for part in parts for row in part.rows(dataset, seed)],
        differences=[difference for part in parts for difference in part.differences(seed)],
        curves=[_curve(name, clips, against, seed) for name, clips in with_points.items() for against in LOWER_ENDS],
        calibration=[row for name, clips in with_points.items() for row in _calibration(name, clips)],
        per_video=[clip.scores for clip in scored],
    )


@dataclass(frozen=True)
class _Part:
    """Clips of one kind that one mean is over: of each model, by group (one for a plain mean), in order of video."""

    kind: Kind
    name: str
    clips: dict[str, list[list[ClipScore]]]

    def rows(self, dataset: str, seed: int) -> list[Row]:
        return [row for groups in self.clips.values() for row in self._rows_of_model(dataset, groups, seed)]

    def _rows_of_model(self, dataset: str, groups: list[list[ClipScore]], seed: int) -> Iterator[Row]:
        clips = [clip for group in groups for clip in group]
        scores, weights = clips[0].scores, clips[0].weights
        begin = partial(Row, dataset, self.name, self.kind, scores.model, weights, scores.query_mode)
        for metric in scores.scores:
            values = [_finite(clip.scores.scores[metric] for clip in group) for group in groups]
            missing = [clip.scores.video for clip in clips if not np.isfinite(clip.scores.scores[metric])]
            unit = "px" if metric in PIXEL_METRICS else "%"
            yield begin(metric, unit, *mean_of_groups(values, seed=seed), len(clips) - len(missing), missing)
        if self.name != GROUPS:  # re-appearances are pooled over clips, not averaged
            tallies = [clip.found_again for clip in clips if clip.found_again is not None]
            for metric, (found, videos) in _aj_rd(tallies, seed).items():
                yield begin(metric, "%", *found, videos)

    def differences(self, seed: int) -> list[Difference]:
        found = []
        for metric in HEADLINES[self.kind][:COMPARED]:
            for model, versus in combinations(self.clips, 2):
                gains = [
                    _finite(a.scores.scores[metric] - b.scores.scores[metric] for a, b in zip(*pair, strict=True))
                    for pair in zip(self.clips[model], self.clips[versus], strict=True)
                ]
                every = np.concatenate(gains)
                better = mean_of_groups(gains, seed=seed)
                found.append(
                    Difference(self.name, self.kind, metric, model, versus, *better, len(every), int((every > 0).sum()))
                )
        return found


def _parts(scored: Sequence[ClipScore], kind: Kind) -> list[_Part]:
    """List what means of one kind are over: everything, groups with equal weight, each group."""
    clips = [clip for clip in scored if clip.scores.kind == kind]
    models = list(dict.fromkeys(clip.scores.model for clip in clips))
    names = sorted({clip.scores.group for clip in clips})
    named = [name for name in names if name]

    def part(label: str, groups: Sequence[Sequence[str]]) -> _Part:
        return _Part(
            kind,
            label,
            {
                model: [[c for c in clips if c.scores.model == model and c.scores.group in group] for group in groups]
                for model in models
            },
        )

    if not clips:
        return []
    if kind in ("joints", "masks"):  # they are beside the point: no mean over their groups
        return [part(name or kind, [[name]]) for name in names]
    together = [part(ALL, [names])]
    if len(named) > 1:
        together.append(part(GROUPS, [[name] for name in names]))
    return together + [part(name, [[name]]) for name in named]


def _finite(values: Iterable[float]) -> Float[np.ndarray, " V"]:
    array = np.array(list(values), float)
    return array[np.isfinite(array)]


def _aj_rd(videos: Sequence[FoundAgain], seed: int) -> dict[str, tuple[Interval, int]]:
    """Pool re-appearances as `metrics.aj_rd` does, with intervals by drawing videos; and how many videos have any."""
    if not videos:
        return {}
    jaccard = np.array([video.jaccard for video in videos])  # (V, F, D)
    events = np.array([video.events for video in videos])  # (V, F)
    names = ["aj_rd", *(f"aj_rd_hidden_{frames}" for frames in HIDDEN_FRAMES)]
    drawn = draws(len(videos), np.random.default_rng(seed))
    resampled = np.array([_pooled(jaccard[chosen], events[chosen]) for chosen in drawn])  # (R, 1 + F)
    pooled = _pooled(jaccard, events)
    concerned = [int(events.any(axis=1).sum()), *(events > 0).sum(axis=0).tolist()]
    return {
        name: (interval(float(pooled[k]), resampled[:, k] if concerned[k] > 1 else np.zeros(0)), concerned[k])
        for k, name in enumerate(names)
        if concerned[k]
    }


def _pooled(jaccard: Float[np.ndarray, "V F D"], events: Int[np.ndarray, "V F"]) -> Float[np.ndarray, " F1"]:
    """Mean over those lengths of hiding that occur, and the mean of each length."""
    with np.errstate(invalid="ignore"):
        by_length = (jaccard.sum(axis=0) / events.sum(axis=0)[:, None]).mean(axis=-1)
    known = by_length[np.isfinite(by_length)]
    return np.concatenate([[known.mean() if known.size else np.nan], by_length])


def _curve(model: str, clips: Sequence[ClipScore], against: str, seed: int) -> Curve:
    found = [clip.profiles[against] for clip in clips]
    points = np.array([video.points for video in found])  # (V, K)
    accuracy = [mean(_finite(video.delta_avg[k] for video in found), seed=seed) for k in range(points.shape[1])]
    errors = [[video.error_px[k] for video in found if video.points[k]] for k in range(points.shape[1])]
    return Curve(
        model,
        against,
        list(LOWER_ENDS[against]),
        [a.value for a in accuracy],
        [a.low for a in accuracy],
        [a.high for a in accuracy],
        [float(np.median(error)) if len(error) else np.nan for error in errors],
        [mean(_finite(video.said_seen[k] for video in found)).value for k in range(points.shape[1])],
        points.sum(axis=0).tolist(),
        (points > 0).sum(axis=0).tolist(),
    )


def _calibration(model: str, clips: Sequence[ClipScore]) -> list[Calibration]:
    rows = []
    for of in ("visibility", "confidence"):
        videos = [clip.reliability[of] for clip in clips if of in clip.reliability]
        if not videos:
            continue
        pooled = videos[0]
        for video in videos[1:]:
            pooled = pooled + video
        with np.errstate(invalid="ignore"):
            predicted, observed = pooled.predicted / pooled.points, pooled.observed / pooled.points
        rows.append(
            Calibration(
                model,
                of,
                pooled.calibration_error,
                pooled.brier,
                predicted.tolist(),
                observed.tolist(),
                pooled.points.tolist(),
            )
        )
    return rows
