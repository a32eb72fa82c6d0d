import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_scenes import VIEW, background, board, noise

from pointloom.datasets.synthetic.layers import Layer, Ripple, enlarging
from pointloom.datasets.synthetic.motion import card

RIPPLE = Ripple(amplitude=3.0, waves=np.array([[0.08, 0.03], [-0.02, 0.08]]), phases=np.array([0.3, 2.0]), pace=0.2)


def tumbling(ripple=None, frames=5):
    """A layer that moves in every way at once."""
    time = np.arange(frames)
    maps = card(
        np.stack([30 + 3 * time, 20 - time], axis=-1).astype(float),
        angle=0.5 * time,
        scale=np.exp(-0.2 * time),
        tilt=np.stack([0.1 * time, -0.15 * time], axis=-1),
        focal=90.0,
    )
    return Layer(noise(), maps, np.ones(frames), VIEW, ripple=ripple, endless=True)


def test_enlarging_keeps_the_corners_of_the_frame():
    # A frame of 4 pixels covers -0.5 .. 3.5, the one of 8 pixels -0.5 .. 7.5: pixel 1 (raster 1.5) goes to raster 3.
    assert enlarging((4, 4), (8, 8)) @ [-0.5, 3.5, 1] == pytest.approx([-0.5, 7.5, 1])
    assert enlarging((4, 4), (8, 8)) @ [1, 0, 1] == pytest.approx([2.5, 0.5, 1])


@pytest.mark.parametrize("ripple", [None, RIPPLE], ids=["stiff", "rippling"])
@settings(max_examples=30, deadline=None)
@given(x=st.floats(-60, 60), y=st.floats(-60, 60))
def test_lifting_the_position_of_a_point_gives_the_point_back_in_every_frame(ripple, x, y):
    layer = tumbling(ripple)
    xy, in_front = layer.locate(np.array([[x, y]]))
    assert in_front.all()
    for t in range(xy.shape[1]):
        assert layer.lift(xy[:, t], t)[0] == pytest.approx([x, y], abs=1e-4)


def test_points_that_pass_behind_the_eye_are_reported():
    tilted = card(np.zeros((1, 2)), angle=np.zeros(1), scale=np.ones(1), tilt=np.array([[0.0, 0.5]]), focal=100.0)
    layer = Layer(noise(), tilted, np.ones(1), VIEW, endless=True)
    # Depth is 1 - x sin(0.5) / 100: it vanishes at x = 208.6.
    _, in_front = layer.locate(np.array([[0.0, 0.0], [150.0, 0.0], [250.0, 0.0]]))
    assert in_front.tolist() == [True, True, False]


def test_a_board_covers_its_own_pixels_and_no_others():
    layer = board([(10, 20), (30, 20)], width=12, height=8)
    inside, left_of_it, edge = [15.0, 24.0], [9.0, 24.0], [21.4, 24.0]
    xy = np.repeat(np.array([inside, left_of_it, edge])[:, None], 2, axis=1)
    assert layer.covers(xy).tolist() == [[True, False], [False, False], [True, False]]


def test_a_board_with_a_hole_does_not_cover_what_is_seen_through_the_hole():
    layer = board([(10, 10)], width=20, height=20)
    layer.texture[5:15, 5:15, 3] = 0
    assert layer.covers(np.array([[[20.0, 20.0]], [[12.0, 20.0]]])).ravel().tolist() == [False, True]


def test_a_thin_layer_is_not_opaque():
    assert board([(0, 0)]).opaque
    assert not board([(0, 0)], opacity=110).opaque


def test_covering_is_judged_for_any_number_of_points():
    layer = board([(0, 0)], width=64, height=48)
    xy = np.random.default_rng(0).uniform(2, 40, (70_000, 1, 2))  # more than OpenCV samples in one row
    assert layer.covers(xy).all()


def test_a_card_of_which_a_part_is_behind_the_eye_is_absent():
    tilted = card(np.zeros((2, 2)), angle=np.zeros(2), scale=np.ones(2), tilt=np.array([[0, 0], [0, 1.4]]), focal=20.0)
    layer = Layer(board([(0, 0)], width=40).texture, tilted, np.ones(2), VIEW)
    assert layer.present.tolist() == [True, False]


def test_speed_is_that_of_the_middle_and_for_an_endless_layer_that_of_what_the_middle_of_the_frame_shows():
    assert board([(0, 0), (4, 0), (8, 6)]).velocity == pytest.approx(np.array([[4, 0], [4, 3], [4, 6]]))
    assert background([(0, 0), (4, 0), (8, 6)]).velocity == pytest.approx(np.array([[4, 0], [4, 3], [4, 6]]))
