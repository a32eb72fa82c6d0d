"""What a run tells about itself: a line on the screen, metrics.jsonl and TensorBoard from the first process.

Draws that were passed over are written by the process that met them, into passed.jsonl with their paths, and warned of;
their number over all processes is among the metrics.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from lightning_fabric import Fabric
from numpy import ndarray
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from pointloom.errors import PointloomWarning
from pointloom.training.sources import Passed

REPORT_EVERY = 20  # steps


class Log:
    """The log of a run that begins, or goes on, after `step` of `steps` steps and `seconds`; `skipped` were no use."""

    def __init__(self, fabric: Fabric, run: Path, steps: int, step: int, seconds: float, skipped: int) -> None:
        self.fabric = fabric
        self.run = run
        self.steps = steps
        self.first_step = step
        self.seconds_before = seconds
        self.skipped = skipped
        self.started = time.monotonic()
        self.waited = 0.0
        self.sums: dict[str, float] = {}
        self.count = 0
        if fabric.is_global_zero:
            for name in ("metrics.jsonl", "passed.jsonl"):
                forget_after(run / name, step)
            self.file = (run / "metrics.jsonl").open("a")
            self.board = SummaryWriter(str(run), purge_step=step + 1)
        fabric.barrier()
        self.passed = sum(row["process"] == fabric.global_rank for row in read_rows(run / "passed.jsonl"))

    @property
    def seconds(self) -> float:
        """Seconds trained so far, earlier calls included."""
        return self.seconds_before + time.monotonic() - self.started

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time what is spent on data."""
        start = time.monotonic()
        yield
        self.waited += time.monotonic() - start

    def step(self, step: int, losses: Mapping[str, Tensor], norm: Tensor | None) -> None:
        """Take note of a step."""
        for key, value in {**losses, "norm": norm}.items():
            if value is not None:
                self.sums[key] = self.sums.get(key, 0.0) + float(value.detach())
        self.count += 1
        if step % REPORT_EVERY == 0 or step == self.steps:
            elapsed = time.monotonic() - self.started
            rate = elapsed / max(step - self.first_step, 1)
            means = {key: value / self.count for key, value in self.sums.items()}
            passed = float(torch.as_tensor(self.fabric.all_reduce(torch.tensor(float(self.passed)), reduce_op="sum")))
            means |= {"seconds_a_step": rate, "waiting": self.waited / elapsed}
            means |= {"skipped": float(self.skipped), "passed": passed}
            self._write({"step": step, "hours": self.seconds / 3600, **means}, "train")
            left = rate * (self.steps - step) / 60
            text = "  ".join(f"{key} {value:.4g}" for key, value in means.items())
            self._say(f"step {step}/{self.steps}  {text}  {left:.0f} min left")
            self.sums, self.count = {}, 0

    def passed_over(self, step: int, passed: Sequence[Passed]) -> None:
        """Take note of draws of this process that could not be used."""
        self.passed += len(passed)
        if passed:
            rows = [{"step": step, "process": self.fabric.global_rank, **one._asdict()} for one in passed]
            with (self.run / "passed.jsonl").open("a") as file:  # each process in one write, so that lines stay whole
                file.write("".join(json.dumps(row) + "\n" for row in rows))
        for path, reason in passed:
            warnings.warn(f"passed over {path}: {reason}", PointloomWarning, stacklevel=2)

    def scores(self, step: int, scores: Mapping[str, float], pictures: Mapping[str, UInt8[ndarray, "_h _w 3"]]) -> None:
        """Take note of validation scores, and show tracks."""
        self._write({"step": step, "hours": self.seconds / 3600, **scores}, "validation")
        self._say(f"step {step}  validation  " + "  ".join(f"{k} {v:.2f}" for k, v in scores.items()))
        if self.fabric.is_global_zero:
            for name, picture in pictures.items():
                self.board.add_image(f"tracks/{name}", picture, step, dataformats="HWC")

    def close(self) -> None:
        """Close the files."""
        if self.fabric.is_global_zero:
            self.file.close()
            self.board.close()

    def _write(self, row: Mapping[str, float], group: str) -> None:
        if self.fabric.is_global_zero:
            self.file.write(json.dumps({"group": group, **row}) + "\n")
            self.file.flush()
            for key, value in row.items():
                self.board.add_scalar(f"{group}/{key}", value, int(row["step"]))

    def _say(self, text: str) -> None:
        self.fabric.print(text, flush=True)


def forget_after(file: Path, step: int) -> None:
    """Remove rows of steps that will be made again, and a row that was cut off."""
    kept = [row for row in read_rows(file) if row["step"] <= step]
    if file.exists():
        unfinished = file.with_suffix(".tmp")
        unfinished.write_text("".join(json.dumps(row) + "\n" for row in kept))
        unfinished.replace(file)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, up to one that was cut off; none if there is no file."""
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
