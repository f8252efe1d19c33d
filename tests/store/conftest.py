import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_toy import toy_recipe, train_toy

from kdbench.core.recipe import Recipe
from kdbench.store import Entry, Store

NOBODY = 65534


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "outputs" / "store")


@pytest.fixture
def entry(store: Store) -> Entry:
    return train_toy(store, toy_recipe())


@pytest.fixture
def break_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, tuple[str, ...]], None]:
    """Makes calls of ``os`` fail with an error number."""

    def apply(number: int, calls: tuple[str, ...]) -> None:
        def fail(*_args: object, **_kwargs: object) -> None:
            raise OSError(number, os.strerror(number))

        for call in calls:
            monkeypatch.setattr(os, call, fail)

    return apply


@pytest.fixture
def unprivileged_store() -> Iterator[Store]:
    """A store whose permissions count, even where the tests run as root."""
    with tempfile.TemporaryDirectory() as folder:
        root = os.geteuid() == 0
        if root:
            os.chown(folder, NOBODY, -1)
            os.seteuid(NOBODY)
        try:
            yield Store(Path(folder) / "store")
        finally:
            if root:
                os.seteuid(0)
            for path in Path(folder).rglob("*"):
                path.chmod(0o700)


@pytest.fixture
def teacher_and_student(store: Store) -> tuple[Entry, Entry]:
    teacher: Recipe = toy_recipe(1)
    return train_toy(store, teacher), train_toy(store, toy_recipe(2, teachers=(teacher,)))
