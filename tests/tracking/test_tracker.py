import weakref
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import (
    ALONE,
    LEADING_IN,
    SIZE,
    STEP,
    TOGETHER,
    WINDOW,
    CountingVideo,
    moving_noise,
    small_model,
    some_queries,
)

from pointloom.errors import OptionError, QueryError, VideoError
from pointloom.queries import Queries
from pointloom.tracking.memory import FIXED_POINTS, measure_costs
from pointloom.tracking.runner import Runner
from pointloom.tracking.tracker import Tracker
from pointloom.tracking.windows import walk
from pointloom.tracks import Tracks
from pointloom.video import open_video

CPU = torch.device("cpu")
FRAMES = 27  # not a multiple of anything here
VIDEO = moving_noise(FRAMES)
QUERIES = some_queries(7, FRAMES)
FEW = some_queries(3, 12)
MODEL = small_model(ALONE)
SOCIAL_MODEL = small_model(TOGETHER)

# float32 sums in another order: positions of some 10 px after a few windows agree to
ROUNDING_PX = 1e-4


def tracker(model=MODEL, **options) -> Tracker:
    return Tracker(model, device="cpu", **options)


def assert_same(a: Tracks, b: Tracks, tolerance: float = ROUNDING_PX) -> None:
    np.testing.assert_allclose(a.xy, b.xy, atol=tolerance, rtol=0)
    np.testing.assert_allclose(a.visibility, b.visibility, atol=tolerance, rtol=0)
    np.testing.assert_allclose(a.confidence, b.confidence, atol=tolerance, rtol=0)


def differs(a: Tracks, b: Tracks) -> bool:
    return bool(np.abs(a.xy - b.xy).max() > 10 * ROUNDING_PX)


both_modes = pytest.mark.parametrize("mode", ["windowed", "full"])
both_models = pytest.mark.parametrize("model", [MODEL, SOCIAL_MODEL], ids=["points alone", "points together"])


# ---- what a track is


@both_modes
@both_models
@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_a_track_goes_exactly_through_its_query(mode, model, direction):
    tracks = tracker(model, mode=mode).track(VIDEO, QUERIES, direction=direction)
    point, frame = np.arange(len(QUERIES)), QUERIES[:, 0].astype(int)
    assert np.array_equal(tracks.xy[point, frame], QUERIES[:, 1:])
    assert (tracks.visibility[point, frame] == 1).all()
    assert (tracks.confidence[point, frame] == 1).all()
    assert np.array_equal(tracks.query, QUERIES)


@both_modes
@pytest.mark.parametrize(("direction", "asked"), [("forward", np.greater_equal), ("backward", np.less_equal)])
def test_in_frames_that_were_not_asked_for_a_point_stays_at_its_query_unseen(mode, direction, asked):
    tracks = tracker(mode=mode).track(VIDEO, QUERIES, direction=direction)
    idle = ~asked(np.arange(FRAMES), QUERIES[:, :1])
    assert (tracks.xy == QUERIES[:, None, 1:])[idle].all()
    assert (tracks.visibility[idle] == 0).all()
    assert (tracks.confidence[idle] == 0).all()
    moving = ~idle & (np.arange(FRAMES) != QUERIES[:, :1])
    assert (tracks.xy != QUERIES[:, None, 1:])[moving].any(axis=-1).all()


@both_modes
@both_models
def test_backward_is_forward_on_the_reversed_video(mode, model):
    there = tracker(model, mode=mode).track(VIDEO, QUERIES, direction="backward")
    turned = QUERIES * [-1, 1, 1] + [FRAMES - 1, 0, 0]
    back = tracker(model, mode=mode).track(VIDEO[::-1], turned)
    assert_same(
        there,
        replace(back, xy=back.xy[:, ::-1], visibility=back.visibility[:, ::-1], confidence=back.confidence[:, ::-1]),
        ROUNDING_PX,
    )


@both_modes
@both_models
def test_both_directions_are_each_of_them_on_its_side(mode, model):
    one, other, both = (
        tracker(model, mode=mode).track(VIDEO, QUERIES, direction=d) for d in ("forward", "backward", "both")
    )
    before = (np.arange(FRAMES) < QUERIES[:, :1])[..., None]
    assert np.array_equal(both.xy, np.where(before, other.xy, one.xy))
    assert np.array_equal(both.visibility, np.where(before[..., 0], other.visibility, one.visibility))


