from dataclasses import replace

import cv2
import numpy as np
import pytest
from small_scenes import VIEW, background, board

from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.synthetic import LayeredConfig, TextureBank, cover_clip, make_clip, scene
from pointloom.datasets.synthetic.layered import draw_tracks, paint
from pointloom.datasets.synthetic.scene import Scene, random_scene
from pointloom.datasets.synthetic.textures import TextureMix
from pointloom.errors import OptionError
from pointloom.geometry import inside

SMALL = LayeredConfig(size=(96, 64), frames=8, tracks=64)


@pytest.fixture(scope="module")
def textures():
    return TextureBank.procedural(count=4)


def tracks_of(layers, count=200, marked=(0,)):
    """Tracks drawn from the marked frames of a scene put together by hand."""
    _, owners = paint(Scene(tuple(layers), 0.0, VIEW), marked)
    return draw_tracks(np.random.default_rng(0), layers, owners, count)


# ---- what the caller asks for


def test_the_same_seed_gives_the_same_bytes(textures):
    first, again = (make_clip(SMALL, TextureBank.procedural(count=4), seed=5) for _ in range(2))
    assert first.frames.tobytes() == again.frames.tobytes()
    assert first.xy.tobytes() == again.xy.tobytes()
    assert first.visible.tobytes() == again.visible.tobytes()
    assert first.name == again.name == "layered-5"


def test_another_seed_gives_another_clip(textures):
    first, second = (make_clip(SMALL, textures, seed) for seed in (5, 6))
    assert (first.frames != second.frames).mean() > 0.5


@pytest.mark.parametrize(
    ("size", "frames", "tracks"),
    [((96, 64), 8, 64), ((40, 72), 3, 7), ((64, 64), 1, 1), ((16, 16), 2, 300), ((64, 48), 120, 50)],
    ids=["small", "upright", "one frame, one track", "tiny", "long"],
)
def test_size_frames_and_tracks_are_as_asked(textures, size, frames, tracks):
    for seed in range(3):
        clip = make_clip(LayeredConfig(size=size, frames=frames, tracks=tracks), textures, seed)
        assert clip.frames.shape == (frames, size[1], size[0], 3)
        assert clip.size == size
        assert clip.xy.shape == (tracks, frames, 2)
        assert clip.visible.shape == clip.valid.shape == (tracks, frames)
        assert (clip.frames.dtype, clip.xy.dtype, clip.visible.dtype) == (np.uint8, np.float32, bool)
        assert clip.valid.all()
        assert np.isfinite(clip.xy).all()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"size": (256, 8)}, r"at least 16 x 16 pixels, got \(256, 8\)"),
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"tracks": -1}, "tracks must be at least 1, got -1"),
        ({"difficulty": (0.8, 0.2)}, "lowest <= highest"),
        ({"objects": (-2, 3)}, "objects must be"),
        ({"turning": (0.0, 2.0)}, "turning must lie in 0..1"),
        ({"still_cameras": 1.5}, "still_cameras must lie in 0..1, got 1.5"),
        ({"wear": -0.1}, "wear must lie in 0..1, got -0.1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_configuration_that_makes_no_sense_is_refused(changes, says):
    with pytest.raises(OptionError, match=says):
        LayeredConfig(**changes)


def test_a_negative_seed_is_refused(textures):
    with pytest.raises(OptionError, match="seed must not be negative, got -3"):
        make_clip(SMALL, textures, seed=-3)


# ---- pixels and tracks agree


def test_pixels_around_a_track_stay_the_same(textures, monkeypatch):
    """Image registration, started at the truth, finds nothing to correct: under a tenth of a pixel on the average."""
    photos_only = TextureMix(
        pattern=0.0, weak=0.0, graphic=0.0
    )  # on bars and letters Lucas-Kanade slides along the edges
    monkeypatch.setattr(scene, "BACKGROUND_MIX", photos_only)
    config = LayeredConfig(difficulty=(0.2, 0.2), turning=(0.1, 0.1), objects=(0, 0), wear=0.0, still_cameras=0.0)
    residuals = np.concatenate([_residuals(make_clip(config, textures, seed)) for seed in range(8)])
    assert len(residuals) > 1500
    assert np.linalg.norm(residuals, axis=1).mean() < 0.1
    assert np.abs(residuals.mean(axis=0)).max() < 0.01  # half a pixel of convention would show here


def test_pixels_around_a_track_on_an_object_stay_the_same(textures):
    config = LayeredConfig(difficulty=(0.2, 0.2), turning=(0.1, 0.1), objects=(4, 4), tracks=400, wear=0.0)
    residuals = np.concatenate([_residuals(make_clip(config, textures, seed)) for seed in range(5)])
    # Where another layer moves close by the window sees both, so the median speaks, not the mean.
    assert np.median(np.linalg.norm(residuals, axis=1)) < 0.1


def _residuals(clip, gap=3):
    """Where Lucas-Kanade would move visible points that start at their true position, in pixels."""
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-3)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip.frames]
    found = []
    for t in range(0, len(grey) - gap, gap):
        both = clip.visible[:, t] & clip.visible[:, t + gap]
        start, truth = clip.xy[both, t], clip.xy[both, t + gap]
        moved, good, _ = cv2.calcOpticalFlowPyrLK(
            grey[t],
            grey[t + gap],
            start[:, None],
            truth[:, None].copy(),
            winSize=(11, 11),
            maxLevel=0,
            criteria=criteria,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
            minEigThreshold=3e-3,
        )
        found.append((moved[:, 0] - truth)[good[:, 0] == 1])
    return np.concatenate(found)


