"""Families and names of models, where their weights are, and loading them. The only file that opens a checkpoint.

    load_model("tiny")                        the weights that the package carries
    load_model("cotracker3-offline")          official weights, downloaded from their publisher; on the hub, pinned
    load_model("mine.safetensors")            a file of this package: its header says which model it is
    load_model("scaled_online.pth", name="cotracker3-online")   an official file that is on disk already

Other packages add families and names by an entry point in the group `pointloom.models` that leads to a `ModelPackage`.
They are loaded when a name or a family is asked for that is not of this package.

Loading is strict: every key and shape must fit. Pickled checkpoints are read by a reader that builds tensors and
nothing else; a file that asks for more is refused. So are archives of NumPy arrays that hold anything but numbers.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import urlopen

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pointloom.errors import FormatError, ModelError, PointloomWarning, UnsafeFileError
from pointloom.models import cotracker2, cotracker3, plugins, tapir
from pointloom.models.base import Model
from pointloom.models.cotracker2 import V2, V2_1, CoTracker2, CoTracker2Config
from pointloom.models.cotracker3 import OFFLINE, ONLINE, TINY, CoTracker3, CoTracker3Config
from pointloom.models.locotrack import BASE, LocoTrack, LocoTrackConfig
from pointloom.models.locotrack import SMALL as LOCOTRACK_SMALL
from pointloom.models.locotrack import released_state as released_locotrack
from pointloom.models.tapir import BOOTSTAPIR, CAUSAL_BOOTSTAPIR, TAPIR, Tapir, TapirConfig
from pointloom.models.tapnext import TAPNEXT, TAPNEXT_512, TapNext, TapNextConfig, released_state

WEIGHTS_FOLDER = Path(__file__).parent.parent / "weights"
FILE_FORMAT = "1"
MISMATCHES_SHOWN = 5
RELEASED_SUFFIXES = (".pth", ".pt", ".ckpt", ".npz")
WEIGHT_SUFFIXES = (".safetensors", *RELEASED_SUFFIXES)
WRAPPERS = ("model", "state_dict")  # entries under which checkpoints put the state dict
FREE_LICENCES = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "ISC", "MIT"}
NOT_STATED = "not stated"  # in place of a licence
PACKAGES = "pointloom.models"  # group of the entry points
FETCH_TIMEOUT_S = 30.0  # without a byte from the web

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Family:
    """A kind of network: the dataclass of its configurations, and what makes a network of one.

    released    makes a state dict of what an official file holds, for a network to be filled with it
    initialise  sets the weights of a network as before training, from a seed. None: it cannot be trained here
    """

    config: type[Any]
    model: Callable[[Any], Model]
    released: Callable[[Any, Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda _, state: state
    initialise: Callable[[Any, int], None] | None = None


FAMILIES: dict[str, Family] = {
    "cotracker2": Family(CoTracker2Config, CoTracker2, initialise=cotracker2.initialise),
    "cotracker3": Family(CoTracker3Config, CoTracker3, initialise=cotracker3.initialise),
    "locotrack": Family(LocoTrackConfig, LocoTrack, released_locotrack),
    "tapir": Family(TapirConfig, Tapir, initialise=tapir.initialise),
    "tapnext": Family(TapNextConfig, TapNext, released_state),
}


def find_family(name: str) -> Family:
    """Look a family up, here and in other packages."""
    family = FAMILIES.get(name) or installed().families.get(name)
    if family is None:
        known = ", ".join((*FAMILIES, *installed().families))
        raise FormatError(f"there is no family {name!r}, only {known}. Is the package installed that adds it?")
    return family


def family_of(config: Any) -> str:
    """Return the name of the family that a configuration belongs to."""
    name = _family_among(FAMILIES, config) or _family_among(installed().families, config)
    if name is not None:
        return name
    raise ModelError(f"no family has configurations of type {type(config).__name__}. Is its package installed?")


def _family_among(families: Mapping[str, Family], config: Any) -> str | None:
    return next((name for name, family in families.items() if isinstance(config, family.config)), None)


def build_model(config: Any) -> Model:
    """Make a network without trained weights from a configuration of any family."""
    return find_family(family_of(config)).model(config)


def initial_model(config: Any, seed: int) -> Model:
    """Make a network with weights as before training, all from one seed."""
    name = family_of(config)
    family = find_family(name)
    if family.initialise is None:
        raise ModelError(f"the family {name!r} does not say with which weights training begins.")
    model = family.model(config)
    family.initialise(model, seed)
    return model


@dataclass(frozen=True)
class ZooEntry:
    """One named model.

    config    of its family: see `FAMILIES`
    file      in the package's folder of weights, or in the repository `repo` on the Hugging Face hub, or under `url`;
              another package gives the whole path of what it carries. None: the model learns nothing
    revision  commit of that repository. None: the commit that the first download finds, kept from then on
    url       folder on the web from which the publisher gives the file, if that is not a repository of models on the
              hub. Nothing pins it: the SHA-256 of what came is shown
    """

    name: str
    config: Any
    summary: str
    licence: str
    file: str | None
    repo: str | None = None
    revision: str | None = None
    url: str | None = None
    citation: str = ""

    @property
    def shipped(self) -> bool:
        """Whether the weights come with the package."""
        return self.repo is None and self.url is None

    @property
    def commercial(self) -> bool | None:
        """Whether the licence of the weights lets companies use them: if none is stated, no. None: not known."""
        if self.licence in FREE_LICENCES:
            return True
        return False if "-NC" in self.licence or self.licence == NOT_STATED else None


_TAPNEXT = {"licence": "Apache-2.0", "url": "https://storage.googleapis.com/dm-tapnet/tapnext"}
_TAPNEXT_CITATION = "Zholus et al. 2025, arXiv:2504.05579"
_TAPNEXT_PLUS_CITATION = "Jung et al. 2026, arXiv:2604.10582"
_COTRACKER2 = {
    "licence": "CC-BY-NC-4.0",
    "repo": "facebook/cotracker",
    "citation": "Karaev et al. 2023, arXiv:2307.07635",
}
_LOCOTRACK = {
    "licence": NOT_STATED,
    "url": "https://huggingface.co/datasets/hamacojr/LocoTrack-pytorch-weights/resolve/main",
    "citation": "Cho et al. 2024, arXiv:2407.15420",
}
_BOOTSTAPIR = {
    "licence": "Apache-2.0",
    "url": "https://storage.googleapis.com/dm-tapnet/bootstap",
    "citation": "Doersch et al. 2024, arXiv:2402.00847",
}
_COTRACKER3_CITATION = "Karaev et al. 2024, arXiv:2410.11831"
_COTRACKER = {"licence": "CC-BY-NC-4.0", "repo": "facebook/cotracker3", "citation": _COTRACKER3_CITATION}
ZOO: dict[str, ZooEntry] = {
    entry.name: entry
    for entry in (
        ZooEntry(
            "tiny",
            TINY,
            "small enough for a laptop's CPU, whole videos and streams",
            licence="Apache-2.0",
            file="tiny.safetensors",
            citation=_COTRACKER3_CITATION,
        ),
        ZooEntry(
            "cotracker3-offline", OFFLINE, "sees the whole video at once", file="scaled_offline.pth", **_COTRACKER
        ),
        ZooEntry("cotracker3-online", ONLINE, "walks over the video, streams", file="scaled_online.pth", **_COTRACKER),
        ZooEntry(
            "cotracker3-offline-kubric",
            OFFLINE,
            "offline, generated clips only",
            file="baseline_offline.pth",
            **_COTRACKER,
        ),
        ZooEntry(
            "cotracker3-online-kubric", ONLINE, "online, generated clips only", file="baseline_online.pth", **_COTRACKER
        ),
        ZooEntry("cotracker2", V2, "walks over the video, windows of 8 frames", file="cotracker2.pth", **_COTRACKER2),
        ZooEntry("cotracker2.1", V2_1, "the same, windows of 16 frames", file="cotracker2v1.pth", **_COTRACKER2),
        ZooEntry("locotrack-base", BASE, "point by point, whole videos", file="locotrack_base.ckpt", **_LOCOTRACK),
        ZooEntry(
            "locotrack-small",
            LOCOTRACK_SMALL,
            "the same, three quarters of the size",
            file="locotrack_small.ckpt",
            **_LOCOTRACK,
        ),
        ZooEntry(
            "tapir",
            TAPIR,
            "point by point, whole videos, generated clips only",
            file="tapir_checkpoint_panning.pt",
            licence="Apache-2.0",
            url="https://storage.googleapis.com/dm-tapnet",
            citation="Doersch et al. 2023, arXiv:2306.08637",
        ),
        ZooEntry(
            "bootstapir",
            BOOTSTAPIR,
            "the same, larger, trained on real videos as well",
            file="bootstapir_checkpoint_v2.pt",
            **_BOOTSTAPIR,
        ),
        ZooEntry(
            "causal-bootstapir",
            CAUSAL_BOOTSTAPIR,
            "the same, frame by frame, streams",
            file="causal_bootstapir_checkpoint.pt",
            **_BOOTSTAPIR,
        ),
        ZooEntry(
            "tapnext",
            TAPNEXT,
            "frame by frame, generated clips only",
            file="tapnext_ckpt.npz",
            citation=_TAPNEXT_CITATION,
            **_TAPNEXT,
        ),
        ZooEntry(
            "bootstapnext",
            TAPNEXT,
            "frame by frame, trained on real videos as well",
            file="bootstapnext_ckpt.npz",
            citation=_TAPNEXT_CITATION,
            **_TAPNEXT,
        ),
        ZooEntry(
            "tapnext++",
            TAPNEXT,
            "frame by frame, trained on videos of 1024 frames",
            licence="Apache-2.0",
            file="tapnextpp_ckpt.pt",
            url="https://storage.googleapis.com/dm-tapnet/tapnextpp",
            citation=_TAPNEXT_PLUS_CITATION,
        ),
        ZooEntry(
            "tapnext++-512",
            TAPNEXT_512,
            "frame by frame, frames of 512 x 512",
            licence="Apache-2.0",
            file="tapnextpp_512.ckpt",
            url="https://storage.googleapis.com/gresearch/tapnextpp",
            citation=_TAPNEXT_PLUS_CITATION,
        ),
    )
}


UNTRAINED: dict[str, Any] = {"cotracker2-tiny": cotracker2.TINY, "tapir-tiny": tapir.TINY}  # named for recipes alone


@dataclass(frozen=True)
class ModelPackage:
    """What another package adds: a family, which has the name of the entry point, and named models of it."""

    family: Family
    models: tuple[ZooEntry, ...]

    def __post_init__(self) -> None:
        """Refuse a model of another family."""
        for entry in self.models:
            if not isinstance(entry.config, self.family.config):
                raise ModelError(
                    f"the configuration of the model {entry.name!r} is a {type(entry.config).__name__}; "
                    f"its family takes {self.family.config.__name__}"
                )


@dataclass(frozen=True)
class Installed:
    """What all other packages add. `refused` says of a model why it cannot be used."""

    families: dict[str, Family] = field(default_factory=dict)
    models: dict[str, ZooEntry] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


@cache
def installed() -> Installed:
    """Load what other packages add, once. One that takes a name which exists is left out, with all that is in it."""
    found = Installed()
    for point, package in plugins.load_declared(PACKAGES, ModelPackage):
        names = [entry.name for entry in package.models]
        known = {*ZOO, *found.models}
        taken = [f"a model called {name!r}" for k, name in enumerate(names) if name in known or name in names[:k]]
        if point.name in FAMILIES or point.name in found.families:
            taken.append(f"a family called {point.name!r}")
        if taken:
            found.refused.update(dict.fromkeys(names, plugins.leave_out(point, f"there is {taken[0]} already")))
            continue
        found.families[point.name] = package.family
        found.models.update(zip(names, package.models, strict=True))
    return found


def list_models() -> list[ZooEntry]:
    """Return every named model, those of other packages last."""
    return [*ZOO.values(), *installed().models.values()]


def find_entry(name: str, *, besides: Iterable[str] = ()) -> ZooEntry:
    """Look a name up; an unknown one is answered with the nearest known names, and those known `besides`."""
    if name in ZOO:
        return ZOO[name]
    if name in installed().refused:
        raise ModelError(f"{name!r} cannot be loaded: {installed().refused[name]}")
    if name in installed().models:
        return installed().models[name]
    known = [*(entry.name for entry in list_models()), *besides]
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise ModelError(
        f"no model is called {name!r}. {hint}Known: {', '.join(known)}; or give a .safetensors or .pth file."
    )


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


def untrained_model(name: str) -> Model:
    """Make the network of a named model with random weights, ready for tracking: as fast as with any others."""
    return build_model(config_named(name)).eval().requires_grad_(False)


def find_file(entry: ZooEntry, cache: Path | None = None) -> Path:
    """Return the file of a named model's weights, downloaded if need be."""
    assert entry.file is not None, "a model that learns nothing has no file"
    if not entry.shipped:
        return download(entry, cache=cache)
    path = WEIGHTS_FOLDER / entry.file
    if not path.is_file():
        raise ModelError(f"the weights {path.name} are missing from this installation. Reinstall the package.")
    return path


