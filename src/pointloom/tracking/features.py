"""The features of a video's frames, each computed once: a few that move along with a window, or all of them.

Both kinds are read in the time of a walk: for a backward walk the last frame of the video is frame 0. A file may turn
out to be shorter than it says, once the fault is met; the walk then ends there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pointloom.errors import VideoError
from pointloom.models.base import FrameFeatures
from pointloom.queries import VideoLike
from pointloom.tracking.runner import Runner


@runtime_checkable
class Features(Protocol):
    """Features of any frames of a video, and how many frames there are."""

    frames: int

    def turn(self, *, backward: bool) -> None:
        """Choose the direction of time."""

    def between(self, start: int, stop: int) -> FrameFeatures:
        """Return frames start..stop-1, fewer where the video ends."""


class PassingFeatures:
    """Keeps the frames of the last request only, so that overlapping requests encode no frame twice."""

    def __init__(self, runner: Runner, video: VideoLike, frames_at_once: int) -> None:
        self.frames = len(video)
        self._runner = runner
        self._video = video
        self._frames_at_once = frames_at_once
        self._backward = False
        self._kept: FrameFeatures | None = None

    def turn(self, *, backward: bool) -> None:
        """Choose the direction of time. What was kept is dropped."""
        self._backward = backward
        self._kept = None

    def between(self, start: int, stop: int) -> FrameFeatures:
        """Return frames start..stop-1, fewer where the video ends. Requests must not go back.

        There may be none if frames up to `start` were asked for before. Otherwise none are a VideoError.
        """
        parts = []
        begin = start
        if self._kept is not None and start <= self._kept.stop:
            parts = [self._kept.between(start, self._kept.stop)]
            begin = self._kept.stop
        self._kept = None  # one copy of the overlap at a time
        while begin < min(stop, self.frames):
            part = self._encode(begin, min(begin + self._frames_at_once, stop, self.frames))
            if part is not None:
                parts.append(part)
                begin = part.stop
        if not parts:
            raise _ended_early(self._video)
        self._kept = FrameFeatures.join([part for part in parts if len(part)] or parts)
        return self._kept

    def _encode(self, start: int, stop: int) -> FrameFeatures | None:
        first = self.frames - stop if self._backward else start
        frames = self._video[first : first + stop - start]
        if len(frames) < stop - start:
            if self._backward:
                raise _ended_early(self._video)
            self.frames = first + len(frames)
            if not len(frames):
                return None
        features = self._runner.encode(frames, start)
        return replace(features.reversed(), start=start) if self._backward else features


class KeptFeatures:
    """Encodes the whole video at the beginning and keeps all of it."""

    def __init__(
        self, runner: Runner, video: VideoLike, frames_at_once: int, done: Callable[[int], None] = lambda frames: None
    ) -> None:
        self.frames = len(video)
        self._backward = False
        whole: FrameFeatures | None = None
        start = 0
        while start < self.frames:
            frames = video[start : min(start + frames_at_once, self.frames)]
            if not len(frames):
                self.frames = start
                break
            part = runner.encode(frames, start)
            if whole is None:
                whole = replace(part, maps=tuple(m.new_empty(1, self.frames, *m.shape[2:]) for m in part.maps))
            for buffer, piece in zip(whole.maps, part.maps, strict=True):
                buffer[:, start : part.stop] = piece
            start = part.stop
            done(len(part))
        if whole is None:
            raise _ended_early(video)
        self._whole = whole.between(0, self.frames)

    def turn(self, *, backward: bool) -> None:
        """Choose the direction of time. Frames change places, no second copy is made."""
        if backward != self._backward:
            for m in self._whole.maps:
                _reverse_in_place(m[0])
        self._backward = backward

    def between(self, start: int, stop: int) -> FrameFeatures:
        """Return frames start..stop-1, fewer where the video ends."""
        return self._whole.between(start, min(stop, self.frames))


def _reverse_in_place(frames: Tensor) -> None:
    last = len(frames) - 1
    for i in range(len(frames) // 2):
        kept = torch.clone(frames[i])
        frames[i] = frames[last - i]
        frames[last - i] = kept


def _ended_early(video: VideoLike) -> VideoError:
    return VideoError(
        f"{video.name} turned out to have only {len(video)} frames that can be read, while it was tracked. "
        f"Track it again with queries in those frames."
    )