# ---- hidden points


def test_a_point_is_hidden_exactly_while_a_board_is_over_it():
    still = background([(0, 0)] * 5)
    passing = board([(0, 10), (12, 10), (24, 10), (36, 10), (48, 10)], width=12, height=48)  # x from 12 t to 12 t + 11
    xy, visible = tracks_of([still, passing], marked=[0, 4])
    on_background = np.ptp(xy[..., 0], axis=1) < 1e-6
    x, y = xy[on_background, 0].T
    assert 80 < on_background.sum() < 120
    for t in range(5):
        under = (x > 12 * t - 0.5) & (x < 12 * t + 11.5) & (y > 9.5)
        clear = np.minimum(np.abs(x - 12 * t + 0.5), np.abs(x - 12 * t - 11.5)) > 0.6  # not right at the border
        clear &= np.abs(y - 9.5) > 0.6
        assert (visible[on_background, t] == ~under)[clear].all()
        assert under.any()


def test_a_point_keeps_its_path_while_it_is_hidden_and_outside_the_frame():
    leaving = background([(0, 0), (10, 5), (100, 50)])
    cover = board([(-100, 0), (0, 0), (-100, 0)], width=64, height=48)
    xy, visible = tracks_of([leaving, cover])
    assert visible[:, 0].all()
    assert not visible[:, 1:].any()
    assert xy[:, 1] - xy[:, 0] == pytest.approx(np.tile([10, 5], (len(xy), 1)))
    assert xy[:, 2] - xy[:, 0] == pytest.approx(np.tile([100, 50], (len(xy), 1)))


def test_a_shadow_hides_nothing():
    _, visible = tracks_of([background([(0, 0)]), board([(0, 0)], width=64, height=48, opacity=110)])
    assert visible.all()


