"""Checkpoints of a run: written beside and renamed, the newest two kept, a corrupt one passed over."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from pointloom.errors import FormatError, PointloomWarning

KEPT = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state of a run after `step` steps."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:08d}.pt"
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save(state, unfinished)
    unfinished.replace(path)
    for left_over in folder.glob("step_*.tmp"):  # by processes that were killed
        left_over.unlink()
    for old in sorted(folder.glob("step_*.pt"))[:-KEPT]:
        old.unlink()
    return path


def load_newest(folder: Path) -> dict[str, Any] | None:
    """Return the newest state that can be read, or None where nothing was saved yet."""
    paths = sorted(folder.glob("step_*.pt"), reverse=True)
    for path in paths:
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        except Exception as error:  # whatever a half-written file makes the reader raise
            warnings.warn(
                f"{path} cannot be read ({type(error).__name__}); trying the one before.",
                PointloomWarning,
                stacklevel=2,
            )
    if paths:
        raise FormatError(
            f"no checkpoint in {folder} can be read. Is the disk there? Remove that folder to begin the run again."
        )
    return None
