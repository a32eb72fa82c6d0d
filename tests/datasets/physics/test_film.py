import cv2
import numpy as np
import pytest

from pointloom.datasets.physics import ModelBank, PhysicsConfig, make_clip, make_full_clip
from pointloom.datasets.synthetic import TextureBank
from pointloom.errors import OptionError
from pointloom.geometry import inside

SMALL = PhysicsConfig(size=(96, 72), frames=6, tracks=160, objects=(6, 6), difficulty=(1.0, 1.0), wear=0.0)


@pytest.fixture(scope="module")
def textures():
    return TextureBank.procedural(count=4)


@pytest.fixture(scope="module")
def full(textures):
    return make_full_clip(SMALL, textures, ModelBank(), seed=4)


# ---- what the caller asks for


def test_the_same_seed_gives_the_same_bytes_with_and_without_all_that_is_known(full):
    clip = make_clip(SMALL, TextureBank.procedural(count=4), ModelBank(), seed=4)
    assert clip.frames.tobytes() == full.frames.tobytes()
    assert clip.xy.tobytes() == full.xy.tobytes()
    assert clip.visible.tobytes() == full.visible.tobytes()
    assert clip.valid.tobytes() == full.valid.tobytes()
    assert clip.name == full.name == "physics-4"


def test_another_seed_gives_another_clip(full, textures):
    other = make_clip(SMALL, textures, ModelBank(), seed=3)
    assert (full.frames != other.frames).mean() > 0.5


