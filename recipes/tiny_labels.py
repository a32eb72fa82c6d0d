"""Label real clips that nobody annotated, into the pool cache/labelled. Can be interrupted and run again.

    python recipes/tiny_labels.py CLIPS [--model tiny]

CLIPS is a folder of mp4 files. The first two parts of 64 frames are taken of each, of which a student may skip some.
Three trackers follow the same points through a part, at its full size: the model, the model on mirrored frames, and
Lucas-Kanade. Then the model is sent back to the query: from the last frame in which the first two agree, or from nearer
ones where it does not come back from there. As far as it does come back, a label is kept frame by frame where the two
agree and where the way back comes by the same place; Lucas-Kanade has a say in the position while it never lost the
point. Further away nothing is known: so a limb is labelled until it is lost. Most points that stand still are dropped.
The student sees smaller frames than its teachers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
import torch

from pointloom import Tracker, load_model, open_video
from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.pool import write_clip
from pointloom.geometry import inside, resize_area
from pointloom.models.classical import lucas_kanade
from pointloom.tracks import Tracks

FRAMES, EVERY = 64, 60  # length of a part, so that a student may skip frames, and frames from one to the next
MOST_PARTS = 2  # of a clip
LEAST_FRAMES = 48  # of a clip, which is one part then
QUERIED, POINTS = (1 / 12, 1 / 2, 11 / 12), 96  # at these shares of a part so many
APART = (-6, -2, 2, 6)  # frames over which motion is looked for
PIXELS, UNIT = 432 * 320, 8  # of a frame that the student sees; its sides are multiples of the unit
NEAR_PX = 3.0  # positions agree that are nearer than this in a frame of 256 x 256
SQUARE = (256, 256)
VISIBLE = 0.5  # probability; whether a position can be trusted is for the test to say, not for the model's confidence
SENT_FROM = (1.0, 0.6, 0.3)  # shares of the way to the last frame in which a point is seen, from which it is sent back
LEAST_SURE, MOST_DUBIOUS = 12, 0.15  # frames of a point that is kept, and the share of its way that may fail the test
STILL_PX, MOST_STILL = 4.0, 0.25  # points that move by less, of what the student sees, and their share of those kept
LEAST_POINTS = 24  # of a part that is kept


def parts(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Cut a clip."""
    with open_video(path) as video:
        if len(video) < LEAST_FRAMES:
            return
        for start in range(0, max(len(video) - FRAMES, 0) + 1, EVERY)[:MOST_PARTS]:
            yield f"{path.stem}_{start:04d}", video[start : start + FRAMES]


