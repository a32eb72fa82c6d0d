import itertools

import numpy as np
import pytest
import torch
from small_models import ALONE, LEADING_IN, STEP, TOGETHER, WINDOW, moving_noise, small_model, some_queries

from pointloom.errors import FormatError, OptionError, QueryError
from pointloom.models.cotracker3 import OFFLINE, CoTracker3Config
from pointloom.tracking.stream import Answer, Stream
from pointloom.tracking.tracker import Tracker
from pointloom.tracking.windows import walk
from pointloom.tracks import Tracks

# in double precision, so that rounding (a stream encodes one frame at a time, a tracker several) stays far below
EQUAL_PX = 1e-5
MODEL = small_model(ALONE).double()
SOCIAL_MODEL = small_model(TOGETHER).double()
LEADING_MODEL = small_model(LEADING_IN).double()
both_models = pytest.mark.parametrize("model", [MODEL, SOCIAL_MODEL], ids=["points alone", "points together"])
all_models = pytest.mark.parametrize(
    "model", [MODEL, SOCIAL_MODEL, LEADING_MODEL], ids=["points alone", "points together", "lead-in"]
)


def stream_on(model=MODEL, **options) -> Stream:
    return Stream(model, device="cpu", **options)


def answers_of(stream: Stream, frames) -> list[Answer]:
    return [answer for frame in frames for answer in stream.step(frame)]


def run(stream: Stream, frames, queries=()) -> list[Answer]:
    if len(queries):
        stream.add(queries)
    return answers_of(stream, frames) + stream.close()


def assert_answers_are(answers: list[Answer], tracks: Tracks) -> None:
    """Each frame is answered once, in order, for the points that have begun, as in the tracks."""
    assert [answer.frame for answer in answers] == list(range(tracks.frames))
    for answer in answers:
        begun = np.flatnonzero(tracks.query[:, 0] <= answer.frame)
        assert answer.ids.tolist() == begun.tolist()
        np.testing.assert_allclose(answer.xy, tracks.xy[begun, answer.frame], atol=EQUAL_PX)
        np.testing.assert_allclose(answer.visibility, tracks.visibility[begun, answer.frame], atol=EQUAL_PX)
        np.testing.assert_allclose(answer.confidence, tracks.confidence[begun, answer.frame], atol=EQUAL_PX)


