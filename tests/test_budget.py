"""Trainings under a budget of teacher queries."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdbench.config.build import Builder, UnsuitableError
from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, Progress
from kdbench.criteria import KD
from kdbench.distiller import Distiller
from kdbench.runner import Trainer
from kdbench.store import Entry, Store
from tests.test_distiller import BATCH, OPTIM, network
from tests.toy import Quiet, recipes, settings

PAIR = ("teacher=plain4", "teacher.seed=0", "assistants=[]", "dataset.train_size=300")
LABEL = ("budget.teacher_queries=50", "budget.unqueried=label")


def student(outputs: Path, *overrides: str, **options: object) -> Entry:
    trainer, made = Trainer(settings(outputs, **options)), None
    for recipe in recipes(*PAIR, *overrides, outputs=outputs):
        made = trainer.make(recipe, Quiet())
    assert made is not None
    return made


def distiller(queryable: Tensor | None, **options: object) -> Distiller:
    made = Distiller(network(), [network(4)], {"kd": KD()}, weights={"task": 0.5, "kd": 2.0}, optim=OPTIM,
                     steps_per_epoch=4, max_epochs=2, seed=0, queryable=queryable, **options)  # fmt: skip  # type: ignore[arg-type]
    made.progress = lambda: Progress(0, 8, 4)  # type: ignore[method-assign]
    return made.train()


@pytest.mark.parametrize("rows", [[], [3], [3, 7], [0, 3, 7, 8, 12], list(range(16))], ids=len)
def test_terms_are_of_the_queried_rows_times_their_part_and_the_task_loss_is_of_all(rows: list[int]) -> None:
    queryable = torch.zeros(16, dtype=torch.bool)
    queryable[rows] = True
    made = distiller(queryable)
    loss = made.training_step(BATCH, 0)
    loss.backward()
    row = made.epoch_averages()
    asked = rows if len(rows) > 1 else []
    own = distiller(None)
    with torch.no_grad():
        logits = own.student(BATCH.inputs)  # BatchNorm has the whole batch
        guide = own.teachers[0](BATCH.inputs)
        kd = (guide[asked] / 4).softmax(1)
        log = (guide[asked] / 4).log_softmax(1) - (logits[asked] / 4).log_softmax(1)
    assert row["train/term/kd"] == pytest.approx((kd * log).sum().item(), rel=1e-4)
    assert row["train/term/task"] == pytest.approx(torch.nn.functional.cross_entropy(logits, BATCH.target).item())
    assert loss.item() == pytest.approx(0.5 * row["train/term/task"] + 2 * row["train/term/kd"], rel=1e-5)
    assert made.teacher_queries == made.teacher_forwards == len(made.queried) == len(asked)


def test_all_rows_queried_is_no_budget() -> None:
    with_all, without = distiller(torch.ones(16, dtype=torch.bool)), distiller(None)
    assert torch.equal(with_all.training_step(BATCH, 0), without.training_step(BATCH, 0))


def test_a_teacher_sees_no_other_image() -> None:
    queryable = torch.arange(16) % 2 == 0
    made = distiller(queryable)
    shown: list[Tensor] = []
    made.teachers[0].register_forward_pre_hook(lambda _, args: shown.append(args[0]))
    made.training_step(BATCH, 0)
    assert torch.equal(torch.cat(shown), BATCH.inputs[queryable])


def test_the_images_counted_survive_a_resume() -> None:
    made, again = distiller(None), distiller(None)
    made.training_step(BATCH, 0)
    checkpoint: dict[str, object] = {}
    made.on_save_checkpoint(checkpoint)
    again.on_load_checkpoint(checkpoint)
    again.training_step(Batch(BATCH.inputs, BATCH.target, BATCH.index + 8), 0)
    assert len(again.queried) == 24


def test_dropped_images_are_not_trained_on_and_the_budget_is_spent_once(outputs: Path) -> None:
    metrics = student(outputs, "budget.teacher_queries=50").metrics
    assert metrics["images"] == metrics["teacher_queries"] == 2 * 50
    assert metrics["queried_images"] == 50


def test_a_cache_asks_about_the_chosen_images_alone_and_changes_no_weight(outputs: Path) -> None:
    live = student(outputs, *LABEL)
    weights, queries = live.weights(), live.metrics["teacher_queries"]
    settings(outputs).store.remove(live.digest)
    cached = student(outputs, *LABEL, cache=True, cache_check=0)
    assert cached.metrics["images"] == 2 * 4 * 32
    assert cached.metrics["teacher_queries"] == queries
    assert cached.metrics["teacher_forwards"] == 50
    torch.testing.assert_close(cached.weights(), weights, rtol=1e-3, atol=1e-4)  # kernels sum otherwise in full batches


def test_a_budget_is_in_the_digest_of_the_taught_alone(outputs: Path) -> None:
    plain, drop, label = (recipes(*PAIR, *own, outputs=outputs) for own in ((), LABEL[:1], LABEL))
    assert plain[0] == drop[0] == label[0]
    assert len({plain[1], drop[1], label[1]}) == 3
    assert "budget" not in (plain[1].method or {})
    alone = [replace(recipe, method=None, teachers=()) for recipe in (plain[1], drop[1])]
    assert alone[0] == alone[1]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["method=bss", LABEL[0]], "bss asks its teacher about inputs of its own making"),
        (["method=ard", LABEL[0]], "ard asks its teacher"),
        (["method=dml", LABEL[0]], "dml asks no teacher"),
        (["method=kd", LABEL[0], "dataset.augment=mixup"], "mixup asks teachers about mixtures"),
        (["method=ckd", *LABEL], "weights.task=0"),
        (["method=ft", *LABEL], "first phase"),
    ],
)
def test_a_method_that_cannot_keep_to_it_says_so_before_training(
    overrides: list[str], reason: str, outputs: Path
) -> None:
    recipe = recipes(*PAIR, *overrides, outputs=outputs)[-1]
    with pytest.raises(UnsuitableError, match=reason):
        Trainer(settings(outputs)).check(recipe)


@pytest.mark.parametrize("overrides", [["method=iga"], ["method=ard", "method.teacher_sees=clean"], ["method=ft"]])
def test_views_of_images_and_phases_are_no_reason_to_refuse(overrides: list[str], outputs: Path) -> None:
    recipe = recipes(*PAIR, *overrides, LABEL[0], outputs=outputs)[-1]
    Trainer(settings(outputs)).check(recipe)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("budget.teacher_queries=1", "must be at least 2"),
        ("budget.teacher_queries=many", "a whole number is expected"),
        ("budget.unqueried=lable", "did you mean 'label'"),
        ("budget.teacher_querys=5", "did you mean 'teacher_queries'"),
    ],
)
def test_a_wrong_budget_is_refused(override: str, reason: str, outputs: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        recipes(*PAIR, override, outputs=outputs)


def test_label_is_refused_on_several_devices(outputs: Path) -> None:
    recipe = recipes(*PAIR, *LABEL, outputs=outputs)[-1]
    with pytest.raises(ConfigError, match="unqueried=label: only on one device"):
        Trainer(settings(outputs, devices=2)).check(recipe)


def test_crd_draws_negatives_of_chosen_images_alone(outputs: Path) -> None:
    recipe = recipes(*PAIR, "method=crd", *LABEL, outputs=outputs)[-1]
    builder = Builder(Store(outputs / "store"), outputs)
    data = builder.data_taught(recipe)
    networks = [builder.network(each, data.spec) for each in (recipe, recipe.teachers[0])]
    crd = builder.criteria(recipe, networks[0], networks[1:], data.spec)["crd"]
    assert crd.samples == 50
    assert len(data.train) == 300
