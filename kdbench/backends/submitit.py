"""``sweep.backend=submitit``: one SLURM job per training, requeued where it left off when its time is up."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError

from kdbench.backends.messages import asked_to_stop, file_messenger, stop_when_asked
from kdbench.backends.remote import MOMENT, RemoteBackend
from kdbench.backends.walk import make
from kdbench.core.errors import ConfigError, Stopped
from kdbench.core.signals import stopping_safely
from kdbench.plan import Node
from kdbench.settings import Settings
from kdbench.sweep import STOPPED, Outcome


class _Training:
    """What a job does; pickled by submitit, and again when it requeues.

    Two ways lead out of a training that is not finished. Before a job's time is up, or when it is preempted, SLURM
    sends the signal that submitit asked for: the state is saved and submitit's own handler requeues the job. A plain
    SIGTERM can be a cancellation as well: the state is saved, no result is left, and what SLURM says of the job counts.
    """

    def __init__(self, node: Node, settings: Settings, folder: Path) -> None:
        self._node, self._settings, self._folder = node, settings, folder

    def __call__(self) -> Outcome:
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self._settings.threads)))
        messenger = file_messenger(self._folder, self._node.recipe.digest)
        environment = submitit.JobEnvironment()
        if environment.cluster == "debug":  # in the command's own process, which listens to signals itself
            try:
                return make(self._node, self._settings, messenger)
            except Stopped:
                return STOPPED
        if asked_to_stop(self._folder):
            return STOPPED
        requeuing = environment._usr_sig()
        requeue = signal.getsignal(requeuing)
        stop_when_asked(self._folder)
        try:
            with stopping_safely(signal.SIGTERM, requeuing):
                return make(self._node, self._settings, messenger)
        except Stopped as stopped:
            if asked_to_stop(self._folder):
                return STOPPED
            if stopped.signum == requeuing and callable(requeue):
                messenger.note(self._node.recipe, "its job is requeued and goes on from its last state")
                requeue(stopped.signum, None)
            raise SystemExit(128 + stopped.signum) from stopped

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called by submitit's handler: what the requeued job does; it finds the state in the store."""
        return submitit.helpers.DelayedSubmission(self)


class SubmititBackend(RemoteBackend):
    """Jobs of a SLURM cluster, or processes of this machine that behave like them.

    Args:
        settings: Of the command.
        executor: Where jobs are submitted.
    """

    def __init__(self, settings: Settings, executor: submitit.AutoExecutor) -> None:
        super().__init__(settings)
        self._executor = executor

    def submit(self, node: Node) -> submitit.Job[Outcome]:
        """Submits a job named after the network."""
        self._executor.update_parameters(name=f"{node.recipe.name}-{node.recipe.digest[:8]}")
        # a local job shares our terminal: Ctrl-C is for this command, which lets its jobs save their states
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self._executor.submit(_Training(node, self.settings, self.mailbox.folder))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def ended(self, handles: Mapping[str, submitit.Job[Outcome]]) -> dict[str, Outcome]:
        """Asks for each job; submitit asks SLURM for all of them at once, every few seconds."""
        time.sleep(MOMENT)
        return {digest: _outcome(job) for digest, job in handles.items() if job.done()}

    def cancel(self, handle: submitit.Job[Outcome]) -> None:
        """``scancel``."""
        handle.cancel(check=False)


def _outcome(job: submitit.Job[Outcome]) -> Outcome:
    where = f"; its log: {job.paths.stderr}"
    try:
        return job.result()
    except FailedJobError as error:
        return Outcome("failed", f"its job {job.job_id} failed{where}", str(error))
    except UncompletedJobError:
        return Outcome("failed", f"its job {job.job_id} ended before it said how ({job.state.lower()}); the same "
                                 f"command goes on from its last state{where}")  # fmt: skip


def open_backend(settings: Settings, options: Mapping[str, Any]) -> SubmititBackend:
    """``sweep.backend=submitit`` with the options of ``sweep.submitit``.

    Raises:
        ConfigError: There is no SLURM here, or submitit does not know a parameter.
    """
    timeouts = {f"{cluster}_max_num_timeout": options["max_timeouts"] for cluster in ("slurm", "local")}
    folder = Path(options["folder"]).expanduser().absolute()
    try:
        executor = submitit.AutoExecutor(folder, cluster=options["cluster"], **timeouts)
        executor.update_parameters(
            timeout_min=options["timeout_min"],
            cpus_per_task=options["cpus"],
            gpus_per_node=options["gpus"],
            slurm_partition=options["partition"],
            **{f"slurm_{key}": value for key, value in options["slurm"].items()},
        )
    except (NameError, RuntimeError, ValueError, AssertionError) as error:
        raise ConfigError(f"sweep.submitit: {str(error).splitlines()[0]}") from error
    return SubmititBackend(settings, executor)
