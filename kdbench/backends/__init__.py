"""Where the trainings of a sweep run: ``sweep.backend``. A backend starts, watches and stops; :mod:`walk` orders."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kdbench.backends.walk import Backend, walk
from kdbench.core.errors import nearest
from kdbench.settings import Settings, cores

__all__ = ["BACKENDS", "Backend", "check_backend", "open_backend", "walk"]


@dataclass(frozen=True)
class _Kind:
    """One way to run trainings.

    Attributes:
        module: Where its ``open_backend(settings, options)`` is.
        cores: Of one training, as the node ``sweep`` says.
        package: What must be installed, and the extra that brings it; nothing for what is always there.
        elsewhere: Whether trainings may run on other machines, so that this one's devices say nothing about them.
    """

    module: str
    cores: Callable[[Mapping[str, Any]], float]
    package: tuple[str, str] | None = None
    elsewhere: bool = False


BACKENDS: dict[str, _Kind] = {
    "process": _Kind("process", lambda sweep: cores() // sweep["workers"]),
    "submitit": _Kind("submitit", lambda sweep: sweep["submitit"]["cpus"], ("submitit", "slurm"), elsewhere=True),
    "ray": _Kind("ray", lambda sweep: sweep["ray"]["num_cpus"], ("ray", "ray"), elsewhere=True),
}


CLUSTERS = ("slurm", "local", "debug")  # of submitit; debug runs in this process


def check_backend(sweep: Mapping[str, Any]) -> list[str]:
    """What is wrong with the node ``sweep``, one line each; imports no backend."""
    name = sweep["backend"]
    least = {"workers": 1, "submitit.timeout_min": 1, "submitit.max_timeouts": 0, "submitit.cpus": 1,
             "submitit.gpus": 0, "ray.num_gpus": 0, "ray.retries": 0}  # fmt: skip
    problems = []
    if name not in BACKENDS:
        problems.append(f"sweep.backend={name}: unknown{nearest(str(name), BACKENDS)}")
    elif (package := BACKENDS[name].package) and importlib.util.find_spec(package[0]) is None:
        problems.append(f"sweep.backend={name} needs a package: pip install 'kdbench[{package[1]}]'")
    for key, lowest in least.items():
        group, _, option = key.rpartition(".")
        value = (sweep[group] if group else sweep)[option]
        if value < lowest:
            problems.append(f"sweep.{key}={value}: must be at least {lowest}")
    if name == "submitit" and (cluster := sweep["submitit"]["cluster"]) not in (None, *CLUSTERS):
        problems.append(f"sweep.submitit.cluster={cluster}: unknown{nearest(str(cluster), CLUSTERS)}")
    if sweep["ray"]["num_cpus"] <= 0:
        problems.append(f"sweep.ray.num_cpus={sweep['ray']['num_cpus']}: must be greater than 0")
    return problems


def room(sweep: Mapping[str, Any]) -> dict[str, int]:
    """How many ``workers`` one machine has beside each other, and the cores that are each one's ``share``."""
    kind = BACKENDS[sweep["backend"]]
    return {"workers": 1 if kind.elsewhere else sweep["workers"], "share": max(int(kind.cores(sweep)), 1)}


def open_backend(sweep: Mapping[str, Any], settings: Settings) -> Backend:
    """The backend that the node ``sweep`` names; a context manager.

    Raises:
        ConfigError: Its options are not what its library takes, or no cluster answers.
    """
    module = importlib.import_module(f"kdbench.backends.{BACKENDS[sweep['backend']].module}")
    return module.open_backend(settings, sweep.get(sweep["backend"], {}))


def runs_elsewhere(sweep: Mapping[str, Any]) -> bool:
    """Whether trainings may run on other machines."""
    return BACKENDS[sweep["backend"]].elsewhere
