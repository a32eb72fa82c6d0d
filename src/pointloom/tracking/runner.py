"""A model on a device, at a precision: the door between arrays outside and tensors inside."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from pointloom.errors import OptionError
from pointloom.models.base import FrameFeatures, Model

Precision = Literal["float32", "bfloat16", "float16"]  # as one writes it in a command
DTYPES: dict[Precision, torch.dtype | None] = {
    "float32": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Runner:
    """Runs a model without gradients.

    `dtype` bfloat16 or float16 runs layers under autocast and keeps features in that type; positions stay in float32.
    None: everything in the type of the model's weights. The model is moved to `device`, and stays there.
    """

    model: Model
    device: torch.device
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        """Move the model."""
        if self.dtype not in (None, torch.bfloat16, torch.float16):
            raise OptionError(
                f"dtype is None (that of the weights), torch.bfloat16 or torch.float16, got {self.dtype}. "
                f"For another one convert the model itself: model.double()."
            )
        self.model.to(self.device)

    def session(self) -> AbstractContextManager[object]:
        """Switch gradients off and the precision on, for a `with` block around everything that is computed."""
        stack = ExitStack()
        stack.enter_context(torch.inference_mode())
        if self.dtype is not None:
            stack.enter_context(torch.autocast(self.device.type, self.dtype))
        return stack

    def encode(self, frames: UInt8[np.ndarray, "T H W 3"], start: int) -> FrameFeatures:
        """Compute the features of frames `start`, `start + 1`, ..."""
        tensor = torch.from_numpy(np.require(frames, np.uint8, ["C", "W"])).to(self.device)
        features = self.model.encode(tensor[None], start)
        if self.dtype is None:
            return features
        return replace(features, maps=tuple(m.to(self.dtype) for m in features.maps))

    def positions(self, queries: Float32[np.ndarray, "N 3"]) -> Float[Tensor, "N 3"]:
        """Bring queries to the device, in float32 or better."""
        weights = next(iter(self.model.parameters()), None)
        precise = weights is not None and weights.dtype == torch.float64
        return torch.as_tensor(queries, dtype=torch.float64 if precise else torch.float32, device=self.device)


def choose_device(device: str | torch.device) -> torch.device:
    """Return a device; `auto` is the first of CUDA, MPS and CPU that this machine has."""
    if device != "auto":
        try:
            return torch.device(device)
        except RuntimeError as error:
            raise OptionError(
                f"there is no device {device!r}. Use 'auto', 'cpu', 'cuda', 'cuda:1', 'mps' ..."
            ) from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
