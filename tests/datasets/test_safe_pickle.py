"""Pickles of strangers: what NumPy writes is read, whatever else is named is refused and never run."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pointloom.datasets.safe_pickle import load_npy, load_pickle
from pointloom.errors import DatasetError, UnsafeFileError

CONTENT = {
    "float32": np.linspace(0, 1, 6, dtype=np.float32).reshape(3, 2),
    "big-endian": np.arange(4, dtype=">f8"),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "not contiguous": np.arange(12).reshape(3, 4)[:, ::2],
    "bool": np.array([True, False]),
    "bytes": np.array([b"\xff\xd8 one", b"\xff\xd8 two, longer"]),
    "text": np.array(["camel", "dog"]),
    "empty": np.zeros((0, 24, 2), np.float32),
    "objects": np.array([b"a", [1, 2.5], None], object),
    "scalar": np.float32(1.5),
    "scalar text": np.str_("cow"),
    "number": 3,
    "nested": [{"a": (1, 2.5, None, True)}, {"b"}, b"bytes", "text"],
}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return (
            a.dtype.newbyteorder("=") == b.dtype.newbyteorder("=") and a.shape == b.shape and a.tolist() == b.tolist()
        )
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", CONTENT)
def test_what_numpy_and_plain_containers_write_is_read_back(tmp_path, name, protocol):
    file = write(tmp_path / "a.pkl", pickle.dumps(CONTENT[name], protocol))
    assert same(CONTENT[name], load_pickle(file))


def test_arrays_of_older_numpy_are_read(tmp_path):
    """NumPy 1 named its functions `numpy.core`, NumPy 2 names them `numpy._core`."""
    content = pickle.dumps(CONTENT["float32"], 3).replace(b"numpy._core", b"numpy.core")
    assert same(CONTENT["float32"], load_pickle(write(tmp_path / "a.pkl", content)))


def test_a_dictionary_in_an_npy_is_read(tmp_path):
    np.save(tmp_path / "a.npy", {"coords": CONTENT["float32"]}, allow_pickle=True)
    content = load_npy(tmp_path / "a.npy")
    assert list(content) == ["coords"]
    assert same(CONTENT["float32"], content["coords"])


def test_an_npy_of_numbers_is_no_object(tmp_path):
    np.save(tmp_path / "a.npy", CONTENT["float32"])
    with pytest.raises(DatasetError, match=r"an array of float32 of the shape \(3, 2\), not an object"):
        load_npy(tmp_path / "a.npy")


# --- hostile files ----------------------------------------------------------------------------------------------------


class Calls:
    """Pickles into a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Sets(Calls):
    """Pickles into a call of `function`, whose result then gets `state`."""

    def __init__(self, function: Any, *arguments: Any, state: Any) -> None:
        self.call = function, arguments, state


RECONSTRUCT = np.zeros(0).__reduce__()[0]
ADDRESSES = struct.pack("Q", 0x4141414141414141)


def global_named(module: str, name: str) -> bytes:
    return b"c" + f"{module}\n{name}\n".encode()


