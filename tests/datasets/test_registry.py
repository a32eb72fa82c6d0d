"""Data sets by name."""

from __future__ import annotations

import operator
from pathlib import Path

import numpy as np
import pytest

from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.pool import write_clip
from pointloom.datasets.registry import Dataset, DatasetEntry, list_datasets, open_dataset
from pointloom.errors import DatasetError


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    for name in ("b", "a"):
        frames = np.full((3, 8, 10, 3), ord(name), np.uint8)
        xy, yes = np.zeros((2, 3, 2), np.float32), np.ones((2, 3), bool)
        write_clip(tmp_path, AnnotatedClip(name, frames, xy, yes, yes))
    return tmp_path


def test_a_pool_is_opened_by_name_and_read_in_order(pool: Path) -> None:
    dataset = open_dataset(f"pool:{pool}")
    assert dataset.name == "pool"
    assert [clip.name for clip in dataset] == ["a", "b"]
    assert [clip.name for clip in dataset] == ["a", "b"]  # and again from the beginning


def test_the_number_of_clips_is_told_where_it_is_known_before_reading(pool: Path) -> None:
    unknown = -1
    assert operator.length_hint(open_dataset(f"pool:{pool}"), unknown) == 2
    one_by_one = DatasetEntry("stream", lambda path: iter(()), "", "", "")
    assert operator.length_hint(Dataset(one_by_one, pool), unknown) == unknown


def test_the_list_says_what_each_kind_of_data_set_is() -> None:
    entries = list_datasets()
    assert "pool" in [entry.name for entry in entries]
    assert all(entry.summary for entry in entries)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(DatasetError, match="Did you mean pool"):
        open_dataset("pol:somewhere")


@pytest.mark.parametrize("source", ["pool", "pool:"], ids=["no colon", "nothing after it"])
def test_a_data_set_without_a_place_is_refused_with_how_to_write_it(source: str) -> None:
    with pytest.raises(DatasetError, match="Write pool:FOLDER"):
        open_dataset(source)


def test_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"there is no .*missing"):
        open_dataset(f"pool:{tmp_path}/missing")
