"""From a job's config to the recipes of its networks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.config.budget import budget_note, budget_of
from kdbench.config.cache import teaching_of
from kdbench.config.checks import BUDGET_KEYS
from kdbench.config.jobs import Job
from kdbench.config.source import NONE, ROLE_KEYS, TEACHER_KEYS
from kdbench.config.values import value_problems
from kdbench.core.errors import ConfigError, Problems, StoreError
from kdbench.core.phases import resolve_phases
from kdbench.core.recipe import Recipe, topological
from kdbench.data.catalog import IDENTITY_EXCLUDES

if TYPE_CHECKING:
    from kdbench.store import Store

GENERATION = 10_000  # between the seeds of two generations: each starts from other weights, far from other replicates
PEER = 5_000  # between the seeds of two networks that learn together: equal ones from equal weights would stay equal
NOT_TRAINED = {
    "max_epochs": 0, "batch_size": 0, "limit_train_batches": None, "clip": None, "ema": None, "compile": None,
}  # fmt: skip


@dataclass(frozen=True)
class Link:
    """One network of a chain, with the role it plays there."""

    role: str
    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Chain:
    """The networks of one job, from the teacher to the student.

    Attributes:
        job: Where it comes from.
        links: Teachers before those they teach; the last one is the student.
        files: Checkpoint files by the SHA-256 that stands for them in recipes.
        notes: What a reader of the plan should know.
    """

    job: Job
    links: tuple[Link, ...]
    files: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class ChainBuilder:
    """Builds the chain of a job.

    Args:
        store: Where ``store/ID`` is looked up.
        classes_in_file: ``(component, file, config) -> classes`` of a checkpoint's head; asked only where a teacher
            brings weights, since answering needs torch.
        published: ``component -> identity`` of the weights that its library publishes; asked only where wanted.
    """

    def __init__(
        self,
        store: Store,
        classes_in_file: Callable[[Mapping[str, Any], Path | None, Mapping[str, Any]], int | None],
        published: Callable[[Mapping[str, Any]], str | None] = lambda _: None,
    ) -> None:
        self.store = store
        self._published = published
        self._classes_in_file = classes_in_file

    def build(self, job: Job) -> Chain:
        """The recipes of a job.

        Raises:
            ConfigError: A combination of valid values makes no sense; the message says why.
        """
        files: dict[str, Path] = {}
        links: list[Link] = []
        notes: list[str] = []
        config = job.config
        _check_values(job)
        for index in range(_copies(config)):
            node = {**config["teacher"], "seed": _seed(config["teacher"], job.hop("teacher")) + index}
            links.append(self._link("teacher", node, (), job, files))
        if len(links) > 1 and links[0].recipe == links[1].recipe:
            raise ConfigError(
                f"teacher.ensemble={len(links)}: {links[0].name} is used as it is, so all would be the same"
            )
        notes += [note for link in links[:1] if (note := _about_weights(link, config["dataset"]["num_classes"]))]
        above: list[tuple[Recipe, ...]] = [tuple(link.recipe for link in links)] if links else []
        for node in config.get("assistants", {}).values():
            if not above:
                raise ConfigError(f"assistant {node['name']} has no teacher; choose one, or assistants=[]")
            links.append(self._link("assistant", node, self._teachers(job, str(node["name"]), above), job, files))
            above.append((links[-1].recipe,))
        for generation in range(config["generations"]):
            node = config["student"]
            seed = _seed(node, job.hop("student")) + GENERATION * generation
            teachers = self._teachers(job, "student", above)
            links.append(self._link("student", {**node, "seed": seed}, teachers, job, files))
            above.append((links[-1].recipe,))
        method = job.hop("student")["method"]
        if not job.arm and not links[-1].recipe.teachers and method["guidance"] != "none" and method["criteria"]:
            notes.append(f"no teacher: {links[-1].name} learns from labels alone, without the method")
        notes += budget_note(links[-1].recipe)
        needed = set(topological([links[-1].recipe]))
        peers = {link.recipe: _peer(link.recipe) for link in links if link.recipe not in needed}
        links = [replace(link, recipe=peers.get(link.recipe, link.recipe)) for link in links]
        if learning := [link.name for link in links if link.recipe in needed & set(peers.values())]:
            notes.append(f"{', '.join(learning)}: learns together with the network below, from other random weights, "
                         "and is not kept; its row shows where it starts")  # fmt: skip
        if unneeded := [link.name for link in links if link.recipe not in needed]:
            notes.append(f"{', '.join(dict.fromkeys(unneeded))}: teaches nobody here, and is not trained")
        return Chain(job, tuple(link for link in links if link.recipe in needed), files, tuple(notes))

    def _teachers(self, job: Job, name: str, above: list[tuple[Recipe, ...]]) -> tuple[Recipe, ...]:
        guidance = job.hop(name)["method"]["guidance"]
        if guidance == "dense":
            return tuple(recipe for group in above for recipe in group)
        if guidance == "peer":
            return tuple(map(_peer, above[-1])) if above else ()
        return above[-1] if above and guidance == "chain" else ()

    def _link(
        self, role: str, node: Mapping[str, Any], teachers: tuple[Recipe, ...], job: Job, files: dict[str, Path]
    ) -> Link:
        name = str(node["name"])
        hop = job.hop(name if role == "assistant" else role)
        if entry_id := node.get("store"):
            return Link(role, name, self._from_store(role, str(entry_id), node, hop, teachers, job))
        component = {key: value for key, value in node.items() if key not in (*ROLE_KEYS, *TEACHER_KEYS)}
        init = self._init(f"assistants.{name}" if role == "assistant" else role, node, files)
        brings = init is not None or bool(component.get("pretrained") or component.get("weights"))
        if brings and init is None and (identity := self._published(component)):
            init = {"published": identity}
        classes = self._classes(role, node, component, init, files, job) if brings else None
        train = _train(role, node, brings, classes, job.config["dataset"]["num_classes"])
        return Link(role, name, _recipe(name, component, init, train, hop, node, teachers))

    def _classes(self, role: str, node: Mapping[str, Any], component: Mapping[str, Any],
                 init: Mapping[str, Any] | None, files: Mapping[str, Path], job: Job) -> int | None:  # fmt: skip
        if node["train"] not in ("auto", "none"):
            return None
        file = files[init["sha256"]] if init and "sha256" in init else None
        return self._classes_in_file(component, file, job.config)

    def _init(self, key: str, node: Mapping[str, Any], files: dict[str, Path]) -> dict[str, Any] | None:
        if not (given := node.get("checkpoint")):
            return None
        file = Path(given).expanduser()
        if not file.is_file():
            raise ConfigError(f"{key}.checkpoint={given}: no such file")
        with file.open("rb") as stream:
            sha = hashlib.file_digest(stream, "sha256").hexdigest()
        files[sha] = file.resolve()
        return {"sha256": sha}

    def _from_store(self, role: str, entry_id: str, node: Mapping[str, Any], hop: Mapping[str, Any],
                    teachers: tuple[Recipe, ...], job: Job) -> Recipe:  # fmt: skip
        try:
            entry = self.store.find(entry_id)
        except StoreError as error:
            raise ConfigError([f"{role}=store/{entry_id}: {problem}" for problem in error.problems]) from error
        stored = entry.recipe
        train = _train(role, node, True, stored.data["num_classes"], job.config["dataset"]["num_classes"])
        if train == "none":
            return stored
        return _recipe(stored.name, stored.network["config"], {"store": entry.digest}, train, hop, node, teachers)


def _check_values(job: Job) -> None:
    """The values of the job's config, and of that of each network with one of its own.

    Raises:
        ConfigError: Some make no sense; all of them, one line each.
    """
    problems = Problems()
    for config in (job.config, *job.hops.values()):
        problems.add(*value_problems(config))
    problems.check()


def _about_weights(link: Link, classes: int) -> str | None:
    """What happens to a teacher that comes with weights, in words."""
    network, config = link.recipe.network, link.recipe.network["config"]
    if network["train"] == "random":
        return f"teacher {link.name} keeps the random weights it starts from: a control"
    if network["init"] is None and not (config.get("pretrained") or config.get("weights")):
        return None
    if network["train"] == "none":
        return f"teacher {link.name} is used as it is"
    part = "its head alone is" if network["train"] == "head" else "all of it is"
    return f"teacher {link.name} starts from its weights and {part} trained for {classes} classes (teacher.train)"


def _copies(config: Mapping[str, Any]) -> int:
    if config["teacher"].get("name", NONE) == NONE:
        return 0
    copies = config["teacher"]["ensemble"]
    if copies < 1:
        raise ConfigError(f"teacher.ensemble={copies}: must be at least 1")
    return int(copies)


def _seed(node: Mapping[str, Any], hop: Mapping[str, Any]) -> int:
    own = node.get("seed")
    return int(hop["seed"] if own is None else own)


def _train(role: str, node: Mapping[str, Any], brings: bool, classes: int | None, wanted: int) -> str:
    train = str(node["train"])
    if train == "auto":
        return "none" if role == "teacher" and brings and classes == wanted else "full"
    if train in ("head", "none") and not brings:
        raise ConfigError(f"{role}.train={train}: {node['name']} has random weights; give it a checkpoint, train "
                          "it all, or say train=random if that is the point")  # fmt: skip
    if train == "random" and brings:
        raise ConfigError(f"{role}.train=random: {node['name']} comes with weights; it takes a network that has none")
    if train == "none" and classes not in (None, wanted):
        raise ConfigError(f"{role}.train=none: the weights of {node['name']} are for {classes} classes, the data have "
                          f"{wanted}: its new head must be trained, with train=head or train=full")  # fmt: skip
    return train


def _peer(recipe: Recipe) -> Recipe:
    """The same network before its training, from weights of its own: where one that learns together starts."""
    if not recipe.epochs:
        return recipe
    return replace(recipe, network={**recipe.network, "train": "random"}, method=None, optim=None, select_on="last",
                   budget={**recipe.budget, **NOT_TRAINED}, seed=recipe.seed + PEER, teachers=())  # fmt: skip


def _recipe(name: str, component: Mapping[str, Any], init: Mapping[str, Any] | None, train: str,
            hop: Mapping[str, Any], node: Mapping[str, Any], teachers: tuple[Recipe, ...]) -> Recipe:  # fmt: skip
    used_as_is = train in ("none", "random")
    data = {key: value for key, value in hop["dataset"].items() if key not in IDENTITY_EXCLUDES}
    if not hop["protocol"]["validation"]:
        data["val_fraction"] = 0.0
    trainer = hop["trainer"]
    budget = {key: trainer[key] for key in BUDGET_KEYS}
    if trainer["devices"] > 1 and not trainer["sync_batchnorm"] and not used_as_is:
        budget["replicas"] = trainer["devices"]  # of each BatchNorm, with statistics of its own
    if used_as_is:
        budget.update(NOT_TRAINED)
    method = None
    if (teachers or hop["method"]["guidance"] == "none") and hop["method"]["criteria"] and not used_as_is:
        method = {key: hop["method"][key] for key in ("criteria", "weights", "taps")}
        if phases := resolve_phases(hop["method"].get("phases", {}), budget["max_epochs"]):
            method["phases"] = phases
        if teachers and (teaching := teaching_of(hop)):
            method["teaching"] = teaching
        if teachers and (own := budget_of(hop)):
            method["budget"] = own
        if budget["clip"] is None:
            budget["clip"] = hop["method"].get("clip")
    return Recipe(
        network={"name": name, "config": dict(component), "init": init, "train": train},
        data=data,
        method=method,
        optim=None if used_as_is else dict(hop["optim"]),
        budget=budget,
        select_on="last" if used_as_is else str(hop["select_on"]),
        seed=0 if train == "none" else _seed(node, hop),
        teachers=() if used_as_is else teachers,
    )
