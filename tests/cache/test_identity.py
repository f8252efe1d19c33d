from pathlib import Path

import pytest

from kdbench.cache.identity import evaluation_pass, teaching, training_pass, view_of
from kdbench.core.errors import ConfigError
from kdbench.core.recipe import Recipe
from tests.toy import recipes

PAIR = ("teacher=plain4", "assistants=[]")
VIEWS = "dataset.augment=crop_flip"


def pair(*overrides: str, outputs: Path) -> list[Recipe]:
    return recipes(*PAIR, *overrides, outputs=outputs)


@pytest.mark.parametrize(
    "overrides",
    [
        ("cache=teacher",),
        ("cache=teacher", "cache.check=0"),
        ("cache=teacher", "cache.views=1"),  # of images that are the same in every epoch
        ("trainer.teacher_precision=32-true",),  # what it is anyway
    ],
)
def test_what_changes_no_weight_is_in_no_digest(overrides: tuple[str, ...], outputs: Path) -> None:
    assert pair(*overrides, outputs=outputs) == pair(outputs=outputs)


def test_as_many_views_as_epochs_are_fresh_views(outputs: Path) -> None:
    plain = pair(VIEWS, outputs=outputs)
    assert pair(VIEWS, "cache=teacher", "cache.views=2", outputs=outputs) == plain
    assert pair(VIEWS, "cache=teacher", "cache.views=1", outputs=outputs)[1] != plain[1]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("cache=teacher", "cache.dtype=float16"), {"dtype": "float16"}),
        (("cache=teacher", "cache.top_k=3"), {"top_k": 3}),
        (("trainer.teacher_precision=bf16-mixed",), {"precision": "bf16-mixed"}),
        (("hops.plain2.trainer.teacher_precision=bf16-mixed",), {"precision": "bf16-mixed"}),
    ],
)
def test_what_changes_the_teaching_changes_the_student_and_never_the_teacher(
    overrides: tuple[str, ...], expected: dict[str, object], outputs: Path
) -> None:
    plain, changed = pair(outputs=outputs), pair(*overrides, outputs=outputs)
    assert plain[0] == changed[0]
    assert plain[1] != changed[1]
    assert teaching(changed[1]) == expected


@pytest.mark.parametrize(
    "override", ["cache.dtype=float17", "cache.top_k=10", "cache.top_k=0", "cache.views=0", "cache.check=-1"]
)
def test_values_out_of_range_are_refused(override: str, outputs: Path) -> None:
    with pytest.raises(ConfigError, match=override.replace(".", r"\.")):
        pair("cache=teacher", override, outputs=outputs)


def test_students_ask_the_same_whatever_their_seed_unless_views_follow_it(outputs: Path) -> None:
    def asked(*overrides: str) -> str:
        *_, student = pair("teacher.seed=0", *overrides, outputs=outputs)
        return training_pass(student, "t", view_of(student, 1)).name({})

    assert asked() == asked("seed=1") == asked("dataset.view_seed=5")
    assert asked(VIEWS) != asked(VIEWS, "seed=1")
    assert asked(VIEWS) == asked(VIEWS, "seed=1", "dataset.view_seed=0")
    assert asked() != asked("trainer.precision=bf16-mixed")
    assert asked() != asked("dataset.train_size=100")


def test_a_pass_has_another_name_under_other_conditions(outputs: Path) -> None:
    *_, student = pair(outputs=outputs)
    asked = evaluation_pass(student, "t", "test", 512, folded=())
    assert asked.name({"threads": 1}) != asked.name({"threads": 2})


def test_views_are_cycled_through(outputs: Path) -> None:
    *_, student = pair(VIEWS, "trainer.max_epochs=9", "cache=teacher", "cache.views=3", outputs=outputs)
    assert [view_of(student, epoch) for epoch in range(5)] == [0, 1, 2, 0, 1]
    assert view_of(pair(outputs=outputs)[1], 7) is None
