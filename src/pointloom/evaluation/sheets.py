"""Pictures of what went wrong in a clip: a few frames with predictions, each tied to the truth by a line.

A disc is a point that was said to be visible, a ring one that was said to be hidden; a red line leads from it to a red
ring where the point really is, if it can be seen there. Points appear with their query.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from pointloom import geometry
from pointloom.video.draw import DARK, FARTHEST_PX, SUBPIXEL_BITS, draw_tracks, track_colours

FRAMES = 4
WIDTH_PX = 520
MOST_POINTS = 48  # with more, some are left out evenly
MISSED = (255, 70, 70)  # colour of the line to the truth
LINE_PX, OUTLINE_PX = 2, 4
TRUTH_PX = 4  # radius of the end of a line
LEAST_LINE_PX = 4.0  # of the small frame; the mark covers what is shorter
JPEG_QUALITY = 82


@dataclass(frozen=True)
class Tile:
    """One frame: its index and a JPEG file."""

    frame: int
    jpeg: bytes


@dataclass(frozen=True)
class Outcome:
    """What was tracked in a clip, and the truth, in pixels of the video."""

    predicted: Float[np.ndarray, "N T 2"]
    said_seen: Bool[np.ndarray, "N T"]
    truth: Float[np.ndarray, "N T 2"]
    visible: Bool[np.ndarray, "N T"]
    query_frame: Int[np.ndarray, " N"]


def tiles(frames: UInt8[np.ndarray, "T H W 3"], outcome: Outcome) -> list[Tile]:
    """Draw evenly spaced frames from the first query to the end."""
    first = int(outcome.query_frame.min()) if len(outcome.query_frame) else 0
    chosen = np.unique(np.linspace(first, len(frames) - 1, FRAMES).round().astype(int)).tolist()
    points = np.unique(np.linspace(0, len(outcome.truth) - 1, MOST_POINTS).round().astype(int))
    if not len(outcome.truth):
        points = points[:0]
    colours = track_colours(outcome.truth[points], outcome.visible[points])
    return [Tile(t, _jpeg(_tile(frames[t], outcome, points, t, colours))) for t in chosen]


def _tile(
    frame: UInt8[np.ndarray, "H W 3"],
    outcome: Outcome,
    points: Int[np.ndarray, " n"],
    t: int,
    colours: UInt8[np.ndarray, "n 3"],
) -> UInt8[np.ndarray, "h w 3"]:
    height, width = frame.shape[:2]
    size = WIDTH_PX, max(1, round(WIDTH_PX * height / width))
    begun = outcome.query_frame[points] <= t
    predicted, truth = (
        geometry.resize_area(xy[points, t], (width, height), size) for xy in (outcome.predicted, outcome.truth)
    )
    small = cv2.resize(np.asarray(frame), size, interpolation=cv2.INTER_AREA)
    predicted = predicted.clip(-FARTHEST_PX, FARTHEST_PX)
    length = np.linalg.norm(predicted - truth, axis=-1)
    missed = begun & outcome.visible[points, t] & (length > LEAST_LINE_PX)
    for colour, thickness in ((DARK, OUTLINE_PX), (MISSED, LINE_PX)):
        for n in np.flatnonzero(missed):
            start, end = (np.array([predicted[n], truth[n]]) * 2**SUBPIXEL_BITS).round().astype(int).tolist()
            cv2.line(small, start, end, colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
            cv2.circle(small, end, TRUTH_PX << SUBPIXEL_BITS, colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    shown = np.where(begun[:, None], predicted, np.nan)
    return draw_tracks(small, shown[:, None], outcome.said_seen[points, t][:, None], colours)


def _jpeg(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return bytes(data)
