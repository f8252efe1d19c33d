"""From recipes to objects, and the second stage of checks: everything is built once before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdbench.config.budget import unsuited
from kdbench.config.source import ROLE_KEYS, TEACHER_KEYS
from kdbench.core.errors import ConfigError, nearest
from kdbench.core.phases import Phase
from kdbench.core.recipe import Recipe
from kdbench.core.seeds import derive_seed
from kdbench.core.taps import expand_taps
from kdbench.core.targets import check_arguments, resolve_target
from kdbench.core.types import DataSpec, NetworkSpec
from kdbench.criteria.base import Criterion, Teachers
from kdbench.data.catalog import describe
from kdbench.data.load import DataSplits, load_data
from kdbench.data.queried import under_budget
from kdbench.data.view_options import mixes_of
from kdbench.distiller import TASK, Distiller
from kdbench.metrics.base import Evaluation
from kdbench.models.create import create_network
from kdbench.models.network import Network
from kdbench.models.pretrained import pretrained_classes
from kdbench.models.probe import TapRow, describe_taps, dry_run, modules_after, probe
from kdbench.models.weights import classes_of, known_heads, load_weights, read_checkpoint
from kdbench.reading import Recall
from kdbench.store import Entry, Store


class UnsuitableError(ConfigError):
    """A method cannot serve a pair of networks: an error alone, a row without numbers in a sweep."""


LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def instantiate(config: Mapping[str, Any], *, base: type, where: str, trusted: Sequence[str] = ()) -> Any:
    """Builds the component that a YAML node describes, with its arguments bound to its signature first.

    Args:
        config: ``_target_`` and arguments; ``version`` is not passed on.
        base: What the target must be a subclass of.
        where: The node's path, for error lines.
        trusted: Packages of the user's, whose classes may be used.

    Raises:
        ConfigError: No such class, not of that kind, an unknown or missing argument, or a value that it refuses.
    """
    target = resolve_target(config["_target_"], base=base, trusted=trusted)
    arguments = {key: value for key, value in config.items() if key not in ("_target_", "version")}
    check_arguments(target, arguments, where=where)
    return target(**arguments)


@contextmanager
def forked_rng(seed: int, *names: object) -> Iterator[None]:
    """Random draws inside are those of the stream ``names`` of ``seed``, and change no draw outside."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(derive_seed(seed, *names))
        yield


