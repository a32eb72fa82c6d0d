"""Whatever can be evaluated, behind one small interface: frames and queries in, positions and probabilities out.

load_predictor("tiny", protocol)                    a name of the zoo, or a file of weights
load_predictor("new=runs/7/weights.safetensors", protocol)     under another name
load_predictor("lucas-kanade", protocol)            a baseline: lucas-kanade, dis-flow, static
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from pointloom import geometry
from pointloom.errors import OptionError
from pointloom.evaluation.protocols import Protocol
from pointloom.models.base import Model
from pointloom.models.classical import ClassicalTracks, dis_flow, lucas_kanade, static_point
from pointloom.models.weight_files import WEIGHT_SUFFIXES, load_model, weights_hash
from pointloom.models.zoo import find_entry
from pointloom.queries import Queries
from pointloom.tracking import official
from pointloom.tracking.runner import choose_device
from pointloom.tracking.tracker import Tracker


@dataclass(frozen=True)
class Prediction:
    """Where points are in every frame that was tracked, in pixels of it.

    confidence     None where the predictor has none
    input_size     (width, height) of the frames as a network saw them; None without a network
    confidence_px  how near confidence calls right, in pixels of those frames; None where nobody knows
    """

    xy: Float32[np.ndarray, "N T 2"]
    visibility: Float32[np.ndarray, "N T"]
    confidence: Float32[np.ndarray, "N T"] | None = None
    input_size: tuple[int, int] | None = None
    confidence_px: float | None = None


class Predictor(ABC):
    """Something that tracks points.

    name         what it is called in tables
    fingerprint  what decides its answers: the kind of model, its configuration, a hash of its weights
    """

    name: str
    fingerprint: dict[str, Any]

    @abstractmethod
    def predict(self, frames: UInt8[np.ndarray, "T H W 3"], queries: Float32[np.ndarray, "N 3"]) -> Prediction:
        """Track queries (frame, x, y); a query outside the frame is tracked from the nearest pixel of its border."""


# ---------------------------------------------------------------------------------------------------------------------
# Models
# ---------------------------------------------------------------------------------------------------------------------


class ModelPredictor(Predictor):
    """A model of the zoo or of a file, driven as the protocol says."""

    def __init__(self, name: str, model: Model, protocol: Protocol, *, device: str = "auto") -> None:
        self.name = name
        self.protocol = protocol
        self.fingerprint = {
            "model": model.info.family,
            "weights": weights_hash(model),
            "config": _config(model),
            "mode": model.info.modes[0],
        }
        self._device = choose_device(device)
        self._tracker = Tracker(
            model,
            iterations=protocol.iterations,
            per_query=protocol.per_query,
            support_grid=0 if protocol.per_query else protocol.support_grid,
            device=self._device,
        )

    def predict(self, frames: UInt8[np.ndarray, "T H W 3"], queries: Float32[np.ndarray, "N 3"]) -> Prediction:
        """Track with `Tracker` or with the published predictors."""
        as_seen = self._input_size(frames), self._tracker.model.info.confidence_px
        if self.protocol.driver == "official" and len(queries):
            return Prediction(*self._officially(frames, queries), *as_seen)
        inside = into_frame(queries, frames)
        tracks = self._tracker.track(frames, Queries.points(inside), direction=self.protocol.direction)
        return Prediction(tracks.xy, tracks.visibility, tracks.confidence, *as_seen)

    @torch.inference_mode()
    def _input_size(self, frames: UInt8[np.ndarray, "T H W 3"]) -> tuple[int, int]:
        return self._tracker.model.encode(self._on_device(frames[:1])).input

    def _officially(
        self, frames: UInt8[np.ndarray, "T H W 3"], queries: Float32[np.ndarray, "N 3"]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        model: Any = self._tracker.model
        video, asked = self._on_device(frames), self._on_device(queries)
        if model.info.modes[0] == "windowed":
            seen = official.track_online(model, video, asked)
            return _points_first(seen.xy), _points_first(seen.visible), None
        run = official.evaluate_one_by_one if self.protocol.per_query else official.evaluate_jointly
        found = run(model, video, asked)
        return _points_first(found.xy), _points_first(found.visibility), _points_first(found.confidence)

    def _on_device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.require(array, requirements=["C", "W"]))[None].to(self._device)


def _points_first(values: torch.Tensor) -> np.ndarray:
    """(1, T, N, ...) -> (N, T, ...)."""
    return values[0].transpose(0, 1).float().cpu().numpy()


def _config(model: Model) -> dict[str, Any]:
    """Everything about a model that its weights do not say."""
    config: Any = getattr(model, "config", None)
    return {} if config is None else json.loads(json.dumps(asdict(config)))


# ---------------------------------------------------------------------------------------------------------------------
# Baselines
# ---------------------------------------------------------------------------------------------------------------------

Baseline = Callable[[np.ndarray, np.ndarray, Literal["forward", "both"]], ClassicalTracks]

BASELINES: dict[str, Baseline] = {
    "lucas-kanade": lambda frames, queries, direction: lucas_kanade(frames, queries, direction=direction),
    "dis-flow": lambda frames, queries, direction: dis_flow(frames, queries, direction=direction),
    "static": lambda frames, queries, _: static_point(queries, len(frames)),
}


class BaselinePredictor(Predictor):
    """A tracker without weights. Of a protocol only frames, queries and direction mean anything to it."""

    def __init__(self, name: str, baseline: str, protocol: Protocol) -> None:
        self.name = name
        self.fingerprint = {"model": baseline, "weights": None}
        self._function = BASELINES[baseline]
        self._direction = protocol.direction

    def predict(self, frames: UInt8[np.ndarray, "T H W 3"], queries: Float32[np.ndarray, "N 3"]) -> Prediction:
        """Track; a point is visible (1) or not (0)."""
        found = self._function(frames, into_frame(queries, frames), self._direction)
        return Prediction(found.xy, found.seen.astype(np.float32))


# ---------------------------------------------------------------------------------------------------------------------


def into_frame(queries: Float32[np.ndarray, "N 3"], frames: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, "N 3"]:
    """Move queries that lie outside the frame to the nearest pixel centre. Annotations may lie a little outside."""
    last = np.array([frames.shape[2] - 1, frames.shape[1] - 1], np.float32)
    inside = geometry.inside(queries[:, 1:], (frames.shape[2], frames.shape[1]))
    moved = queries.copy()
    moved[~inside, 1:] = queries[~inside, 1:].clip(0, last)
    return moved


def split_name(source: str) -> tuple[str, str]:
    """Split `NAME=SOURCE`. Without a name a model is called as in the zoo, a file by its folder and its own name."""
    name, equals, place = source.partition("=")
    if equals and not Path(source).is_file():
        if not name or not place:
            raise OptionError(f"{source!r} should be NAME=MODEL, such as new=runs/7/weights.safetensors.")
        return name, place
    path = Path(source)
    if path.suffix in WEIGHT_SUFFIXES:
        return "/".join(path.with_suffix("").parts[-2:]), source
    return source, source


def load_predictor(source: str, protocol: Protocol, *, device: str = "auto") -> Predictor:
    """Load a model or a baseline by name, or a file of weights, for a protocol. `NAME=SOURCE` gives it another name."""
    name, place = split_name(source)
    if place in BASELINES:
        return BaselinePredictor(name, place, protocol)
    if Path(place).suffix not in WEIGHT_SUFFIXES:
        find_entry(place, besides=BASELINES)
    return ModelPredictor(name, load_model(place), protocol, device=device)
