"""Reading pickles of published data sets without trusting them: arrays, numbers, text, plain containers, nothing else.

A pickle is a program: it names functions and calls them. Here it may name only what NumPy's own pickles name, and even
those are not NumPy's: each is replaced by a function of this file that accepts what NumPy writes and refuses the rest.
That is needed, since the originals can be misused: `numpy.ndarray` allocates any size, and a `numpy.dtype` whose flags
are altered makes an array take bytes of the file for addresses of objects.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pointloom.errors import DatasetError, UnsafeFileError

NUMBER_OR_TEXT = re.compile(r"[<>|=]?(b1|i[1248]|u[1248]|f[248]|c8|c16|S\d+|U\d+)")
OBJECT = re.compile(r"\|?O8?")

# what a file that is cut off, damaged or made to confuse leads to
_UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
)


def load_pickle(path: Path) -> Any:
    """Read a pickle that holds arrays, numbers, text and plain containers of these.

    Raises UnsafeFileError for anything that asks for more, naming what it asked for, and DatasetError for a file that
    is damaged. Arrays may be of a subclass; `np.asarray` gives the plain ones.
    """
    return _reading(path, _load)


def load_npy(path: Path) -> Any:
    """Read an `.npy` that holds an object, such as `np.save` makes of a dictionary. Errors as in `load_pickle`."""
    return _reading(path, _load_npy)


def _reading(path: Path, load: Callable[[BinaryIO], Any]) -> Any:
    try:
        with path.open("rb") as file:
            return load(file)
    except _ForbiddenError as error:
        raise UnsafeFileError(
            f"{path} asks for {error} while it is read, so it was not read. A data set needs arrays and plain "
            f"containers only: get the file from its publisher again."
        ) from error
    except _UNREADABLE as error:
        raise DatasetError(f"{path} is damaged, or not a file of this kind: {error}. Is the copy complete?") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error


def _load(file: BinaryIO) -> Any:
    return _ArraysOnly(file).load()


def _load_npy(file: BinaryIO) -> Any:
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if shape or not dtype.hasobject:
        raise ValueError(f"it holds an array of {dtype} of the shape {shape}, not an object")
    return _load(file).item()


class _ForbiddenError(Exception):
    """A pickle asked for something that is not allowed. The text names it."""


class _ArraysOnly(pickle.Unpickler):
    """Knows the names in `_ALLOWED` and no others."""

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up that the pickle wants to call."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _ForbiddenError(f"{module}.{name}") from None


class _Callable:
    """A function that a pickle may call. Nothing about it can be changed: a pickle can also set attributes."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _ForbiddenError("an attribute of a function")

    def __setstate__(self, state: Any) -> None:
        raise _ForbiddenError("the state of a function")


class _Dtype:
    """Type of numbers, text or objects, built from its name alone: flags that come with it count for nothing."""

    __slots__ = ("dtype",)

    def __init__(self, name: str, *_: object) -> None:
        if not (isinstance(name, str) and (NUMBER_OR_TEXT.fullmatch(name) or OBJECT.fullmatch(name))):
            raise _ForbiddenError(f"arrays of type {name!r}")
        self.dtype: np.dtype[Any] = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take the order of bytes from what NumPy says of a type, if there is nothing unusual in it."""
        _, order, subtype, names, fields, *_ = state
        if order not in ("<", ">", "|", "=") or (subtype, names, fields) != (None, None, None):
            raise _ForbiddenError("arrays with fields")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray[Any, Any]):
    """An array whose content is checked when the pickle brings it."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Fill the array. NumPy checks that the content has the length that shape and type ask for."""
        version, shape, kind, fortran, content = state
        if not isinstance(kind, _Dtype) or not isinstance(content, list if kind.dtype.hasobject else bytes):
            raise _ForbiddenError("an array of something else")
        super().__setstate__((version, shape, kind.dtype, fortran, content))


_NDARRAY = _Callable(lambda *_: _refuse("a call of numpy.ndarray"))


def _reconstruct(kind: object, shape: object, *_: object) -> _Array:
    """Begin an array that is filled later, as NumPy's pickles do: always with none of its numbers."""
    if kind is not _NDARRAY or shape != (0,):
        _refuse("an array that is not numpy.ndarray")
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _scalar(kind: _Dtype, content: bytes) -> Any:
    if not isinstance(kind, _Dtype) or kind.dtype.hasobject or len(content) != kind.dtype.itemsize:
        _refuse("a number of something else")
    return np.frombuffer(content, kind.dtype)[0]


def _frombuffer(content: bytes | bytearray, kind: _Dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:
    if not isinstance(kind, _Dtype) or kind.dtype.hasobject:
        _refuse("an array of something else")
    return np.frombuffer(content, kind.dtype).reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    """Bytes, as protocols 0 to 2 write them."""
    if encoding != "latin1":
        _refuse(f"the encoding {encoding!r}")
    return text.encode(encoding)


def _no_bytes(*arguments: object) -> bytes:
    """No bytes at all, as protocols 0 to 2 write them."""
    if arguments:
        _refuse("bytes out of something else")
    return b""


def _refuse(what: str) -> None:
    raise _ForbiddenError(what)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Callable(_Dtype),
    ("_codecs", "encode"): _Callable(_encode),
}
for _builtins in ("builtins", "__builtin__"):  # from protocol 3 on, and before
    _ALLOWED[_builtins, "set"] = _Callable(set)
    _ALLOWED[_builtins, "bytes"] = _Callable(_no_bytes)
for _core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _Callable(_reconstruct)
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _Callable(_scalar)
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _Callable(_frombuffer)
