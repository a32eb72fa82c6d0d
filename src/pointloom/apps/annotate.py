"""Track a clip and leave what a person wants of it in a folder: a video with the points drawn, the numbers, a sheet.

OUT/ tracks.mp4   the clip with coloured trails; rings where a point is hidden
     tracks.npz   positions, visibility, confidence (`Tracks.load`)
     sheet.png    twelve frames side by side
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2

from pointloom.errors import OptionError
from pointloom.tracks import Tracks
from pointloom.video import Video, write_video
from pointloom.video.draw import contact_sheet, draw_track_video


@dataclass(frozen=True)
class Annotated:
    """Where the results of one clip are."""

    video: Path
    tracks: Path
    sheet: Path

    @staticmethod
    def in_folder(folder: Path, *, overwrite: bool = False) -> Annotated:
        """Name the files of a folder. Raises OptionError where one of them exists and may not be replaced."""
        files = Annotated(folder / "tracks.mp4", folder / "tracks.npz", folder / "sheet.png")
        for path in (files.video, files.tracks, files.sheet):
            if path.exists() and not overwrite:
                raise OptionError(f"{path} exists. Give another folder with -o, or allow it with --overwrite.")
        return files


def write_annotated(files: Annotated, video: Video, tracks: Tracks) -> None:
    """Write the three files; the folder is made if it is not there."""
    files.tracks.parent.mkdir(parents=True, exist_ok=True)
    tracks.save(files.tracks)
    seen = tracks.seen()
    write_video(files.video, draw_track_video(video, tracks.xy, seen), seconds=video.seconds)
    sheet = contact_sheet(video, tracks.xy, seen)
    unfinished = files.sheet.with_name(f".{files.sheet.name}.png")
    cv2.imwrite(str(unfinished), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    unfinished.replace(files.sheet)
