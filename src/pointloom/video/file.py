"""Frame-exact reading of compressed video files, with PyAV.

A cursor is a decoder that stands somewhere in the file. To give frame i it continues from where it stands, or goes to the
last start before i and decodes forward; frames are recognised by their time stamps, so that frame i is the same one
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
from pointloom.video.index import Fault, FrameIndex, Opener, Start, decode_forward, index_packets, scan
from pointloom.video.rgb import Orientation, to_rgb
from pointloom.video.source import Limits, Source

PROBED_FRAMES = 8  # decoded when a file is opened, to see whether its index can be trusted
REMEMBERED_BYTES = 64 * 2**20  # of decoded pictures, for each cursor
REMEMBERED_FRAMES = 64
IDLE_CURSORS = 2
WORTH_A_SEEK = 16  # frames; skipping fewer is quicker by decoding them
CUT_PACKETS_LOOK_WHOLE = ("mpegts", "mpeg")  # containers that do not say so when the last packet is incomplete


class FileSource(Source):
    """A video file, or a stream with a protocol that was allowed."""

    def __init__(self, address: Address, *, strict: bool, limits: Limits) -> None:
        super().__init__(address.name, strict=strict, limits=limits)
        self._open: Opener = partial(open_container, address, limits)
        self._idle: list[_Cursor] = []
        self._reformatter = VideoReformatter()
        container, stream = self._open()
        with container:
            self._header_fps = float(stream.average_rate or stream.guessed_rate or 0)
            is_doubtful = container.format.name in CUT_PACKETS_LOOK_WHOLE
        self._index = index_packets(self._open, limits, self.name)
        ...
