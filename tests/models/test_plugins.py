"""Models of other packages: found by their entry points, used like any other, and kept from doing harm."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from installed_packages import Install, installing
from pointloom import Stream, Tracker, list_models, load_model
from pointloom.errors import FormatError, ModelError, PointloomWarning
from pointloom.models import zoo
from pointloom.models.weight_files import save_weights
from tracking.causal_models import Counter, CounterConfig
from tracking.small_models import moving_noise

FAMILY = "[pointloom.models]\ncounting = {package}:MODELS\n"
IMPORTS = """
from pointloom.models.zoo import Family, ModelPackage, ZooEntry
from tracking.causal_models import Counter, CounterConfig
"""
COUNTER = """
MODELS = ModelPackage(
    Family(CounterConfig, Counter), (ZooEntry("counter", CounterConfig(), "counts its frames", "MIT", None),)
)
"""


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    with installing(tmp_path) as function:
        yield function


def test_a_model_of_another_package_is_listed_and_loaded_by_name(install: Install) -> None:
    install("counters", IMPORTS + COUNTER, FAMILY.format(package="counters"))
    assert list_models()[-1].name == "counter"
    model = load_model("counter")
    assert isinstance(model, Counter)
    assert not model.training
    with pytest.raises(ModelError, match="Did you mean counter"):
        load_model("countr")


def test_a_function_may_give_what_a_package_adds(install: Install) -> None:
    install("counters", IMPORTS + COUNTER + "def models(): return MODELS", "[pointloom.models]\nx = counters:models\n")
    assert isinstance(load_model("counter"), Counter)


def test_it_tracks_videos_and_streams(install: Install) -> None:
    install("counters", IMPORTS + COUNTER, FAMILY.format(package="counters"))
    frames = moving_noise(5)
    tracks = Tracker(load_model("counter"), device="cpu").track(frames, np.float32([[0, 4, 6]]))
    stream = Stream(load_model("counter"), device="cpu")
    stream.add([[4, 6]])
    answers = [answer for frame in frames for answer in stream.step(frame)]
    np.testing.assert_array_equal([answer.xy[0] for answer in answers], tracks.xy[0])
    np.testing.assert_array_equal(tracks.xy[0, -1], [4 + 5, 6 + 5 / 8])


def test_its_weights_are_saved_and_loaded_with_its_configuration(install: Install, tmp_path: Path) -> None:
    install("counters", IMPORTS + COUNTER, FAMILY.format(package="counters"))
    path = tmp_path / "mine.safetensors"
    save_weights(path, Counter(CounterConfig(shared=False)), {})
    assert load_model(path).config == CounterConfig(shared=False)


def test_a_file_of_a_family_that_is_not_installed_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    with installing(tmp_path) as install:
        install("counters", IMPORTS + COUNTER, FAMILY.format(package="counters"))
        save_weights(path, Counter(CounterConfig()), {})
    with pytest.raises(FormatError, match=r"no family 'counting', only cotracker2, .* Is the package installed"):
        load_model(path)
    with pytest.raises(ModelError, match="no family has configurations of type CounterConfig"):
        zoo.build_model(CounterConfig())


def test_a_package_may_carry_its_weights(install: Install, tmp_path: Path) -> None:
    entry = f'ZooEntry("counter", CounterConfig(), "", "MIT", {str(tmp_path / "counter.safetensors")!r})'
    family = IMPORTS + f"MODELS = ModelPackage(Family(CounterConfig, Counter), ({entry},))"
    install("counters", family, FAMILY.format(package="counters"))
    model = Counter(CounterConfig())
    model.zero.data += 7
    with pytest.raises(ModelError, match=r"counter\.safetensors are missing"):
        load_model("counter")
    save_weights(tmp_path / "counter.safetensors", model, {})
    assert load_model("counter").zero == 7


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("import a_module_that_is_not_there", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        ("def MODELS(): return 1 / 0", "ZeroDivisionError: division by zero"),
        ("MODELS = 3", "TypeError: it is a int, not a ModelPackage"),
        ("", "AttributeError: module 'broken' has no attribute 'MODELS'"),
        (
            IMPORTS + 'MODELS = ModelPackage(Family(int, int), (ZooEntry("five", "5", "", "MIT", None),))',
            "ModelError: the configuration of the model 'five' is a str; its family takes int",
        ),
    ],
    ids=["no import", "it raises", "something else", "no value", "another family"],
)
def test_a_package_that_is_broken_is_named_and_does_not_stop_the_others(
    install: Install, module: str, reason: str
) -> None:
    install("counters", IMPORTS + COUNTER, FAMILY.format(package="counters"))
    install("broken", module, FAMILY.format(package="broken"))
    with pytest.warns(PointloomWarning) as caught:
        names = [entry.name for entry in list_models()]
    (message,) = [str(warning.message) for warning in caught]
    assert message.startswith("the package broken 1.0 (entry point counting = broken:MODELS) is left out: ")
    assert reason in message
    assert names[-1] == "counter"


def test_names_of_this_package_load_no_other_one(install: Install) -> None:
    install("broken", "1 / 0", FAMILY.format(package="broken"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model("tiny")


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ('other = pushy:named("tiny")', "a model called 'tiny'"),
        ('other = pushy:named("counter")', "a model called 'counter'"),
        ('other = pushy:named("pushed")', "a model called 'pushed'"),
        ('counting = pushy:named("new")', "a family called 'counting'"),
        ('tapir = pushy:named("new")', "a family called 'tapir'"),
    ],
    ids=["of this package", "of another package", "twice", "family of another package", "family of this package"],
)
def test_a_name_that_is_taken_is_refused(install: Install, line: str, taken: str) -> None:
    place, _, name = line.rstrip(")").partition("(")
    module = IMPORTS + (
        f'entries = [ZooEntry(name, CounterConfig(), "", "MIT", None) for name in ({name}, "pushed")]\n'
        "named = ModelPackage(Family(CounterConfig, Counter), tuple(entries))"
    )
    install("counters", IMPORTS + COUNTER, FAMILY.format(package="counters"))
    install("pushy", module, f"[pointloom.models]\n{place}\n")
    with pytest.warns(PointloomWarning, match=f"the package pushy 1.0 .* is left out: there is {taken} already"):
        names = [entry.name for entry in list_models()]
    assert names == [*zoo.ZOO, "counter"]
    with pytest.raises(ModelError, match=f"'pushed' cannot be loaded: the package pushy .*there is {taken} already"):
        load_model("pushed")


def test_a_model_that_two_packages_name_alike_is_refused(install: Install) -> None:
    install("counters", IMPORTS + COUNTER, FAMILY.format(package="counters"))
    install("others", IMPORTS + COUNTER, "[pointloom.models]\nother = others:MODELS\n")
    with pytest.warns(PointloomWarning, match="others"), pytest.raises(ModelError, match="the package others"):
        load_model("counter")