def test_times_size_and_origin_come_with_the_tracks():
    video = open_video(VIDEO, fps=50)
    tracks = tracker(step=2, iterations=1, masked=False).track(video, QUERIES)
    assert np.array_equal(tracks.seconds, video.seconds)
    assert tracks.size == SIZE
    assert tracks.meta["source"] == "array"
    assert tracks.meta["model"] == "CoTracker3"
    assert len(tracks.meta["weights"]) == 16
    assert tracks.meta["options"] == {
        "mode": "windowed",
        "direction": "forward",
        "step": 2,
        "iterations": 1,
        "masked": False,
        "recover": False,
        "support_grid": 0,
        "per_query": False,
        "dtype": "weights",
    }


def test_tracks_are_saved_with_where_they_come_from(tmp_path):
    tracks = tracker().track(VIDEO, Queries.grid(2))
    tracks.save(tmp_path / "a.npz")
    assert Tracks.load(tmp_path / "a.npz") == tracks


# ---- windows


@pytest.mark.parametrize("model", [MODEL, SOCIAL_MODEL, small_model(LEADING_IN)], ids=["alone", "together", "lead-in"])
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "official"])
@pytest.mark.parametrize("frames", [1, 3, STEP, WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + STEP, 27])
def test_windows_give_what_a_walk_over_all_features_gives(model, masked, frames):
    # one query on every frame; but masked, points that wait are left out, which a walk over all points cannot do
    everywhere = not masked or model is MODEL
    queries = some_queries(frames, frames, seed=3)
    queries[:, 0] = np.arange(frames) if everywhere else 0
    model = deepcopy(model).double()  # float32 loses more than a ten-thousandth of a pixel on some processors
    features = model.encode(torch.from_numpy(VIDEO[None, :frames]))
    points = model.describe(features, torch.from_numpy(queries)[None].double())
    expected = np.zeros((frames, frames, 2))
    lead_in = model.info.leads_in
    for done in walk(model, features, points, window=WINDOW, step=STEP, masked=masked, lead_in=lead_in):
        part = done.result.xy[0, : frames - done.start].transpose(0, 1)
        expected[:, done.start : done.start + part.shape[1]] = part
    tracks = tracker(model, masked=masked).track(VIDEO[:frames], queries)
    after = np.arange(frames) > queries[:, :1]
    np.testing.assert_allclose(tracks.xy[after], expected[after], atol=1e-5, rtol=0)


@pytest.mark.parametrize("step", [1, 2, 3, STEP])
def test_any_step_up_to_half_the_window_can_be_chosen(step):
    tracks = tracker(step=step).track(VIDEO, QUERIES)
    assert np.isfinite(tracks.xy).all()
    assert step == STEP or differs(tracks, tracker().track(VIDEO, QUERIES))


LATE = WINDOW + 2 * STEP + 1  # in the windows that start at 12 and later; the one at 8 ends before it
UNTOUCHED = 3 * STEP


def with_a_late_query(model, masked: bool) -> tuple[Tracks, Tracks]:
    early = some_queries(5, 4)
    track = tracker(model, masked=masked).track
    return track(VIDEO, early), track(VIDEO, np.vstack([early, [LATE, 20, 10]])).select(slice(5))


def test_masked_a_query_in_the_future_changes_nothing_in_the_present():
    without, with_late = with_a_late_query(SOCIAL_MODEL, masked=True)
    assert_same(without.between(0, UNTOUCHED), with_late.between(0, UNTOUCHED), 0)
    assert differs(without.between(UNTOUCHED, FRAMES), with_late.between(UNTOUCHED, FRAMES))


def test_masked_a_query_late_in_a_window_is_not_looked_at_before_its_frame():
    # one window, one iteration, and no attention along time after that across points: an answer before the
    # query's frame could only change by looking at the query there
    model = small_model(replace(TOGETHER, time_depth=1, space_depth=1, iterations=1))
    early, late = some_queries(5, 1), np.array([[5, 20, 10]], np.float32)
    for masked in (True, False):
        track = tracker(model, masked=masked).track
        one = track(VIDEO[:WINDOW], early)
        two = track(VIDEO[:WINDOW], np.vstack([early, late])).select(slice(5))
        change = np.abs(one.xy - two.xy).max(axis=(0, 2))  # a frame
        assert (change[5:] > ROUNDING_PX).all()
        assert (change[1:5] < 1e-5).all() if masked else (change[1:5] > ROUNDING_PX).all()


def test_in_official_form_a_query_in_the_future_changes_the_present():
    without, with_late = with_a_late_query(SOCIAL_MODEL, masked=False)
    assert differs(without.between(0, UNTOUCHED), with_late.between(0, UNTOUCHED))


