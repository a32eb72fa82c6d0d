"""Speed and memory of trackers, against the number of points, of frames, and the size of the frame.

Each measurement is one pass over a video file in a process of its own: warmed up, then repeated. Times depend on the
machine and on what else it does, so each stands beside that of Lucas-Kanade, measured just before on the same video and
points. Memory is the most that the process had in use, and what it had before the first frame: Python, libraries,
weights.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8

from pointloom.errors import OptionError, PointloomError
from pointloom.evaluation.stages import STAGES, StageClock, TimedModel, TimedVideo
from pointloom.models.base import Model
from pointloom.models.catalogue import Speed
from pointloom.models.classical import dis_flow, lucas_kanade
from pointloom.models.weight_files import load_model
from pointloom.models.zoo import untrained_model
from pointloom.queries import Queries
from pointloom.queries.base import VideoLike, on_frame
from pointloom.tracking.runner import DTYPES, Precision, choose_device
from pointloom.tracking.tracker import Tracker
from pointloom.video import open_video, write_video

FILE_FORMAT = 1
BASELINE = "lucas-kanade"
CLASSICAL = {BASELINE: lucas_kanade, "dis-flow": dis_flow}

SEED = 0  # of the video's texture and of the points
TEXTURE_CELLS_PX = (4, 16, 64)  # the texture is noise of these sizes, summed
SWAY_PX = 24  # the camera moves on a circle of this radius
TURN = 2 * np.pi / 48  # once in 48 frames
FPS = 25

P = ParamSpec("P")
R = TypeVar("R")
Clock = Callable[[], float]


@dataclass(frozen=True)
class Case:
    """What is tracked: so many points in so many frames of (width, height) `size`."""

    points: int
    frames: int
    size: tuple[int, int]

    def __post_init__(self) -> None:
        """Refuse what cannot be tracked."""
        if self.points < 1 or self.frames < 2 or min(self.size) < 64 or any(side % 2 for side in self.size):
            raise OptionError(
                f"a benchmark needs 1 point, 2 frames and even sides of 64 pixels or more; got {self.points} points, "
                f"{self.frames} frames of {self.size[0]} x {self.size[1]}."
            )


@dataclass(frozen=True)
class Repeats:
    """How often a case is run before and while it is measured, and with how many threads (None: as many as usual)."""

    warm_up: int = 1
    measured: int = 5
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that measure nothing."""
        if self.warm_up < 0 or self.measured < 1 or (self.threads is not None and self.threads < 1):
            raise OptionError(
                f"warm-up must be 0 or more, repeats and threads 1 or more; got {self.warm_up}, {self.measured} and "
                f"{self.threads}."
            )


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of the repeats."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Summarise values."""
        return Spread(median(values), min(values), max(values))

    def relative_to(self, other: Spread) -> Spread:
        """Return how many times the other one this is; low and high are the extremes that the repeats allow."""
        return Spread(self.median / other.median, self.low / other.high, self.high / other.low)


@dataclass(frozen=True)
class Measurement:
    """What one tracker needed for one case.

    seconds       for one pass over the video
    stages        seconds of each stage, in the mean of the repeats
    peak_bytes    most memory that the process had in use; None where the system does not tell
    loaded_bytes  the same before the first frame
    """

    model: str
    case: Case
    seconds: Spread
    stages: dict[str, float]
    peak_bytes: int | None
    loaded_bytes: int | None

    def row(self, baseline: Measurement) -> dict[str, Any]:
        """Return a row of the table. `baseline` is a measurement of the same case."""
        assert baseline.case == self.case
        points, frames, (width, height) = self.case.points, self.case.frames, self.case.size
        total = sum(self.stages.values())
        return {
            "model": self.model,
            "points": points,
            "frames": frames,
            "width": width,
            "height": height,
            "seconds": asdict(self.seconds),
            "frames_per_second": asdict(
                Spread(frames / self.seconds.median, frames / self.seconds.high, frames / self.seconds.low)
            ),
            "microseconds_per_frame_and_point": self.seconds.median * 1e6 / (frames * points),
            "times_baseline": asdict(self.seconds.relative_to(baseline.seconds)),
            "peak_mb": None if self.peak_bytes is None else self.peak_bytes / 1e6,
            "loaded_mb": None if self.loaded_bytes is None else self.loaded_bytes / 1e6,
            "peak_times_baseline": None
            if self.peak_bytes is None or not baseline.peak_bytes
            else self.peak_bytes / baseline.peak_bytes,
            "share_of_time": {stage: seconds / total for stage, seconds in self.stages.items()} if total else {},
        }


