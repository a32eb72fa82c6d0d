"""Loading weights: our files, official files, hostile files, downloads."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pointloom.errors import FormatError, ModelError, PointloomWarning, UnsafeFileError
from pointloom.models import zoo
from pointloom.models.catalogue import describe
from pointloom.models.cotracker3 import ONLINE, CoTracker3, CoTracker3Config, initialise

SMALL = CoTracker3Config(
    channels=16,
    correlation_hidden=8,
    correlation_width=8,
    hidden=16,
    heads=2,
    time_depth=1,
    space_depth=1,
    virtual_tracks=2,
)


@pytest.fixture
def small() -> CoTracker3:
    model = CoTracker3(SMALL)
    initialise(model, 0)
    return model


@pytest.fixture
def small_official(monkeypatch: pytest.MonkeyPatch) -> zoo.ZooEntry:
    """An entry whose weights lie on the hub, small enough for a test."""
    entry = zoo.ZooEntry("small", SMALL, "for a test", "CC-BY-NC-4.0", "small.pth", repo="nobody/small")
    monkeypatch.setitem(zoo.ZOO, "small", entry)
    return entry


def test_saving_then_loading_gives_the_same_weights_and_configuration(small: CoTracker3, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    zoo.save_weights(path, small, {"recipe": "by hand"})
    again = zoo.load_model(path)
    assert again.config == SMALL
    assert zoo.weights_hash(again) == zoo.weights_hash(small)
    assert zoo.read_header(path)["recipe"] == "by hand"
    assert [p.name for p in tmp_path.iterdir()] == ["mine.safetensors"]


def test_half_precision_halves_the_file_and_is_read_back_as_float32(small: CoTracker3, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    zoo.save_weights(whole, small, {})
    zoo.save_weights(half, small, {}, dtype=torch.float16)
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    again = zoo.load_model(half)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert torch.equal(again.time_emb, small.time_emb)
    for key, value in small.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("entry", zoo.list_models(), ids=lambda entry: entry.name)
def test_every_named_model_belongs_to_a_family_that_can_build_it(entry: zoo.ZooEntry) -> None:
    row = describe(entry)
    assert row.parameters > 0
    assert set(row.modes) <= {"full", "windowed", "causal"}


def test_the_hash_changes_with_a_single_weight(small: CoTracker3) -> None:
    before = zoo.weights_hash(small)
    with torch.no_grad():
        small.corr_mlp.fc1.bias[0] += 1e-6
    assert zoo.weights_hash(small) != before


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "under 'model'"])
def test_an_official_checkpoint_loads_strictly(
    small: CoTracker3, small_official: zoo.ZooEntry, tmp_path: Path, wrapped: bool
) -> None:
    path = tmp_path / "download.pth"
    torch.save({"model": small.state_dict()} if wrapped else dict(small.state_dict()), path)
    assert zoo.weights_hash(zoo.load_model(path, name="small")) == zoo.weights_hash(small)


def test_the_released_file_names_say_which_model_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "scaled_online.pth"
    torch.save(CoTracker3(ONLINE).state_dict(), path)
    assert zoo.load_model(path).config == ONLINE
    with pytest.raises(ModelError, match="does not say which model"):
        zoo.load_model(path.rename(tmp_path / "renamed.pth"))


def test_a_mismatch_names_the_keys(small: CoTracker3, small_official: zoo.ZooEntry, tmp_path: Path) -> None:
    state = dict(small.state_dict())
    del state["fnet.conv1.bias"]
    state["surplus"] = torch.zeros(1)
    state["corr_mlp.fc2.bias"] = torch.zeros(9)
    path = tmp_path / "wrong.pth"
    torch.save(state, path)
    with pytest.raises(ModelError) as caught:
        zoo.load_model(path, name="small")
    for part in ("fnet.conv1.bias is missing", "surplus is unknown", "corr_mlp.fc2.bias has shape (9,), expected (8,)"):
        assert part in str(caught.value)


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(small_official: zoo.ZooEntry, tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "evil.pth"
    torch.save({"model": {"weight": Payload(trace)}}, path)
    with pytest.raises(UnsafeFileError, match="asks to run code"):
        zoo.load_model(path, name="small")
    assert not trace.exists()
    path.write_bytes(pickle.dumps(Payload(trace), protocol=2))  # without torch's container, as old checkpoints
    with pytest.raises(UnsafeFileError):
        zoo.load_model(path, name="small")
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # the same file, read carelessly: the payload is real
    assert trace.exists()


def test_a_cut_off_download_is_a_clear_error(small: CoTracker3, small_official: zoo.ZooEntry, tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    torch.save(small.state_dict(), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ModelError, match="cannot be read"):
        zoo.load_model(path, name="small")


def test_a_file_of_another_version_is_refused(small: CoTracker3, tmp_path: Path) -> None:
    path = tmp_path / "newer.safetensors"
    save_file(small.state_dict(), path, {"format": "99", "family": "cotracker3", "config": "{}"})
    with pytest.raises(FormatError, match="format '99'"):
        zoo.load_model(path)
    save_file(small.state_dict(), path, {"format": "1", "family": "cotracker3", "config": '{"wings": 2}'})
    with pytest.raises(FormatError, match="wings"):
        zoo.load_model(path)
    save_file(small.state_dict(), path, {"format": "1", "family": "cotracker9", "config": "{}"})
    with pytest.raises(FormatError, match="family 'cotracker9'"):
        zoo.load_model(path)
    path.write_text("not a tensor in sight")
    with pytest.raises(ModelError, match="not a readable"):
        zoo.load_model(path)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ModelError, match="Did you mean cotracker3-online"):
        zoo.load_model("cotracker3-onlin")
    with pytest.raises(ModelError, match="there is no file"):
        zoo.load_model("nowhere.safetensors")


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
        zoo.load_model("small", cache=tmp_path)
    hub.online = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.load_model("small", cache=tmp_path)
    assert hub.asked == [None]


def test_the_first_download_pins_the_revision(hub: Hub, small_official: zoo.ZooEntry, tmp_path: Path) -> None:
    with pytest.warns(PointloomWarning):
        path = zoo.download(small_official, cache=tmp_path)
    path.unlink()
    path.parent.rmdir()
    with pytest.warns(PointloomWarning):
        zoo.download(small_official, cache=tmp_path)
    assert hub.asked == [None, Hub.COMMIT]


def test_without_network_and_cache_the_error_says_what_to_do(
    hub: Hub, small_official: zoo.ZooEntry, tmp_path: Path
) -> None:
    hub.online = False
    with pytest.warns(PointloomWarning), pytest.raises(ModelError, match="put the file on this machine"):
        zoo.load_model("small", cache=tmp_path)


@pytest.fixture
def small_on_the_web(small: CoTracker3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> zoo.ZooEntry:
    """An entry whose weights lie on the web: here in a folder."""
    (tmp_path / "web").mkdir()
    torch.save(small.state_dict(), tmp_path / "web" / "small.pth")
    entry = zoo.ZooEntry("small", SMALL, "for a test", "Apache-2.0", "small.pth", url=(tmp_path / "web").as_uri())
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
        model = zoo.load_model("small", cache=cache)
    assert zoo.weights_hash(model) == zoo.weights_hash(small)
    (tmp_path / "web" / "small.pth").unlink()
    zoo.load_model("small", cache=cache)
    assert not small_on_the_web.shipped


def test_a_file_that_nothing_pins_is_shown_with_its_hash(small_on_the_web: zoo.ZooEntry, tmp_path: Path) -> None:
    digest = hashlib.sha256((tmp_path / "web" / "small.pth").read_bytes()).hexdigest()
    with pytest.warns(PointloomWarning) as shown:
        zoo.download(small_on_the_web, cache=tmp_path / "cache")
    assert str(shown[-1].message).startswith("small.pth is not pinned to a version")
    assert digest in str(shown[-1].message)


def test_nothing_is_left_of_a_download_that_breaks_off(
    small_on_the_web: zoo.ZooEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "copyfileobj", lambda source, target: target.write(source.read(100)))
    with pytest.warns(PointloomWarning), pytest.raises(ModelError, match=r"ended after 100 of \d+ bytes"):
        zoo.load_model("small", cache=tmp_path / "cache")
    assert list((tmp_path / "cache" / "pointloom-small").iterdir()) == []


def test_a_loaded_model_is_frozen(small: CoTracker3, tmp_path: Path) -> None:
    zoo.save_weights(tmp_path / "mine.safetensors", small, {})
    model = zoo.load_model(tmp_path / "mine.safetensors")
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
