"""Which module of a tracker encodes frames and which refines tracks, whatever its family calls them."""

from __future__ import annotations

from torch import nn

from pointloom.errors import OptionError

ENCODERS = ("fnet", "resnet_torch", "extra_convs")  # the last goes with the one before
REFINERS = ("updateformer", "torch_pips_mixer")


def encoder_of(model: nn.Module) -> nn.Module:
    """Return the module that makes maps of images."""
    return _one_of(ENCODERS, model)


def refiner_of(model: nn.Module) -> nn.Module:
    """Return the module that makes changes of tracks from tokens."""
    return _one_of(REFINERS, model)


def in_encoder(name: str) -> bool:
    """Whether a parameter of an objective, by its name, is of its model's encoder."""
    return name.startswith(tuple(f"model.{encoder}." for encoder in ENCODERS))


def _one_of(names: tuple[str, ...], model: nn.Module) -> nn.Module:
    for name, module in model.named_children():
        if name in names:
            return module
    raise OptionError(f"{type(model).__name__} cannot be trained in parts: it has none of the modules {names}.")