# ---------------------------------------------------------------------------------------------------------------------
# Many cases
# ---------------------------------------------------------------------------------------------------------------------


def one_at_a_time(points: Sequence[int], frames: Sequence[int], sizes: Sequence[tuple[int, int]]) -> list[Case]:
    """Return the first values together, and then each other value with the first ones of the rest."""
    cases = [Case(n, frames[0], sizes[0]) for n in points]
    cases += [Case(points[0], t, sizes[0]) for t in frames[1:]]
    cases += [Case(points[0], frames[0], size) for size in sizes[1:]]
    return list(dict.fromkeys(cases))


def bench(
    models: Sequence[str],
    cases: Sequence[Case],
    repeats: Repeats,
    *,
    device: str = "auto",
    precision: Precision = "float32",
    untrained: bool = False,
    clock: Clock = perf_counter,
    run: Callable[..., Any] | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Measure models, and Lucas-Kanade before them, in every case. Returns what a file of results holds.

    `run(function, *arguments)` is where each measurement takes place: by default a new process. `progress` is called
    with the share that is done, 0..1. Lucas-Kanade has no `precision` to choose. `untrained`: networks of named models
    with random weights, which are as fast as any, so that nothing has to be downloaded.
    """
    run = run or in_new_process
    names = [BASELINE, *(name for name in models if name != BASELINE)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="pointloom-bench-") as folder:
        video = Path(folder) / "video.mp4"
        for done, case in enumerate(cases):
            run(write_case_video, video, case)
            baseline: Measurement | None = None
            for k, name in enumerate(names):
                measured: Measurement = run(measure, name, video, case, repeats, device, precision, clock, untrained)
                baseline = baseline or measured
                rows.append(measured.row(baseline))
                if progress is not None:
                    progress((done + (k + 1) / len(names)) / len(cases))
    return {
        "format": FILE_FORMAT,
        "run": _circumstances(repeats, device, precision, untrained),
        "baseline": BASELINE,
        "rows": rows,
    }


def in_new_process(function: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
    """Call a function in a process that has done nothing before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments, **options).result()
        except BrokenProcessPool as error:
            raise PointloomError(
                f"the process that ran {function.__name__}{arguments} ended without a result, most likely for lack of "
                f"memory. Use fewer points or frames, or a smaller size."
            ) from error


def _circumstances(repeats: Repeats, device: str, precision: Precision, untrained: bool) -> dict[str, Any]:
    return {
        "pointloom": version("pointloom"),
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "python": platform.python_version(),
        "machine": platform.platform(),
        "processor": f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}",
        "cores": os.cpu_count(),
        "device": str(choose_device(device)),
        "precision": precision,
        "untrained": untrained,
        **asdict(repeats),
    }


def speed_of(model: str, result: dict[str, Any]) -> Speed:
    """What weights may say of themselves in their header: the first case of a model, and where it was measured."""
    row = next((row for row in result["rows"] if row["model"] == model), None)
    if row is None:
        raise OptionError(f"{model!r} was not measured, only {', '.join({row['model']: 0 for row in result['rows']})}.")
    run = result["run"]
    machine = f"{run['processor']}, {run['cores']} cores, {run['device']}, {run['precision']}"
    size = (row["width"], row["height"])
    return Speed(row["microseconds_per_frame_and_point"], row["points"], row["frames"], size, machine)


# ---------------------------------------------------------------------------------------------------------------------
# One case
# ---------------------------------------------------------------------------------------------------------------------


def measure(
    model: str,
    video: Path,
    case: Case,
    repeats: Repeats,
    device: str,
    precision: Precision,
    clock: Clock,
    untrained: bool = False,
) -> Measurement:
    """Run one tracker over a video, as often as asked. Memory is that of this process."""
    if repeats.threads is not None:
        torch.set_num_threads(repeats.threads)
        cv2.setNumThreads(repeats.threads)
    stages = StageClock(_waiting_for(choose_device(device), clock))
    if model in CLASSICAL:
        track = _classical(model, stages)
    else:
        network = untrained_model(model) if untrained else load_model(model)
        track = _learned(network, stages, device, precision)
    queries = case_queries(case)
    loaded = peak_memory()
    seconds: list[float] = []
    with open_video(video) as footage:
        for turn in range(repeats.warm_up + repeats.measured):
            if turn == repeats.warm_up:
                stages.seconds.clear()
            before = sum(stages.seconds.values())
            track(TimedVideo(footage, stages), queries)
            if turn >= repeats.warm_up:
                seconds.append(sum(stages.seconds.values()) - before)
    by_stage = {stage: total / repeats.measured for stage, total in stages.seconds.items()}
    return Measurement(model, case, Spread.of(seconds), by_stage, peak_memory(), loaded)


