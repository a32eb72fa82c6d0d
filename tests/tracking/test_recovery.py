"""Lost points are looked for where they should be, and taken where the model is sure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from small_models import Blind

from pointloom.errors import OptionError
from pointloom.models.base import Estimate, ModelInfo, PointFeatures
from pointloom.models.cotracker3 import OFFLINE, ONLINE, TINY, CoTracker3
from pointloom.tracking.recovery import LOST, NEIGHBOURS, Past, Sightings, Tries, best, sightings, tries, with_tries
from pointloom.tracking.stream import Stream
from pointloom.tracking.tracker import Tracker
from pointloom.tracks import Tracks

WINDOW, STEP = 8, 4
FRAMES = 32
SIZE = 320, 240
SURE, UNSURE = 3.0, -3.0  # logits

# ---- a model that sees no further than REACH_PX, on a plate that moves away

REACH_PX = 12.0
COVERED = range(6, 18)  # frames in which point 0 cannot be seen
QUERIES = np.array([[0, 60, 60], [0, 40, 60], [0, 60, 40], [0, 80, 60], [0, 60, 84]], np.float32)


@dataclass(frozen=True)
class PlateConfig:
    """`turn`: of the plate in a frame, in radians; `speed`: of its middle."""

    turn: float = 0.0
    speed: tuple[float, float] = (6.0, 2.0)
    recovers: bool = True


def on_plate(config: PlateConfig, xy: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
    """Where points of frame 0 are later; (..., 2) and (T,) give (T, ..., 2)."""
    middle = torch.tensor([60.0, 60.0], dtype=xy.dtype)
    angle = (frame * config.turn).to(xy.dtype)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2)
    moved = torch.einsum("tij,...j->t...i", turn, xy - middle)
    going = frame[:, None].to(xy.dtype) * torch.tensor(config.speed, dtype=xy.dtype)
    return moved + middle + going.view(-1, *[1] * (xy.ndim - 1), 2)


class Plate(Blind):
    """Finds a point where it starts near it, and follows it until it is covered; else leaves it, and says so.

    The first point is covered for a while.
    """

    def __init__(self, config: PlateConfig) -> None:
        super().__init__(config)
        self.refined: list[int] = []  # points

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(
            "Plate",
            ("windowed", "full"),
            WINDOW,
            STEP,
            1,
            ("visibility", "confidence"),
            1,
            "none",
            "none",
            "none",
            recovers=self.config.recovers,
        )

    def iterate(self, features, points, prior=None, *, iterations=None, attended=None):
        self.refined.append(len(points))
        frame = features.start + torch.arange(len(features))
        home = points.support[0][0, :, 0, 0]  # (N, 2)
        truth = on_plate(self.config, home, frame)[None]
        first = (home == torch.from_numpy(QUERIES[0, 1:])).all(-1)
        covered = torch.tensor([int(t) in COVERED for t in frame])[:, None] & first
        near = (prior.xy - truth).norm(dim=-1) < REACH_PX
        found = near & ~covered
        for t in range(1, len(frame)):
            found[:, t] |= found[:, t - 1] & ~covered[t]
        xy = torch.where(found[..., None], truth, prior.xy)
        sure = torch.where(found, SURE, UNSURE)
        yield Estimate(xy, sure, sure)


def on_the_plate(config: PlateConfig, **options) -> tuple[Tracks, np.ndarray, Plate]:
    """Track the plate's points, and return also the truth (N, T, 2)."""
    model = Plate(config)
    video = np.zeros((FRAMES, SIZE[1], SIZE[0], 3), np.uint8)
    tracks = Tracker(model, device="cpu", **options).track(video, QUERIES)
    truth = on_plate(config, torch.tensor(QUERIES[:, 1:]), torch.arange(FRAMES)).transpose(0, 1).numpy()
    return tracks, truth, model