def _from_file(path: Path, name: str | None) -> Model:
    return _from_safetensors(path) if path.suffix == ".safetensors" else _from_released(path, name)


def config_named(name: str) -> Any:
    """Return the configuration of a named model, with weights or without: a frozen dataclass of its family."""
    return UNTRAINED[name] if name in UNTRAINED else find_entry(name, besides=UNTRAINED).config


def weights_hash(model: torch.nn.Module) -> str:
    """First 16 hexadecimal digits of the SHA-256 over all names, shapes and bytes of the state dict."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


# -------------------------------------------------------------------------------------------------- files of our own


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


# ---------------------------------------------------------------------------------------------------- official files


def _from_released(path: Path, name: str | None) -> Model:
    if name is None:
        entry = next((e for e in list_models() if e.file == path.name), None)
        if entry is None:
            known = ", ".join(e.name for e in list_models())
            raise ModelError(f"{path.name} does not say which model it holds. Give name=, one of: {known}.")
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
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ModelError(f"{path} cannot be read as a checkpoint: {error}. Is the download complete?") from error
    except (ValueError, TypeError) as error:
        raise UnsafeFileError(f"{path} holds something else than numbers, so it was not read: {error}") from error


def read_pickled_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a pickle, bare or in an entry of `WRAPPERS`. Builds tensors and nothing else."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeFileError(
            f"{path} asks to run code while it is read, so it was not read. Weights need no code: get the file from "
            f"its publisher again, or have it converted to .safetensors by someone you trust."
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ModelError(f"{path} cannot be read as a checkpoint: {error}. Is the download complete?") from error
    wrapper = next((name for name in WRAPPERS if isinstance(content, dict) and name in content), None)
    state = content if wrapper is None else content[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path} holds no state dict: expected names and tensors, bare or under {WRAPPERS}.")
    return state


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


def download(entry: ZooEntry, *, cache: Path | None = None) -> Path:
    """Fetch official weights, or find them in the cache, also without a network. Shows their licence the first time."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(cache or HF_HUB_CACHE)
    if entry.url is None:
        return _download_from_hub(entry, folder)
    assert entry.file is not None
    path = folder / f"pointloom-{entry.name}" / entry.file
    if not path.is_file():
        _show_licence(entry, entry.url)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _fetch(f"{entry.url}/{entry.file}", path)
        except (OSError, HTTPException) as error:
            raise _not_downloaded(entry, entry.url, error) from error
        _show_hash(path)
    return path


