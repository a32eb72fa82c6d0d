"""Videos in and out, and what can be drawn on them."""

from pointloom.video.draw import contact_sheet, draw_track_video, draw_tracks, track_colours
from pointloom.video.read import Video, open_video, read_images
from pointloom.video.source import Limits
from pointloom.video.write import write_video

__all__ = [
    "Limits",
    "Video",
    "contact_sheet",
    "draw_track_video",
    "draw_tracks",
    "open_video",
    "read_images",
    "track_colours",
    "write_video",
]
