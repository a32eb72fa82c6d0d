"""The report of an evaluation: which clips went worst, pictures of them, and the page that shows everything."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

from pointloom.datasets.clip import AnnotatedClip, MaskedClip
from pointloom.datasets.registry import Dataset
from pointloom.errors import MissingExtraError
from pointloom.evaluation.page import page
from pointloom.evaluation.predict import PredictionStore, Progress, about_clip, questions
from pointloom.evaluation.protocols import Protocol
from pointloom.evaluation.results import HEADLINES, Results, VideoScores, write_text
from pointloom.evaluation.sheets import Outcome, Tile, tiles

WORST_CLIPS = 3  # of each model


def check_extra() -> None:
    """Raise MissingExtraError where what draws the figures is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "evaluate")


def write_report(
    path: Path,
    results: Results,
    dataset: Dataset,
    protocol: Protocol,
    store: PredictionStore,
    *,
    progress: Progress | None = None,
) -> None:
    """Write the page. The data set is read once more, for pictures of the clips that went worst."""
    check_extra()
    worst = worst_clips(results)
    sheets = _sheets(worst, dataset, protocol, store, progress)
    write_text(path, page(results, worst, sheets))


# ---------------------------------------------------------------------------------------------------------------------
# Worst clips
# ---------------------------------------------------------------------------------------------------------------------


def worst_clips(results: Results) -> list[VideoScores]:
    """Return for each model the clips with the lowest first score; baselines have a turn only if all are baselines."""
    weights = {row.model: row.weights for row in results.rows}
    learned = [model for model in results.models if weights[model] is not None]
    found = []
    for model in learned or results.models:
        for kind in ("points", "trajectories"):
            metric = HEADLINES[kind][0]
            own = [v for v in results.per_video if v.model == model and v.kind == kind]
            known = [v for v in own if math.isfinite(v.scores[metric])]
            found += sorted(known, key=lambda v: v.scores[metric])[:WORST_CLIPS]
    return found


def _sheets(
    worst: Sequence[VideoScores],
    dataset: Dataset,
    protocol: Protocol,
    store: PredictionStore,
    progress: Progress | None,
) -> dict[tuple[str, str], list[Tile]]:
    """Draw the worst clips: (model, clip) -> frames."""
    wanted = {video.video for video in worst}
    total = len(wanted)
    sheets: dict[tuple[str, str], list[Tile]] = {}
    for clip in dataset if wanted else ():
        if clip.name not in wanted or isinstance(clip, MaskedClip):
            continue
        if progress is not None:
            progress(total - len(wanted), total)
        for model in (video.model for video in worst if video.video == clip.name):
            sheets[model, clip.name] = tiles(clip.frames, _outcome(clip, model, protocol, store))
        wanted.remove(clip.name)
        if not wanted:
            break
    return sheets


def _outcome(clip: AnnotatedClip, model: str, protocol: Protocol, store: PredictionStore) -> Outcome:
    question = questions(clip, protocol)[0]
    tracks = store.load(model, clip.name, question, about_clip(clip, protocol, question.mode))
    return Outcome(
        protocol.leave(tracks.xy, clip.size),
        tracks.seen(protocol.seen),
        clip.xy[question.track],
        clip.visible[question.track],
        tracks.query[:, 0].astype(int),
    )