def test_size_frames_and_tracks_are_as_asked(textures):
    config = PhysicsConfig(size=(40, 64), frames=1, tracks=7, objects=(0, 0))
    clip = make_full_clip(config, textures, ModelBank(), seed=0)
    assert clip.frames.shape == (1, 64, 40, 3)
    assert clip.xy.shape == (7, 1, 2)
    assert clip.visible.shape == clip.valid.shape == clip.track_depth.shape == (7, 1)
    assert (clip.frames.dtype, clip.xy.dtype, clip.visible.dtype) == (np.uint8, np.float32, bool)
    assert clip.depth.shape == clip.segmentation.shape == (1, 64, 40)
    assert clip.flow.shape == (0, 64, 40, 2)
    assert clip.visible.all()  # all points were chosen in the only frame


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"size": (256, 8)}, r"size must lie in 32\.\.2048 pixels a side, got \(256, 8\)"),
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"tracks": -1}, "tracks must be at least 1, got -1"),
        ({"difficulty": (0.8, 0.2)}, r"difficulty must be \(lowest, highest\)"),
        ({"objects": (3, 100)}, r"objects must be .*0\.\.64, got \(3, 100\)"),
        ({"models": 1.5}, r"models must lie in 0\.\.1, got 1\.5"),
        ({"still_cameras": -0.5}, r"still_cameras must lie in 0\.\.1, got -0\.5"),
        ({"blurred": 2}, r"blurred must lie in 0\.\.1, got 2"),
        ({"wear": -0.1}, r"wear must lie in 0\.\.1, got -0\.1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_configuration_that_makes_no_sense_is_refused(changes, says):
    with pytest.raises(OptionError, match=says):
        PhysicsConfig(**changes)


def test_a_negative_seed_is_refused(textures):
    with pytest.raises(OptionError, match="seed must not be negative, got -3"):
        make_clip(SMALL, textures, ModelBank(), seed=-3)


# ---- what is known agrees with itself


def test_visible_points_lie_in_the_frame_at_the_depth_that_is_drawn(full):
    assert not (full.visible & ~inside(full.xy, full.size)).any()
    n, t = np.nonzero(full.visible)
    drawn, slack = around(full.depth, full.xy, n, t)
    assert (np.abs(drawn - full.track_depth[n, t]) < 0.002 + slack).mean() > 0.99
    assert len(n) > 200


def test_hidden_points_lie_behind_what_is_drawn(full):
    n, t = np.nonzero(~full.visible & inside(full.xy, full.size) & full.valid)
    drawn, slack = around(full.depth, full.xy, n, t)
    assert (full.track_depth[n, t] > drawn - slack).all()
    assert len(n) > 10


def test_visible_points_are_drawn_as_the_thing_they_are_on(full):
    """A track that is on a thing in one frame is on it in all frames in which it is seen, away from outlines."""
    square = np.ones((3, 3), np.uint8)
    uniform = np.stack([cv2.erode(s, square) == cv2.dilate(s, square) for s in full.segmentation])
    x, y = np.clip(np.rint(full.xy).astype(int), 0, np.array(full.size) - 1).transpose(2, 0, 1)
    t = np.arange(SMALL.frames)
    clear = full.visible & uniform[t, y, x]
    owner = full.segmentation[t, y, x].astype(int)
    highest = np.where(clear, owner, -1).max(axis=1)
    lowest = np.where(clear, owner, 99).min(axis=1)
    seen = clear.sum(axis=1) > 1
    assert (highest == lowest)[seen].all()
    assert len(np.unique(highest[seen])) > 2  # the room, and more than one thing


def test_flow_leads_from_a_track_to_where_it_is_next(full):
    n, t = np.nonzero(full.visible[:, :-1])
    flat = local_spread(full.flow, full.xy, n, t) < 0.5
    n, t = n[flat], t[flat]
    x, y = np.rint(full.xy[n, t]).astype(int).T
    expected = full.xy[n, t + 1] - full.xy[n, t]
    error = np.linalg.norm(full.flow[t, y, x] - expected, axis=1)
    assert np.median(error) < 0.05
    assert np.percentile(error, 95) < 0.5
    assert np.linalg.norm(expected, axis=1).max() > 2


def test_the_camera_that_is_told_sees_the_room_where_it_is_drawn(full):
    """Depth lifted with lens and poses gives the floor at height 0, in every frame."""
    pixels = np.stack(np.meshgrid(*map(np.arange, full.lens.size)), axis=-1).astype(float)
    for t in range(SMALL.frames):
        points = full.lens.directions(pixels) * full.depth[t][..., None] @ full.view.rotation[t].T
        height = (points + full.view.position[t])[..., 2]
        assert height.min() > -0.01
        assert (np.abs(height[full.segmentation[t] == 0]) < 0.002).mean() > 0.2


def around(depth, xy, n, t):
    """Depth drawn at points, and how much it varies from pixel to pixel there."""
    x, y = np.clip(np.rint(xy[n, t]).astype(int), 1, np.array(depth.shape[:0:-1]) - 2).T
    patch = np.stack([depth[t, y + dy, x + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    return patch[4], np.ptp(patch, axis=0)


def local_spread(flow, xy, n, t):
    x, y = np.clip(np.rint(xy[n, t]).astype(int), 1, np.array(flow.shape[2:0:-1]) - 2).T
    patch = np.stack([flow[t, y + dy, x + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    return np.ptp(patch, axis=0).max(axis=-1)


# ---- pixels and tracks agree


def test_pixels_around_a_track_stay_the_same(textures):
    """Image registration, started at the truth, finds nothing to correct. Things turn and shine: the room does not."""
    config = PhysicsConfig(
        size=(160, 120),
        frames=4,
        tracks=300,
        objects=(0, 0),
        difficulty=(0.3, 0.3),
        wear=0.0,
        blurred=0.0,
        still_cameras=0.0,
    )
    clip = make_clip(config, textures, ModelBank(), seed=2)
    first, last = (cv2.cvtColor(clip.frames[t], cv2.COLOR_RGB2GRAY) for t in (0, -1))
    both = clip.visible[:, 0] & clip.visible[:, -1]
    start, truth = clip.xy[both, 0], clip.xy[both, -1]
    moved, good, _ = cv2.calcOpticalFlowPyrLK(
        first,
        last,
        start[:, None],
        truth[:, None].copy(),
        winSize=(9, 9),
        maxLevel=0,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        minEigThreshold=1e-3,
    )
    residual = (moved[:, 0] - truth)[good[:, 0] == 1]
    assert len(residual) > 100
    assert np.median(np.linalg.norm(truth - start, axis=1)) > 1
    assert np.median(np.linalg.norm(residual, axis=1)) < 0.15
    assert np.abs(np.median(residual, axis=0)).max() < 0.05  # half a pixel of convention would show here


# ---- how it is filmed


def test_a_still_camera_does_not_move_and_neither_do_its_pixels(textures):
    config = PhysicsConfig(size=(64, 48), frames=3, tracks=40, objects=(0, 0), still_cameras=1.0, blurred=0.0, wear=0.0)
    clip = make_full_clip(config, textures, ModelBank(), seed=0)
    assert (clip.frames == clip.frames[:1]).all()
    np.testing.assert_allclose(clip.xy, np.repeat(clip.xy[:, :1], 3, axis=1), atol=1e-4)
    assert np.ptp(clip.view.position, axis=0).max() == 0


def test_other_cameras_move(textures):
    config = PhysicsConfig(size=(64, 48), frames=3, tracks=40, objects=(0, 0), still_cameras=0.0)
    clip = make_full_clip(config, textures, ModelBank(), seed=0)
    assert np.ptp(clip.view.position, axis=0).max() > 0.001
    assert np.ptp(clip.xy, axis=1).max() > 0.5


def test_motion_blur_softens_what_moves_around_where_its_tracks_are(textures):
    options = {"size": (96, 72), "frames": 2, "tracks": 64, "difficulty": (4.0, 4.0), "wear": 0.0, "objects": (0, 0)}
    sharp, soft = (
        make_clip(PhysicsConfig(**options, blurred=share, still_cameras=0.0), textures, ModelBank(), seed=3)
        for share in (0.0, 1.0)
    )
    np.testing.assert_array_equal(sharp.xy, soft.xy)
    assert sharpness(soft.frames) < 0.9 * sharpness(sharp.frames)
    grey = [cv2.cvtColor(clip.frames[0], cv2.COLOR_RGB2GRAY).astype(np.float32) for clip in (sharp, soft)]
    shift, _ = cv2.phaseCorrelate(*grey, cv2.createHanningWindow((96, 72), cv2.CV_32F))
    assert np.hypot(*shift) < 0.3  # light that fell in only after the frame's moment would shift it by a pixel
    assert np.median(np.linalg.norm(sharp.xy[:, 1] - sharp.xy[:, 0], axis=1)) > 5


def sharpness(frames):
    return np.mean([np.abs(cv2.Laplacian(frame, cv2.CV_32F)).mean() for frame in frames])
