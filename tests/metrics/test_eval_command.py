"""Every evaluation through ``kdbench eval``, on a chain trained for a moment."""

import json

import pytest

from kdbench.cli import main
from kdbench.config.compose import Composer
from kdbench.store import Store
from tests.toy import SHORT

FAST = ("eval.pgd.steps=2", "eval.corruptions.severities=[5]", "eval.latency.repeats=1", "eval.latency.batch_sizes=[1]")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The outputs folder, and the IDs of a teacher and its student."""
    outputs = tmp_path_factory.mktemp("outputs")
    assert main([*SHORT, "teacher=plain4", f"paths.outputs={outputs}"]) == 0
    entries = sorted(Store(outputs / "store"), key=lambda entry: len(entry.recipe.teachers))
    return outputs, [entry.id for entry in entries]


def records(outputs, split):
    found = [json.loads(file.read_text()) for file in outputs.glob("evals/*/*.json")]
    return {record["evaluation"]: record["result"] for record in found if record["split"] == split}


def test_every_evaluation_measures_a_distilled_network(trained, capsys):
    outputs, (_, student) = trained
    names = [name for name in Composer().options("eval") if name != "autoattack"]  # of a package that is not there
    assert main(["eval", student, f"eval=[{','.join(names)}]", *FAST, f"paths.outputs={outputs}"]) == 0
    found = records(outputs, "test")
    assert found.keys() == set(names)
    accuracies = {name: found[name]["clean_acc"] for name in ("pgd", "fgsm", "corruptions")}
    assert accuracies == dict.fromkeys(accuracies, pytest.approx(found["accuracy"]["acc"], abs=1e-4))
    assert found["pgd"]["samples"] == found["ood"]["inside"] == found["ood"]["outside"] == 359
    assert found["linear_probe"]["train_samples"] == 1294  # without validation and test images
    taps = {row["tap"] for row in found["fidelity"]["cka_minibatch_unbiased"]}
    assert taps >= {"stage1", "stage2", "pooled"}
    assert "gaussian_noise" in capsys.readouterr().out


def test_another_dataset_is_fitted_to_the_network(trained):
    outputs, (_, student) = trained
    chosen = ["eval=[ood,linear_probe]", "eval.ood.dataset=fake", "eval.linear_probe.dataset=fake"]
    assert main(["eval", student, *chosen, f"paths.outputs={outputs}", "--split", "val"]) == 0
    found = records(outputs, "val")
    assert (found["ood"]["inside"], found["ood"]["outside"]) == (144, 200)
    assert (found["linear_probe"]["train_samples"], found["linear_probe"]["samples"]) == (900, 200)


def test_who_learnt_together_is_no_teacher(outputs, capsys):
    assert main([*SHORT, "teacher=plain4", "assistants=[]", "method=dml"]) == 0
    (learnt,) = (entry.id for entry in Store(outputs / "store") if entry.recipe.teachers)
    capsys.readouterr()
    assert main(["eval", learnt, "eval=[fidelity]"]) == 2
    assert "trained without a teacher" in capsys.readouterr().err
    assert main(["eval", learnt, "eval=[accuracy]"]) == 0


def test_all_that_cannot_be_measured_is_named_before_anything_is(trained, capsys):
    outputs, (teacher, _) = trained
    before = len(list(outputs.glob("evals/*/*.json")))
    wrong = ["eval=[accuracy,fidelity,ood]", "eval.ood.dataset=digits", f"paths.outputs={outputs}"]
    assert main(["eval", teacher, *wrong]) == 2
    problems = capsys.readouterr().err.splitlines()
    assert len(problems) == 2
    assert "trained without a teacher" in problems[0]
    assert "take another" in problems[1]
    assert main(["eval", teacher, "eval=[ood]", "eval.ood.dataset=fak", f"paths.outputs={outputs}"]) == 2
    assert "eval.ood.dataset=fak: there is no such dataset; did you mean 'fake'?" in capsys.readouterr().err
    assert len(list(outputs.glob("evals/*/*.json"))) == before
