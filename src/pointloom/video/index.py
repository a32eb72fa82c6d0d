"""Which frames a compressed file holds, when each is shown, and where decoding can start.

The index comes from the packets, without decoding them:

    packets  I  P  B  B  P  B  B  I  P  B  B       as stored; B frames come after a frame that is shown later
    frames   0  3  1  2  6  4  5  7 10  8  9       as shown: frame i is the i-th in time
    starts   ^                    ^                packets that a decoder can start with

Packets do not always tell how many frames come out of a decoder (raw streams without time stamps, fields and packed
frames, faults). For those a scan decodes the file once, and what comes out is the index.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Float64, Int64

from pointloom.video.source import DEFAULT_FPS, Limits

Opener = Callable[[], tuple[InputContainer, VideoStream]]

ENDS_EARLY_FRAMES = 2  # a file may end this much before the duration in its header
HOLE = 1.5  # times the usual distance between frames
STATE_DURATION = ("matroska", "mov")  # containers whose header has the true duration
CUT_PACKETS_LOOK_WHOLE = ("mpegts", "mpeg")  # containers that do not say so when the last frame is incomplete
TRANSPORT_UNITS = (188, 192, 204)  # bytes; every transport stream is made of equal pieces of one of these sizes
GIF_ENDS = (0x00, 0x3B)  # last byte of a GIF frame, and of a GIF
HIDES_FRAMES = frozenset({"vp8"})  # has packets that are only referred to and never shown
LOSES_FRAMES_SILENTLY = frozenset({"hevc"})  # the decoder skips what it cannot decode and does not say so


class Start(NamedTuple):
    """A packet that a decoder can start with, and the time stamp that brings a demuxer to it."""

    pts: int
    seek_to: int
    size: int


class Fault(Exception):  # noqa: N818  never leaves this package
    """Decoding met a fault. Frames from the time stamp `pts` on cannot be used; None where that is not known."""

    def __init__(self, reason: str, pts: int | None = None) -> None:
        super().__init__(reason)
        self.pts = pts


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a file, in the order in which they are shown.

    seconds   presentation time of each
    pts       the same in units of the stream, strictly increasing; None where the file has no usable time stamps, so
              that frames can only be counted from the beginning
    starts    in order of time
    keyed     the file marks packets to start with (else decoding starts with any)
    rate      frames a second according to the header
    declared  how many frames the file says it has
    fault     why it has fewer; None if it is whole
    """

    seconds: Float64[np.ndarray, " T"]
    pts: Int64[np.ndarray, " T"] | None
    starts: tuple[Start, ...]
    keyed: bool
    rate: float
    declared: int
    fault: str | None = None

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.seconds)

    def number(self, pts: int | None) -> int | None:
        """Return which frame has this time stamp, None if none has."""
        if self.pts is None or pts is None:
            return None
        i = int(np.searchsorted(self.pts, pts))
        return i if i < len(self.pts) and self.pts[i] == pts else None

    def starts_before(self, i: int, *, at_most: int) -> list[Start]:
        """Return the last few starts from which frame `i` can be reached, the nearest first."""
        if self.pts is None:
            return []
        count = bisect_right(self.starts, int(self.pts[i]), key=lambda start: start.pts)
        return list(reversed(self.starts[max(count - at_most, 0) : count]))

    def knows(self, packet: Packet[VideoStream]) -> bool:
        """Whether this packet is a start. After a seek some demuxers give times that are not those of the file."""
        at = bisect_left(self.starts, packet.pts, key=lambda start: start.pts) if packet.pts is not None else 0
        return any(start.pts == packet.pts and start.size == packet.size for start in self.starts[at : at + 1])


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    size: int
    is_key: bool
    is_shown: bool


def build_index(opener: Opener, limits: Limits, name: str, *, thorough: bool) -> FrameIndex:
    """Index a file: by its packets where they can be trusted, by decoding it where they cannot, or if `thorough`."""
    index, container_name = index_packets(opener, limits, name)
    if thorough or index.pts is None:
        return scan(opener, index, limits, name)
    if container_name in CUT_PACKETS_LOOK_WHOLE and index.starts:
        return scan(opener, index, limits, name, start=index.starts[-1])
    return index


