"""What a training step sees: after any augmentation the pixels around a point still show the same thing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.pool import ClipPool, fill_pool, write_clip
from pointloom.errors import DatasetError, OptionError
from pointloom.geometry import inside
from pointloom.training.batches import candidates, draw_pairs, draw_tracks, frames_of, queries_of, sample_of
from pointloom.training.recipe import Augmentation, DataRecipe, SourceShare
from pointloom.training.sources import Sources
from pointloom.training.turning import drifting, random_similarity, warped

SIZE, FRAMES, POINTS = (96, 64), 10, 12
DOT_PX = 3.0


def dotted_clip(seed: int) -> AnnotatedClip:
    """White dots on black that slide to the right; every point is the middle of a dot."""
    rng = np.random.default_rng(seed)
    start = rng.uniform((8, 8), (60, 56), (POINTS, 2))
    xy = (start[:, None] + np.arange(FRAMES)[:, None] * np.array([1.5, 0.25])).astype(np.float32)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    distance = np.hypot(x - xy[..., 0, None, None], y - xy[..., 1, None, None]).min(0)  # (T, H, W)
    light = np.clip(255 * (1 - distance / DOT_PX), 0, 255).astype(np.uint8)
    return AnnotatedClip(
        f"{seed:08d}", np.repeat(light[..., None], 3, -1), xy, inside(xy, SIZE), np.ones((POINTS, FRAMES), bool)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill_pool(tmp_path / "pool", range(4), dotted_clip)
    return tmp_path / "pool"


def generators(seed: int, count: int) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, number]) for number in range(count)]


def brightness(frames: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Mean light at positions (N, 2) of one frame (H, W, 3)."""
    sampled = cv2.remap(frames, xy[None].astype(np.float32), None, cv2.INTER_LINEAR)
    return sampled[0].mean(-1)


