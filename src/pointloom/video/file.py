"""Frame-exact reading of compressed video files, with PyAV.

A cursor is a decoder that stands somewhere in the file. To give frame i it continues from where it stands, or goes to
the last start before i and decodes forward; frames are recognised by their time stamps, so that frame i is the same one
whichever way was taken. It remembers the pictures it gave last, so that overlapping windows decode nothing twice.
Each iteration has a cursor to itself and hands it back when it ends; two iterations at once do not disturb each other.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from jaxtyping import Float64, UInt8

from pointloom.errors import VideoError
from pointloom.video.access import Address, open_container
from pointloom.video.index import Fault, FrameIndex, Opener, Start, build_index, decode_forward, scan
from pointloom.video.rgb import Orientation, to_rgb
from pointloom.video.source import Limits, Source

PROBED_FRAMES = 8  # decoded when a file is opened, to see whether its index can be trusted
IDLE_CURSORS = 2
REMEMBERED_BYTES = 64 * 2**20  # of decoded pictures, for each cursor
REMEMBERED_FRAMES = 64
ROUNDING_S = 0.002  # some containers round times to milliseconds
WORTH_A_SEEK = 16  # frames; skipping fewer is quicker by decoding them
ENTRANCES = 2  # starts that are tried before decoding from the beginning


class FileSource(Source):
    """A video file, or a stream with a protocol that was allowed."""

    def __init__(self, address: Address, *, strict: bool, limits: Limits) -> None:
        super().__init__(address.name, strict=strict, limits=limits)
        self._open: Opener = partial(open_container, address, limits)
        self._idle: list[_Cursor] = []
        self._is_closed = False
        self._index = build_index(self._open, limits, self.name, thorough=strict)
        first = self._probe()
        self._stored_size = first.width, first.height
        self._orientation = Orientation.of(first)
        limits.check_size(self.name, *self._stored_size)
        if self._index.fault is not None:
            self._report(self._index.declared)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, as shown."""
        return self._orientation.size(*self._stored_size)

    @property
    def seconds(self) -> Float64[np.ndarray, " T"]:
        """Presentation times of the container; the first need not be 0, and they need not be regular."""
        return self._index.seconds

    @property
    def fps(self) -> float:
        """What the header says where it agrees with the times, else the mean rate."""
        intervals, stated = len(self._index) - 1, self._index.rate
        if intervals < 1:
            return stated
        span_s = float(self._index.seconds[-1] - self._index.seconds[0])
        return stated if abs(span_s - intervals / stated) < ROUNDING_S else intervals / span_s

    def frames(self, indices: range) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yield frames. Where a fault is met the video ends, with a warning, and its length is corrected."""
        if not indices:
            return
        cursor = self._take(indices[0])
        try:
            for i in indices:
                if i >= len(self._index):
                    return
                try:
                    picture = cursor.picture(i)
                except Fault:
                    cursor.close()
                    self._settle(cursor.index, i)
                    if i >= len(self._index):
                        return
                    cursor = self._take(i)
                    picture = self._picture_again(cursor, i)
                except BaseException:
                    cursor.close()  # it stands nowhere now
                    raise
                yield to_rgb(picture, cursor.reformatter, *self._stored_size, self._orientation)
        finally:
            self._give_back(cursor)

    def close(self) -> None:
        """Close the file; iterations that still run close theirs when they end."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    def _probe(self) -> VideoFrame:
        """Decode the first frames; scan the file if they are not those of the index. Returns the first."""
        cursor = self._take(0)
        try:
            for i in range(min(PROBED_FRAMES, len(self._index))):
                cursor.picture(i)
        except Fault:
            cursor.close()
            self._index = scan(self._open, self._index, self.limits, self.name)
            cursor = self._take(0)
        if len(self._index) == 0:
            raise VideoError(
                f"No frame of {self.name} can be decoded{f' ({self._index.fault})' if self._index.fault else ''}. "
                f"Check whether it plays elsewhere, and convert it to mp4."
            )
        first = self._picture_again(cursor, 0)
        self._give_back(cursor)
        return first

    def _picture_again(self, cursor: _Cursor, i: int) -> VideoFrame:
        try:
            return cursor.picture(i)
        except Fault as fault:
            message = f"Frame {i} of {self.name} cannot be decoded reliably ({fault}). Convert the file to mp4."
            raise VideoError(message) from fault

    def _settle(self, index: FrameIndex, i: int) -> None:
        """Find out what is readable around frame `i`, unless another iteration has done so since `index` was made."""
        if index is not self._index:
            return
        start = next(iter(index.starts_before(i, at_most=1)), None)
        self._index = scan(self._open, index, self.limits, self.name, start=start)
        if self._index.fault != index.fault or len(self._index) < len(index):
            self._report(max(self._index.declared, len(index)))

    def _report(self, declared: int) -> None:
        self.report_fault(declared, len(self._index), self._index.fault or "not every packet holds a frame")

    def _take(self, i: int) -> _Cursor:
        """Take the cursor that is nearest to frame `i` out of the idle ones, or make one."""
        usable = [cursor for cursor in self._idle if cursor.index is self._index]
        if not usable:
            self._idle.clear()  # what is left has an index that was wrong
            return _Cursor(self._open, self._index, self.limits, self.name)
        nearest = min(usable, key=lambda cursor: cursor.distance(i))
        self._idle.remove(nearest)
        return nearest

    def _give_back(self, cursor: _Cursor) -> None:
        if cursor.close.alive:
            self._idle.append(cursor)
        while self._idle and (self._is_closed or len(self._idle) > IDLE_CURSORS):
            self._idle.pop(0).close()


