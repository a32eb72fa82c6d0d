"""Queries where the picture has a distinct spot: key points of SIFT (Lowe 2004), by way of OpenCV."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from pointloom.errors import OptionError
from pointloom.queries.base import VideoLike, check_frame, on_frame


@dataclass(frozen=True)
class Sift:
    """The `count` strongest key points of a frame, strongest first; fewer where the frame has fewer."""

    count: int
    frame: int = 0

    def __post_init__(self) -> None:
        """Refuse a request for nothing."""
        if self.count < 1:
            raise OptionError(f"ask for at least 1 key point, got {self.count}.")

    def sample(self, video: VideoLike) -> Float32[np.ndarray, "N 3"]:
        """Return the key points, each position once (SIFT repeats one for every orientation that it finds)."""
        import cv2  # slow to import, and rarely needed here

        check_frame(self.frame, video, "SIFT key points")
        grey = cv2.cvtColor(np.ascontiguousarray(video[self.frame : self.frame + 1][0]), cv2.COLOR_RGB2GRAY)
        found = sorted(cv2.SIFT.create().detect(grey, None), key=lambda point: -point.response)
        width, height = video.size
        positions = dict.fromkeys(
            point.pt for point in found if -0.5 <= point.pt[0] <= width - 0.5 and -0.5 <= point.pt[1] <= height - 0.5
        )
        return on_frame(np.array(list(positions)[: self.count], np.float32).reshape(-1, 2), self.frame)
