"""Scores on held-back clips while training: how well the encoder matches, or how well the tracker tracks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.pool import ClipPool
from pointloom.evaluation.metrics import evaluated_frames, tapvid, to_evaluation
from pointloom.models.base import Model
from pointloom.tracking.windows import walk
from pointloom.tracks import SEEN
from pointloom.training.objectives import MatchingObjective
from pointloom.training.pictures import track_picture

POINTS = 64
GAPS = (2, 8, 20)
TRACKING_SCORES = ("aj", "delta_avg", "oa", "delta_1", "delta_16")
PICTURES = 3  # clips of which tracks are shown
Scores = dict[str, float]
Picture = UInt8[np.ndarray, "_h _w 3"]


def validate_matching(objective: MatchingObjective, pool: ClipPool, clips: Iterable[int]) -> list[Scores]:
    """Of each clip, percentage of points whose best match over the whole second frame lies within 1, 2, 4 px."""
    model = objective.model
    rows = []
    for index in clips:
        clip = pool[index]
        rng = np.random.default_rng(index)
        errors = [np.empty(0)]
        for gap in GAPS:
            later = min(gap, len(clip.frames) - 1)
            both = np.flatnonzero(clip.visible[:, 0] & clip.visible[:, later])
            if not len(both):
                continue
            chosen = rng.choice(both, min(POINTS, len(both)), replace=False)
            features = model.encode(_on_device(model, np.stack([clip.frames[0], clip.frames[later]])))
            xy = _on_device(model, clip.xy[chosen][:, [0, later]])  # (1, K, 2, 2)
            error = objective.matching.find(features.maps, xy[:, :, 0])[0] - xy[0, :, 1]
            errors.append(error.norm(dim=-1).cpu().numpy())
        error_px = np.concatenate(errors)
        if len(error_px):
            scores = {f"within_{px}px": 100 * float((error_px < px).mean()) for px in (1, 2, 4)}
            rows.append(scores | {"score": scores["within_4px"]})
    return rows


def validate_tracking(
    model: Model, pool: ClipPool, clips: Iterable[int], *, masked: bool
) -> tuple[list[Scores], dict[str, Picture]]:
    """AJ, delta_avg and OA of each clip in percent, queries at the first visible frame; and pictures of tracks.

    Windowed models walk over a clip, `masked` as in training; others see it whole, also those that could
    take it frame by frame.
    """
    rows: list[Scores] = []
    pictures: dict[str, Picture] = {}
    for index in clips:
        clip = pool[index]
        chosen = np.flatnonzero(clip.visible.any(1))[:POINTS]
        xy, visible = clip.xy[chosen], clip.visible[chosen]
        frame = visible.argmax(1)
        queries = np.concatenate([frame[:, None], xy[np.arange(len(xy)), frame]], axis=1)
        found, seen = track(model, clip, queries, masked=masked)
        scores = tapvid(
            to_evaluation(found, clip.size),
            to_evaluation(xy, clip.size),
            predicted_visible=seen,
            visible=visible,
            evaluated=evaluated_frames(frame, len(clip.frames), mode="first", valid=clip.valid[chosen]),
        )
        rows.append({name: scores[name] for name in TRACKING_SCORES} | {"score": scores["aj"]})
        if len(pictures) < PICTURES:
            pictures[clip.name] = track_picture(
                clip.frames, predicted=found, predicted_seen=seen, truth=xy, seen=visible
            )
    return rows, pictures


def track(
    model: Model, clip: AnnotatedClip, queries: Float[np.ndarray, "N 3"], *, masked: bool
) -> tuple[Float[np.ndarray, "N T 2"], Bool[np.ndarray, "N T"]]:
    """Track points of a clip: where they are, and whether they can be seen."""
    T = len(clip.frames)
    window, step = (model.info.window, model.info.step) if "windowed" in model.info.modes else (T, T)
    features = model.encode(_on_device(model, np.array(clip.frames)))
    points = model.describe(features, _on_device(model, queries.astype(np.float32)))
    found, seen = np.zeros((len(queries), T, 2), np.float32), np.zeros((len(queries), T), bool)
    lead_in = model.info.leads_in
    for done in walk(model, features, points, window=window, step=step, masked=masked, lead_in=lead_in):
        taken = slice(done.start, min(done.start + done.result.xy.shape[1], T))
        part = done.result.frames(0, taken.stop - taken.start)
        found[:, taken] = part.xy[0].transpose(0, 1).cpu().numpy()
        seen[:, taken] = SEEN(part.visibility[0].T.cpu().numpy(), part.confidence[0].T.cpu().numpy())
    return found, seen


def _on_device(model: torch.nn.Module, array: np.ndarray) -> Tensor:
    """Return an array as a batch of one, where the model is."""
    return torch.from_numpy(array)[None].to(next(model.parameters()).device)
