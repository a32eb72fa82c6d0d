"""Loading and saving weights: our files, official files, hostile files."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pointloom.errors import FormatError, ModelError, UnsafeFileError
from pointloom.models import zoo
from pointloom.models.cotracker3 import ONLINE, CoTracker3
from pointloom.models.weight_files import load_model, read_header, save_weights, weights_hash


def test_saving_then_loading_gives_the_same_weights_and_configuration(small: CoTracker3, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_weights(path, small, {"recipe": "by hand"})
    again = load_model(path)
    assert again.config == small.config
    assert weights_hash(again) == weights_hash(small)
    assert read_header(path)["recipe"] == "by hand"
    assert [p.name for p in tmp_path.iterdir()] == ["mine.safetensors"]


def test_half_precision_halves_the_file_and_is_read_back_as_float32(small: CoTracker3, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_weights(whole, small, {})
    save_weights(half, small, {}, dtype=torch.float16)
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    again = load_model(half)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert torch.equal(again.time_emb, small.time_emb)
    for key, value in small.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=1e-3, atol=1e-6)


def test_the_hash_changes_with_a_single_weight(small: CoTracker3) -> None:
    before = weights_hash(small)
    with torch.no_grad():
        small.corr_mlp.fc1.bias[0] += 1e-6
    assert weights_hash(small) != before


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "under 'model'"])
def test_an_official_checkpoint_loads_strictly(
    small: CoTracker3, small_official: zoo.ZooEntry, tmp_path: Path, wrapped: bool
) -> None:
    path = tmp_path / "download.pth"
    torch.save({"model": small.state_dict()} if wrapped else dict(small.state_dict()), path)
    assert weights_hash(load_model(path, name="small")) == weights_hash(small)


def test_the_released_file_names_say_which_model_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "scaled_online.pth"
    torch.save(CoTracker3(ONLINE).state_dict(), path)
    assert load_model(path).config == ONLINE
    with pytest.raises(ModelError, match="does not say which model"):
        load_model(path.rename(tmp_path / "renamed.pth"))


def test_a_mismatch_names_the_keys(small: CoTracker3, small_official: zoo.ZooEntry, tmp_path: Path) -> None:
    state = dict(small.state_dict())
    del state["fnet.conv1.bias"]
    state["surplus"] = torch.zeros(1)
    state["corr_mlp.fc2.bias"] = torch.zeros(9)
    path = tmp_path / "wrong.pth"
    torch.save(state, path)
    with pytest.raises(ModelError) as caught:
        load_model(path, name="small")
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
    with pytest.raises(UnsafeFileError, match="asks for more than tensors"):
        load_model(path, name="small")
    assert not trace.exists()
    path.write_bytes(pickle.dumps(Payload(trace), protocol=2))  # without torch's container, as old checkpoints
    with pytest.raises(UnsafeFileError):
        load_model(path, name="small")
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # the same file, read carelessly: the payload is real
    assert trace.exists()


def test_a_cut_off_download_is_a_clear_error(small: CoTracker3, small_official: zoo.ZooEntry, tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    torch.save(small.state_dict(), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(path, name="small")


def test_a_file_of_another_version_is_refused(small: CoTracker3, tmp_path: Path) -> None:
    path = tmp_path / "newer.safetensors"
    save_file(small.state_dict(), path, {"format": "99", "family": "cotracker3", "config": "{}"})
    with pytest.raises(FormatError, match="format '99'"):
        load_model(path)
    save_file(small.state_dict(), path, {"format": "1", "family": "cotracker3", "config": '{"wings": 2}'})
    with pytest.raises(FormatError, match="wings"):
        load_model(path)
    save_file(small.state_dict(), path, {"format": "1", "family": "cotracker9", "config": "{}"})
    with pytest.raises(FormatError, match="family 'cotracker9'"):
        load_model(path)
    path.write_text("not a tensor in sight")
    with pytest.raises(ModelError, match="not a readable"):
        load_model(path)


def test_a_loaded_model_is_frozen(small: CoTracker3, tmp_path: Path) -> None:
    save_weights(tmp_path / "mine.safetensors", small, {})
    model = load_model(tmp_path / "mine.safetensors")
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