def test_a_point_that_was_covered_while_everything_moved_on_is_found_where_its_neighbours_went():
    left, truth, _ = on_the_plate(PlateConfig(), recover=False)
    found, _, _ = on_the_plate(PlateConfig(), recover=True)
    after = slice(COVERED.stop, None)
    assert not left.seen()[0, after].any()
    assert found.seen()[0, after].all()
    np.testing.assert_allclose(found.xy[0, after], truth[0, after], atol=1e-3)
    for tracks in (left, found):  # the others were never lost
        np.testing.assert_allclose(tracks.xy[1:], truth[1:], atol=1e-3)


def test_neighbours_that_turn_say_where_a_point_is_better_than_those_that_only_move():
    config = PlateConfig(turn=0.12)  # more than 12 px in twelve frames, at 25 px from the middle of the neighbours
    found, truth, _ = on_the_plate(config, recover=True)
    after = slice(COVERED.stop, None)
    np.testing.assert_allclose(found.xy[0, after], truth[0, after], atol=1e-3)


def test_a_point_without_neighbours_is_looked_for_where_its_speed_would_have_taken_it():
    model = Plate(PlateConfig())
    video = np.zeros((FRAMES, SIZE[1], SIZE[0], 3), np.uint8)
    tracks = Tracker(model, device="cpu").track(video, QUERIES[:1])
    truth = on_plate(model.config, torch.tensor(QUERIES[:1, 1:]), torch.arange(FRAMES)).transpose(0, 1).numpy()
    after = slice(COVERED.stop, None)
    assert tracks.seen()[0, after].all()
    np.testing.assert_allclose(tracks.xy[0, after], truth[0, after], atol=1e-3)
    assert set(model.refined) == {1, 2}  # the point, and one try while it is lost


def test_only_lost_points_are_tried_elsewhere():
    _, _, model = on_the_plate(PlateConfig(), recover=True)
    N = len(QUERIES)
    assert set(model.refined) == {N, N + 3}
    _, _, model = on_the_plate(PlateConfig(), recover=False)
    assert set(model.refined) == {N}


@pytest.mark.parametrize("masked", [True, False])
def test_a_stream_finds_what_the_tracker_finds(masked):
    config = PlateConfig()
    queries = np.concatenate([QUERIES, [[20, 200, 90]]]).astype(np.float32)
    video = np.zeros((FRAMES, SIZE[1], SIZE[0], 3), np.uint8)
    tracks = Tracker(Plate(config), device="cpu", masked=masked).track(video, queries)
    stream = Stream(Plate(config), device="cpu", answer="final", masked=masked)
    stream.add(queries)
    answers = [answer for frame in video for answer in stream.step(frame)] + stream.close()
    assert tracks.seen()[0, -1]
    for answer in answers:
        np.testing.assert_allclose(answer.xy, tracks.xy[answer.ids, answer.frame], atol=1e-4)


def test_a_stream_goes_on_looking_after_it_was_saved_in_the_middle_of_a_loss(tmp_path):
    video = np.zeros((FRAMES, SIZE[1], SIZE[0], 3), np.uint8)
    whole = Stream(Plate(PlateConfig()), device="cpu", answer="final")
    whole.add(QUERIES)
    expected = [answer for frame in video for answer in whole.step(frame)]

    first = Stream(Plate(PlateConfig()), device="cpu", answer="final")
    first.add(QUERIES)
    middle = COVERED.stop - 1
    answers = [answer for frame in video[:middle] for answer in first.step(frame)]
    assert len(first.state.walk.lost.ids) == 1
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = Stream(Plate(PlateConfig()), device="cpu", answer="final")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    answers += [answer for frame in video[middle:] for answer in second.step(frame)]
    for a, b in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(a.xy, b.xy)


def test_a_neighbour_that_is_removed_is_not_gone_by():
    video = np.zeros((FRAMES, SIZE[1], SIZE[0], 3), np.uint8)
    model = Plate(PlateConfig())
    stream = Stream(model, device="cpu", answer="final")
    ids = stream.add(QUERIES)
    for frame in video[: COVERED.stop - 1]:
        stream.step(frame)
    assert stream.state.walk.lost.ids.tolist() == [ids[0]]
    assert model.refined[-1] == len(QUERIES) + 3
    stream.remove(ids[1:])
    for frame in video[COVERED.stop - 1 : COVERED.stop + STEP]:
        stream.step(frame)
    assert model.refined[-1] == 1 + 1  # where its speed would have taken it
    stream.remove(ids[:1])
    assert not len(stream.state.walk.lost.ids)


