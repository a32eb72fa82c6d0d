"""Predict once, keep it: tracks of a data set by models and baselines, as one file a clip, model and kind of query.

    FOLDER/<model>/<clip>.<query mode>.npz     `Tracks`, in pixels of the frames that were tracked

What is kept says by what it was made: package, protocol, model with its configuration and weights, frames, queries. A
file made by anything else is refused, with the field that differs; one made by the same is not made again, so that an
interrupted run goes on where it stopped. Scores are computed from these files alone.

Most clips ask one question, their queries by the protocol. Joints of animals ask a second one: all of them from the
first annotated frame on, as BADJA does. Clips with masks ask for points on the object and around it.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import operator
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Int, UInt8

from pointloom.datasets.clip import AnnotatedClip, Clip, JointClip, MaskedClip
from pointloom.datasets.registry import Dataset
from pointloom.errors import DatasetError, FormatError, OptionError, PointloomError
from pointloom.evaluation.metrics import mask_queries, sample_queries
from pointloom.evaluation.predictors import Predictor, load_predictor
from pointloom.evaluation.protocols import Protocol
from pointloom.queries.base import on_frame
from pointloom.tracks import Tracks

JOINTS, MASK = "joints", "mask"  # query modes of clips that ask for something else than the protocol

UNSAFE_PARTS = {"": "%", ".": "%2E", "..": "%2E%2E"}  # parts of a path that lead elsewhere

Progress = Callable[[int, int | None], None]  # clips that were begun, and of how many if that is known


# ---------------------------------------------------------------------------------------------------------------------
# What is asked
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """Queries that are tracked together through one clip.

    mode     `first`, `strided`, `frame-0`, `joints` or `mask`
    queries  (frame, x, y) in pixels of the frames that are tracked
    track    which annotated track each query belongs to; for masks 1 on the object and 0 beside it
    """

    mode: str
    queries: Float32[np.ndarray, "M 3"]
    track: Int[np.ndarray, " M"]


def questions(clip: Clip, protocol: Protocol) -> list[Question]:
    """Say what a clip asks of a tracker under a protocol."""
    if isinstance(clip, MaskedClip):
        xy, on_object = mask_queries(clip.masks[0])
        return [Question(MASK, on_frame(protocol.enter(xy, clip.size), 0), on_object.astype(int))]
    xy = protocol.enter(clip.xy, clip.size)
    if protocol.queries == "frame-0":
        asked = [_all_in_frame(clip, xy, 0, "frame-0")]
    else:
        sampled = sample_queries(xy, clip.visible, mode=protocol.queries)
        asked = [Question(protocol.queries, sampled.queries.astype(np.float32), sampled.track)]
    if isinstance(clip, JointClip):
        annotated = clip.valid.any(axis=0)
        asked.append(_all_in_frame(clip, xy, int(annotated.argmax()) if annotated.size else 0, JOINTS))
    return asked


def _all_in_frame(clip: AnnotatedClip, xy: Float32[np.ndarray, "N T 2"], frame: int, mode: str) -> Question:
    """Ask for every track that is annotated in a frame, from there on, whether it can be seen or not."""
    track = np.flatnonzero(clip.valid[:, frame])
    return Question(mode, on_frame(xy[track, frame], frame), track)


# ---------------------------------------------------------------------------------------------------------------------
# Where answers are kept
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PredictionStore:
    """A folder of predictions."""

    folder: Path

    def path(self, model: str, clip: str, mode: str) -> Path:
        """File for a model, a clip and a query mode. Names cannot lead out of the folder."""
        return self.folder / _file_name(model, slash="") / f"{_file_name(clip, slash='/')}.{mode}.npz"

    def models(self) -> list[str]:
        """Names of the models that something is kept of, sorted."""
        if not self.folder.is_dir():
            return []
        return sorted(unquote(path.name) for path in self.folder.iterdir() if path.is_dir())

    def load(self, model: str, clip: str, question: Question, about: dict[str, Any]) -> Tracks:
        """Read a prediction and check what it says of itself. `about` are the fields that must be as given."""
        path = self.path(model, clip, question.mode)
        if not path.is_file():
            raise FormatError(f"{path} is missing: {model} has not tracked {clip} yet. Evaluate with --model {model}.")
        tracks = Tracks.load(path)
        difference = _difference(tracks.meta, about)
        if difference is None and not np.array_equal(tracks.query, question.queries):
            difference = "queries", "other queries", "those that the data set now asks"
        if difference is not None:
            field, kept, wanted = difference
            raise FormatError(
                f"{path} was made with {field} = {kept}, but this evaluation has {wanted}. "
                f"Choose another folder, or delete the predictions of {model} in this one."
            )
        return tracks


def _file_name(name: str, *, slash: str) -> str:
    """Write a name so that it is one for files; parts between slashes are kept if `slash` is one."""
    parts = quote(name, safe=f"{slash} =+,()[]").split("/")
    return "/".join(UNSAFE_PARTS.get(part, part) for part in parts)


def _difference(kept: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> tuple[str, Any, Any] | None:
    """Find the first field that is not as wanted: its name, what was kept, what is wanted."""
    for name, value in wanted.items():
        found = kept.get(name)
        if isinstance(value, dict) and isinstance(found, dict):
            within = _difference(found, value, f"{prefix}{name}.")
            if within is not None:
                return within
        elif found != value:
            return f"{prefix}{name}", found, value
    return None


def about_clip(clip: Clip, protocol: Protocol, mode: str) -> dict[str, Any]:
    """Return what a prediction for a clip must say of itself, whatever model it is by."""
    return {"protocol": protocol.as_meta(), "clip": clip.name, "query_mode": mode, "frames": frames_hash(clip.frames)}


def frames_hash(frames: UInt8[np.ndarray, "T H W 3"]) -> str:
    """Return 16 hexadecimal digits that are others for other frames."""
    digest = hashlib.blake2b(str(frames.shape).encode(), digest_size=8)
    for frame in frames:
        digest.update(np.ascontiguousarray(frame).data)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# Answering
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One question that one predictor still has to answer: `source` is what `load_predictor` makes it from."""

    source: str
    question: Question
    path: Path
    about: dict[str, Any]


