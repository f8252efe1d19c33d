from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdbench.config.build import Builder
from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, Mix, ModelOutput, Progress
from kdbench.criteria import KD, Criterion
from kdbench.distiller import Distiller, task_loss
from kdbench.models.create import create_network
from kdbench.models.network import Network
from kdbench.runner import Trainer, check_all
from kdbench.store import Store
from tests.toy import Quiet, recipes, settings

DATA = DataSpec("toy", 10, (1, 8, 8), (0.3,), (0.4,))
OPTIM = {"_target_": "torch.optim.SGD", "lr": 0.1, "schedule": {"kind": "constant"}, "version": 1}
BATCH = Batch(torch.rand(16, 1, 8, 8), torch.arange(16) % 10, torch.arange(16))


def network(size: int = 2, seed: int = 0) -> Network:
    config = {"_target_": "kdbench.models.plain_cnn.PlainCNN", "size": size, "variant": "auto", "widths": None}
    return create_network(config, DATA, name=f"plain{size}", seed=seed)


def distiller(
    teachers: Sequence[Network] = (), *, task: object = 0.1, kd: object = 0.9, **options: object
) -> Distiller:
    criteria: dict[str, Criterion] = {"kd": KD()} if teachers else {}
    weights = {"task": task, "kd": kd} if teachers else {"task": task}
    made = Distiller(
        network(), teachers, criteria, weights=weights, optim=OPTIM, steps_per_epoch=4, max_epochs=2, seed=0, **options
    )  # type: ignore[arg-type]
    made.progress = lambda: Progress(0, 8, 4)  # type: ignore[method-assign] (there is no trainer to ask)
    return made.train()


def test_the_teacher_is_frozen_in_eval_mode_and_absent_from_state_and_optimiser() -> None:
    teacher = network(4)
    made = distiller([teacher])
    made.train().eval().train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert made.state_dict().keys() == {f"student.{name}" for name in network().state_dict()}
    theirs = {id(parameter) for parameter in teacher.parameters()}
    groups = made.configure_optimizers()["optimizer"].param_groups
    assert not theirs & {id(parameter) for group in groups for parameter in group["params"]}


def test_a_step_changes_nothing_in_the_teacher_not_even_statistics() -> None:
    teacher = network(4)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    made = distiller([teacher])
    made.training_step(BATCH, 0).backward()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in made.student.parameters())


class Asks(Criterion):
    """Asks both networks about brighter inputs."""

    terms = ("bright",)

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        inputs = (batch.inputs + 0.1).requires_grad_()
        own, other = student.ask(inputs), teachers[0].ask(inputs)
        assert own.features.keys() == student.features.keys() == {"stage1"}
        assert other.features.keys() == {"logits"}
        assert torch.autograd.grad(other.logits.sum(), inputs)[0].any()
        self.asked = own.ask(inputs).logits - own.logits
        return {"bright": (own.logits - other.logits.detach()).square().mean()}


def test_a_criterion_asks_again_with_its_own_taps_and_each_sample_is_a_query() -> None:
    teacher, asks = network(4), Asks()
    taps = {"asks": {"student": ["stage1"], "teacher": ["logits"]}}
    made = Distiller(network(), [teacher], {"asks": asks}, weights={"task": 1.0, "bright": 1.0}, taps=taps,
                     optim=OPTIM, steps_per_epoch=4, max_epochs=2, seed=0)  # fmt: skip
    made.progress = lambda: Progress(0, 8, 4)  # type: ignore[method-assign]
    made.train().training_step(BATCH, 0).backward()
    assert made.teacher_queries == 2 * len(BATCH.target)
    assert not asks.asked.any()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_teachers_move_with_the_module() -> None:
    teacher = network(4)
    distiller([teacher]).to(torch.float64)
    assert next(teacher.parameters()).dtype == torch.float64


def test_the_loss_is_the_weighted_sum_of_raw_terms() -> None:
    made = distiller([network(4)], task=0.25, kd=2.0)
    loss = made.training_step(BATCH, 0).item()
    row = made.epoch_averages()
    assert loss == pytest.approx(0.25 * row["train/term/task"] + 2.0 * row["train/term/kd"], rel=1e-6)
    assert row["train/loss"] == pytest.approx(loss)
    assert row["train/weight/kd"] == 2.0


def test_averages_weigh_batches_by_their_size_and_start_anew_each_epoch() -> None:
    made = distiller(task=1.0)
    made.student.eval()
    half = Batch(BATCH.inputs[:4], BATCH.target[:4], BATCH.index[:4])
    losses = [made.training_step(batch, 0).item() for batch in (BATCH, half)]
    assert made.epoch_averages()["train/loss"] == pytest.approx((16 * losses[0] + 4 * losses[1]) / 20)
    made.training_step(half, 0)
    assert made.epoch_averages()["train/loss"] == pytest.approx(losses[1])


