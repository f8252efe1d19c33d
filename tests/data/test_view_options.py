"""What a user may write below ``dataset.augment``, and what becomes of it in digests."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from kdbench.config.compose import Composer
from kdbench.config.jobs import make_jobs
from kdbench.core.errors import ConfigError
from kdbench.data.mixing import MIXES, make_mixes
from kdbench.data.view_options import MIX_OPTIONS, VIEW_OPTIONS, augment_problems, mixes_of
from kdbench.data.views import VIEWS, make_views
from tests.toy import recipes

COMPOSER = Composer()
DEFAULTS: dict[str, Any] = {
    name: COMPOSER.resolve(("dataset=cifar10", f"dataset/augment={name}"), ())["dataset"]["augment"][name]
    for name in (*VIEW_OPTIONS, *MIX_OPTIONS)
}


@pytest.mark.parametrize("name", [*VIEW_OPTIONS, *MIX_OPTIONS])
def test_options_are_those_that_the_class_takes(name: str) -> None:
    signature = inspect.signature({**VIEWS, **MIXES}[name])
    assert tuple(signature.parameters) == {**VIEW_OPTIONS, **MIX_OPTIONS}[name]


def test_streams_of_views_differ() -> None:
    streams = [view.stream for view in make_views(DEFAULTS)]
    assert len(set(streams)) == len(streams) == len(VIEWS)


def test_views_run_in_one_order_whatever_that_of_the_list() -> None:
    backwards = dict(reversed(DEFAULTS.items()))
    assert [type(view) for view in make_views(backwards)] == [type(view) for view in make_views(DEFAULTS)]
    assert len(make_mixes(backwards)) == len(MIXES)
    assert mixes_of(backwards) == ("mixup", "cutmix")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("crop", {"padding": -1}, "padding=-1: must be 0 or more"),
        ("crop_flip", {"padding": 1.5}, "padding=1.5: must be 0 or more"),
        ("flip", {"prob": 1.1}, "prob=1.1: must be in [0, 1]"),
        ("color_jitter", {"hue": 0.6}, "hue=0.6: must be in [0, 0.5]"),
        ("color_jitter", {"contrast": -0.1}, "contrast=-0.1: must be 0 or more"),
        ("randaugment", {"ops": 0}, "ops=0: must be 1 or more"),
        ("randaugment", {"magnitude": 31}, "magnitude=31: must be below dataset.augment.randaugment.bins=31"),
        ("trivialaugment", {"bins": 1}, "bins=1: must be 2 or more"),
        ("erasing", {"area": [0.5, 0.2]}, "must be [least, most], both in [0, 1]"),
        ("erasing", {"area": 0.5}, "must be [least, most]"),
        ("erasing", {"aspect": [0, 2]}, "both in [0.01, 100]"),
        ("erasing", {"fill": "blak"}, "fill=blak: unknown; did you mean 'black'?"),
        ("mixup", {"alpha": 0}, "alpha=0: must be in [0.01, 100]"),
        ("cutmix", {"prob": True}, "prob=True: must be in [0, 1]"),
        ("cutmix", {"alfa": 1}, "alfa: unknown; did you mean 'alpha'?"),
    ],
)
def test_an_option_out_of_range_is_named(name: str, options: dict[str, Any], words: str) -> None:
    (problem,) = augment_problems({name: DEFAULTS[name] | options})
    assert problem.startswith(f"dataset.augment.{name}.")
    assert words in problem


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        (None, "which views?"),
        ({}, "which views?"),
        ("crop_flip", "which views?"),
        ({"none": {}, "crop": {"padding": 1}}, "none stands alone, not beside crop"),
        ({"mixupp": {}}, "did you mean 'mixup'?"),
        ({"randaugment": {"ops": 2}}, "needs magnitude, bins"),
    ],
)
def test_a_choice_that_makes_no_sense_is_named(augment: Any, words: str) -> None:
    (problem,) = augment_problems(augment)
    assert words in problem


def test_what_stands_in_the_yaml_is_fine() -> None:
    assert list(augment_problems(DEFAULTS)) == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("dataset.augment=[crop_flip,randaugmnt]", "did you mean 'randaugment'?"),
        (
            "dataset.augment.randaugment.magnitude=9",
            "randaugment is not chosen; add it: dataset.augment=[...,randaugment]",
        ),
        ("dataset.augment=[crop,crop]", "crop named twice"),
    ],
)
def test_a_command_names_views_that_are_there(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_jobs(COMPOSER, [override])
    assert words in str(error.value)


def digest(*overrides: str, outputs: Path) -> str:
    return recipes("teacher=none", *overrides, outputs=outputs)[-1].digest


def test_what_changes_no_view_changes_no_digest(tmp_path: Path) -> None:
    plain = digest(outputs=tmp_path)
    assert digest("dataset.padding=3", outputs=tmp_path) == plain
    both = digest("dataset.augment=[crop,erasing]", outputs=tmp_path)
    assert digest("dataset.augment=[erasing,crop]", outputs=tmp_path) == both
    others = [("dataset.augment=[crop,erasing]", "dataset.padding=3"), ("dataset.augment=crop",),
              ("dataset.augment=[crop,erasing]", "dataset.augment.erasing.prob=0.4")]  # fmt: skip
    digests = {plain, both, *(digest(*overrides, outputs=tmp_path) for overrides in others)}
    assert len(digests) == 2 + len(others)