def test_a_point_is_not_hidden_by_what_is_behind_it():
    behind, front = board([(0, 0)], width=64, height=48), board([(20, 10)], width=24, height=24)
    xy, visible = tracks_of([background([(0, 0)]), behind, front])
    assert visible.all()
    on_front = (np.abs(xy[:, 0] - [31.5, 21.5]) < 12).all(axis=1)
    assert 20 < on_front.sum() < 180


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("figures", "wrong"), [(0.0, 0.0), (1.0, 0.01)], ids=["objects", "limbs down to a pixel thin"])
def test_points_are_visible_where_the_layer_they_are_on_is_in_front(textures, seed, figures, wrong):
    config = replace(SMALL, wear=0.0, objects=(4, 8), figures=figures)
    rng = np.random.default_rng(seed)
    drawn = random_scene(rng, textures, config)
    _, owners = paint(drawn, range(config.frames))
    xy, visible = draw_tracks(rng, drawn.layers, owners, 200)
    in_frame = inside(xy, config.size)
    assert not (visible & ~in_frame).any()
    # Layers in front at the points' pixels, where no border is close: there drawing and judging may differ by a pixel.
    pixel = np.clip(np.rint(xy).astype(int), 0, np.array(config.size) - 1)
    x, y = pixel[..., 0], pixel[..., 1]
    front = np.stack([owners[t][y[:, t], x[:, t]] for t in range(config.frames)], axis=1)
    square = np.ones((3, 3), np.uint8)
    uniform = [cv2.erode(owners[t], square) == cv2.dilate(owners[t], square) for t in range(config.frames)]
    clear = (
        inside(xy + 1, config.size)
        & inside(xy - 1, config.size)
        & np.stack([uniform[t][y[:, t], x[:, t]] for t in range(config.frames)], axis=1)
    )
    own = np.array([row[seen].max(initial=-1) for row, seen in zip(front, clear & visible, strict=True)])
    known = (own >= 0)[:, None] & clear
    agrees = np.where(visible, front == own[:, None], front > own[:, None])
    assert (~agrees)[known].mean() <= wrong
    assert (known & visible).sum() > 500


# ---- where tracks are


def test_half_of_the_tracks_are_on_objects_and_none_on_a_border():
    layers = [background([(0, 0)]), board([(10, 10)], width=10, height=10)]
    xy, _ = tracks_of(layers)
    on_board = (np.abs(xy[:, 0] - 14.5) < 5).all(axis=1)
    assert on_board.sum() == pytest.approx(100, abs=15)  # a quarter more are drawn than kept
    to_border = np.abs(np.abs(xy[:, 0] - 14.5).max(axis=1) - 5)
    assert to_border.min() >= 0.99


def test_small_objects_get_more_than_their_area():
    small, large = board([(4, 4)], width=8, height=8), board([(30, 10)], width=30, height=30)
    xy, _ = tracks_of([background([(0, 0)]), small, large], count=1000)
    on_small = (np.abs(xy[:, 0] - [7.5, 7.5]) < 4).all(axis=1).sum()
    on_large = (np.abs(xy[:, 0] - [44.5, 24.5]) < 15).all(axis=1).sum()
    assert on_small > 0.2 * on_large  # by area it would be 0.07, and 0.08 with the border's extra weight


def test_points_near_borders_are_chosen_more_often():
    layers = [background([(0, 0)]), board([(32, 0)], width=32, height=48)]
    xy, _ = tracks_of(layers, count=4000)
    distance = np.abs(xy[:, 0, 0] - 31.5)
    near, far = (distance < 4).sum() / 3, (distance > 8).sum() / 24  # a pixel's share of the points
    assert near / far == pytest.approx(3, rel=0.25)


@pytest.mark.parametrize("layers", [[background([(0, 0)])], [background([(0, 0)]), board([(0, 0)], 64, 48)]])
def test_where_only_one_kind_is_seen_it_gets_all_tracks(layers):
    xy, visible = tracks_of(layers, count=30)
    assert xy.shape == (30, 1, 2)
    assert visible.all()


def test_a_share_of_the_tracks_are_marks_that_are_seen():
    marked = board([(10, 10), (14, 10)], width=20, height=12, marks=np.array([[2.0, 6.0]]))
    outside = board([(-30, 10), (-30, 10)], marks=np.array([[6.0, 6.0]]))
    layers = [background([(0, 0), (0, 0)]), marked, outside]
    _, owners = paint(Scene(tuple(layers), 0.0, VIEW), (0, 1))
    xy, visible = draw_tracks(np.random.default_rng(0), layers, owners, 100, 0.4)
    assert len(xy) == 100
    at_mark = np.linalg.norm(xy - [[12, 16], [16, 16]], axis=-1).max(axis=1) < 2
    assert at_mark[:2].all()  # one mark is drawn twice, and that outside the frame not at all
    assert at_mark[2:].mean() < 0.1
    assert visible[:2].all()
    np.testing.assert_allclose(np.diff(xy[:2], axis=1), [[[4, 0]]] * 2, atol=1e-5)


