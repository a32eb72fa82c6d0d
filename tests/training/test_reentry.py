"""Points that leave and come back: golden numbers of the reference, and what it leaves out."""

from __future__ import annotations

import numpy as np
import pytest

from golden_cases import FOLDER
from pointloom.training.reentry import rolled, swung


@pytest.fixture(scope="module")
def case() -> dict[str, np.ndarray]:
    """Three of ten frames are kept; of the rolled and turned ones, which the reference makes too large, the frame."""
    with np.load(FOLDER / "tapnext" / "augment.npz") as file:
        return dict(file)


def moved(case: dict[str, np.ndarray], move, **options):
    xy = case["trajectories"].swapaxes(0, 1)
    rng = np.random.RandomState(int(case["seed"]))
    rng.random_sample()  # the reference draws first whether it does anything
    return move(case["video"], xy, np.ones(xy.shape[:2], bool), rng, **options)


def difference(case: dict[str, np.ndarray], name: str, xy: np.ndarray) -> np.ndarray:
    return np.linalg.norm(xy - case[f"{name}_trajectories"].swapaxes(0, 1), axis=-1)


@pytest.mark.parametrize("turned", [False, True], ids=["rolled", "rolled and turned"])
def test_a_rolled_clip_equals_the_reference(case: dict[str, np.ndarray], turned: bool) -> None:
    name = "roll_rotate" if turned else "roll_shift"
    frames, xy, _ = moved(case, rolled, strength=float(case["strength_roll"]), turned=turned)
    np.testing.assert_array_equal(frames[case["kept_frames"]], case[f"{name}_video"])
    # The reference lets points wrap at W, where the frame ends at W - 0.5: those between come out one side away.
    sides = (32, 40) if turned else (24, 32)  # with its border the frame has 40 x 32 pixels
    off = difference(case, name, xy)
    assert np.abs(np.stack([off, *[off - side for side in sides]])).min(axis=0).max() < 1e-9
    assert (off < 1e-9).mean() > 0.9


@pytest.mark.parametrize(("border", "name"), [("black", "homography"), ("replicate", "homography_replicate")])
def test_a_swung_clip_equals_the_reference(case: dict[str, np.ndarray], border: str, name: str) -> None:
    frames, xy, _ = moved(case, swung, strength=float(case["strength_homography"]), border=border)
    np.testing.assert_array_equal(frames[case["kept_frames"]], case[f"{name}_video"])
    assert difference(case, name, xy).max() < 1e-9


@pytest.mark.parametrize("move", [rolled, swung])
def test_the_first_frame_stays_and_the_size_too(case: dict[str, np.ndarray], move) -> None:
    frames, xy, visible = moved(case, move)
    assert frames.shape == case["video"].shape
    np.testing.assert_array_equal(frames[0], case["video"][0])
    np.testing.assert_allclose(xy[:, 0], case["trajectories"][0], atol=1e-9)
    assert visible[:, 0].all()


def test_a_point_that_is_turned_out_of_the_frame_is_not_visible(case: dict[str, np.ndarray]) -> None:
    _, xy, visible = moved(case, rolled)
    out = (xy < -0.5).any(axis=-1) | (xy > [31.5, 23.5]).any(axis=-1)
    assert out.any()
    np.testing.assert_array_equal(visible, ~out)


def test_convention_a_point_wraps_at_the_edge_of_the_last_pixel() -> None:
    """Rolled by whole pixels, a point stays on its pixel: every position stays within -0.5..W - 0.5."""
    frames = np.zeros((4, 6, 8, 3), np.uint8)
    xy = np.broadcast_to(np.array([[7.4, 5.4], [-0.4, -0.4]])[:, None], (2, 4, 2))
    _, xy, visible = rolled(frames, xy, np.ones((2, 4), bool), np.random.default_rng(0), turned=False)
    assert visible.all()
    fraction = xy - np.rint(xy)
    np.testing.assert_allclose(fraction, np.broadcast_to([[[0.4, 0.4]], [[-0.4, -0.4]]], fraction.shape), atol=1e-9)