def index_packets(opener: Opener, limits: Limits, name: str) -> tuple[FrameIndex, str]:
    """Index a file without decoding it. Returns the name of its container too."""
    packets: list[_Packet] = []
    fault: Fault | None = None
    beyond_fault = 0
    end_s = 0.0
    last: Packet[Stream] | None = None
    container, stream = opener()
    with container:
        stated = _stated_packets(container, stream)
        try:
            for packet in container.demux():
                if not packet.size:  # nothing is left
                    continue
                if packet.pts is not None:
                    end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream_index != stream.index:
                    continue
                if packet.is_corrupt and fault is None:
                    fault = Fault("a frame is incomplete", packet.pts)
                if fault is not None:
                    beyond_fault += 1
                    continue
                is_hidden = stream.codec_context.name in HIDES_FRAMES and _is_hidden_vp8(packet)
                is_shown = not packet.is_discard and not is_hidden
                packets.append(_Packet(packet.pts, packet.dts, packet.size, packet.is_keyframe, is_shown))
                last = packet
                limits.check_length(name, len(packets))
        except av.FFmpegError as error:
            fault = Fault(f"the file is damaged ({error.strerror})")
        if fault is None and last is not None and _is_cut(container, last):
            fault = Fault("the file ends in the middle of a frame", packets.pop().pts)
            beyond_fault = 1
        if stated:
            missing = stated - _packets_passed(container, packets)
        else:
            missing = beyond_fault + _frames_missing(container, stream, end_s)
        index = _index_of(packets, stream, fault)
        has_hole = container.format.name in CUT_PACKETS_LOOK_WHOLE and _hole_at_the_end(index, packets) is not None
        if fault is None and (missing > 0 or has_hole):
            fault = Fault("the file ends early")
        if fault is not None:
            declared = sum(packet.is_shown for packet in packets) + max(missing, 0)
            index = replace(_without_hole_at_the_end(index, packets), declared=declared, fault=str(fault))
        return index, container.format.name


def scan(opener: Opener, index: FrameIndex, limits: Limits, name: str, *, start: Start | None = None) -> FrameIndex:
    """Decode from `start` (None: the beginning) to the end, and keep the frames that come out whole."""
    found: list[int | None] = []
    fault: Fault | None = None
    container, stream = opener()
    with container:
        try:
            if start is not None:
                container.seek(start.seek_to, stream=stream)
            for frame in decode_forward(container, stream, limits, name, index, since=start):
                found.append(frame.pts)
                limits.check_length(name, len(found))
        except Fault as met:
            fault = met
        except av.FFmpegError:  # this file cannot be entered in the middle
            found.clear()
        codec, time_base = stream.codec_context.name, float(stream.time_base or 0)

    if start is not None and (not found or found[0] != start.pts):
        return scan(opener, index, limits, name)
    pts = _usable(found)
    if pts is None:
        index = replace(index, seconds=np.arange(len(found)) / index.rate, pts=None, starts=())
    else:
        expected = index.pts if index.pts is not None else pts
        if fault is None and codec in LOSES_FRAMES_SILENTLY:
            lost = np.setdiff1d(expected[expected >= pts[0]], pts)
            fault = Fault("a frame cannot be decoded", int(lost[0])) if len(lost) else None
        if fault is not None and fault.pts is not None:
            pts = pts[pts < fault.pts]
        if index.fault is not None and len(expected):
            pts = pts[pts <= expected[-1]]
        if start is not None:
            pts = np.concatenate([expected[expected < start.pts], pts])
        index = replace(index, seconds=pts * time_base, pts=pts)
    if fault is not None:
        return replace(index, fault=str(fault))
    return index if index.fault else replace(index, declared=len(index))


def decode_forward(
    container: InputContainer,
    stream: VideoStream,
    limits: Limits,
    name: str,
    index: FrameIndex,
    *,
    since: Start | None,
) -> Iterator[VideoFrame]:
    """Yield frames in the order in which they are shown from where the container stands, until the first fault.

    Raises Fault there. `since` is where the container was told to go: frames before it are left out, as they may refer
    to some that were not decoded.
    """
    packets = container.demux(stream)
    waits_for_key = index.keyed
    fault: Fault | None = None
    asked_at = time.monotonic()
    while fault is None:
        packet = None
        frames: list[VideoFrame] = []
        try:
            packet = next(packets, None)
            if packet is None:
                return
            if waits_for_key and packet.is_keyframe:
                waits_for_key = False
                if since is not None and not index.knows(packet):
                    raise Fault("the file cannot be entered here")
            if packet.is_corrupt:
                fault = Fault("a frame is incomplete", packet.pts)
            elif not waits_for_key and (packet.size or packet.dts is None):  # without times it is the call to finish
                frames = packet.decode()
        except av.FFmpegError as error:
            fault = Fault(f"a frame cannot be decoded ({error.strerror})", packet.pts if packet else None)
        if fault is not None:
            frames = _flush(stream)
        for frame in frames:
            if since is not None and frame.pts is not None and frame.pts < since.pts:
                continue
            if frame.is_corrupt and fault is None:
                raise Fault("a frame is damaged", frame.pts)
            if not frame.is_corrupt:
                yield frame
                asked_at = time.monotonic()
        limits.check_time(name, time.monotonic() - asked_at)
    raise fault


