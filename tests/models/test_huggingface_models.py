"""Networks of transformers, from a small folder in the hub's own format; the hub itself is never asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.taps import TapReader
from kdbench.core.types import DataSpec
from kdbench.models.create import create_network
from kdbench.models.pretrained import pretrained_classes, pretrained_identity

DATA = DataSpec("toy", 5, (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
SIZES: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ResNetConfig, ResNetForImageClassification

    place = tmp_path_factory.mktemp("hub") / "tiny-resnet"
    torch.manual_seed(3)
    ResNetForImageClassification(ResNetConfig(**SIZES, num_labels=5)).save_pretrained(place)
    statistics = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "do_normalize": True}
    (place / "preprocessor_config.json").write_text(json.dumps(statistics))
    return place


def node(place: object, **keys: Any) -> dict[str, Any]:
    return {"_target_": "transformers.AutoModelForImageClassification", "model_name": str(place), "pretrained": True,
            "args": {}, "version": 1, **keys}  # fmt: skip


def create(config: dict[str, Any], data: DataSpec = DATA) -> Any:
    return create_network(config, data, name="net", seed=0)


def test_weights_normalisation_and_taps_are_those_of_the_folder(folder: Path) -> None:
    from transformers import ResNetForImageClassification

    network = create(node(folder)).eval()
    theirs = ResNetForImageClassification.from_pretrained(folder).eval()
    images = torch.rand(2, 3, 32, 32)
    normalised = (images - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.4, 0.5, 0.6])[:, None, None]
    torch.testing.assert_close(network(images), theirs(normalised).logits)
    output = TapReader(network, ["stem", "stage1", "stage2", "pooled"])(images)
    assert [tuple(values.shape[1:]) for values in output.features.values()] == [(8, 8, 8), (8, 8, 8), (16, 4, 4), (16,)]


def test_a_head_of_other_classes_starts_anew_and_the_rest_is_kept(folder: Path) -> None:
    five, seven = create(node(folder)), create(node(folder), DataSpec("toy", 7, (3, 32, 32), (0.5,) * 3, (0.25,) * 3))
    assert isinstance(seven.get_submodule(seven.head), nn.Linear)
    assert seven(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    first = "resnet.embedder.embedder.convolution.weight"
    torch.testing.assert_close(seven.body.get_parameter(first), five.body.get_parameter(first))


def test_without_weights_a_seed_and_the_channels_of_the_data_make_it(folder: Path) -> None:
    gray = DataSpec("toy", 5, (1, 32, 32), (0.5,), (0.25,))
    one, two = (create(node(folder, pretrained=False, args={"hidden_sizes": [8, 8]}), gray) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert one(torch.rand(2, 1, 32, 32)).shape == (2, 5)
    with pytest.raises(ConfigError, match="images of 3 channels, those of toy have 1; use pretrained=false"):
        create(node(folder), gray)


def test_what_it_was_trained_for_and_what_it_is_known_by(folder: Path) -> None:
    assert pretrained_classes(node(folder)) == 5
    identity = pretrained_identity(node(folder))
    assert identity is not None
    assert identity.startswith("sha256:")
    assert pretrained_identity(node("microsoft/resnet-18@v1")) == "microsoft/resnet-18@v1"
    assert pretrained_identity(node(folder, pretrained=False)) is None


def test_what_cannot_be_had_is_named_with_the_way_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"net: its pretrained weights are not in .*checkpoint=FILE"):
        create(node("nobody/nothing"))
    with pytest.raises(ConfigError, match=r"args\.hiden_sizes is no option of ResNetConfig"):
        create(node(folder, args={"hiden_sizes": [8]}))


def test_transformers_missing_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'kdbench\[huggingface\]'"):
        create(node(folder))
