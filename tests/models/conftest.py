"""A small CoTracker3, and an entry of the zoo for it, for tests of files and downloads."""

from __future__ import annotations

import pytest

from pointloom.models import zoo
from pointloom.models.cotracker3 import CoTracker3, CoTracker3Config, initialise

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
