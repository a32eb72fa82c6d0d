"""The door through which video files come in: which addresses, containers and streams are let through.

Local files only, unless a protocol is allowed by name. A container may not open further files either: play lists and
concatenation lists could reach anything that this process can read. So only containers that hold their own pictures are
known here, and libavformat is told which protocols it may use.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from pointloom.errors import VideoError
from pointloom.video.source import Limits

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h261,h263,h264,hevc,vvc,av1,obu,ivf,dirac,vc1,"
    "gif,apng,flv,live_flv,asf,ogg,mxf,nut,dv,yuv4mpegpipe,mjpeg,rm,wtv,swf"
)
TRANSPORTS = {
    "http": ("tcp",),
    "https": ("tls", "tcp"),
    "rtsp": ("rtp", "udp", "tcp"),
    "rtsps": ("rtp", "udp", "tls", "tcp"),
    "rtmp": ("tcp",),
    "rtmps": ("tls", "tcp"),
    "ftp": ("tcp",),
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(?:,[^:]*)?:")  # at least two letters: C:\ is a drive


@dataclass(frozen=True)
class Address:
    """Where a video file is, and with which protocols libavformat may go there."""

    url: str
    name: str
    protocols: tuple[str, ...] = ()

    @staticmethod
    def of_file(path: Path) -> Address:
        """Address of a local file."""
        if not path.exists():
            raise VideoError(f"There is no file {path}. Check the path; a relative one starts at {Path.cwd()}.")
        if not path.is_file():
            raise VideoError(f"{path} is not a regular file. Copy the video to a file first.")
        return Address(f"file:{path.absolute()}", path.name, ("file",))

    @staticmethod
    def of_url(url: str, allowed: Sequence[str]) -> Address:
        """Address of something with a protocol, which has to be among those allowed."""
        protocol = protocol_of(url)
        if protocol is None or protocol not in allowed:
            raise VideoError(
                f"{url!r} uses the protocol {protocol!r}, and only local files are opened unless a protocol is allowed "
                f"by name. Download the video first, or pass protocols=({protocol!r},) if you trust the address."
            )
        transports = [t for p in allowed for t in TRANSPORTS.get(p, ())]
        return Address(url, url.rstrip("/").rpartition("/")[2] or url, (*allowed, *transports))


def protocol_of(address: str) -> str | None:
    """Return the protocol in front of an address, in lower case; None for a plain path."""
    match = _SCHEME.match(address)
    return match[1].lower() if match else None


def open_container(address: Address, limits: Limits) -> tuple[InputContainer, VideoStream]:
    """Open a file and choose its video stream. The caller closes the container."""
    options = {"protocol_whitelist": ",".join(address.protocols), "max_pixels": str(limits.max_pixels)}
    if address.protocols == ("file",):
        options["format_whitelist"] = CONTAINERS
    try:
        container = av.open(address.url, options=options, timeout=limits.timeout_s)
    except (av.error.ExitError, av.error.TimeoutError) as error:
        raise VideoError(f"Opening {address.name} took more than {limits.timeout_s:g} s. Is it reachable?") from error
    except (av.FFmpegError, OSError) as error:
        raise VideoError(
            f"{address.name} is not a video file that can be read ({_reason(error)}). If it plays elsewhere, "
            f"convert it to mp4; if its recording was interrupted, its index is missing and it must be repaired first."
        ) from error
    try:
        return container, _video_stream(container, address.name, limits)
    except VideoError:
        container.close()
        raise


def _video_stream(container: InputContainer, name: str, limits: Limits) -> VideoStream:
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not pictures:
        content = "only sound" if container.streams.audio else "no video stream"
        raise VideoError(f"{name} holds {content}. Give a file with moving pictures.")
    best = container.streams.best("video")
    stream = best if best in pictures else pictures[0]
    if stream.codec_context is None:
        raise VideoError(f"{name} is compressed in a way that this build of FFmpeg cannot decode. Convert it to mp4.")
    limits.check_size(name, stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
    stream.thread_type = "NONE"  # so that an error belongs to the packet given last; slice threads even hide errors
    return stream


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
