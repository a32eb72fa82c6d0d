"""Pictures of tracks for the log: some frames of a clip with what was predicted, and below them the truth."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pointloom.geometry import resize_area
from pointloom.video.draw import TRAIL_FRAMES, draw_tracks, track_colours

COLUMNS = 4
WIDTH_PX = 320  # of each frame


def track_picture(
    frames: UInt8[np.ndarray, "T H W 3"],
    *,
    predicted: Float[np.ndarray, "N T 2"],
    predicted_seen: Bool[np.ndarray, "N T"],
    truth: Float[np.ndarray, "N T 2"],
    seen: Bool[np.ndarray, "N T"],
) -> UInt8[np.ndarray, "h w 3"]:
    """Return evenly spaced frames side by side, predictions above and truth below, in the same colours.

    Discs are points that can be seen, rings such that are hidden.
    """
    size = frames.shape[2], frames.shape[1]
    tile = WIDTH_PX, round(WIDTH_PX * size[1] / size[0])
    colours = track_colours(truth, seen)
    rows = []
    for xy, shown in ((predicted, predicted_seen), (truth, seen)):
        small = resize_area(xy, size, tile)
        tiles = []
        for t in np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int):
            recent = slice(max(0, t - TRAIL_FRAMES), t + 1)
            frame = cv2.resize(np.asarray(frames[t]), tile, interpolation=cv2.INTER_AREA)
            tiles.append(draw_tracks(frame, small[:, recent], shown[:, recent], colours))
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows, axis=0)
