from dataclasses import replace
from pathlib import Path

from kdbench.cache.savings import savings
from kdbench.core.recipe import Recipe
from tests.toy import recipes

TRAIN = 1294  # images of the digits, without validation and test
PAIR = ("teacher=plain4", "assistants=[]", "trainer.limit_train_batches=null", "trainer.max_epochs=5")


def students(*overrides: str, outputs: Path, seeds: int = 2) -> list[Recipe]:
    return [recipes(*PAIR, "teacher.seed=0", f"seed={s}", *overrides, outputs=outputs)[-1] for s in range(seeds)]


def test_images_as_they_are_are_shown_once_for_all_epochs_and_students(outputs: Path) -> None:
    found = savings(students(outputs=outputs))
    assert found == (2 * 5 * TRAIN, TRAIN, TRAIN * 10 * 4, ())


def test_fresh_views_are_shared_by_students_of_one_view_seed_alone(outputs: Path) -> None:
    own = savings(students("dataset.augment=crop_flip", outputs=outputs))
    shared = savings(students("dataset.augment=crop_flip", "dataset.view_seed=0", outputs=outputs))
    cycled = savings(students("dataset.augment=crop_flip", "cache=teacher", "cache.views=2", outputs=outputs))
    assert own.without == own.shown == shared.without == 2 * 5 * TRAIN
    assert shared.shown == 5 * TRAIN
    assert cycled.shown == 2 * 2 * TRAIN


def test_lossy_forms_occupy_less(outputs: Path) -> None:
    assert savings(students("cache=teacher", "cache.dtype=float16", outputs=outputs)).bytes == TRAIN * 10 * 2
    assert savings(students("cache=teacher", "cache.top_k=2", outputs=outputs)).bytes == TRAIN * (2 * (4 + 2) + 4)


def test_a_method_that_reads_maps_is_asked_live(outputs: Path) -> None:
    found = savings(students("method=at", outputs=outputs))
    assert found == (0, 0, 0, ("plain2",))
    assert savings(students("method=rkd", outputs=outputs)).live == ()
    assert savings(recipes("teacher=none", outputs=outputs)) == (0, 0, 0, ())


def in_two_phases(recipe: Recipe, **weights: float) -> Recipe:
    method = recipe.method or {}
    return replace(
        recipe, method={**method, "phases": {"first": {"epochs": 2, "weights": {"kd": 1}}}, "weights": weights}
    )


def test_phases_that_ask_no_teacher_count_nothing(outputs: Path) -> None:
    (plain,) = students(outputs=outputs, seeds=1)
    (views,) = students("dataset.augment=crop_flip", outputs=outputs, seeds=1)
    assert savings([in_two_phases(plain, task=1, kd=1)]).without == (2 + 5) * TRAIN
    assert savings([in_two_phases(plain, task=1)]) == (2 * TRAIN, TRAIN, TRAIN * 10 * 4, ())
    assert savings([in_two_phases(views, task=1)]).shown == 2 * TRAIN