def test_in_full_mode_all_points_look_at_each_other_always():
    some, others = (tracker(SOCIAL_MODEL, mode="full", masked=m).track(VIDEO, QUERIES) for m in (True, False))
    assert np.array_equal(some.xy, others.xy)


@pytest.mark.parametrize("masked", [True, False])
def test_points_that_do_not_look_at_each_other_never_influence_each_other(masked):
    without, with_late = with_a_late_query(MODEL, masked=masked)
    assert_same(without, with_late)


# ---- groups of points


def budget_for(model, points: int, walking: int = 10**6) -> int:
    """Bytes with which about so many points are refined at once in windowed mode."""
    costs = measure_costs(Runner(model, CPU), SIZE)
    held = 2 * WINDOW * costs.frame
    descriptions = 2 * min(len(QUERIES), walking) * costs.point
    return held + descriptions + max((FIXED_POINTS + points) * WINDOW * costs.pair, costs.encoding)


@both_modes
@both_models
def test_the_order_of_queries_does_not_matter(mode, model):
    order = np.random.default_rng(0).permutation(len(QUERIES))
    tracks = tracker(model, mode=mode).track(VIDEO, QUERIES, direction="both")
    shuffled = tracker(model, mode=mode).track(VIDEO, QUERIES[order], direction="both")
    assert_same(tracks.select(order), shuffled)


def sizes_of_refinements(model, monkeypatch) -> list[int]:
    sizes = []
    iterate = model.iterate

    def noting(features, points, *args, **options):
        sizes.append(len(points))
        return iterate(features, points, *args, **options)

    monkeypatch.setattr(model, "iterate", noting)
    return sizes


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_batches_of_points_change_nothing_where_points_do_not_look_at_each_other(monkeypatch, direction):
    whole = tracker().track(VIDEO, QUERIES, direction=direction)
    sizes = sizes_of_refinements(MODEL, monkeypatch)
    small = tracker(memory_budget=budget_for(MODEL, 3)).track(VIDEO, QUERIES, direction=direction)
    assert 1 <= max(sizes) < len(QUERIES)
    assert_same(whole, small)


def test_batches_of_points_change_answers_where_points_look_at_each_other(monkeypatch):
    whole = tracker(SOCIAL_MODEL).track(VIDEO, QUERIES)
    small = tracker(SOCIAL_MODEL, memory_budget=budget_for(SOCIAL_MODEL, 3)).track(VIDEO, QUERIES)
    assert differs(whole, small)


def test_equal_queries_get_equal_answers():
    tracks = tracker(SOCIAL_MODEL).track(VIDEO, np.repeat(QUERIES[:2], 2, axis=0), direction="both")
    assert_same(tracks.select([0, 2]), tracks.select([1, 3]), 1e-5)


def test_no_queries_give_no_tracks():
    tracks = tracker().track(VIDEO, Queries())
    assert tracks.xy.shape == (0, FRAMES, 2)
    assert len(tracks.seconds) == FRAMES


def test_a_hundred_thousand_queries_stay_in_the_memory_budget(monkeypatch):
    model = small_model(replace(ALONE, iterations=1, levels=1, window=2, step=1))
    sizes = sizes_of_refinements(model, monkeypatch)
    tracks = tracker(model, memory_budget="200MB").track(moving_noise(2), some_queries(100_000, 1))
    assert tracks.xy.shape == (100_000, 2, 2)
    assert sum(sizes) == 100_000
    assert max(sizes) < 20_000
    assert np.isfinite(tracks.xy).all()


# ---- support points


@pytest.mark.parametrize("options", [{"support_grid": 3}, {"per_query": True}], ids=str)
def test_support_points_are_company_that_is_not_returned(options):
    for model, changes in ((MODEL, False), (SOCIAL_MODEL, True)):
        plain = tracker(model).track(VIDEO[:12], FEW, direction="both")
        supported = tracker(model, **options).track(VIDEO[:12], FEW, direction="both")
        assert len(supported) == len(FEW)
        assert differs(plain, supported) == changes


@both_modes
def test_a_query_that_is_tracked_alone_does_not_notice_the_others(mode):
    track = tracker(SOCIAL_MODEL, mode=mode, per_query=True).track
    all_at_once = track(VIDEO[:12], FEW, direction="both")
    one_by_one = Tracks.join([track(VIDEO[:12], query[None], direction="both") for query in FEW])
    assert_same(all_at_once, one_by_one, 0)


# ---- features are computed once


