import numpy as np
import pytest

from pointloom.datasets.synthetic.motion import bounce, card, drive, hop, local_scale, shake, swing

SEEDS = range(20)


def straight(**changes):
    card_of_one_frame = {"angle": np.zeros(1), "scale": np.ones(1), "tilt": np.zeros((1, 2)), "focal": 100.0}
    return card(np.array([[7.0, 5.0]]), **{**card_of_one_frame, **changes})[0]


def image_of(homography, x, y):
    image = homography @ [x, y, 1]
    return image[:2] / image[2]


def test_a_card_without_tilt_is_moved_turned_and_scaled():
    # A quarter turn takes the x axis to the y axis (y points down: clockwise as seen).
    turned = straight(angle=np.array([np.pi / 2]), scale=np.array([2.0]))
    assert image_of(turned, 0, 0) == pytest.approx([7, 5])
    assert image_of(turned, 3, 0) == pytest.approx([7, 11])


def test_the_side_of_a_tilted_card_that_comes_nearer_looks_larger():
    tilted = straight(tilt=np.array([[0.0, 0.6]]))
    left, centre, right = (image_of(tilted, x, 0) for x in (-20, 0, 20))
    assert centre == pytest.approx([7, 5])
    assert right[0] - centre[0] > centre[0] - left[0]  # positive tilt about y brings the right side nearer
    # X = x cos(a), depth = f - x sin(a): 20 cos(0.6) * 100 / (100 - 20 sin(0.6)) = 18.61
    assert right[0] - centre[0] == pytest.approx(18.61, abs=0.01)


def test_local_scale_is_the_scale_of_a_card_and_less_when_it_is_tilted():
    assert local_scale(straight(scale=np.array([0.4]))[None]) == pytest.approx([0.4])
    assert local_scale(straight(tilt=np.array([[np.pi / 3, 0.0]]))[None]) == pytest.approx([np.sqrt(0.5)])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_swing_stays_within_its_amplitude_and_rate(seed):
    path = swing(np.random.default_rng(seed), 200, amplitude=3.0, max_rate=0.1)
    assert np.abs(path).max() <= 3
    assert np.abs(np.diff(path)).max() <= 0.1 + 1e-12
    assert np.ptp(path) > 0


@pytest.mark.parametrize("frames", [1, 2, 24, 500])
def test_every_path_has_one_value_for_each_frame(frames):
    rng = np.random.default_rng(0)
    assert drive(rng, frames, 2.0).shape == (frames, 2)
    assert swing(rng, frames, 1.0).shape == shake(rng, frames, 1.0).shape == hop(rng, frames, 9.0).shape == (frames,)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_drive_starts_where_it_is_and_keeps_about_its_speed_however_long_it_is(seed):
    path = drive(np.random.default_rng(seed), 2000, speed=3.0)
    assert path[0].tolist() == [0, 0]
    pace = np.linalg.norm(np.diff(path, axis=0), axis=1)
    assert 1.5 < np.median(pace) < 5
    assert (drive(np.random.default_rng(seed), 50, speed=0.0) == 0).all()


def test_some_drives_pause():
    paths = [drive(np.random.default_rng(seed), 200, speed=3.0) for seed in SEEDS]
    assert any((np.linalg.norm(np.diff(path, axis=0), axis=1) == 0).any() for path in paths)


def test_a_bouncing_path_turns_back_at_both_walls():
    assert bounce(np.array([-1.0, 0, 5, 10, 12, 19, 23]), 0.0, 10.0).tolist() == [1, 0, 5, 10, 8, 1, 3]


def test_a_hop_is_above_the_ground():
    path = hop(np.random.default_rng(0), 100, height=20.0)
    assert path.max() <= 0
    assert -20 <= path.min() < -18
