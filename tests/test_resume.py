"""Promise 2: kill it at any step, type the same command again, end with the same bits."""

import os
import signal
from pathlib import Path

import pytest
import torch

from kdbench.core.errors import Stopped, TrainingError
from kdbench.core.signals import stopping_safely
from kdbench.runner import Trainer, _check_weights
from kdbench.store import Entry
from tests.toy import Quiet, recipes, settings

# Everything that could draw random numbers or carry state: views, dropout, an average, a schedule per step.
HARD = ("teacher=none", "assistants=[]", "dataset.augment=crop_flip", "trainer.ema=0.9", "select_on=val")


class Interrupts(Quiet):
    """Asks for a stop at one step, as a signal would."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    def on_step(self, step: int, epoch: int) -> None:
        super().on_step(step, epoch)
        if step == self._at:
            os.kill(os.getpid(), signal.SIGTERM)


class Breaks(Quiet):
    """Raises at one step, after which nothing is saved, as a kill would."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    def on_step(self, step: int, epoch: int) -> None:
        super().on_step(step, epoch)
        if step == self._at:
            raise MemoryError


def same(one: Entry, two: Entry) -> None:
    for which in ("last", "best"):
        a, b = one.weights(which), two.weights(which)
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert one.history == two.history
    assert one.metrics["test"] == two.metrics["test"]
    assert one.metrics["images"] == two.metrics["images"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Entry:
    outputs = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    (recipe,) = recipes(*HARD, outputs=outputs)
    return Trainer(settings(outputs)).make(recipe, Quiet())


@pytest.mark.parametrize("step", range(1, 9))
def test_stopped_at_any_step_and_resumed_ends_with_the_same_bits(step: int, whole: Entry, outputs: Path) -> None:
    (recipe,) = recipes(*HARD, outputs=outputs)
    trainer = Trainer(settings(outputs))
    rarely = Trainer(settings(outputs, checkpoint_every=1e9))  # so that it is the signal that saves
    with pytest.raises(Stopped), stopping_safely():
        rarely.make(recipe, Interrupts(step))
    observer = Quiet()
    with stopping_safely():
        same(trainer.make(recipe, observer), whole)
    assert observer.steps == list(range(step + 1, 9)), "it went on from where it was stopped"
    assert [row["epoch"] for row in observer.rows] == [1, 2], "earlier rows are shown again"


@pytest.mark.parametrize("step", [1, 4, 5, 8])
def test_broken_off_and_resumed_ends_with_the_same_bits(step: int, whole: Entry, outputs: Path) -> None:
    (recipe,) = recipes(*HARD, outputs=outputs)
    trainer = Trainer(settings(outputs))
    with pytest.raises(MemoryError):
        trainer.make(recipe, Breaks(step))
    observer = Quiet()
    same(trainer.make(recipe, observer), whole)
    assert observer.steps[0] == step, "the last checkpoint is that of the step before"


def test_a_distilled_student_resumes_with_the_same_bits_and_the_same_queries(tmp_path: Path) -> None:
    entries = []
    for name, at in (("whole", None), ("stopped", 6)):
        outputs = tmp_path / name
        teacher, student = recipes("assistants=[]", "teacher=plain4", outputs=outputs)
        trainer = Trainer(settings(outputs))
        trainer.make(teacher, Quiet())
        if at is not None:
            with pytest.raises(Stopped), stopping_safely():
                trainer.make(student, Interrupts(at))
        with stopping_safely():
            entries.append(trainer.make(student, Quiet()))
    same(*entries)
    assert entries[0].metrics["teacher_queries"] == entries[1].metrics["teacher_queries"] == 8 * 32


def test_a_damaged_checkpoint_is_named_and_the_training_starts_again(whole: Entry, outputs: Path) -> None:
    (recipe,) = recipes(*HARD, outputs=outputs)
    trainer = Trainer(settings(outputs))
    with pytest.raises(Stopped), stopping_safely():
        trainer.make(recipe, Interrupts(3))
    (checkpoint,) = outputs.glob("store/.drafts/*/resume.ckpt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    observer = Quiet()
    with stopping_safely():
        same(trainer.make(recipe, observer), whole)
    assert any("damaged" in note for note in observer.notes)


def test_a_resume_under_other_threads_says_so(outputs: Path) -> None:
    (recipe,) = recipes(*HARD, outputs=outputs)
    with pytest.raises(Stopped), stopping_safely():
        Trainer(settings(outputs)).make(recipe, Interrupts(3))
    observer = Quiet()
    with stopping_safely():
        Trainer(settings(outputs, threads=2)).make(recipe, observer)
    assert any("threads 1 -> 2" in note for note in observer.notes)


def test_a_diverging_training_is_named_and_stores_nothing(outputs: Path) -> None:
    (recipe,) = recipes("teacher=none", "assistants=[]", "optim.lr=1e30", outputs=outputs)
    trainer = Trainer(settings(outputs))
    with pytest.raises(TrainingError, match=r"plain2 diverged.*lower optim\.lr"):
        trainer.make(recipe, Quiet())
    assert trainer.settings.store.get(recipe.digest) is None


def test_weights_that_only_the_last_step_ruined_are_not_stored(outputs: Path) -> None:
    (recipe,) = recipes("teacher=none", outputs=outputs)
    network = torch.nn.BatchNorm1d(2)
    _check_weights(recipe, network)
    network.weight.data[0] = float("inf")
    with pytest.raises(TrainingError, match=r"plain2 diverged.*optim\.lr"):
        _check_weights(recipe, network)


def test_best_weights_are_those_of_the_best_row(outputs: Path) -> None:
    (recipe,) = recipes(*HARD, "trainer.max_epochs=4", outputs=outputs)
    trainer = Trainer(settings(outputs))
    entry = trainer.make(recipe, Quiet())
    network = trainer.builder.trained(entry.digest)
    network.load_state_dict(entry.weights("best"))
    data = trainer.builder.data(recipe)
    measured = trainer._measures(recipe, data)["val"](network)
    assert measured["acc"] == entry.metrics["best"]["acc"] == max(row["val/acc"] for row in entry.history)
