"""One evaluation from beginning to end: predict, score, and write what was found into a folder.

OUT/ predictions/   what was tracked; kept, so that the same command goes on or scores again
     results.json   everything that was found; results.csv the numbers alone
     report.html    one page that needs nothing else
"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pointloom.datasets.registry import Dataset, list_datasets, open_dataset
from pointloom.errors import OptionError
from pointloom.evaluation.predict import PredictionStore, Progress, predict
from pointloom.evaluation.predictors import BASELINES
from pointloom.evaluation.protocols import POINTLOOM, PROTOCOLS, Protocol, find_protocol
from pointloom.evaluation.report import check_extra, write_report
from pointloom.evaluation.results import Results
from pointloom.evaluation.score import score, summarise
from pointloom.evaluation.statistics import INTERVAL_PERCENT, RESAMPLES, SEED
from pointloom.tracks import Tracks

Stages = Callable[[str], Progress]  # begins a stage of the work and returns how to report on it


def evaluate(
    source: str,
    models: Sequence[str],
    out: Path,
    *,
    protocol: str | None = None,
    workers: int = 1,
    limit: int | None = None,
    device: str = "auto",
    stages: Stages | None = None,
) -> Results:
    """Evaluate models and baselines on a data set `NAME:FOLDER` and write everything into the folder `out`.

    models    names, files, or NAME=FILE; without any, what the folder holds is scored again
    protocol  name of one; the default is `pointloom-1`, or that of what is scored again
    workers   processes that track clips side by side
    limit     clips at most
    """
    begin = stages or (lambda text: _ignore)
    check_extra()  # before hours of work
    dataset = open_dataset(source)
    store = PredictionStore(out / "predictions")
    if models:
        chosen = find_protocol(protocol or POINTLOOM.name)
        predictors = predict(
            dataset, models, chosen, store, workers=workers, limit=limit, device=device, progress=begin("tracking")
        )
        names = [predictor.name for predictor in predictors]
    else:
        names = store.models()
        chosen = find_protocol(protocol or _protocol_of(store))
    scored = score(dataset, names, chosen, store, limit=limit, progress=begin("scoring"))
    results = summarise(scored, describe_run(dataset, models or names, chosen, limit), dataset=dataset.name)
    results.save(out)
    write_report(out / "report.html", results, dataset, chosen, store, progress=begin("drawing"))
    return results


def describe_run(dataset: Dataset, models: Sequence[str], protocol: Protocol, limit: int | None) -> dict[str, Any]:
    """Say by what results were made."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": {"name": dataset.name, "folder": dataset.path.resolve().name},
        "command": shlex.join(
            ["pointloom", "evaluate", f"{dataset.name}:{dataset.path}"]
            + [part for model in models for part in ("--model", model)]
            + ["--protocol", protocol.name]
            + ([] if limit is None else ["--limit", str(limit)])
        ),
        "protocol": protocol.as_meta(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("pointloom", "torch", "numpy", "opencv-python-headless")},
        },
        "machine": {"system": platform.platform(), "processor": platform.machine()},
        "bootstrap": {"resamples": RESAMPLES, "interval_percent": INTERVAL_PERCENT, "seed": SEED},
    }


def choices() -> str:
    """List what can be evaluated, and how, as text."""
    datasets = {entry.name: entry.summary for entry in list_datasets()}
    protocols = {protocol.name: protocol.summary for protocol in PROTOCOLS.values()}
    width = max(map(len, [*datasets, *protocols])) + 2
    parts = [
        "\n".join([title, *(f"  {name:<{width}}{summary}" for name, summary in entries.items())])
        for title, entries in (("Data sets", datasets), ("Protocols", protocols))
    ]
    return "\n\n".join([*parts, f"Baselines\n  {', '.join(BASELINES)}"])


def _protocol_of(store: PredictionStore) -> str:
    """Return the name of the protocol by which the predictions of a folder were made."""
    first = next(iter(sorted(store.folder.rglob("*.npz"))), None)
    if first is None:
        raise OptionError(f"{store.folder} holds no predictions to score again. Say what to evaluate with --model.")
    return str(Tracks.load(first).meta["protocol"]["name"])


def _ignore(done: int, total: int | None) -> None:
    """Take note of nothing."""
