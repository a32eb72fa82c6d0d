"""Pictures of tracks: on single frames, as a video, and as a contact sheet.

Functions take arrays and return new ones. A point that can be seen is a filled disc, one that is hidden a ring; both
pull a trail of where they were in the last frames, which fades. Colours follow from where a point starts, so that they
stay the same in time and points that came from different places can be told apart later. Everything scales with the
frame and is placed to a sixteenth of a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pointloom.errors import OptionError
from pointloom.geometry import resize_area
from pointloom.video.read import Video

TRAIL_FRAMES = 12

# Sizes in pixels of a frame whose shorter side has REFERENCE_PX
REFERENCE_PX = 360
DISC_PX, RING_PX, OUTLINE_PX, TRAIL_PX = 3.0, 1.2, 0.7, 1.6
SMALLEST_SCALE = 0.45  # below that marks would vanish

# The contact sheet
GAP_PX, CAPTION_PX, TEXT_TOP_PX = 16, 38, 8
TEXT_SCALE = 0.55  # of OpenCV's font, which is 22 px high
SHEET_SHAPE = 1.6  # width to height
EMPTY_PLACE = 0.08
TEXT_OVERSAMPLING = 4
BACKGROUND, BRIGHT, DIM = (20, 21, 25), (214, 216, 222), (134, 138, 150)

DARK = (18, 18, 22)
OUTLINE_OPACITY = 0.6
TRAIL_OPACITY = 0.9  # of its newest piece
HIDDEN_OPACITY = 0.45  # of a trail where the point was hidden, relative to where it was seen

SUBPIXEL_BITS = 4  # OpenCV takes coordinates as integers, in 1/16 of a pixel
FARTHEST_PX = 2**15  # points beyond cannot be in any frame, and would overflow

Paint = tuple[float, float, float, float]  # RGB times opacity, and opacity, all 0..255
MARKS_KEPT: int = 2 * (2**SUBPIXEL_BITS) ** 2  # a disc and a ring at every place between pixels


def start_positions(xy: Float[np.ndarray, "N T 2"], seen: Bool[np.ndarray, "N T"]) -> Float[np.ndarray, "N 2"]:
    """Return where each point is seen first; one that is never seen, where it is known first (NaN if it never is)."""
    known = np.isfinite(xy).all(axis=-1)
    rank = np.where(known & seen, 2, known.astype(int))
    first = rank.argmax(axis=1)
    return np.take_along_axis(xy, first[:, None, None], axis=1)[:, 0]


def track_colours(xy: Float[np.ndarray, "N T 2"], seen: Bool[np.ndarray, "N T"]) -> UInt8[np.ndarray, "N 3"]:
    """Return an RGB colour for each track, from where it starts among the others."""
    starts = start_positions(xy, seen)
    known = starts[np.isfinite(starts).all(axis=-1)]
    low, high = (known.min(axis=0), known.max(axis=0)) if len(known) else (np.zeros(2), np.ones(2))
    return position_colours((starts - low) / np.maximum(high - low, 1))


def position_colours(uv: Float[np.ndarray, "N 2"]) -> UInt8[np.ndarray, "N 3"]:
    """Return an RGB colour for each position in the unit square.

    Hue runs through the circle from left to right, and a little from top to bottom; what is further down is darker.
    Equal steps look equal: the colours are chosen in OKLCH (Ottosson 2020).
    """
    u, v = np.clip(np.nan_to_num(uv, nan=0.5), 0, 1).T
    return _oklch_to_rgb(0.85 - 0.2 * v, 0.17, np.deg2rad(20 + 320 * (0.8 * u + 0.2 * v)))


def draw_tracks(
    frame: UInt8[np.ndarray, "H W 3"],
    xy: Float[np.ndarray, "N K 2"],
    seen: Bool[np.ndarray, "N K"],
    colours: UInt8[np.ndarray, "N 3"],
) -> UInt8[np.ndarray, "H W 3"]:
    """Return the frame with points drawn on it.

    `xy` and `seen` are the last K frames of each track, this one last: the discs and rings stand at `xy[:, -1]`, the
    trails lead there. NaN marks positions that are not known; nothing is drawn there.
    """
    ink = np.zeros((*frame.shape[:2], 4), np.uint8)  # RGB times opacity, and opacity
    scale = max(min(frame.shape[:2]) / REFERENCE_PX, SMALLEST_SCALE)
    known = (np.abs(np.nan_to_num(xy, nan=np.inf)) < FARTHEST_PX).all(axis=-1)
    subpixel = np.round(np.where(known[..., None], xy, 0) * 2**SUBPIXEL_BITS).astype(int)
    _draw_trails(ink, subpixel, seen, known, colours, scale)
    for is_seen in (False, True):  # what is hidden lies below
        for n in np.flatnonzero(known[:, -1] & (seen[:, -1] == is_seen)):
            _draw_mark(ink, subpixel[n, -1].tolist(), _paint(colours[n], 1.0), scale, is_seen=is_seen)
    return _laid_over(frame, ink)


def draw_track_video(
    video: Video,
    xy: Float[np.ndarray, "N T 2"],
    seen: Bool[np.ndarray, "N T"],
    *,
    colours: UInt8[np.ndarray, "N 3"] | None = None,
    trail: int = TRAIL_FRAMES,
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Yield the frames of a video with tracks drawn on them, one in memory at a time.

    `trail` is how many frames back the trails reach; colours default to `track_colours`.
    """
    _check_tracks(video, xy, seen)
    if trail < 0:
        raise OptionError(f"trail is a number of frames, 0 for none, got {trail}.")
    if colours is None:
        colours = track_colours(xy, seen)
    return (
        draw_tracks(frame, xy[:, max(0, t - trail) : t + 1], seen[:, max(0, t - trail) : t + 1], colours)
        for t, frame in enumerate(video)
    )