def predict(
    dataset: Dataset,
    sources: Sequence[str],
    protocol: Protocol,
    store: PredictionStore,
    *,
    workers: int = 1,
    limit: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[Predictor]:
    """Track the clips of a data set with every model and baseline of `sources`, and keep what is not kept already.

    With several `workers` clips are tracked in as many processes, each with one thread. Raises FormatError where
    something is kept that another configuration has made. Returns the predictors.
    """
    predictors = {source: load_predictor(source, protocol, device=device) for source in sources}
    check_names([predictor.name for predictor in predictors.values()])
    total = count(dataset, limit)
    report = progress or (lambda done, total: None)
    if workers > 1:
        runner = _elsewhere(workers, partial(_answer_elsewhere, protocol, device))
    else:
        runner = _here(partial(_answer, predictors, protocol))
    with runner as run:
        for finished, clip in enumerate(unique(islice(dataset, limit))):
            report(finished, total)
            jobs = list(_missing(clip, predictors, protocol, store))
            if jobs:
                run(clip.name, clip.frames, jobs)
    return list(predictors.values())


def count(dataset: Dataset, limit: int | None) -> int | None:
    """Return how many clips there are, at most `limit`; None if that is known only when they have been read."""
    length = operator.length_hint(dataset, -1)
    return None if length < 0 else min(length, length if limit is None else limit)


def unique(clips: Iterable[Clip]) -> Iterator[Clip]:
    """Pass clips on; two of one name and kind would share a file."""
    met: set[tuple[str, bool]] = set()
    for clip in clips:
        key = clip.name, isinstance(clip, MaskedClip)
        if key in met:
            raise DatasetError(f"two clips of the data set are called {clip.name!r}. Rename one of them.")
        met.add(key)
        yield clip


def check_names(names: Sequence[str]) -> None:
    """Refuse two models of one name, which could not be told apart in a table."""
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"two models are called {name!r}. Give one of them a name: --model other=MODEL.")


