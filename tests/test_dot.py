"""Two momenta: the update, who hands it its gradients, and where it cannot be used."""

from pathlib import Path

import pytest
import torch
from torch import nn

from kdbench.core.errors import ConfigError, Stopped
from kdbench.core.signals import stopping_safely
from kdbench.distiller import Distiller
from kdbench.dot import DOT
from kdbench.runner import Trainer, check_all
from kdbench.store import Entry
from tests.test_resume import Interrupts, same
from tests.toy import Quiet, recipes, settings

PAIR = ("teacher=plain4", "student=plain2", "assistants=[]", "select_on=val", "hops.student.optim=dot")


def test_five_steps_equal_the_definition_in_float64() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = DOT([weight], lr=0.1, momentum=0.8, delta=0.15, weight_decay=0.01)
    expected, task_velocity, kd_velocity = [1.0, -2.0], [0.0, 0.0], [0.0, 0.0]
    for step in range(5):
        task, kd = [step + 0.5, 1.0 - step], [0.3 * step, -0.7]
        weight.grad = torch.tensor([a + b for a, b in zip(task, kd, strict=True)], dtype=torch.float64)
        optimizer.split({weight: torch.tensor(task, dtype=torch.float64)})
        optimizer.step()
        for i in range(2):
            task_velocity[i] = (0.8 - 0.15) * task_velocity[i] + task[i] + 0.01 * expected[i]
            kd_velocity[i] = (0.8 + 0.15) * kd_velocity[i] + kd[i]
            expected[i] -= 0.1 * (task_velocity[i] + kd_velocity[i])
    assert weight.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("split", [True, False], ids=["both", "distillation alone"])
def test_without_delta_it_is_sgd(split: bool) -> None:
    one, two = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    optimizers = [DOT([one], lr=0.1, delta=0.0, weight_decay=0.1),
                  torch.optim.SGD([two], lr=0.1, momentum=0.9, weight_decay=0.1)]  # fmt: skip
    for step in range(4):
        one.grad, two.grad = (torch.full((3,), step - 1.5, dtype=torch.float64) for _ in range(2))
        optimizers[0].split({one: torch.full_like(one, 0.25)} if split else {})  # type: ignore[attr-defined]
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(one, two)


def train(outputs: Path, *overrides: str, stop: Interrupts | None = None) -> Entry:
    trainer = Trainer(settings(outputs))
    teacher, student = recipes(*PAIR, *overrides, outputs=outputs)
    trainer.make(teacher, Quiet())
    if stop is not None:
        with pytest.raises(Stopped), stopping_safely():
            trainer.make(student, stop)
    with stopping_safely():
        return trainer.make(student, Quiet())


def test_the_distiller_hands_over_the_gradient_of_the_weighted_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = []

    def split(self: DOT, task: dict[nn.Parameter, torch.Tensor]) -> None:
        parts.append({parameter: part.clone() for parameter, part in task.items()})

    forward = Distiller.training_step

    def keep(self: Distiller, *arguments):
        loss = forward(self, *arguments)
        weights = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        assert self._task is not None
        wanted.append(dict(zip(weights, torch.autograd.grad(loss, weights, retain_graph=True), strict=True)))
        return loss

    wanted: list[dict[nn.Parameter, torch.Tensor]] = []
    monkeypatch.setattr(DOT, "split", split)
    monkeypatch.setattr(Distiller, "training_step", keep)
    train(tmp_path / "task", "method.weights.kd=0", "method.weights.task=0.5")
    found, own = parts[0], wanted[4 * 2]  # the teacher's steps came before, and split nothing
    assert found.keys() == own.keys()
    for parameter, part in found.items():
        torch.testing.assert_close(part, own[parameter])  # the whole gradient, where nothing but the task counts
    parts.clear()
    train(tmp_path / "kd", "method.weights.task=0")
    assert not any(part.any() for part in parts[0].values())


def test_stopped_and_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    same(train(tmp_path / "whole"), train(tmp_path / "stopped", stop=Interrupts(5)))


def test_delta_changes_the_weights(tmp_path: Path) -> None:
    one, two = (train(tmp_path, f"hops.student.optim.delta={delta}").weights() for delta in (0, 0.075))
    assert any(not torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("overrides", "changes", "line"), [
    (["teacher=none", "optim=dot"], {}, "plain2 has no teacher, and DOT"),
    ([*PAIR, "method=label_smoothing"], {}, "plain2 has no teacher, and DOT"),
    ([*PAIR, "method=dml"], {}, "plain2 has no teacher, and DOT"),
    ([*PAIR], {"devices": 2}, "trainer.devices=2: not with the two gradients of DOT; use trainer.devices=1"),
    ([*PAIR, "trainer.clip=1.0"], {}, "trainer.clip=1.0: not with the two gradients of DOT; use trainer.clip=null"),
    ([*PAIR, "hops.student.optim.delta=0.2"], {}, "optim: kdbench.dot.DOT refuses its options: momentum=0.9, delta"),
    ([*PAIR, "hops.student.optim.delta=-0.1"], {}, "optim: kdbench.dot.DOT refuses its options: momentum=0.9, delta"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(overrides, changes, line: str, tmp_path: Path) -> None:
    problems, _ = check_all(recipes(*overrides, outputs=tmp_path), settings(tmp_path, accelerator="cpu", **changes))
    with pytest.raises(ConfigError):
        raise ConfigError(problems)
    assert any(problem.startswith(line) for problem in problems), problems
