"""From override strings to checked jobs: expands sweeps, names everything that is wrong at once."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from kdbench.config.checks import (
    chain_names,
    coerce,
    conflicts,
    hop_problems,
    network_names,
    not_chosen,
    option_problems,
    unknown_key,
)
from kdbench.config.compose import Composer, Setting, is_deletion, lookup
from kdbench.config.studies import NONE, Arm, Study, merged
from kdbench.core.errors import ConfigError, Problems


@dataclass(frozen=True)
class Job:
    """One arm of a sweep, or the only one: a checked config for each network that it trains.

    Attributes:
        overrides: As typed, one value each.
        config: The resolved config.
        hops: The resolved config of each network with settings of its own, by ``teacher``, ``student`` or the
            assistant's name.
        unused: Overrides of the sweep that this arm has no key for.
        arm: Which arm of its study it belongs to; empty outside a study.
        condition: Under which condition of its study; empty where there is none.
    """

    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    hops: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    arm: str = ""
    condition: str = ""

    def hop(self, name: str) -> Mapping[str, Any]:
        """The config under which a network is trained, by the names of ``hops``."""
        return self.hops.get(name, self.config)


def is_hydra(key: str) -> bool:
    """Whether an override speaks to Hydra itself."""
    return key == "hydra" or key.startswith(("hydra.", "hydra/"))


def _expand(override: Override, multirun: bool) -> list[Setting]:
    """The settings that one override stands for: one, or one per value of a sweep."""
    key, text = override.key_or_group, override.input_line or ""
    if override.package is not None or is_deletion(override):
        raise ConfigError(f"{text}: {'deleting' if is_deletion(override) else 'packages'} cannot be used here; "
                          f"choose an empty option, e.g. assistants=[] or teacher=none")  # fmt: skip
    if not override.is_sweep_override():
        return [Setting(key, override.value(), f"{key}={override.get_value_element_as_str()}")]
    if not multirun:
        raise ConfigError(f"{text}: several values need a sweep: add -m")
    if not override.is_discrete_sweep():
        raise ConfigError(f"{text}: an interval has no list of values; a sweeper such as Optuna's can draw from it")
    try:
        values = list(override.sweep_string_iterator())
    except HydraException as error:
        raise ConfigError(f"{text}: {error}") from error
    if not values:
        raise ConfigError(f"{text}: matches nothing")
    return [Setting(key, None, f"{key}={value}") for value in values]


def _as_group(setting: Setting, groups: Collection[str]) -> Setting:
    """A word for a group inside a group, ``dataset.corruption=label_noise``, as Hydra spells it, with a slash."""
    group = setting.key.replace(".", "/")
    if group == setting.key or group not in groups or isinstance(setting.value, Mapping):
        return setting
    return Setting(group, setting.value, f"{group}{setting.text.removeprefix(setting.key)}")


def _axes(composer: Composer, overrides: Sequence[str], multirun: bool) -> tuple[list[list[Setting]], list[str]]:
    """One list of settings per override (a later one replaces an earlier one of the same key), and the problems."""
    axes: dict[str, list[Setting]] = {}
    problems: list[str] = []
    groups = composer.groups()
    for text in overrides:
        try:
            override = composer.parse(text)
            if override.key_or_group == "hydra.searchpath":
                raise ConfigError(f"{text}: give your own folder of configs with --config-dir DIR")
            if is_hydra(override.key_or_group):
                continue
            settings = _expand(override, multirun)
            if override.is_sweep_override():
                settings = [Setting(s.key, composer.parse(s.text).value(), s.text) for s in settings]
            settings = [_as_group(setting, groups) for setting in settings]
            axes[settings[0].key] = settings
        except ConfigError as error:
            problems += error.problems
    if ("teacher" in axes or "student" in axes) and not {"assistants", "study"} & set(axes):
        axes["assistants"] = [Setting("assistants", [], "assistants=[]")]  # the default one belongs to the default pair
    return list(axes.values()), problems


def with_data(jobs: Sequence[Job]) -> list[Job]:
    """The jobs with what only the files of their datasets tell: sizes, classes, content; equal data are read once.

    Raises:
        ConfigError: Data are missing or damaged; all of it, one line each.
    """
    problems, completed = Problems(), []
    for job in jobs:
        with problems.catching():
            hops = {name: _with_data(config) for name, config in job.hops.items()}
            completed.append(replace(job, config=_with_data(job.config), hops=hops))
    problems.check()
    return completed


def _with_data(config: Mapping[str, Any]) -> Mapping[str, Any]:
    from kdbench.data.survey import complete  # needs NumPy, which help and configs do not

    return {**config, "dataset": complete(config["dataset"], Path(config["paths"]["data"]).expanduser())}


NEEDED_KEYS = {
    "method": ("guidance", "criteria", "weights", "taps"),
    "dataset": ("name", "reader", "version", "num_classes", "channels", "image_size", "budget"),
    "optim": ("_target_", "schedule"),
    "trainer": ("max_epochs", "batch_size", "precision"),
}


class _Checker:
    """Checks settings against the arms that they meet, each question once, however many jobs ask it."""

    def __init__(self, composer: Composer) -> None:
        self.composer = composer
        self.groups = composer.groups()
        self.problems: list[str] = []
        self._seen: set[Any] = set()
        self._plain: dict[tuple[str, ...], dict[str, Any] | None] = {}

    def report(self, problems: Iterable[str]) -> None:
        self.problems += [problem for problem in problems if problem not in self.problems]

    def plain(self, choices: tuple[str, ...]) -> dict[str, Any] | None:
        """The config of some choices with its defaults, or nothing when it cannot be composed (reported)."""
        if choices not in self._plain:
            try:
                self._plain[choices] = self.composer.resolve(choices, ())
            except ConfigError as error:
                self.report(error.problems)
                self._plain[choices] = None
        return self._plain[choices]

    def whole(self, choices: tuple[str, ...], plain: Mapping[str, Any]) -> bool:
        """Whether every node has the keys that its kind needs; what a file of the user's lacks is reported."""
        lacking = [
            f"{group}={plain[group].get('name', '')}: its file lacks {', '.join(missing)}".replace("=:", ":")
            for group, keys in NEEDED_KEYS.items()
            if (missing := [key for key in keys if key not in (plain.get(group) or {})])
        ]
        self.report(f"{line} ({' '.join(choices)})" for line in lacking)
        return not lacking

    def choices(self, settings: Iterable[Setting]) -> tuple[str, ...]:
        """The valid choices of groups among some settings; the others are reported."""
        valid = []
        for setting in settings:
            if setting.key not in self.groups:
                continue
            problems = option_problems(self.composer, setting)
            self.report(problems)
            if not problems:
                valid.append(setting.text)
        return tuple(valid)

    def method_conflicts(self, settings: Sequence[Setting]) -> None:
        methods = next((s.value for s in settings if s.key == "method" and isinstance(s.value, list)), None)
        key = (tuple(methods or ()), tuple(s.key for s in settings))
        if methods and key not in self._seen and all(self.composer.has_option("method", str(m)) for m in methods):
            self._seen.add(key)
            self.report(conflicts(self.composer, [str(m) for m in methods], (s.key for s in settings)))

    def value(self, setting: Setting, plain: Mapping[str, Any]) -> Setting | None:
        """The setting in the type of its key, or nothing when this arm has no such key."""
        found, default, _ = lookup(plain, setting.key)
        if not found:
            return None
        value, problem = coerce(setting.key, default, setting.value)
        if problem:
            self.report([problem])
        return Setting(setting.key, value, setting.text)


