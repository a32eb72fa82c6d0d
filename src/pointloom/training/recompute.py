"""Gradient checkpointing: activations are dropped in the forward pass and computed again in the backward pass.

Of a tracker, the encoder and each refinement step (its tokens, with the correlation volumes, and its transformer) are
recomputed on their own. Gradients are the same; a step takes about a third more time (Chen et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pointloom.models.cotracker3 import CoTracker3

IMAGES_AT_ONCE = 16  # that the encoder sees: it treats each by itself, so that memory is needed for one group at a time


def recompute_activations(model: CoTracker3) -> None:
    """Make a model recompute what the backward pass needs, whenever gradients are asked for."""
    model.fnet.forward = partial(_encoded_in_groups, model.fnet.forward)  # type: ignore[method-assign]
    model.updateformer.forward = partial(_recomputed, model.updateformer.forward)  # type: ignore[method-assign]
    model.tokens = partial(_recomputed, model.tokens)  # type: ignore[method-assign]


def _encoded_in_groups(encode: Callable[[Tensor], list[Tensor]], images: Tensor) -> list[Tensor]:
    groups = [_recomputed(encode, group) for group in images.split(IMAGES_AT_ONCE)]
    return [torch.cat(maps) for maps in zip(*groups, strict=True)]


def _recomputed(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return function(*arguments, **options)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False, **options)
