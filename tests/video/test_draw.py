"""What tracks look like."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import pytest
from encoded_clips import scene

from pointloom.errors import OptionError
from pointloom.video import contact_sheet, draw_track_video, draw_tracks, open_video, track_colours
from pointloom.video import draw as draw_module

SIZE = 360  # marks have their reference size
RED = np.array([[255, 0, 0]], np.uint8)
BLACK = np.zeros((SIZE, SIZE, 3), np.uint8)


def still(x: float, y: float, frames: int = 1) -> np.ndarray:
    return np.tile(np.array([x, y], np.float32), (1, frames, 1))


def drawn(xy: np.ndarray, seen: bool | np.ndarray = True, frame: np.ndarray = BLACK) -> np.ndarray:
    return draw_tracks(frame, xy, np.broadcast_to(seen, xy.shape[:2]), RED.repeat(len(xy), axis=0))


def centre_of(image: np.ndarray) -> tuple[float, float]:
    red = image[..., 0].astype(float)
    y, x = np.mgrid[: red.shape[0], : red.shape[1]]
    return float((x * red).sum() / red.sum()), float((y * red).sum() / red.sum())


# Marks


def test_a_seen_point_is_a_disc_and_a_hidden_one_a_ring() -> None:
    disc, ring = drawn(still(100, 80)), drawn(still(100, 80), seen=False)
    assert disc[80, 100].tolist() == [255, 0, 0]
    assert ring[80, 100].tolist() == [0, 0, 0]
    rim = round(draw_module.DISC_PX - draw_module.RING_PX / 2)
    assert disc[80, 100 + rim, 0] > 200
    assert ring[80, 100 + rim, 0] > 150
    assert disc[80, 110].tolist() == [0, 0, 0]


def test_what_is_inside_a_ring_stays_visible() -> None:
    frame = np.full_like(BLACK, 90)
    assert drawn(still(100, 80), seen=False, frame=frame)[80, 100].tolist() == [90, 90, 90]


@pytest.mark.parametrize("x", [100.0, 100.25, 100.5, 100.75])
@pytest.mark.parametrize("seen", [True, False])
def test_marks_stand_where_the_point_is_to_a_fraction_of_a_pixel(x: float, seen: bool) -> None:
    np.testing.assert_allclose(centre_of(drawn(still(x, 80.375), seen)), (x, 80.375), atol=0.05)


def test_marks_scale_with_the_frame_and_never_vanish() -> None:
    def area(side: int) -> float:
        image = drawn(still(side / 2, side / 2), frame=np.zeros((side, side, 3), np.uint8))
        return float(image[..., 0].sum() / 255)

    assert area(720) == pytest.approx(4 * area(360), rel=0.05)
    assert area(64) == area(32) > 2


def test_marks_have_a_dark_outline_on_a_bright_frame() -> None:
    white = np.full_like(BLACK, 255)
    image = drawn(still(100, 80), frame=white)
    assert image[80, 94:107].max(axis=-1).min() < 200


def test_marks_at_the_border_are_cut_off_and_beyond_it_nothing_is_drawn() -> None:
    for x, y in [(0, 0), (-1.5, 50), (SIZE - 1, SIZE - 1), (SIZE + 2, 20)]:
        assert drawn(still(x, y)).any()
    for x, y in [(-50, 20), (20, SIZE + 50), (1e9, 5), (-1e30, 3), (np.inf, 0), (np.nan, np.nan)]:
        assert not drawn(still(x, y)).any()


def test_no_points_change_nothing() -> None:
    frame = scene(0)
    image = draw_tracks(frame, np.zeros((0, 4, 2)), np.zeros((0, 4), bool), np.zeros((0, 3), np.uint8))
    np.testing.assert_array_equal(image, frame)


def test_the_frame_itself_is_not_drawn_on() -> None:
    frame = BLACK.copy()
    drawn(still(100, 80), frame=frame)
    assert not frame.any()


def test_seen_points_lie_above_hidden_ones() -> None:
    xy = np.concatenate([still(100, 80), still(100, 80)])
    image = drawn(xy, np.array([[True], [False]]))
    assert image[80, 100].tolist() == [255, 0, 0]


# Trails


def moving(frames: int = 13) -> np.ndarray:
    return np.stack([np.linspace(50, 290, frames), np.full(frames, 80.0)], axis=-1)[None].astype(np.float32)


def test_a_trail_fades_towards_the_past() -> None:
    row = drawn(moving())[80, :, 0].astype(int)
    along = row[[60, 120, 180, 240, 280]]
    assert (np.diff(along) > 0).all()
    assert along[0] > 0
    assert not row[:48].any()


def test_a_trail_is_fainter_where_the_point_was_hidden() -> None:
    seen = np.ones((1, 13), bool)
    seen[:, 4:8] = False
    hidden, whole = (drawn(moving(), s)[80, 150, 0] for s in (seen, True))
    assert 0 < hidden < 0.6 * whole


def test_a_trail_has_a_gap_where_the_position_is_unknown() -> None:
    xy = moving()
    xy[:, 6] = np.nan
    row = drawn(xy)[80, :, 0]
    assert not row[155:185].any()
    assert row[140] > 0
    assert row[200] > 0


def test_a_point_that_stands_still_has_no_trail() -> None:
    np.testing.assert_array_equal(drawn(still(100, 80, 13)), drawn(still(100, 80)))


# Colours


def test_colours_are_told_apart_and_not_too_dark() -> None:
    x, y = np.meshgrid(np.linspace(0, 300, 5), np.linspace(0, 200, 3))
    xy = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
    colours = track_colours(xy, np.ones(xy.shape[:2], bool)).astype(float)
    distance = np.linalg.norm(colours[:, None] - colours, axis=-1) + 1000 * np.eye(len(colours))
    assert distance.min() > 30
    brightest = [colorsys.rgb_to_hsv(*colour / 255)[2] for colour in colours]
    assert min(brightest) > 0.6


def test_the_colour_comes_from_where_a_point_is_first_seen() -> None:
    xy = np.zeros((3, 4, 2), np.float32)
    xy[0], xy[1], xy[2] = (0, 0), (100, 0), (50, 50)
    seen = np.ones((3, 4), bool)
    moved = xy.copy()
    moved[2, 2:] = 5, 5
    np.testing.assert_array_equal(track_colours(moved, seen), track_colours(xy, seen))
    late = xy.copy()
    late[2, 0] = 90, 10
    hidden_at_first = seen.copy()
    hidden_at_first[2, 0] = False
    np.testing.assert_array_equal(track_colours(late, hidden_at_first), track_colours(xy, seen))
    unknown = late.copy()
    unknown[2, 0] = np.nan
    np.testing.assert_array_equal(track_colours(unknown, seen), track_colours(xy, seen))


def test_a_single_point_and_unknown_points_have_colours() -> None:
    assert track_colours(still(5, 5), np.ones((1, 1), bool)).shape == (1, 3)
    assert track_colours(np.full((2, 3, 2), np.nan), np.ones((2, 3), bool)).shape == (2, 3)


@pytest.mark.parametrize(
    ("oklch", "rgb"),
    [((1.0, 0.0, 0.0), (255, 255, 255)), ((0.62796, 0.25768, 29.234), (255, 0, 0)), ((0.5, 0.0, 0.0), (99, 99, 99))],
    ids=["white", "red", "grey"],  # values of CSS Color 4, which names these colours in OKLCH
)
def test_oklch_is_that_of_css(oklch: tuple[float, float, float], rgb: tuple[int, int, int]) -> None:
    lightness, chroma, hue = oklch
    converted = draw_module._oklch_to_rgb(np.array([lightness]), chroma, np.deg2rad(np.array([hue])))
    np.testing.assert_allclose(converted[0].astype(int), rgb, atol=1)


# Videos and sheets

T = 30
VIDEO = np.stack([scene(i, 160, 90) for i in range(T)])
XY = np.stack([np.linspace(10, 140, T), np.linspace(20, 70, T)], axis=-1)[None].astype(np.float32)
SEEN = np.ones((1, T), bool)


def test_a_track_video_has_every_frame_with_its_trail() -> None:
    frames = list(draw_track_video(open_video(VIDEO), XY, SEEN, colours=RED, trail=5))
    assert len(frames) == T
    for t in (0, 3, 29):
        expected = draw_tracks(VIDEO[t], XY[:, max(0, t - 5) : t + 1], SEEN[:, max(0, t - 5) : t + 1], RED)
        np.testing.assert_array_equal(frames[t], expected)


def test_a_track_video_keeps_colours_in_time() -> None:
    frames = list(draw_track_video(open_video(np.zeros_like(VIDEO)), XY, SEEN, trail=0))
    (colour,) = track_colours(XY, SEEN)
    for t in (0, 15, 29):
        x, y = XY[0, t].round().astype(int)
        np.testing.assert_allclose(frames[t][y, x].astype(int), colour, atol=8)


def test_a_track_video_is_made_one_frame_at_a_time() -> None:
    video = draw_track_video(open_video(VIDEO), XY, SEEN)
    assert next(video).shape == (90, 160, 3)


def test_tracks_have_to_fit_the_video() -> None:
    video = open_video(VIDEO)
    with pytest.raises(OptionError, match="The tracks have 29 frames, but array has 30"):
        draw_track_video(video, XY[:, 1:], SEEN[:, 1:])
    with pytest.raises(OptionError, match=r"xy \(N, T, 2\) and seen \(N, T\), got \(1, 30, 2\) and \(1, 29\)"):
        contact_sheet(video, XY, SEEN[:, 1:])
    with pytest.raises(OptionError, match="trail is a number of frames, 0 for none, got -1"):
        draw_track_video(video, XY, SEEN, trail=-1)


@pytest.mark.parametrize(("frames", "tiles"), [(12, 12), (1, 1), (30, 30), (100, 30), (7, 7)])
def test_a_contact_sheet_shows_frames_from_the_first_to_the_last(frames: int, tiles: int) -> None:
    shades = np.repeat(np.arange(T, dtype=np.uint8)[:, None, None, None] * 6 + 60, 90, axis=1)
    plain = np.broadcast_to(shades, (T, 90, 160, 3)).copy()
    nothing = np.zeros((0, T, 2), np.float32)
    sheet = contact_sheet(open_video(plain), nothing, np.zeros((0, T), bool), frames=frames, width=1000)
    assert sheet.shape[1] == 1000
    found, _, stats, _ = cv2.connectedComponentsWithStats((sheet[..., 0] >= 60).astype(np.uint8), connectivity=4)
    boxes = [stats[i] for i in range(1, found) if stats[i][cv2.CC_STAT_AREA] > 2000]  # letters are smaller
    assert len(boxes) == tiles
    tops_lefts = sorted((int(box[1]), int(box[0])) for box in boxes)
    shown = [int(sheet[top + 5, left + 5, 0]) for top, left in tops_lefts]
    expected = np.unique(np.linspace(0, T - 1, frames).round()) * 6 + 60
    assert shown == expected.astype(int).tolist()


def test_points_stand_in_the_right_place_on_a_contact_sheet() -> None:
    black = open_video(np.zeros((1, 90, 160, 3), np.uint8))
    at_centre = np.array([[[79.5, 44.5]]], np.float32)
    sheet = contact_sheet(black, at_centre, np.ones((1, 1), bool), frames=1, width=400)
    gap, caption = draw_module.GAP_PX, draw_module.CAPTION_PX
    tile = sheet[gap : sheet.shape[0] - caption, gap:-gap]
    y, x = np.nonzero(tile.max(axis=-1) > 100)
    assert abs(x.mean() - (tile.shape[1] - 1) / 2) < 0.5
    assert abs(y.mean() - (tile.shape[0] - 1) / 2) < 0.5


def test_a_contact_sheet_names_frames_and_times() -> None:
    sheet = contact_sheet(open_video(VIDEO), XY, SEEN, frames=1, width=400)
    caption = sheet[-draw_module.CAPTION_PX :]
    written = np.abs(caption.astype(int) - draw_module.BACKGROUND).max(axis=-1) > 60
    gap = draw_module.GAP_PX
    assert written[:, gap : gap + 40].any()  # the number at the left
    assert written[:, -gap - 40 : -gap].any()  # the time at the right
    assert not written[:, 150:250].any()
    other = contact_sheet(open_video(VIDEO, fps=10), XY, SEEN, frames=2, width=400)
    assert other.shape[0] > sheet.shape[0] / 2


def test_a_contact_sheet_needs_room_and_frames() -> None:
    with pytest.raises(OptionError, match="at least 1 frame, got 0"):
        contact_sheet(open_video(VIDEO), XY, SEEN, frames=0)
    with pytest.raises(OptionError, match="do not fit side by side into 40 pixels"):
        contact_sheet(open_video(VIDEO), XY, SEEN, width=40)
