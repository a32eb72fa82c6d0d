"""From a decoded picture to RGB pixels as a person would see them.

libswscale converts from whatever the codec gives (grey, 4:2:0, 10 bits, limited or full range, BT.601, 709 or 2020) to
8-bit RGB. Untagged pictures are taken as BT.709 where they are of high definition and as BT.601 where they are smaller,
as players do. Alpha is dropped: the stored colour counts. Light values of HDR are not mapped to those of a standard
screen, and pixels that are not square stay as stored.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from jaxtyping import UInt8

UNTAGGED = 2  # "unspecified" in ITU-T H.273
HD_WIDTH, HD_HEIGHT = 1280, 576  # as wide, or higher: high definition


@dataclass(frozen=True)
class Orientation:
    """How a stored picture has to be turned: first transposed, then reversed along x and y."""

    transposed: bool = False
    reversed_x: bool = False
    reversed_y: bool = False

    @staticmethod
    def of(picture: VideoFrame) -> Orientation:
        """Read the display matrix of a file; angles between quarter turns count as the nearest one.

        The matrix maps a stored (x, y) to a shown (a x + c y, b x + d y).
        """
        matrix = picture.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return Orientation()
        a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))  # type: ignore[call-overload]
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return Orientation(False, a < 0, d < 0)
        return Orientation(True, c < 0, b < 0)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) as shown."""
        return (height, width) if self.transposed else (width, height)

    def apply(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """Turn an image."""
        if self.transposed:
            image = image.swapaxes(0, 1)
        if self.reversed_x:
            image = image[:, ::-1]
        if self.reversed_y:
            image = image[::-1]
        return image


def to_rgb(
    picture: VideoFrame, reformatter: VideoReformatter, width: int, height: int, orientation: Orientation
) -> UInt8[np.ndarray, "H W 3"]:
    """Convert a picture, scale it to (width, height) if its size has changed in mid-stream, and turn it."""
    is_hd = picture.width >= HD_WIDTH or picture.height > HD_HEIGHT
    is_untagged = picture.colorspace == UNTAGGED and not picture.format.is_rgb
    rgb = reformatter.reformat(
        picture,
        width=width,
        height=height,
        format="rgb24",
        src_colorspace=Colorspace.ITU709 if is_untagged and is_hd else None,
        threads=1,
    )
    image = orientation.apply(rgb.to_ndarray())
    return np.array(image, order="C", copy=None if image.flags.owndata else True)
