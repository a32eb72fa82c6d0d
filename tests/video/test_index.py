"""What is known of a file before it is decoded, and decoding from a place in it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from encoded_clips import empty, encode, scene

from pointloom.video import Limits, open_video
from pointloom.video.access import Address, open_container
from pointloom.video.index import Fault, FrameIndex, Opener, Start, build_index, decode_forward

FRAMES = 40
LIMITS = Limits()


@pytest.fixture
def opener(tmp_path: Path) -> Opener:
    options = {"x264-params": "keyint=12:bframes=3:scenecut=0:threads=1"}
    path = encode(tmp_path / "clip.mp4", [scene(i) for i in range(FRAMES)], options=options)
    return partial(open_container, Address.of_file(path), LIMITS)


@pytest.fixture
def index(opener: Opener) -> FrameIndex:
    return build_index(opener, LIMITS, "clip", thorough=False)


def numbers(opener: Opener, index: FrameIndex, since: Start | None) -> list[int | None]:
    container, stream = opener()
    with container:
        if since is not None:
            container.seek(since.seek_to, stream=stream)
        return [
            index.number(frame.pts) for frame in decode_forward(container, stream, LIMITS, "clip", index, since=since)
        ]


def test_packets_and_decoding_give_the_same_index(opener: Opener, index: FrameIndex) -> None:
    thorough = build_index(opener, LIMITS, "clip", thorough=True)
    np.testing.assert_array_equal(index.seconds, thorough.seconds)
    assert (len(index), index.declared, index.fault) == (len(thorough), thorough.declared, thorough.fault)
    assert (len(index), index.declared, index.fault) == (FRAMES, FRAMES, None)


def test_starts_are_the_key_frames(index: FrameIndex) -> None:
    assert [index.number(start.pts) for start in index.starts] == [0, 12, 24, 36]
    assert [index.number(start.pts) for start in index.starts_before(30, at_most=5)] == [24, 12, 0]
    assert [index.number(start.pts) for start in index.starts_before(36, at_most=2)] == [36, 24]
    assert index.number(None) is index.number(-1) is index.number(10**9) is None


def test_decoding_goes_from_a_start_to_the_end(opener: Opener, index: FrameIndex) -> None:
    assert numbers(opener, index, None) == list(range(FRAMES))
    assert numbers(opener, index, index.starts[2]) == list(range(24, FRAMES))


def test_frames_before_a_start_are_left_out_wherever_the_demuxer_goes(opener: Opener, index: FrameIndex) -> None:
    too_early = index.starts[2]._replace(seek_to=index.starts[1].seek_to)
    assert numbers(opener, index, too_early) == list(range(24, FRAMES))


def test_a_start_that_is_not_that_of_the_index_is_refused(opener: Opener, index: FrameIndex) -> None:
    """Some demuxers give other times after a seek, which would shift all frames."""
    other = replace(index, starts=tuple(start._replace(size=start.size + 1) for start in index.starts))
    with pytest.raises(Fault, match="cannot be entered here"):
        numbers(opener, other, index.starts[1])


@pytest.mark.parametrize("suffix", [".nut", ".avi"])
def test_empty_packets_are_no_frames_and_no_fault(tmp_path: Path, suffix: str) -> None:
    """Capture cards write them for frames that they dropped."""
    source = encode(tmp_path / "clip.mov", [scene(i) for i in range(FRAMES)], codec="png", pixels="rgb24")
    video = open_video(empty(source, tmp_path / f"clip{suffix}", {20, 21}))
    expected = [scene(i) for i in range(FRAMES) if i not in {20, 21}]
    np.testing.assert_array_equal(video[:], expected)
