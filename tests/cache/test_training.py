"""Trainings with and without a cache: the same students, fewer questions."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.core.errors import Stopped
from kdbench.core.signals import stopping_safely
from kdbench.runner import Trainer, check_all
from kdbench.store import Entry
from tests.test_resume import Breaks, Interrupts
from tests.toy import Quiet, recipes, settings

PAIR = ("teacher=plain4", "assistants=[]", "teacher.seed=0", "dataset.train_size=200")
VIEWS = "dataset.augment=crop_flip"
SEEN = 2 * 4 * 32  # samples of a student's training
PASS = 200 + 32  # of the teacher: the training set and a check


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the teachers, for images as they are and for views."""
    outputs = tmp_path_factory.mktemp("taught")
    torch.set_num_threads(1)
    for views in ((), (VIEWS,), (VIEWS, "dataset.view_seed=0")):
        Trainer(settings(outputs)).make(recipes(*PAIR, *views, outputs=outputs)[0], Quiet())
    return outputs


@pytest.fixture
def outputs(outputs: Path, taught: Path) -> Iterator[Path]:
    shutil.copytree(taught, outputs)
    return outputs


def student(outputs: Path, *overrides: str, observer: Quiet | None = None, **options: Any) -> Entry:
    """The student of a job, trained by a process of its own as far as caches in memory go."""
    recipe = recipes(*PAIR, *overrides, outputs=outputs)[1]
    return Trainer(settings(outputs, **options)).make(recipe, observer or Quiet())


def forget(entry: Entry, outputs: Path) -> dict[str, torch.Tensor]:
    """The weights of a network that is then removed, so that it is trained again."""
    weights = entry.weights()
    settings(outputs).store.remove(entry.digest)
    return weights


def counted(entry: Entry) -> tuple[int, int]:
    return entry.metrics["teacher_queries"], entry.metrics["teacher_forwards"]


@pytest.mark.parametrize(
    "overrides", [(), (VIEWS,), ("hops.plain2.trainer.precision=bf16-mixed",), ("method=rkd",)], ids=str
)
def test_a_cached_student_is_the_uncached_one(overrides: tuple[str, ...], outputs: Path) -> None:
    live = student(outputs, *overrides)
    weights = forget(live, outputs)
    cached = student(outputs, *overrides, cache=True)
    for name, value in cached.weights().items():
        assert torch.allclose(value, weights[name], rtol=1e-5, atol=1e-6)
    assert cached.history[-1]["val/agreement"] == cached.metrics["val"]["agreement"]
    assert counted(live) == (SEEN, SEEN)
    assert counted(cached) == (SEEN, PASS * (2 if VIEWS in overrides else 1))


def test_students_of_other_seeds_share_what_was_said(outputs: Path) -> None:
    shared = [student(outputs, f"seed={seed}", cache=True) for seed in (1, 2)]
    assert [counted(entry) for entry in shared] == [(SEEN, PASS), (SEEN, 32)]
    views = [student(outputs, VIEWS, "dataset.view_seed=0", f"seed={seed}", cache=True) for seed in (1, 2)]
    assert [counted(entry) for entry in views] == [(SEEN, 2 * PASS), (SEEN, 2 * 32)]


def test_another_seed_gets_the_same_bits_whoever_asked_first(outputs: Path) -> None:
    weights = forget(student(outputs, "seed=1", cache=True), outputs)
    shutil.rmtree(outputs / "cache")
    student(outputs, "seed=2", cache=True)
    second = student(outputs, "seed=1", cache=True)
    assert counted(second) == (SEEN, 32)
    assert all(torch.equal(value, weights[name]) for name, value in second.weights().items())


