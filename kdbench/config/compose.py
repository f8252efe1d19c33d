"""Composing configs: groups through Hydra, once per set of choices; values on top, without composing again."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from kdbench.config.resolve import NotPlainError, Template
from kdbench.config.source import ROLES, RoleSource, config_root
from kdbench.core.errors import ConfigError

# ${complement:method.weights.kd}: a weight that moves against another, as the teacher-assistant paper's 1 - lambda
OmegaConf.register_new_resolver(
    "complement", lambda key, *, _root_: round(1.0 - OmegaConf.select(_root_, key), 12), replace=True
)

LISTED_GROUPS = ("assistants", "logger", "eval", "dataset/augment")  # a list of options, each under a key of its own


@dataclass(frozen=True)
class Setting:
    """One override of one job.

    Attributes:
        key: A group, or the dotted path of a value.
        value: What it is set to, as Hydra's grammar reads it.
        text: As typed, ``key=value``.
    """

    key: str
    value: Any
    text: str

    def without_hop(self, name: str) -> "Setting | None":
        """The setting below ``hops.NAME``, or nothing if it belongs to another network."""
        prefix = f"hops.{name}."
        if not self.key.startswith(prefix):
            return None
        return Setting(self.key.removeprefix(prefix), self.value, self.text.removeprefix(prefix))


def search_path(config_dirs: Sequence[Path] = ()) -> ConfigSearchPathImpl:
    """Hydra's search path: the user's folders, then ours, each followed by its models in their roles."""
    version.setbase("1.3")
    Plugins.instance()  # registers Hydra's own config sources
    SourcesRegistry.instance().register(RoleSource)
    path = ConfigSearchPathImpl()
    path.append("hydra", "pkg://hydra.conf")
    for provider, folder in [*(("command-line", folder) for folder in config_dirs), ("kdbench", config_root())]:
        path.append(provider, f"file://{Path(folder).resolve()}")
        path.append(f"{provider}-roles", f"{RoleSource.scheme()}://{Path(folder).resolve()}")
    path.append("schema", "structured://")
    return path


class Composer:
    """Parses overrides and composes configs from kdbench's folder and the user's.

    Args:
        config_dirs: The user's folders, searched first.
        config_name: The primary config.

    Raises:
        ConfigError: A folder does not exist.
    """

    def __init__(self, config_dirs: Sequence[Path] = (), config_name: str = "config") -> None:
        for folder in config_dirs:
            if not Path(folder).is_dir():
                raise ConfigError(f"config folder {folder} does not exist")
        self.loader = ConfigLoaderImpl(search_path(config_dirs))
        self.config_name = config_name
        self._parser = OverridesParser.create(config_loader=self.loader)
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._templates: dict[tuple[str, ...], Template] = {}
        self.has_option = lru_cache(maxsize=None)(self._has_option)
        self.parse = lru_cache(maxsize=None)(self._parse)

    def _parse(self, text: str) -> Override:
        try:
            (override,) = self._parser.parse_overrides([text])
        except HydraException as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"{text}: not an override of the form key=value ({reason})") from error
        if not override.key_or_group:
            raise ConfigError(f"{text}: not an override of the form key=value")
        return override

    def groups(self) -> list[str]:
        """Names of the config groups, roles and groups inside groups (``dataset/corruption``) among them."""
        foreign = {"hydra", "model", "__pycache__", "search"} - {self.config_name}  # search is kdbench search's own
        top = {*self.loader.list_groups(""), *ROLES} - foreign
        return sorted(top | {f"{group}/{inner}" for group in top for inner in self.loader.list_groups(group)})

    def options(self, group: str) -> list[str]:
        """What a group offers, without what is answered by name (``timm/NAME``) or shared by files (``_base``)."""
        options = self.loader.get_group_options(group, ObjectType.CONFIG)
        return [option for option in options if not option.startswith("_")]

    def _has_option(self, group: str, option: str) -> bool:
        """Whether ``group=option`` names a config."""
        return any(source.is_config(f"{group}/{option}") for source in self.loader.get_sources())

    def compose(self, choices: tuple[str, ...]) -> DictConfig:
        """The config of the groups' choices, not yet resolved. Cached: jobs that differ in values share it.

        Raises:
            ConfigError: Hydra or OmegaConf cannot compose it.
        """
        if choices not in self._composed:
            try:
                config = self.loader.load_configuration(self.config_name, list(choices), RunMode.RUN)
            except (HydraException, OmegaConfBaseException, ValueError, YAMLError) as error:
                raise ConfigError(f"{' '.join(choices) or self.config_name}: {_reason(error)}") from error
            OmegaConf.set_struct(config, False)
            config.pop("hydra", None)
            self._composed[choices] = config
        return self._composed[choices]

    def resolve(self, choices: tuple[str, ...], values: Sequence[Setting]) -> dict[str, Any]:
        """The plain config of a job: composed, with its values, every interpolation resolved.

        Raises:
            ConfigError: A value is missing, or an interpolation leads nowhere.
        """
        try:
            return self._template(choices).with_values((setting.key, setting.value) for setting in values)
        except NotPlainError:  # rare: what a user's own file or value asks of OmegaConf
            return self._resolve(choices, values)

    def _template(self, choices: tuple[str, ...]) -> Template:
        """The composed config as plain data, references left in it and all other interpolations resolved."""
        if choices not in self._templates:
            roles = {text: nodes for text in choices if (nodes := self._role(text)) is not None}
            rest = tuple(text for text in choices if text not in roles)
            if roles:  # networks change nothing beside their own nodes: all chains share one composition
                config = {**self._template(rest).config, **dict(roles.values())}
                config = {key: node for key, node in config.items() if node or key != "assistants"}
            else:
                composed = self.compose(choices)
                plain = OmegaConf.to_container(composed)
                assert isinstance(plain, dict)
                config = {str(key): _without_resolvers(value, composed, str(key)) for key, value in plain.items()}
            self._templates[choices] = Template(config)
        return self._templates[choices]

    def _role(self, text: str) -> tuple[str, dict[str, Any]] | None:
        """The node that a choice such as ``teacher=plain8`` makes, if it is the choice of a role's networks."""
        role, _, _ = text.partition("=")
        if role not in ROLES:
            return None
        value = self.parse(text).value()
        if role != "assistants":
            return (role, node) if (node := self._network(role, str(value))) is not None else None
        nodes = {str(name): self._network(role, str(name)) for name in value} if isinstance(value, list) else {"": None}
        if any(node is None for node in nodes.values()):
            return None
        return role, {str(node["name"]): node for node in nodes.values() if node is not None}

    def _network(self, role: str, option: str) -> dict[str, Any] | None:
        """A model's node, if the first source that knows it is one of ours and its file can be read."""
        source = next((s for s in self.loader.get_sources() if s.is_config(f"{role}/{option}")), None)
        if not isinstance(source, RoleSource):
            return None
        try:
            node = OmegaConf.to_container(source.load_config(f"{role}/{option}").config)
        except (HydraException, OmegaConfBaseException, ValueError, YAMLError):
            return None  # composing it says what is wrong
        assert isinstance(node, dict)
        return {str(key): value for key, value in node.items()}

    def _resolve(self, choices: tuple[str, ...], values: Sequence[Setting]) -> dict[str, Any]:
        config = copy.deepcopy(self.compose(choices))
        for setting in values:
            OmegaConf.update(config, setting.key, setting.value, merge=False, force_add=True)
        try:
            plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            raise ConfigError(str(error).strip().splitlines()[0]) from error
        assert isinstance(plain, dict)
        return {str(key): value for key, value in plain.items()}


