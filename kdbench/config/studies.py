"""A study: a published table or figure as the sweep that answers it. Expanded from its YAML, never written by hand."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from kdbench.config.compose import Composer, Setting
from kdbench.config.pairs import EPOCHS_TIMES, chosen_arms, network_sets, selection_problems
from kdbench.core.errors import ConfigError, nearest

NONE = "none"
ENDS = ("from", "through", "to")
SIZES = ("full", "smoke")
RESERVED = ("teacher", "assistants", "student", "generations")  # what a study chooses, arm by arm


@dataclass(frozen=True)
class Arm:
    """One chain of a study under one treatment.

    Attributes:
        name: The arm's key in the YAML, shared by all its chains.
        condition: The condition's key in the YAML; empty where the study has none.
        chain: Names of the networks from the teacher to the student; the student alone when nobody teaches it.
        settings: What it is trained with, weakest first; each key once.
        given: What the condition sets, which nothing typed replaces.
    """

    name: str
    chain: tuple[str, ...]
    settings: Mapping[str, Setting]
    condition: str = ""
    given: Mapping[str, Setting] = field(default_factory=dict)


def chains(networks: Sequence[str], ends: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The chains that a line such as ``{from: first, through: any, to: each}`` stands for.

    Args:
        networks: All networks, the largest first.
        ends: ``from``: ``first``, ``each``, ``none`` (nobody teaches) or networks. ``to``: ``last``, ``each``, ``all``
            (the first too), ``first`` or networks. ``through``: ``none``, ``one`` (each network in between, alone),
            ``any`` (every subset of them, none included), or a list of networks. Default: from the first to the last,
            through none.

    Returns:
        Names from the teacher to the student, in the order of ``networks``; the n networks below the first have
        ``2**n - 1`` chains from the first through any to each.

    Raises:
        ConfigError: A word that means nothing, or a network that is not one of ``networks``.
    """
    if unknown := [key for key in ends if key not in ENDS]:
        raise ConfigError(f"study: {unknown[0]}: unknown{nearest(str(unknown[0]), ENDS)}")
    place = {name: position for position, name in enumerate(networks)}
    found: list[tuple[str, ...]] = []
    for student in _named(networks, ends.get("to", "last"), "to", each=networks[1:]):
        for teacher in _named(networks, ends.get("from", "first"), "from", each=networks[:-1]):
            if teacher == NONE:
                found.append((student,))
            elif place[teacher] < place[student]:
                between = networks[place[teacher] + 1 : place[student]]
                found += [
                    (teacher, *through, student) for through in _through(networks, between, ends.get("through", NONE))
                ]
    return found


def _named(networks: Sequence[str], word: Any, key: str, *, each: Sequence[str]) -> Sequence[str]:
    words = {"from": ("first", "each", NONE), "to": ("first", "last", "each", "all")}[key]
    if word == "each":
        return each
    if word == "all":
        return networks
    if word in words:
        return [{"first": networks[0], "last": networks[-1], NONE: NONE}[word]]
    names = word if isinstance(word, list) else [word]
    for name in names:
        if name not in networks:
            raise ConfigError(f"study: {key}: {name}: unknown{nearest(str(name), [*words, *networks])}")
    return names


def _through(networks: Sequence[str], between: Sequence[str], word: Any) -> Iterator[tuple[str, ...]]:
    if word in (NONE, "one", "any"):
        sizes = {NONE: [0], "one": [1], "any": range(len(between) + 1)}[word]
        for size in sizes:
            yield from combinations(between, size)
        return
    names = tuple(word) if isinstance(word, list) else (word,)
    if unknown := [name for name in names if name not in networks]:
        known = [NONE, "one", "any", *networks]
        raise ConfigError(f"study: through: {unknown[0]}: unknown{nearest(str(unknown[0]), known)}")
    if set(names) <= set(between):
        yield names


