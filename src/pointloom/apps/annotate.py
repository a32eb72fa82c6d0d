"""Track a clip and leave what a person wants of it in a folder: a video with the points drawn, the numbers, a sheet.

OUT/ tracks.mp4   the clip with coloured trails; rings where a point is hidden
     tracks.npz   positions, visibility, confidence (`Tracks.load`)
     sheet.png    twelve frames side by side
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2

from pointloom.errors import OptionError, VideoError
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
        """Name the files of a folder, which need not exist.

        Raises OptionError where one of them exists and may not be replaced, or where no such folder can be made.
        """
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise OptionError(f"{folder} cannot be a folder for results: see {there}. Give another one with -o.")
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
    if not cv2.imwrite(str(unfinished), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)):
        raise VideoError(f"{files.sheet} could not be written. Is the disk full?")
    unfinished.replace(files.sheet)
