"""RoboTAP as it is published (Vecerik et al. 2023): real videos of robots, in several pickles of TAP-Vid's layout."""

from __future__ import annotations

from pathlib import Path

from pointloom.datasets.registry import register
from pointloom.datasets.tapvid import TapVid, find_files


@register(
    "robotap",
    summary="265 real videos of robots at work",
    licence="CC BY 4.0",
    citation="Vecerik et al. 2023, arXiv:2308.15975",
)
def robotap(path: Path) -> TapVid:
    """Open RoboTAP: the folder with `robotap_split0.pkl` and all the others, or one of these files.

    The files do not say how many belong together; the whole set has 265 videos.
    """
    return TapVid(find_files(path, "robotap_split*.pkl", "robotap_split0.pkl"))
