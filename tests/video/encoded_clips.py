"""Small videos with known frames, encoded on the spot, and ways to damage them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, FPS = 64, 48, 25
QUICKLY = {codec: {"deadline": "realtime", "cpu-used": "8"} for codec in ("libvpx", "libvpx-vp9")}


def scene(i: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A smooth picture whose every frame differs clearly from the others."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin((x + 5 * i) / 9), np.sin((y - 3 * i) / 7), np.cos((x + y + 7 * i) / 11)]
    return np.stack([128 + 100 * wave for wave in waves], axis=-1).astype(np.uint8)


def encode(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    muxer: str | None = None,
    muxer_options: dict[str, str] | None = None,
    gop: int = 12,
    seconds: Sequence[float] | None = None,
) -> Path:
    """Write frames with any codec and container of FFmpeg. Times are k/25 s unless given."""
    tick = Fraction(1, FPS) if seconds is None else Fraction(1, 90_000)
    with av.open(str(path), "w", format=muxer, options=muxer_options or {}) as container:
        stream = container.add_stream(codec, rate=FPS, options=options or QUICKLY.get(codec, {}))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = tick
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = i if seconds is None else round(seconds[i] / tick)
            picture.time_base = tick
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def encode_planes(path: Path, planes: np.ndarray, *, codec: str, pixels: str, matrix: int, color_range: int) -> Path:
    """Write one frame of raw samples, (planes, H, W) without subsampling, tagged with a matrix and a range."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.height, stream.width = planes.shape[1:]
        stream.pix_fmt = pixels
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = color_range
        picture = av.VideoFrame.from_ndarray(planes, format=pixels)
        picture.colorspace, picture.color_range = matrix, color_range
        container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def packets(path: Path) -> list[av.Packet]:
    """All packets of the video stream, in the order in which they are stored."""
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def cut(path: Path, share: float) -> Path:
    """Keep the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def spoil(path: Path, index: int) -> Path:
    """Overwrite most of one packet (by its place in the file) with zeros."""
    packet = packets(path)[index]
    data = bytearray(path.read_bytes())
    first, last = packet.pos + 12, packet.pos + packet.size
    data[first:last] = bytes(last - first)
    path.write_bytes(data)
    return path


def trim(path: Path, frames: int) -> Path:
    """Change the edit list of an mp4 to leave out the first frames. (elst: version, count, duration, start.)"""
    data = bytearray(path.read_bytes())
    entry = data.find(b"elst") + 12
    duration, start = struct.unpack_from(">Ii", data, entry)
    with av.open(str(path)) as container:
        ticks = int(frames / FPS / container.streams.video[0].time_base)
    milliseconds = 1000 * frames // FPS
    struct.pack_into(">Ii", data, entry, duration - milliseconds, start + ticks)
    path.write_bytes(data)
    return path


def turn(path: Path, matrix: tuple[float, float, float, float]) -> Path:
    """Set the display matrix (a, b, c, d) of an mp4, as a phone does. (tkhd: nine numbers after 40 bytes.)"""
    a, b, c, d = (round(65536 * value) for value in matrix)
    data = bytearray(path.read_bytes())
    struct.pack_into(">9i", data, data.find(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 2**30)
    path.write_bytes(data)
    return path


def empty(source: Path, target: Path, emptied: set[int]) -> Path:
    """Copy a file, leaving nothing in some packets but their times."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for i, packet in enumerate(p for p in old.demux(video=0) if p.size):
            copy = av.Packet(b"" if i in emptied else bytes(packet))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            new.mux(copy)
    return target


def hide(source: Path, target: Path, hidden: set[int]) -> Path:
    """Copy a VP8 file, clearing the show_frame bit of some packets (RFC 6386, 9.1)."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for i, packet in enumerate(p for p in old.demux(video=0) if p.size):
            data = bytearray(bytes(packet))
            if i in hidden:
                data[0] &= ~0x10
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            new.mux(copy)
    return target