def test_full_mode_forgets_what_points_look_like_once_they_are_tracked(monkeypatch):
    describe = MODEL.describe
    described, alive = [], []

    def noting(features, queries):
        alive.append(sum(support() is not None for support in described))
        points = describe(features, queries)
        described.append(weakref.ref(points.support[0]))
        return points

    monkeypatch.setattr(MODEL, "describe", noting)
    tracker(mode="full", per_query=True).track(VIDEO[:5], some_queries(5, 1))
    assert max(alive) <= 1


def frames_encoded(model, monkeypatch) -> list[int]:
    frames = []
    encode = model.encode

    def noting(tensor, start=0):
        frames.extend(range(start, start + tensor.shape[1]))
        return encode(tensor, start)

    monkeypatch.setattr(model, "encode", noting)
    return frames


@pytest.mark.parametrize(
    ("direction", "options"),
    [
        ("forward", {"memory_budget": budget_for(MODEL, 1)}),
        ("both", {}),
        ("both", {"mode": "full"}),
        ("both", {"per_query": True}),
        ("forward", {"per_query": True}),
        ("forward", {"step": 1}),
    ],
    ids=str,
)
def test_each_frame_is_read_and_encoded_once(direction, options, monkeypatch):
    video = CountingVideo(VIDEO)
    runner = tracker(**options)
    runner.track(video, [[0, 5, 5]])  # once, for the blank frame that the memory plan is made with
    video.read.clear()
    encoded = frames_encoded(MODEL, monkeypatch)
    runner.track(video, [[0, 4, 5], [20, 30, 7]], direction=direction)
    assert sorted(video.read) == list(range(FRAMES))
    assert sorted(encoded) == list(range(FRAMES))


def test_frames_before_every_query_are_not_even_read():
    video = CountingVideo(VIDEO)
    tracker().track(video, [[20, 5, 5]])
    assert min(video.read) == 16  # the first window that reaches frame 20 starts there: 16..23
    video.read.clear()
    tracker().track(video, [[0, 5, 5]], direction="backward")
    assert video.read == []  # nothing comes before frame 0


def test_a_budget_too_small_for_all_features_encodes_frames_again_on_the_way_back():
    video = CountingVideo(VIDEO)
    ends = [[0, 4, 5], [FRAMES - 1, 30, 7]]
    small = tracker(memory_budget=budget_for(MODEL, 1)).track(video, ends, direction="both")
    assert sorted(video.read) == sorted([*range(FRAMES), *range(FRAMES)])
    assert_same(small, tracker().track(VIDEO, ends, direction="both"))


# ---- sizes


def test_videos_of_different_sizes_in_one_call_give_the_same_as_one_by_one():
    videos = [VIDEO, moving_noise(9, (61, 23)), moving_noise(12, (24, 24))]
    for model in (MODEL, SOCIAL_MODEL):
        together = tracker(model).track(videos, Queries.grid(3), direction="both")
        alone = [tracker(model).track(v, Queries.grid(3), direction="both") for v in videos]
        assert together == alone


def test_each_video_can_have_its_own_queries():
    queries = [QUERIES, Queries.points([[8, 1, 2]])]
    tracks = tracker().track([VIDEO, moving_noise(9)], queries)
    assert [len(t) for t in tracks] == [7, 1]
    with pytest.raises(OptionError, match="2 videos"):
        tracker().track([VIDEO, VIDEO], [QUERIES])
    assert tracker().track([], Queries.grid(2)) == []


@both_modes
@pytest.mark.parametrize("resize", ["stretch", "fit"])
@pytest.mark.parametrize(("frames", "size"), [(1, (1, 1)), (3, (1, 1)), (1, SIZE), (2, (1, 30)), (2, (30, 2))], ids=str)
def test_the_smallest_videos_have_tracks(mode, resize, frames, size):
    model = small_model(replace(ALONE, resize=resize))
    tracks = tracker(model, mode=mode).track(np.full((frames, size[1], size[0], 3), 7, np.uint8), [[0, 0, 0]])
    assert tracks.xy.shape == (1, frames, 2)
    assert tracks.xy[0, 0].tolist() == [0, 0]
    assert np.isfinite(tracks.xy).all()


def test_frames_that_a_model_cannot_divide_are_refused():
    with pytest.raises(OptionError, match="do not divide"):
        tracker(small_model(replace(ALONE, resize="as_is"))).track(moving_noise(3, (41, 32)), [[0, 1, 1]])


@pytest.mark.parametrize("frames", [2, 5, WINDOW - 1])
def test_a_video_shorter_than_the_window_is_one_whose_last_frame_lasts(frames):
    short = VIDEO[:frames]
    lasting = np.concatenate([short, np.repeat(short[-1:], WINDOW - frames, axis=0)])
    queries = some_queries(4, frames)
    assert_same(tracker().track(short, queries), tracker().track(lasting, queries).between(0, frames), 1e-5)