def test_all_tracks_can_be_marks():
    marked = board([(10, 10)], marks=np.array([[2.0, 6.0], [8.0, 6.0]]))
    layers = [background([(0, 0)]), marked]
    _, owners = paint(Scene(tuple(layers), 0.0, VIEW), (0,))
    xy, visible = draw_tracks(np.random.default_rng(0), layers, owners, 4, 1.0)
    assert np.linalg.norm(xy[:, 0, None] - [[12, 16], [18, 16]], axis=-1).min(axis=1).max() < 2
    assert visible.all()


def test_no_more_marks_are_drawn_than_asked(textures):
    config = replace(SMALL, figures=1.0, objects=(4, 4), tracks=60, frames=4)
    shares = []
    for landmarks in (0.0, 0.5):
        drawn = random_scene(np.random.default_rng(1), textures, config)
        _, owners = paint(drawn, range(4))
        xy, _ = draw_tracks(np.random.default_rng(2), drawn.layers, owners, 60, landmarks)
        marks = np.concatenate([layer.locate(layer.marks)[0] for layer in drawn.layers if len(layer.marks)])
        apart = np.linalg.norm(xy[:, None] - marks[None], axis=-1).max(axis=-1).min(axis=1)
        shares.append((apart < 1.5).mean())
    assert shares[0] < 0.2
    assert shares[0] + 0.2 < shares[1] <= 0.5 + shares[0]  # as far as they are seen


def test_a_grey_clip_has_no_colours():
    config = replace(SMALL, specimens=1.0)
    bank = TextureBank.procedural(count=2)
    coloured = [np.ptp(make_clip(config, bank, seed).frames.astype(int), axis=-1).max() for seed in range(6)]
    assert 0 in coloured
    assert max(coloured) > 20


def test_some_points_are_not_yet_seen_in_the_first_frame(textures):
    clips = [make_clip(LayeredConfig(size=(96, 64), tracks=100), textures, seed) for seed in range(6)]
    assert 0.4 < np.mean([clip.visible[:, 0].mean() for clip in clips]) < 0.95
    assert all(clip.visible.any(axis=1).mean() > 0.95 for clip in clips)


# ---- what is there and how it moves


def test_a_scene_holds_as_many_objects_as_asked(textures):
    for seed in range(10):
        layers = random_scene(np.random.default_rng(seed), textures, replace(SMALL, objects=(3, 5), figures=0)).layers
        assert 1 + 3 <= sum(layer.opaque for layer in layers) <= 1 + 5 + 1  # at times something large sweeps across
        (only,) = random_scene(np.random.default_rng(seed), textures, replace(SMALL, objects=(0, 0), wear=0.0)).layers
        assert only.endless


def test_without_wear_objects_keep_their_brightness_and_nothing_is_blurred_or_resized(textures):
    for wear, plain in ((0.0, True), (1.0, False)):
        config = replace(SMALL, wear=wear)
        scenes = [random_scene(np.random.default_rng(seed), textures, config) for seed in range(12)]
        assert all((layer.gain == 1).all() for made in scenes for layer in made.layers) == plain
        assert all(made.shutter == 0 for made in scenes) == plain
        assert all(made.canvas == config.size for made in scenes) == plain


def test_a_still_camera_does_not_move_and_neither_do_its_pixels(textures, monkeypatch):
    monkeypatch.setattr(scene, "BACKGROUND_RIPPLE_SHARE", 0.0)
    config = replace(SMALL, still_cameras=1.0, objects=(0, 0), wear=0.0, difficulty=(1.0, 1.0), turning=(1.0, 1.0))
    for seed in range(4):
        clip = make_clip(config, textures, seed)
        assert (clip.frames == clip.frames[:1]).all()
        assert (clip.xy == clip.xy[:, :1]).all()


