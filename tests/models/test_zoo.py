"""Names of models, and the families that they belong to."""

from __future__ import annotations

import pytest
import torch

from pointloom.errors import ModelError
from pointloom.models import zoo
from pointloom.models.catalogue import describe
from pointloom.models.weight_files import load_model


@pytest.mark.parametrize("entry", zoo.list_models(), ids=lambda entry: entry.name)
def test_every_named_model_belongs_to_a_family_that_can_build_it(entry: zoo.ZooEntry) -> None:
    row = describe(entry)
    assert row.parameters > 0
    assert set(row.modes) <= {"full", "windowed", "causal"}


@pytest.mark.parametrize(
    ("name", "px"),
    {
        "tiny": 20,
        "cotracker3-online": 12,
        "cotracker2": None,
        "tapir": 6,
        "locotrack-base": 6,
        "tapnext++-512": 16,
    }.items(),
)
def test_every_model_says_how_near_its_confidence_means(name: str, px: float | None) -> None:
    with torch.device("meta"):
        assert zoo.build_model(zoo.find_entry(name).config).info.confidence_px == px


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ModelError, match="Did you mean cotracker3-online"):
        load_model("cotracker3-onlin")
    with pytest.raises(ModelError, match="there is no file"):
        load_model("nowhere.safetensors")