class _Cursor:
    """A decoder that stands before frame `position` and remembers the pictures it gave last."""

    def __init__(self, opener: Opener, index: FrameIndex, limits: Limits, name: str) -> None:
        self.index = index
        self.reformatter = VideoReformatter()
        self._opener, self._limits, self._name = opener, limits, name
        self._remembered: deque[tuple[int, VideoFrame]] = deque()
        self._files = ExitStack()
        self.close = weakref.finalize(self, self._files.close)
        self.position = 0
        self._pictures: Iterator[VideoFrame] = iter(())
        self._enter(None)

    def distance(self, i: int) -> int:
        """Return how many frames have to be decoded to reach frame `i`, roughly."""
        if any(number == i for number, _ in self._remembered):
            return 0
        return i - self.position if i >= self.position else len(self.index) + i

    def picture(self, i: int) -> VideoFrame:
        """Return frame `i` as decoded. Raises Fault if it does not come out."""
        for number, picture in self._remembered:
            if number == i:
                return picture
        if 0 <= i - self.position < WORTH_A_SEEK:
            return self._forward_to(i)
        starts = self.index.starts_before(i, at_most=ENTRANCES)
        if i >= self.position and not (starts and self._is_ahead(starts[0])):
            return self._forward_to(i)
        for start in [*starts, None]:
            try:
                self._enter(start)
                number, picture = self._next()
            except (Fault, av.FFmpegError):
                if start is None:
                    raise
                continue  # some files cannot be entered everywhere
            if number == i:
                return picture
            if number < i:
                return self._forward_to(i)
        raise Fault("a frame is missing")

    def _is_ahead(self, start: Start) -> bool:
        return self.index.pts is not None and start.pts > self.index.pts[self.position]

    def _forward_to(self, i: int) -> VideoFrame:
        while True:
            number, picture = self._next()
            if number == i:
                return picture
            if number > i:
                raise Fault("a frame is missing")

    def _next(self) -> tuple[int, VideoFrame]:
        for picture in self._pictures:
            number = self.position if self.index.pts is None else self.index.number(picture.pts)
            if number is None:  # left out by an edit list
                continue
            self.position = number + 1
            self._remember(number, picture)
            return number, picture
        raise Fault("the frames end early")

    def _enter(self, start: Start | None) -> None:
        """Go to a start, or to the beginning."""
        if start is None:
            self._files.close()
            self._container, self._stream = self._opener()
            self._files.enter_context(self._container)
            self.position = 0
        else:
            self._container.seek(start.seek_to, stream=self._stream)
        self._pictures = decode_forward(
            self._container, self._stream, self._limits, self._name, self.index, since=start
        )

    def _remember(self, number: int, picture: VideoFrame) -> None:
        self._remembered.append((number, picture))
        bytes_each = sum(plane.buffer_size for plane in picture.planes)
        while len(self._remembered) > max(1, min(REMEMBERED_FRAMES, REMEMBERED_BYTES // bytes_each)):
            self._remembered.popleft()
