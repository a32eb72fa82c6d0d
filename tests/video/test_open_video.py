"""Reading video files: exact frames, true times, right colours, and what happens with bad files."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from encoded_clips import FPS, HEIGHT, WIDTH, cut, encode, encode_planes, hide, packets, scene, spoil, trim, turn

from pointloom.errors import CorruptVideoError, OptionError, PointloomWarning, VideoError
from pointloom.video import Limits, Video, open_video
from pointloom.video import file as file_module
from pointloom.video import index as index_module

FRAMES = 40
X264 = {"x264-params": "keyint=12:bframes=3:scenecut=0:threads=1"}
X265 = {"x265-params": "keyint=10:open-gop=1:scenecut=0:log-level=none"}

# Name of the case, file name, and how it is encoded
KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "h264 with B frames in mp4": ("clip.mp4", {"options": X264}),
    "h264 in mkv": ("clip.mkv", {"options": X264}),
    "h264 in a transport stream": ("clip.ts", {"options": X264}),
    "h264 with open groups": ("clip.ts", {"options": {"x264-params": "keyint=8:open-gop=1:bframes=3:scenecut=0"}}),
    "h264 without key frames": ("clip.ts", {"options": {"x264-params": "intra-refresh=1:keyint=20:bframes=0"}}),
    "h264 without a container": ("clip.h264", {"options": X264, "muxer": "h264"}),
    "h264 in fragments": ("clip.mp4", {"options": X264, "muxer_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "h265 with open groups": ("clip.mp4", {"codec": "libx265", "options": X265}),
    "vp9 in webm": ("clip.webm", {"codec": "libvpx-vp9"}),
    "mpeg4 with B frames in avi": ("clip.avi", {"codec": "mpeg4", "options": {"bf": "2"}}),
    "mpeg2 in a program stream": ("clip.mpg", {"codec": "mpeg2video", "options": {"bf": "2"}}),
    "animated gif": ("clip.gif", {"codec": "gif", "pixels": "rgb8"}),
    "motion png": ("clip.mov", {"codec": "png", "pixels": "rgb24"}),
}


@pytest.fixture(params=list(KINDS))
def any_kind(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name, how = KINDS[request.param]
    return encode(tmp_path / name, [scene(i) for i in range(FRAMES)], **how)  # type: ignore[arg-type]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return encode(tmp_path / "clip.mp4", [scene(i) for i in range(FRAMES)], options=X264)


def decoded_in_order(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


# Frames


def test_frames_are_those_of_a_plain_decoder(any_kind: Path) -> None:
    expected = decoded_in_order(any_kind)
    frames = list(open_video(any_kind))
    assert len(frames) == len(expected) == FRAMES
    np.testing.assert_array_equal(frames, expected)


def test_a_frame_is_the_same_whichever_way_it_is_reached(any_kind: Path) -> None:
    video = open_video(any_kind)
    in_order = list(video)
    indices = random.Random(1).choices(range(-FRAMES, FRAMES), k=40)
    for i in indices:
        np.testing.assert_array_equal(video[i], in_order[i], err_msg=f"frame {i}")
    for i in (FRAMES - 1, 0):
        np.testing.assert_array_equal(open_video(any_kind)[i], in_order[i])


def test_frames_just_before_one_that_was_jumped_to_are_not_taken_from_there(any_kind: Path) -> None:
    """After a jump a decoder may give the frames before its start too, but broken."""
    in_order = list(open_video(any_kind))
    for i in range(2, FRAMES, 3):
        video = open_video(any_kind)
        for j in (i, i - 1, i - 2):
            np.testing.assert_array_equal(video[j], in_order[j], err_msg=f"frame {j} after {i}")


def test_a_recording_that_begins_in_the_middle_of_a_scene_begins_with_the_next_key_frame(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.ts", [scene(i) for i in range(FRAMES)], options=X264)
    whole = open_video(path)
    expected, seconds = whole[12:], whole.seconds[12:]
    start = 188 * (packets(path)[4].pos // 188)
    path.write_bytes(path.read_bytes()[start:])
    video = open_video(path)
    np.testing.assert_array_equal(video.seconds, seconds)
    np.testing.assert_array_equal(video[:], expected)


@pytest.mark.parametrize(
    "part", [slice(3, 9), slice(None), slice(30, 99), slice(-5, None), slice(5, 5), slice(1, 40, 7)]
)
def test_slices_give_what_a_list_would(clip: Path, part: slice) -> None:
    video = open_video(clip)
    expected = np.array(list(video))[part]
    frames = video[part]
    assert frames.dtype == np.uint8
    assert frames.shape == (len(expected), HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(frames, expected)


def test_slices_can_run_backwards(clip: Path) -> None:
    video = open_video(clip)
    np.testing.assert_array_equal(video[20:2:-3], np.array(list(video))[20:2:-3])


def test_frames_gives_a_part_in_order(clip: Path) -> None:
    video = open_video(clip)
    np.testing.assert_array_equal(list(video.frames(7, 12)), video[7:12])
    assert len(list(video.frames(35))) == FRAMES - 35


def test_indices_may_be_numpy_integers_and_are_checked(clip: Path) -> None:
    video = open_video(clip)
    np.testing.assert_array_equal(video[np.int64(4)], video[4])
    with pytest.raises(IndexError, match=r"40 frames \(0\.\.39\), there is no frame 40"):
        video[FRAMES]
    with pytest.raises(IndexError):
        video[-FRAMES - 1]


def test_frames_belong_to_the_caller(clip: Path) -> None:
    video = open_video(clip)
    before = video[3].copy()
    video[3][:] = 0
    for frame in video.frames(3, 4):
        frame[:] = 0
    np.testing.assert_array_equal(video[3], before)
    assert video[3].flags.owndata


@pytest.mark.parametrize("size", [(63, 47), (1, 1), (2, 3)])
def test_odd_sizes_are_exact_to_the_last_row_and_column(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = [scene(i, *size) for i in range(3)]
    video = open_video(encode(tmp_path / "clip.mkv", frames, codec="ffv1", pixels="bgr0"))
    assert video.size == size
    np.testing.assert_array_equal(video[:], frames)


def test_a_single_frame_is_a_video(tmp_path: Path) -> None:
    video = open_video(encode(tmp_path / "clip.mp4", [scene(0)]))
    assert len(video) == len(list(video)) == 1
    assert video.seconds.tolist() == [0.0]
    assert video.fps == FPS


def test_a_size_that_changes_in_mid_stream_is_scaled_to_the_first(tmp_path: Path) -> None:
    small = encode(tmp_path / "small.h264", [scene(i, 32, 24) for i in range(5)], muxer="h264")
    large = encode(tmp_path / "large.h264", [scene(i) for i in range(5)], muxer="h264")
    (tmp_path / "both.h264").write_bytes(large.read_bytes() + small.read_bytes())
    video = open_video(tmp_path / "both.h264")
    assert video[:].shape == (10, HEIGHT, WIDTH, 3)
    reference = open_video(small)[0].astype(float)
    assert abs(video[5][::2, ::2].mean() - reference.mean()) < 2


def test_packets_that_are_never_shown_are_not_frames(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole.webm", [scene(i) for i in range(FRAMES)], codec="libvpx")
    expected = np.delete(open_video(whole)[:], [15, 22], axis=0)
    video = open_video(hide(whole, tmp_path / "hidden.webm", {15, 22}))
    assert len(video) == FRAMES - 2
    np.testing.assert_array_equal(video[:], expected)
    np.testing.assert_array_equal(video[20], expected[20])


def test_a_file_whose_packets_are_not_its_frames_is_counted_by_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "HIDES_FRAMES", frozenset())  # as if nothing were known about this codec
    whole = encode(tmp_path / "whole.webm", [scene(i) for i in range(FRAMES)], codec="libvpx")
    early = open_video(hide(whole, tmp_path / "early.webm", {3}))
    assert len(early) == len(list(early)) == FRAMES - 1

    late = open_video(hide(whole, tmp_path / "late.webm", {25}))
    with pytest.warns(PointloomWarning, match="declares 40 frames, but only 39 could be read"):
        frames = list(late)
    assert len(frames) == len(late) == len(late.seconds) == FRAMES - 1
    np.testing.assert_array_equal(late[30], frames[30])


# Times


def test_irregular_times_are_kept(tmp_path: Path) -> None:
    seconds = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.2, 20)) - 0.01
    video = open_video(encode(tmp_path / "clip.mp4", [scene(i) for i in range(20)], seconds=list(seconds)))
    np.testing.assert_allclose(video.seconds, seconds, atol=1e-3)  # where the track begins, mp4 counts milliseconds
    np.testing.assert_allclose(np.diff(video.seconds), np.diff(seconds), atol=1e-4)
    assert video.seconds.dtype == np.float64
    assert video.fps == pytest.approx(19 / (seconds[-1] - seconds[0]), rel=1e-3)


@pytest.mark.parametrize("start", [1.48, -0.2], ids=["late", "before zero"])
def test_times_need_not_start_at_zero(tmp_path: Path, start: float) -> None:
    seconds = [start + i / FPS for i in range(20)]
    kept = {"avoid_negative_ts": "disabled"}
    path = encode(
        tmp_path / "c.mkv", [scene(i) for i in range(20)], codec="libvpx-vp9", seconds=seconds, muxer_options=kept
    )
    video = open_video(path)
    np.testing.assert_allclose(video.seconds, seconds, atol=1e-3)
    np.testing.assert_array_equal(video[7], list(video)[7])


def test_frames_that_an_edit_list_leaves_out_are_not_there(clip: Path) -> None:
    whole = open_video(clip)[:]
    video = open_video(trim(clip, 5))
    assert len(video) == FRAMES - 5
    assert video.seconds[0] == 0
    np.testing.assert_array_equal(video[:], whole[5:])
    np.testing.assert_array_equal(video[11], whole[16])


def test_a_file_without_times_gets_regular_ones(tmp_path: Path) -> None:
    video = open_video(encode(tmp_path / "clip.h264", [scene(i) for i in range(5)], muxer="h264"))
    np.testing.assert_allclose(video.seconds, np.arange(5) / FPS)


def test_fps_is_exact_where_the_header_says_so(tmp_path: Path) -> None:
    seconds = [i * 1001 / 30000 for i in range(10)]
    video = open_video(encode(tmp_path / "clip.mp4", [scene(i) for i in range(10)], seconds=seconds))
    assert video.fps == pytest.approx(30000 / 1001, rel=1e-6)


# Orientation and colours

CORNERS = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
CORNERS[: HEIGHT // 2, : WIDTH // 2] = 255, 0, 0
CORNERS[: HEIGHT // 2, WIDTH // 2 :] = 0, 255, 0
CORNERS[HEIGHT // 2 :, : WIDTH // 2] = 0, 0, 255


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        pytest.param((1, 0, 0, 1), CORNERS, id="as stored"),
        # (x, y) -> (-y, x): what was on top is now on the right
        pytest.param((0, 1, -1, 0), np.rot90(CORNERS, -1), id="quarter turn to the right"),
        pytest.param((0, -1, 1, 0), np.rot90(CORNERS, 1), id="quarter turn to the left"),
        pytest.param((-1, 0, 0, -1), np.rot90(CORNERS, 2), id="half turn"),
        pytest.param((-1, 0, 0, 1), CORNERS[:, ::-1], id="mirrored"),
        pytest.param((0, 1, 1, 0), CORNERS.transpose(1, 0, 2), id="transposed"),
        pytest.param((0.05, 1, -1, 0.05), np.rot90(CORNERS, -1), id="nearly a quarter turn"),
    ],
)
def test_frames_are_turned_as_the_file_says(
    tmp_path: Path, matrix: tuple[float, float, float, float], shown: np.ndarray
) -> None:
    path = turn(encode(tmp_path / "clip.mp4", [CORNERS] * 3, options={"crf": "1"}), matrix)
    video = open_video(path)
    assert video.size == (shown.shape[1], shown.shape[0])
    difference = np.abs(video[1].astype(int) - shown).max(axis=-1)
    assert np.median(difference) <= 3  # chroma is smeared along the seams
    assert video[0].flags.c_contiguous


# Y'CbCr -> R'G'B' by the definition: R = Y + 2 (1 - Kr) Cr, B = Y + 2 (1 - Kb) Cb, Y = Kr R + Kg G + Kb B
BT709, BT601 = (1, 0.2126, 0.0722), (5, 0.299, 0.114)  # code in H.273, Kr, Kb


def by_definition(samples: tuple[int, int, int], kr: float, kb: float, is_full: bool) -> np.ndarray:
    y, cb, cr = samples
    luma, blue, red = (
        (y / 255, (cb - 128) / 255, (cr - 128) / 255)
        if is_full
        else ((y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224)
    )
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    return np.clip([r, (luma - kr * r - kb * b) / (1 - kr - kb), b], 0, 1) * 255


@pytest.mark.parametrize("matrix", [BT709, BT601], ids=["bt709", "bt601"])
@pytest.mark.parametrize("is_full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("samples", [(235, 128, 128), (90, 100, 170), (150, 60, 110)])
def test_colours_follow_the_matrix_and_the_range(
    tmp_path: Path, matrix: tuple[int, float, float], is_full: bool, samples: tuple[int, int, int]
) -> None:
    code, kr, kb = matrix
    planes = np.full((3, HEIGHT, WIDTH), np.array(samples)[:, None, None], np.uint8)
    path = encode_planes(
        tmp_path / "clip.mkv", planes, codec="ffv1", pixels="yuv444p", matrix=code, color_range=2 if is_full else 1
    )
    expected = by_definition(samples, kr, kb, is_full)
    np.testing.assert_allclose(open_video(path)[0][HEIGHT // 2, WIDTH // 2], expected, atol=2)


@pytest.mark.parametrize(("size", "matrix"), [((64, 48), BT601), ((1280, 16), BT709)], ids=["small", "high definition"])
def test_untagged_colours_follow_the_size(
    tmp_path: Path, size: tuple[int, int], matrix: tuple[int, float, float]
) -> None:
    samples = (90, 100, 170)
    planes = np.full((3, size[1], size[0]), np.array(samples)[:, None, None], np.uint8)
    path = encode_planes(tmp_path / "c.mkv", planes, codec="ffv1", pixels="yuv444p", matrix=2, color_range=1)
    np.testing.assert_allclose(open_video(path)[0][8, 8], by_definition(samples, *matrix[1:], False), atol=2)


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv422p", "gray", "gray10le"])
def test_other_kinds_of_pixels_become_8_bit_rgb(tmp_path: Path, pixels: str) -> None:
    ramp = np.repeat(np.tile(np.arange(WIDTH, dtype=np.uint8) * 4, (HEIGHT, 1))[..., None], 3, axis=-1)
    video = open_video(encode(tmp_path / "clip.mkv", [ramp, ramp], codec="ffv1", pixels=pixels))
    assert video[0].shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(video[0].astype(int), ramp, atol=2)


def test_transparency_is_dropped(tmp_path: Path) -> None:
    rgba = np.full((HEIGHT, WIDTH, 4), (200, 100, 50, 0), np.uint8)
    with av.open(str(tmp_path / "clip.mov"), "w") as container:
        stream = container.add_stream("png", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "rgba"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, format="rgba")))
        container.mux(stream.encode())
    np.testing.assert_array_equal(open_video(tmp_path / "clip.mov")[0], rgba[..., :3])


# Damaged files


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "ts", "gif"])
@pytest.mark.parametrize("share", [0.53, 0.71, 0.89])
def test_a_file_that_ends_early_gives_the_frames_before_the_end(tmp_path: Path, kind: str, share: float) -> None:
    how: dict[str, dict[str, object]] = {
        "mp4": {"options": X264, "muxer_options": {"movflags": "faststart"}},
        "webm": {"codec": "libvpx-vp9"},
        "gif": {"codec": "gif", "pixels": "rgb8"},
    }
    noise = np.random.default_rng(0).integers(-20, 20, (FRAMES, HEIGHT, WIDTH, 3))
    frames = [np.clip(scene(i) + noise[i], 0, 255).astype(np.uint8) for i in range(FRAMES)]
    path = encode(tmp_path / f"clip.{kind}", frames, **how.get(kind, {"options": X264}))  # type: ignore[arg-type]
    whole = open_video(path)
    expected, seconds = whole[:], whole.seconds
    cut(path, share)

    with pytest.warns(PointloomWarning, match=r"declares \d+ frames, but only (\d+) could be read") as caught:
        video = open_video(path)
    assert len(caught) == 1
    read = list(video)
    assert 0 < len(read) == len(video) < FRAMES
    assert f"only {len(read)} could" in str(caught[0].message)
    np.testing.assert_array_equal(read, expected[: len(read)])
    np.testing.assert_array_equal(video.seconds, seconds[: len(read)])
    with pytest.raises(CorruptVideoError, match="could be read"):
        open_video(path, strict=True)


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_the_declared_number_of_frames_is_named(tmp_path: Path, kind: str) -> None:
    path = encode(tmp_path / f"clip.{kind}", [scene(i) for i in range(FRAMES)], muxer_options={"movflags": "faststart"})
    with pytest.warns(PointloomWarning, match="declares 40 frames"):
        open_video(cut(path, 0.8))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        pytest.param("clip.mp4", {"options": X264}, id="h264"),
        pytest.param("clip.mkv", {"options": X264}, id="h264 in mkv"),
        pytest.param("clip.webm", {"codec": "libvpx-vp9"}, id="vp9"),
        pytest.param("clip.avi", {"codec": "mpeg4"}, id="mpeg4"),
        pytest.param("clip.mp4", {"codec": "libx265", "options": X265}, id="h265, whose decoder says nothing"),
    ],
)
def test_a_fault_in_the_middle_ends_the_video_there(tmp_path: Path, name: str, how: dict[str, object]) -> None:
    path = encode(tmp_path / name, [scene(i) for i in range(FRAMES)], **how)  # type: ignore[arg-type]
    expected = open_video(path)[:]
    spoil(path, 20)

    video = open_video(path)
    assert len(video) == FRAMES  # nothing shows from outside
    with pytest.warns(PointloomWarning, match="declares 40 frames, but only"):
        read = list(video)
    assert 12 < len(read) <= 21
    assert len(read) == len(video) == len(video.seconds)
    np.testing.assert_array_equal(read, expected[: len(read)])
    np.testing.assert_array_equal(video[-1], expected[len(read) - 1])
    with pytest.raises(IndexError):
        video[len(read)]
    with pytest.raises(CorruptVideoError, match="declares 40 frames"):
        open_video(path, strict=True)


def test_a_frame_beyond_a_fault_is_an_error_and_a_slice_is_shorter(clip: Path) -> None:
    spoil(clip, 20)
    with pytest.warns(PointloomWarning), pytest.raises(VideoError, match=r"Frame 22 of clip\.mp4 cannot be read"):
        open_video(clip)[22]
    with pytest.warns(PointloomWarning):
        part = open_video(clip)[10:30]
    assert 5 < len(part) < 12


def test_a_whole_file_passes_in_strict_mode(any_kind: Path) -> None:
    video = open_video(any_kind, strict=True)
    assert len(video) == len(list(video)) == FRAMES


def test_a_file_whose_first_frame_is_damaged_is_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.webm", [scene(0)], codec="libvpx-vp9")
    with pytest.raises(VideoError, match=r"No frame of clip\.webm can be decoded"):
        open_video(spoil(path, 0))


def _text(path: Path) -> None:
    path.write_text("This is not a video.\n" * 100)


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


def _noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


@pytest.mark.parametrize("suffix", [".mp4", ".txt", ".avi"])
@pytest.mark.parametrize("fill", [_text, _nothing, _noise], ids=["text", "nothing", "noise"])
def test_what_is_not_a_video_is_refused(tmp_path: Path, suffix: str, fill: Callable[[Path], None]) -> None:
    path = tmp_path / f"clip{suffix}"
    fill(path)
    with pytest.raises(VideoError, match=rf"clip{suffix} is not a video file .* convert it to mp4"):
        open_video(path)


def test_an_mp4_that_lost_its_index_is_refused_with_the_likely_reason(clip: Path) -> None:
    with pytest.raises(VideoError, match="recording was interrupted"):
        open_video(cut(clip, 0.5))


def _sound(path: Path, picture: np.ndarray | None = None) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        cover = None if picture is None else container.add_stream("mjpeg", rate=1)
        if cover is not None:
            cover.height, cover.width, cover.pix_fmt = *picture.shape[:2], "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 44_100), np.float32), format="fltp", layout="mono")
        samples.sample_rate, samples.pts = 44_100, 0
        container.mux(stream.encode(samples))
        container.mux(stream.encode())
        if cover is not None:
            container.mux(cover.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(cover.encode())
    return path


@pytest.mark.parametrize("cover", [None, scene(0)], ids=["plain", "with a picture of the cover"])
def test_sound_alone_is_refused(tmp_path: Path, cover: np.ndarray | None) -> None:
    with pytest.raises(VideoError, match="holds only sound"):
        open_video(_sound(tmp_path / "clip.mp4", cover))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"There is no file .*nothing\.mp4"):
        open_video(tmp_path / "nothing.mp4")


def test_only_paths_and_arrays_are_sources() -> None:
    with pytest.raises(VideoError, match="from a path or a NumPy array, got int"):
        open_video(5)  # type: ignore[arg-type]


# Limits and protocols


def test_too_many_pixels_are_refused_before_they_are_decoded(clip: Path) -> None:
    with pytest.raises(VideoError, match="64 x 48 pixels, more than the limit of 1000 pixels"):
        open_video(clip, limits=Limits(max_pixels=1000))
    assert len(open_video(clip, limits=Limits(max_pixels=WIDTH * HEIGHT))) == FRAMES


@pytest.mark.parametrize("name", ["clip.mp4", "clip.h264"])
def test_too_many_frames_are_refused(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, [scene(i) for i in range(12)], muxer=None if name == "clip.mp4" else "h264")
    with pytest.raises(VideoError, match="more than 11 frames"):
        open_video(path, limits=Limits(max_frames=11))
    assert len(open_video(path, limits=Limits(max_frames=12))) == 12


def test_reading_has_a_time_limit(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = open_video(clip, limits=Limits(timeout_s=30))
    monkeypatch.setattr(index_module, "time", SimpleNamespace(monotonic=itertools.count(0, 20).__next__))
    assert len(video[:5]) == 5
    monkeypatch.setattr(index_module, "time", SimpleNamespace(monotonic=itertools.count(0, 40).__next__))
    with pytest.raises(VideoError, match="took more than 30 s for a single frame"):
        list(open_video(clip, limits=Limits(timeout_s=30)))


def test_limits_are_positive() -> None:
    with pytest.raises(OptionError, match="max_frames must be positive, got 0"):
        Limits(max_frames=0)


@pytest.mark.parametrize(
    "address",
    [
        "http://localhost/clip.mp4",
        "HTTPS://localhost/clip.mp4",
        "rtsp://localhost/clip",
        "concat:{clip}|{clip}",
        "subfile,,start,0,end,0,,:{clip}",
        "file:{clip}",
        "data:video/mp4;base64,AAAA",
        "pipe:0",
    ],
)
def test_protocols_are_refused_unless_allowed_by_name(clip: Path, address: str) -> None:
    with pytest.raises(VideoError, match="only local files are opened unless a protocol is allowed by name"):
        open_video(address.format(clip=clip))
    with pytest.raises(VideoError, match="only local files"):
        open_video(address.format(clip=clip), protocols=("ftp",))


def test_a_protocol_can_be_allowed(clip: Path) -> None:
    video = open_video(f"file:{clip}", protocols=("file",))
    assert (len(video), video.name) == (FRAMES, "clip.mp4")


def test_a_file_name_with_a_colon_is_a_file(tmp_path: Path, clip: Path) -> None:
    odd = clip.rename(tmp_path / "http:clip [1].mp4")
    assert len(open_video(odd)) == len(open_video(str(odd))) == FRAMES


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4", "list.txt"])
@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9.0,\n{clip}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{clip}'\n",
        "<MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period><AdaptationSet mimeType='video/mp4'>"
        "<Representation id='0' bandwidth='1'><BaseURL>file://{clip}</BaseURL></Representation></AdaptationSet>"
        "</Period></MPD>",
    ],
    ids=["play list", "concatenation", "manifest"],
)
def test_lists_cannot_open_other_files(tmp_path: Path, name: str, text: str) -> None:
    clip = encode(tmp_path / "clip.ts", [scene(i) for i in range(5)])
    (tmp_path / name).write_text(text.format(clip=clip))
    with pytest.raises(VideoError, match="is not a video file that can be read"):
        open_video(tmp_path / name)


# Cost


def counted(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> list[object]:
    """Note every value that passes through a function (or every item of a generator)."""
    original = getattr(module, name)
    seen: list[object] = []

    def watched(*args: object, **kwargs: object) -> object:
        result = original(*args, **kwargs)
        if hasattr(result, "__next__"):
            return (seen.append(item) or item for item in result)
        seen.append(result)
        return result

    monkeypatch.setattr(module, name, watched)
    return seen


def test_reading_in_order_decodes_each_frame_once_however_it_is_asked_for(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = counted(monkeypatch, file_module, "decode_forward")
    video = open_video(clip)
    for _ in video.frames(0, 10):
        pass
    for i in range(10, 20):
        video[i]
    for start in range(16, FRAMES - 8, 4):  # overlapping windows
        video[start : start + 8]
    assert len(decoded) <= FRAMES


@pytest.mark.parametrize("is_trimmed", [False, True])
def test_opening_does_not_decode_the_file(clip: Path, monkeypatch: pytest.MonkeyPatch, is_trimmed: bool) -> None:
    if is_trimmed:
        trim(clip, 5)
    decoded = counted(monkeypatch, file_module, "decode_forward")
    scanned = counted(monkeypatch, index_module, "decode_forward")
    open_video(clip)
    assert len(decoded) <= file_module.PROBED_FRAMES
    assert scanned == []


def test_a_distant_frame_is_reached_from_the_key_frame_before_it(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = counted(monkeypatch, file_module, "decode_forward")
    video = open_video(clip)
    decoded.clear()
    video[38]  # key frames at 0, 12, 24, 36
    assert len(decoded) <= 5
    decoded.clear()
    video[3]
    assert len(decoded) <= 5


def test_iterations_at_the_same_time_do_not_disturb_each_other(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = counted(monkeypatch, file_module, "decode_forward")
    video = open_video(clip)
    frames = video[:]
    decoded.clear()
    for i, (a, b) in enumerate(zip(video, video.frames(10), strict=False)):
        np.testing.assert_array_equal(a, frames[i])
        np.testing.assert_array_equal(b, frames[i + 10])
    assert len(decoded) <= 3 * FRAMES


def test_reading_goes_on_after_an_interruption(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = open_video(clip)[:]
    video = open_video(clip)
    scanned = counted(monkeypatch, index_module, "decode_forward")
    with monkeypatch.context() as patch:
        patch.setattr(index_module.Limits, "check_time", interrupt)
        with pytest.raises(KeyboardInterrupt):
            video[9]
    np.testing.assert_array_equal(video[9:], frames[9:])
    assert scanned == []


def interrupt(*args: object) -> None:
    raise KeyboardInterrupt


def test_memory_does_not_grow_with_the_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "REMEMBERED_BYTES", 10 * WIDTH * HEIGHT * 3 // 2)
    path = encode(tmp_path / "long.mp4", [scene(i % 7) for i in range(300)], options={"preset": "ultrafast"})
    video = open_video(path)
    assert isinstance(video, Video)
    for _ in video:
        pass
    for start in (0, 100, 200):
        for a, b, c in zip(video.frames(start), video.frames(start + 5), video.frames(start + 9), strict=False):
            assert a.shape == b.shape == c.shape
    idle = video._source._idle  # type: ignore[attr-defined]
    assert len(idle) <= file_module.IDLE_CURSORS
    assert all(len(cursor._remembered) <= 10 for cursor in idle)


# The video as a value


def test_a_video_says_what_it_is(clip: Path) -> None:
    video = open_video(str(clip))
    assert (video.name, video.size, video.fps, len(video)) == ("clip.mp4", (WIDTH, HEIGHT), FPS, FRAMES)
    assert repr(video) == "<Video 'clip.mp4': 40 frames of 64 x 48, 25 fps>"


def test_an_open_video_is_returned_as_it_is(clip: Path) -> None:
    video = open_video(clip)
    assert open_video(video) is video


def test_a_closed_video_cannot_be_read(clip: Path) -> None:
    with open_video(clip) as video:
        running = iter(video)
        next(running)
        assert len(video) == FRAMES
    with pytest.raises(VideoError, match="has been closed"):
        video[0]
    with pytest.raises(VideoError, match="has been closed"):
        iter(video)
    running.close()  # type: ignore[attr-defined]
    assert video._source._idle == []  # type: ignore[attr-defined]


def test_fps_is_not_for_files(clip: Path) -> None:
    with pytest.raises(OptionError, match=r"clip\.mp4 has times of its own"):
        open_video(clip, fps=10)


def test_damage_lies_where_the_tests_think_it_does(clip: Path) -> None:
    """The damage done in this file is where the tests think it is."""
    assert [i for i, packet in enumerate(packets(clip)) if packet.is_keyframe][:2] == [0, 12]
