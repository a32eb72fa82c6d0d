"""Causal models: a video in spans, a stream frame by frame, and what is remembered from one to the next."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from causal_models import PER_FRAME_PX, SHARED_LOGIT, Counter, CounterConfig
from small_models import CountingVideo, moving_noise, some_queries

from golden_cases import load
from pointloom.errors import FormatError, OptionError, QueryError, VideoError
from pointloom.geometry import from_raster, to_raster
from pointloom.models.base import Estimate, Memory
from pointloom.tracking.causal import causal_spans
from pointloom.tracking.memory import Costs, measure_costs, plan_memory
from pointloom.tracking.runner import Runner
from pointloom.tracking.stream import Answer, Stream
from pointloom.tracking.tracker import Tracker
from pointloom.tracks import Tracks
from tapir_cases import SINGLE, SMALL_CAUSAL, Weights, small_tapir

CPU = torch.device("cpu")
EQUAL_PX = 1e-5  # double precision; tracks are written in single precision
MODEL = small_tapir(SMALL_CAUSAL)
FRAMES = 21
VIDEO = moving_noise(FRAMES)
QUERIES = np.array([[3, 5, 9], [3, 20.5, 3], [9, 30, 20], [18, 12, 12], [20, 1, 1]], np.float32)


def expit(logit):
    return 1 / (1 + np.exp(-logit))


def counter(*, shared: bool = True) -> Counter:
    return Counter(CounterConfig(shared))


def tracker(model=MODEL, **options) -> Tracker:
    return Tracker(model, device="cpu", **options)


def stream_on(model=MODEL, **options) -> Stream:
    return Stream(model, device="cpu", **options)


def assert_same(a: Tracks, b: Tracks) -> None:
    for name in ("xy", "visibility", "confidence"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=EQUAL_PX, rtol=0)


def assert_answers_are(answers: list[Answer], tracks: Tracks) -> None:
    """Each frame is answered once, in order, for the points that have begun, as in the tracks."""
    assert [answer.frame for answer in answers] == list(range(tracks.frames))
    for answer in answers:
        begun = np.flatnonzero(tracks.query[:, 0] <= answer.frame)
        assert answer.ids.tolist() == begun.tolist()
        for name in ("xy", "visibility", "confidence"):
            wanted = getattr(tracks, name)[begun, answer.frame]
            np.testing.assert_allclose(getattr(answer, name), wanted, atol=EQUAL_PX, rtol=0)


# ---- spans


@pytest.mark.parametrize(
    ("queries", "frames", "expected"),
    [
        ([0, 14], 25, [(0, 8), (8, 14), (14, 22), (22, 25)]),  # the picture in the module
        ([5, 5, 3], 9, [(3, 5), (5, 9)]),
        ([0], 1, [(0, 1)]),
        ([0, 30], 9, [(0, 8), (8, 9)]),  # of a video that turned out to be shorter
        ([9], 9, []),
        ([], 9, []),
    ],
    ids=str,
)
def test_spans_end_before_the_next_query_and_are_no_longer_than_can_be_worked_on(queries, frames, expected):
    assert causal_spans(queries, frames, most=8) == expected


# ---- whole videos


def test_each_point_begins_in_the_frame_of_its_query_and_is_remembered_from_there_on():
    model = counter()
    tracks = tracker(model).track(VIDEO, QUERIES)
    seen = np.arange(FRAMES) - 3 + 1  # the model sees its first frame with the first query
    age = np.arange(FRAMES) - QUERIES[:, :1] + 1
    later = age > 1
    expected = QUERIES[:, None, 1:] + age[..., None] * np.array(PER_FRAME_PX)
    np.testing.assert_allclose(tracks.xy[later], expected[later], atol=EQUAL_PX)
    sure = np.broadcast_to(expit(SHARED_LOGIT * seen), later.shape)
    np.testing.assert_allclose(tracks.visibility[later], sure[later], atol=EQUAL_PX)
    colour = np.broadcast_to(expit(VIDEO[:, 0, 0, 0] / 64), later.shape)
    np.testing.assert_allclose(tracks.confidence[later], colour[later], atol=EQUAL_PX)
    assert np.array_equal(tracks.xy[age == 1], QUERIES[:, 1:])
    assert (tracks.visibility[age < 1] == 0).all()


def test_every_frame_is_worked_on_once_with_the_points_that_have_begun():
    model = counter()
    tracker(model).track(VIDEO, QUERIES)
    del model.worked_on[0]  # what it costs, on a blank frame
    assert model.worked_on == [(3, 6, 2), (9, 8, 3), (17, 1, 3), (18, 2, 4), (20, 1, 5)]


def test_a_video_gives_what_its_frames_give_one_at_a_time():
    tracks = tracker().track(VIDEO, QUERIES)
    features = MODEL.encode(torch.from_numpy(VIDEO)[None])
    for k, query in enumerate(torch.from_numpy(QUERIES).double()):
        frame = int(query[0])
        points = MODEL.describe(features, query[None, None])
        memory = Memory()
        for t in range(frame, FRAMES):
            prior = replace(Estimate.at_queries(points.queries, 1), memory=memory)
            estimate = MODEL.refine(features.between(t, t + 1), points, prior)
            memory = estimate.memory
            if t > frame:
                np.testing.assert_allclose(tracks.xy[k, t], estimate.xy[0, 0, 0], atol=EQUAL_PX)
                np.testing.assert_allclose(tracks.visibility[k, t], estimate.visibility[0, 0, 0], atol=EQUAL_PX)


@pytest.mark.parametrize("direction", ["backward", "both"])
def test_a_walk_backwards_is_one_forward_through_the_reversed_video(direction):
    tracks = tracker().track(VIDEO, QUERIES, direction=direction)
    reversed_queries = QUERIES * [-1, 1, 1] + [FRAMES - 1, 0, 0]
    back = tracker().track(VIDEO[::-1].copy(), reversed_queries)
    forth = tracker().track(VIDEO, QUERIES)
    before = np.arange(FRAMES) < QUERIES[:, :1]
    np.testing.assert_allclose(tracks.xy[before], back.xy[:, ::-1][before], atol=EQUAL_PX)
    if direction == "both":
        np.testing.assert_allclose(tracks.xy[~before], forth.xy[~before], atol=EQUAL_PX)


def test_a_query_in_the_future_changes_nothing_in_the_present():
    for model in (MODEL, counter()):
        alone, together = (tracker(model).track(VIDEO, q) for q in (QUERIES[:2], QUERIES))
        np.testing.assert_allclose(together.xy[:2], alone.xy, atol=EQUAL_PX)
        np.testing.assert_allclose(together.visibility[:2], alone.visibility, atol=EQUAL_PX)


def test_groups_of_points_and_features_that_are_computed_again_change_nothing():
    frames, count, budget = 9, 150, 1_300_000
    video, queries = VIDEO[:frames], some_queries(count, frames)
    costs = measure_costs(Runner(MODEL, CPU), (40, 32), causal=True)
    options = {"full": False, "frames": frames, "window": 8, "points": count, "together": 1, "directions": 2}
    plan = plan_memory(budget, costs, **options)
    assert plan.points_a_walk < count
    assert not plan.keep_features
    few = tracker(memory_budget=budget)
    assert_same(few.track(video, queries, direction="both"), tracker().track(video, queries, direction="both"))


def test_frames_before_every_query_are_not_read():
    video = CountingVideo(VIDEO)
    tracker().track(video, QUERIES)
    assert video.read == list(range(3, FRAMES))


@pytest.mark.parametrize("fault", [10, 11, 12, 17])
@pytest.mark.parametrize("direction", ["forward", "both"])
def test_a_video_that_turns_out_to_be_shorter_gives_the_tracks_of_the_shorter_video(fault, direction):
    early = QUERIES[:3]
    tracks = tracker().track(CountingVideo(VIDEO, fault=fault), early, direction=direction)
    assert tracks.frames == fault
    assert_same(tracks, tracker().track(VIDEO[:fault], early, direction=direction))


def test_a_video_that_turns_out_to_end_before_its_queries_is_an_error():
    with pytest.raises(VideoError, match="only 5 frames"):
        tracker().track(CountingVideo(VIDEO, fault=5), [[19, 1, 1]])


def test_progress_grows_from_nothing_to_all():
    shares = []
    tracker(counter()).track(VIDEO, QUERIES, direction="both", progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert 0 < shares[0] < 0.5


def test_the_way_of_tracking_comes_with_the_tracks():
    options = tracker().track(VIDEO[:2], [[0, 1, 1]]).meta["options"]
    assert options["mode"] == "causal"
    assert "step" not in options


def test_a_causal_model_can_see_the_whole_video_at_once():
    """Then it puts points on their queries at first, which tells later frames more."""
    whole, walked = (tracker(mode=mode).track(VIDEO, QUERIES[:2]) for mode in ("full", "causal"))
    features = MODEL.encode(torch.from_numpy(VIDEO)[None])
    points = MODEL.describe(features, torch.from_numpy(QUERIES[None, :2]).double())
    np.testing.assert_allclose(whole.xy[:, 4:], MODEL.refine(features, points).xy[0].transpose(0, 1)[:, 4:], atol=1e-4)
    assert np.abs(whole.xy - walked.xy).max() > 1e-3


def test_a_step_is_for_windows():
    with pytest.raises(OptionError, match="in causal mode each frame is seen once"):
        tracker(step=1)
    with pytest.raises(OptionError, match="in causal mode each frame is seen once"):
        stream_on(step=1)


# ---- memory


def test_what_is_remembered_of_a_point_counts_twice():
    runner = Runner(MODEL, CPU)
    remembered = 2 * 2 * 2 * (16 + 32) * 8  # runs, blocks, frames, channels of both convolutions, bytes
    more = measure_costs(runner, (40, 32), causal=True).point - measure_costs(runner, (40, 32)).point
    assert more == 2 * remembered


def test_with_something_shared_points_walk_in_the_group_in_which_they_are_refined():
    plain = Costs(frame=1000, point=100, pair=1000, input=(8, 8))
    shared = replace(plain, shared=50_000)
    options = {"full": False, "frames": 50, "window": 8, "points": 1000, "together": 1, "directions": 1}
    plan = plan_memory(16_000 + 400_000, plain, **options)
    assert plan.points_a_walk > plan.points_at_once
    with_more = plan_memory(16_000 + 400_000 + 50_000, shared, **options)
    assert with_more.points_at_once == plan.points_at_once == with_more.points_a_walk
    assert measure_costs(Runner(counter(), CPU), (40, 32), causal=True).shared == 2 * 8


# ---- streams


@pytest.mark.parametrize("answer", ["newest", "final"])
@pytest.mark.parametrize("model", [MODEL, counter()], ids=["tapir", "counter"])
def test_a_stream_answers_each_frame_at_once_as_the_tracker_does(model, answer):
    stream = stream_on(model, answer=answer)
    stream.add(QUERIES)
    answers = []
    for t, frame in enumerate(VIDEO):
        (now,) = stream.step(frame)
        assert now.frame == t
        answers.append(now)
    assert stream.close() == []
    assert_answers_are(answers, tracker(model).track(VIDEO, QUERIES))


def test_points_that_are_added_on_the_way_are_tracked_as_if_they_had_been_known():
    for model in (MODEL, counter()):
        stream = stream_on(model)
        answers = []
        for t, frame in enumerate(VIDEO):
            now = QUERIES[QUERIES[:, 0] == t]
            if len(now):
                stream.add(now[:, 1:])
            answers += stream.step(frame)
        assert_answers_are(answers, tracker(model).track(VIDEO, QUERIES))


def test_a_frame_that_has_gone_by_is_refused():
    stream = stream_on(counter())
    stream.step(VIDEO[0])
    with pytest.raises(QueryError, match="oldest frame is 1"):
        stream.add([[0, 5, 5]])


def test_removing_a_point_keeps_what_is_remembered_of_the_others():
    for model in (MODEL, counter()):
        stream = stream_on(model)
        stream.add(QUERIES[:3])
        answers = [answer for frame in VIDEO[:12] for answer in stream.step(frame)]
        stream.remove([0])
        stream.add([[7, 7]])
        answers += [answer for frame in VIDEO[12:] for answer in stream.step(frame)]
        others = np.vstack([QUERIES[1:3], [[12, 7, 7]]]).astype(np.float32)
        tracks = tracker(model).track(VIDEO, others)
        for a in answers[12:]:
            assert a.ids.tolist() == [1, 2, 3]
            np.testing.assert_allclose(a.xy, tracks.xy[:, a.frame], atol=EQUAL_PX)


def test_with_all_points_removed_the_others_begin_with_nothing_remembered_of_them():
    stream = stream_on(counter())
    stream.add([[5, 5], [6, 6]])
    for frame in VIDEO[:4]:
        stream.step(frame)
    stream.remove([0, 1])
    for frame in VIDEO[4:6]:
        (answer,) = stream.step(frame)
        assert len(answer.ids) == 0
    stream.add([[10, 10]])
    stream.step(VIDEO[6])
    (answer,) = stream.step(VIDEO[7])
    np.testing.assert_allclose(answer.xy, [[10 + 2 * PER_FRAME_PX[0], 10 + 2 * PER_FRAME_PX[1]]])


@pytest.mark.parametrize("at", [0, 1, 5])
def test_a_saved_stream_goes_on_as_if_nothing_had_happened(at, tmp_path):
    for model in (MODEL, counter()):
        stream = stream_on(model)
        stream.add([[0, 5, 5], [0, 20, 10], [4, 9, 9]])
        for frame in VIDEO[:at]:
            stream.step(frame)
        torch.save(stream.state_dict(), tmp_path / "state.pt")
        other = stream_on(model)
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        for frame in VIDEO[at : at + 4]:
            (a,), (b,) = stream.step(frame), other.step(frame)
            assert a.ids.tolist() == b.ids.tolist()
            assert np.array_equal(a.xy, b.xy)
            assert np.array_equal(a.visibility, b.visibility)


def test_a_state_without_memory_is_refused():
    saved = stream_on(counter()).state_dict()
    del saved["previous"]["memory"]
    with pytest.raises(FormatError, match="format 1"):
        stream_on(counter()).load_state_dict({**saved, "format": 1})


def test_a_state_with_other_iterations_is_refused_with_the_next_frame():
    stream, other = stream_on(iterations=1), stream_on()
    stream.add([[5, 5]])
    stream.step(VIDEO[0])
    other.load_state_dict(stream.state_dict())
    with pytest.raises(OptionError, match="comes from 1 iterations, and these are 2"):
        other.step(VIDEO[1])


def test_a_stream_forgets_frames_that_it_has_answered():
    stream = stream_on()
    stream.add([[5, 5]])
    past = []
    for frame in VIDEO[:4]:
        stream.step(frame)
        past.append(weakref.ref(stream.state.walk.previous.memory.points[0].untyped_storage()))
        assert stream.state.frames == ()
        kept = stream.state.walk.previous.memory.points
        assert sum(rows.untyped_storage().nbytes() for rows in kept) == 2 * 2 * 2 * (16 + 32) * 8


# ---- the released network


def test_a_stream_and_a_tracker_give_the_answers_of_the_released_model():
    case = load("tapir", "causal_stream")
    model = Weights().model(case, torch.float32)
    video, at = case["video"][0], case.config["update_frame"]
    raster = case["query_points"][0][:, 2:0:-1]  # (t, y, x) -> (x, y)
    replaced = case.config["update_indices"]

    tracks = tracker(model).track(video, np.column_stack([np.zeros(len(raster)), from_raster(raster)]))
    plain = {key: case[f"plain_iter_{key}"][-1, 0] for key in ("tracks", "occlusion", "expected_dist")}
    np.testing.assert_allclose(to_raster(tracks.xy[:, 1:]), plain["tracks"][:, 1:], atol=SINGLE.pixels)
    np.testing.assert_allclose(tracks.visibility[:, 1:], expit(-plain["occlusion"][:, 1:]), atol=SINGLE.logit)
    np.testing.assert_allclose(tracks.confidence[:, 1:], expit(-plain["expected_dist"][:, 1:]), atol=SINGLE.logit)

    stream = stream_on(model)
    ids = stream.add(from_raster(raster))
    for t, frame in enumerate(video):
        if t == at:
            stream.remove(ids[replaced])
            ids[replaced] = stream.add(from_raster(case["update_query_points"][0][:, 2:0:-1]))
        (answer,) = stream.step(frame)
        row = {point: k for k, point in enumerate(answer.ids.tolist())}
        begun = [k for k in range(len(ids)) if t not in (0, at) or (t == at and k not in replaced)]
        found = np.array([answer.xy[row[int(ids[k])]] for k in begun]).reshape(-1, 2)
        np.testing.assert_allclose(to_raster(found), case["updated_iter_tracks"][-1, 0, begun, t], atol=SINGLE.pixels)
