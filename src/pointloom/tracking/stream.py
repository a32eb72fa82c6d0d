"""Stream: points on frames that arrive one by one, as from a camera.

The windows are those of a walk over a whole video, run as soon as their frames have arrived. With a window of 16 frames
and a step of 4, after the frame in the left column (counted from 1):

    4   [0..3]        the beginning: shorter windows, whose end is padded by repeating the last frame. Their answers are
    8   [0..7]        given, and forgotten: the next one starts anew
    12  [0..11]
    16  [0......15]   from here on each window starts from the result of the one before it
    20      [4......19]

With a lead-in (`windows.py`) the beginning is no exception: its shorter windows are not padded, and each starts from
the result of the one before it.

Two kinds of answer. `newest`: each window answers the frames that no window has answered yet, so that a frame waits for
at most step - 1 others. `final`: each frame is answered once no later window will change it, after window - 1 frames at
most, and the answers are those of `Tracker`.

A smaller step means less delay and more work: every frame takes part in window / step windows.

A causal model has windows of one frame, each with what the model remembers of those before: every frame is answered at
once, and for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from numpy.typing import ArrayLike
from torch import Tensor

from pointloom.errors import FormatError, OptionError, QueryError
from pointloom.models.base import Estimate, FrameFeatures, Memory, Model, PointFeatures
from pointloom.queries.base import check_queries
from pointloom.queries.points import Points
from pointloom.tracking.recovery import Sightings
from pointloom.tracking.runner import Runner, choose_device
from pointloom.tracking.state import WalkState, advance
from pointloom.tracking.tracker import check_iterations, check_recover, check_step
from pointloom.tracking.windows import first_stop, start_of
from pointloom.tracks import SEEN, SeenRule, seen_rule

AnswerKind = Literal["newest", "final"]
STATE_FORMAT = 5
ESTIMATE_FIELDS = ("xy", "visibility_logit", "confidence_logit")


@dataclass(frozen=True)
class Answer:
    """Where the points of a stream are in one frame: those whose query lies in it or in an earlier one."""

    frame: int
    ids: Int64[np.ndarray, " n"]
    xy: Float32[np.ndarray, "n 2"]
    visibility: Float32[np.ndarray, " n"]
    confidence: Float32[np.ndarray, " n"]

    def seen(self, rule: SeenRule | str = SEEN) -> Bool[np.ndarray, " n"]:
        """Where each point counts as seen (see `Tracks.seen`)."""
        return seen_rule(rule)(self.visibility, self.confidence)


@dataclass(frozen=True)
class StreamState:
    """Everything that a stream remembers: never more than the features of one window of frames, and its points.

    A value that is never changed: keep one, and give it back later to continue from there.

    walk      the points, and where the last window found them
    received  frames that have arrived
    answered  frames that have been answered
    stop      one past the last frame of the next window
    frames    features of the frames of that window that have arrived, one by one
    next_id   id of the next point
    size      (width, height) of the frames, once there is one
    ended     whether the stream was closed
    """

    walk: WalkState
    received: int = 0
    answered: int = 0
    stop: int = 0
    frames: tuple[FrameFeatures, ...] = ()
    next_id: int = 0
    size: tuple[int, int] | None = None
    ended: bool = False


class Stream:
    """Tracks points in frames that arrive one by one.

        stream = Stream(load_model("tiny"), step=4)
        stream.add([[120.5, 64]])
        for frame in camera:
            for answer in stream.step(frame): ...

    step        frames between two windows, 1 .. half the window; default: the model's. Not for causal models
    answer      `newest`: as soon as possible; `final`: once nothing will change any more, as `Tracker` answers
    iterations  refinements of each estimate; default: the model's
    masked      whether points in later frames are unknown to the others (see `Tracker`)
    recover     whether lost points are looked for in other places (see `Tracker`); default: the model's
    device      where to compute; the model is moved there. `auto`: CUDA, MPS or CPU, whichever there is first
    dtype       torch.bfloat16 or float16 for faster layers; None for the type of the weights

    The model keeps nothing of a stream: any number of streams can share one. `state` is all there is to a stream.
    """

    def __init__(
        self,
        model: Model,
        *,
        step: int | None = None,
        answer: AnswerKind = "newest",
        iterations: int | None = None,
        masked: bool = True,
        recover: bool | None = None,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Check the options and move the model."""
        mode = next((mode for mode in model.info.modes if mode != "full"), None)
        if mode is None:
            raise OptionError(f"this {model.info.family} has only the mode full: it sees whole videos, not streams.")
        if answer not in get_args(AnswerKind):
            raise OptionError(f"answer is 'newest' or 'final', got {answer!r}.")
        self.model = model
        self.advance_by = check_step(step, model, mode)
        self.answer: AnswerKind = answer
        self.iterations = check_iterations(iterations)
        self.masked = masked
        self.recover = check_recover(recover, model, mode)
        self._causal = mode == "causal"
        self._masked = masked or self._causal  # in causal mode a point begins in the frame of its query
        self._window = 1 if self._causal else model.info.window
        self._first_stop = first_stop(self._window, self.advance_by, lead_in=model.info.leads_in)
        self._runner = Runner(model, choose_device(device), dtype)
        self.state = self._empty()

    # ---- points

    def add(self, points: ArrayLike, frame: int | None = None) -> Int64[np.ndarray, " n"]:
        """Begin to track points: (n, 2) of (x, y) in `frame`, or (n, 3) of (frame, x, y). Return their ids.

        `frame` defaults to the next one to arrive. Frames in the past are possible as far back as the next window
        begins; answers that have been given are not given again.
        """
        array = np.asarray(points)
        if frame is None and array.ndim == 2 and array.shape[1] == 2:
            frame = self.state.received
        queries = Points(points, frame).queries
        state = self.state
        check_queries(queries, frames=None, size=state.size)
        oldest = self._start(state.stop)
        late = queries[:, 0] < oldest
        if late.any():
            raise QueryError(
                f"query {int(late.argmax())} starts in frame {queries[late][0, 0]:.0f}, which is no longer at hand; "
                f"the oldest frame is {oldest}. Add points sooner, or in a later frame."
            )
        ids = torch.arange(state.next_id, state.next_id + len(queries))
        walk = state.walk.added(ids, self._runner.positions(queries))
        self.state = replace(state, walk=walk, next_id=state.next_id + len(queries))
        return ids.numpy()

    def remove(self, ids: ArrayLike) -> None:
        """Forget points. Their ids are not used again."""
        gone = torch.as_tensor(np.atleast_1d(np.asarray(ids, np.int64)))
        walk = self.state.walk
        unknown = ~torch.isin(gone, torch.cat([walk.ids, walk.waiting_ids]))
        if unknown.any():
            raise QueryError(
                f"the stream has no point with id {gone[unknown][0]}: it was removed before, or never added."
            )
        self.state = replace(self.state, walk=walk.without(gone))

    # ---- frames

    def step(self, frame: UInt8[np.ndarray, "H W 3"]) -> list[Answer]:
        """Take the next frame (RGB) and return what can be answered now: nothing, or one `Answer` a frame, in order."""
        state = self.state
        if state.ended:
            raise OptionError("the stream was closed. Call reset() to begin another one.")
        size = self._check(frame)
        with self._runner.session():
            features = self._runner.encode(np.asarray(frame)[None], state.received)
            received = state.received + 1
            state = replace(state, received=received, frames=(*state.frames, features), size=size)
            answers: list[Answer] = []
            if (received - self._window) % self.advance_by:
                pass  # no window ends here
            elif received >= self._first_stop:
                state = self._run_window(state)
                state, answers = self._answered(state, received if self.answer == "newest" else self._start(state.stop))
            elif self.answer == "newest":
                _, answers = self._answered(self._run_window(state), received)
                state = replace(state, answered=received)
        self.state = state
        return answers

    def close(self) -> list[Answer]:
        """End the stream and return the answers for all frames that have none yet.

        Points that were added after the last window have one of their own now, which then answers for all points.
        """
        state = replace(self.state, ended=True)
        answers: list[Answer] = []
        if state.answered < state.received:
            seen_up_to = state.stop - self.advance_by if state.stop > self._first_stop else 0
            with self._runner.session():
                if seen_up_to < state.received or bool((state.walk.waiting[:, 0] < state.received).any()):
                    state = self._run_window(state)
                state, answers = self._answered(state, state.received)
        self.state = state
        return answers

    def _run_window(self, state: StreamState) -> StreamState:
        """Refine the points in the window that ends at `state.stop`, as far as its frames have arrived."""
        start = self._start(state.stop)
        features = FrameFeatures.join(list(state.frames)).padded(state.stop - start)
        walk = advance(
            self.model,
            state.walk,
            features,
            stop=state.received,
            step=start - self._start(state.stop - self.advance_by),
            iterations=self.iterations,
            masked=self._masked,
            recover=self.recover,
        )
        stop = state.stop + self.advance_by
        past = self._start(stop) - start  # frames that no later window has
        return replace(state, walk=walk, stop=stop, frames=state.frames[past:])

    def _start(self, stop: int) -> int:
        return start_of(stop, self._window)

    def _answered(self, state: StreamState, stop: int) -> tuple[StreamState, list[Answer]]:
        """Answer frames up to stop - 1 with the result of the last window."""
        stop = max(stop, state.answered)
        last_start = self._start(state.stop - self.advance_by)
        answers = _answers(state.walk, last_start, range(state.answered, stop))
        return replace(state, answered=stop), answers

    def _check(self, frame: Any) -> tuple[int, int]:
        shape, dtype = getattr(frame, "shape", None), str(getattr(frame, "dtype", None)).removeprefix("torch.")
        if shape is None or len(shape) != 3 or shape[2] != 3 or dtype != "uint8":
            raise OptionError(
                f"a frame is a uint8 array (height, width, 3) in RGB, got {dtype} {tuple(shape) if shape else ''}. "
                f"From OpenCV: frame[..., ::-1]."
            )
        size = (int(shape[1]), int(shape[0]))
        if self.state.size is None:
            check_queries(self.state.walk.waiting.cpu().float().numpy(), frames=None, size=size)
        elif self.state.size != size:
            raise OptionError(
                f"the stream began with frames of {self.state.size[0]} x {self.state.size[1]} pixels, frame "
                f"{self.state.received} has {size[0]} x {size[1]}. Resize it, or call reset()."
            )
        return size

    # ---- state

    def reset(self) -> None:
        """Forget everything: frames count from 0 again, and so do ids."""
        self.state = self._empty()

    def _empty(self) -> StreamState:
        nobody = WalkState.of(self._runner.positions(np.zeros((0, 3), np.float32)), causal=self._causal)
        return StreamState(nobody, stop=self._first_stop)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as numbers and tensors in dictionaries, which `torch.save` writes and reads safely."""
        state = self.state
        return {
            "format": STATE_FORMAT,
            "window": self._window,
            "step": self.advance_by,
            "received": state.received,
            "answered": state.answered,
            "stop": state.stop,
            "next_id": state.next_id,
            "size": state.size,
            "ended": state.ended,
            "frames": [{"maps": list(f.maps), "input": f.input, "start": f.start} for f in state.frames],
            "waiting_ids": state.walk.waiting_ids,
            "waiting": state.walk.waiting,
            "ids": state.walk.ids,
            "points": None
            if state.walk.points is None
            else {"queries": state.walk.points.queries, "support": list(state.walk.points.support)},
            "previous": None if state.walk.previous is None else _estimate_dict(state.walk.previous),
            "lost": None if state.walk.lost is None else vars(state.walk.lost).copy(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, of this stream or of another one with an equal model and step."""
        if saved.get("format") != STATE_FORMAT:
            raise FormatError(f"this state has format {saved.get('format')!r}; this version reads {STATE_FORMAT}.")
        if (saved["window"], saved["step"]) != (self._window, self.advance_by):
            raise OptionError(
                f"this state belongs to a stream with window {saved['window']} and step {saved['step']}; this one has "
                f"{self._window} and {self.advance_by}."
            )
        device = self._runner.device
        size = None if saved["size"] is None else tuple(saved["size"])
        points, previous, lost = saved["points"], saved["previous"], saved["lost"]
        self.state = StreamState(
            received=saved["received"],
            answered=saved["answered"],
            stop=saved["stop"],
            frames=tuple(
                FrameFeatures(
                    tuple(m.to(device) for m in f["maps"]), tuple(saved["size"]), tuple(f["input"]), f["start"]
                )
                for f in saved["frames"]
            ),
            walk=WalkState(
                saved["waiting_ids"],
                saved["waiting"].to(device),
                saved["ids"],
                None
                if points is None
                else PointFeatures(points["queries"].to(device), tuple(s.to(device) for s in points["support"])),
                None if previous is None else _estimate_of(previous, device),
                None if lost is None else Sightings(**{name: rows.to(device) for name, rows in lost.items()}),
            ),
            next_id=saved["next_id"],
            size=size,
            ended=saved["ended"],
        )


