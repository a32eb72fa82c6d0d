"""Writing a video: frames in, an mp4 that plays everywhere out.

H.264 with 4:2:0 chroma and BT.709 colours, tagged as such. Frames may come from a generator: one is in memory at a
time. The file appears under its name only when it is complete; whatever happens before that (an error, Ctrl-C), nothing
is left behind.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.codec import Codec
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Float, UInt8

from pointloom.errors import OptionError, VideoError

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")
DEFAULT_CRF, WORST_CRF = 18, 51
TICK = Fraction(1, 90_000)  # seconds; of irregular times, as in broadcasts
LARGEST_DENOMINATOR = 1001  # of frame rates: 30000/1001
UNLIMITED = 10**9  # bits a second


def _x264(crf: int, pixels_a_second: int) -> dict[str, str]:
    return {"crf": str(crf), "preset": "veryfast"}


def _openh264(crf: int, pixels_a_second: int) -> dict[str, str]:
    """Only bit rates: a tenth of a bit for each pixel looks about like crf 23, and 6 less is twice as much."""
    return {"b": str(round(0.1 * pixels_a_second * 2 ** ((23 - crf) / 6)))}


def _mpeg4(crf: int, pixels_a_second: int) -> dict[str, str]:
    """A constant quantiser, 1..31, as wide as the steps of H.264 at that crf; as many bits as that takes."""
    quantiser = str(min(max(round(2 ** ((crf - 4) / 6) / 2), 1), 31))
    return {"qmin": quantiser, "qmax": quantiser, "b": str(UNLIMITED)}


# The first that this build of FFmpeg has is used. Each turns a quality on x264's scale into its own options.
ENCODERS: dict[str, Callable[[int, int], dict[str, str]]] = {
    "libx264": _x264,
    "libopenh264": _openh264,
    "mpeg4": _mpeg4,
}


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    *,
    fps: float | None = None,
    seconds: Sequence[float] | Float[np.ndarray, " T"] | None = None,
    crf: int = DEFAULT_CRF,
) -> None:
    """Write frames (uint8 RGB, all of one size) to a video file. A file of that name is replaced.

    path     ends in .mp4, .m4v, .mov or .mkv (which rounds times to milliseconds)
    fps      frames a second, or else
    seconds  when each frame is shown, as in `Video.seconds`: increasing, not necessarily regular. Times that begin
             before 0 are moved so that they begin there
    crf      quality of H.264: 0 is lossless, 18 looks like the original, 51 is worst

    4:2:0 needs even sides: an odd one gets one more column at the right, or row at the bottom, that repeats the last.
    Raises OptionError for options or frames that do not fit, VideoError where the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise OptionError(f"A video is written to a file that ends in {', '.join(SUFFIXES)}, got {path.name!r}.")
    if not path.parent.is_dir():
        raise VideoError(f"There is no folder {path.parent} to write {path.name} to. Create it first.")
    if not 0 <= crf <= WORST_CRF:
        raise OptionError(f"crf must lie in 0..{WORST_CRF}, got {crf}.")
    clock = _Clock.of(fps, seconds)

    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise VideoError(f"There are no frames to write to {path.name}.")
    _check_frame(first, 0, np.shape(first))
    try:
        with _appearing_when_complete(path) as part, av.open(str(part), "w", options=_muxer_options(path)) as file:
            stream = _add_stream(file, first, clock, crf)
            reformatter = VideoReformatter()
            written = 0
            for frame in chain([first], frames):
                _check_frame(frame, written, first.shape)
                picture = _picture(frame, reformatter)
                picture.pts, picture.time_base = clock.ticks(written), clock.time_base
                file.mux(stream.encode(picture))
                written += 1
            clock.check_end(written)
            file.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise VideoError(f"{path} could not be written ({error.strerror}). Is there room on the disk?") from error


