"""Where the weights of a named model are: in the package, or downloaded from their publisher and kept.

What comes from the Hugging Face hub is pinned to a commit; what comes from elsewhere is shown with its hash. The
licence is shown before the first download.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from pointloom.errors import ModelError, PointloomWarning
from pointloom.models.zoo import ZooEntry

WEIGHTS_FOLDER = Path(__file__).parent.parent / "weights"
FETCH_TIMEOUT_S = 30.0  # without a byte from the web


def find_file(entry: ZooEntry, cache: Path | None = None) -> Path:
    """Return the file of a named model's weights, downloaded if need be."""
    assert entry.file is not None, "a model that learns nothing has no file"
    if not entry.shipped:
        return download(entry, cache=cache)
    path = WEIGHTS_FOLDER / entry.file
    if not path.is_file():
        raise ModelError(f"the weights {path.name} are missing from this installation. Reinstall the package.")
    return path


def download(entry: ZooEntry, *, cache: Path | None = None) -> Path:
    """Fetch official weights, or find them in the cache, also without a network. Shows their licence the first time."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(cache or HF_HUB_CACHE)
    if entry.url is None:
        return _download_from_hub(entry, folder)
    assert entry.file is not None
    path = folder / f"pointloom-{entry.name}" / entry.file
    if not path.is_file():
        _show_licence(entry, entry.url)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _fetch(f"{entry.url}/{entry.file}", path)
        except (OSError, HTTPException) as error:
            raise _not_downloaded(entry, entry.url, error) from error
        _show_hash(path)
    return path


def _download_from_hub(entry: ZooEntry, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    assert entry.repo is not None
    assert entry.file is not None
    pin = folder / f"pointloom-{entry.name}.commit"
    revision = entry.revision or (pin.read_text().strip() if pin.is_file() else None)
    try:
        return Path(hf_hub_download(entry.repo, entry.file, revision=revision, cache_dir=folder, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    _show_licence(entry, entry.repo)
    try:
        path = Path(hf_hub_download(entry.repo, entry.file, revision=revision, cache_dir=folder))
    except Exception as error:  # network, permission, disk: the hub raises many kinds
        raise _not_downloaded(entry, entry.repo, error) from error
    pin.write_text(path.parent.name)  # snapshots/COMMIT/file
    return path


def _fetch(url: str, path: Path) -> None:
    """Copy a file from the web; nothing is left of one that breaks off."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with urlopen(url, timeout=FETCH_TIMEOUT_S) as answer, unfinished.open("wb") as file:
            shutil.copyfileobj(answer, file)
            expected = int(answer.headers.get("Content-Length", file.tell()))
            if file.tell() != expected:
                raise OSError(f"the connection ended after {file.tell()} of {expected} bytes")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _show_licence(entry: ZooEntry, source: str) -> None:
    warnings.warn(
        f"downloading {entry.file} of {source}, licence {entry.licence}"
        + (": not for commercial use." if entry.commercial is False else "."),
        PointloomWarning,
        stacklevel=4,
    )


def _show_hash(path: Path) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    warnings.warn(
        f"{path.name} is not pinned to a version: its publisher can change it. What came has the SHA-256 {digest}.",
        PointloomWarning,
        stacklevel=4,
    )


def _not_downloaded(entry: ZooEntry, source: str, error: Exception) -> ModelError:
    return ModelError(
        f"could not download {entry.file} of {source}: {error}. With a network, try again; or put the file on "
        f"this machine and give its path with name={entry.name!r}."
    )
