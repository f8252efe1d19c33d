"""Methods in several phases: what each trains, counts and leaves alone, and that both can be resumed."""

from pathlib import Path

import pytest
import torch

from kdbench.core.errors import ConfigError, Stopped
from kdbench.core.recipe import Recipe
from kdbench.core.signals import stopping_safely
from kdbench.distiller import Distiller
from kdbench.runner import Trainer, check_all
from tests.test_resume import Breaks, Interrupts, same
from tests.toy import Quiet, recipes, settings

PAIR = ("teacher=resnet14", "student=resnet8", "trainer.batch_size=16")
PHASED = ("fitnet_hints", "ft")


def made(method: str, *overrides: str, outputs: Path) -> tuple[Trainer, Recipe]:
    """A trainer whose store has the teacher, and the recipe of the student."""
    teacher, student = recipes(*PAIR, f"method={method}", *overrides, outputs=outputs)
    trainer = Trainer(settings(outputs))
    trainer.make(teacher, Quiet())
    return trainer, student


def distiller(trainer: Trainer, recipe: Recipe) -> Distiller:
    data = trainer.builder.data(recipe)
    teachers = [trainer.builder.trained(teacher.digest) for teacher in recipe.teachers]
    return trainer.builder.distiller(recipe, trainer.builder.network(recipe, data.spec), teachers, data.spec, 4)


def trained(of: Distiller) -> set[str]:
    groups = of.configure_optimizers()["optimizer"].param_groups
    names = {id(parameter): name for name, parameter in of.named_parameters()}
    return {".".join(names[id(p)].split(".")[:4]) for group in groups for p in group["params"]}


@pytest.mark.parametrize("method", PHASED)
@pytest.mark.parametrize("step", [2, 4, 5, 7])
def test_stopped_in_either_phase_or_between_them_it_ends_with_the_same_bits(
    method: str, step: int, tmp_path: Path
) -> None:
    entries = []
    for name, stop in (("whole", None), ("stopped", Interrupts(step)), ("broken", Breaks(step))):
        trainer, student = made(method, "select_on=val", outputs=tmp_path / name)
        if stop is not None:
            with pytest.raises((Stopped, MemoryError)), stopping_safely():
                trainer.make(student, stop)
        with stopping_safely():
            entries.append(trainer.make(student, Quiet()))
    same(entries[0], entries[1])
    same(entries[0], entries[2])


def test_history_and_budgets_count_both_phases(outputs: Path) -> None:
    trainer, student = made("ft", "method.phases.paraphraser.epochs=2", "select_on=val", outputs=outputs)
    entry = trainer.make(student, Quiet())
    assert [(row["epoch"], row["phase"]) for row in entry.history] == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert [row["lr"] for row in entry.history[:2]] == [0.01, 0.01]
    assert [("train/term/ft" in row, "train/term/ft_reconstruction" in row) for row in entry.history[1:3]] == [
        (False, True),
        (True, False),
    ]
    assert entry.metrics["epochs"] == 4
    assert entry.metrics["images"] == entry.metrics["teacher_queries"] == 16 * 16
    assert entry.metrics["best"]["epoch"] > 2, "weights of an earlier phase are no candidates"


@pytest.mark.parametrize("method", ["ab", "fsp"])
def test_boundaries_and_flows_only_initialise_and_leave_the_classifier_alone(method: str, outputs: Path) -> None:
    trainer, student = made(method, outputs=outputs)
    of = distiller(trainer, student).train()
    assert not {name for name in trained(of) if "fc" in name}
    assert {name for name in trained(of) if "stages.2" in name}
    entry = trainer.make(student, Quiet())
    assert (entry.metrics["images"], entry.metrics["teacher_queries"]) == (12 * 16, 4 * 16)
    assert f"train/term/{method}" in entry.history[0]
    assert f"train/term/{method}" not in entry.history[1]


def test_a_hint_trains_the_student_up_to_its_tap_and_the_connector(outputs: Path) -> None:
    trainer, student = made("[fitnet_hints,at]", "method.weights.task=1", outputs=outputs)
    of = distiller(trainer, student).train()  # the taps of at, which does not count yet, are not its own
    stages = {"student.body.conv.weight", "student.body.norm.weight", "student.body.norm.bias"}
    stages |= {"student.body.stages.0", "student.body.stages.1"}
    assert trained(of) == stages | {"criteria.fitnet.connectors.0"}
    assert not of.student.body.stages[2].training  # type: ignore[union-attr, index]
    assert of.student.body.stages[1].training  # type: ignore[union-attr, index]
    of.enter_phase(1)
    assert trained(of) == stages | {"student.body.stages.2", "student.body.fc.weight", "student.body.fc.bias"}
    assert all(module.training for module in of.student.modules())


def test_the_paraphraser_is_trained_first_and_the_student_stays_as_it_is(outputs: Path) -> None:
    trainer, student = made("ft", outputs=outputs)
    of = distiller(trainer, student).train()
    assert trained(of) == {f"criteria.ft.{part}.{n}" for part in ("encoder", "decoder") for n in (0, 2, 4)}
    assert not any(module.training for module in of.student.modules())
    of.enter_phase(1)
    assert not {name for name in trained(of) if "coder" in name}
    assert {name for name in trained(of) if "translator" in name}


def test_phases_are_in_the_digest_and_a_phase_of_no_epochs_is_not(outputs: Path) -> None:
    def student(*overrides: str) -> Recipe:
        return recipes(*PAIR, *overrides, outputs=outputs)[-1]

    plain = student("method=fitnet_hints")
    assert plain.phase_epochs == (1, 2)
    for key in ("epochs=2", "weights.fitnet=1", "train=student", "optim.lr=0.1"):
        assert student("method=fitnet_hints", f"method.phases.hint.{key}") != plain
    assert student("method=fitnet_hints", "method.phases.hint.epochs=1") == plain
    assert student("method=fitnet_hints", "method.phases.hint.epochs=0").phase_epochs == (2,)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("method.phases.hint.weights={sp: 1}", r"method\.phases\.hint\.weights\.sp: no criterion gives this term"),
        ("method.phases.hint.optim.momentum=-1", r"method\.phases\.hint\.optim: torch\.optim\.SGD refuses"),
        ("method.phases.hint.optim.schedule.kind=steep", r"method\.phases\.hint\.optim\.schedule\.kind='steep'"),
    ],
)
def test_a_wrong_phase_is_found_before_anything_is_trained(override: str, line: str, outputs: Path) -> None:
    made_recipes = recipes(*PAIR, "method=fitnet_hints", override, outputs=outputs)
    problems, _ = check_all(made_recipes, settings(outputs))
    with pytest.raises(ConfigError, match=line):
        raise ConfigError(problems)


def test_a_phase_up_to_taps_that_nothing_reads_is_refused(outputs: Path) -> None:
    weights = ("method.phases.hint.weights={kd: 1}", "method.weights={task: 1, kd: 1, fitnet: 1}")
    made_recipes = recipes(*PAIR, "method=fitnet_hints", *weights, outputs=outputs)
    (problem,), _ = check_all(made_recipes, settings(outputs))
    assert problem.startswith("method.phases.hint.train=taps: its terms read no tap of the student")


def test_the_moving_average_is_of_the_weights_in_every_phase(outputs: Path) -> None:
    trainer, student = made("fitnet_hints", "trainer.ema=0.5", outputs=outputs)
    entry = trainer.make(student, Quiet())
    assert all(torch.isfinite(value).all() for value in entry.weights().values())
