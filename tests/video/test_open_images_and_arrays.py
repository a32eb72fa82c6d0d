"""Folders and patterns of images, and arrays, as videos."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from encoded_clips import HEIGHT, WIDTH, scene

from pointloom.errors import CorruptVideoError, OptionError, PointloomWarning, VideoError
from pointloom.video import Limits, images, open_video, read_images
from pointloom.video.images import declared_size


def save(path: Path, rgb: np.ndarray) -> None:
    assert cv2.imwrite(str(path), rgb[..., ::-1] if rgb.shape[-1] == 3 else rgb)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images whose names are in order only if numbers count as numbers."""
    folder = tmp_path / "shot 7"
    folder.mkdir()
    for i in range(12):
        save(folder / f"frame{i}.png", scene(i))
    (folder / "notes.txt").write_text("not an image")
    (folder / "._frame0.png").write_bytes(b"what a Mac leaves behind")
    return folder


def test_a_folder_of_images_is_a_video_in_natural_order(folder: Path) -> None:
    video = open_video(folder)
    assert (len(video), video.size, video.name) == (12, (WIDTH, HEIGHT), "shot 7")
    np.testing.assert_array_equal(video[:], [scene(i) for i in range(12)])
    np.testing.assert_array_equal(video[10], scene(10))


def test_a_pattern_chooses_images(folder: Path) -> None:
    video = open_video(str(folder / "frame1*.png"))
    np.testing.assert_array_equal(video[:], [scene(1), scene(10), scene(11)])


def test_one_image_is_a_video_of_one_frame(folder: Path) -> None:
    video = open_video(folder / "frame3.png")
    assert len(video) == 1
    np.testing.assert_array_equal(video[0], scene(3))


def test_images_have_25_frames_a_second_unless_told(folder: Path) -> None:
    assert open_video(folder).seconds[5] == pytest.approx(0.2)
    video = open_video(folder, fps=10)
    assert (video.fps, video.seconds[5]) == (10, 0.5)
    with pytest.raises(OptionError, match="fps must be a positive number, got 0"):
        open_video(folder, fps=0)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".webp", ".jpg", ".jpeg", ".PNG"])
def test_all_usual_formats_are_read(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / f"x{suffix}", scene(0))
    tolerance = 30 if suffix in {".jpg", ".jpeg", ".webp"} else 0  # of single pixels, with lossy compression
    np.testing.assert_allclose(open_video(tmp_path)[0].astype(int), scene(0), atol=tolerance)


def test_16_bits_are_reduced_to_8(tmp_path: Path) -> None:
    deep = np.repeat(np.linspace(0, 65535, WIDTH).astype(np.uint16)[None, :, None], 3, axis=-1)
    save(tmp_path / "x.png", deep)
    np.testing.assert_allclose(open_video(tmp_path)[0], deep / 257, atol=1)


def test_grey_images_get_three_channels_and_transparent_ones_lose_one(tmp_path: Path) -> None:
    save(tmp_path / "1.png", np.full((HEIGHT, WIDTH), 77, np.uint8))
    save(tmp_path / "2.png", np.full((HEIGHT, WIDTH, 4), (10, 20, 30, 0), np.uint8))
    video = open_video(tmp_path)
    assert video[0][5, 5].tolist() == [77, 77, 77]
    assert video[1][5, 5].tolist() == [30, 20, 10]  # OpenCV wrote blue, green, red


def test_images_are_turned_as_the_camera_noted(tmp_path: Path) -> None:
    save(tmp_path / "x.jpg", scene(0))
    plain = open_video(tmp_path)[0]
    data = (tmp_path / "x.jpg").read_bytes()
    # Exif with one entry: tag 0x0112 (orientation), type 3 (short), value 6 (the right side of the picture was on top)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    (tmp_path / "x.jpg").write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    video = open_video(tmp_path)
    assert video.size == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(video[0], np.rot90(plain, -1))


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _smaller(path: Path) -> None:
    save(path, scene(0, 20, 10))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(_truncated, r"frame7\.png is not an image", id="cut off"),
        pytest.param(_empty, r"frame7\.png is not an image", id="empty"),
        pytest.param(_smaller, r"frame7\.png has 20 x 10 pixels, the first image 64 x 48", id="of another size"),
    ],
)
def test_an_image_that_does_not_fit_ends_the_video(folder: Path, spoil: object, reason: str) -> None:
    assert callable(spoil)
    spoil(folder / "frame7.png")
    video = open_video(folder)
    with pytest.warns(PointloomWarning, match=f"declares 12 frames, but only 7 could be read: {reason}"):
        frames = list(video)
    assert len(frames) == len(video) == len(video.seconds) == 7
    with pytest.raises(CorruptVideoError, match=reason):
        open_video(folder, strict=True)
    with pytest.raises(CorruptVideoError, match=reason):
        read_images(folder)