def _missing(clip: Clip, predictors: dict[str, Predictor], protocol: Protocol, store: PredictionStore) -> Iterator[Job]:
    for question in questions(clip, protocol):
        about = {"pointloom": version("pointloom"), **about_clip(clip, protocol, question.mode)}
        for source, predictor in predictors.items():
            fields = {**about, "model": predictor.fingerprint}
            path = store.path(predictor.name, clip.name, question.mode)
            if path.exists():
                store.load(predictor.name, clip.name, question, fields)
            else:
                yield Job(source, question, path, fields)


def _answer(
    predictors: Mapping[str, Predictor],
    protocol: Protocol,
    clip: str,
    video: UInt8[np.ndarray, "T H W 3"],
    jobs: list[Job],
) -> None:
    """Track one clip for everyone who has not tracked it, and keep the answers."""
    frames = protocol.frames(video)
    for job in jobs:
        predictor = predictors[job.source]
        try:
            found = predictor.predict(frames, job.question.queries)
        except PointloomError as error:
            raise DatasetError(f"{predictor.name} cannot track {clip}: {error}") from error
        tracks = Tracks(
            found.xy,
            found.visibility,
            np.ones_like(found.visibility) if found.confidence is None else found.confidence,
            job.question.queries,
            np.arange(len(frames)),  # a data set does not say when its frames are shown
            (frames.shape[2], frames.shape[1]),
            meta={
                **job.about,
                "confidence": found.confidence is not None,
                "input_size": None if found.input_size is None else list(found.input_size),
                "confidence_px": found.confidence_px,
            },
        )
        job.path.parent.mkdir(parents=True, exist_ok=True)
        tracks.save(job.path)


# ---------------------------------------------------------------------------------------------------------------------
# In this process, or in others
# ---------------------------------------------------------------------------------------------------------------------

Answer = Callable[[str, np.ndarray, list[Job]], None]


@contextmanager
def _here(answer: Answer) -> Iterator[Answer]:
    yield answer


@contextmanager
def _elsewhere(workers: int, answer: Answer) -> Iterator[Answer]:
    """Yield a function that answers in one of so many processes. All is answered when the block ends.

    It waits while all processes are busy, so that one clip more than there are processes is in memory.
    """
    running: set[Future[None]] = set()

    def wait_until(at_most: int) -> None:
        nonlocal running
        while len(running) > at_most:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                try:
                    future.result()
                except BrokenProcessPool as error:
                    raise DatasetError(
                        "a process that tracked was ended by the system, most likely for want of memory. "
                        "Use fewer --workers; what was tracked is kept."
                    ) from error

    def submit(clip: str, video: UInt8[np.ndarray, "T H W 3"], jobs: list[Job]) -> None:
        wait_until(workers - 1)
        running.add(executor.submit(answer, clip, np.asarray(video), jobs))

    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of torch's threads
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        yield submit
        wait_until(0)
    finally:
        executor.shutdown(cancel_futures=True)


def _answer_elsewhere(
    protocol: Protocol, device: str, clip: str, video: UInt8[np.ndarray, "T H W 3"], jobs: list[Job]
) -> None:
    _answer({job.source: _predictor(job.source, protocol, device) for job in jobs}, protocol, clip, video, jobs)


@cache
def _predictor(source: str, protocol: Protocol, device: str) -> Predictor:
    """Load a predictor once in each process."""
    return load_predictor(source, protocol, device=device)


def _begin_worker() -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # an interruption is for the main process; the clip at hand is finished
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