class Builder:
    """Builds what recipes describe.

    Args:
        store: Where trained networks are.
        data_dir: Where datasets are looked for.
        roots: ``dataset.root`` of the data that have one, by the dataset's name; not part of a recipe.
        in_memory: The same of ``dataset.in_memory``.
        files: Checkpoint files by their SHA-256.
        trusted: Packages of the user's, whose classes may be used.
        shared: See :func:`kdbench.data.load.load_data`.
    """

    def __init__(self, store: Store, data_dir: Path, *, roots: Mapping[str, str | None] | None = None,
                 in_memory: Mapping[str, bool | None] | None = None, files: Mapping[str, Path] | None = None,
                 trusted: Sequence[str] = (), shared: Path | None = None) -> None:  # fmt: skip
        self.store = store
        self._data_dir, self._shared = data_dir, shared
        self._roots, self._in_memory = roots or {}, in_memory or {}
        self._files = files or {}
        self._trusted = tuple(trusted)

    def data(self, recipe: Recipe) -> DataSplits:
        """The recipe's dataset, loaded once per process."""
        name = str(recipe.data["name"])
        places = {"root": self._roots.get(name), "in_memory": self._in_memory.get(name)}
        return load_data({**recipe.data, **places}, self._data_dir, self._shared)

    def data_taught(self, recipe: Recipe) -> DataSplits:
        """The same as its training sees it, under the budget of its teachers' queries."""
        budget = (recipe.method or {}).get("budget", {})
        return under_budget(self.data(recipe), budget, split_seed=recipe.data["split_seed"])

    def network(self, recipe: Recipe, spec: DataSpec) -> Network:
        """The recipe's network with the weights that its training starts from."""
        network = create_network(recipe.network["config"], spec, name=recipe.name, seed=recipe.seed,
                                 trusted=self._trusted)  # fmt: skip
        if (init := recipe.network["init"]) is None or "published" in init:
            return _in_layout(network, recipe)
        if "store" in init:
            state = self._entry(init["store"]).weights()
        else:
            state = read_checkpoint(self._files[init["sha256"]])
        fits = classes_of(state, network) in (None, spec.num_classes)
        load_weights(network, state, head="load" if fits else "new")
        return _in_layout(network, recipe)

    def trained(self, digest: str) -> Network:
        """A network of the store with its selected weights."""
        entry = self._entry(digest)
        network = self.shell(entry.recipe)
        network.load_state_dict(entry.weights())
        return _in_layout(network, entry.recipe)

    def shell(self, recipe: Recipe) -> Network:
        """What a recipe's training deploys, before its weights are loaded; from the recipe alone."""
        config, spec = _without_weights(recipe.network["config"]), _spec_without_pixels(recipe.data)
        network = create_network(config, spec, name=recipe.name, seed=0, trusted=self._trusted)
        if self._deploying(recipe):
            self._graft(recipe, network, [self.shell(teacher) for teacher in recipe.teachers], spec)
        return network

    def _deploying(self, recipe: Recipe) -> list[str]:
        """Names of the criteria that change the network."""
        return [name for name, target in self._targets(recipe).items() if target.deploys]

    def _graft(self, recipe: Recipe, student: Network, teachers: Sequence[Network], data: DataSpec) -> None:
        """Gives the student the parts that its criteria deploy."""
        for name in self._deploying(recipe):
            with self._criterion(recipe, name, student, teachers, data) as (criterion, own, others):
                student.graft(*criterion.parts(own, others, data))
            _in_layout(student, recipe)

    def check_fit(self, network: Network, spec: DataSpec) -> None:
        """A teacher may have been trained on other data; what it teaches on must fit it all the same.

        Raises:
            ConfigError: It does not take these samples.
        """
        try:
            dry_run(network, spec)
        except (RuntimeError, ValueError) as error:
            shape = "x".join(map(str, spec.input_shape))
            raise ConfigError(
                f"{network.name} does not take {spec.name} ({shape}): {str(error).splitlines()[0]}"
            ) from error

    def _entry(self, digest: str) -> Entry:
        entry = self.store.get(digest)
        if entry is None:
            raise ConfigError(f"network {digest[:8]} is not in the store {self.store.root}")
        return entry

    def criteria(
        self, recipe: Recipe, student: Network, teachers: Sequence[Network], data: DataSpec
    ) -> dict[str, Criterion]:
        """The recipe's criteria, set up for these networks.

        Raises:
            ConfigError: A name or value is wrong, or terms and weights disagree.
            UnsuitableError: The mathematics does not fit this pair.
        """
        if recipe.method is None:
            return {}
        criteria: dict[str, Criterion] = {}
        for name, config in recipe.method["criteria"].items():
            with self._criterion(recipe, name, student, teachers, data) as (criterion, own, others):
                _check_labels(name, criterion, recipe)
                criterion.setup(own, others, data)
            if config["version"] != criterion.version:
                raise ConfigError(f"method.criteria.{name}.version={config['version']}: the code is version "
                                  f"{criterion.version}; set it in the YAML, the numbers have changed")  # fmt: skip
            criteria[name] = criterion
        if _with_peer(criteria):
            _check_peers(recipe)
        _check_terms(criteria, recipe.method)
        if reasons := list(unsuited(recipe, criteria)):
            raise UnsuitableError(f"{recipe.chain()}: {reason}" for reason in reasons)
        return criteria

    @contextmanager
    def _criterion(self, recipe: Recipe, name: str, student: Network, teachers: Sequence[Network],
                   data: DataSpec) -> Iterator[tuple[Criterion, NetworkSpec, list[NetworkSpec]]]:  # fmt: skip
        """A criterion and what it sees of the networks; draws inside are its own, and what it refuses is the pair."""
        assert recipe.method is not None
        taps = recipe.method["taps"].get(name, {"student": (), "teacher": ()})
        own = probe(student, expand_taps(student, taps["student"]), data)
        others = [probe(teacher, expand_taps(teacher, taps["teacher"]), data) for teacher in teachers]
        config = recipe.method["criteria"][name]
        with forked_rng(recipe.seed, "criterion", name):
            criterion = instantiate(config, base=Criterion, where=f"method.criteria.{name}", trusted=self._trusted)
            try:
                yield criterion, own, others
            except ConfigError as error:
                raise UnsuitableError(f"{recipe.chain()}: {problem}" for problem in error.problems) from error

    def _phases(self, recipe: Recipe, student: Network, criteria: Mapping[str, Criterion],
                data: DataSpec) -> list[Phase]:  # fmt: skip
        """What comes before the training proper, with the parts of the student that stay as they are."""
        phases = (recipe.method or {}).get("phases", {})
        if phases and recipe.network["train"] == "head":
            raise ConfigError(f"{recipe.name}: a method in phases trains the whole network, not the head alone")
        made = []
        for name, phase in phases.items():
            where, frozen = f"method.phases.{name}", {"student": (), "criteria": ("",)}.get(phase["train"])
            if frozen is None:
                assert recipe.method is not None
                counted = [key for key, criterion in criteria.items() if {*criterion.terms} & phase["weights"].keys()]
                read = [tap for key in counted for tap in recipe.method["taps"].get(key, {}).get("student", ())]
                if not read:
                    raise ConfigError(f"{where}.train=taps: its terms read no tap of the student; use train=student")
                frozen = modules_after(student, expand_taps(student, read), data)
            made.append(Phase(phase["epochs"], phase["weights"], phase["optim"], frozen, f"{where}.optim"))
        return made

    def two_views(self, recipe: Recipe) -> bool:
        """Whether a criterion of the recipe compares two views of each sample."""
        return any(target.two_views for target in self._targets(recipe).values())

    def teachers_of(self, recipe: Recipe) -> tuple[Recipe, ...]:
        """The networks that taught the recipe's: not those that learnt together with it and were not kept."""
        together = any(target.teachers is Teachers.PEER for target in self._targets(recipe).values())
        return () if together else recipe.teachers

    def _targets(self, recipe: Recipe) -> dict[str, type[Criterion]]:
        criteria = (recipe.method or {"criteria": {}})["criteria"]
        return {name: resolve_target(config["_target_"], base=Criterion, trusted=self._trusted)
                for name, config in criteria.items()}  # fmt: skip

    def distiller(self, recipe: Recipe, student: Network, teachers: Sequence[Network], data: DataSpec,
                  steps_per_epoch: int, recalls: Sequence[Recall | None] = ()) -> Distiller:  # fmt: skip
        """The recipe's training, ready to fit; ``recalls`` answer in place of the teachers.

        The student is given the parts that its method deploys.
        """
        assert recipe.optim is not None
        self._graft(recipe, student, teachers, data)
        method = recipe.method or {"weights": {TASK: 1.0}, "taps": {}}
        criteria = self.criteria(recipe, student, teachers, data)
        if _with_peer(criteria):
            teachers, recalls = (), ()
        labelled = method.get("budget", {}).get("unqueried") == "label"
        queryable = data.labels >= 0 if labelled and data.labels is not None else None
        return Distiller(
            student,
            teachers,
            criteria,
            weights=method["weights"],
            taps=method["taps"],
            optim=recipe.optim,
            steps_per_epoch=steps_per_epoch,
            max_epochs=recipe.phase_epochs[-1],
            before=self._phases(recipe, student, criteria, data),
            seed=recipe.seed,
            only=known_heads(student) if recipe.network["train"] == "head" else (),
            recalls=recalls,
            teacher_precision=method.get("teaching", {}).get("precision"),
            ema=recipe.budget["ema"],
            compile_mode=recipe.budget["compile"],
            trusted=self._trusted,
            synchronised="replicas" not in recipe.budget,
            queryable=queryable,
        )