def test_images_that_are_read_at_once_are_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    decode = images.read_image

    def counted(path: Path, limits: Limits) -> np.ndarray:
        decoded.append(path.name)
        return decode(path, limits)

    monkeypatch.setattr(images, "read_image", counted)
    np.testing.assert_array_equal(read_images(folder), [scene(i) for i in range(12)])
    assert decoded == [f"frame{i}.png" for i in range(12)]


def test_the_first_image_is_a_new_array_each_time(folder: Path) -> None:
    video = open_video(folder)
    video[0][:] = 0
    np.testing.assert_array_equal(video[0], scene(0))


def test_the_first_image_has_to_be_readable(folder: Path) -> None:
    _truncated(folder / "frame0.png")
    with pytest.raises(VideoError, match=r"frame0\.png is not an image that can be read\. Save it again"):
        open_video(folder)


def test_folders_and_patterns_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"holds no images \(\.bmp, "):
        open_video(tmp_path)
    with pytest.raises(VideoError, match="No image matches"):
        open_video(str(tmp_path / "*.png"))
    with pytest.raises(VideoError, match="neither a folder of images nor a pattern"):
        read_images(tmp_path / "clip.mp4")


def test_too_many_images_are_refused(folder: Path) -> None:
    with pytest.raises(VideoError, match="more than 11 frames"):
        open_video(folder, limits=Limits(max_frames=11))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_the_size_of_an_image_is_known_before_it_is_unpacked(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    save(path, scene(0, 33, 22))
    assert declared_size(path.read_bytes()) == (33, 22)
    for kept in range(0, 40, 3):
        declared_size(path.read_bytes()[:kept])  # does not fail
    with pytest.raises(VideoError, match="33 x 22 pixels, more than the limit of 700"):
        open_video(path, limits=Limits(max_pixels=700))


@pytest.mark.parametrize("lossless", [False, True])
def test_the_size_of_every_kind_of_webp_is_known(tmp_path: Path, lossless: bool) -> None:
    path = tmp_path / "x.webp"
    cv2.imwrite(str(path), scene(0, 33, 22), [cv2.IMWRITE_WEBP_QUALITY, 101 if lossless else 50])
    assert declared_size(path.read_bytes()) == (33, 22)
    rgba = np.dstack([scene(0, 33, 22), np.full((22, 33), 128, np.uint8)])
    cv2.imwrite(str(path), rgba, [cv2.IMWRITE_WEBP_QUALITY, 50])
    assert declared_size(path.read_bytes()) == (33, 22)


def test_an_image_that_claims_to_be_huge_is_not_unpacked(tmp_path: Path) -> None:
    save(tmp_path / "x.png", scene(0))
    data = bytearray((tmp_path / "x.png").read_bytes())
    struct.pack_into(">II", data, 16, 30_000, 30_000)
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(VideoError, match="30000 x 30000 pixels"):
        open_video(tmp_path)


# Arrays


def test_an_array_is_a_video() -> None:
    frames = np.stack([scene(i) for i in range(5)])
    video = open_video(frames, fps=50)
    assert (len(video), video.size, video.fps, video.name) == (5, (WIDTH, HEIGHT), 50, "array")
    np.testing.assert_array_equal(video[:], frames)
    np.testing.assert_array_equal(list(video), frames)
    np.testing.assert_allclose(video.seconds, [0, 0.02, 0.04, 0.06, 0.08])
    video[2][:] = 0
    np.testing.assert_array_equal(frames[2], scene(2))


@pytest.mark.parametrize("shape", [(5, HEIGHT, WIDTH), (5, HEIGHT, WIDTH, 1)])
def test_a_grey_array_gets_three_channels(shape: tuple[int, ...]) -> None:
    grey = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    video = open_video(grey)
    np.testing.assert_array_equal(video[3], np.repeat(grey[3].reshape(HEIGHT, WIDTH, 1), 3, axis=-1))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), r"must be uint8 .* got float32\. For floats in 0\.\.1"),
        (np.zeros((2, 4, 4, 3), bool), "must be uint8"),
        (np.zeros((4, 4, 3), np.uint8), r"looks like one image.*frames\[None\]"),
        (np.zeros((2, 4, 4, 4), np.uint8), r"Leave alpha out: frames\[\.\.\., :3\]"),
        (np.zeros((2, 3, 4, 5), np.uint8), r"Channels go last"),
        (np.zeros((0, 4, 4, 3), np.uint8), "has no frames"),
        (np.zeros((2, 0, 4, 3), np.uint8), "nothing can be read"),
    ],
    ids=["floats", "bools", "one image", "alpha", "channels first", "no frames", "no pixels"],
)
def test_arrays_that_are_no_video_are_refused_with_the_remedy(array: np.ndarray, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        open_video(array)


def test_limits_hold_for_arrays() -> None:
    with pytest.raises(VideoError, match="more than 4 frames"):
        open_video(np.zeros((5, 2, 2, 3), np.uint8), limits=Limits(max_frames=4))
    with pytest.raises(VideoError, match="limit of 3 pixels"):
        open_video(np.zeros((5, 2, 2, 3), np.uint8), limits=Limits(max_pixels=3))
