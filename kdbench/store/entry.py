"""One trained network of the store, checked on the way in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdbench.core.errors import StoreError
from kdbench.core.recipe import FORMAT, Recipe
from kdbench.store._files import Checksum, checksum_of, decode_history

if TYPE_CHECKING:
    from torch import Tensor

Which = Literal["last", "best"]

CHECKSUMS = "checksums.json"
RECIPE, METRICS, HISTORY, ENV = "recipe.json", "metrics.json", "history.csv", "env.json"
LAST, BEST = "last.safetensors", "best.safetensors"
FIX = "; `kdbench store gc --broken` removes the entry, the same command trains it again"
_REQUIRED = (LAST, RECIPE, METRICS, HISTORY, ENV)


class BrokenEntryError(StoreError):
    """An entry is not what was once written: a file is missing, changed, cut short, or of another network."""


def selected_weights(recipe: Recipe) -> Which:
    """The weights that teach, are tested and are exported."""
    return "last" if recipe.select_on == "last" else "best"


def load_entry(folder: Path) -> Entry:
    """The entry in ``folder``: its text files are checked in full, its weights by their size.

    Raises:
        BrokenEntryError: Anything is missing, changed, cut short, or of another network.
        StoreError: It cannot be read at all, or was written by another version of kdbench.
    """
    checksums = _load_checksums(folder)
    for name, expected in checksums.items():
        found = _size(folder / name)
        if found != expected.bytes:
            raise _broken(folder / name, f"{found} bytes, {expected.bytes} were written")
    recipe, metrics, env = (_load_json(folder / name, checksums[name]) for name in (RECIPE, METRICS, ENV))
    return Entry(folder, _load_recipe(folder, recipe), metrics, env, checksums)


def _broken(path: Path, problem: str) -> BrokenEntryError:
    return BrokenEntryError(f"{path}: {problem}{FIX}")


def _load_checksums(folder: Path) -> dict[str, Checksum]:
    path = folder / CHECKSUMS
    plain = _load_json(path)
    try:
        checksums = {name: Checksum(**fields) for name, fields in plain.items()}
    except TypeError as error:
        raise _broken(path, "not a list of checksums") from error
    if absent := [name for name in _REQUIRED if name not in checksums]:
        raise _broken(path, f"does not list {', '.join(absent)}")
    return checksums


def _load_recipe(folder: Path, plain: Mapping[str, Any]) -> Recipe:
    path = folder / RECIPE
    if plain.get("format") != FORMAT:
        raise StoreError(
            f"{path}: a recipe of format {plain.get('format')}, this kdbench reads format {FORMAT}; "
            "use the version of kdbench that trained it"
        )
    try:
        recipe = Recipe.from_dict(plain)
    except (ValueError, TypeError, KeyError) as error:
        raise _broken(path, "not a recipe") from error
    if recipe.digest != folder.name:
        raise _broken(path, f"describes network {recipe.digest[:12]}, not the one its folder is named for")
    return recipe


def _load_json(path: Path, expected: Checksum | None = None) -> dict[str, Any]:
    data = _read(path, expected)
    try:
        plain = json.loads(data)
    except ValueError as error:
        raise _broken(path, f"not JSON ({error})") from error
    if not isinstance(plain, dict):
        raise _broken(path, "not a JSON object")
    return plain


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError as error:
        raise _broken(path, "missing") from error


def _read(path: Path, expected: Checksum | None = None) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise _broken(path, "missing") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); check its permissions and the disk") from error
    if expected is not None and Checksum(len(data), hashlib.sha256(data).hexdigest()) != expected:
        raise _broken(path, "changed since it was written (its checksum differs)")
    return data


@dataclass(frozen=True, eq=False)
class Entry:
    """A trained network; made by :func:`load_entry` alone.

    Attributes:
        path: Its folder.
        recipe: What determined its weights.
        metrics: What was measured at the end of its training, JSON values.
        env: What stood beside the recipe: commit, library versions, threads, host, time of commit.
        checksums: Size and hash of each of its files.
    """

    path: Path
    recipe: Recipe
    metrics: Mapping[str, Any]
    env: Mapping[str, Any]
    checksums: Mapping[str, Checksum]

    @property
    def digest(self) -> str:
        """Its full name, 64 hexadecimal digits."""
        return self.recipe.digest

    @property
    def id(self) -> str:
        """Its short name, the first 8 digits."""
        return self.digest[:8]

    @property
    def created(self) -> datetime:
        """When it was committed, in UTC."""
        return datetime.fromisoformat(self.env["created"])

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """One row per logged point of its training.

        Raises:
            BrokenEntryError: The file is missing or changed.
        """
        return decode_history(_read(self.path / HISTORY, self.checksums[HISTORY]))

    def weights(self, which: Which | None = None) -> dict[str, Tensor]:
        """Its parameters and buffers on the CPU, after their checksum was verified.

        Args:
            which: After the last epoch, or best on validation; ``None`` for those the recipe selects.

        Raises:
            BrokenEntryError: The file is missing, changed, or cut short.
            StoreError: No best weights were kept.
        """
        from safetensors.torch import load

        name = BEST if (which or selected_weights(self.recipe)) == "best" else LAST
        if name not in self.checksums:
            raise StoreError(f"network {self.id} ({self.recipe.name}) has no best weights; ask for its last ones")
        return load(_read(self.path / name, self.checksums[name]))

    def verify(self) -> list[str]:
        """One line per file that is not what was written, weights included; empty for a sound entry."""
        problems = []
        for name, expected in self.checksums.items():
            try:
                same = checksum_of(self.path / name) == expected
            except OSError as error:
                problems.append(f"{name}: {error.strerror}")
            else:
                problems += [] if same else [f"{name}: changed since it was written (its checksum differs)"]
        return problems
