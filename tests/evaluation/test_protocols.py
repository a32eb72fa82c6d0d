"""Protocols: names, what they fix, and where a point lies in the three frames."""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np
import pytest
from PIL import Image

from pointloom.errors import MissingExtraError, OptionError
from pointloom.evaluation.metrics import to_evaluation
from pointloom.evaluation.protocols import PROTOCOLS, Protocol, find_protocol

# What each version of a protocol fixes. A line that changes is another protocol: give it another version, or undo it.
FIXED = {
    "pointloom-1 1": "b8bac1c89173",
    "tapvid-first 1": "900e2e662e42",
    "tapvid-strided 1": "e9a1bee84e01",
    "tapvid-first-alone 1": "18008f3c3ef7",
    "tapvid-strided-alone 1": "390d44120ce4",
    "cotracker3-first 1": "a8d3f169d11f",
    "cotracker3-strided 1": "ad30d2c45ad1",
    "cotracker3-first-alone 1": "52db339ec27c",
    "cotracker3-strided-alone 1": "1922506ff9bd",
    "cotracker3-dynamic-replica 1": "e09757bad420",
}


def digest(protocol: Protocol) -> str:
    return hashlib.sha256(json.dumps(protocol.as_meta(), sort_keys=True).encode()).hexdigest()[:12]


def test_a_protocol_does_not_change_without_another_version() -> None:
    assert {f"{p.name} {p.version}": digest(p) for p in PROTOCOLS.values()} == FIXED


def test_an_unknown_protocol_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(OptionError, match="Did you mean tapvid-first"):
        find_protocol("tapvid_first")


def test_protocols_follow_the_published_choices() -> None:
    tapvid, official = PROTOCOLS["tapvid-strided"], PROTOCOLS["cotracker3-first-alone"]
    assert (tapvid.resolution, tapvid.coordinates, tapvid.direction) == ((256, 256), "area", "both")
    assert (official.driver, official.coordinates, official.iterations) == ("official", "aligned", 6)
    assert (official.support_grid, official.support_local, official.per_query) == (5, 8, True)
    assert official.seen.threshold == 0.6
    replica = PROTOCOLS["cotracker3-dynamic-replica"]
    assert (replica.resolution, replica.queries, replica.scoring) == (None, "frame-0", "dynamic-replica")


SIZE = (512, 128)


def test_convention_tapvid_holds_the_corners_of_the_frame_in_place() -> None:
    protocol = PROTOCOLS["tapvid-first"]
    # raster (u, v) = (x + 0.5) / W; times 256; minus 0.5. The middle of the frame stays the middle
    corners = np.array([[-0.5, -0.5], [255.5, 63.5], [511.5, 127.5]], np.float32)
    np.testing.assert_allclose(protocol.enter(corners, SIZE), [[-0.5, -0.5], [127.5, 127.5], [255.5, 255.5]])
    assert protocol.measured(protocol.enter(corners, SIZE), SIZE).tolist() == protocol.enter(corners, SIZE).tolist()


def test_convention_cotracker_multiplies_shares_of_the_frame_by_255() -> None:
    protocol = PROTOCOLS["cotracker3-first"]
    # u = (x + 0.5) / 512: shares 0, 1/2 and 1 lie at 0, 127.5 and 255 for CoTracker
    corners = np.array([[-0.5, -0.5], [255.5, 63.5], [511.5, 127.5]], np.float32)
    np.testing.assert_allclose(protocol.enter(corners, SIZE), [[0, 0], [127.5, 127.5], [255, 255]], atol=1e-4)


def test_convention_dynamic_replica_is_measured_between_pixel_centres() -> None:
    protocol = PROTOCOLS["cotracker3-dynamic-replica"]
    last = np.array([[511.0, 127.0]], np.float32)
    np.testing.assert_allclose(protocol.measured(protocol.enter(last, SIZE), SIZE), [[255, 255]])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_leaving_undoes_entering(name: str) -> None:
    xy = np.random.default_rng(0).uniform(-5, 600, (20, 3, 2)).astype(np.float32)
    protocol = PROTOCOLS[name]
    entered = protocol.enter(xy, SIZE)
    assert entered.dtype == np.float32
    np.testing.assert_allclose(protocol.leave(entered, SIZE), xy, atol=1e-3)


def test_at_full_resolution_positions_are_those_of_the_video_and_are_measured_at_256() -> None:
    protocol = PROTOCOLS["pointloom-1"]
    xy = np.array([[3.0, 4.0]], np.float32)
    assert protocol.enter(xy, SIZE) is xy
    np.testing.assert_array_equal(protocol.measured(xy, SIZE), to_evaluation(xy, SIZE))
    assert protocol.frame_size(SIZE) == SIZE


def test_frames_are_resized_as_tapvid_does() -> None:
    video = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), np.uint8)
    resized = PROTOCOLS["tapvid-first"].frames(video)
    expected = Image.fromarray(video[1]).resize((256, 256), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(resized[1], np.asarray(expected))
    assert resized.shape == (2, 256, 256, 3)


def test_frames_that_have_the_size_already_stay_as_they_are() -> None:
    video = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), np.uint8)
    np.testing.assert_array_equal(PROTOCOLS["tapvid-first"].frames(video), video)
    np.testing.assert_array_equal(PROTOCOLS["pointloom-1"].frames(video[:, :50]), video[:, :50])


def test_without_pillow_the_line_to_type_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pointloom\[evaluate\]'"):
        PROTOCOLS["tapvid-first"].frames(np.zeros((1, 8, 8, 3), np.uint8))
