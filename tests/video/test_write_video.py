"""Writing videos: what comes out when they are read again, and what is left behind when something fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from encoded_clips import HEIGHT, WIDTH, scene

from pointloom.errors import OptionError, VideoError
from pointloom.video import open_video, write_video
from pointloom.video import write as write_module

FRAMES = 20


def scenes(count: int = FRAMES, width: int = WIDTH, height: int = HEIGHT) -> Iterator[np.ndarray]:
    return (scene(i, width, height) for i in range(count))


@pytest.mark.parametrize("suffix", [".mp4", ".MP4", ".m4v", ".mov", ".mkv"])
def test_frames_come_back_nearly_as_they_were(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    write_video(path, scenes(), fps=30)
    video = open_video(path, strict=True)
    assert (len(video), video.size, video.fps) == (FRAMES, (WIDTH, HEIGHT), 30)
    np.testing.assert_allclose(video.seconds, np.arange(FRAMES) / 30, atol=1e-3)
    for i, frame in enumerate(video):
        assert np.abs(frame.astype(int) - scene(i)).mean() < 7  # mostly of the colours, which have half the resolution


def test_colours_come_back(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 64, 200)]
    frame = np.repeat(np.array(colours, np.uint8), 16, axis=0)[None].repeat(32, axis=0)
    write_video(tmp_path / "clip.mp4", [frame] * 3, fps=25)
    shown = open_video(tmp_path / "clip.mp4")[1]
    np.testing.assert_allclose(shown[16, 8::16], colours, atol=4)


def test_the_file_plays_everywhere(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", scenes(), fps=25)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_range, context.color_primaries, context.color_trc) == (1, 1, 1, 1)
    data = (tmp_path / "clip.mp4").read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")  # a browser can start before it has everything


def test_irregular_times_are_kept(tmp_path: Path) -> None:
    seconds = np.cumsum(np.random.default_rng(1).uniform(0.005, 0.3, FRAMES))
    write_video(tmp_path / "clip.mp4", scenes(), seconds=seconds)
    video = open_video(tmp_path / "clip.mp4")
    np.testing.assert_allclose(video.seconds, seconds, atol=1e-3)
    np.testing.assert_allclose(np.diff(video.seconds), np.diff(seconds), atol=2e-5)
    copy = tmp_path / "copy.mp4"
    write_video(copy, video, seconds=video.seconds)
    np.testing.assert_allclose(open_video(copy).seconds, video.seconds, atol=1e-3)


def test_times_before_zero_are_moved_there(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", scenes(5), seconds=[-0.3, -0.2, 0.0, 0.1, 0.5])
    np.testing.assert_allclose(open_video(tmp_path / "clip.mp4").seconds, [0, 0.1, 0.3, 0.4, 0.8], atol=1e-4)


@pytest.mark.parametrize("fps", [30000 / 1001, 24000 / 1001, 29.97, 0.5, 240])
def test_unusual_rates_are_kept(tmp_path: Path, fps: float) -> None:
    write_video(tmp_path / "clip.mp4", scenes(8), fps=fps)
    video = open_video(tmp_path / "clip.mp4")
    assert video.fps == pytest.approx(fps, rel=1e-6)
    np.testing.assert_allclose(video.seconds, np.arange(8) / fps, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_short_videos_can_be_written(tmp_path: Path, count: int) -> None:
    write_video(tmp_path / "clip.mp4", scenes(count), seconds=[2.5, 2.75][:count])
    assert open_video(tmp_path / "clip.mp4").seconds.tolist() == [2.5, 2.75][:count]


@pytest.mark.parametrize(("width", "height"), [(63, 47), (64, 47), (63, 48), (1, 1)])
def test_an_odd_side_gets_one_more_line_that_repeats_the_last(tmp_path: Path, width: int, height: int) -> None:
    frame = scene(0, width, height)
    write_video(tmp_path / "clip.mp4", [frame], fps=25, crf=0)
    video = open_video(tmp_path / "clip.mp4")
    assert video.size == (width + width % 2, height + height % 2)
    padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    assert np.abs(video[0].astype(int) - padded).max() < 30


def test_a_lower_crf_is_larger_and_closer(tmp_path: Path) -> None:
    sizes, errors = [], []
    for crf in (5, 25, 45):
        write_video(tmp_path / "clip.mp4", scenes(), fps=25, crf=crf)
        sizes.append((tmp_path / "clip.mp4").stat().st_size)
        errors.append(np.abs(open_video(tmp_path / "clip.mp4")[3].astype(int) - scene(3)).mean())
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)


def test_another_encoder_is_used_where_x264_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_module, "_is_there", lambda encoder: encoder == "mpeg4")
    sizes = []
    for crf in (10, 35):
        write_video(tmp_path / "clip.mp4", scenes(width=63), fps=25, crf=crf)
        video = open_video(tmp_path / "clip.mp4", strict=True)
        assert (len(video), video.size) == (FRAMES, (64, HEIGHT))
        sizes.append((tmp_path / "clip.mp4").stat().st_size)
    assert sizes[0] > sizes[1]
    monkeypatch.setattr(write_module, "_is_there", lambda encoder: False)
    with pytest.raises(VideoError, match="none of the encoders libx264, libopenh264, mpeg4"):
        write_video(tmp_path / "clip.mp4", scenes(), fps=25)


def test_every_encoder_has_options_for_every_quality() -> None:
    for options in write_module.ENCODERS.values():
        for crf in (0, 18, 51):
            assert all(isinstance(value, str) for value in options(crf, 10**6).values())
    assert int(write_module.ENCODERS["libopenh264"](17, 10**6)["b"]) == 200_000  # twice that of crf 23


def test_frames_are_taken_one_at_a_time(tmp_path: Path) -> None:
    alive = 0
    most = 0

    class Frame(np.ndarray):
        def __array_finalize__(self, parent: object) -> None:
            nonlocal alive, most
            if parent is None:
                return
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    write_video(tmp_path / "clip.mp4", (scene(i).view(Frame) for i in range(60)), fps=25)
    assert 0 < most < 8


class Stop(BaseException):
    """Like KeyboardInterrupt."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stop, ValueError], ids=["Ctrl-C", "exit", "error"])