def test_an_empty_video_has_no_frame_for_a_query():
    with pytest.raises(QueryError, match="0 frames"):
        tracker().track(CountingVideo(VIDEO[:0]), [[0, 1, 1]])
    with pytest.raises(VideoError, match="no frames"):
        tracker().track(VIDEO[:0], [[0, 1, 1]])


# ---- damaged files


@pytest.mark.parametrize("fault", [9, 12, 17, 20, 21])
def test_a_video_that_turns_out_to_be_shorter_gives_the_tracks_of_the_shorter_video(fault):
    early = some_queries(4, 6)
    for options in ({}, {"mode": "full"}):
        tracks = tracker(**options).track(CountingVideo(VIDEO, fault=fault), early)
        assert tracks.frames == fault
        assert_same(tracks, tracker(**options).track(VIDEO[:fault], early), 1e-5)


def test_a_video_that_turns_out_to_be_shorter_is_tracked_both_ways():
    early = some_queries(4, 6)
    tracks = tracker().track(CountingVideo(VIDEO, fault=17), early, direction="both")
    assert_same(tracks, tracker().track(VIDEO[:17], early, direction="both"))
    one_way_at_a_time = tracker(memory_budget=budget_for(MODEL, 1))
    tracks = one_way_at_a_time.track(CountingVideo(VIDEO, fault=17), early, direction="both")
    assert_same(tracks, tracker().track(VIDEO[:17], early, direction="both"))


def test_a_video_that_turns_out_to_end_before_its_queries_is_an_error():
    with pytest.raises(VideoError, match="only 5 frames"):
        tracker().track(CountingVideo(VIDEO, fault=5), [[20, 1, 1]])
    with pytest.raises(VideoError, match="only 20 frames"):
        tracker().track(
            CountingVideo(VIDEO, fault=20),
            [[26, 1, 1]],
            direction="backward",
        )


# ---- progress, precision, gradients


@pytest.mark.parametrize("options", [{}, {"mode": "full"}, {"per_query": True}], ids=str)
def test_progress_grows_from_nothing_to_all(options):
    shares = []
    tracker(**options).track([VIDEO[:12], VIDEO[:12]], Queries.points(FEW), direction="both", progress=shares.append)
    assert len(shares) > 4
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.5
    assert shares[-1] == 1
    assert 0.5 in shares


def test_bfloat16_is_near_and_keeps_positions_in_float32():
    model = small_model(ALONE)
    exact = tracker(model).track(VIDEO, QUERIES)
    quick = tracker(model, dtype=torch.bfloat16).track(VIDEO, QUERIES)
    error = np.abs(exact.xy - quick.xy)
    assert 0 < np.median(error) < 1
    assert (quick.xy % 0.25 != 0).mean() > 0.5  # 8 bits of a bfloat16 would be quarters above 32
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_model_in_double_precision_tracks_in_double_precision():
    single = tracker(small_model(TOGETHER)).track(VIDEO, QUERIES)
    double = tracker(small_model(TOGETHER).double()).track(VIDEO, QUERIES)
    assert_same(single, double, 1e-2)


def test_a_model_in_training_can_be_tracked_with():
    model = small_model(ALONE).requires_grad_(True).train()
    assert_same(tracker(model).track(VIDEO, QUERIES), tracker().track(VIDEO, QUERIES), 0)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


# ---- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "online"}, "modes windowed, full"),
        ({"step": 0}, r"1\.\.4"),
        ({"step": 5}, r"1\.\.4"),
        ({"step": 2, "mode": "full"}, "one window"),
        ({"iterations": 0}, "1 or more"),
        ({"support_grid": -1}, "0 or more"),
        ({"support_grid": 2, "per_query": True}, "own support"),
        ({"memory_budget": "lots"}, "'4GB'"),
        ({"memory_budget": 0}, "'4GB'"),
        ({"dtype": torch.int8}, "bfloat16"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        tracker(**options)


def test_an_unknown_device_is_refused():
    with pytest.raises(OptionError, match="no device 'gpu'"):
        Tracker(MODEL, device="gpu")


def test_an_unknown_direction_is_refused():
    with pytest.raises(OptionError, match="'sideways'"):
        tracker().track(VIDEO, QUERIES, direction="sideways")


def test_a_query_outside_the_video_is_refused_before_anything_is_read():
    video = CountingVideo(VIDEO)
    with pytest.raises(QueryError, match="frame 99"):
        tracker().track(video, [[99, 1, 1]])
    assert video.read == []
