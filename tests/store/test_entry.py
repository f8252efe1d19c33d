import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from store_toy import ENV, HISTORY, METRICS, tamper, tamper_json, toy_recipe, train_toy

from kdbench.core.errors import StoreError
from kdbench.core.recipe import digest_of
from kdbench.store import BrokenEntryError, Entry, Store


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    tamper(path, bytes(data))


def rewrite_recipe(folder: Path) -> None:
    """What a careful forger does: the checksum fits, only the digest cannot."""
    tamper_json(folder / "recipe.json", "seed", 7)
    data = (folder / "recipe.json").read_bytes()
    checksum = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    tamper_json(folder / "checksums.json", "recipe.json", checksum)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights deleted": (lambda f: tamper(f / "last.safetensors", None), "last.safetensors: missing"),
    "best deleted": (lambda f: tamper(f / "best.safetensors", None), "best.safetensors: missing"),
    "history deleted": (lambda f: tamper(f / "history.csv", None), "history.csv: missing"),
    "checksums deleted": (lambda f: tamper(f / "checksums.json", None), "checksums.json: missing"),
    "weights cut": (lambda f: tamper(f / "last.safetensors", b"x"), "last.safetensors: 1 bytes"),
    "metrics flipped": (lambda f: flip(f / "metrics.json"), "metrics.json: changed"),
    "recipe edited": (lambda f: tamper_json(f / "recipe.json", "seed", 7), "recipe.json: "),
    "recipe forged": (rewrite_recipe, "recipe.json: describes network"),
    "checksums not JSON": (lambda f: tamper(f / "checksums.json", b"{"), "checksums.json: not JSON"),
    "checksums a list": (lambda f: tamper(f / "checksums.json", b"[]"), "checksums.json: not a JSON object"),
    "checksums of another form": (lambda f: tamper(f / "checksums.json", b'{"a": 1}'), "not a list of checksums"),
    "checksums too few": (lambda f: tamper(f / "checksums.json", b"{}"), "does not list last.safetensors"),
}


def test_entry_gives_back_what_was_committed(store: Store, entry: Entry) -> None:
    found = store.get(entry.digest)
    assert found is not None
    assert (found.recipe, found.metrics, found.history) == (toy_recipe(), METRICS, HISTORY)
    assert found.env == {**ENV, "created": found.created.isoformat()}
    assert found.id == toy_recipe().digest[:8]
    assert found.verify() == []


def test_weights_are_those_the_recipe_selects(store: Store, entry: Entry) -> None:
    last = train_toy(store, toy_recipe(select_on="last"))
    assert torch.equal(entry.weights()["weight"], torch.ones(4))
    assert torch.equal(entry.weights("last")["weight"], torch.zeros(4))
    assert torch.equal(last.weights()["weight"], torch.zeros(4))


def test_entry_without_best_weights_says_so(store: Store) -> None:
    with store.draft(toy_recipe(select_on="last")) as draft:
        draft.write_weights("last", {"weight": torch.ones(1)})
        entry = draft.commit({}, [], {})
    assert entry.history == []
    with pytest.raises(StoreError, match="no best weights"):
        entry.weights("best")


def test_weights_keep_tied_channels_last_and_scalar_tensors(store: Store) -> None:
    tied = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    state = {"a": tied, "b": tied, "steps": torch.tensor(3), "half": torch.ones(2, dtype=torch.bfloat16)}
    with store.draft(toy_recipe(select_on="last")) as draft:
        draft.write_weights("last", state)
        loaded = draft.commit({}, [], {}).weights()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) and loaded[key].dtype == value.dtype for key, value in state.items())


def test_entry_is_read_only(entry: Entry) -> None:
    assert [path.name for path in (entry.path, *entry.path.iterdir()) if path.stat().st_mode & 0o222] == []


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_entry_is_refused_by_name_and_removed_by_gc(store: Store, entry: Entry, kind: str) -> None:
    damage, expected = DAMAGE[kind]
    sound = train_toy(store, toy_recipe(1))
    damage(entry.path)
    with pytest.raises(BrokenEntryError, match=re.escape(expected)) as caught:
        store.get(entry.digest)
    assert str(entry.path) in str(caught.value)
    assert "kdbench store gc --broken" in str(caught.value)
    with pytest.raises(BrokenEntryError), store.draft(toy_recipe()):
        pass
    problems = store.verify()
    assert problems[sound.digest] == []
    assert problems[entry.digest]
    assert store.gc(broken=True)[0].path == entry.path
    assert [left.digest for left in store] == [sound.digest]
    assert train_toy(store, toy_recipe()).verify() == []


@pytest.mark.parametrize("which", ["last", "best"])
def test_flipped_byte_in_weights_is_found_when_they_are_read(store: Store, entry: Entry, which: str) -> None:
    flip(entry.path / f"{which}.safetensors")
    other = "last" if which == "best" else "best"
    assert entry.weights(other)
    with pytest.raises(BrokenEntryError, match=f"{which}.safetensors: changed since it was written"):
        entry.weights("last" if which == "last" else "best")
    assert store.verify() == {
        entry.digest: [f"{which}.safetensors: changed since it was written (its checksum differs)"]
    }
    assert [garbage.path for garbage in store.gc(broken=True)] == [entry.path]


def test_flipped_digit_in_history_is_found_when_it_is_read(entry: Entry) -> None:
    flip(entry.path / "history.csv")
    with pytest.raises(BrokenEntryError, match=r"history.csv: changed"):
        _ = entry.history


def test_entry_copied_under_another_digest_is_refused(store: Store, entry: Entry) -> None:
    foreign = "0" * 64
    shutil.copytree(entry.path, store.root / "00" / foreign)
    with pytest.raises(BrokenEntryError, match=f"describes network {entry.digest[:12]}"):
        store.get(foreign)


def test_entry_of_another_version_is_refused_but_never_removed(
    store: Store, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdbench.store.entry.FORMAT", 999)
    with pytest.raises(StoreError, match="use the version of kdbench that trained it"):
        store.get(entry.digest)
    assert store.gc(broken=True) == []


def test_history_is_exact_and_may_have_holes(store: Store) -> None:
    rows = [{"a": 1e-320}, {"b": 0.1 + 0.2, "a": None}, {}, {"c,\n": float("inf"), "a": -0.0}]
    with store.draft(toy_recipe(select_on="last")) as draft:
        draft.write_weights("last", {"weight": torch.ones(1)})
        entry = draft.commit({}, rows, {})
    assert repr(entry.history) == repr([{"a": 1e-320}, {"b": 0.1 + 0.2}, {}, {"a": -0.0, "c,\n": float("inf")}])


def test_text_files_are_readable_by_any_tool(entry: Entry) -> None:
    assert json.loads((entry.path / "metrics.json").read_text()) == METRICS
    assert (entry.path / "history.csv").read_text().splitlines()[0] == "epoch,train/loss,val/acc"
    assert digest_of(json.loads((entry.path / "recipe.json").read_text())) == digest_of(toy_recipe().to_dict())
