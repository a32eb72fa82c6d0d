"""Loading models and writing their weights. The only file that opens a checkpoint.

    load_model("tiny")                        the weights that the package carries
    load_model("cotracker3-offline")          official weights, downloaded from their publisher; on the hub, pinned
    load_model("mine.safetensors")            a file of this package: its header says which model it is
    load_model("scaled_online.pth", name="cotracker3-online")   an official file that is on disk already

Loading is strict: every key and shape must fit. Pickled checkpoints are read by a reader that builds tensors and
nothing else; a file that asks for more is refused. So are archives of NumPy arrays that hold anything but numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pointloom.errors import FormatError, ModelError, UnsafeFileError
from pointloom.models.base import Model
from pointloom.models.download import find_file
from pointloom.models.zoo import build_model, family_of, find_entry, find_family, list_models

FILE_FORMAT = "1"
MISMATCHES_SHOWN = 5
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".npz")
WRAPPERS = ("model", "state_dict")  # entries under which checkpoints put the state dict

Network = TypeVar("Network", bound=nn.Module)


def load_model(
    source: str | Path, *, name: str | None = None, device: str | torch.device = "cpu", cache: Path | None = None
) -> Model:
    """Load a model by name or from a file, ready for tracking.

    `name` says which model an official file holds (guessed from the released file names when left out). `cache` is
    the folder for downloads (default: that of huggingface-hub). Raises ModelError when nothing is found or the weights
    do not fit, UnsafeFileError when a pickle asks for more than tensors.
    """
    path = Path(source)
    if path.suffix in WEIGHT_SUFFIXES:
        if not path.is_file():
            raise ModelError(f"there is no file {path}. Known names: {', '.join(e.name for e in list_models())}.")
        model = _from_file(path, name)
    else:
        entry = find_entry(str(source))
        model = build_model(entry.config) if entry.file is None else _from_file(find_file(entry, cache), entry.name)
    return model.eval().requires_grad_(False).to(device)


def _from_file(path: Path, name: str | None) -> Model:
    return _from_safetensors(path) if path.suffix == ".safetensors" else _from_released(path, name)


def fill(model: Network, state: Mapping[str, Tensor], path: Path) -> Network:
    """Load a state dict strictly; a mismatch names the first keys that are missing, unknown or of another shape."""
    own = model.state_dict()
    problems = [f"{key} is missing" for key in own if key not in state]
    problems += [f"{key} is unknown" for key in state if key not in own]
    problems += [
        f"{key} has shape {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - MISMATCHES_SHOWN} more" if len(problems) > MISMATCHES_SHOWN else ""
        raise ModelError(f"{path} does not fit this model: {'; '.join(problems[:MISMATCHES_SHOWN])}{more}.")
    model.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()})
    return model


def weights_hash(model: torch.nn.Module) -> str:
    """First 16 hexadecimal digits of the SHA-256 over all names, shapes and bytes of the state dict."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


# ----------------------------------------------------------------------------------------------------- files of our own


def save_weights(path: Path, model: Model, about: Mapping[str, str], *, dtype: torch.dtype = torch.float32) -> None:
    """Write a model with its configuration; `about` goes into the header (recipe, licence, scores ...).

    `dtype` is the type in which parameters are stored (float16 halves the file; they are read back as float32). Buffers
    keep their own.
    """
    config = json.dumps(dataclasses.asdict(model.config))
    header = {"format": FILE_FORMAT, "family": family_of(model.config), "config": config}
    parameters = {name for name, _ in model.named_parameters()}
    state = {
        key: (value.to(dtype) if key in parameters else value).detach().contiguous()
        for key, value in model.state_dict().items()
    }
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(state, unfinished, {**about, **header})
    unfinished.replace(path)


def read_header(path: Path) -> dict[str, str]:
    """Return what the header of a weights file says."""
    try:
        with safe_open(path, "pt") as file:
            header = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable .safetensors file: {error}") from error
    if header.get("format") != FILE_FORMAT or not {"family", "config"} <= header.keys():
        raise FormatError(
            f"{path} has format {header.get('format')!r}; this version reads format {FILE_FORMAT!r}, with a family and "
            f"its configuration. Was it saved by this package, and by no newer version?"
        )
    return header


def read_config(path: Path) -> Any:
    """Return the configuration of the model whose weights a file holds."""
    header = read_header(path)
    family = find_family(header["family"])
    try:
        return family.config(**_with_tuples(json.loads(header["config"])))
    except (TypeError, ValueError) as error:
        raise FormatError(f"{path} describes a model that this version does not know: {error}") from error


def _from_safetensors(path: Path) -> Model:
    config = read_config(path)
    with safe_open(path, "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
    return fill(build_model(config), state, path)


def _with_tuples(value: Any) -> Any:
    """JSON knows no tuples: turn its lists into them."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


# ------------------------------------------------------------------------------------------------------- official files


def _from_released(path: Path, name: str | None) -> Model:
    if name is None:
        entry = next((e for e in list_models() if e.file == path.name), None)
        if entry is None:
            known = ", ".join(e.name for e in list_models())
            raise ModelError(
                f"{path.name} does not say which model it holds. Give it the name under which it was released, such as "
                f"scaled_online.pth, or in Python load_model(path, name=...), one of: {known}."
            )
    else:
        entry = find_entry(name)
    family = find_family(family_of(entry.config))
    model = family.model(entry.config)
    state = read_arrays(path) if path.suffix == ".npz" else read_pickled_state(path)
    return fill(model, family.released(model, state), path)


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Read the arrays of an `.npz` file, as released from JAX. Reads numbers and nothing else."""
    try:
        with zipfile.ZipFile(path) as archive:  # NumPy takes anything else for a pickle
            archive.infolist()
        with np.load(path, allow_pickle=False) as file:
            return {key: torch.from_numpy(file[key]) for key in file}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ModelError(f"{path} cannot be read as a checkpoint: {error}. Is the download complete?") from error
    except (ValueError, TypeError) as error:
        raise UnsafeFileError(f"{path} holds something else than numbers, so it was not read: {error}") from error


def read_pickled_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a pickle, bare or in an entry of `WRAPPERS`. Builds tensors and nothing else."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeFileError(
            f"{path} asks for more than tensors, as if to run code, or is damaged; so it was not read. Get the file "
            f"from its publisher again, or have it converted to .safetensors by someone you trust."
        ) from error
    except (RuntimeError, ValueError, LookupError, EOFError, OSError) as error:
        raise ModelError(f"{path} cannot be read as a checkpoint: {error}. Is the download complete?") from error
    wrapper = next((name for name in WRAPPERS if isinstance(content, dict) and name in content), None)
    state = content if wrapper is None else content[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path} holds no state dict: expected names and tensors, bare or under {WRAPPERS}.")
    return state