def where_it_moves(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw queries (t, x, y), mostly where the optical flow is large, some anywhere."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    queries = []
    for t in (int(share * len(frames)) for share in QUERIED):
        pairs = [(t, min(max(t + d, 0), len(frames) - 1)) for d in APART]
        moved = np.mean([np.linalg.norm(flow.calc(grey[a], grey[b], None), axis=-1) for a, b in pairs], axis=0)
        chance = (moved + 0.2 * moved.mean() + 1e-3).ravel()
        y, x = np.divmod(rng.choice(chance.size, POINTS, replace=False, p=chance / chance.sum()), frames.shape[2])
        queries.append(np.stack([np.full(POINTS, t), x, y], axis=1))
    return np.concatenate(queries).astype(np.float32)


def apart(a: np.ndarray, b: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Distance in pixels of a frame of 256 x 256."""
    return np.asarray(np.linalg.norm(resize_area(a, size, SQUARE) - resize_area(b, size, SQUARE), axis=-1))


def mirrored(tracker: Tracker, frames: np.ndarray, queries: np.ndarray) -> Tracks:
    """Track on mirrored frames; what is returned lies on the frames as they are."""
    last = frames.shape[2] - 1
    flipped = queries * (1, -1, 1) + (0, last, 0)
    tracks = tracker.track(np.ascontiguousarray(frames[:, :, ::-1]), flipped, direction="both")
    return replace(tracks, xy=tracks.xy * (-1, 1) + (last, 0), query=queries)


def never_lost(seen: np.ndarray, start: np.ndarray) -> np.ndarray:
    """True from the query on, to both sides, until the point is first lost."""
    n, frames = np.arange(len(seen)), np.arange(seen.shape[1])
    lost = np.concatenate([np.zeros((len(seen), 1), int), np.cumsum(~seen, axis=1)], axis=1)
    low, high = np.minimum(frames, start[:, None]), np.maximum(frames, start[:, None])
    return lost[n[:, None], high + 1] == lost[n[:, None], low]


def sent_back(
    tracker: Tracker, frames: np.ndarray, queries: np.ndarray, xy: np.ndarray, agreed: np.ndarray, side: int
) -> np.ndarray:
    """Send points back to their queries from later frames (side 1) or earlier ones (-1).

    Returns where each was on its way home, NaN in the frames from which it did not come.
    """
    size = frames.shape[2], frames.shape[1]
    start = queries[:, 0].astype(int)
    away = (np.arange(len(frames)) - start[:, None]) * side
    farthest = np.where(agreed, away, 0).max(1)
    reach, way = np.zeros(len(xy), int), np.full_like(xy, np.nan)
    for share in SENT_FROM:
        end = np.where(agreed & (away <= share * farthest[:, None]), away, 0).max(1)
        n = np.flatnonzero((reach == 0) & (end > 0))
        if len(n):
            t = start[n] + side * end[n]
            turned = np.concatenate([t[:, None], xy[n, t]], axis=1).astype(np.float32)
            back = tracker.track(frames, turned, direction="backward" if side > 0 else "forward").xy
            home = apart(back[np.arange(len(n)), start[n]], queries[n, 1:], size) < NEAR_PX
            reach[n[home]], way[n[home]] = end[n[home]], back[home]
    return np.where(((away >= 0) & (away <= reach[:, None]))[..., None], way, np.nan)


def labelled(name: str, frames: np.ndarray, tracker: Tracker, rng: np.random.Generator) -> AnnotatedClip:
    """Let the three track, and keep what stands the test."""
    size = frames.shape[2], frames.shape[1]
    queries = where_it_moves(frames, rng)
    one, other, sparse = (
        tracker.track(frames, queries, direction="both"),
        mirrored(tracker, frames, queries),
        lucas_kanade(frames, queries, direction="both"),
    )
    xy = (one.xy + other.xy) / 2
    alike = apart(one.xy, other.xy, size) < NEAR_PX
    start = queries[:, 0].astype(int)
    helps = never_lost(sparse.seen, start) & (apart(sparse.xy, xy, size) < NEAR_PX)
    xy = np.where(helps[..., None], (xy + sparse.xy) / 2, xy).astype(np.float32)
    seen = ((one.visibility + other.visibility) / 2 > VISIBLE) & inside(xy, size)

    sure, on_the_way = np.zeros_like(seen), np.zeros_like(seen)
    for side in (1, -1):
        way = sent_back(tracker, frames, queries, xy, seen & alike, side)
        on_the_way |= ~np.isnan(way[..., 0])
        sure |= seen & alike & (apart(way, xy, size) < NEAR_PX)
    known = sure | (on_the_way & ~seen)
    dubious = (on_the_way & ~known).sum(1)
    kept = (sure.sum(1) >= LEAST_SURE) & (dubious <= MOST_DUBIOUS * on_the_way.sum(1))

    scale = min((PIXELS / (size[0] * size[1])) ** 0.5, 1)
    small = round(size[0] * scale / UNIT) * UNIT, round(size[1] * scale / UNIT) * UNIT
    seen_by_student = np.stack([cv2.resize(f, small, interpolation=cv2.INTER_AREA) for f in frames])
    xy, sure, known = resize_area(xy[kept], size, small), sure[kept], known[kept]
    taken = mostly_moving(xy, sure)
    return AnnotatedClip(name, seen_by_student, xy[taken], sure[taken], known[taken])


def mostly_moving(xy: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """Indices of the points that move, and of some that stand still."""
    known = np.where(sure[..., None], xy, np.nan)
    far = np.linalg.norm(np.nanmax(known, axis=1) - np.nanmin(known, axis=1), axis=-1)
    moving, still = np.flatnonzero(far >= STILL_PX), np.flatnonzero(far < STILL_PX)
    return np.sort(np.concatenate([moving, still[: int(len(moving) * MOST_STILL / (1 - MOST_STILL))]]))


def main() -> None:
    """Fill the pool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--model", default="tiny")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    tracker = Tracker(load_model(arguments.model))
    folder = Path("cache/labelled")
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(arguments.clips.glob("*.mp4")):
        for name, frames in parts(path):
            if (folder / name).exists():
                continue
            clip = labelled(name, frames, tracker, np.random.default_rng(crc32(name.encode())))
            print(f"{name}: {len(clip.xy)} of {len(QUERIED) * POINTS} points", flush=True)
            if len(clip.xy) >= LEAST_POINTS:
                write_clip(folder, clip)


if __name__ == "__main__":
    main()