def _spec_without_pixels(config: Mapping[str, Any]) -> DataSpec:
    """What a network is built for when its weights, and with them its normalisation, are loaded afterwards."""
    spec = describe(config)
    channels = spec.input_shape[0]
    return replace(spec, mean=spec.mean or (0.0,) * channels, std=spec.std or (1.0,) * channels)


def _without_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """A network's config without the weights that its library would fetch."""
    return {**config, **{key: empty for key, empty in (("pretrained", False), ("weights", None)) if key in config}}


def _in_layout(network: Network, recipe: Recipe) -> Network:
    layout = str(recipe.budget["layout"])
    if layout not in LAYOUTS:
        raise ConfigError(f"trainer.layout={layout}: unknown{nearest(layout, LAYOUTS)}")
    return network.to(memory_format=LAYOUTS[layout])


def _with_peer(criteria: Mapping[str, Criterion]) -> bool:
    """Whether the network above learns together with the student.

    Raises:
        ConfigError: Some criteria want it for a teacher.
    """
    peers = [name for name, criterion in criteria.items() if criterion.teachers is Teachers.PEER]
    others = [name for name, criterion in criteria.items() if criterion.teachers not in (Teachers.PEER, Teachers.NONE)]
    if peers and others:
        raise ConfigError(f"method.criteria: {', '.join(peers)} learns together with the network above, "
                          f"{', '.join(others)} wants a trained one; choose one of them")  # fmt: skip
    return bool(peers)


