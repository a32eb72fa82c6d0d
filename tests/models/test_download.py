"""Downloading weights: from the hub and from the web, once, and with their licence."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from pointloom.errors import ModelError, PointloomWarning
from pointloom.models import zoo
from pointloom.models.cotracker3 import CoTracker3
from pointloom.models.download import download
from pointloom.models.weight_files import load_model, weights_hash


class Hub:
    """Stands in for the download function of huggingface-hub: a cache in a folder, and a network that can be off."""

    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self, source: Path) -> None:
        self.source, self.online, self.asked = source, True, []

    def __call__(
        self, repo: str, file: str, *, revision: str | None, cache_dir: Path, local_files_only: bool = False
    ) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        cached = cache_dir / "snapshots" / (revision or self.COMMIT) / file
        if not cached.exists():
            if local_files_only:
                raise LocalEntryNotFoundError("not in the cache")
            if not self.online:
                raise OSError("no network")
            self.asked.append(revision)
            cached.parent.mkdir(parents=True)
            cached.write_bytes(self.source.read_bytes())
        return str(cached)


@pytest.fixture
def hub(small: CoTracker3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    torch.save(small.state_dict(), tmp_path / "published.pth")
    hub = Hub(tmp_path / "published.pth")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    return hub


def test_a_download_shows_its_licence_once_and_then_works_without_a_network(
    hub: Hub, small_official: zoo.ZooEntry, tmp_path: Path
) -> None:
    with pytest.warns(PointloomWarning, match=r"licence CC-BY-NC-4.0: not for commercial use"):
        load_model("small", cache=tmp_path)
    hub.online = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model("small", cache=tmp_path)
    assert hub.asked == [None]


def test_the_first_download_pins_the_revision(hub: Hub, small_official: zoo.ZooEntry, tmp_path: Path) -> None:
    with pytest.warns(PointloomWarning):
        path = download(small_official, cache=tmp_path)
    path.unlink()
    path.parent.rmdir()
    with pytest.warns(PointloomWarning):
        download(small_official, cache=tmp_path)
    assert hub.asked == [None, Hub.COMMIT]


def test_without_network_and_cache_the_error_says_what_to_do(
    hub: Hub, small_official: zoo.ZooEntry, tmp_path: Path
) -> None:
    hub.online = False
    with pytest.warns(PointloomWarning), pytest.raises(ModelError, match="put the file on this machine"):
        load_model("small", cache=tmp_path)


@pytest.fixture
def small_on_the_web(small: CoTracker3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> zoo.ZooEntry:
    """An entry whose weights lie on the web: here in a folder."""
    (tmp_path / "web").mkdir()
    torch.save(small.state_dict(), tmp_path / "web" / "small.pth")
    url = (tmp_path / "web").as_uri()
    entry = zoo.ZooEntry("small", small.config, "for a test", "Apache-2.0", "small.pth", url=url)
    monkeypatch.setitem(zoo.ZOO, "small", entry)
    return entry


def test_weights_on_the_web_are_fetched_once_and_then_found_without_it(
    small: CoTracker3, small_on_the_web: zoo.ZooEntry, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    with (
        pytest.warns(PointloomWarning, match=r"downloading small.pth of file:.*, licence Apache-2.0\."),
        pytest.warns(PointloomWarning, match="small.pth is not pinned"),
    ):
        model = load_model("small", cache=cache)
    assert weights_hash(model) == weights_hash(small)
    (tmp_path / "web" / "small.pth").unlink()
    load_model("small", cache=cache)
    assert not small_on_the_web.shipped


def test_a_file_that_nothing_pins_is_shown_with_its_hash(small_on_the_web: zoo.ZooEntry, tmp_path: Path) -> None:
    digest = hashlib.sha256((tmp_path / "web" / "small.pth").read_bytes()).hexdigest()
    with pytest.warns(PointloomWarning) as shown:
        download(small_on_the_web, cache=tmp_path / "cache")
    assert str(shown[-1].message).startswith("small.pth is not pinned to a version")
    assert digest in str(shown[-1].message)


def test_nothing_is_left_of_a_download_that_breaks_off(
    small_on_the_web: zoo.ZooEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "copyfileobj", lambda source, target: target.write(source.read(100)))
    with pytest.warns(PointloomWarning), pytest.raises(ModelError, match=r"ended after 100 of \d+ bytes"):
        load_model("small", cache=tmp_path / "cache")
    assert list((tmp_path / "cache" / "pointloom-small").iterdir()) == []
