"""Layered clips: flat sheets of photo texture that move in front of each other, with the exact track of any point.

A clip has an endless background seen by a moving camera and a stack of objects: cut-outs of random shape that drift,
turn, tilt, shrink, ripple, bounce, pause, and hide each other. Because every sheet is moved by a map in closed form, the
position of a point is known to a thousandth of a pixel in every frame, also while it is hidden or outside the frame. It
is the idea behind FlyingThings, AutoFlow and PIPs' training data, here with the motion that hand-held video has (camera
roll through any angle, zoom, shake), repeated textures and lookalikes, at dozens of milliseconds for a clip.

    clip = make_clip(LayeredConfig(frames=48), TextureBank.from_folder("photos"), seed=7)

Everything runs in NumPy and OpenCV. A process that makes clips beside others should call `cv2.setNumThreads(1)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int16, UInt8

from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.synthetic.camera import random_look
from pointloom.datasets.synthetic.layers import Layer, Ripple, enlarging
from pointloom.datasets.synthetic.motion import (
    Homographies,
    bounce,
    card,
    drive,
    hop,
    local_scale,
    shake,
    shift,
    swing,
    wave,
)
from pointloom.datasets.synthetic.shapes import random_mask
from pointloom.datasets.synthetic.textures import TextureBank, cut_out, random_pattern, random_texture, resize
from pointloom.errors import OptionError
from pointloom.geometry import inside

REFERENCE_WIDTH = 256  # speeds and sizes below are in pixels of a frame this wide
OBJECT_SPEED = 3.0  # pixels a frame at difficulty 1
SMALL_SHARE = 0.35
SMALL_PX, COMMON_PX = (8, 26), (28, 130)
SMALL_HASTE = 1.6