class _Clock:
    """When each frame is shown, in ticks of `time_base` seconds."""

    def __init__(self, time_base: Fraction, rate: Fraction, ticks: list[int] | None) -> None:
        self.time_base = time_base
        self.rate = rate
        self._ticks = ticks

    @staticmethod
    def of(fps: float | None, seconds: Sequence[float] | np.ndarray | None) -> _Clock:
        if (fps is None) == (seconds is None):
            raise OptionError("Give either fps (frames a second) or seconds (when each frame is shown).")
        if fps is not None:
            if not 0 < fps < math.inf:
                raise OptionError(f"fps must be a positive number, got {fps}.")
            rate = Fraction(fps).limit_denominator(LARGEST_DENOMINATOR)
            if rate == 0:
                raise OptionError(f"fps must be at least 1/{LARGEST_DENOMINATOR}, got {fps}.")
            return _Clock(1 / rate, rate, None)
        times = np.asarray(seconds, np.float64)
        if times.ndim != 1 or not np.isfinite(times).all():
            raise OptionError(f"seconds must be a list of finite times, one for each frame, got shape {times.shape}.")
        ticks = np.round((times - min(times.min(initial=0.0), 0.0)) / float(TICK)).astype(np.int64)
        steps = np.diff(ticks)
        if (steps <= 0).any():
            i = int((steps <= 0).argmax())
            raise OptionError(
                f"seconds must increase by at least {float(TICK):.6f}, but frame {i} is shown at {times[i]} and "
                f"frame {i + 1} at {times[i + 1]}. Sort the frames by time and leave out double ones."
            )
        span = float(times[-1] - times[0]) if len(times) > 1 else 0.0
        mean = Fraction((len(times) - 1) / span).limit_denominator(LARGEST_DENOMINATOR) if span else Fraction(1)
        return _Clock(TICK, max(mean, Fraction(1, LARGEST_DENOMINATOR)), ticks.tolist())

    def ticks(self, i: int) -> int:
        """Return when frame `i` is shown."""
        if self._ticks is None:
            return i
        if i >= len(self._ticks):
            raise OptionError(f"seconds has {len(self._ticks)} times, but there are more frames.")
        return self._ticks[i]

    def check_end(self, frames: int) -> None:
        """Refuse times that are left over."""
        if self._ticks is not None and frames != len(self._ticks):
            raise OptionError(f"seconds has {len(self._ticks)} times, but there are only {frames} frames.")


@contextmanager
def _appearing_when_complete(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; rename it at the end, or remove it if there was any error."""
    part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield part
        try:
            part.replace(path)
        except OSError as error:
            raise VideoError(f"{path} could not be written ({error.strerror}).") from error
    finally:
        part.unlink(missing_ok=True)


def _muxer_options(path: Path) -> dict[str, str]:
    """Put the index of mp4 and its like first, so that a browser can start before it has everything."""
    return {} if path.suffix.lower() == ".mkv" else {"movflags": "+faststart"}


def _add_stream(file: OutputContainer, frame: np.ndarray, clock: _Clock, crf: int) -> VideoStream:
    width, height = _even(frame.shape[1]), _even(frame.shape[0])
    name = next((name for name in ENCODERS if _is_there(name)), None)
    if name is None:
        raise VideoError(f"This build of FFmpeg has none of the encoders {', '.join(ENCODERS)}. Install PyAV's wheel.")
    options = ENCODERS[name](crf, round(width * height * clock.rate))
    stream = cast(VideoStream, file.add_stream(name, rate=clock.rate, options=options))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.time_base = clock.time_base
    stream.codec_context.colorspace = Colorspace.ITU709
    stream.codec_context.color_range = ColorRange.MPEG
    stream.codec_context.color_primaries = ColorPrimaries.BT709
    stream.codec_context.color_trc = ColorTrc.BT709
    return stream


def _is_there(encoder: str) -> bool:
    try:
        Codec(encoder, "w")
    except UnknownCodecError:
        return False
    return True


def _even(side: int) -> int:
    return side + side % 2


def _check_frame(frame: np.ndarray, i: int, shape: tuple[int, ...]) -> None:
    is_rgb = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
    if not is_rgb or 0 in frame.shape:
        kind = f"{frame.dtype} of shape {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise OptionError(f"A frame is a uint8 array (H, W, 3) in RGB, but frame {i} is {kind}.")
    if frame.shape != shape:
        raise OptionError(f"All frames must have the same size, but frame {i} is {frame.shape} and the first {shape}.")


def _picture(frame: UInt8[np.ndarray, "H W 3"], reformatter: VideoReformatter) -> VideoFrame:
    height, width, _ = frame.shape
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return reformatter.reformat(
        VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"),
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        threads=1,
    )
