import time
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from kdbench.config.compose import Composer
from kdbench.core.recipe import Recipe
from kdbench.estimate import estimate
from kdbench.plan import Node, Plan
from kdbench.store import Entry


@dataclass
class Measured:
    """What an estimate reads of an entry."""

    recipe: Recipe
    metrics: dict[str, Any]
    env: dict[str, Any]


DATA = Composer().resolve(("dataset=fake",), ())["dataset"]  # 1,000 images, of which 900 are trained on
TEACHER = Recipe(
    network={"name": "plain4", "config": {"depth": 4}, "init": None, "train": "full"}, data=DATA, method=None,
    optim={"lr": 0.1}, select_on="last", seed=0, teachers=(),
    budget={"max_epochs": 2, "batch_size": 100, "limit_train_batches": None, "precision": "32-true"},
)  # fmt: skip
STUDENT = replace(
    TEACHER, network={**TEACHER.network, "name": "plain2", "config": {"depth": 2}}, method={"criteria": {"kd": {}}},
    teachers=(TEACHER,),
)  # fmt: skip


def plan_of(*recipes: Recipe) -> Plan:
    return Plan((), {recipe.digest: Node(recipe, "student", "train") for recipe in recipes})


def measured(recipe: Recipe, seconds: float, images: int, threads: int = 1) -> Entry:
    metrics = {"images": images, "seconds": {"total": seconds}}
    return cast(Entry, Measured(replace(recipe, seed=99), metrics, {"threads": threads}))


def test_time_is_seconds_per_image_times_images_divided_among_workers() -> None:
    seeds = [replace(TEACHER, seed=seed) for seed in range(4)]
    found = estimate(plan_of(*seeds), [measured(TEACHER, 9.0, 900)], workers=2, threads=1)
    assert found is not None
    assert found.seconds == pytest.approx(4 * 2 * 900 * 0.01 / 2)
    assert str(found) == "estimated 36.0s on 2 workers, from 1 network like these"


def test_a_chain_is_no_faster_than_its_networks_one_after_the_other() -> None:
    entries = [measured(TEACHER, 9.0, 900), measured(STUDENT, 9.0, 900)]
    found = estimate(plan_of(TEACHER, STUDENT), entries, workers=8, threads=1)
    assert found is not None
    assert found.seconds == pytest.approx(36.0)


def test_threads_share_the_work_and_what_nobody_measured_is_counted() -> None:
    found = estimate(plan_of(TEACHER, STUDENT), [measured(TEACHER, 9.0, 900, threads=2)], workers=1, threads=1)
    assert found is not None
    assert found.seconds == pytest.approx(36.0)
    assert found.unknown == 1
    assert str(found).endswith("; 1 unknown")


def test_another_shape_of_data_is_not_comparable() -> None:
    other = replace(TEACHER, data={**DATA, "image_size": 64})
    assert estimate(plan_of(TEACHER), [measured(other, 9.0, 900)], workers=1, threads=1) is None
    assert estimate(plan_of(), [measured(TEACHER, 9.0, 900)], workers=1, threads=1) is None


def test_ten_thousand_networks_are_reckoned_at_once() -> None:
    plan = plan_of(*(replace(TEACHER, seed=seed) for seed in range(10_000)))
    started = time.process_time()
    assert estimate(plan, [measured(TEACHER, 9.0, 900)], workers=2, threads=1) is not None
    assert time.process_time() - started < 10
