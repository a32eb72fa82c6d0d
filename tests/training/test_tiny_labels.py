"""The recipe that labels real clips, with a tracker that knows the truth and errs where it is told to."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pointloom.datasets.clip import AnnotatedClip
from pointloom.tracks import Tracks

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny_labels.py"
SIZE = (320, 240)
SPEED = np.array([1.5, 0.5])  # of everything, pixels a frame
Err = Callable[[Tracks, str], None]


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_labels", RECIPE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PIXELS = 320 * 180  # less than these frames have
    return module


@pytest.fixture(scope="module")
def frames(recipe: ModuleType) -> np.ndarray:
    import cv2

    noise = np.random.default_rng(3).integers(0, 255, (320, 480, 3)).astype(np.uint8)
    picture = cv2.GaussianBlur(noise, (0, 0), 2)
    corners = (np.array([100.0, 40.0]) - SPEED * t for t in range(recipe.FRAMES))
    return np.stack([cv2.getRectSubPix(picture, SIZE, tuple(c + (np.array(SIZE) - 1) / 2)) for c in corners])


class Knowing:
    """Moves every point as the picture moves; `err` then changes its answers, told which reading it is."""

    def __init__(self, frames: np.ndarray, err: Err) -> None:
        self.frames, self.err, self.readings = frames, err, 0

    def track(self, frames: np.ndarray, queries: np.ndarray, *, direction: str) -> Tracks:
        reading = "plain" if self.readings == 0 else "mirrored" if self.readings == 1 else direction
        assert direction == ("both" if self.readings < 2 else reading)
        self.readings += 1
        mirror = -1 if reading == "mirrored" else 1
        assert np.array_equal(frames, self.frames[:, :, ::mirror])
        passed = np.arange(len(frames))[None, :, None] - queries[:, None, :1]
        xy = queries[:, None, 1:] + passed * SPEED * (mirror, 1)
        sure = np.full(xy.shape[:2], 0.9, np.float32)
        tracks = Tracks(xy.astype(np.float32), sure.copy(), sure, queries, np.arange(len(frames)) / 25.0, SIZE)
        self.err(tracks, reading)
        return tracks


def label(recipe: ModuleType, frames: np.ndarray, err: Err) -> AnnotatedClip:
    return recipe.labelled("clip_0000", frames, Knowing(frames, err), np.random.default_rng(0))


def straight(clip: AnnotatedClip) -> np.ndarray:
    """How far each label lies from where the first label of its point says it should be."""
    n, t = np.arange(len(clip.xy)), np.arange(clip.xy.shape[1])
    first = clip.valid.argmax(1)
    scale = np.array(clip.size) / SIZE
    expected = clip.xy[n, first][:, None] + (t - first[:, None])[..., None] * SPEED * scale
    return np.linalg.norm(clip.xy - expected, axis=-1)[clip.valid]


def test_labels_lie_on_the_smaller_frames(recipe: ModuleType, frames: np.ndarray) -> None:
    clip = label(recipe, frames, lambda tracks, reading: None)
    assert clip.size == (280, 208)
    assert clip.frames.shape == (recipe.FRAMES, 208, 280, 3)
    assert len(clip.xy) > 150
    assert straight(clip).max() < 1.0
    assert np.median(straight(clip)) < 0.1
    assert not (clip.visible & ~clip.valid).any()
    inside = ((clip.xy > -0.51) & (clip.xy < np.array(clip.size) - 0.49)).all(-1)
    assert inside[clip.visible].all()
    assert clip.visible[inside].mean() > 0.97


@pytest.mark.parametrize("readings", [("mirrored",), ("forward", "backward")], ids=["mirrored", "way back"])
def test_frames_in_which_two_readings_differ_have_no_label(
    recipe: ModuleType, frames: np.ndarray, readings: tuple[str, ...]
) -> None:
    def strays(tracks: Tracks, which: str) -> None:
        if which in readings:
            tracks.xy[::2, 20:24] += 12

    clip = label(recipe, frames, strays)
    there = clip.visible[:, 19] & clip.visible[:, 24]
    refused = ~clip.visible[there, 20:24].any(1)
    assert 0.3 < refused.mean() < 0.7
    assert (clip.visible[there, 20:24].all(1) | refused).all()
    assert clip.valid[there, 20:24][refused].mean() < 0.05  # not said to be hidden either, but for some at the border


def test_a_point_that_often_fails_the_test_is_dropped(recipe: ModuleType, frames: np.ndarray) -> None:
    def strays(tracks: Tracks, which: str) -> None:
        if which == "mirrored":
            tracks.xy[::2, 20:32] += 12

    everything = label(recipe, frames, lambda tracks, reading: None)
    assert len(label(recipe, frames, strays).xy) < 0.6 * len(everything.xy)


def test_a_point_is_labelled_until_it_is_lost(recipe: ModuleType, frames: np.ndarray) -> None:
    """From frame 40 on both readings follow something else. They agree on it, but do not come back from there."""

    def loses(tracks: Tracks, which: str) -> None:
        if which in ("plain", "mirrored"):
            y = tracks.xy[:, 40:, 1]
            y += 20 * np.sign(SIZE[1] / 2 - y)  # into the picture

    clip = label(recipe, frames, loses)
    early = clip.visible[:, 5:20].all(1)
    assert early.sum() > 80
    assert not clip.visible[early, 40:].any()
    assert clip.valid[early, 40:].mean() < 0.05  # nor hidden, but for a few that leave the picture
    # frame 38: points asked for in frame 5 come back from 0.6 of their way; those asked for in 32 are lost sooner
    assert 0.2 < clip.visible[early, 38].mean() < 0.8


def test_hidden_points_are_known_to_be_hidden(recipe: ModuleType, frames: np.ndarray) -> None:
    def hides(tracks: Tracks, which: str) -> None:
        tracks.visibility[:, 10:22] = 0.1
        tracks.confidence[:] = 0.0  # is not asked

    everything = label(recipe, frames, lambda tracks, reading: None)
    clip = label(recipe, frames, hides)
    assert len(clip.xy) > 0.9 * len(everything.xy)
    assert not clip.visible[:, 10:22].any()
    assert clip.valid[:, 10:22].mean() > 0.7  # known to be hidden, but for those that began later
    assert clip.visible[:, :10].mean() > 0.6


def test_lucas_kanade_has_a_say(recipe: ModuleType, frames: np.ndarray) -> None:
    def shifts(tracks: Tracks, which: str) -> None:
        tracks.xy[:, 30:34] += (0.0, 2.0)

    clip = label(recipe, frames, shifts)
    there = clip.valid[:, 28] & clip.valid[:, 32]
    scale = clip.size[1] / SIZE[1]
    moved = (clip.xy[there, 32] - clip.xy[there, 28])[:, 1] / scale - 4 * SPEED[1]
    assert np.median(moved) == pytest.approx(1, abs=0.1)  # half of what the others are wrong


def test_lucas_kanade_counts_until_it_lost_the_point(recipe: ModuleType) -> None:
    seen = np.array([[1, 0, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1, 1]], bool)
    counts = recipe.never_lost(seen, np.array([3, 0]))
    assert counts.tolist() == [[False, False, True, True, True, False, False], [True] * 7]


def test_queries_are_drawn_where_things_move(recipe: ModuleType) -> None:
    noise = np.random.default_rng(5).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    frames = np.stack([noise] * recipe.FRAMES)
    for t in range(recipe.FRAMES):
        frames[t, 20:40, 50:70] = np.roll(noise[20:40, 50:70], t % 16, axis=1)  # slides to the right
    queries = recipe.where_it_moves(frames, np.random.default_rng(0))
    assert sorted(set(queries[:, 0])) == [5, 32, 58]
    inside = ((queries[:, 1:] > (45, 15)) & (queries[:, 1:] < (75, 45))).all(1)
    assert inside.mean() > 0.5  # of a tenth of the frame


def test_few_of_the_points_that_are_kept_stand_still(recipe: ModuleType) -> None:
    xy = np.zeros((12, 5, 2), np.float32)
    xy[:3, :, 0] = np.arange(5) * 2
    xy[3:, 4] = 100  # where nobody knows
    sure = np.ones((12, 5), bool)
    sure[3:, 4] = False
    assert recipe.mostly_moving(xy, sure).tolist() == [0, 1, 2, 3]


def test_a_clip_is_cut_into_parts(recipe: ModuleType, tmp_path: Path) -> None:
    from pointloom import write_video

    for name, length in (("long", 190), ("short", 50), ("too_short", 40)):
        write_video(tmp_path / f"{name}.mp4", np.zeros((length, 32, 32, 3), np.uint8), fps=25)
    lengths = {name: len(part) for clip in sorted(tmp_path.iterdir()) for name, part in recipe.parts(clip)}
    assert lengths == {"long_0000": 64, "long_0060": 64, "short_0000": 50}