@pytest.mark.parametrize("after", [0, 1, 15])
def test_nothing_is_left_behind_and_nothing_is_lost_when_it_fails(
    tmp_path: Path, error: type[BaseException], after: int
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"what was there before")

    def failing() -> Iterator[np.ndarray]:
        yield from scenes(after)
        raise error

    with pytest.raises(error):
        write_video(path, failing(), fps=25)
    assert path.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_appears_only_when_the_file_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"

    def watching() -> Iterator[np.ndarray]:
        for frame in scenes():
            assert not path.exists()
            yield frame

    write_video(path, watching(), fps=25)
    assert list(tmp_path.iterdir()) == [path]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Give either fps .* or seconds"),
        ({"fps": 25, "seconds": [0.0]}, "Give either fps .* or seconds"),
        ({"fps": 0}, "fps must be a positive number, got 0"),
        ({"fps": float("nan")}, "fps must be a positive number"),
        ({"fps": 1e-9}, "fps must be at least"),
        ({"fps": 25, "crf": 60}, r"crf must lie in 0\.\.51, got 60"),
        ({"seconds": [0, 0.1, 0.1]}, r"seconds must increase .* frame 1 is shown at 0\.1 and frame 2 at 0\.1"),
        ({"seconds": [0, float("inf"), 1]}, "seconds must be a list of finite times"),
        ({"seconds": [[0, 1, 2]]}, "seconds must be a list of finite times"),
        ({"seconds": [0, 1]}, "seconds has 2 times, but there are more frames"),
        ({"seconds": [0, 1, 2, 3]}, "seconds has 4 times, but there are only 3 frames"),
        ({"seconds": []}, "seconds has 0 times"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        write_video(tmp_path / "clip.mp4", scenes(3), **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((HEIGHT, WIDTH, 3), np.float32), r"frame 1 is float32 of shape \(48, 64, 3\)"),
        (np.zeros((HEIGHT, WIDTH), np.uint8), r"frame 1 is uint8 of shape \(48, 64\)"),
        (np.zeros((HEIGHT, WIDTH, 4), np.uint8), "frame 1 is uint8"),
        ("frame", "frame 1 is str"),
        (np.zeros((HEIGHT, 32, 3), np.uint8), r"same size, but frame 1 is \(48, 32, 3\) and the first \(48, 64, 3\)"),
    ],
    ids=["floats", "grey", "alpha", "text", "another size"],
)
def test_frames_are_checked(tmp_path: Path, frame: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        write_video(tmp_path / "clip.mp4", [scene(0), frame], fps=25)  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


def test_the_first_frame_is_checked_too(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="frame 0 is float64"):
        write_video(tmp_path / "clip.mp4", [np.zeros((4, 4, 3))], fps=25)  # type: ignore[list-item]


def test_there_must_be_frames_a_folder_and_a_known_ending(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no frames to write to clip"):
        write_video(tmp_path / "clip.mp4", [], fps=25)
    with pytest.raises(VideoError, match=r"There is no folder .*nowhere"):
        write_video(tmp_path / "nowhere" / "clip.mp4", scenes(), fps=25)
    with pytest.raises(OptionError, match=r"ends in \.mp4, \.m4v, \.mov, \.mkv, got 'clip\.xyz'"):
        write_video(tmp_path / "clip.xyz", scenes(), fps=25)


def test_a_place_that_cannot_be_written_to_is_a_video_error(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(VideoError, match="could not be written"):
        write_video(tmp_path / "clip.mp4", scenes(3), fps=25)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