def contact_sheet(
    video: Video,
    xy: Float[np.ndarray, "N T 2"],
    seen: Bool[np.ndarray, "N T"],
    *,
    frames: int = 12,
    width: int = 1600,
) -> UInt8[np.ndarray, "H W 3"]:
    """Return one picture, `width` pixels wide, of evenly spaced frames with tracks, their numbers and their times."""
    _check_tracks(video, xy, seen)
    if frames < 1:
        raise OptionError(f"A contact sheet shows at least 1 frame, got {frames}.")
    chosen = np.unique(np.linspace(0, len(video) - 1, frames).round().astype(int)).tolist()
    columns = _columns(len(chosen), video.size)
    tile_width = (width - GAP_PX) // columns - GAP_PX
    tile_height = round(tile_width * video.size[1] / video.size[0])
    if tile_width < 1 or tile_height < 1:
        raise OptionError(f"{columns} frames do not fit side by side into {width} pixels. Make the sheet wider.")
    tile = tile_width, tile_height
    rows = -(-len(chosen) // columns)
    sheet = np.full((GAP_PX + rows * (tile_height + CAPTION_PX), width, 3), BACKGROUND, np.uint8)

    colours = track_colours(xy, seen)
    for place, t in enumerate(chosen):
        left = GAP_PX + place % columns * (tile_width + GAP_PX)
        top = GAP_PX + place // columns * (tile_height + CAPTION_PX)
        recent = slice(max(0, t - TRAIL_FRAMES), t + 1)
        small = cv2.resize(video[t], tile, interpolation=cv2.INTER_AREA)
        drawn = draw_tracks(small, resize_area(xy[:, recent], video.size, tile), seen[:, recent], colours)
        sheet[top : top + tile_height, left : left + tile_width] = drawn
        caption = sheet[top + tile_height + TEXT_TOP_PX :, left : left + tile_width]
        number, time = _text(f"frame {t}"), _text(f"{video.seconds[t]:.2f} s")
        _print(caption, number, BRIGHT)
        _print(caption[:, -time.shape[1] :], time, DIM)
    return sheet


def _columns(tiles: int, size: tuple[int, int]) -> int:
    """How many columns make the sheet most like a page of SHEET_SHAPE, without an empty place if there is a choice."""

    def unlikeness(columns: int) -> float:
        rows = -(-tiles // columns)
        shape = columns * size[0] / (rows * size[1])
        return abs(np.log(shape / SHEET_SHAPE)) + EMPTY_PLACE * (rows * columns - tiles)

    return min(range(1, tiles + 1), key=unlikeness)


def _check_tracks(video: Video, xy: np.ndarray, seen: np.ndarray) -> None:
    if xy.ndim != 3 or xy.shape[2] != 2 or seen.shape != xy.shape[:2]:
        raise OptionError(f"Tracks are xy (N, T, 2) and seen (N, T), got {xy.shape} and {seen.shape}.")
    if xy.shape[1] != len(video):
        raise OptionError(f"The tracks have {xy.shape[1]} frames, but {video.name} has {len(video)}.")


def _draw_trails(
    ink: np.ndarray, subpixel: np.ndarray, seen: np.ndarray, known: np.ndarray, colours: np.ndarray, scale: float
) -> None:
    """Draw pieces from the oldest to the newest, each more opaque; those that stay below the mark are left out."""
    pieces = subpixel.shape[1] - 1
    if pieces < 1:
        return
    from_mark = np.linalg.norm(subpixel - subpixel[:, -1:], axis=-1)  # (N, K)
    below_mark = np.maximum(from_mark[:, 1:], from_mark[:, :-1]) < DISC_PX * scale * 2**SUBPIXEL_BITS
    is_drawn = known[:, 1:] & known[:, :-1] & ~(below_mark & known[:, -1:])
    fade = TRAIL_OPACITY * (np.arange(1, pieces + 1) / pieces) ** 1.5
    opacity = fade * np.where(seen[:, 1:] & seen[:, :-1], 1, HIDDEN_OPACITY)  # (N, K - 1)
    thickness = max(1, round(TRAIL_PX * scale))
    for k, n in np.argwhere(is_drawn.T).tolist():
        start, end = subpixel[n, k : k + 2].tolist()
        cv2.line(ink, start, end, _paint(colours[n], opacity[n, k]), thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def _draw_mark(ink: np.ndarray, centre: list[int], paint: Paint, scale: float, *, is_seen: bool) -> None:
    """Put a disc or a ring around a point, given in sixteenths of a pixel; what lies outside the frame is cut off."""
    (x, phase_x), (y, phase_y) = (divmod(c, 2**SUBPIXEL_BITS) for c in centre)
    mark = _mark(scale, phase_x, phase_y, is_seen)
    left, top = x - mark.reach, y - mark.reach
    patch = ink[max(top, 0) : max(y + mark.reach + 1, 0), max(left, 0) : max(x + mark.reach + 1, 0)]
    rows, columns = (
        slice(max(-first, 0), max(-first, 0) + n) for first, n in zip((top, left), patch.shape, strict=False)
    )
    inked = mark.colour[rows, columns] * paint + mark.dark[rows, columns] * _paint(DARK, OUTLINE_OPACITY)
    patch[:] = np.round(inked + mark.kept[rows, columns] * patch)


class _Mark(NamedTuple):
    """Shares of each pixel (h, h, 1) that a mark gives to its colour, to its outline and to what was there before."""

    reach: int
    colour: np.ndarray
    dark: np.ndarray
    kept: np.ndarray


@lru_cache(maxsize=MARKS_KEPT)
def _mark(scale: float, phase_x: int, phase_y: int, is_seen: bool) -> _Mark:
    """Work out a mark whose centre lies between pixels. OpenCV's own small circles look like diamonds."""
    reach = math.ceil((DISC_PX + OUTLINE_PX) * scale + 1)
    offset = np.arange(-reach, reach + 1)
    distance = np.hypot(offset - phase_x / 2**SUBPIXEL_BITS, offset[:, None] - phase_y / 2**SUBPIXEL_BITS)[..., None]

    def inside(radius_px: float) -> np.ndarray:
        return np.clip(radius_px * scale + 0.5 - distance, 0, 1)

    outline, disc = inside(DISC_PX + OUTLINE_PX), inside(DISC_PX)
    hole = np.zeros_like(disc) if is_seen else inside(DISC_PX - RING_PX)
    return _Mark(
        reach,
        colour=(1 - hole) * disc,
        dark=(1 - hole) * (1 - disc) * outline,
        kept=(1 - hole) * (1 - disc) * (1 - outline),
    )


def _paint(colour: np.ndarray | tuple[int, int, int], opacity: float) -> Paint:
    red, green, blue = (float(channel) * opacity for channel in colour)
    return red, green, blue, 255 * opacity


def _laid_over(frame: UInt8[np.ndarray, "H W 3"], ink: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 3"]:
    clear = cv2.merge([255 - ink[..., 3]] * 3)
    return cv2.add(cv2.multiply(frame, clear, scale=1 / 255), ink[..., :3])


def _oklch_to_rgb(lightness: np.ndarray, chroma: float, hue: np.ndarray) -> UInt8[np.ndarray, "N 3"]:
    """Convert from OKLCH to 8-bit sRGB; what lies outside is clipped. Matrices from Ottosson 2020."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    cone = np.stack([lightness, a, b], -1) @ np.array(
        [[1, 1, 1], [0.3963377774, -0.1055613458, -0.0894841775], [0.2158037573, -0.0638541728, -1.2914855480]]
    )
    linear = cone**3 @ np.array(
        [
            [4.0767416621, -1.2684380046, -0.0041960863],
            [-3.3077115913, 2.6097574011, -0.7034186147],
            [0.2309699292, -0.3413193965, 1.7076147010],
        ]
    )
    linear = np.clip(linear, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * encoded).astype(np.uint8)


def _text(text: str) -> Float[np.ndarray, "h w 1"]:
    """Return the opacity, 0..1, of a line of text. Drawn larger and reduced, which is smoother."""
    font, scale, thickness = cv2.FONT_HERSHEY_SIMPLEX, TEXT_OVERSAMPLING * TEXT_SCALE, TEXT_OVERSAMPLING + 1
    (width, height), below = cv2.getTextSize(text, font, scale, thickness)
    large = np.zeros((height + below + 2 * thickness, width), np.uint8)
    cv2.putText(large, text, (0, height + thickness), font, scale, (255,), thickness, cv2.LINE_AA)
    smaller = 1 / TEXT_OVERSAMPLING
    return cv2.resize(large, None, fx=smaller, fy=smaller, interpolation=cv2.INTER_AREA)[..., None] / 255


def _print(image: UInt8[np.ndarray, "h w 3"], text: Float[np.ndarray, "l s 1"], colour: tuple[int, int, int]) -> None:
    """Lay text over the upper part of an image, in place; what does not fit is cut off."""
    height, width = min(image.shape[0], text.shape[0]), min(image.shape[1], text.shape[1])
    opacity = text[:height, :width]
    image[:height, :width] = np.round(image[:height, :width] * (1 - opacity) + np.array(colour) * opacity)
