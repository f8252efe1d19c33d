"""One set of model configs serves three roles: a Hydra config source for `teacher`, `student` and `assistants`."""

import re
from pathlib import Path
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf

import kdbench

ROLES = ("teacher", "assistants", "student")
ORIGINS = ("timm", "torchvision", "hf", "store")  # prefixes answered without a file: timm/NAME, store/ID
NONE = "none"

# What every network of a chain can be told, whatever its architecture. Not passed to its constructor.
ROLE_KEYS: dict[str, Any] = {
    "name": None,  # how hops, tables and the store call it
    "seed": None,  # null: the run's seed
    "checkpoint": None,  # a file with weights to start from
    "train": "auto",  # auto: a teacher with fitting weights is used as it is; or full, head, none, random (untrained)
}
TEACHER_KEYS: dict[str, Any] = {"ensemble": 1}  # so many teachers of consecutive seeds


def config_root() -> Path:
    """The folder of kdbench's own configs, in a wheel as in a checkout."""
    package = Path(kdbench.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def node_name(option: str) -> str:
    """The key of a network in the config and in ``hops``: ``timm/vit_tiny.augreg`` is ``vit_tiny_augreg``."""
    return re.sub(r"\W", "_", option.rsplit("/", 1)[-1])


class RoleSource(ConfigSource):
    """Answers ``teacher/NAME``, ``student/NAME`` and ``assistants/NAME`` from ``model/NAME.yaml`` of one folder.

    Each assistant is packaged under its own name, so that a list of them stays a list of networks.
    """

    @staticmethod
    def scheme() -> str:
        """The scheme of search path entries that this source serves."""
        return "kdbench-roles"

    def _split(self, config_path: str) -> tuple[str, str]:
        role, _, option = config_path.removesuffix(".yaml").partition("/")
        return role, option

    def _file(self, option: str) -> Path:
        return Path(self.path) / "model" / f"{option}.yaml"

    def available(self) -> bool:
        """Whether the folder has model configs at all."""
        return (Path(self.path) / "model").is_dir()

    def is_group(self, config_path: str) -> bool:
        """The three roles are groups; so is each origin below them."""
        role, option = self._split(config_path)
        return role in ROLES and (option == "" or option in ORIGINS)

    def is_config(self, config_path: str) -> bool:
        """A model file, ``none`` for the teacher, or a name behind one of the origins."""
        role, option = self._split(config_path)
        if role not in ROLES or not option:
            return False
        origin, _, name = option.partition("/")
        if name:
            return origin in ORIGINS or self._file(option).is_file()
        return self._file(option).is_file() or (role == "teacher" and option == NONE)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Names for help, completion and ``glob``."""
        role, option = self._split(config_path)
        if option or results_filter is ObjectType.GROUP:
            return []
        names = [file.stem for file in (Path(self.path) / "model").glob("*.yaml")]
        return sorted([*names, NONE] if role == "teacher" else names)

    def load_config(self, config_path: str) -> ConfigResult:
        """The model's YAML with the role's own keys around it."""
        role, option = self._split(config_path)
        if not self.is_config(config_path):
            raise ConfigLoadError(f"no model {option!r}")
        name = node_name(option)
        content = OmegaConf.create({**ROLE_KEYS, **(TEACHER_KEYS if role == "teacher" else {}), "name": name})
        content.merge_with(self._component(option))
        return ConfigResult(
            provider=self.provider,
            path=self.full_path(),
            config=content,
            header={"package": f"assistants.{name}" if role == "assistants" else role},
        )

    def _component(self, option: str) -> Any:
        origin, _, name = option.partition("/")
        if option == NONE:
            return {}
        if origin == "timm" and name:
            return {"_target_": "timm.create_model", "model_name": name, "pretrained": False, "args": {}, "version": 1}
        if origin == "torchvision" and name:
            return {"_target_": "torchvision.models.get_model", "model_name": name, "weights": None, "args": {},
                    "version": 1}  # fmt: skip
        if origin == "hf" and name:
            return {"_target_": "transformers.AutoModelForImageClassification", "model_name": name, "pretrained": True,
                    "args": {}, "version": 1}  # fmt: skip
        if origin == "store" and name:
            return {"store": name}
        return OmegaConf.load(self._file(option))