@pytest.mark.parametrize("views", [(), (VIEWS,)], ids=["as they are", "views"])
@pytest.mark.parametrize("lost", [False, True], ids=["kept", "lost"])
def test_a_resumed_cached_student_ends_with_the_same_bits(lost: bool, views: tuple[str, ...], outputs: Path) -> None:
    whole = student(outputs, *views, cache=True)
    history, weights = whole.history, forget(whole, outputs)
    shutil.rmtree(outputs / "cache")
    with pytest.raises(MemoryError):
        student(outputs, *views, cache=True, observer=Breaks(3))
    with pytest.raises(Stopped), stopping_safely():
        student(outputs, *views, cache=True, observer=Interrupts(6))
    if lost:
        shutil.rmtree(outputs / "cache")
    resumed = student(outputs, *views, cache=True)
    assert all(torch.equal(value, weights[name]) for name, value in resumed.weights().items())
    assert resumed.history == history
    assert resumed.metrics["teacher_queries"] == whole.metrics["teacher_queries"]
    assert resumed.metrics["test"] == whole.metrics["test"]


def test_views_in_turn_are_asked_about_once_each(outputs: Path) -> None:
    entry = student(outputs, VIEWS, "cache=teacher", "cache.views=1", cache=True)
    assert counted(entry) == (SEEN, PASS)
    trainer = Trainer(settings(outputs))
    loader = trainer._train_loader(entry.recipe, trainer.builder.data(entry.recipe))
    assert torch.equal(loader.at(torch.arange(9), 0).inputs, loader.at(torch.arange(9), 5).inputs)


def test_a_method_that_reads_maps_asks_the_live_teacher_and_says_so(outputs: Path) -> None:
    observer = Quiet()
    entry = student(outputs, "method=at", cache=True, observer=observer)
    assert counted(entry) == (SEEN, SEEN)
    assert any("feature maps" in note for note in observer.notes)


def test_a_lossy_cache_is_used_whatever_the_settings_and_states_its_loss(outputs: Path) -> None:
    observer = Quiet()
    entry = student(outputs, "cache=teacher", "cache.top_k=2", observer=observer)
    assert counted(entry) == (SEEN, PASS)
    assert any("lossy cache" in note and "nats" in note for note in observer.notes)


def test_a_lossy_cache_for_a_method_that_reads_maps_is_refused(outputs: Path) -> None:
    made = recipes(*PAIR, "method=at", "cache=teacher", "cache.dtype=float16", outputs=outputs)
    problems, unsuitable = check_all(made, settings(outputs))
    assert problems == []
    assert "cache.dtype=float16" in unsuitable[made[1].digest]


def test_a_teacher_can_answer_in_bf16_while_the_student_computes_in_float32(outputs: Path) -> None:
    low = student(outputs, "trainer.teacher_precision=bf16-mixed")
    cached = student(outputs, "trainer.teacher_precision=bf16-mixed", "seed=1", cache=True)
    high = student(outputs)
    differ = [not torch.equal(value, high.weights()[name]) for name, value in low.weights().items()]
    assert any(differ)
    assert low.history[-1]["train/loss"] == pytest.approx(high.history[-1]["train/loss"], rel=0.05)
    assert counted(cached) == (SEEN, PASS)


def test_a_teacher_precision_that_the_device_has_not_is_named(outputs: Path) -> None:
    made = recipes(*PAIR, "trainer.teacher_precision=16-mixed", outputs=outputs)
    problems, _ = check_all(made, settings(outputs))
    assert problems[0].startswith("trainer.teacher_precision=16-mixed: CPUs have no half precision")


def test_a_teacher_is_asked_once_about_the_test_set_by_all_students_of_a_process(
    outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench.cache import teacher as module

    asked: list[str] = []
    monkeypatch.setattr(module, "_all_answers", lambda asks, source, real=module._all_answers: (
        asked.append(asks.split), real(asks, source))[1])  # fmt: skip
    trainer = Trainer(settings(outputs))
    for seed in (1, 2):
        trainer.make(recipes(*PAIR, f"seed={seed}", outputs=outputs)[1], Quiet())
    assert sorted(asked) == ["test", "val"]
