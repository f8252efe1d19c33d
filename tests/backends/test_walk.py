from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kdbench.backends import walk
from kdbench.config.compose import Composer
from kdbench.config.jobs import make_jobs
from kdbench.config.recipes import ChainBuilder
from kdbench.core.recipe import Recipe
from kdbench.plan import Node, Plan, make_plan
from kdbench.store import Store
from kdbench.sweep import Outcome


class Board:
    """Remembers how every training ended, by name and seed."""

    def __init__(self) -> None:
        self.ended: dict[str, Outcome] = {}

    def begin(self, recipe: Recipe) -> None: ...
    def step(self, recipe: Recipe, step: int, epoch: int) -> None: ...
    def row(self, recipe: Recipe, row: Mapping[str, float]) -> None: ...
    def note(self, recipe: Recipe, text: str) -> None: ...

    def end(self, recipe: Recipe, outcome: Outcome) -> None:
        self.ended[f"{recipe.name}-{recipe.seed}"] = outcome


class Backend:
    """Ends one training per look, the latest first, as told by name."""

    def __init__(self, ends: Mapping[str, Outcome | BaseException] | None = None) -> None:
        self.ends = ends or {}
        self.order: list[str] = []
        self.most = 0
        self.running: dict[str, Node] = {}

    def start(self, node: Node) -> None:
        self.order.append(f"{node.recipe.name}-{node.recipe.seed}")
        self.running[node.recipe.digest] = node
        self.most = max(self.most, len(self.running))

    def poll(self, board: Any) -> dict[str, Outcome]:
        digest, node = self.running.popitem()
        end = self.ends.get(f"{node.recipe.name}-{node.recipe.seed}", Outcome("done"))
        if isinstance(end, BaseException):
            self.running[digest] = node
            raise end
        return {digest: end}

    def stop(self, board: Any) -> dict[str, Outcome]:
        return dict.fromkeys(self.running, Outcome("stopped"))

    def __enter__(self) -> "Backend":
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def plan(outputs: Path) -> Plan:
    """plain6 -> plain4 -> plain2 and plain6 -> plain2, for two seeds: eight networks."""
    jobs = make_jobs(Composer(), ["assistants=[],[plain4]", "seed=1,2"], multirun=True)
    store = Store(outputs / "store")
    return make_plan([ChainBuilder(store, lambda *_: None).build(job) for job in jobs], store)


def test_a_training_starts_once_its_teachers_are_there(plan: Plan) -> None:
    backend, board = Backend(), Board()
    outcomes = walk(plan, backend, board, workers=2, skip={})
    assert len(outcomes) == len(backend.order) == 8
    for seed in (1, 2):
        assert backend.order.index(f"plain6-{seed}") < backend.order.index(f"plain4-{seed}")
        assert backend.order.index(f"plain4-{seed}") < len(backend.order) - 1
    assert backend.most == 2
    assert {outcome.status for outcome in board.ended.values()} == {"done"}


def test_a_failed_teacher_takes_its_descendants_with_it_and_nobody_else(plan: Plan) -> None:
    backend, board = Backend({"plain4-1": Outcome("failed", "broke")}), Board()
    outcomes = walk(plan, backend, board, workers=1, skip={})
    assert sorted(outcome.status for outcome in outcomes.values()) == ["done"] * 6 + ["failed", "skipped"]
    assert board.ended["plain4-1"].reason == "broke"
    (skipped,) = (outcome for outcome in outcomes.values() if outcome.status == "skipped")
    assert "its teacher plain4" in skipped.reason


def test_what_is_to_be_skipped_is_never_started(plan: Plan) -> None:
    (assistant,) = (d for d, node in plan.nodes.items() if (node.recipe.name, node.recipe.seed) == ("plain4", 2))
    backend = Backend()
    outcomes = walk(plan, backend, Board(), workers=8, skip={assistant: "does not fit"})
    assert "plain4-2" not in backend.order
    assert outcomes[assistant] == Outcome("skipped", "does not fit")
    assert sum(outcome.status == "skipped" for outcome in outcomes.values()) == 2


def test_an_error_of_the_backend_stops_what_runs(plan: Plan) -> None:
    backend, board = Backend({"plain6-2": RuntimeError("cluster gone")}), Board()
    with pytest.raises(RuntimeError, match="cluster gone"):
        walk(plan, backend, board, workers=2, skip={})
    assert board.ended == {"plain6-1": Outcome("stopped"), "plain6-2": Outcome("stopped")}
