"""Gradient checkpointing: activations are dropped in the forward pass and computed again in the backward pass.

Of a tracker, the encoder and each refinement step (its tokens, with the correlation volumes, and its transformer) are
recomputed on their own. Gradients are the same; a step takes about a third more time (Chen et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pointloom.models.base import Model
from pointloom.training.parts import encoder_of, refiner_of

IMAGES_AT_ONCE = 16  # that the encoder sees: it treats each by itself, so that memory is needed for one group at a time


def recompute_activations(model: Model) -> None:
    """Make a model recompute what the backward pass needs, whenever gradients are asked for."""
    encoder, refiner, whole = encoder_of(model), refiner_of(model), cast(Any, model)
    encoder.forward = partial(_encoded_in_groups, encoder.forward)
    refiner.forward = partial(_recomputed, refiner.forward)
    whole.tokens = partial(_recomputed, whole.tokens)


def _encoded_in_groups(encode: Callable[[Tensor], list[Tensor]], images: Tensor) -> list[Tensor]:
    groups = [_recomputed(encode, group) for group in images.split(IMAGES_AT_ONCE)]
    return [torch.cat(maps) for maps in zip(*groups, strict=True)]


def _recomputed(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return function(*arguments, **options)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False, **options)
