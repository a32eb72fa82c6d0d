from dataclasses import replace

import pytest
import torch
from small_models import ALONE, CountingVideo, moving_noise, small_model, some_queries
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pointloom.errors import OptionError
from pointloom.models.cotracker3 import ONLINE, TINY
from pointloom.tracking.memory import Costs, MemoryPlan, parse_bytes, plan_memory
from pointloom.tracking.tracker import Tracker


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are alive after each operation, except those that were there before."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for storage in self._storages((args, kwargs)):
            self._alive.setdefault(storage._cdata, (StorageWeakRef(storage), 0))
        out = func(*args, **(kwargs or {}))
        for storage in self._storages(out):
            self._alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return out

    @staticmethod
    def _storages(values):
        return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


NETWORKS = {
    "small": ALONE,
    "tiny": replace(TINY, resolution=(64, 96), iterations=1),
    "online": replace(ONLINE, resolution=(64, 96), iterations=1),
}


@pytest.mark.parametrize(
    ("name", "megabytes", "direction"),
    [("small", 3, "forward"), ("tiny", 15, "forward"), ("tiny", 40, "both"), ("online", 50, "forward")],
)
def test_tracking_stays_near_the_memory_budget_and_uses_it(name, megabytes, direction):
    model = small_model(NETWORKS[name])
    video, queries = moving_noise(18, (96, 64)), some_queries(60, 18, (96, 64))
    tracker = Tracker(model, memory_budget=f"{megabytes}MB", device="cpu")
    with LiveBytes() as live:
        tracker.track(video, queries, direction=direction)
    share = live.peak / (megabytes * 1e6)
    assert 0.2 < share < 1.1, f"{live.peak / 1e6:.1f} MB of {megabytes} MB"


COSTS = Costs(frame=1000, point=100, pair=10, input=(8, 8))  # encoding: 10 000
WINDOWED = {"full": False, "frames": 50, "window": 8, "points": 1000, "together": 1, "directions": 1}
# by hand: a window holds 2 * 8 * 1000 bytes; a point takes 8 * 10 bytes to refine, and 100 to describe


def test_points_share_what_the_features_of_a_window_leave():
    plan = plan_memory(16_000 + 400_000, COSTS, **WINDOWED)
    assert plan == MemoryPlan(
        frames_at_once=8,  # of 30 that there would be room for
        keep_features=False,  # one walk needs each frame once
        points_at_once=(400_000 - 100_000) // 80 - 10,
        points_a_walk=2000,
    )


def test_descriptions_take_half_of_it_at_most():
    plan = plan_memory(16_000 + 100_000, COSTS, **WINDOWED)
    assert plan.points_a_walk == 500
    assert plan.points_at_once == 50_000 // 80 - 10


def test_features_of_all_frames_are_kept_if_they_are_needed_again_and_fit_into_half():
    # 58 frames, as the last window may be padded, and what encoding needs
    for budget, kept in ((2 * (58_000 + 10_000), True), (2 * (58_000 + 10_000) - 2, False)):
        assert plan_memory(budget, COSTS, **{**WINDOWED, "directions": 2, "points": 1}).keep_features == kept
    many_points = plan_memory(200_000, COSTS, **{**WINDOWED, "points": 10_000})
    assert many_points.points_a_walk < 10_000
    assert many_points.keep_features


def test_full_mode_holds_the_whole_video():
    plan = plan_memory(50_000 + 100_000, COSTS, **{**WINDOWED, "full": True, "window": 50})
    assert plan == MemoryPlan(8, True, 100_000 // (50 * 10 + 100) - 10, 1000)


def test_support_points_stay_with_their_query_however_small_the_budget():
    plan = plan_memory(16_000 + 45_000, COSTS, **{**WINDOWED, "together": 90})
    assert plan.points_at_once >= 90


def test_few_frames_are_encoded_at_once_when_memory_is_short():
    assert plan_memory(16_000 + 30_000, COSTS, **{**WINDOWED, "points": 1}).frames_at_once == 2


def test_a_video_too_long_to_be_seen_at_once_names_windowed_mode():
    with pytest.raises(OptionError, match=r"all 50 frames .*0.06 MB.*mode='windowed'.*larger memory_budget"):
        plan_memory(59_999, COSTS, **{**WINDOWED, "full": True, "window": 50})
    video = CountingVideo(moving_noise(40))
    with pytest.raises(OptionError, match="windowed"):
        Tracker(small_model(), mode="full", memory_budget="600KB", device="cpu").track(video, [[0, 1, 1]])
    assert video.read == []  # noticed before anything is computed


def test_a_budget_below_one_window_says_how_much_one_window_needs():
    with pytest.raises(OptionError, match=r"one window of 8 frames needs about 0.026 MB"):
        plan_memory(25_999, COSTS, **WINDOWED)
    plan_memory(26_000, COSTS, **WINDOWED)


@pytest.mark.parametrize(
    ("text", "count"),
    [("4GB", 4 * 10**9), ("3.5 GiB", 3758096384), ("500mb", 5 * 10**8), (1234, 1234), ("1234", 1234), ("2kib", 2048)],
)
def test_bytes_are_read_as_people_write_them(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "4 apples", "0", 0, -5, "1e9"])
def test_other_texts_are_refused(text):
    with pytest.raises(OptionError, match="'4GB'"):
        parse_bytes(text)
