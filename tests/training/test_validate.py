"""Scores while training are of tracks as a tracker would give them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_run import SMALL

from pointloom.datasets.clip import AnnotatedClip
from pointloom.models.cotracker3 import CoTracker3, initialise
from pointloom.tracking.tracker import Tracker
from pointloom.training.validate import track

FRAMES = 37  # the second window and the last are not of the usual kind


@pytest.mark.parametrize("leads_in", [True, False])
def test_held_back_clips_are_tracked_as_videos_are(leads_in: bool) -> None:
    torch.manual_seed(3)  # of the first seeds the one whose points are seen in half of the frames
    model = CoTracker3(replace(SMALL, resize="as_is", recovers=False, leads_in=leads_in)).double().eval()
    initialise(model, seed=0)
    flow, probabilities = model.updateformer.output_layers()
    torch.nn.init.normal_(flow.weight, std=0.05)
    torch.nn.init.normal_(probabilities.weight, std=0.2)
    torch.nn.init.constant_(probabilities.bias, 1.0)
    frames = np.random.default_rng(0).integers(0, 255, (FRAMES, 48, 64, 3)).astype(np.uint8)
    known = np.ones((3, FRAMES), bool)
    clip = AnnotatedClip("noise", frames, np.zeros((3, FRAMES, 2), np.float32), known, known)
    queries = np.float32([[0, 20, 20], [0, 40, 30], [0, 8, 40]])
    with torch.inference_mode():
        found, seen = track(model, clip, queries.astype(np.float64), masked=True)
    expected = Tracker(model, device="cpu").track(frames, queries)
    np.testing.assert_allclose(found[:, 1:], expected.xy[:, 1:], atol=1e-3)
    assert np.array_equal(seen[:, 1:], expected.seen()[:, 1:])
    assert seen[:, 1:].any()
    assert not seen[:, 1:].all()
