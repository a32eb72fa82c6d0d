"""Ways to say which points to track."""

from pointloom.queries.base import Sampler, VideoLike
from pointloom.queries.queries import Queries

__all__ = ["Queries", "Sampler", "VideoLike"]