def test_with_weight_one_on_kd_the_label_has_no_influence_and_with_zero_the_teacher_has_none() -> None:
    def gradient(target: Tensor, teacher_seed: int, **weights: float) -> Tensor:
        made = distiller([network(4, teacher_seed)], **weights)
        made.training_step(Batch(BATCH.inputs, target, BATCH.index), 0).backward()
        return torch.cat(
            [parameter.grad.flatten() for parameter in made.student.parameters() if parameter.grad is not None]
        )

    other = (BATCH.target + 1) % 10
    assert torch.equal(gradient(BATCH.target, 0, task=0.0, kd=1.0), gradient(other, 0, task=0.0, kd=1.0))
    assert torch.equal(gradient(other, 0, task=1.0, kd=0.0), gradient(other, 1, task=1.0, kd=0.0))
    assert not torch.equal(gradient(BATCH.target, 0, task=0.5, kd=0.5), gradient(other, 1, task=0.5, kd=0.5))


def test_a_criterion_sees_its_own_taps_in_its_own_order() -> None:
    class Spy(Criterion):
        terms = ("spy",)

        def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
            self.seen = [list(output.features) for output in (student, *teachers)]
            return {"spy": student.logits.sum()}

    spy, kd = Spy(), KD()
    made = Distiller(
        network(), [network(4)], {"spy": spy, "kd": kd},
        weights={"task": 1.0, "spy": 1.0, "kd": 1.0},
        taps={"spy": {"student": ["stage2", "stage1"], "teacher": ["stage2"]}},
        optim=OPTIM, steps_per_epoch=4, max_epochs=2, seed=0,
    )  # fmt: skip
    made.progress = lambda: Progress(0, 8, 4)  # type: ignore[method-assign]
    made.training_step(BATCH, 0)
    assert spy.seen == [["stage2", "stage1"], ["stage2"]]


class TwoViews(Criterion):
    """Draws the student's two views together; notes what it was shown."""

    terms = ("two_views",)
    two_views = True

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        assert student.second is not None
        self.seen = [student, *teachers]
        return {"two_views": (student.logits - student.second.logits).square().mean()}


def test_every_network_answers_the_second_view_too_where_a_criterion_compares_two() -> None:
    spy, teacher = TwoViews(), network(4)
    made = Distiller(
        network(), [teacher], {"spy": spy}, weights={"task": 1.0, "two_views": 1.0},
        taps={"spy": {"student": ["stage1"], "teacher": ["stage2"]}}, optim=OPTIM,
        steps_per_epoch=4, max_epochs=2, seed=0,
    )  # fmt: skip
    made.progress = lambda: Progress(0, 8, 4)  # type: ignore[method-assign]
    other = torch.rand(16, 1, 8, 8)
    made.training_step(BATCH._replace(second=other), 0).backward()
    seconds = [output.second for output in spy.seen]
    assert [list(second.features) for second in seconds if second] == [["stage1"], ["stage2"]]
    assert seconds[1] is not None
    assert torch.equal(seconds[1].logits, teacher(other))
    assert made.teacher_queries == 32


def test_a_second_view_is_made_for_a_criterion_that_compares_two_and_for_no_other(outputs: Path) -> None:
    plain = recipes("assistants=[]", "dataset.augment=crop_flip", outputs=outputs)[-1]
    criteria = {"views": {"_target_": "tests.test_distiller.TwoViews", "version": 1}}
    method = {"criteria": criteria, "weights": {"task": 1.0, "two_views": 1.0}, "taps": {}}
    trainer = Trainer(settings(outputs, trusted=("tests",)))
    for recipe, wanted in ((plain, False), (replace(plain, method=method), True)):
        batch = next(iter(trainer._train_loader(recipe, trainer.builder.data(recipe))))
        assert (batch.second is not None) is wanted


MIXED = BATCH._replace(mix=Mix((BATCH.target + 3) % 10, torch.linspace(0, 1, 16)))


def test_task_loss_of_mixed_samples_is_that_of_both_labels_by_their_shares() -> None:
    logits = torch.randn(16, 10, dtype=torch.float64).float()
    log_p = logits.double().log_softmax(1)
    assert MIXED.mix is not None
    expected = [
        -share * row[own] - (1 - share) * row[other]
        for row, own, other, share in zip(log_p, MIXED.target, *MIXED.mix, strict=True)
    ]
    torch.testing.assert_close(task_loss(logits, MIXED), torch.stack(expected).mean().float())