Track = Callable[[VideoLike, Float32[np.ndarray, "N 3"]], None]


def _classical(name: str, stages: StageClock) -> Track:
    flow = CLASSICAL[name]

    def track(video: VideoLike, queries: Float32[np.ndarray, "N 3"]) -> None:
        with stages.stage("flow"):
            flow(video[: len(video)], queries)

    return track


def _learned(model: Model, stages: StageClock, device: str, precision: Precision) -> Track:
    tracker = Tracker(TimedModel(model, stages), device=device, dtype=DTYPES[precision])

    def track(video: VideoLike, queries: Float32[np.ndarray, "N 3"]) -> None:
        with stages.stage("output"):
            tracker.track(video, Queries.points(queries))

    return track


def _waiting_for(device: torch.device, clock: Clock) -> Clock:
    """A clock that is read only when the device has done what it was asked for."""
    if device.type != "cuda":
        return clock

    def read() -> float:
        torch.cuda.synchronize(device)
        return clock()

    return read


def peak_memory() -> int | None:
    """Most bytes that this process has had in memory so far; None where the system does not tell.

    Linux counts what the starting process had in use into `getrusage`, so that its own record is asked first.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def case_queries(case: Case) -> Float32[np.ndarray, "N 3"]:
    """Points all over the first frame, drawn from a seed."""
    xy = np.random.default_rng(SEED).uniform(0, np.subtract(case.size, 1), (case.points, 2))
    return on_frame(xy, 0)


def write_case_video(path: Path, case: Case) -> None:
    """Write a video of noise of several sizes, past which a camera sways."""
    write_video(path, case_frames(case), fps=FPS)


def case_frames(case: Case) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Make the frames of that video, one at a time."""
    width, height = case.size
    rng = np.random.default_rng(SEED)
    wall = np.zeros((height + 2 * SWAY_PX, width + 2 * SWAY_PX, 3), np.float32)
    for cell in TEXTURE_CELLS_PX:
        noise = rng.uniform(0, 1, (wall.shape[0] // cell + 2, wall.shape[1] // cell + 2, 3)).astype(np.float32)
        wall += cv2.resize(noise, wall.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    darkest, brightest = wall.min(), wall.max()
    painted = ((wall - darkest) * (255 / (brightest - darkest))).astype(np.uint8)
    for t in range(case.frames):
        x, y = (round(SWAY_PX * (1 + f(TURN * t))) for f in (np.cos, np.sin))
        yield painted[y : y + height, x : x + width]


# ---------------------------------------------------------------------------------------------------------------------
# For people to read
# ---------------------------------------------------------------------------------------------------------------------


def format_table(result: dict[str, Any]) -> str:
    """Two tables: speed and memory; and where the time goes. Spreads are the smallest and largest of the repeats."""
    speed = [
        [
            "model",
            "points",
            "frames",
            "size",
            "frames/s",
            "us/frame/point",
            f"time x {BASELINE}",
            "peak MB",
            "loaded MB",
        ]
    ]
    goes = [["model", "points", "frames", "size", "where the time goes"]]
    for row in result["rows"]:
        fps, times = row["frames_per_second"], row["times_baseline"]
        what = [row["model"], str(row["points"]), str(row["frames"]), f"{row['width']}x{row['height']}"]
        speed.append(
            [
                *what,
                f"{fps['median']:.1f} ({fps['low']:.1f}-{fps['high']:.1f})",
                f"{row['microseconds_per_frame_and_point']:.1f}",
                f"{times['median']:.2f} ({times['low']:.2f}-{times['high']:.2f})",
                _number(row["peak_mb"]),
                _number(row["loaded_mb"]),
            ]
        )
        shares = sorted(row["share_of_time"].items(), key=lambda item: _place(item[0]))
        goes.append([*what, ", ".join(f"{stage} {100 * share:.0f} %" for stage, share in shares)])
    return f"{_columns(speed)}\n\n{_columns(goes)}"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f}"


def _place(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
