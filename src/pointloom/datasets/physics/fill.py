"""Filling a folder with physics clips: several processes, a clip a seed, and an interrupted run goes on.

A clip is a function of its seed and is renamed into place when it is complete. So it does not matter which process
makes it, nor how often the run was interrupted: the files are the same.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

import cv2

from pointloom.datasets.generated import clip_name, is_made
from pointloom.datasets.kubric_layout import KUBRIC, write_sequence
from pointloom.datasets.physics.config import PhysicsConfig
from pointloom.datasets.physics.engine import load_mujoco
from pointloom.datasets.physics.film import make_clip, make_full_clip
from pointloom.datasets.physics.obj import ModelBank
from pointloom.datasets.physics.truth import scene_truth
from pointloom.datasets.pool import POOL, write_clip
from pointloom.datasets.synthetic.textures import TextureBank

Layout: TypeAlias = Literal["pool", "kubric"]


@dataclass(frozen=True)
class Production:
    """What to make, and of what.

    textures  a folder of photos; None for drawn textures
    models    a folder of OBJ files; None for drawn shapes alone
    layout    pool: frames and tracks, for training; kubric: all that is known, as `pointloom.datasets.kubric` reads it
    """

    config: PhysicsConfig
    textures: Path | None = None
    models: Path | None = None
    layout: Layout = "pool"

    def is_made(self, folder: Path, seed: int) -> bool:
        """Whether a clip is there. Raises DatasetError if something else has its place."""
        return is_made(folder, seed, {"pool": POOL, "kubric": KUBRIC}[self.layout])


def fill(
    folder: Path,
    seeds: range,
    production: Production,
    *,
    workers: int = 1,
    progress: Callable[[float], None] | None = None,
) -> int:
    """Make the clips of `seeds` that the folder lacks, and return how many were made. Can be interrupted."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if not production.is_made(folder, seed)]
    if missing:
        _banks(production.textures, production.models)  # what is wrong with them is said before processes start
        load_mujoco()
    there = len(seeds) - len(missing)
    for made, _ in enumerate(_made(folder, missing, production, workers), 1):
        if progress is not None:
            progress((there + made) / len(seeds))
    return len(missing)


def _made(folder: Path, missing: list[int], production: Production, workers: int) -> Iterator[None]:
    """Make clips, in this process or in others; yield after each."""
    if workers == 1:
        for seed in missing:
            _make(folder, production, seed)
            yield
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy what OpenGL holds
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        for future in as_completed([executor.submit(_make, folder, production, seed) for seed in missing]):
            future.result()
            yield
    finally:
        executor.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """Leave interruptions to the main process, so that the clip at hand is finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)


def _make(folder: Path, production: Production, seed: int) -> None:
    textures, models = _banks(production.textures, production.models)
    if production.layout == "pool":
        write_clip(folder, replace(make_clip(production.config, textures, models, seed), name=clip_name(seed)))
    else:
        clip = make_full_clip(production.config, textures, models, seed)
        write_sequence(folder, replace(clip, name=clip_name(seed)), scene_truth(clip))


@cache
def _banks(textures: Path | None, models: Path | None) -> tuple[TextureBank, ModelBank]:
    """Read photos and models, once in each process."""
    return (
        TextureBank.from_folder(textures) if textures else TextureBank.procedural(),
        ModelBank.from_folder(models) if models else ModelBank(),
    )
