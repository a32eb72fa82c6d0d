"""Families and names of models, and making networks of them.

    find_entry("tiny")              a named model: its configuration, its licence, where its weights are
    build_model(entry.config)       its network, without trained weights
    initial_model(entry.config, 7)  the same with weights as before training

Other packages add families and names by an entry point in the group `pointloom.models` that leads to a `ModelPackage`.
They are loaded when a name or a family is asked for that is not of this package. Weights are found by `download.py` and
read by `weight_files.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor

from pointloom.errors import FormatError, ModelError
from pointloom.models import cotracker2, cotracker3, plugins, tapir
from pointloom.models.base import Model
from pointloom.models.cotracker2 import V2, V2_1, CoTracker2, CoTracker2Config
from pointloom.models.cotracker3 import OFFLINE, ONLINE, TINY, CoTracker3, CoTracker3Config
from pointloom.models.locotrack import BASE, LocoTrack, LocoTrackConfig
from pointloom.models.locotrack import SMALL as LOCOTRACK_SMALL
from pointloom.models.locotrack import released_state as released_locotrack
from pointloom.models.tapir import BOOTSTAPIR, CAUSAL_BOOTSTAPIR, TAPIR, Tapir, TapirConfig
from pointloom.models.tapnext import TAPNEXT, TAPNEXT_512, TapNext, TapNextConfig, released_state

FREE_LICENCES = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "ISC", "MIT"}
NOT_STATED = "not stated"  # in place of a licence
PACKAGES = "pointloom.models"  # group of the entry points


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


def untrained_model(name: str) -> Model:
    """Make the network of a named model with random weights, ready for tracking: as fast as with any others."""
    return build_model(config_named(name)).eval().requires_grad_(False)


def config_named(name: str) -> Any:
    """Return the configuration of a named model, with weights or without: a frozen dataclass of its family."""
    return UNTRAINED[name] if name in UNTRAINED else find_entry(name, besides=UNTRAINED).config
