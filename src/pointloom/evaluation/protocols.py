"""How an evaluation is done, as values with a name and a version: what a score means, and whether two can be compared.

    pointloom-1                      frames as they are, queries where a point is first seen, forward
    tapvid-first, tapvid-strided     TAP-Vid (Doersch et al. 2022): 256 x 256, queries first or every fifth frame
    ...-alone                        each query by itself with support points around it: TAP-Vid's rule that an answer
                                     must not depend on the other queries, and slow
    cotracker3-...                   as CoTracker3's numbers were published (Karaev et al. 2024), oddities included

A protocol never changes: another choice is another version. Everything that it fixes is written into each prediction,
and a prediction made by another protocol is refused.

Positions go through three frames: the video, the frames that the tracker is given (`resolution`), and 256 x 256, where
distances are measured. `enter`, `leave` and `measured` lead from one to the next, by the rule `coordinates`.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from pointloom import geometry
from pointloom.errors import MissingExtraError, OptionError
from pointloom.evaluation.metrics import EVALUATION_SIZE, ResizeRule, to_evaluation
from pointloom.tracking import batches, official
from pointloom.tracks import SEEN, SEEN_RULES, SeenRule

Driver = Literal["tracker", "official"]
QueryChoice = Literal["first", "strided", "frame-0"]
Scoring = Literal["tapvid", "dynamic-replica"]


@dataclass(frozen=True)
class Protocol:
    """A recipe for evaluating.

    resolution     (width, height) to which frames are resized before tracking, with a Lanczos filter; None: as they are
    queries        `first`: where a point is first seen; `strided`: every fifth frame; `frame-0`: every track, there
    coordinates    `area`: the corners of the frame stay in place (TAP-Vid). `aligned`: the centres of its corner pixels
                   do (CoTracker), and positions enter a resized frame as (W - 1, H - 1) times their share of the frame
    driver         `tracker` is `Tracker`, `official` the published predictors, which stream an online model
    direction      `both` also tracks the frames before a query, backwards; what the official driver leaves there is its
                   own affair
    per_query      each query is tracked by itself
    support_grid   n x n points over the frame that keep the queries company
    support_local  n x n points around a query that is tracked by itself
    iterations     refinements; None: as many as the model was made for
    seen           from which probabilities a point counts as visible
    scoring        `tapvid`: AJ, delta, OA; `dynamic-replica`: delta of visible and of hidden points, survival
    """

    name: str
    version: int
    summary: str
    resolution: tuple[int, int] | None = None
    queries: QueryChoice = "first"
    coordinates: ResizeRule = "area"
    driver: Driver = "tracker"
    direction: Literal["forward", "both"] = "forward"
    per_query: bool = False
    support_grid: int = 0
    support_local: int = 0
    iterations: int | None = None
    seen: SeenRule = SEEN
    scoring: Scoring = "tapvid"

    def as_meta(self) -> dict[str, Any]:
        """Return everything that the protocol fixes, as JSON can hold it."""
        fields = dataclasses.asdict(self)
        del fields["summary"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    def frame_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of the frames that are tracked, for a video of `size`."""
        return self.resolution or size

    def frames(self, video: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H W 3"]:
        """Return the frames that are tracked."""
        size = video.shape[2], video.shape[1]
        if self.frame_size(size) == size:
            return np.ascontiguousarray(video)
        return lanczos(video, self.frame_size(size))

    def enter(self, xy: Any, size: tuple[int, int]) -> Any:
        """Move points from a video of `size` into the frames that are tracked."""
        if self.resolution is None:
            return xy
        if self.coordinates == "area":
            return geometry.resize_area(xy, size, self.resolution)
        return geometry.to_raster(xy) * self._corner_scale(size).astype(xy.dtype)

    def leave(self, xy: Any, size: tuple[int, int]) -> Any:
        """Move points from the frames that were tracked into the video of `size`."""
        if self.resolution is None:
            return xy
        if self.coordinates == "area":
            return geometry.resize_area(xy, self.resolution, size)
        return geometry.from_raster(xy / self._corner_scale(size).astype(xy.dtype))

    def measured(self, xy: Any, size: tuple[int, int]) -> Any:
        """Move points from the frames that were tracked to 256 x 256; `size` is that of the video."""
        frame = self.frame_size(size)
        return xy if frame == EVALUATION_SIZE else to_evaluation(xy, frame, rule=self.coordinates)

    def _corner_scale(self, size: tuple[int, int]) -> np.ndarray:
        """Pixels of a resized frame for each raster pixel: the share 1 of a frame lies on its last pixel centre."""
        assert self.resolution is not None
        return (np.array(self.resolution) - 1) / np.array(size)


def lanczos(video: UInt8[np.ndarray, "T H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "T h w 3"]:
    """Resize frames to (width, height) as TAP-Vid's readers do: by Pillow's Lanczos filter."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("Pillow", "evaluate") from error
    frames = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in video]
    return np.stack(frames) if frames else np.zeros((0, size[1], size[0], 3), np.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# The protocols
# ---------------------------------------------------------------------------------------------------------------------

POINTLOOM = Protocol("pointloom-1", 1, "frames as they are, first query, forward, all points together")

TAPVID_FIRST = Protocol(
    "tapvid-first", 1, "TAP-Vid: 256 x 256, first query, forward, all points together", resolution=EVALUATION_SIZE
)
TAPVID_STRIDED = replace(
    TAPVID_FIRST,
    name="tapvid-strided",
    summary="TAP-Vid: 256 x 256, queries every fifth frame, both directions, all points together",
    queries="strided",
    direction="both",
)

COTRACKER3_FIRST = Protocol(
    "cotracker3-first",
    1,
    "CoTracker3's released numbers: 256 x 256, first query; online models stream, others see 5 x 5 support points",
    resolution=EVALUATION_SIZE,
    coordinates="aligned",
    driver="official",
    support_grid=official.GLOBAL_GRID,
    iterations=official.ITERATIONS,
    seen=SEEN_RULES["cotracker3-evaluation"],
)
COTRACKER3_STRIDED = replace(
    COTRACKER3_FIRST,
    name="cotracker3-strided",
    summary="the same, queries every fifth frame; frames before a query are whatever the forward run leaves there",
    queries="strided",
)


def _alone(protocol: Protocol, summary: str) -> Protocol:
    """Track each query by itself, in company of support points around it and over the frame."""
    grids = official if protocol.driver == "official" else batches
    return replace(
        protocol,
        name=f"{protocol.name}-alone",
        summary=summary,
        per_query=True,
        support_grid=grids.GLOBAL_GRID,
        support_local=grids.LOCAL_GRID,
    )


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        POINTLOOM,
        TAPVID_FIRST,
        TAPVID_STRIDED,
        _alone(TAPVID_FIRST, "TAP-Vid, first query, each by itself"),
        _alone(TAPVID_STRIDED, "TAP-Vid, queries every fifth frame, each by itself"),
        COTRACKER3_FIRST,
        COTRACKER3_STRIDED,
        _alone(COTRACKER3_FIRST, "the numbers of CoTracker3's paper: each query by itself; online models stream"),
        _alone(COTRACKER3_STRIDED, "the same, queries every fifth frame"),
        replace(
            COTRACKER3_FIRST,
            name="cotracker3-dynamic-replica",
            summary="CoTracker3 on Dynamic Replica: frames as they are, all queries in frame 0",
            resolution=None,
            queries="frame-0",
            scoring="dynamic-replica",
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """Look a protocol up by name; an unknown one is answered with the nearest known names."""
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    near = difflib.get_close_matches(name, PROTOCOLS, n=2, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise OptionError(f"no protocol is called {name!r}. {hint}Known: {', '.join(PROTOCOLS)}.")
