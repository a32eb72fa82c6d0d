"""Numbers that others published, as they were printed. They stand in tables of their own, never among measured ones.

`source` says where a number was read. "Secondary" means a summary of a paper rather than the paper itself: good for
orientation, not to three digits. Numbers compare only with ones measured by the same protocol on the same data.
"""

from __future__ import annotations

from dataclasses import dataclass

TAPNET = "README of google-deepmind/tapnet"
TAPNEXT = "README of google-deepmind/tapnet, TAPNext++"
COTRACKER = "README of facebookresearch/co-tracker: all queries together"
SUMMARY = "CoTracker3's paper, secondary: each query by itself"
PIPS = "README of aharley/pips, December 2022"
ISSUE_46 = "issue 46 of facebookresearch/co-tracker, by a user who says it differs from the paper"


@dataclass(frozen=True)
class Published:
    """One number.

    dataset  name of the reader of the data set; `tapvid` for the mean over Kinetics, DAVIS and RGB-Stacking, `badja`
    setting  query mode, name of the clip, or "" where the source does not say
    """

    dataset: str
    setting: str
    model: str
    metric: str
    value: float
    source: str


def _aj(model: str, *values: float | None) -> list[Published]:
    where = (
        ("tapvid-davis", "first"),
        ("tapvid-davis", "strided"),
        ("tapvid-kinetics", "first"),
        ("robotap", "first"),
    )
    return [
        Published(dataset, setting, model, "aj", value, TAPNET)
        for (dataset, setting), value in zip(where, values, strict=True)
        if value is not None
    ]


def _delta(model: str, *values: float) -> list[Published]:
    where = (("tapvid-kinetics", "first"), ("tapvid-davis", "first"), ("robotap", "first"), ("tapvid-rgb-stacking", ""))
    return [
        Published(dataset, setting, model, "delta_avg", value, COTRACKER)
        for (dataset, setting), value in zip(where, values, strict=True)
    ]


def _tapvid_mean(model: str, *values: float) -> list[Published]:
    metrics = ("aj", "delta_avg", "oa")
    return [
        Published("tapvid", "", model, metric, value, SUMMARY) for metric, value in zip(metrics, values, strict=True)
    ]


def _dynamic_replica(model: str, visible: float, occluded: float) -> list[Published]:
    return [
        Published("dynamic-replica", "", model, "delta_visible", visible, SUMMARY),
        Published("dynamic-replica", "", model, "delta_occluded", occluded, SUMMARY),
    ]


def _badja(model: str, metric: str, source: str, *values: float) -> list[Published]:
    clips = ("bear", "camel", "cows", "dog", "dog-agility", "horsejump-high", "horsejump-low", "mean of 7")
    return [Published("badja", clip, model, metric, value, source) for clip, value in zip(clips, values, strict=True)]


PUBLISHED: tuple[Published, ...] = (
    *_aj("TAP-Net", 33.0, 38.4, 38.5, 45.1),
    *_aj("TAPIR", 58.5, 63.3, 50.0, 59.6),
    *_aj("Online TAPIR", 56.2, 58.3, 51.2, 59.1),
    *_aj("BootsTAPIR", 62.4, 67.4, 55.8, 69.2),
    *_aj("Online BootsTAPIR", 59.7, 61.2, 55.1, 69.1),
    *_aj("TAPNext", 65.25, 68.9, 57.3, 64.1),
    *_aj("TAPNext++", 65.6, None, 53.9, 61.1),
    *_aj("TAPNext++ at 512 x 512", 67.0, 71.2, None, None),
    Published("tapvid-davis", "first", "TAPNext++", "delta_avg", 79.0, TAPNEXT),
    Published("tapvid-davis", "first", "TAPNext++", "oa", 92.0, TAPNEXT),
    Published("robotap", "first", "TAPNext++", "delta_avg", 75.4, TAPNEXT),
    Published("robotap", "first", "TAPNext++", "oa", 89.0, TAPNEXT),
    Published("robotap", "first", "TAPNext++", "aj_rd", 52.6, TAPNEXT),
    Published("tapvid-kinetics", "first", "TAPNext++", "delta_avg", 68.4, TAPNEXT),
    Published("tapvid-kinetics", "first", "TAPNext++", "oa", 88.7, TAPNEXT),
    *_delta("CoTracker2 (December 2023)", 61.8, 74.6, 69.6, 73.4),
    *_delta("CoTracker2.1 (September 2024)", 63.0, 76.1, 70.6, 79.6),
    *_delta("CoTracker3 offline", 67.8, 76.9, 78.0, 85.0),
    *_delta("CoTracker3 online", 68.3, 76.7, 78.8, 82.7),
    *_tapvid_mean("TAPIR", 56.2, 70.0, 86.5),
    *_tapvid_mean("CoTracker", 61.8, 76.1, 88.3),
    *_tapvid_mean("LocoTrack", 62.9, 75.3, 87.2),
    *_tapvid_mean("BootsTAPIR", 61.4, 73.6, 88.7),
    *_tapvid_mean("CoTracker3 online", 63.8, 76.3, 90.2),
    *_tapvid_mean("CoTracker3 offline", 64.4, 76.9, 91.2),
    *_dynamic_replica("LocoTrack", 71.4, 29.8),
    *_dynamic_replica("BootsTAPIR", 69.0, 28.0),
    *_dynamic_replica("CoTracker3 online", 72.9, 41.0),
    *_dynamic_replica("CoTracker3 offline", 69.8, 41.8),
    *_badja("PIPs", "badja", PIPS, 76.1, 91.6, 87.7, 45.4, 31.0, 60.9, 58.1, 64.4),
    *_badja("CoTracker", "badja", ISSUE_46, 88.6, 90.4, 86.9, 54.6, 6.9, 62.3, 62.3, 64.6),
    *_badja("CoTracker", "badja_3px", ISSUE_46, 20.4, 22.2, 31.3, 4.6, 0.0, 17.2, 27.7, 17.6),
)
