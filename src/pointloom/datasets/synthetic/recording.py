"""From a drawn canvas to a frame of video: lens, light, sensor and compression.

None of this moves a point; all of it changes how a point looks from frame to frame, which is what a tracker has to
bear. A `Recording` is drawn once for a clip and then applied to each frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, Int16, UInt8

from pointloom.datasets.synthetic.config import LayeredConfig
from pointloom.datasets.synthetic.motion import swing, wave

Frame = UInt8[np.ndarray, "H W 3"]

NOISE_LEVELS = (0.0, 1.0, 2.0, 4.0, 8.0)  # standard deviation in grey levels of 255
NOISE_SHIFT = 64  # how far a frame's noise can be moved within the pool
COMPRESSED_SHARE = 1 / 3
JPEG_QUALITY = (30, 90)
DEFOCUS_SHARE = 0.15  # clips in which the focus wanders
VIGNETTE_SHARE = 0.3
SHARPENED_SHARE = 0.15


@dataclass(frozen=True)
class Recording:
    """How a clip is recorded.

    size      (width, height) of the frames
    tone      look-up table of each frame and channel: exposure, gamma, white balance
    defocus   sigma of the lens blur in each frame, pixels
    vignette  darkening towards the corners (255 is none), or None
    sharpen   strength of the sharpening that many cameras apply
    noise     noise to cut frames' grain from, or None
    quality   of the JPEG compression, or None
    """

    size: tuple[int, int]
    tone: UInt8[np.ndarray, "T 256 3"]
    defocus: Float[np.ndarray, " T"]
    vignette: Frame | None
    sharpen: float
    noise: Int16[np.ndarray, "H2 W2 3"] | None
    quality: int | None

    def develop(self, canvas: UInt8[np.ndarray, "h w 3"], t: int, rng: np.random.Generator) -> Frame:
        """The canvas of frame `t` as the recorded frame."""
        frame, size = canvas, self.size
        if self.defocus[t] > 0.2:
            frame = cv2.GaussianBlur(frame, (0, 0), float(self.defocus[t]), borderType=cv2.BORDER_REPLICATE)
        if frame.shape[1::-1] != size:
            method = cv2.INTER_AREA if frame.shape[1] > size[0] else cv2.INTER_LINEAR
            frame = cv2.resize(frame, size, interpolation=method)
        frame = cv2.LUT(frame, self.tone[t][None])
        if self.vignette is not None:
            frame = cv2.multiply(frame, self.vignette, scale=1 / 255)
        if self.sharpen > 0:
            soft = cv2.GaussianBlur(frame, (3, 3), 0)
            frame = cv2.addWeighted(frame, 1 + self.sharpen, soft, -self.sharpen, 0)
        if self.noise is not None:
            top, left = rng.integers(0, NOISE_SHIFT, 2)
            grain = self.noise[top : top + size[1], left : left + size[0]]
            frame = cv2.add(frame, grain, dtype=cv2.CV_8U)
        if self.quality is not None:
            frame = _compressed(frame, self.quality)
        return np.asarray(frame)


def random_recording(rng: np.random.Generator, config: LayeredConfig) -> Recording:
    """Draw how a clip is recorded. A wear of 0 leaves the picture as it is."""
    frames, size, wear = config.frames, config.size, config.wear
    level = float(rng.choice(NOISE_LEVELS)) * wear
    compressed = rng.random() < COMPRESSED_SHARE * (wear > 0)
    quality = round(100 - wear * (100 - rng.uniform(*JPEG_QUALITY))) if compressed else None
    blurred = rng.random() < DEFOCUS_SHARE
    defocus = np.abs(swing(rng, frames, 2.0 * wear)) if blurred else np.zeros(frames)
    vignette = _vignette(size, rng.uniform(0.1, 0.6) * wear) if rng.random() < VIGNETTE_SHARE else None
    sharpen = rng.uniform(0.3, 1.5) * wear if rng.random() < SHARPENED_SHARE else 0.0
    return Recording(
        size=size,
        tone=_tone(rng, frames, wear),
        defocus=defocus,
        vignette=vignette,
        sharpen=sharpen,
        noise=_grain(rng, size, level) if level > 0 else None,
        quality=quality,
    )


def _compressed(frame: Frame, quality: int) -> Frame:
    rgb_to_bgr = frame[..., ::-1]
    _, packed = cv2.imencode(".jpg", rgb_to_bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR_RGB), np.uint8)


def _tone(rng: np.random.Generator, frames: int, wear: float) -> UInt8[np.ndarray, "T 256 3"]:
    """Exposure, gamma and white balance: a fixed part and, in half of the clips, one that changes slowly."""
    changing = wear if rng.random() < 0.5 else 0.0
    exposure = np.exp(
        rng.normal(0, 0.15 * wear) + swing(rng, frames, 0.35 * changing) + wave(rng, frames, 0.05 * changing)
    )
    gamma = np.exp(rng.normal(0, 0.15 * wear) + swing(rng, frames, 0.2 * changing))
    balance = np.exp(rng.normal(0, 0.06 * wear, 3))
    drift = rng.normal(0, 0.08 * changing, 3) * swing(rng, frames, 1.0)[:, None]  # (T, 3)
    lift = rng.uniform(0, 20) * wear  # blacks are rarely black
    grey = np.arange(256)[:, None] / 255  # (256, 1)
    curve = grey ** gamma[:, None, None] * (exposure[:, None] * balance * np.exp(drift))[:, None]  # (T, 256, 3)
    return np.clip(np.rint(lift + (255 - lift) * curve), 0, 255).astype(np.uint8)


def _vignette(size: tuple[int, int], strength: float) -> Frame:
    x, y = np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1])[:, None]
    light = 1 - strength * (x * x + y * y) / 2
    return np.repeat(np.rint(255 * light).astype(np.uint8)[..., None], 3, axis=2)


def _grain(rng: np.random.Generator, size: tuple[int, int], level: float) -> Int16[np.ndarray, "H2 W2 3"]:
    """Noise a little larger than a frame; coloured or grey, fine or coarse as after a camera's own filter."""
    height, width = size[1] + NOISE_SHIFT, size[0] + NOISE_SHIFT
    pool = _noise_pool(height, width)
    pool = np.roll(pool, tuple(rng.integers(0, (height, width))), axis=(0, 1))
    if rng.random() < 0.3:
        pool = np.repeat(pool[..., :1], 3, axis=2)
    if rng.random() < 0.3:
        pool = cv2.GaussianBlur(pool, (3, 3), 0) * 2
    return np.rint(pool * level).astype(np.int16)


@lru_cache(maxsize=4)
def _noise_pool(height: int, width: int) -> Float[np.ndarray, "height width 3"]:
    """Gaussian noise, the same in every process: drawing it anew for each clip would cost more than the clip."""
    return np.random.default_rng(0).standard_normal((height, width, 3), dtype=np.float32)