# ---- its parts


def past(xy: torch.Tensor, score: torch.Tensor, *, start=0, ids=None, query_frame=None) -> Past:
    """What a window found; xy (T, N, 2), score (T, N)."""
    N = xy.shape[1]
    ids = torch.arange(N) if ids is None else ids
    frames = torch.zeros(N, dtype=torch.int64) if query_frame is None else query_frame
    return Past(start, STEP, ids, frames, xy, score)


def moving(N: int, speed=(2.0, 1.0)) -> torch.Tensor:
    home = torch.tensor([[10.0 * n, 5.0 * n] for n in range(N)])
    return home + torch.arange(WINDOW)[:, None, None] * torch.tensor(speed)


def scores(N: int, lost_from: int = 3) -> torch.Tensor:
    """All points sure, but point 0 from a frame on."""
    score = torch.full((WINDOW, N), 0.9)
    score[lost_from:, 0] = 0.1
    return score


def test_a_past_says_that_a_query_is_right_and_knows_nothing_before_it():
    queries = torch.tensor([[[10.0, 1, 2], [13, 3, 4], [30, 5, 6]]])
    result = Estimate(torch.full((1, WINDOW, 3, 2), 9.0), torch.zeros(1, WINDOW, 3), torch.zeros(1, WINDOW, 3))
    known = Past.of(result, PointFeatures(queries, ()), torch.tensor([7, 8, 9]), start=10, step=STEP)
    assert known.xy[0, 0].tolist() == [1, 2]
    assert known.xy[3, 1].tolist() == [3, 4]
    assert known.score[:, 0].tolist() == [1, *[0.25] * 7]
    assert known.score[:, 1].tolist() == [0, 0, 0, 1, *[0.25] * 4]
    assert known.score[:, 2].tolist() == [0] * 8
    assert (known.xy[:, 2] == 9).all()


def test_a_sighting_is_the_last_sure_frame_with_speed_and_neighbours_nearest_first():
    xy, score = moving(4), scores(4)
    score[2, 1] = 0.4  # not sure enough to go by
    seen = sightings(None, past(xy, score, start=20, ids=torch.tensor([5, 3, 9, 1])))
    assert seen.ids.tolist() == [5]
    assert seen.frame.tolist() == [22]
    assert seen.xy.tolist() == [xy[2, 0].tolist()]
    assert seen.speed.tolist() == [[2, 1]]
    assert seen.neighbours.tolist() == [[9, 1, *[-1] * (NEIGHBOURS - 2)]]
    assert seen.around[0, :2].tolist() == xy[2, 2:].tolist()


def test_speed_is_that_of_the_last_frames_since_the_query():
    xy = moving(2)
    xy[:2, 0] += 100  # before the query
    seen = sightings(None, past(xy, scores(2, lost_from=4), query_frame=torch.tensor([2, 0])))
    assert seen.speed.tolist() == [[2, 1]]
    just_begun = sightings(None, past(xy, scores(2, lost_from=3), query_frame=torch.tensor([2, 0])))
    assert just_begun.speed.tolist() == [[0, 0]]


def test_a_point_is_lost_by_the_frames_that_are_handed_on():
    score = torch.full((WINDOW, 3), 0.9)
    score[STEP:, 0] = LOST + 0.01
    score[STEP:, 1] = LOST - 0.01
    score[:, 2] = 0.0  # begins later
    seen = sightings(None, past(moving(3), score, query_frame=torch.tensor([0, 0, STEP])))
    assert seen.ids.tolist() == [1]