def _download_from_hub(entry: ZooEntry, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    assert entry.repo is not None
    assert entry.file is not None
    pin = folder / f"pointloom-{entry.name}.commit"
    revision = entry.revision or (pin.read_text().strip() if pin.is_file() else None)
    try:
        return Path(hf_hub_download(entry.repo, entry.file, revision=revision, cache_dir=folder, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    _show_licence(entry, entry.repo)
    try:
        path = Path(hf_hub_download(entry.repo, entry.file, revision=revision, cache_dir=folder))
    except Exception as error:  # network, permission, disk: the hub raises many kinds
        raise _not_downloaded(entry, entry.repo, error) from error
    pin.write_text(path.parent.name)  # snapshots/COMMIT/file
    return path


def _fetch(url: str, path: Path) -> None:
    """Copy a file from the web; nothing is left of one that breaks off."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with urlopen(url, timeout=FETCH_TIMEOUT_S) as answer, unfinished.open("wb") as file:
            shutil.copyfileobj(answer, file)
            expected = int(answer.headers.get("Content-Length", file.tell()))
            if file.tell() != expected:
                raise OSError(f"the connection ended after {file.tell()} of {expected} bytes")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _show_licence(entry: ZooEntry, source: str) -> None:
    warnings.warn(
        f"downloading {entry.file} of {source}, licence {entry.licence}"
        + (": not for commercial use." if entry.commercial is False else "."),
        PointloomWarning,
        stacklevel=4,
    )


def _show_hash(path: Path) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    warnings.warn(
        f"{path.name} is not pinned to a version: its publisher can change it. What came has the SHA-256 {digest}.",
        PointloomWarning,
        stacklevel=4,
    )


def _not_downloaded(entry: ZooEntry, source: str, error: Exception) -> ModelError:
    return ModelError(
        f"could not download {entry.file} of {source}: {error}. With a network, try again; or put the file on "
        f"this machine and give its path with name={entry.name!r}."
    )