def assert_same_answers(some: list[Answer], others: list[Answer], tolerance: float = 0) -> None:
    assert [a.frame for a in some] == [b.frame for b in others]
    for a, b in zip(some, others, strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        np.testing.assert_allclose(a.xy, b.xy, atol=tolerance)
        np.testing.assert_allclose(a.visibility, b.visibility, atol=tolerance)


# ---- final answers


@pytest.mark.parametrize(
    ("model", "masked"),
    [(MODEL, True), (SOCIAL_MODEL, True), (SOCIAL_MODEL, False), (LEADING_MODEL, True)],
    ids=["points alone", "points together", "official", "lead-in"],
)
@pytest.mark.parametrize(
    ("frames", "step"), [(1, STEP), (3, 2), (STEP, STEP), (8, 3), (9, STEP), (12, STEP), (15, 1), (22, 3), (22, STEP)]
)
def test_final_answers_are_those_of_the_tracker(model, masked, frames, step):
    video, queries = moving_noise(frames), some_queries(5, frames)
    answers = run(stream_on(model, step=step, masked=masked, answer="final"), video, queries)
    assert_answers_are(answers, Tracker(model, step=step, masked=masked, device="cpu").track(video, queries))


@all_models
def test_points_that_are_added_on_the_way_are_tracked_as_if_they_had_been_known(model):
    video = moving_noise(43)
    queries = np.array([[0, 5, 5], [0, 30, 20], [7, 9, 28], [30, 20, 10], [30, 8, 8], [41, 3, 3]], np.float32)
    stream = stream_on(model, answer="final")
    answers = []
    for t, frame in enumerate(video):
        now = queries[queries[:, 0] == t]
        if len(now):
            stream.add(now[:, 1:])
        answers += stream.step(frame)
    assert_answers_are(answers + stream.close(), Tracker(model, device="cpu").track(video, queries))


@pytest.mark.parametrize("step", [1, 3, STEP])
def test_a_final_answer_comes_after_less_than_a_window(step):
    stream = stream_on(step=step, answer="final")
    for received, frame in enumerate(moving_noise(30), start=1):
        for answer in stream.step(frame):
            assert WINDOW - step <= received - 1 - answer.frame <= WINDOW - 1


def test_a_point_that_is_added_after_the_last_window_is_answered_at_the_end():
    stream = stream_on(answer="final")
    answers = answers_of(stream, moving_noise(12))
    (late,) = stream.add([[10, 20, 10]])
    assert [(a.frame, late in a.ids) for a in answers + stream.close()][8:] == [
        (8, False),
        (9, False),
        (10, True),
        (11, True),
    ]


# ---- newest answers


@pytest.mark.parametrize("model", [MODEL, LEADING_MODEL], ids=["no lead-in", "lead-in"])
@pytest.mark.parametrize("step", [1, 2, 3, STEP])
@pytest.mark.parametrize("frames", [1, 7, 8, 19])
def test_newest_answers_every_frame_once_and_at_most_step_minus_one_frames_late(model, step, frames):
    stream = stream_on(model, step=step)
    stream.add([[5, 5]])
    answered = []
    for t, frame in enumerate(moving_noise(frames)):
        answered += [answer.frame for answer in stream.step(frame)]
        assert len(answered) >= t + 1 - (step - 1)
    answered += [answer.frame for answer in stream.close()]
    assert answered == list(range(frames))


@both_models
@pytest.mark.parametrize("step", [3, STEP])
def test_newest_answers_are_those_of_the_first_window_that_sees_a_frame(model, step):
    video, queries = moving_noise(WINDOW + 3 * step), some_queries(4, 1)
    answers = run(stream_on(model, step=step), video, queries)
    features = model.encode(torch.from_numpy(video[None]))
    points = model.describe(features, torch.from_numpy(queries)[None].double())
    for done in itertools.islice(walk(model, features, points, window=WINDOW, step=step, masked=True), 1, None):
        for frame in range(done.start + WINDOW - step, done.start + WINDOW):
            np.testing.assert_allclose(answers[frame].xy, done.result.xy[0, frame - done.start], atol=EQUAL_PX)


@both_models
def test_the_first_answers_are_those_of_a_video_that_ends_there(model):
    video, queries = moving_noise(WINDOW), some_queries(4, 1)
    stream = stream_on(model, step=2)
    stream.add(queries)
    answers = []
    for received, frame in enumerate(video, start=1):
        new = stream.step(frame)
        if new:
            tracks = Tracker(model, device="cpu").track(video[:received], queries)
            for answer in new:
                np.testing.assert_allclose(answer.xy, tracks.xy[:, answer.frame], atol=EQUAL_PX)
        answers += new
    assert len(answers) == WINDOW


def test_with_a_lead_in_the_first_answers_are_those_of_a_video_that_ends_there_too():
    video, queries = moving_noise(WINDOW + 2), some_queries(4, 1)
    answers = run(stream_on(LEADING_MODEL, step=2), video, queries)
    for last in (1, 3, 5):
        tracks = Tracker(LEADING_MODEL, step=2, device="cpu").track(video[: last + 1], queries)
        for frame in (last - 1, last):
            np.testing.assert_allclose(answers[frame].xy, tracks.xy[:, frame], atol=EQUAL_PX)


def test_the_windows_at_the_beginning_leave_no_trace():
    video, queries = moving_noise(20), some_queries(4, 1)
    newest, final = stream_on(step=2), stream_on(step=2, answer="final")
    for stream in (newest, final):
        stream.add(queries)
        answers_of(stream, video)
    assert torch.equal(newest.state.walk.previous.xy, final.state.walk.previous.xy)


# ---- points come and go


@pytest.mark.parametrize("answer", ["newest", "final"])
def test_a_point_added_at_frame_30_is_returned_from_frame_30_on(answer):
    stream = stream_on(answer=answer, step=3)
    stream.add([[5, 5]])
    video = moving_noise(40)
    answers = answers_of(stream, video[:30])
    (late,) = stream.add([[20.25, 10]])
    answers += run(stream, video[30:])
    assert [a.frame for a in answers if late in a.ids] == list(range(30, 40))
    first = answers[30]
    assert first.xy[first.ids == late].tolist() == [[20.25, 10]]
    assert first.visibility[first.ids == late] == 1
    assert first.confidence[first.ids == late] == 1
    assert answers[31].visibility[answers[31].ids == late] < 1


def test_a_point_can_wait_for_a_frame_to_come():
    answers = run(stream_on(), moving_noise(20), [[13, 5, 5]])
    assert [a.frame for a in answers if len(a.ids)] == list(range(13, 20))
    assert answers[13].xy.tolist() == [[5, 5]]


def test_a_point_can_begin_in_a_frame_that_was_seen_already():
    stream = stream_on(step=2)
    video = moving_noise(20)
    answers = answers_of(stream, video[:12])  # windows began at 0, 2, 4; the next one begins at 6
    stream.add([[7, 5, 5]])
    answers += run(stream, video[12:])
    assert [a.frame for a in answers if len(a.ids)] == list(range(12, 20))
    window = Tracker(MODEL, device="cpu").track(video[6:14], [[1, 5, 5]])  # the first one that knows it
    for frame in (12, 13):
        np.testing.assert_allclose(answers[frame].xy, window.xy[:, frame - 6], atol=EQUAL_PX)


def test_a_frame_that_is_no_longer_at_hand_is_refused_with_the_oldest_one():
    stream = stream_on(step=2)
    answers_of(stream, moving_noise(12))
    with pytest.raises(QueryError, match=r"query 1 starts in frame 5.*oldest frame is 6"):
        stream.add([[6, 5, 5], [5, 5, 5]])


@both_models
def test_a_removed_point_is_gone_and_its_id_is_not_used_again(model):
    stream = stream_on(model)
    ids = stream.add([[5, 5], [20, 10], [30, 20]])
    answers_of(stream, moving_noise(10))
    stream.remove(ids[1])
    answers = answers_of(stream, moving_noise(12))
    assert {tuple(a.ids) for a in answers} == {(0, 2)}
    assert stream.add([[1, 1]]).tolist() == [3]


def test_removing_a_point_changes_nothing_for_points_that_do_not_look_at_it():
    video, queries = moving_noise(24), [[5, 5], [20, 10]]
    stream = stream_on()
    stream.add(queries)
    answers = answers_of(stream, video[:10])
    stream.remove([1])
    answers += run(stream, video[10:])
    alone = run(stream_on(), video, queries[:1])
    for a, b in zip(answers, alone, strict=True):
        np.testing.assert_allclose(a.xy[a.ids == 0], b.xy, atol=EQUAL_PX)


def test_a_point_that_waits_can_be_removed():
    stream = stream_on()
    stream.add([[9, 5, 5]])
    stream.remove([0])
    assert all(len(a.ids) == 0 for a in run(stream, moving_noise(16)))


def test_all_points_can_be_removed_and_others_added():
    video = moving_noise(40)
    stream = stream_on()
    stream.add([[5, 5], [6, 6]])
    answers_of(stream, video[:14])
    stream.remove([0, 1])
    answers_of(stream, video[14:20])
    stream.add([[20, 10]])
    answers = run(stream, video[20:])
    fresh = run(stream_on(), video, [[20, 20, 10]])
    assert_same_answers(
        [Answer(a.frame, a.ids * 0, a.xy, a.visibility, a.confidence) for a in answers if a.frame >= 20],
        fresh[20:],
        EQUAL_PX,
    )


def test_removing_an_unknown_point_is_refused():
    stream = stream_on()
    stream.add([[5, 5]])
    with pytest.raises(QueryError, match="no point with id 4"):
        stream.remove([0, 4])
    stream.remove([0])
    with pytest.raises(QueryError, match="no point with id 0"):
        stream.remove(0)


def test_without_points_every_frame_has_an_empty_answer():
    answers = run(stream_on(step=2), moving_noise(11))
    assert [a.frame for a in answers] == list(range(11))
    assert {(a.ids.shape, a.xy.shape, a.visibility.shape) for a in answers} == {((0,), (0, 2), (0,))}


def test_masked_a_point_to_come_changes_nothing_before_its_window():
    video, early = moving_noise(24), some_queries(4, 1)
    for masked, same in ((True, True), (False, False)):
        stream, knowing = stream_on(SOCIAL_MODEL, masked=masked), stream_on(SOCIAL_MODEL, masked=masked)
        knowing.add(np.vstack([early, [[17, 20, 10]]]))
        stream.add(early)
        some, others = answers_of(stream, video[:16]), answers_of(knowing, video[:16])
        change = max(np.abs(a.xy - b.xy).max() for a, b in zip(some, others, strict=True))
        assert (change < EQUAL_PX) == same


# ---- state


def test_each_frame_is_encoded_once(monkeypatch):
    encoded = []
    encode = MODEL.encode

    def noting(frames, start=0):
        encoded.extend(range(start, start + frames.shape[1]))
        return encode(frames, start)

    monkeypatch.setattr(MODEL, "encode", noting)
    run(stream_on(step=1), moving_noise(20), [[5, 5]])
    assert encoded == list(range(20))


def bytes_in(value) -> int:
    if isinstance(value, torch.Tensor):
        return value.untyped_storage().nbytes()
    if isinstance(value, dict):
        return sum(map(bytes_in, value.values()))
    return sum(map(bytes_in, value)) if isinstance(value, list | tuple) else 0


def test_a_stream_does_not_grow():
    stream = stream_on(small_model(ALONE), iterations=1)
    sizes = []
    for t, frame in enumerate(itertools.islice(itertools.cycle(moving_noise(32)), 300)):
        if t % 10 == 0:
            stream.add([[5, 5]])
        if t >= 50 and t % 10 == 0:
            stream.remove([t // 10 - 5])
        stream.step(frame)
        sizes.append(bytes_in(stream.state_dict()))
    assert max(sizes[100:]) <= max(sizes[:100])
    assert len(stream.state.frames) <= WINDOW


@both_models
def test_two_streams_on_one_model_do_not_influence_each_other(model):
    videos = [moving_noise(21), moving_noise(21, (23, 37), seed=5)]
    queries = [[[5, 5], [20, 10]], [[9, 9]]]
    streams = [stream_on(model, step=2), stream_on(model, step=3)]
    together = [[], []]
    for s, q in zip(streams, queries, strict=True):
        s.add(q)
    for frames in zip(*videos, strict=True):
        for k, frame in enumerate(frames):
            together[k] += streams[k].step(frame)
    for k, step in enumerate((2, 3)):
        assert_same_answers(together[k] + streams[k].close(), run(stream_on(model, step=step), videos[k], queries[k]))


@all_models
@pytest.mark.parametrize("at", [0, 3, 8, 13])
def test_a_kept_state_can_be_returned_to(model, at):
    video = moving_noise(22)
    stream = stream_on(model, step=3)
    stream.add([[0, 5, 5], [15, 20, 10]])
    answers_of(stream, video[:at])
    kept = stream.state
    stream.add([[7, 7]])
    once = run(stream, video[at:])
    stream.state = kept
    stream.add([[7, 7]])
    assert_same_answers(once, run(stream, video[at:]))


@all_models
@pytest.mark.parametrize("at", [0, 3, 8, 13])
def test_a_state_can_be_saved_and_loaded_into_another_stream(model, at, tmp_path):
    video = moving_noise(22)
    stream = stream_on(model, step=3)
    stream.add([[0, 5, 5], [15, 20, 10]])
    answers_of(stream, video[:at])
    torch.save(stream.state_dict(), tmp_path / "state.pt")
    other = stream_on(model, step=3)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.add([[7, 7]]).tolist() == stream.add([[7, 7]]).tolist() == [2]
    assert_same_answers(run(stream, video[at:]), run(other, video[at:]))


def test_a_state_of_another_kind_is_refused():
    saved = stream_on(step=2).state_dict()
    with pytest.raises(OptionError, match="step 2"):
        stream_on(step=3).load_state_dict(saved)
    with pytest.raises(FormatError, match="format 9"):
        stream_on(step=2).load_state_dict({**saved, "format": 9})


def test_after_a_reset_a_stream_is_as_new():
    stream = stream_on()
    first = run(stream, moving_noise(13), [[5, 5]])
    stream.reset()
    assert_same_answers(run(stream, moving_noise(13), [[5, 5]]), first)


# ---- refusals


def test_a_closed_stream_takes_no_frames():
    stream = stream_on()
    assert stream.close() == []
    assert stream.close() == []
    with pytest.raises(OptionError, match=r"reset\(\)"):
        stream.step(moving_noise(1)[0])


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((1, 4, 4, 3), np.uint8),
        None,
    ],
    ids=["grey", "with alpha", "floats", "a batch", "none"],
)
def test_what_is_no_frame_is_refused(frame):
    with pytest.raises(OptionError, match="uint8 array"):
        stream_on().step(frame)


def test_a_frame_of_another_size_is_refused_and_the_stream_goes_on():
    stream = stream_on()
    stream.add([[5, 5]])
    answers_of(stream, moving_noise(3))
    with pytest.raises(OptionError, match="40 x 32 pixels, frame 3 has 24 x 24"):
        stream.step(moving_noise(1, (24, 24))[0])
    stream.step(moving_noise(4)[3])
    assert stream.state.received == 4


def test_a_read_only_frame_is_taken():
    frame = moving_noise(1)[0]
    frame.flags.writeable = False
    stream_on().step(frame)


def test_a_tensor_is_taken():
    stream = stream_on(step=1)
    assert [a.frame for a in stream.step(torch.from_numpy(moving_noise(1)[0]))] == [0]


@pytest.mark.parametrize(
    ("point", "message"),
    [([np.nan, 3], "not three numbers"), ([41, 3], "outside the frame of 40 x 32"), ([-1, 2, 2], "frame -1")],
    ids=str,
)
def test_a_point_that_cannot_be_tracked_is_refused(point, message):
    stream = stream_on()
    stream.step(moving_noise(1)[0])
    with pytest.raises(QueryError, match=message):
        stream.add([point])
    assert stream.state.next_id == 0


def test_a_point_outside_is_noticed_with_the_first_frame():
    stream = stream_on()
    stream.add([[5, 5], [41, 3]])
    with pytest.raises(QueryError, match=r"query 1 .*outside the frame of 40 x 32"):
        stream.step(moving_noise(1)[0])
    stream.remove([1])
    stream.step(moving_noise(1)[0])


def test_no_points_can_be_added():
    assert stream_on().add(np.zeros((0, 2))).tolist() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0}, r"1\.\.4"),
        ({"step": 5}, r"1\.\.4"),
        ({"answer": "fast"}, "'newest' or 'final'"),
        ({"iterations": 0}, "1 or more"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        stream_on(**options)


def test_a_model_that_sees_whole_videos_only_cannot_stream():
    config = CoTracker3Config(**{**vars(ALONE), "modes": OFFLINE.modes})
    with pytest.raises(OptionError, match="only the mode full"):
        stream_on(small_model(config))


def test_an_answer_says_what_counts_as_seen():
    answer = Answer(0, np.arange(2), np.zeros((2, 2)), np.array([0.95, 0.95]), np.array([0.9, 0.1]))
    assert answer.seen().tolist() == [True, False]
    assert answer.seen("cotracker3-offline").tolist() == [True, True]
