"""A numbered list of image files as a video: png, jpg, bmp, tif, webp, read by OpenCV one at a time.

16-bit images are reduced to 8 bits, grey ones get three equal channels, transparency is dropped (the stored colour
counts) and the orientation that a camera wrote into the file is applied. All images must have the size of the first.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from pointloom.errors import VideoError
from pointloom.video.source import Limits, Source

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MAX_BYTES_A_PIXEL = 8  # four channels of 16 bits, uncompressed


class ImageSource(Source):
    """Image files, in the order given."""

    def __init__(self, paths: Sequence[Path], name: str, *, fps: float, strict: bool, limits: Limits) -> None:
        super().__init__(name, strict=strict, limits=limits)
        limits.check_length(name, len(paths))
        self._paths = list(paths)
        self._fps = fps
        self._first = read_image(self._paths[0], limits)
        self._size = self._first.shape[1], self._first.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self._size

    @property
    def seconds(self) -> Float64[np.ndarray, " T"]:
        """Regular times from 0."""
        return np.arange(len(self._paths)) / self._fps

    @property
    def fps(self) -> float:
        """What the caller said."""
        return self._fps

    def check(self) -> None:
        """Decode every image once, and report the first that cannot be read."""
        for _ in self.frames(range(len(self._paths))):
            pass

    def frames(self, indices: range) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yield images; the first one that cannot be read ends the video."""
        for i in indices:
            if i >= len(self._paths):
                return
            try:
                frame = read_image(self._paths[i], self.limits) if i > 0 else self._first.copy()
                self._check_like_first(self._paths[i], frame)
            except VideoError as fault:
                declared, self._paths = len(self._paths), self._paths[:i]
                self.report_fault(declared, i, str(fault).rstrip("."))
                return
            yield frame

    def _check_like_first(self, path: Path, frame: np.ndarray) -> None:
        size = frame.shape[1], frame.shape[0]
        if size != self._size:
            raise VideoError("{} has {} x {} pixels, the first image {} x {}".format(path.name, *size, *self._size))


def in_natural_order(paths: list[Path]) -> list[Path]:
    """Sort file names as a person would: frame2 before frame10."""

    def key(path: Path) -> list[tuple[str, int]]:
        return [(text.lower(), int(number or 0)) for text, number in re.findall(r"([^0-9]*)([0-9]*)", str(path))]

    return sorted(paths, key=key)


def read_image(path: Path, limits: Limits) -> UInt8[np.ndarray, "H W 3"]:
    """Read an image file as 8-bit RGB."""
    if path.stat().st_size > limits.max_pixels * MAX_BYTES_A_PIXEL:
        raise VideoError(f"{path.name} is larger than an image of {limits.max_pixels} pixels can be.")
    data = path.read_bytes()
    declared = declared_size(data)
    if declared is not None:
        limits.check_size(path.name, *declared)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:
        image = None
    if image is None:
        raise VideoError(f"{path.name} is not an image that can be read. Save it again as png or jpg.")
    limits.check_size(path.name, image.shape[1], image.shape[0])
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def declared_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in the header of an image file, before anything is unpacked; None where it is not found."""
    try:
        if data.startswith(b"\x89PNG"):
            return struct.unpack_from(">II", data, 16)
        if data.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", data, 18)
            return width, abs(height)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg_size(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff_size(data)
    except (struct.error, IndexError):
        pass  # the header is cut off; the decoder will say so
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":  # two 24-bit numbers, less one
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return width, height
    if kind == b"VP8L":  # two 14-bit numbers, less one, after a signature byte
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":  # 14 bits each, the upper two are a scaling hint
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Walk over the segments to the first that starts a frame (SOF0..15 without the tables DHT, JPG, DAC)."""
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    return None


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    """Look up the tags 256 (width) and 257 (height) of the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(f"{order}I", data, 4)
    (entries,) = struct.unpack_from(f"{order}H", data, directory)
    found: dict[int, int] = {}
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag in (256, 257):
            short = 3
            (found[tag],) = struct.unpack_from(f"{order}{'H' if kind == short else 'I'}", data, entry + 8)
    return (found[256], found[257]) if len(found) == 2 else None