def _flush(stream: VideoStream) -> list[VideoFrame]:
    """Return the frames that a decoder still holds back for their turn."""
    with suppress(av.FFmpegError):
        return stream.decode(None)
    return []


def _index_of(packets: Sequence[_Packet], stream: VideoStream, fault: Fault | None) -> FrameIndex:
    starts = sorted(
        Start(packet.pts, packet.pts if packet.dts is None else min(packet.pts, packet.dts), packet.size)
        for packet in packets
        if packet.is_key and packet.pts is not None
    )
    shown = [packet.pts for packet in packets if packet.is_shown]
    pts = _usable(sorted(shown, key=lambda p: p or 0))
    keyed, rate = any(packet.is_key for packet in packets), _rate(stream)
    if pts is None:
        return FrameIndex(np.arange(len(shown)) / rate, None, (), keyed, rate, len(shown))
    if starts:  # a recording may begin in the middle of a scene
        pts = pts[pts >= starts[0].pts]
    if fault is not None and fault.pts is not None:
        pts = pts[pts < fault.pts]
    return FrameIndex(pts * float(stream.time_base or 0), pts, tuple(starts), keyed, rate, len(pts))


def _usable(pts: Sequence[int | None]) -> Int64[np.ndarray, " T"] | None:
    """Time stamps as an array, None if some are missing or they do not increase."""
    if any(p is None for p in pts):
        return None
    array = np.array(pts, np.int64)
    return array if (np.diff(array) > 0).all() else None


def _hole_at_the_end(index: FrameIndex, packets: Sequence[_Packet]) -> int | None:
    """Number of the frame from which on frames lack predecessors, which would have been stored after the end."""
    if index.pts is None or len(index) < 3 or packets[-1].dts is None:
        return None
    gaps = np.diff(index.pts)
    is_hole = (gaps > HOLE * np.median(gaps)) & (index.pts[1:] > packets[-1].dts)
    return int(is_hole.argmax()) + 1 if is_hole.any() else None


def _without_hole_at_the_end(index: FrameIndex, packets: Sequence[_Packet]) -> FrameIndex:
    hole = _hole_at_the_end(index, packets)
    if hole is None or index.pts is None:
        return index
    return replace(index, seconds=index.seconds[:hole], pts=index.pts[:hole])


def _stated_packets(container: InputContainer, stream: VideoStream) -> int:
    """How many packets the header promises, 0 if it does not say. Those that an edit list leaves out do not count."""
    if container.format.name.startswith("mov") and stream.frames:
        return len(stream.index_entries)
    return int(stream.frames)


def _is_cut(container: InputContainer, last: Packet[Stream]) -> bool:
    """Whether a file ends in the middle of its last packet, for containers whose demuxers do not look."""
    if container.format.name == "gif":
        return bytes(last)[-1] not in GIF_ENDS
    if container.format.name == "mpegts":
        return container.size > 0 and all(container.size % unit for unit in TRANSPORT_UNITS)
    return False


def _packets_passed(container: InputContainer, packets: Sequence[_Packet]) -> int:
    """How many of the stated packets have gone by. In AVI empty ones, which repeat the last frame, are stated too."""
    if container.format.name == "avi" and packets and packets[-1].dts is not None:
        return packets[-1].dts + 1  # AVI counts time in packets
    return len(packets)


def _frames_missing(container: InputContainer, stream: VideoStream, end_s: float) -> int:
    """How many frames would fit between the end of the last packet and the declared end of the file."""
    if not container.format.name.startswith(STATE_DURATION) or not container.duration:
        return 0
    missing_s = container.duration / av.time_base - end_s
    rate = _rate(stream)
    return round(missing_s * rate) if missing_s * rate > ENDS_EARLY_FRAMES else 0


def _rate(stream: VideoStream) -> float:
    """Frames a second according to the header."""
    return float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)


def _is_hidden_vp8(packet: Packet[Stream]) -> bool:
    """A VP8 frame whose `show_frame` bit is not set (RFC 6386, 9.1)."""
    return not bytes(packet)[0] >> 4 & 1
