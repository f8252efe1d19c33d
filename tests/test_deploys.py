"""Methods that change the network that is deployed: it is what is measured, stored, loaded, exported, and teaches."""

from pathlib import Path

import pytest
import torch

import kdbench
from kdbench.export import export_entry, load_exported
from kdbench.metrics.cost import count_parameters
from kdbench.runner import Trainer, check_all
from tests.toy import Quiet, recipes, settings

CHAIN = (
    "teacher=resnet20",
    "assistants=[resnet14]",
    "student=resnet8",
    "trainer.batch_size=16",
    "trainer.max_epochs=1",
)
PIXELS = torch.rand(4, 1, 8, 8)


@pytest.fixture(scope="module", params=["simkd", "catkd"])
def chain(request, tmp_path_factory: pytest.TempPathFactory):
    torch.set_num_threads(1)
    outputs = tmp_path_factory.mktemp(request.param)
    made = recipes(*CHAIN, f"method={request.param}", "method.weights.task=1", outputs=outputs)
    trainer, observer = Trainer(settings(outputs)), Quiet()
    return request.param, outputs, [trainer.make(recipe, observer) for recipe in made], observer


def test_what_was_measured_is_what_is_loaded_without_a_teacher(chain, tmp_path: Path) -> None:
    _, outputs, entries, _ = chain
    alone = tmp_path / "store" / entries[2].digest[:2]
    alone.mkdir(parents=True)
    (alone / entries[2].digest).symlink_to(entries[2].path)
    network = kdbench.load(entries[2].id, tmp_path)
    torch.testing.assert_close(network(PIXELS), kdbench.load(entries[2].id, outputs)(PIXELS), rtol=0, atol=0)
    assert count_parameters(network) == entries[2].metrics["parameters"]
    trainer = Trainer(settings(outputs))
    measured = trainer._measures(entries[2].recipe, trainer.builder.data(entries[2].recipe))["test"](network)
    assert measured["acc"] == entries[2].metrics["test"]["acc"]


def test_parameters_that_the_method_adds_or_takes_are_counted_and_said(chain) -> None:
    method, _, entries, observer = chain
    added = {"simkd": 64 * 32 + 32 * 32 * 9 + 32 * 64 + 2 * (32 + 32 + 64), "catkd": -10}[method]
    assert [entry.metrics["added_parameters"] for entry in entries] == [0, added, added]
    assert any("deployed as its method changes it" in note for note in observer.notes)


def test_a_simkd_student_ends_with_the_teacher_s_classifier_untouched(chain) -> None:
    method, outputs, entries, _ = chain
    teacher, assistant, student = (kdbench.load(entry.id, outputs).state_dict() for entry in entries)
    if method == "catkd":
        assert "body.fc.bias" not in student
    else:
        for name in ("body.fc.weight", "body.fc.bias"):
            assert torch.equal(assistant[name], teacher[name])
            assert torch.equal(student[name], teacher[name]), "handed down along the chain"


def test_the_last_map_of_a_deployed_network_gives_its_logits(chain) -> None:
    from kdbench.core.taps import TapReader

    _, outputs, entries, _ = chain
    network = kdbench.load(entries[2].id, outputs)
    logits, features, *_ = TapReader(network, ["last_map"])(PIXELS)
    torch.testing.assert_close(network.get_submodule("body.fc")(features["last_map"].mean((2, 3))), logits)


@pytest.mark.parametrize("form", ["safetensors", "torch_export"])
def test_a_deployed_network_is_exported_and_read_back(chain, form: str, tmp_path: Path) -> None:
    _, outputs, entries, _ = chain
    export_entry(entries[2], Trainer(settings(outputs)).builder, form, tmp_path, which="last")
    if form == "safetensors":
        wanted = kdbench.load(entries[2].id, outputs)(PIXELS)
        torch.testing.assert_close(load_exported(tmp_path)(PIXELS), wanted)


@pytest.mark.parametrize("method", ["simkd", "catkd"])
def test_a_network_without_global_pooling_is_refused_as_unsuitable(method: str, outputs: Path) -> None:
    made = recipes("teacher=resnet14", "student=plain2", f"method={method}", outputs=outputs)
    problems, unsuitable = check_all(made, settings(outputs))
    assert problems == []
    assert "exactly one tap of the student" in unsuitable[made[-1].digest]
