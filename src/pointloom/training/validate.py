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
from pointloom.models.layers import sample_patches
from pointloom.tracking.windows import walk
from pointloom.tracks import SEEN
from pointloom.training.matching import MatchingLoss
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
            error = matched(objective.matching, features.maps, xy[:, :, 0]) - xy[0, :, 1]
            errors.append(error.norm(dim=-1).cpu().numpy())
        error_px = np.concatenate(errors)
        if len(error_px):
            scores = {f"within_{px}px": 100 * float((error_px < px).mean()) for px in (1, 2, 4)}
            rows.append(scores | {"score": scores["within_4px"]})
    return rows


def matched(
    matching: MatchingLoss, maps: tuple[Float[Tensor, "1 2 _h _w _C"], ...], first: Float[Tensor, "1 K 2"]
) -> Float[Tensor, "K 2"]:
    """Best cell of frame 1 for points of frame 0, then the soft mean around it on the finest map; pixels."""
    stride = matching.stride
    temperature = matching.log_temperatures.exp()
    coarse = matching.coarse(maps)
    frame = torch.zeros_like(first[..., 0], dtype=torch.long)
    w = coarse.shape[3]
    point = sample_patches(coarse, frame, first / stride, 0)[:, :, 0, 0]
    best = (point @ coarse[:, 1].flatten(1, 2).transpose(1, 2)).argmax(-1)
    xy = torch.stack([best % w, best // w], dim=-1) * float(stride)
    levels = [(coarse, float(stride), temperature[0])]
    if matching.fine:
        levels.append((maps[0], stride / 2, temperature[1]))
    for level, cell, sharpness in levels:
        point = sample_patches(level, frame, first / cell, 0)[:, :, 0, 0]
        patch = sample_patches(level, frame + 1, xy / cell, 2).flatten(2, 3)
        probability = (sharpness * (patch @ point[..., None])[..., 0]).softmax(-1)
        offset = torch.arange(-2.0, 3.0, device=xy.device)
        xy = xy + cell * (probability @ torch.cartesian_prod(offset, offset))
    return xy[0].float()


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
    for done in walk(model, features, points, window=window, step=step, masked=masked):
        taken = slice(done.start, min(done.start + window, T))
        part = done.result.frames(0, taken.stop - taken.start)
        found[:, taken] = part.xy[0].transpose(0, 1).cpu().numpy()
        seen[:, taken] = SEEN(part.visibility[0].T.cpu().numpy(), part.confidence[0].T.cpu().numpy())
    return found, seen


def _on_device(model: torch.nn.Module, array: np.ndarray) -> Tensor:
    """Return an array as a batch of one, where the model is."""
    return torch.from_numpy(array)[None].to(next(model.parameters()).device)
