"""The errors that Pointloom raises on purpose.

    PointloomError
    ├── OptionError          an option or a combination of options makes no sense
    ├── QueryError           a query lies outside the video, is not a number, ...
    ├── VideoError           a video cannot be read or written
    │   └── CorruptVideoError    it can be read in part only, and strict mode was asked for
    ├── ModelError           a model is unknown, or its weights do not fit
    │   └── UnsafeFileError      a file asks to run code when it is loaded
    ├── FormatError          a file of ours has a version or a content that is not understood
    ├── DatasetError         a data set is missing, incomplete or laid out differently
    ├── MissingExtraError    an optional dependency is not installed
    └── NoOpenGLError        nothing is there that draws without a screen

Each message says what was wrong, with which value, and what to do. What was survived is a `PointloomWarning`.
"""

from __future__ import annotations


class PointloomError(Exception):
    """Base of everything that Pointloom raises on purpose."""


class OptionError(PointloomError, ValueError):
    """An option, or a combination of options, makes no sense."""


class QueryError(PointloomError, ValueError):
    """A query cannot be tracked: outside the video, not a number, of the wrong shape."""


class VideoError(PointloomError):
    """A video cannot be read or written."""


class CorruptVideoError(VideoError):
    """A video ends before its declared end or has a fault, and strict reading was asked for."""


class ModelError(PointloomError):
    """A model name is unknown, or a checkpoint does not fit the model."""


class UnsafeFileError(ModelError):
    """A file would run code of its author when it is loaded."""


class FormatError(PointloomError):
    """A file has a format, a version or a content that this version does not understand."""


class DatasetError(PointloomError):
    """A data set is missing, incomplete, or not laid out as its reader expects."""


class MissingExtraError(PointloomError, ImportError):
    """An optional dependency is not installed; the message is the line to type."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"This needs {package}. Install it with: pip install 'pointloom[{extra}]'")


class NoOpenGLError(PointloomError):
    """There is no OpenGL that can draw without a screen."""


class PointloomWarning(UserWarning):
    """Something was wrong, and was survived."""
