"""Scores on held-back clips while training: how well the encoder matches, or how well the tracker tracks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from pointloom.datasets.pool import ClipPool
from pointloom.evaluation.metrics import evaluated_frames, tapvid, to_evaluation
from pointloom.models.base import Model
from pointloom.models.layers import sample_patches
from pointloom.tracking.windows import walk
from pointloom.tracks import SEEN
from pointloom.training.objectives import MatchingObjective

POINTS = 64
GAPS = (2, 8, 20)


def validate_matching(objective: MatchingObjective, pool: ClipPool, clips: Iterable[int]) -> dict[str, float]:
    """Percentage of points whose best match over the whole second frame lies within 1, 2, 4 px."""
    model = objective.model
    errors = []
    for index in clips:
        clip = pool[index]
        rng = np.random.default_rng(index)
        for gap in GAPS:
            later = min(gap, len(clip.frames) - 1)
            both = np.flatnonzero(clip.visible[:, 0] & clip.visible[:, later])
            if not len(both):
                continue
            chosen = rng.choice(both, min(POINTS, len(both)), replace=False)
            features = model.encode(torch.from_numpy(np.stack([clip.frames[0], clip.frames[later]]))[None])
            xy = torch.from_numpy(clip.xy[chosen][:, [0, later]])[None]  # (1, K, 2, 2)
            errors.append(np.linalg.norm(matched(objective, features.maps, xy[:, :, 0]) - xy[0, :, 1].numpy(), axis=-1))
    error = np.concatenate(errors)
    scores = {f"within_{px}px": 100 * float((error < px).mean()) for px in (1, 2, 4)}
    return scores | {"score": scores["within_4px"]}


def matched(objective: MatchingObjective, maps: tuple[torch.Tensor, ...], first: torch.Tensor) -> np.ndarray:
    """Best cell of frame 1 for points of frame 0, then the soft mean around it on the finest map; pixels."""
    stride = objective.matching.stride
    temperature = objective.matching.log_temperatures.exp()
    coarse = maps[1 if objective.matching.fine else 0]
    frame = torch.zeros_like(first[..., 0], dtype=torch.long)
    w = coarse.shape[3]
    point = sample_patches(coarse, frame, first / stride, 0)[:, :, 0, 0]
    best = (point @ coarse[:, 1].flatten(1, 2).transpose(1, 2)).argmax(-1)
    xy = torch.stack([best % w, best // w], dim=-1) * float(stride)
    levels = [(coarse, float(stride), temperature[0])]
    if objective.matching.fine:
        levels.append((maps[0], stride / 2, temperature[1]))
    for level, cell, sharpness in levels:
        point = sample_patches(level, frame, first / cell, 0)[:, :, 0, 0]
        patch = sample_patches(level, frame + 1, xy / cell, 2).flatten(2, 3)
        probability = (sharpness * (patch @ point[..., None])[..., 0]).softmax(-1)
        offset = torch.arange(-2.0, 3.0)
        xy = xy + cell * (probability @ torch.cartesian_prod(offset, offset))
    return xy[0].float().numpy()


def validate_tracking(model: Model, pool: ClipPool, clips: Iterable[int]) -> dict[str, float]:
    """AJ, delta_avg and OA in percent (mean over clips), windowed, queries at the first visible frame."""
    rows = []
    for index in clips:
        clip = pool[index]
        chosen = np.flatnonzero(clip.visible.any(1))[:POINTS]
        xy, visible = clip.xy[chosen], clip.visible[chosen]
        frame = visible.argmax(1)
        queries = np.concatenate([frame[:, None], xy[np.arange(len(xy)), frame]], axis=1)
        features = model.encode(torch.from_numpy(np.array(clip.frames))[None])
        points = model.describe(features, torch.from_numpy(queries).float()[None])
        found, seen = np.zeros_like(xy), np.zeros_like(visible)
        for done in walk(model, features, points, window=model.info.window, step=model.info.step):
            taken = slice(done.start, min(done.start + model.info.window, len(clip.frames)))
            part = done.result.frames(0, taken.stop - taken.start)
            found[:, taken] = part.xy[0].transpose(0, 1).numpy()
            seen[:, taken] = SEEN(part.visibility[0].T.numpy(), part.confidence[0].T.numpy())
        rows.append(
            tapvid(
                to_evaluation(found, clip.size),
                to_evaluation(xy, clip.size),
                predicted_visible=seen,
                visible=visible,
                evaluated=evaluated_frames(frame, len(clip.frames), mode="first", valid=clip.valid[chosen]),
            )
        )
    means = {
        key: float(np.nanmean([row[key] for row in rows])) for key in ("aj", "delta_avg", "oa", "delta_1", "delta_16")
    }
    return means | {"score": means["aj"]}
