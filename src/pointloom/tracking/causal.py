"""How a causal model walks over a video: every frame once, in order, with a memory in place of an overlap.

A point begins in the frame of its query, with nothing remembered. So frames that are worked on together end before the
next query, and the answers are those of a walk one frame at a time:

    frames   0         8      14        22  25
    queries  x                x
    spans    [---------[------[---------[---)
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

FRAMES_AT_ONCE = 8  # more are not faster; the answers do not depend on it


def causal_spans(query_frames: Iterable[int], frames: int, *, most: int = FRAMES_AT_ONCE) -> list[tuple[int, int]]:
    """Cut the frames from the first query to the end of the video into spans (start, stop) of at most `most` frames."""
    limits = [*sorted({frame for frame in query_frames if frame < frames}), frames]
    return [(start, min(start + most, end)) for begin, end in pairwise(limits) for start in range(begin, end, most)]
