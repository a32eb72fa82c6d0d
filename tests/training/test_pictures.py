"""Pictures of tracks in the log."""

from __future__ import annotations

import numpy as np

from pointloom.training.pictures import COLUMNS, WIDTH_PX, track_picture


def test_a_picture_has_predictions_above_and_the_truth_below() -> None:
    frames = np.full((9, 60, 80, 3), 128, np.uint8)
    truth = np.random.default_rng(0).uniform(10, 50, (5, 9, 2)).astype(np.float32)
    seen = np.ones((5, 9), bool)
    right = track_picture(frames, predicted=truth, predicted_seen=seen, truth=truth, seen=seen)
    height = WIDTH_PX * 60 // 80
    assert right.shape == (2 * height, COLUMNS * WIDTH_PX, 3)
    assert (right[:height] == right[height:]).all()
    assert (right != 128).any()
    wrong = track_picture(frames, predicted=truth + 8, predicted_seen=~seen, truth=truth, seen=seen)
    assert (wrong[height:] == right[height:]).all()
    assert (wrong[:height] != right[:height]).any()