class Study:
    """A study's YAML with what was typed about it, ready to be expanded.

    Args:
        composer: Where configs come from.
        settings: All overrides of the command, ``study=NAME`` among them.

    Raises:
        ConfigError: The study contradicts itself or what was typed; all of it, one line each.
    """

    def __init__(self, composer: Composer, settings: Sequence[Setting]) -> None:
        self._composer = composer
        self._typed = {setting.key: setting for setting in settings}
        about = [setting for setting in settings if setting.key.startswith("study.")]
        self.config: Mapping[str, Any] = composer.resolve((self._typed["study"].text,), about)["study"]
        self.name = str(self.config["name"])
        self._family = self.config["families"].get(self.config["family"])
        self._check()

    def _check(self) -> None:
        problems = list(selection_problems(self.config))
        for key, allowed in (("size", SIZES), ("family", list(self.config["families"]))):
            if self.config[key] not in allowed:
                problems.append(f"study.{key}={self.config[key]}: unknown{nearest(str(self.config[key]), allowed)}")
        for key in RESERVED:
            if key in self._typed:
                others = (
                    "study.pairs=[A,B]" if self.config.get("known_pairs") else "study.networks=[LARGEST,...,SMALLEST]"
                )
                problems.append(f"{self._typed[key].text}: study={self.name} chooses the networks; "
                                f"give it others with {others}")  # fmt: skip
        for key, setting in self._typed.items():
            if conditions := [name for name, content in self._conditions().items() if key.replace("/", ".") in content]:
                problems.append(f"{setting.text}: the conditions {', '.join(conditions)} of study={self.name} "
                                "have their own")  # fmt: skip
            if arms := [arm for arm, content in self.config["arms"].items()
                        if key in ((content or {}).get("set") or {})]:  # fmt: skip
                problems.append(f"{setting.text}: the arms {', '.join(arms)} of study={self.name} have their own")
        if problems:
            raise ConfigError(problems)

    @property
    def own_dataset(self) -> bool:
        """Whether it runs on the data that it was published with; published figures mean nothing on others."""
        typed = self._typed.get("dataset")
        return self.config["size"] == "full" and (typed is None or typed.value in self._family["datasets"])

    def seeds(self) -> list[Setting]:
        """The replicates, unless seeds were typed or the smoke size has its own."""
        if "seed" in self._typed or (self.config["size"] == "smoke" and "seed" in self.config["smoke"]):
            return []
        return [Setting("seed", seed, f"seed={seed}") for seed in self.config["seeds"]]

    def arms(self) -> list[Arm]:
        """Every chain of every arm under every condition, with the settings of each."""
        found = [
            replace(arm, condition=name, given=_settings(content))
            for name, content in self._conditions().items()
            for arm in self._arms()
        ]
        if not found:
            names = dict.fromkeys(name for networks in network_sets(self.config).values() for name in networks)
            raise ConfigError(f"study={self.name}: no arm has a chain among {', '.join(names)}")
        return found

    def _conditions(self) -> Mapping[str, Mapping[str, Any]]:
        return self.config.get("conditions") or {"": {}}

    def _arms(self) -> list[Arm]:
        """Every chain of every arm over every pair; what pairs have in common comes once."""
        common = self._common()
        found: dict[tuple[str, tuple[str, ...]], Arm] = {}
        for pair, networks in network_sets(self.config).items():
            for name, content in chosen_arms(self.config, pair).items():
                for chain in chains(networks, {key: content[key] for key in ENDS if key in content}):
                    if (name, chain) not in found:
                        found[name, chain] = Arm(name, chain, self._of_arm(common, content, chain))
        return list(found.values())

    def size(self) -> int:
        """Networks that one seed trains: each arm's last one, and what teaches it, shared wherever chains agree."""
        plain = {name for name, content in self.config["arms"].items()
                 if not (content or {}).keys() & {"set", EPOCHS_TIMES}}  # fmt: skip
        trained = set()
        for arm in self.arms():
            trained.add((arm.condition, arm.chain, "" if arm.name in plain else arm.name))
            trained |= {(arm.condition, arm.chain[:length], "") for length in range(1, len(arm.chain))}
        return len(trained)

    def _of_arm(
        self, common: Mapping[str, Any], content: Mapping[str, Any], chain: Sequence[str]
    ) -> dict[str, Setting]:
        by_network = {
            f"hops.{network}.{key}": value
            for network in chain
            for key, value in (self.config.get("by_network") or {}).get(network, {}).items()
        }
        own = {key: value for key, value in {**by_network, **content["set"]}.items() if not self._decided(key)}
        settings = _settings({**common, **own, **_roles(chain)})
        return settings | self._longer(settings, int(content[EPOCHS_TIMES])) if content[EPOCHS_TIMES] else settings

    def _decided(self, key: str) -> bool:
        """Whether a setting of one network gives way: to what was typed for all, or to the smoke size."""
        if not key.startswith("hops."):
            return False
        wanted = key.split(".", 2)[2]
        smoke = self.config["smoke"] if self.config["size"] == "smoke" else {}
        return any(f"{wanted}.".startswith(f"{other}.") for other in (*self._typed, *smoke))

    def _common(self) -> dict[str, Any]:
        """What all arms share: data, and what the protocol asks for on the study's own data or on any."""
        protocol = str(self._typed["protocol"].value) if "protocol" in self._typed else "clean"
        given: dict[str, Any] = {"dataset": self._family["datasets"][0]}
        typed = self._typed.get("dataset")
        if typed is None or typed.value in self._family["datasets"]:
            given |= self._family["protocols"].get(protocol) or {}
        given |= self.config["protocols"].get(protocol) or {}
        given |= self.config.get("set") or {}
        if self.config["size"] == "smoke":
            given |= {} if typed else self._fake()
            given |= self.config["smoke"]
        return given

    def _fake(self) -> dict[str, Any]:
        """Random images of the own dataset's shape and classes."""
        own = self._composer.resolve((f"dataset={self._family['datasets'][0]}",), ())["dataset"]
        shape = {f"dataset.{key}": own[key] for key in ("num_classes", "channels", "image_size")}
        return {"dataset": "fake", **shape, **(self.config.get("fake") or {})}

    def _longer(self, settings: Mapping[str, Setting], times: int) -> dict[str, Setting]:
        typed = self._typed.get("trainer.max_epochs") or settings.get("trainer.max_epochs")
        if typed is None:
            dataset = self._typed.get("dataset") or settings["dataset"]
            epochs = self._composer.resolve((dataset.text,), ())["trainer"]["max_epochs"]
        else:
            epochs = typed.value
        return _settings({"hops.student.trainer.max_epochs": times * int(epochs)})


def _roles(chain: Sequence[str]) -> dict[str, Any]:
    teacher = chain[0] if len(chain) > 1 else NONE
    return {"teacher": teacher, "assistants": list(chain[1:-1]), "student": chain[-1]}


def _settings(values: Mapping[str, Any]) -> dict[str, Setting]:
    return {key: Setting(key, value, f"{key}={_text(value)}") for key, value in values.items()}


def _text(value: Any) -> str:
    """As it would be typed."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_text(inner)}' for key, inner in value.items())}}}"
    return (
        {True: "true", False: "false", None: "null"}.get(value, str(value))
        if isinstance(value, bool | None)
        else str(value)
    )


def merged(arm: Iterable[Setting], typed: Sequence[Setting], groups: Iterable[str]) -> tuple[Setting, ...]:
    """An arm's settings under those that were typed: a typed choice of a group also drops what the arm set below it."""
    chosen = [setting.key.replace("/", ".") for setting in typed if setting.key in set(groups)]
    keys = {setting.key for setting in typed}
    kept = [
        setting
        for setting in arm
        if setting.key not in keys
        and not any(setting.key.replace("/", ".").startswith(f"{group}.") for group in chosen)
    ]
    return (*kept, *typed)