def test_accuracy_counts_the_class_that_most_of_a_mixed_sample_is_of() -> None:
    assert torch.equal(MIXED.main_target[:8], MIXED.target[:8].add(3) % 10)
    assert torch.equal(MIXED.main_target[8:], MIXED.target[8:])
    made = distiller(task=1.0)
    made.training_step(MIXED, 0)
    found = made.epoch_averages()["train/acc"]
    with torch.no_grad():
        right = made.train().student(MIXED.inputs).argmax(1) == MIXED.main_target
    assert found == pytest.approx(100 * right.float().mean().item())


@pytest.mark.parametrize(("method", "mixes", "refused"), [
    ("dkd", "[crop,mixup]", "dataset.augment has mixup"),
    ("lskd_dkd", "cutmix", "dataset.augment has cutmix"),
    ("dkd", "crop", None),
    ("kd", "[mixup,cutmix]", None),
    ("label_smoothing", "mixup", None),
])  # fmt: skip
def test_mixing_is_refused_by_what_needs_one_label_and_by_nothing_else(
    method: str, mixes: str, refused: str | None, outputs: Path
) -> None:
    made = recipes("assistants=[]", f"method={method}", f"dataset.augment={mixes}", outputs=outputs)
    problems, unsuitable = check_all(made, settings(outputs))
    assert problems == []
    assert [refused in reason for reason in unsuitable.values()] == ([] if refused is None else [True])  # type: ignore[operator]


def test_only_the_head_is_trained_and_the_body_stays_in_eval_mode() -> None:
    head = network().heads
    made = distiller(only=head)
    trained = {name for name, parameter in made.student.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(name.startswith(head) for name in trained)
    assert not made.train().student.training


def test_global_random_numbers_of_a_step_are_a_function_of_the_step_alone() -> None:
    made = distiller()
    draws = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        made.training_step(BATCH, 0)
        draws.append(torch.rand(3))
    assert torch.equal(*draws)


def test_the_average_follows_the_student_and_is_what_is_deployed(outputs: Path) -> None:
    kept, raw = (recipes("teacher=none", f"trainer.ema={ema}", outputs=outputs)[0] for ema in ("0.9", "null"))
    trainer = Trainer(settings(outputs))
    averaged, last = trainer.make(kept, Quiet()).weights(), trainer.make(raw, Quiet()).weights()
    name = "body.fc.weight"
    start = Builder(Store(outputs), outputs).network(kept, DATA).state_dict()[name]
    assert 0 < (averaged[name] - start).norm() < (last[name] - start).norm()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.layout=nhwc", "trainer.layout=nhwc: unknown"),
        ("optim.schedule.kind=cosin", "did you mean 'cosine'"),
        ("optim._target_=torch.optim.SDG", "did you mean 'SGD'"),
        ("method.reduction=mean", "reduction=mean"),
        ("method.criteria.kd._target_=os.system", "not trusted"),
        ("student.size=3", "the family has the sizes 2, 4, 6, 8, 10"),
        ("method.weights={task: 1.0}", "no weight for kd"),
        ("method.weights={task: 1.0, kd: 1.0, at: 1.0}", "no criterion gives this term"),
        ("method.taps={kd: {student: [stage9], teacher: []}}", "stage9"),
    ],
)
def test_the_second_stage_of_checks_names_what_cannot_be_built(override: str, words: str, outputs: Path) -> None:
    made = recipes("assistants=[]", override, outputs=outputs)
    found, _ = check_all(made, settings(outputs))
    assert words in "\n".join(found)


def test_a_pair_that_a_method_cannot_serve_is_told_apart_from_a_mistake(outputs: Path) -> None:
    made = recipes("teacher.ensemble=2", "assistants=[]", outputs=outputs)
    criteria = {"one": {"_target_": "tests.test_distiller.OneTeacher", "version": 1}}
    method = {"criteria": criteria, "weights": {"task": 1.0, "one": 1.0}, "taps": {}}
    student = replace(made[-1], method=method)
    problems, unsuitable = check_all([student], settings(outputs, trusted=("tests",)))
    assert problems == []
    assert "learns from one teacher, here are 2" in unsuitable[student.digest]


class OneTeacher(Criterion):
    terms = ("one",)


def test_targets_outside_trusted_packages_are_refused() -> None:
    with pytest.raises(ConfigError, match="not trusted"):
        create_network({"_target_": "tests.test_distiller.OneTeacher"}, DATA, name="x", seed=0)
