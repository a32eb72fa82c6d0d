"""One annotated clip: frames, and what is known of them. What generators make and readers return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8


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


@dataclass(frozen=True)
class JointClip(AnnotatedClip):
    """A clip whose tracks are joints of one animal, clicked by people in some of its frames.

    area   pixels of the animal in each frame, NaN where that is not known
    joint  number of the joint that each track follows, as the source counts them
    """

    area: Float32[np.ndarray, " T"]
    joint: Int32[np.ndarray, " N"]


@dataclass(frozen=True)
class MaskedClip:
    """A clip without tracks, but with the mask of one object: true where it can be seen."""

    name: str
    frames: UInt8[np.ndarray, "T H W 3"]
    masks: Bool[np.ndarray, "T H W"]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.frames.shape[2], self.frames.shape[1]


Clip: TypeAlias = AnnotatedClip | MaskedClip
