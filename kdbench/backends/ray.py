"""``sweep.backend=ray``: one Ray task per training, whose inputs are its teachers' tasks."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from kdbench.backends.messages import asked_to_stop, file_messenger, stop_when_asked
from kdbench.backends.remote import MOMENT, RemoteBackend
from kdbench.backends.walk import make
from kdbench.core.errors import ConfigError, Stopped
from kdbench.core.signals import stopping_safely
from kdbench.plan import Node
from kdbench.settings import Settings
from kdbench.sweep import STOPPED, Outcome


def _train(node: Node, settings: Settings, folder: Path, *teachers: Outcome) -> Outcome:
    """What a task does; its teachers' outcomes are there for Ray, which then knows the chain."""
    stop_when_asked(folder)
    try:
        with stopping_safely(signal.SIGTERM):
            return make(node, settings, file_messenger(folder, node.recipe.digest))
    except Stopped:
        if asked_to_stop(folder):
            return STOPPED
        raise  # its machine goes away: Ray tries again elsewhere


class RayBackend(RemoteBackend):
    """Tasks of a Ray cluster.

    Args:
        settings: Of the command.
        options: Of every task, as Ray names them.
    """

    def __init__(self, settings: Settings, options: Mapping[str, Any]) -> None:
        super().__init__(settings)
        # a fresh process for each: no job can hurt another, and threads are set before torch is loaded
        self._task = ray.remote(max_calls=1, **options)(_train)
        self._tasks: dict[str, ray.ObjectRef] = {}

    def submit(self, node: Node) -> ray.ObjectRef:
        """Submits a task."""
        recipe = node.recipe
        teachers = [self._tasks[teacher.digest] for teacher in recipe.teachers if teacher.digest in self._tasks]
        task = self._task.options(name=f"{recipe.chain()} ({recipe.digest[:8]})")
        self._tasks[recipe.digest] = task.remote(node, self.settings, self.mailbox.folder, *teachers)
        return self._tasks[recipe.digest]

    def ended(self, handles: Mapping[str, ray.ObjectRef]) -> dict[str, Outcome]:
        """Waits for any of the tasks."""
        ready, _ = ray.wait(list(handles.values()), num_returns=len(handles), timeout=MOMENT)
        return {digest: _outcome(task) for digest, task in handles.items() if task in ready}

    def cancel(self, handle: ray.ObjectRef) -> None:
        """Takes the task out of the queue, or kills its process."""
        ray.cancel(handle, force=True)

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        ray.shutdown()


def _outcome(task: ray.ObjectRef) -> Outcome:
    try:
        return ray.get(task)
    except RayError as error:
        return Outcome("failed", f"its worker died ({type(error).__name__}); the same command goes on from its last "
                                 "state", str(error))  # fmt: skip


def open_backend(settings: Settings, options: Mapping[str, Any]) -> RayBackend:
    """``sweep.backend=ray`` with the options of ``sweep.ray``.

    Raises:
        ConfigError: No cluster answers at the address, or it can never give a training what is asked for.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # a training that was given no GPU sees none
    asked = {"CPU": options["num_cpus"], "GPU": options["num_gpus"]}
    try:
        ray.init(options["address"], logging_level=logging.ERROR, log_to_driver=False,
                 include_dashboard=None if options["address"] else False)  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"sweep.ray.address={options['address']}: {str(error).strip().splitlines()[0]}") from error
    there = {name: max(node["Resources"].get(name, 0) for node in ray.nodes()) for name in asked}
    if lacking := [name for name in asked if asked[name] > there[name]]:
        ray.shutdown()
        raise ConfigError(f"sweep.ray.num_{name.lower()}s={asked[name]}: no machine has more than {there[name]:g}"
                          for name in lacking)  # fmt: skip
    return RayBackend(settings, {"num_cpus": asked["CPU"], "num_gpus": asked["GPU"], "max_retries": options["retries"],
                                 "retry_exceptions": [Stopped]})  # fmt: skip
