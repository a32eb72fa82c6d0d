"""Lucas-Kanade and dense flow on videos whose motion is known, and the point at rest."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pointloom.errors import OptionError, QueryError
from pointloom.models import classical
from pointloom.models.classical import dis_flow, lucas_kanade, static_point

SIZE = (128, 96)
FRAMES = 8
STEP = np.array([1.5, -0.75])  # pixels a frame


def texture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.5)
    return cv2.cvtColor(cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX), cv2.COLOR_GRAY2RGB)


@pytest.fixture(scope="module")
def moving() -> np.ndarray:
    """A texture that moves by `STEP` in every frame."""
    image = texture(0)
    shifts = [np.array([[1, 0, t * STEP[0]], [0, 1, t * STEP[1]]]) for t in range(FRAMES)]
    return np.stack([cv2.warpAffine(image, shift, SIZE, borderMode=cv2.BORDER_REFLECT) for shift in shifts])


def true_path(query: np.ndarray) -> np.ndarray:
    return query[1:] + (np.arange(FRAMES) - query[0])[:, None] * STEP


QUERIES = np.array([[0, 40, 50], [0, 70.25, 60.5], [3, 50, 40]])


def test_points_move_along_with_the_texture(moving):
    tracks = lucas_kanade(moving, QUERIES)
    for n, query in enumerate(QUERIES):
        start = int(query[0])
        np.testing.assert_allclose(tracks.xy[n, start:], true_path(query)[start:], atol=0.15)
        assert tracks.seen[n, start:].all()
        assert (tracks.forward_backward_px[n, start:] < 0.2).all()


def test_frames_before_the_query_are_not_looked_at(moving):
    tracks = lucas_kanade(moving, QUERIES)
    np.testing.assert_array_equal(tracks.xy[2, :4], [[50, 40]] * 4)
    np.testing.assert_array_equal(tracks.seen[2, :4], [False, False, False, True])
    np.testing.assert_array_equal(tracks.forward_backward_px[2, :4], [np.inf, np.inf, np.inf, 0])


def test_in_both_directions_a_point_is_followed_to_the_beginning_as_well(moving):
    tracks = lucas_kanade(moving, QUERIES, direction="both")
    np.testing.assert_allclose(tracks.xy[2], true_path(QUERIES[2]), atol=0.15)
    assert tracks.seen.all()
    forward = lucas_kanade(moving, QUERIES)
    np.testing.assert_array_equal(tracks.xy[2, 3:], forward.xy[2, 3:])


def test_a_reversed_video_gives_reversed_tracks(moving):
    tracks = lucas_kanade(moving, QUERIES, direction="both")
    mirrored = QUERIES.copy()
    mirrored[:, 0] = FRAMES - 1 - mirrored[:, 0]
    backward = lucas_kanade(moving[::-1], mirrored, direction="both")
    for there, back in zip(tracks, backward, strict=True):
        np.testing.assert_array_equal(there, back[:, ::-1])


def test_the_answer_for_a_point_does_not_depend_on_the_others(moving):
    together = lucas_kanade(moving, QUERIES)
    for n in range(len(QUERIES)):
        alone = lucas_kanade(moving, QUERIES[n : n + 1])
        for part, whole in zip(alone, together, strict=True):
            np.testing.assert_array_equal(part[0], whole[n])


def test_a_point_that_leaves_the_frame_is_no_longer_seen(moving):
    query = np.array([[0, SIZE[0] - 4.0, 50]])  # 123.5 + 1.5 * 3 passes the edge at 127.5 in frame 3
    tracks = lucas_kanade(moving, query)
    assert tracks.seen[0, 0]
    assert not tracks.seen[0, 4:].any()


def test_most_points_are_no_longer_seen_when_the_picture_changes(moving):
    changed = moving.copy()
    changed[4:] = texture(1)
    x, y = np.meshgrid(np.arange(30, 101, 10), np.arange(30, 71, 10))
    queries = np.column_stack([np.zeros(x.size), x.ravel(), y.ravel()])
    tracks = lucas_kanade(changed, queries)
    assert tracks.seen[:, :4].all()
    assert tracks.seen[:, 4].mean() < 0.4  # some find a place by chance that also leads back


def test_no_point_is_seen_on_a_blank_picture(moving):
    blank = moving.copy()
    blank[4:] = 128
    assert not lucas_kanade(blank, QUERIES).seen[:, 4].any()


def test_the_pyramid_finds_motion_larger_than_the_window():
    image = texture(2, (320, 240))
    moved = np.roll(image, 32, axis=1)  # the window reaches 10 px
    tracks = lucas_kanade(np.stack([image, moved]), np.array([[0, 150, 100], [0, 100.5, 150]]))
    np.testing.assert_allclose(tracks.xy[:, 1], [[182, 100], [132.5, 150]], atol=0.1)
    assert tracks.seen.all()


@pytest.mark.parametrize("failing", ["the way there", "the way back"])
def test_a_point_that_cannot_be_computed_is_not_seen(monkeypatch, failing):
    calls = []

    def flow(here, there, xy):
        calls.append(None)
        return xy, np.full(len(xy), (failing == "the way there") != (len(calls) == 1))

    monkeypatch.setattr(classical, "_sparse", flow)
    tracks = lucas_kanade(np.zeros((2, 64, 64, 3), np.uint8), np.array([[0, 30, 30]]))
    assert len(calls) == 2
    assert not tracks.seen[0, 1]


@pytest.mark.parametrize(("shift", "seen"), [((0.9, 0), True), ((1.1, 0), False), ((0, 0.2), True), ((0, 0.3), False)])
def test_convention_the_way_back_is_measured_at_256_x_256(monkeypatch, shift, seen):
    # there and back each add `shift`. At 512 x 128: 1.8 px in x are 0.9, 2.2 are 1.1; 0.4 px in y are 0.8, 0.6 are 1.2
    monkeypatch.setattr(classical, "_sparse", lambda here, there, xy: (xy + np.float32(shift), np.ones(len(xy), bool)))
    frames = np.zeros((2, 128, 512, 3), np.uint8)
    tracks = lucas_kanade(frames, np.array([[0, 100, 60]]))
    assert tracks.seen[0, 1] == seen
    expected = np.hypot(2 * shift[0] * 256 / 512, 2 * shift[1] * 256 / 128)
    assert tracks.forward_backward_px[0, 1] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ([8, 10, 10], "query 0 starts in frame 8, but the video has 8 frames"),
        ([-1, 10, 10], "query 0 starts in frame -1"),
        ([0, np.nan, 10], "not three numbers"),
        ([0, 500, 10], "outside the frame"),
    ],
)
def test_a_query_that_is_not_in_the_video_is_refused(moving, query, message):
    with pytest.raises(QueryError, match=message):
        lucas_kanade(moving, np.array([query], float))


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_no_queries_give_no_tracks(moving, direction):
    tracks = lucas_kanade(moving, np.zeros((0, 3)), direction=direction)
    assert tracks.xy.shape == (0, FRAMES, 2)
    assert tracks.seen.shape == tracks.forward_backward_px.shape == (0, FRAMES)


def test_a_video_of_one_frame_gives_the_queries_back(moving):
    tracks = lucas_kanade(moving[:1], QUERIES[:2], direction="both")
    np.testing.assert_array_equal(tracks.xy[:, 0], QUERIES[:2, 1:])
    assert tracks.seen.all()


def test_dense_flow_moves_points_along_with_the_texture(moving):
    tracks = dis_flow(moving, QUERIES, direction="both")
    for n, query in enumerate(QUERIES):
        np.testing.assert_allclose(tracks.xy[n], true_path(query), atol=0.3)
    assert tracks.seen.all()


def test_dense_flow_is_read_between_pixels():
    motion = np.zeros((4, 5, 2), np.float32)
    motion[..., 0], motion[..., 1] = np.arange(5), np.arange(4)[:, None] * 10  # (x, 10 y) at every pixel
    at = np.array([[1.25, 2.5], [0, 0], [4, 3], [4.4, -0.5]], np.float32)
    expected = [[1.25, 25], [0, 0], [4, 30], [4, 0]]  # the last one lies in the half pixel around the border
    np.testing.assert_allclose(classical._between_pixels(motion, at), expected, atol=1e-5)


def test_dense_flow_leaves_a_point_where_it_left_the_frame(moving):
    tracks = dis_flow(moving, np.array([[0, SIZE[0] - 4.0, 50]]))
    assert tracks.seen[0, 0]
    assert not tracks.seen[0, -1]
    np.testing.assert_array_equal(tracks.xy[0, -1], tracks.xy[0, -2])
    assert tracks.xy[0, -1, 0] > SIZE[0] - 0.5


def test_dense_flow_refuses_frames_that_are_too_small():
    with pytest.raises(OptionError, match="got 200 x 8"):
        dis_flow(np.zeros((2, 8, 200, 3), np.uint8), np.array([[0, 3, 3]]))


def test_a_static_point_stays_and_is_always_seen():
    tracks = static_point(QUERIES, 5)
    np.testing.assert_array_equal(tracks.xy, np.repeat(QUERIES[:, None, 1:], 5, axis=1))
    assert tracks.seen.all()
    assert tracks.xy.dtype == np.float32
