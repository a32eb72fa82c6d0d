"""Track any point in any video: where it is, whether it can be seen, and how sure that is.

    from pointloom import Queries, Tracker, load_model, open_video

    tracks = Tracker(load_model("tiny")).track(open_video("clip.mp4"), Queries.grid(20))

The public names are those below; each is imported when it is first used, so `import pointloom` itself loads nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pointloom.models.weight_files import load_model
    from pointloom.models.zoo import list_models
    from pointloom.queries import Queries
    from pointloom.tracking.stream import Stream
    from pointloom.tracking.tracker import Tracker
    from pointloom.tracks import Tracks
    from pointloom.video import open_video, write_video

__version__ = "0.1.0"

__all__ = [
    "Queries",
    "Stream",
    "Tracker",
    "Tracks",
    "__version__",
    "list_models",
    "load_model",
    "open_video",
    "write_video",
]

_HOME = {
    "Queries": "pointloom.queries",
    "Stream": "pointloom.tracking.stream",
    "Tracker": "pointloom.tracking.tracker",
    "Tracks": "pointloom.tracks",
    "list_models": "pointloom.models.zoo",
    "load_model": "pointloom.models.weight_files",
    "open_video": "pointloom.video",
    "write_video": "pointloom.video",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the module where it lives."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