def test_what_was_seen_earlier_is_kept_until_the_point_is_sure_again():
    xy = moving(3)
    first = sightings(None, past(xy, scores(3)))
    lost = scores(3, lost_from=0)
    still = sightings(first, past(xy + 50, lost, start=STEP))
    assert still.frame.tolist() == first.frame.tolist() == [2]
    lost[1, 0] = 0.8  # for a moment
    again = sightings(still, past(xy + 50, lost, start=2 * STEP))
    assert again.frame.tolist() == [2 * STEP + 1]
    assert not len(sightings(again, past(xy, torch.full((WINDOW, 3), 0.9))).ids)


def test_a_point_that_was_never_sure_is_remembered_where_it_was_most_so():
    score = scores(2, lost_from=0)
    score[5, 0] = 0.3
    assert sightings(None, past(moving(2), score)).frame.tolist() == [5]


def turned_and_grown(xy: torch.Tensor, degrees: float, scale: float) -> torch.Tensor:
    a = torch.deg2rad(torch.tensor(degrees))
    return scale * xy @ torch.tensor([[a.cos(), a.sin()], [-a.sin(), a.cos()]]) + torch.tensor([7.0, -3.0])


def test_tries_follow_the_similarity_of_the_neighbours_their_mean_motion_and_the_own_speed(monkeypatch):
    monkeypatch.setattr("pointloom.tracking.recovery.STIFFNESS", 0.0)
    ring = 60 * torch.tensor([[1.0, 0], [-0.5, 0.8], [-0.5, -0.9], [0.3, 1.2]]) + 100
    own = torch.tensor([[112.0, 95.0]])
    then = torch.cat([own, ring])
    later = turned_and_grown(then, 30, 1.3)
    seen = Sightings(
        torch.tensor([9]),
        torch.tensor([1]),
        own,
        torch.tensor([[3.0, 1.0]]),
        torch.tensor([[1, 2, 3, 4, *[-1] * (NEIGHBOURS - 4)]]),
        torch.cat([ring, own.expand(NEIGHBOURS - 4, 2)])[None],
    )
    xy = torch.cat([then.expand(STEP, -1, -1), later.expand(STEP, -1, -1)])
    score = scores(5)
    ids = torch.tensor([9, 1, 2, 3, 4])  # a row of -1 must not be taken for that of 1
    tried = tries(seen, past(xy, score, ids=ids), window=WINDOW, size=SIZE)
    assert tried.rows.tolist() == [0, 0, 0]
    assert tried.xy.shape == (WINDOW, 3, 2)
    torch.testing.assert_close(tried.xy[:, 0], later[:1].expand(WINDOW, 2), atol=0.01, rtol=0)
    torch.testing.assert_close(tried.xy[STEP:, 2], (own + 3 * 2 * torch.tensor([[3.0, 1.0]])).expand(STEP, 2))
    assert (tried.xy[:, 1] - tried.xy[:, 0]).norm(dim=-1).min() > 5  # without the turn
    # neighbours much closer together than the stiffness tell of no turn
    monkeypatch.setattr("pointloom.tracking.recovery.STIFFNESS", 10.0)
    stiff = tries(seen, past(xy, score, ids=ids), window=WINDOW, size=SIZE)
    torch.testing.assert_close(stiff.xy[:, 0], stiff.xy[:, 1], atol=0.1, rtol=0)

    score[STEP + 1, 2:] = 0.1  # one neighbour is left: not enough
    alone = tries(seen, past(xy, score, ids=ids), window=WINDOW, size=SIZE)
    assert alone.rows.tolist() == [0]
    torch.testing.assert_close(alone.xy, tried.xy[:, 2:])


def test_speed_is_not_believed_for_ever():
    seen = sightings(None, past(moving(1), scores(1)))
    far = tries(seen, past(moving(1), scores(1, lost_from=0), start=400), window=WINDOW, size=SIZE)
    assert far.xy[0, 0].tolist() == (seen.xy[0] + 12 * seen.speed[0]).tolist()


