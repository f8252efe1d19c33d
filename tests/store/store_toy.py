"""Networks of a few bytes that need no training and no torch."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from kdbench.core.recipe import Recipe
from kdbench.store import CHECKPOINT, Draft, Entry, Store

METRICS = {"val/acc": 0.5, "test/acc": None}
HISTORY = [{"epoch": 0.0, "train/loss": 1 / 3}, {"epoch": 1.0, "train/loss": 0.1 + 0.2, "val/acc": 0.5}]
ENV = {"commit": "abc", "threads": 1}


def toy_recipe(seed: int = 0, *, select_on: str = "val", teachers: tuple[Recipe, ...] = ()) -> Recipe:
    return Recipe(
        network={"name": "plain2"},
        data={"name": "digits"},
        method={"criteria": {}},
        optim={"lr": 0.1},
        budget={"max_epochs": 2},
        select_on=select_on,
        seed=seed,
        teachers=teachers,
    )


def write_toy(draft: Draft) -> None:
    for value, name in enumerate(("last.safetensors", "best.safetensors")):
        data = save({"weight": np.full(4, value, np.float32)})
        draft.write(name, lambda file, data=data: file.write(data))
    draft.write(CHECKPOINT, lambda file: file.write(b"state"))


def commit_toy(draft: Draft) -> Entry:
    write_toy(draft)
    return draft.commit(METRICS, HISTORY, ENV)


def train_toy(store: Store, recipe: Recipe) -> Entry:
    with store.draft(recipe) as draft:
        assert draft.entry is None
        return commit_toy(draft)


def tamper(path: Path, data: bytes | None) -> None:
    """Overwrites or deletes a file of a read-only entry."""
    path.parent.chmod(0o755)
    if data is None:
        path.unlink()
    else:
        path.chmod(0o644)
        path.write_bytes(data)


def tamper_json(path: Path, key: str, value: object) -> None:
    tamper(path, json.dumps({**json.loads(path.read_bytes()), key: value}).encode())
