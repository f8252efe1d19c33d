from pathlib import Path

import pytest
import torch

from kdbench.kernels import matmul_precision
from kdbench.runner import Trainer, check_all
from tests.toy import Quiet, recipes, settings


def test_the_precision_of_products_holds_for_a_training_and_is_put_back(outputs: Path) -> None:
    seen = []

    class Looks(Quiet):
        def on_step(self, step: int, epoch: int) -> None:
            seen.append(torch.get_float32_matmul_precision())

    before = torch.get_float32_matmul_precision()
    (recipe,) = recipes("teacher=none", "trainer.matmul=high", outputs=outputs)
    Trainer(settings(outputs)).make(recipe, Looks())
    assert set(seen) == {"high"}
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises(MemoryError), matmul_precision("medium"):
        raise MemoryError
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(
    ("override", "words"),
    [("trainer.compile=defualt", "did you mean 'default'"), ("trainer.matmul=hihg", "did you mean 'high'")],
)
def test_unknown_modes_are_named_before_anything_is_trained(override: str, words: str, outputs: Path) -> None:
    problems, _ = check_all(recipes("teacher=none", override, outputs=outputs), settings(outputs))
    assert words in "\n".join(problems)


def test_what_changes_the_last_digits_is_part_of_the_identity(outputs: Path) -> None:
    changes = ("trainer.compile=default", "trainer.matmul=high", "trainer.compile=null")
    digests = [recipes("teacher=none", change, outputs=outputs)[0].digest for change in changes]
    assert len(set(digests)) == 3


def test_a_method_that_reads_features_refuses_a_compiled_student(outputs: Path) -> None:
    made = recipes("method=at", "assistants=[]", "hops.student.trainer.compile=default", outputs=outputs)
    problems, _ = check_all(made, settings(outputs))
    assert "trainer.compile=default: the method reads features" in "\n".join(problems)


@pytest.mark.skip(reason="compiling takes a minute or more on two cores; run by hand after a change of torch")
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_student_learns_the_same(outputs: Path) -> None:
    trainer = Trainer(settings(outputs))
    found = []
    for mode in ("null", "default"):
        teacher, student = recipes("assistants=[]", f"hops.student.trainer.compile={mode}", outputs=outputs)
        trainer.make(teacher, Quiet())
        found.append([row["train/loss"] for row in trainer.make(student, Quiet()).history])
    assert found[0] == pytest.approx(found[1], rel=1e-3)