def _without_resolvers(value: Any, config: DictConfig, path: str) -> Any:
    """A node with what needs no other node, such as ``${oc.env:HOME}``, already resolved."""
    if isinstance(value, dict):
        return {key: _without_resolvers(inner, config, f"{path}.{key}") for key, inner in value.items()}
    if isinstance(value, str) and value.startswith("${oc.env:") and value.count("${") == 1:
        return OmegaConf.select(config, path)
    return value


def lookup(config: Mapping[str, Any], key: str) -> tuple[bool, Any, Mapping[str, Any]]:
    """Walks a dotted key: whether it exists, its value, and the mapping in which the walk ended.

    Anything below an empty mapping exists: such a node is open, for arguments that only its target knows.
    """
    node: Any = config
    parent: Mapping[str, Any] = config
    for part in key.split("."):
        if not isinstance(node, Mapping):
            return False, None, {}
        if not node and node is not config:
            return True, None, node
        parent = node
        if part not in node:
            return False, None, parent
        node = node[part]
    return True, node, parent


def _reason(error: BaseException) -> str:
    """The first words of an error, or of what caused it where it says nothing itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines or error.__cause__ is None else _reason(error.__cause__)


def is_deletion(override: Override) -> bool:
    """Whether an override is of the form ``~key``."""
    return override.type is OverrideType.DEL