def make_jobs(composer: Composer, overrides: Sequence[str], *, multirun: bool = False) -> list[Job]:
    """The jobs of a command line.

    Args:
        composer: Where configs come from.
        overrides: As typed.
        multirun: Whether several values of a key make several jobs.

    Raises:
        ConfigError: Anything is wrong with any job; all of it, one line each.
    """
    axes, problems = _axes(composer, overrides, multirun)
    checker = _Checker(composer)
    checker.report(problems)
    study = _study(checker, axes, multirun)
    if study and (seeds := study.seeds()):
        axes.append(seeds)
    arms = study.arms() if study and not checker.problems else [Arm("", (), {})]
    jobs, given = [], {}
    for arm, typed in itertools.product(arms, itertools.product(*axes)):
        own, given_too = ([_as_group(setting, checker.groups) for setting in settings.values()]
                          for settings in (arm.settings, arm.given))  # fmt: skip
        settings = merged(own, (*given_too, *typed), checker.groups)
        given |= {setting.text: setting for setting in settings}
        if job := _make_job(checker, settings):
            jobs.append(replace(job, arm=arm.name, condition=arm.condition))
    used = {text.split("=")[0] for job in jobs for text in job.overrides} - set(checker.groups)
    _report_unused(checker, given.values(), used)
    if checker.problems:
        raise ConfigError(checker.problems)
    return jobs


