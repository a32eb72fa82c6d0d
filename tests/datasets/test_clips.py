"""Reading folders of annotated clips: made here, a few small frames each."""

from __future__ import annotations

import operator
from pathlib import Path

import numpy as np
import pytest

from pointloom.datasets.clip import AnnotatedClip, JointClip, MaskedClip
from pointloom.datasets.clips import ClipsFolder, group_of
from pointloom.datasets.registry import open_dataset
from pointloom.errors import DatasetError
from pointloom.video import write_video

FRAMES, WIDTH, HEIGHT = 4, 32, 24


def make_video(folder: Path, frames: int = FRAMES) -> None:
    """Frame t is evenly grey, 50 + 30 t."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = (np.full((HEIGHT, WIDTH, 3), 50 + 30 * t, np.uint8) for t in range(frames))
    write_video(folder / "video.mp4", pictures, fps=24)


def tracks() -> dict[str, np.ndarray]:
    """Two tracks; the second is first visible in frame 1, and nothing is known of it in frame 2."""
    visible = np.array([[1, 1, 0, 1], [0, 1, 0, 1]], bool)
    valid = np.array([[1, 1, 1, 1], [1, 1, 0, 1]], bool)
    points = np.random.default_rng(0).uniform(0, 24, (2, FRAMES, 2)).astype(np.float32)
    points[0, 0] = [0.5, 0.5]
    return {"points": points, "visible": visible, "valid": valid, "query_frame": np.array([0, 1], np.int32)}


def joints() -> dict[str, np.ndarray]:
    area = np.array([100, np.nan, 90, 80], np.float32)
    return {**tracks(), "area": area, "joint": np.array([15, 33], np.int32)}


def masks() -> np.ndarray:
    return np.random.default_rng(1).random((FRAMES, HEIGHT, WIDTH)) < 0.4


def packed(masks: np.ndarray) -> dict[str, np.ndarray]:
    return {"shape": np.array(masks.shape, np.int32), "masks": np.packbits(masks)}


def make_clip(folder: Path, arrays: dict[str, np.ndarray], file: str = "tracks.npz", frames: int = FRAMES) -> None:
    make_video(folder, frames)
    np.savez_compressed(folder / file, **arrays)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    make_clip(tmp_path / "markers" / "desk", tracks())
    make_clip(tmp_path / "joints" / "dog", joints())
    make_clip(tmp_path / "masks" / "goat", packed(masks()), "masks.npz")
    (tmp_path / "manifest.csv").write_text("group,name\nelsewhere,absent\n")
    (tmp_path / "markers" / "notes").mkdir()
    return tmp_path


def test_clips_are_found_by_their_annotations_in_alphabetical_order(top):
    folder = ClipsFolder(top)
    assert folder.names == ("joints/dog", "markers/desk")
    assert folder.masked_names == ("masks/goat",)
    assert len(folder) == 2
    assert [clip.name for clip in folder] == ["joints/dog", "markers/desk"]
    assert [clip.name for clip in folder.masked()] == ["masks/goat"]


def test_as_a_data_set_a_folder_gives_clips_with_tracks_and_then_those_with_masks(top):
    dataset = open_dataset(f"clips:{top}")
    assert [clip.name for clip in dataset] == ["joints/dog", "markers/desk", "masks/goat"]
    assert operator.length_hint(dataset) == 3


def test_a_clip_has_its_frames_and_its_tracks(top):
    clip = ClipsFolder(top)["markers/desk"]
    assert type(clip) is AnnotatedClip
    assert clip.frames.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert clip.size == (WIDTH, HEIGHT)
    np.testing.assert_allclose(clip.frames.mean(axis=(1, 2, 3)), [50, 80, 110, 140], atol=4)  # in order
    np.testing.assert_array_equal(clip.visible, tracks()["visible"])
    np.testing.assert_array_equal(clip.valid, tracks()["valid"])


def test_convention_stored_positions_are_raster_and_ours_count_from_pixel_centres(top):
    clip = ClipsFolder(top)["markers/desk"]
    assert clip.xy[0, 0].tolist() == [0, 0]  # stored as (0.5, 0.5), the centre of the first pixel
    np.testing.assert_allclose(clip.xy, tracks()["points"] - 0.5, atol=1e-6)
    assert clip.xy.dtype == np.float32


def test_a_clip_of_joints_says_which_joints_and_how_large_the_animal_is(top):
    clip = ClipsFolder(top)["joints/dog"]
    assert isinstance(clip, JointClip)
    np.testing.assert_array_equal(clip.area, joints()["area"])
    assert clip.joint.tolist() == [15, 33]


def test_a_clip_with_masks_has_its_masks_unpacked(top):
    (clip,) = ClipsFolder(top).masked()
    assert isinstance(clip, MaskedClip)
    np.testing.assert_array_equal(clip.masks, masks())
    assert clip.frames.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert clip.size == (WIDTH, HEIGHT)


def test_a_clip_may_have_both_tracks_and_masks(top):
    np.savez(top / "markers" / "desk" / "masks.npz", **packed(masks()))
    folder = ClipsFolder(top)
    assert "markers/desk" in folder.names
    assert "markers/desk" in folder.masked_names


def test_clips_are_read_only_when_they_are_asked_for(top):
    (top / "markers" / "desk" / "tracks.npz").write_bytes(b"damaged")
    folder = iter(ClipsFolder(top))
    assert next(folder).name == "joints/dog"
    with pytest.raises(DatasetError, match="damaged"):
        next(folder)


def test_groups_may_be_nested(top):
    make_clip(top / "a" / "b" / "c", tracks())
    assert "a/b/c" in ClipsFolder(top).names
    assert group_of("a/b/c") == "a/b"
    assert group_of("markers/desk") == "markers"


def test_a_clip_directly_below_the_folder_has_no_group(top):
    folder = ClipsFolder(top / "markers")
    assert folder.names == ("desk",)
    assert folder["desk"].name == "desk"
    assert group_of("desk") == ""


def test_a_clip_without_tracks_of_any_point_is_read(tmp_path):
    nothing = {name: array[:0] for name, array in tracks().items()}
    make_clip(tmp_path / "group" / "empty", nothing)
    clip = ClipsFolder(tmp_path)["group/empty"]
    assert clip.xy.shape == (0, FRAMES, 2)


def test_a_track_that_is_never_visible_may_name_any_query_frame(tmp_path):
    arrays = tracks()
    arrays["visible"][1] = False
    arrays["query_frame"][1] = -1
    make_clip(tmp_path / "group" / "hidden", arrays)
    assert not ClipsFolder(tmp_path)["group/hidden"].visible[1].any()


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_a_folder_without_clips_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="not a folder"):
        ClipsFolder(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"holds no clips.*tracks\.npz or masks\.npz"):
        ClipsFolder(tmp_path)


def test_an_unknown_name_is_refused_with_the_nearest_known_ones(top):
    with pytest.raises(DatasetError, match=r"no clip 'marker/desk'.*Did you mean markers/desk"):
        ClipsFolder(top)["marker/desk"]
    with pytest.raises(DatasetError, match=r"no clip 'joints/dog' with masks\.npz"):
        ClipsFolder(top).read_masked("joints/dog")


def test_names_do_not_lead_out_of_the_folder(top):
    with pytest.raises(DatasetError, match="no clip"):
        ClipsFolder(top / "markers")["../joints/dog"]


def test_a_missing_video_is_named(top):
    (top / "markers" / "desk" / "video.mp4").unlink()
    with pytest.raises(DatasetError, match=r"desk.video\.mp4 is missing"):
        ClipsFolder(top)["markers/desk"]


def test_a_video_of_another_length_is_refused(top):
    make_clip(top / "markers" / "desk", tracks(), frames=FRAMES - 1)
    with pytest.raises(DatasetError, match=r"has 3 frames, but tracks\.npz is for 4"):
        ClipsFolder(top)["markers/desk"]


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off"], ids=["empty", "text", "cut"])
def test_a_damaged_file_is_refused(top, content):
    (top / "markers" / "desk" / "tracks.npz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"tracks\.npz is not a file of arrays, or it is damaged"):
        ClipsFolder(top)["markers/desk"]


def test_a_file_with_one_bare_array_is_refused(top):
    with (top / "markers" / "desk" / "tracks.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DatasetError, match="not a file of arrays"):
        ClipsFolder(top)["markers/desk"]


def test_a_pickle_is_not_opened(top):
    np.savez(top / "markers" / "desk" / "tracks.npz", **{**tracks(), "points": np.array([{}], object)})
    with pytest.raises(DatasetError, match="allow_pickle"):
        ClipsFolder(top)["markers/desk"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"valid": None}, r"lacks valid; it holds points, query_frame, visible"),
        ({"area": np.ones(FRAMES, np.float32)}, "lacks joint"),
        ({"visible": np.ones((2, FRAMES), np.uint8)}, "visible must be of type bool, got uint8"),
        ({"points": np.zeros((2, FRAMES, 2), int)}, "points must be of type floating"),
        ({"points": np.zeros((2, FRAMES, 3))}, r"points must have the shape \(N, T, 2\), got \(2, 4, 3\)"),
        ({"points": np.zeros((2, FRAMES))}, r"points must have the shape \(N, T, 2\), got \(2, 4\)"),
        ({"valid": np.ones((FRAMES, 2), bool)}, r"valid must have.*got \(4, 2\).*say N = 2, T = 4"),
        ({"query_frame": np.zeros(3, int)}, r"query_frame must have the shape \(N\), got \(3,\)"),
        ({"query_frame": np.zeros(2, int)}, "track 1 has query_frame 0, but is first visible in frame 1"),
        ({"valid": np.zeros((2, FRAMES), bool)}, "track 0 is visible in a frame in which it is not valid"),
    ],
)
def test_tracks_that_are_laid_out_differently_are_refused(tmp_path, change, message):
    arrays = {name: array for name, array in {**tracks(), **change}.items() if array is not None}
    make_clip(tmp_path / "group" / "name", arrays)
    with pytest.raises(DatasetError, match=message):
        ClipsFolder(tmp_path)["group/name"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": np.array([FRAMES, HEIGHT, WIDTH + 1])}, r"masks of shape \(4, 24, 33\) do not fill 384 bytes"),
        ({"shape": np.array([-FRAMES, -HEIGHT, WIDTH])}, "do not fill"),
        ({"shape": np.array([FRAMES, WIDTH, HEIGHT])}, "masks are 24 x 32 pixels, the video 32 x 24"),
        ({"masks": np.zeros(384, np.int16)}, "masks must be of type uint8"),
        ({"shape": np.array([FRAMES])}, r"shape must have the shape \(3\), got \(1,\)"),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path, change, message):
    make_clip(tmp_path / "group" / "name", {**packed(masks()), **change}, "masks.npz")
    with pytest.raises(DatasetError, match=message):
        ClipsFolder(tmp_path).read_masked("group/name")
