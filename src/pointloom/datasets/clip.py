"""One annotated clip: frames and the true path of some of their points. What generators make and readers return."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8


@dataclass(frozen=True)
class AnnotatedClip:
    """Frames with true tracks.

    xy       pixels of `frames`, integers are pixel centres; also given while a point is hidden or outside the frame
    visible  the point can be seen in that frame (only ever true where `valid`)
    valid    the annotation can be trusted in that frame; elsewhere `xy` and `visible` mean nothing
    """

    name: str
    frames: UInt8[np.ndarray, "T H W 3"]
    xy: Float32[np.ndarray, "N T 2"]
    visible: Bool[np.ndarray, "N T"]
    valid: Bool[np.ndarray, "N T"]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.frames.shape[2], self.frames.shape[1]