def _study(checker: _Checker, axes: list[list[Setting]], multirun: bool) -> Study | None:
    """The study that was chosen, if one was; what is wrong with it is reported."""
    chosen = [axis for axis in axes if axis[0].key == "study" or axis[0].key.startswith("study.")]
    choice = next((axis[0] for axis in chosen if axis[0].key == "study"), None)
    if choice is None or choice.value == NONE:
        return None
    if swept := [axis[0].key for axis in chosen if len(axis) > 1]:
        checker.report([f"{swept[0]}: a study is chosen once; run one after the other"])
    elif not multirun:
        checker.report([f"{choice.text}: a study is a sweep: add -m"])
    elif not (problems := option_problems(checker.composer, choice)):
        try:
            return Study(checker.composer, [axis[0] for axis in axes])
        except ConfigError as error:
            checker.report(error.problems)
    else:
        checker.report(problems)
    return None


def _make_job(checker: _Checker, arm: Sequence[Setting]) -> Job | None:
    composer = checker.composer
    choices = checker.choices(arm)
    checker.method_conflicts(arm)
    plain = checker.plain(choices)
    if plain is None or not checker.whole(choices, plain):
        return None
    values, hop_settings, unused = [], [], []
    for setting in arm:
        if setting.key in checker.groups:
            continue
        if setting.key.startswith("hops."):
            hop_settings.append(setting)
        elif checked := checker.value(setting, plain):
            values.append(checked)
        else:
            unused.append(setting.text)
    if checker.problems:
        return Job(tuple(s.text for s in arm if s.text not in unused), plain, {}, tuple(unused))
    hops, used = _hops(checker, choices, values, hop_settings, plain)
    unused += [setting.text for setting in hop_settings if setting.text not in used]
    try:
        config = composer.resolve(choices, values)
    except ConfigError as error:
        checker.report(error.problems)
        return None
    return Job(tuple(s.text for s in arm if s.text not in unused), config, hops, tuple(unused))


def _hops(
    checker: _Checker,
    choices: tuple[str, ...],
    values: Sequence[Setting],
    settings: Sequence[Setting],
    plain: Mapping[str, Any],
) -> tuple[dict[str, Mapping[str, Any]], set[str]]:
    """The configs of networks with settings of their own, and the settings that some network of this arm has.

    A network answers to its name, and the teacher and the student to their roles as well.
    """
    hops: dict[str, Mapping[str, Any]] = {}
    used: set[str] = set()
    for key, names in network_names(plain).items():
        texts = [setting for setting in settings if any(setting.without_hop(name) for name in names)]
        own = [hop for setting in texts for name in names if (hop := setting.without_hop(name))]
        used |= {setting.text for setting in texts}
        if not own:
            continue
        hop_choices = (*choices, *checker.choices(own))
        if (hop_plain := checker.plain(hop_choices)) is None:
            continue
        hop_values = [value for value in values if lookup(hop_plain, value.key)[0]]
        for setting in own:
            if setting.key in checker.groups:
                continue
            if (checked := checker.value(setting, hop_plain)) is None:
                checker.report([f"hops.{names[-1]}.{unknown_key(setting.key, [hop_plain], checker.groups)}"])
            else:
                hop_values.append(checked)
        hops[key] = checker.composer.resolve(hop_choices, hop_values)
    return hops, used


def _report_unused(checker: _Checker, settings: Iterable[Setting], used: set[str]) -> None:
    """An override that no arm has a key for is an error; one that some arms lack is not."""
    plains = [plain for plain in checker._plain.values() if plain is not None]
    chains = [chain_names(plain) for plain in plains]
    for setting in settings:
        key = setting.key
        if key in checker.groups or not plains:
            continue
        if key.startswith("hops."):
            checker.report(hop_problems(setting, chains))
        elif key not in used and not any(lookup(plain, key)[0] for plain in plains):
            line = not_chosen(key, checker.composer, plains) or unknown_key(key, plains, checker.groups)
            checker.report([line])
