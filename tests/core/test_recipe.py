from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdbench.core.recipe import Recipe, canonical, topological


def recipe(name: str = "plain2", *, seed: int = 0, teachers: tuple[Recipe, ...] = (), **budget: Any) -> Recipe:
    return Recipe(
        network={"name": name, "config": {"_target_": "x", "size": 2}, "init": None, "train": "full"},
        data={"name": "digits", "version": 1},
        method=None,
        optim={"lr": 0.1},
        budget={"max_epochs": 3, **budget},
        select_on="last",
        seed=seed,
        teachers=teachers,
    )


def test_equal_recipes_have_one_digest_and_are_equal() -> None:
    assert recipe().digest == recipe().digest
    assert recipe() == recipe()
    assert len({recipe(), recipe()}) == 1


@pytest.mark.parametrize(
    "other",
    [
        recipe(seed=1),
        recipe("plain4"),
        recipe(teachers=(recipe("plain4"),)),
        recipe(max_epochs=4),
        replace(recipe(), select_on="val"),
        replace(recipe(), method={"criteria": {}}),
        replace(recipe(), data={"name": "digits", "version": 2}),
        replace(recipe(), optim={"lr": 0.2}),
    ],
)
def test_anything_that_determines_weights_changes_the_digest(other: Recipe) -> None:
    assert other.digest != recipe().digest


def test_a_changed_grandparent_changes_the_digest() -> None:
    def chain(seed: int) -> Recipe:
        return recipe(teachers=(recipe("plain4", teachers=(recipe("plain6", seed=seed),)),))

    assert chain(0).digest != chain(1).digest


def test_order_of_keys_does_not_matter_and_order_of_teachers_does() -> None:
    one, two = recipe("a"), recipe("b")
    assert replace(recipe(), optim={"lr": 0.1, "m": 1}).digest == replace(recipe(), optim={"m": 1, "lr": 0.1}).digest
    assert recipe(teachers=(one, two)).digest != recipe(teachers=(two, one)).digest


def test_round_trip_keeps_the_digest() -> None:
    nested = recipe(teachers=(recipe("plain4", teachers=(recipe("plain6"),)), recipe("plain8")))
    assert Recipe.from_dict(nested.to_dict()).digest == nested.digest


def test_recipe_of_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format 99"):
        Recipe.from_dict({**recipe().to_dict(), "format": 99})


def test_topological_order_has_teachers_first_and_each_recipe_once() -> None:
    teacher = recipe("plain6")
    assistant = recipe("plain4", teachers=(teacher,))
    students = [recipe(teachers=(assistant,)), recipe(teachers=(teacher,))]
    order = list(topological([*students, teacher]))
    assert [found.name for found in order] == ["plain6", "plain4", "plain2", "plain2"]


def test_the_paths_from_plain10_are_twenty_trainings() -> None:
    sizes = (10, 8, 6, 4, 2)

    def students(path: tuple[int, ...], above: Recipe) -> list[Recipe]:
        smaller = [size for size in sizes if size < path[-1]]
        made = [recipe(f"plain{size}", teachers=(above,)) for size in smaller]
        below = [deeper for size, node in zip(smaller, made, strict=True) for deeper in students((*path, size), node)]
        return made + below

    teacher = recipe("plain10")
    distilled = students((10,), teacher)
    scratch = [recipe(f"plain{size}") for size in (8, 6, 4, 2)]
    order = list(topological([*distilled, *scratch]))
    assert len(order) == 15 + 1 + 4


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values, json_values)
def test_canonical_text_is_equal_only_for_equal_values(one: Any, two: Any) -> None:
    if canonical(one) == canonical(two):
        assert one == two


@given(st.dictionaries(st.text(), st.integers(-1000, 1000)))
def test_whole_numbers_and_equal_floats_have_one_text(numbers: dict[str, int]) -> None:
    assert canonical(numbers) == canonical({key: float(value) for key, value in numbers.items()})


def test_chains_of_several_teachers_are_told_apart() -> None:
    one, two = recipe("plain6", seed=0), recipe("plain6", seed=1)
    assert recipe(teachers=(one, two)).chain() == "2 x plain6 -> plain2"
    assert (
        recipe(teachers=(one, recipe("plain4", teachers=(one,)))).chain()
        == "plain6 -> plain4 (and those above) -> plain2"
    )