def _estimate_dict(estimate: Estimate) -> dict[str, Any]:
    memory = estimate.memory
    return {
        **{name: getattr(estimate, name) for name in ESTIMATE_FIELDS},
        "memory": None if memory is None else {"points": list(memory.points), "shared": list(memory.shared)},
    }


def _estimate_of(saved: Mapping[str, Any], device: torch.device) -> Estimate:
    memory = saved["memory"]
    if memory is not None:
        memory = Memory(**{name: tuple(rows.to(device) for rows in values) for name, values in memory.items()})
    return Estimate(**{name: saved[name].to(device) for name in ESTIMATE_FIELDS}, memory=memory)


def _answers(walk: WalkState, first: int, frames: range) -> list[Answer]:
    """Read frames out of the result of a window that began at `first`. In its query's frame a point lies on it."""
    if walk.points is None or walk.previous is None:
        nothing = np.zeros(0, np.float32)
        return [Answer(t, np.zeros(0, np.int64), np.zeros((0, 2), np.float32), nothing, nothing) for t in frames]
    part = walk.previous.frames(frames.start - first, frames.stop - first)
    xy, visibility, confidence = (_array(v) for v in (part.xy, part.visibility, part.confidence))  # (T, N, ...)
    queries = _array(walk.points.queries)
    ids = walk.ids.numpy()
    order = ids.argsort()
    answers = []
    for t, frame in enumerate(frames):
        begun = order[queries[order, 0] <= frame]
        here = queries[begun, 0] == frame
        answers.append(
            Answer(
                frame,
                ids[begun],
                np.where(here[:, None], queries[begun, 1:], xy[t, begun]),
                np.where(here, np.float32(1), visibility[t, begun]),
                np.where(here, np.float32(1), confidence[t, begun]),
            )
        )
    return answers


def _array(values: Float[Tensor, "1 ..."]) -> Float32[np.ndarray, "..."]:
    return values[0].float().cpu().numpy()