def test_nobody_looks_outside_the_picture():
    seen = sightings(None, past(moving(1), scores(1)))
    now = past(moving(1), scores(1, lost_from=0), start=STEP)
    path = tries(seen, now, window=WINDOW, size=SIZE).xy[:STEP, 0]
    between = (path[0, 0] + path[1, 0]) / 2 + 0.5
    leaving = tries(seen, now, window=WINDOW, size=(int(between), SIZE[1]))
    torch.testing.assert_close(leaving.xy[:STEP, 0], path)  # it is in the picture in the first frame
    assert not len(tries(seen, now, window=WINDOW, size=(int(path[0, 0]), SIZE[1])).rows)


def test_the_most_trusted_counts_in_the_frames_that_exist():
    tried = Tries(torch.tensor([1, 1, 2]), torch.zeros(WINDOW, 3, 2))
    xy = torch.arange(6.0)[None, None, :, None].expand(1, WINDOW, 6, 2)
    logits = torch.tensor([0.0, 0, 0, 1, 2, -1]).expand(1, WINDOW, 6).clone()
    logits[:, 5:, 5] = 50  # in frames that only pad the video
    chosen = best(Estimate(xy, logits, logits), tried, 5)
    assert chosen.xy[0, 0, :, 0].tolist() == [0, 4, 2]
    assert best(Estimate(xy, logits, logits), tried, WINDOW).xy[0, 0, :, 0].tolist() == [0, 4, 5]
    logits[:, :, 3:] = 0
    assert best(Estimate(xy, logits, logits), tried, 5).xy[0, 0, :, 0].tolist() == [0, 1, 2]  # when in doubt, its own


def test_tries_are_copies_that_start_elsewhere():
    queries = torch.tensor([[[0.0, 1, 2], [0, 3, 4]]])
    points = PointFeatures(queries, (torch.arange(2.0)[None, :, None, None, None],))
    prior = replace(Estimate.at_queries(queries, WINDOW), visibility_logit=torch.tensor([1.0, 2]).expand(1, WINDOW, 2))
    everyone, start = with_tries(points, prior, Tries(torch.tensor([1]), torch.full((WINDOW, 1, 2), 8.0)))
    assert everyone.support[0].flatten().tolist() == [0, 1, 1]
    assert start.xy[0, 0].tolist() == [[1, 2], [3, 4], [8, 8]]
    assert start.visibility_logit[0, 0].tolist() == [1, 2, 2]


# ---- who does it


def test_tiny_recovers_and_the_published_models_do_not():
    assert CoTracker3(TINY).info.recovers
    assert not CoTracker3(replace(TINY, recovers=False)).info.recovers
    assert not OFFLINE.recovers
    assert not ONLINE.recovers


def test_the_models_default_is_followed_in_windows_alone():
    assert Tracker(Plate(PlateConfig()), device="cpu").recover
    assert not Tracker(Plate(PlateConfig(recovers=False)), device="cpu").recover
    assert Tracker(Plate(PlateConfig(recovers=False)), device="cpu", recover=True).recover
    assert not Tracker(Plate(PlateConfig()), device="cpu", mode="full").recover
    with pytest.raises(OptionError, match="recover is for windowed mode; in full mode"):
        Tracker(Plate(PlateConfig()), device="cpu", mode="full", recover=True)


def test_tracks_say_whether_lost_points_were_looked_for():
    for recover in (True, False):
        tracks, _, _ = on_the_plate(PlateConfig(), recover=recover)
        assert tracks.meta["options"]["recover"] is recover


def test_there_is_room_for_all_tries_in_the_memory_budget():
    video = np.zeros((FRAMES, SIZE[1], SIZE[0], 3), np.uint8)
    queries = np.repeat(QUERIES[:1], 400, axis=0)
    model = Plate(PlateConfig())
    tracker = Tracker(model, device="cpu", memory_budget=2_000_000)
    tracker.track(video, queries)
    with_room = max(model.refined)
    model.refined.clear()
    Tracker(model, device="cpu", memory_budget=2_000_000, recover=False).track(video, queries)
    assert with_room <= max(model.refined) < len(queries)
