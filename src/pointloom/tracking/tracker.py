"""Tracker: where points are in every frame of a video.

One walk over the video goes window by window; a model that sees the whole video has one window, and one that remembers
what it has seen (causal) has windows that do not overlap. For each window the features of its frames are at hand, and
the points are refined in batches that fit the memory budget:

    for the points that walk together:              all of them, unless their descriptions need too much memory
        for each direction:                         forward from the first frame, backward from the last
            for each window:                        features of its new frames are encoded, those of past ones dropped
                for each batch of points: refine

So the results are the only thing that grows with the length of the video. If the video is walked over more than once
(both directions, very many points) the features of all frames are kept where they fit into half of the memory budget;
where they do not, frames are encoded again in each walk. Features never depend on the points, so that any number of
batches shares them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import ArrayLike

from pointloom.errors import OptionError
from pointloom.models.base import Estimate, Mode, Model
from pointloom.models.weight_files import weights_hash
from pointloom.queries import Queries, VideoLike
from pointloom.tracking.batches import ALONE, Batch, joint_batches, single_batches
from pointloom.tracking.causal import FRAMES_AT_ONCE, causal_spans
from pointloom.tracking.features import Features, KeptFeatures, PassingFeatures
from pointloom.tracking.memory import Costs, MemoryPlan, measure_costs, parse_bytes, plan_memory
from pointloom.tracking.recovery import TRIES
from pointloom.tracking.runner import Runner, choose_device
from pointloom.tracking.state import WalkState, advance
from pointloom.tracking.windows import window_spans
from pointloom.tracks import Tracks
from pointloom.video import open_video

Direction = Literal["forward", "backward", "both"]
Source = VideoLike | np.ndarray | str | Path
Progress = Callable[[float], None]


class Tracker:
    """Tracks points through videos.

        tracks = Tracker(load_model("tiny")).track(open_video("clip.mp4"), Queries.grid(20), direction="both")

    mode           `full` sees all frames at once, `windowed` walks over them, `causal` walks over them and remembers;
                   default: the model's first
    step           new frames in each window, 1 .. half the window; default: the model's. Smaller is slower and closer
    iterations     refinements of each estimate; default: the model's
    masked         windowed mode: a point does not exist for the others before its query's frame, so that a query in a
                   later window changes nothing in an earlier one. False is how the official CoTracker3 does it
    recover        windowed mode: looks for lost points where their neighbours went and where their own speed took them,
                   too, and takes what the model trusts most; so answers depend on neighbours also where points do not
                   look at each other. Default: the model's
    support_grid   adds n x n points on every frame that has queries, as company for models whose points look at each
                   other. They are not returned
    per_query      tracks each query alone, with support points around it and over the frame: slow, and best for models
                   whose points look at each other
    memory_budget  bytes, or a text such as "4GB", for features and everything that is computed from them. Models whose
                   points look at each other track in groups where the budget is too small for all at once
    device         where to compute; the model is moved there. `auto`: CUDA, MPS or CPU, whichever there is first
    dtype          torch.bfloat16 or float16 for faster layers; None for the type of the weights
    """

    def __init__(
        self,
        model: Model,
        *,
        mode: Mode | None = None,
        step: int | None = None,
        iterations: int | None = None,
        masked: bool = True,
        recover: bool | None = None,
        support_grid: int = 0,
        per_query: bool = False,
        memory_budget: str | int = "4GB",
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Check the options and move the model."""
        info = model.info
        self.model = model
        self.mode: Mode = info.modes[0] if mode is None else mode
        if self.mode not in info.modes:
            raise OptionError(f"{info.family} has the modes {', '.join(info.modes)}; mode={mode!r} is not one of them.")
        self.step = check_step(step, model, self.mode)
        self.iterations = check_iterations(iterations)
        self.masked = masked
        # in full mode all points are there from the beginning; in causal mode each begins in the frame of its query
        self._masked = masked if self.mode == "windowed" else self.mode == "causal"
        self.recover = check_recover(recover, model, self.mode)
        if support_grid < 0 or (support_grid and per_query):
            raise OptionError(
                f"support_grid={support_grid} must be 0 or more, and 0 with per_query, which brings its own support."
            )
        self.support_grid = support_grid
        self.per_query = per_query
        self.memory_budget = parse_bytes(memory_budget)
        self._runner = Runner(model, choose_device(device), dtype)
        self._costs: dict[tuple[int, int], Costs] = {}

    @overload
    def track(
        self,
        video: list[Source],
        queries: Queries | Sequence[Queries | ArrayLike],
        *,
        direction: Direction = "forward",
        progress: Progress | None = None,
    ) -> list[Tracks]: ...
    @overload
    def track(
        self,
        video: Source,
        queries: Queries | ArrayLike,
        *,
        direction: Direction = "forward",
        progress: Progress | None = None,
    ) -> Tracks: ...
    def track(
        self,
        video: Source | list[Source],
        queries: Any,
        *,
        direction: Direction = "forward",
        progress: Progress | None = None,
    ) -> Tracks | list[Tracks]:
        """Track points through a video, or through each of a list of videos (with one `Queries`, or a list of as many).

        `forward` tracks from each query's frame to the end, `backward` to the beginning, `both` does both. A track goes
        exactly through its query, where visibility and confidence are 1. In frames that were not asked for a point is
        left at its query, with visibility and confidence 0. Videos shorter than a window are padded by repeating their
        last frame.

        `progress` is called with the share that is done, 0..1. Raises QueryError if a query does not lie in the video,
        OptionError if the memory budget is too small.
        """
        if direction not in get_args(Direction):
            raise OptionError(f"direction is 'forward', 'backward' or 'both', got {direction!r}.")
        if isinstance(video, list):
            return self._track_each(video, queries, direction, progress)
        footage = open_video(video) if isinstance(video, str | Path | np.ndarray) else video
        wanted = queries if isinstance(queries, Queries) else Queries.points(queries)
        with self._runner.session():
            return self._track(footage, wanted.resolve(footage), direction, progress or _ignore)

    def _track_each(
        self, videos: list[Source], queries: Any, direction: Direction, progress: Progress | None
    ) -> list[Tracks]:
        each = [queries] * len(videos) if isinstance(queries, Queries) else list(queries)
        if len(each) != len(videos):
            raise OptionError(f"{len(videos)} videos need one Queries for all, or a list of as many; got {len(each)}.")
        share = 1 / max(len(videos), 1)
        report = progress or _ignore
        return [
            self.track(v, q, direction=direction, progress=lambda done, k=k: report((k + done) * share))
            for k, (v, q) in enumerate(zip(videos, each, strict=True))
        ]

    # ---- one video

    def _track(
        self, video: VideoLike, queries: Float32[np.ndarray, "N 3"], direction: Direction, progress: Progress
    ) -> Tracks:
        frames = len(video)
        walks = _walks(queries, frames, direction)
        result = _Result(queries, frames)
        if walks:
            costs = self._costs_of(video.size)
            plan = plan_memory(
                self.memory_budget,
                costs,
                full=self.mode == "full",
                frames=frames,
                window=self._most_at_once(frames),
                points=len(queries) * (ALONE if self.per_query else 1),
                together=(ALONE if self.per_query else 1 + self.support_grid**2) * self._crowd,
                directions=len(walks),
            )
            groups = list(self._groups(queries, video.size, costs, plan))
            pieces = sum(len(group) * len(self._windows(group, frames, b)) for group in groups for b in walks)
            count = _Counter(progress, pieces)
            features = self._features(video, plan, count)
            for group in groups:
                for backward in walks:
                    features.turn(backward=backward)
                    self._walk(group, features, result, count, backward=backward)
            frames = features.frames
        progress(1.0)
        return result.tracks(frames, video, self._meta(video, direction))

    def _most_at_once(self, frames: int) -> int:
        """Frames that are seen at once in a video of so many frames."""
        return {"full": frames, "windowed": self.model.info.window, "causal": FRAMES_AT_ONCE}[self.mode]

    def _windows(self, group: list[Batch], frames: int, backward: bool) -> list[tuple[int, int]]:
        """(start, stop) of the frames that are worked on together, one after the other; some may not be there."""
        if self.mode == "causal":
            starts = np.concatenate([_in_walk(batch.points, frames, backward)[:, 0] for batch in group])
            return causal_spans(starts.clip(0).astype(int).tolist(), frames)
        window = self._most_at_once(frames)
        step = frames if self.mode == "full" else self.step
        return window_spans(frames, window, step, lead_in=self.model.info.leads_in)

    @property
    def _crowd(self) -> int:
        """For how many points there has to be room for each one."""
        return 1 + TRIES * self.recover

    def _costs_of(self, size: tuple[int, int]) -> Costs:
        if size not in self._costs:
            self._costs[size] = measure_costs(self._runner, size, causal=self.mode == "causal")
        return self._costs[size]

    def _features(self, video: VideoLike, plan: MemoryPlan, count: _Counter) -> Features:
        if not plan.keep_features:
            return PassingFeatures(self._runner, video, plan.frames_at_once)
        count.total += len(video)
        return KeptFeatures(self._runner, video, plan.frames_at_once, count.done)

    def _groups(
        self, queries: Float32[np.ndarray, "N 3"], size: tuple[int, int], costs: Costs, plan: MemoryPlan
    ) -> Iterator[list[Batch]]:
        """Collect batches that walk over the video together."""
        batches = (
            single_batches(queries, size, costs.input)
            if self.per_query
            else joint_batches(queries, size, support_grid=self.support_grid, most=plan.points_at_once // self._crowd)
        )
        group: list[Batch] = []
        points = 0
        for batch in batches:
            if group and points + len(batch.points) > plan.points_a_walk:
                yield group
                group, points = [], 0
            group.append(batch)
            points += len(batch.points)
        yield group

    def _walk(
        self,
        group: list[Batch],
        features: Features,
        result: _Result,
        count: _Counter,
        *,
        backward: bool,
    ) -> None:
        queries = [_in_walk(batch.points, features.frames, backward) for batch in group]
        states = [WalkState.of(self._runner.positions(q), causal=self.mode == "causal") for q in queries]
        windows = self._windows(group, features.frames, backward)
        last_start = known = 0
        for start, stop in windows:
            step, last_start = start - last_start, start
            seen_before, known = known, stop
            reached = [bool(len(s.ids)) or bool((s.waiting[:, 0] < stop).any()) for s in states]
            if not any(reached):
                count.done(len(group))
                continue
            if features.frames <= seen_before:
                break  # the video turned out to be shorter, and this window brings nothing new
            real = features.between(start, stop)
            if real.stop <= seen_before:
                break  # it turned out just now
            padded = real.padded(stop - start)
            for k, batch in enumerate(group):
                if reached[k]:
                    states[k] = advance(
                        self.model,
                        states[k],
                        padded,
                        stop=real.stop,
                        step=step,
                        iterations=self.iterations,
                        masked=self._masked,
                        recover=self.recover,
                    )
                    result.write(batch, states[k], start, real.stop, features.frames if backward else None)
                if (start, stop) == windows[-1]:
                    states[k] = _NOBODY  # the descriptions of these points are not needed any more
                count.done(1)

    # ---- where the tracks are from

    def _meta(self, video: VideoLike, direction: Direction) -> dict[str, Any]:
        options = {
            "mode": self.mode,
            "direction": direction,
            "iterations": self.model.info.iterations if self.iterations is None else self.iterations,
            "masked": self.masked,
            "recover": self.recover,
            "support_grid": self.support_grid,
            "per_query": self.per_query,
            "dtype": str(self._runner.dtype or "weights").removeprefix("torch."),
        }
        if self.mode == "windowed":
            options["step"] = self.step
        return {
            "pointloom": version("pointloom"),
            "model": self.model.info.family,
            "weights": self._weights,
            "source": video.name,
            "options": options,
        }

    @cached_property
    def _weights(self) -> str:
        return weights_hash(self.model)


_NOBODY = WalkState.of(torch.zeros(0, 3))


class _Result:
    """Tracks in the making: every point at its query, not seen elsewhere, until something better is written."""

    def __init__(self, queries: Float32[np.ndarray, "N 3"], frames: int) -> None:
        N = len(queries)
        self.queries = queries
        self.xy = np.repeat(queries[:, None, 1:], frames, axis=1)
        self.visibility = np.zeros((N, frames), np.float32)
        self.confidence = np.zeros((N, frames), np.float32)
        at_query = np.arange(N), queries[:, 0].astype(int)
        self.visibility[at_query] = 1
        self.confidence[at_query] = 1

    def write(self, batch: Batch, state: WalkState, start: int, stop: int, backward_from: int | None) -> None:
        """Write what a window found in frames start..stop-1 of its walk, on the far side of each query.

        `backward_from` is the number of frames of the video if the walk is a backward one.
        """
        if state.previous is None:
            return
        ids = state.ids.numpy()
        asked = np.flatnonzero(ids < len(batch.rows))
        rows = batch.rows[ids[asked]]
        estimate = state.previous.frames(0, stop - start)
        if backward_from is not None:
            estimate = estimate.reversed()
            start, stop = backward_from - stop, backward_from - start
        frame = np.arange(start, stop)
        query_frame = self.queries[rows, :1]
        wanted = frame < query_frame if backward_from is not None else frame > query_frame
        for target, values in zip((self.xy, self.visibility, self.confidence), _arrays(estimate), strict=True):
            mask = wanted[..., None] if values.ndim > wanted.ndim else wanted
            target[rows, start:stop] = np.where(mask, values[asked], target[rows, start:stop])

    def tracks(self, frames: int, video: VideoLike, meta: dict[str, Any]) -> Tracks:
        """Return the first `frames` frames of the result."""
        return Tracks(
            self.xy[:, :frames],
            self.visibility[:, :frames],
            self.confidence[:, :frames],
            self.queries,
            np.asarray(video.seconds)[:frames],
            video.size,
            meta=meta,
        )


class _Counter:
    """Turns pieces of work into shares of the whole."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.total = total
        self._progress = progress
        self._so_far = 0

    def done(self, pieces: int) -> None:
        """Report that some more pieces are done."""
        self._so_far += pieces
        self._progress(self._so_far / self.total)


def check_step(step: int | None, model: Model, mode: Mode) -> int:
    """Return a step that fits the model's window. In the other modes there is none to choose."""
    info = model.info
    if step is None:
        return info.step if mode == "windowed" else 1
    if mode != "windowed":
        instead = "there is one window" if mode == "full" else "each frame is seen once"
        raise OptionError(f"step={step} is for windowed mode; in {mode} mode {instead}.")
    if not 1 <= step <= info.window // 2:
        raise OptionError(f"step must lie in 1..{info.window // 2}, half of the window of {info.window}; got {step}.")
    return step


def check_recover(recover: bool | None, model: Model, mode: Mode) -> bool:
    """Return whether lost points are looked for, which only windows can do. None: the model's default."""
    if mode != "windowed":
        if recover:
            raise OptionError(f"recover is for windowed mode; in {mode} mode no window hands lost points to the next.")
        return False
    return model.info.recovers if recover is None else recover


def check_iterations(iterations: int | None) -> int | None:
    """Return a number of iterations, or None for the model's own."""
    if iterations is not None and iterations < 1:
        raise OptionError(f"iterations must be 1 or more, got {iterations}.")
    return iterations


def _walks(queries: Float32[np.ndarray, "N 3"], frames: int, direction: Direction) -> list[bool]:
    """Which walks there is anything to do for: False forward, True backward."""
    forward = direction != "backward" and bool((queries[:, 0] < frames - 1).any())
    backward = direction != "forward" and bool((queries[:, 0] > 0).any())
    return [False] * forward + [True] * backward


def _in_walk(points: Float32[np.ndarray, "m 3"], frames: int, backward: bool) -> Float32[np.ndarray, "m 3"]:
    """Points with their frames in the time of a walk."""
    if not backward:
        return points
    return points * np.array([-1, 1, 1], np.float32) + np.array([frames - 1, 0, 0], np.float32)


def _arrays(estimate: Estimate) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions, visibility and confidence of a single video, points first."""
    values = estimate.xy, estimate.visibility, estimate.confidence
    xy, visibility, confidence = (v[0].transpose(0, 1).float().cpu().numpy() for v in values)
    return xy, visibility, confidence


def _ignore(done: float) -> None:
    """Take note of nothing."""