def test_other_cameras_move(textures):
    config = replace(SMALL, still_cameras=0.0, objects=(0, 0), difficulty=(1.0, 1.0))
    for seed in range(4):
        clip = make_clip(config, textures, seed)
        assert np.ptp(clip.xy, axis=1).max() > 1


def test_more_difficulty_is_more_speed(textures):
    speeds = []
    for difficulty in (0.1, 0.4, 1.0):
        config = replace(SMALL, difficulty=(difficulty, difficulty), turning=(0.0, 0.0), still_cameras=0.0)
        clips = [make_clip(config, textures, seed) for seed in range(6)]
        speeds.append(np.mean([np.linalg.norm(np.diff(clip.xy, axis=1), axis=-1).mean() for clip in clips]))
    assert speeds[0] * 2 < speeds[1]
    assert speeds[1] * 1.5 < speeds[2]


def test_speeds_are_those_of_real_clips(textures):
    config = LayeredConfig(size=(64, 48), tracks=60)
    speeds = []
    for seed in range(40):
        clip = make_clip(config, textures, seed)
        both = clip.visible[:, 1:] & clip.visible[:, :-1]
        speeds.append(np.linalg.norm(np.diff(clip.xy, axis=1), axis=-1)[both] * 256 / config.size[0])
    median, fast = np.percentile(np.concatenate(speeds), [50, 99])
    assert 1.1 < median < 2.0
    assert 9 < fast < 15.5


def test_some_cameras_turn_by_a_quarter_and_some_zoom_by_half(textures):
    turns, zooms = [], []
    config = replace(SMALL, frames=24, objects=(0, 0), still_cameras=0.0)
    for seed in range(100):
        maps = random_scene(np.random.default_rng(seed), textures, config).layers[0].to_frame
        angle = np.unwrap(np.arctan2(maps[:, 1, 0], maps[:, 0, 0]))
        scale = np.linalg.norm(maps[:, :2, 0], axis=1)
        turns.append(np.degrees(np.ptp(angle)))
        zooms.append(scale.max() / scale.min())
    assert (np.array(turns) > 80).sum() >= 3
    assert (np.array(zooms) > 1.5).sum() >= 3
    assert np.median(turns) < 15


def test_in_a_long_clip_the_camera_stays_in_reach_and_something_is_always_seen(textures):
    config = replace(SMALL, frames=400, tracks=60)
    for seed in range(2):
        clip = make_clip(config, textures, seed)
        assert clip.visible.mean() > 0.1
        assert np.abs(clip.xy).max() < 100 * clip.size[0]


# ---- objects in front of another clip


def test_tracks_are_hidden_where_objects_cover_a_clip_and_only_there(textures):
    green = np.full((6, 48, 72, 3), (0, 200, 0), np.uint8)
    x, y = np.meshgrid(np.arange(2.0, 72, 4), np.arange(2.0, 48, 4))
    xy = np.repeat(np.stack([x.ravel(), y.ravel()], axis=-1)[:, None], 6, axis=1).astype(np.float32)
    there = np.ones(xy.shape[:2], bool)
    there[0], known = False, there.copy()
    known[1, 3] = False
    clip = AnnotatedClip("meadow", green, xy, there, known)
    hidden = []
    for seed in range(6):
        made = cover_clip(clip, replace(SMALL, wear=0.0, objects=(2, 5)), textures, seed)
        assert made.name == f"meadow-{seed}"
        assert made.xy is clip.xy
        assert made.valid is clip.valid
        assert not made.visible[0].any()
        column, row = xy.astype(int)[:, :, 0], xy.astype(int)[:, :, 1]
        change = np.abs(made.frames[np.arange(6), row, column].astype(int) - (0, 200, 0)).max(-1)
        assert (change[made.visible] < 128).mean() > 0.97  # what is changed there lies upon a border
        assert (change[1:][~made.visible[1:]] > 20).mean() > 0.9
        hidden.append((~made.visible[1:]).mean())
    assert 0.05 < np.mean(hidden) < 0.8
    assert (
        cover_clip(clip, SMALL, textures, 3).frames.tobytes() == cover_clip(clip, SMALL, textures, 3).frames.tobytes()
    )