def _check_peers(recipe: Recipe) -> None:
    for peer in recipe.teachers:
        if peer.network["train"] != "random":
            raise ConfigError(f"{recipe.chain()}: two networks that learn together both start from random weights; "
                              "use method.guidance=peer, or teacher.train=random")  # fmt: skip
        if (peer.seed, peer.network["config"]) == (recipe.seed, recipe.network["config"]):
            raise ConfigError(f"{recipe.chain()}: both learn together from the same weights, and would stay equal; "
                              "use another teacher.seed")  # fmt: skip


def _check_labels(name: str, criterion: Criterion, recipe: Recipe) -> None:
    if criterion.one_label and (mixes := mixes_of(recipe.data["augment"])):
        raise ConfigError(f"{name} needs samples of one class each, but dataset.augment has {', '.join(mixes)}: "
                          f"leave {'it' if len(mixes) == 1 else 'them'} out, or choose another method")  # fmt: skip


def _check_terms(criteria: Mapping[str, Criterion], method: Mapping[str, Any]) -> None:
    phases = method.get("phases", {})
    weights = {"method": method["weights"]} | {f"method.phases.{name}": phases[name]["weights"] for name in phases}
    owner: dict[str, str] = {}
    for name, criterion in criteria.items():
        for term in criterion.terms:
            if term in owner:
                raise ConfigError(f"method.criteria: {owner[term]} and {name} both give a term {term!r}")
            owner[term] = name
    weighed = {term: where for where, terms in weights.items() for term in terms}
    for term, where in weighed.items():
        if term not in (TASK, *owner):
            raise ConfigError(f"{where}.weights.{term}: no criterion gives this term{nearest(term, [TASK, *owner])}")
    if missing := [term for term in (TASK, *owner) if term not in weighed]:
        raise ConfigError(f"method.weights: no weight for {', '.join(missing)}; give one, 0 to leave it out")


def make_evaluations(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Evaluation]:
    """The chosen evaluations by their names."""
    return {name: instantiate(config, base=Evaluation, where=f"eval.{name}") for name, config in configs.items()}


def classes_of_weights(component: Mapping[str, Any], file: Path | None, config: Mapping[str, Any]) -> int | None:
    """Number of classes of the weights that a network comes with, from its file or its library's own record.

    Args:
        component: The network's config.
        file: A checkpoint; ``None`` for weights that a library publishes.
        config: The job's config, for the shape of the data.
    """
    if file is None:
        return pretrained_classes(component)
    spec = _spec_without_pixels(config["dataset"])
    network = create_network(component, spec, name=file.name, seed=0, trusted=config["trust"])
    return classes_of(read_checkpoint(file), network)


def describe_network(node: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Network, list[TapRow]]:
    """A network of a job and everything in it that can be tapped.

    Args:
        node: The network's node in ``config``, role keys included.
        config: The job's config, for the shape of the data.
    """
    spec = _spec_without_pixels(config["dataset"])
    component = _without_weights({key: value for key, value in node.items() if key not in (*ROLE_KEYS, *TEACHER_KEYS)})
    network = create_network(component, spec, name=str(node["name"]), seed=0, trusted=config["trust"])
    return network, describe_taps(network, spec)