def centre_of_light(frame: np.ndarray) -> np.ndarray:
    """Mean position of all light of a frame."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    light = frame.mean(-1)
    return np.array([(light * x).sum(), (light * y).sum()]) / light.sum()


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["plain", "warped"])
def test_pairs_show_the_same_point_in_both_frames(folder: Path, share: float) -> None:
    data = DataRecipe(sources=[SourceShare(folder=str(folder))], clips=6, points=8, warped=share)
    batch, _ = draw_pairs(Sources.open(data.sources), data, generators(0, 6))
    for frames, first, second in zip(batch.frames.numpy(), batch.first.numpy(), batch.second.numpy(), strict=True):
        assert brightness(frames[0], first).min() > 100
        assert brightness(frames[1], second).min() > 60  # a dot that was shrunk is dimmer
        assert inside(second, SIZE).all()


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["plain", "warped"])
def test_tracks_stay_on_their_dots(folder: Path, share: float) -> None:
    data = DataRecipe(sources=[SourceShare(folder=str(folder))], clips=6, points=8, warped=share)
    batch, _ = draw_tracks(Sources.open(data.sources), data, 8, generators(1, 6))
    assert batch.frames.shape == (6, 8, 64, 96, 3)
    for frames, xy, visible in zip(batch.frames.numpy(), batch.xy.numpy(), batch.visible.numpy(), strict=True):
        for t in range(8):
            assert (brightness(frames[t], xy[t])[visible[t]] > 60).all()


def test_skipped_frames_are_mixed_into_those_taken_on_request() -> None:
    clip = dotted_clip(0)
    data = DataRecipe(points=8, longest_stride=3, warped=0.0)
    strides = set()
    for seed in range(12):
        short, xy, *known = sample_of(clip, data, 3, np.random.default_rng(seed))
        long, xy_of_long, *known_of_long = sample_of(
            clip, replace(data, long_exposure=1.0), 3, np.random.default_rng(seed)
        )
        assert all((a == b).all() for a, b in zip([xy, *known], [xy_of_long, *known_of_long], strict=True))
        step = round(float(np.abs(np.diff(xy[..., 0])).mean()) / 1.5)  # dots move by 1.5 px a frame
        strides.add(step)
        assert (short == long).all() == (step == 1)
        assert long.max() <= short.max()
        assert np.abs(centre_of_light(long[1]) - centre_of_light(short[1])).max() < 0.1  # as much of before as of after
    assert strides == {1, 2, 3}


def test_clips_are_softened_on_request_and_tracks_stay_on_their_dots(folder: Path) -> None:
    data = DataRecipe(sources=[SourceShare(folder=str(folder))], clips=6, points=8, warped=0.0)
    sharp, _ = draw_tracks(Sources.open(data.sources), data, 8, generators(1, 6))
    soft, _ = draw_tracks(Sources.open(data.sources), replace(data, softened=1.0), 8, generators(1, 6))
    assert soft.frames.amax((1, 2, 3, 4)).max() < sharp.frames.amax((1, 2, 3, 4)).min()
    for frames, xy, visible in zip(soft.frames.numpy(), soft.xy.numpy(), soft.visible.numpy(), strict=True):
        for t in range(8):
            assert (brightness(frames[t], xy[t])[visible[t]] > 60).all()


def test_queries_lie_on_visible_frames_at_the_true_position(folder: Path) -> None:
    data = DataRecipe(sources=[SourceShare(folder=str(folder))], clips=4, points=16, warped=0.5)
    batch, _ = draw_tracks(Sources.open(data.sources), data, 8, generators(2, 4))
    frame = batch.queries[..., 0].long()
    first = batch.visible.float().argmax(1)
    for b in range(4):
        for n in range(16):
            assert batch.visible[b, frame[b, n], n]
            assert (batch.queries[b, n, 1:] == batch.xy[b, frame[b, n], n]).all()
    assert 0.3 < (frame == first).float().mean() < 0.9  # half by choice, some by chance


def test_nothing_is_asked_for_where_a_point_is_seen_at_no_known_place(tmp_path: Path) -> None:
    clip = dotted_clip(0)
    known = np.ones_like(clip.valid)
    known[1::2], known[::2, :3] = False, False
    xy = np.where(known[..., None], clip.xy, np.float32(2))  # upon no dot
    write_clip(tmp_path / "pool", replace(clip, xy=xy, visible=np.ones_like(known), valid=known))
    data = DataRecipe(sources=[SourceShare(folder=str(tmp_path / "pool"))], clips=6, points=8, warped=0.0)
    tracks, _ = draw_tracks(Sources.open(data.sources), data, FRAMES, generators(2, 6))
    for frames, queries in zip(tracks.frames.numpy(), tracks.queries.numpy(), strict=True):
        for t, x, y in queries:
            assert brightness(frames[int(t)], np.array([[x, y]])) > 100
    pairs, _ = draw_pairs(Sources.open(data.sources), data, generators(0, 6))
    for frames, first, second in zip(pairs.frames.numpy(), pairs.first.numpy(), pairs.second.numpy(), strict=True):
        assert brightness(frames[0], first).min() > 100
        assert brightness(frames[1], second).min() > 100


def test_the_same_generator_draws_the_same_batch(folder: Path) -> None:
    data = DataRecipe(sources=[SourceShare(folder=str(folder))], clips=2, points=8)
    sources = Sources.open(data.sources)
    one, two, other = (draw_tracks(sources, data, 8, generators(seed, 2))[0] for seed in (5, 5, 6))
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    assert not (one.xy == other.xy).all()


def test_a_clip_does_not_depend_on_what_else_is_in_its_step(folder: Path) -> None:
    data = DataRecipe(sources=[SourceShare(folder=str(folder))], points=8)
    sources = Sources.open(data.sources)
    together, _ = draw_tracks(sources, data, 8, generators(7, 3))
    alone, _ = draw_tracks(sources, data, 8, generators(7, 3)[2:])
    assert all((a[2:] == b).all() for a, b in zip(together, alone, strict=True))


def test_clips_are_changed_as_cotracker3_does_and_points_stay_on_their_dots(folder: Path) -> None:
    change = Augmentation(size=(80, 48), erased=0, recoloured=0, blurred=0, padding_px=8, crop_drift_px=4)
    data = DataRecipe(sources=[SourceShare(folder=str(folder))], points=6, augmentation=change)
    batch, _ = draw_tracks(Sources.open(data.sources), data, 8, generators(8, 6))
    assert batch.frames.shape == (6, 8, 48, 80, 3)
    assert batch.frames.dtype == torch.uint8
    seen = 0
    for frames, xy, visible in zip(batch.frames.numpy(), batch.xy.numpy(), batch.visible.numpy(), strict=True):
        for t in range(8):
            assert (brightness(frames[t], xy[t])[visible[t]] > 60).all()
            assert ((xy[t] >= 0) & (xy[t] <= (79, 47))).all(-1)[visible[t]].all()
            seen += visible[t].sum()
    assert seen > 100


def test_a_stride_is_one_that_the_clip_has_room_for() -> None:
    rng = np.random.default_rng(9)
    slices = {frames: [frames_of(120, frames, 4, rng) for _ in range(400)] for frames in (30, 31, 41, 59)}
    strides = {frames: {taken.step for taken in of_length} for frames, of_length in slices.items()}
    assert strides == {30: {1, 2, 3, 4}, 31: {1, 2, 3}, 41: {1, 2}, 59: {1, 2}}
    starts = [taken.start for taken in slices[59] if taken.step == 1]
    assert (min(starts), max(starts)) == (0, 60)  # 0 .. 120 - 59 - 1
    assert all(len(range(120)[taken]) == frames for frames, of_length in slices.items() for taken in of_length)
    assert all(taken.start == 0 for taken in slices[30] if taken.step == 4)
    assert len(range(20)[frames_of(20, 30, 4, rng)]) == 20


def test_candidates_are_seen_in_the_given_frames_and_may_come_twice() -> None:
    visible = np.zeros((5, 9), bool)
    visible[0, 0] = visible[1, [0, 4]] = visible[2, 8] = visible[3, 5] = True
    assert candidates(visible, ["first", "middle"]).tolist() == [0, 1, 1]
    assert candidates(visible, ["first", "middle", "last"]).tolist() == [0, 1, 1, 2]
    assert candidates(visible, []).tolist() == [0, 1, 2, 3]


def test_the_first_points_are_asked_for_anywhere_and_the_others_where_they_appear() -> None:
    visible = np.tile(np.arange(30) >= 5, (384, 1))
    xy = np.random.default_rng(0).uniform(0, 50, (384, 30, 2)).astype(np.float32)
    queries = queries_of(xy, visible, 0.25, np.random.default_rng(1))
    frame = queries[:, 0].astype(int)
    assert (frame[96:] == 5).all()
    assert len(set(frame[:96])) > 15
    assert (queries[:, 1:] == xy[np.arange(384), frame]).all()
    everywhere = queries_of(xy, visible, 1.0, np.random.default_rng(2))[:, 0]
    assert np.bincount(everywhere.astype(int), minlength=30)[5:].min() > 3


def test_tracks_that_leave_for_good_or_are_not_known_can_be_left_out(tmp_path: Path) -> None:
    clip = dotted_clip(0)
    xy, valid = clip.xy.copy(), clip.valid.copy()
    xy[0, 9] = (1100, 32)
    valid[1, 4] = False
    write_clip(tmp_path, AnnotatedClip("a", clip.frames, xy, clip.visible, valid))
    data = DataRecipe(
        sources=[SourceShare(folder=str(tmp_path))], points=POINTS - 2, farthest_px=1000.0, repeated=False, warped=0
    )
    batch, _ = draw_tracks(Sources.open(data.sources), data, FRAMES, generators(10, 1))
    assert batch.xy[..., 0].max() < 1000
    assert batch.valid.all()
    with pytest.raises(DatasetError, match="10 can be chosen from, 11 are needed"):
        draw_tracks(Sources.open(data.sources), replace(data, points=POINTS - 1), FRAMES, generators(10, 1))


def test_clips_of_different_sizes_cannot_share_a_step(tmp_path: Path) -> None:
    clip = dotted_clip(0)
    write_clip(tmp_path, clip)
    write_clip(tmp_path, AnnotatedClip("b", clip.frames[:, :48], clip.xy, clip.visible, clip.valid))
    data = DataRecipe(sources=[SourceShare(folder=str(tmp_path))], points=4, warped=0)
    with pytest.raises(OptionError, match="different sizes"):
        draw_tracks(Sources.open(data.sources), data, 8, generators(11, 8))


def test_a_clip_that_is_too_short_is_lengthened_by_its_last_frame(folder: Path) -> None:
    data = DataRecipe(sources=[SourceShare(folder=str(folder))], clips=1, points=8, warped=0)
    batch, _ = draw_tracks(Sources.open(data.sources), data, FRAMES + 3, generators(3, 1))
    assert (batch.frames[0, FRAMES:] == batch.frames[0, FRAMES - 1]).all()
    assert (batch.xy[0, FRAMES:] == batch.xy[0, FRAMES - 1]).all()


def test_a_drift_begins_with_nothing_and_ends_with_its_similarity() -> None:
    end = random_similarity(SIZE, np.random.default_rng(4))
    path = drifting(end, SIZE, 9)
    np.testing.assert_allclose(path[0], np.eye(2, 3), atol=1e-12)
    np.testing.assert_allclose(path[-1], end, atol=1e-9)


def test_a_warp_moves_points_with_their_pixels() -> None:
    frame = dotted_clip(0).frames[0]
    xy = dotted_clip(0).xy[:, 0]
    turned, moved = warped(frame, xy, cv2.getRotationMatrix2D((48, 32), 30, 1.0))
    here = inside(moved, SIZE)
    assert here.sum() > 4
    assert brightness(turned, moved[here]).min() > 150


def test_an_unfinished_clip_is_not_in_the_pool_and_a_pool_goes_on_where_it_stopped(tmp_path: Path) -> None:
    made: list[int] = []

    def make(seed: int) -> AnnotatedClip:
        if seed == 2:
            raise KeyboardInterrupt
        made.append(seed)
        return dotted_clip(seed)

    with pytest.raises(KeyboardInterrupt):
        fill_pool(tmp_path, range(4), make)
    (tmp_path / "00000009").mkdir()  # a folder without tracks, as a crash would leave it
    assert ClipPool.open(tmp_path).names == ("00000000", "00000001")
    assert fill_pool(tmp_path, range(4), dotted_clip) == 2
    assert len(ClipPool.open(tmp_path)) == 4


def test_a_clip_comes_back_from_the_pool_as_it_was(tmp_path: Path) -> None:
    clip = dotted_clip(7)
    write_clip(tmp_path, clip)
    again = ClipPool.open(tmp_path)[0]
    for name in ("frames", "xy", "visible", "valid"):
        np.testing.assert_array_equal(getattr(again, name), getattr(clip, name))


def test_an_empty_folder_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="pointloom synth layered"):
        ClipPool.open(tmp_path)