HOSTILE = {
    "a command": (pickle.dumps(Calls(os.system, "touch ran")), "system"),
    "eval": (pickle.dumps(Calls(eval, "open('ran', 'w')")), r"builtins\.eval"),
    "a file": (pickle.dumps(Calls(open, "ran", "w")), "open"),
    "getattr": (pickle.dumps(Calls(getattr, "", "join")), r"builtins\.getattr"),
    "an import": (pickle.dumps(Calls(__import__, "antigravity")), r"builtins\.__import__"),
    "old protocol": (pickle.dumps(Calls(os.system, "touch ran"), 0), "system"),
    "a name within a name": (b"\x80\x04\x8c\x05numpy\x8c\x0bdtype.dtype\x93.", r"numpy\.dtype\.dtype"),
    "numpy loading another file": (global_named("numpy", "load") + b".", r"numpy\.load"),
    "a record in an array of objects": (pickle.dumps(np.array([Calls(os.system, "touch ran")], object)), "system"),
    "memory": (pickle.dumps(Calls(np.ndarray, (10**14,), np.dtype("u1"))), r"numpy\.ndarray"),
    "memory, another way": (pickle.dumps(Calls(RECONSTRUCT, np.ndarray, (10**14,), b"b")), r"numpy\.ndarray"),
    "another kind of array": (pickle.dumps(Calls(RECONSTRUCT, set, (0,), b"b")), r"numpy\.ndarray"),
    "bytes as addresses of objects": (
        pickle.dumps(Sets(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (1,), np.dtype("O"), False, ADDRESSES))),
        "an array of something else",
    ),
    "a number that is an address": (
        pickle.dumps(Calls(np.float32(0).__reduce__()[0], np.dtype("O"), ADDRESSES)),
        "something else",
    ),
    "fields": (pickle.dumps(np.zeros(2, [("a", "f4")])), "arrays of type 'V4'"),
    "dates": (pickle.dumps(np.zeros(2, "M8[s]")), "arrays of type 'M8'"),
    "changing a function": (
        global_named("_codecs", "encode") + b"N}X\x08\x00\x00\x00__call__K\x01s\x86b.",
        "attribute of a function|state of a function",
    ),
    "changing numpy.ndarray": (global_named("numpy", "ndarray") + b"}b.", "state of a function"),
    "zeros without end": (pickle.dumps(Calls(bytes, 10**14), 0), "bytes"),
    "a compressed bomb": (global_named("_codecs", "encode") + b"(X\x01\x00\x00\x00aX\x04\x00\x00\x00zlibtR.", "'zlib'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_by_the_name_of_what_it_asks_for(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content, asked = HOSTILE[name]
    with pytest.raises(UnsafeFileError, match=rf"a\.pkl asks for .*({asked}).* while it is read"):
        load_pickle(write(tmp_path / "a.pkl", content))
    assert not (tmp_path / "ran").exists()


def test_flags_of_a_type_do_not_turn_bytes_into_addresses(tmp_path):
    """A type of objects whose flags say that it holds none: NumPy itself would take the bytes for addresses."""
    order, flags = "|", 0
    hostile = Sets(np.dtype, "O8", False, True, state=(3, order, None, None, None, 8, 8, flags))
    array = Sets(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (1,), hostile, False, ADDRESSES))
    with pytest.raises(UnsafeFileError, match="an array of something else"):
        load_pickle(write(tmp_path / "a.pkl", pickle.dumps(array)))


def test_a_hostile_npy_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "a.npy", {"coords": Calls(os.system, "touch ran")}, allow_pickle=True)
    with pytest.raises(UnsafeFileError, match="system"):
        load_npy(tmp_path / "a.npy")
    assert not (tmp_path / "ran").exists()


WHOLE = pickle.dumps(CONTENT["float32"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        WHOLE[:-20],
        WHOLE.replace(b"K\x03K\x02", b"K\x03K\x07"),  # another shape than there are numbers
        b"\x80\x04\x8c\x03abc\x81.",  # a call without a function
        b"h\x05.",  # an object that was never there
        b"P1\n.",  # an object of somewhere else
        b"\x82\x01.",  # a registered extension
    ],
    ids=["empty", "text", "cut", "shape", "call", "memo", "persistent", "extension"],
)
def test_a_damaged_pickle_is_refused(tmp_path, content):
    with pytest.raises(DatasetError, match=r"a\.pkl is damaged, or not a file of this kind"):
        load_pickle(write(tmp_path / "a.pkl", content))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04"], ids=["empty", "cut", "zip"])
def test_a_damaged_npy_is_refused(tmp_path, content):
    with pytest.raises(DatasetError, match=r"a\.npy is damaged"):
        load_npy(write(tmp_path / "a.npy", content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"nothing\.pkl cannot be read"):
        load_pickle(tmp_path / "nothing.pkl")
