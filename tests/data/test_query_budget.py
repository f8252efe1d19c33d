from pathlib import Path

import pytest
import torch

from kdbench.config.compose import Composer
from kdbench.core.errors import ConfigError
from kdbench.data.load import load_data
from kdbench.data.queried import under_budget

DATA = load_data(Composer().resolve(("dataset=digits",), ())["dataset"], Path("nowhere"))


def chosen(count: int, *, unqueried: str = "drop", seed: int = 0) -> torch.Tensor:
    """Indices of the images that teachers may be asked about."""
    taught = under_budget(DATA, {"teacher_queries": count, "unqueried": unqueried}, split_seed=seed)
    assert taught.spec.labels is not None
    return (taught.spec.labels >= 0).nonzero().squeeze(1)


def test_each_class_has_its_share_and_criteria_know_the_chosen_labels_alone() -> None:
    taught = under_budget(DATA, {"teacher_queries": 200, "unqueried": "drop"}, split_seed=0)
    assert taught.spec.labels is not None
    assert torch.equal(taught.train.index, chosen(200))
    assert torch.equal(taught.spec.labels[taught.train.index], taught.train.labels)
    sizes = taught.train.labels.bincount()
    expected = DATA.train.labels.bincount() * 200 / len(DATA.train)
    assert (sizes - expected).abs().max() < 1
    assert len(taught.train) == taught.spec.train_size == 200
    assert taught.spec.mean == DATA.spec.mean


def test_the_images_depend_on_the_split_seed_alone_and_nearly_nest() -> None:
    assert torch.equal(chosen(200), chosen(200, unqueried="label"))
    assert not torch.equal(chosen(200), chosen(200, seed=1))
    assert torch.isin(chosen(200), chosen(400)).sum() >= 190


def test_label_keeps_every_image_and_no_budget_changes_nothing() -> None:
    assert under_budget(DATA, {"teacher_queries": 200, "unqueried": "label"}, split_seed=0).train is DATA.train
    assert under_budget(DATA, {}, split_seed=0) is DATA


def test_more_than_there_are_is_refused() -> None:
    count = len(DATA.train) + 1
    with pytest.raises(ConfigError, match=f"there are {count - 1} training images"):
        chosen(count)
