"""Sinks for the history of a training: CSV, TensorBoard, Weights & Biases. Importing this imports none of them.

Our own ``history.csv`` is the source of truth; a sink is a view of it. So nothing that a logger does may stop a
training: a sink that fails is reported once, dropped, and the training goes on.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from kdbench.core.errors import ConfigError, nearest

if TYPE_CHECKING:
    import wandb

_log = logging.getLogger(__name__)
_warned: set[str] = set()  # the only state here: one warning per topic and process
_WANDB_MODES = ("auto", "online", "offline", "disabled")


@dataclass(frozen=True)
class RunInfo:
    """What a sink is told about one training.

    Attributes:
        project: The study's name, or ``kdbench``.
        group: The sweep's name.
        role: ``teacher``, ``assistant`` or ``student``.
        name: Readable, e.g. ``plain6 -> plain4 -> plain2, seed 1``.
        config: The resolved recipe and its digest, plain values.
        folder: The run's folder; sinks write below it and nowhere else.
        from_store: Whether a stored history is replayed instead of a training watched.
    """

    project: str
    group: str
    role: str
    name: str
    config: Mapping[str, Any]
    folder: Path
    from_store: bool = False

    @property
    def logged_config(self) -> dict[str, Any]:
        """The config as sinks show it: with ``from_store``, so that a replay is never taken for a training."""
        return {**self.config, "from_store": self.from_store}


class _Sink(Protocol):
    def log(self, row: Mapping[str, float], epoch: int) -> None: ...

    def finish(self, summary: Mapping[str, float], status: str) -> None: ...


class Sinks:
    """The open sinks of one training; also a context manager that finishes them whatever happens.

    Use it from the main process of a training only.
    """

    def __init__(self, sinks: Mapping[str, _Sink]) -> None:
        self._sinks = dict(sinks)

    def log(self, row: Mapping[str, float], epoch: int) -> None:
        """Passes one row of the history on.

        Args:
            row: Values by metric name, e.g. ``train/loss``, ``train/term/kd``, ``val/acc``.
            epoch: Epochs done, counted from 1.
        """
        self._each(lambda sink: sink.log({**row, "epoch": epoch}, epoch))

    def finish(self, summary: Mapping[str, float], status: str = "done") -> None:
        """Closes every sink; later calls do nothing.

        Args:
            summary: The final numbers, e.g. ``test/acc``.
            status: ``done``, or in a word what ended the training instead.
        """
        self._each(lambda sink: sink.finish(summary, status))
        self._sinks.clear()

    def _each(self, call: Callable[[_Sink], None]) -> None:
        for name, sink in list(self._sinks.items()):
            try:
                call(sink)
            except Exception as error:  # noqa: BLE001 (whatever a logger raises, the training goes on)
                _give_up(name, error)
                del self._sinks[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish({}, "done" if kind is None else "failed")


def check_sinks(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses what :func:`open_sinks` could not open; needs nothing heavy.

    Raises:
        ConfigError: An unknown logger or mode, or a package is missing; all of them at once.
    """
    problems = [f"logger={name}: unknown{nearest(name, _BACKENDS)}" for name in configs if name not in _BACKENDS]
    if "tensorboard" in configs and importlib.util.find_spec("tensorboard") is None:
        problems.append("logger=tensorboard needs a package: pip install 'kdbench[tensorboard]'")
    mode = configs.get("wandb", {}).get("mode", "auto")
    if mode not in _WANDB_MODES:
        problems.append(f"logger.wandb.mode={mode}: unknown{nearest(str(mode), _WANDB_MODES)}")
    if problems:
        raise ConfigError(problems)


def open_sinks(configs: Mapping[str, Mapping[str, Any]], *, run: RunInfo) -> Sinks:
    """Opens one sink per logger. A resumed or replayed training logs its history again from the first epoch.

    Args:
        configs: Options of each chosen logger by its name, as in ``configs/logger/``.
        run: The training.

    Raises:
        ConfigError: As :func:`check_sinks`.
    """
    check_sinks(configs)
    sinks: dict[str, _Sink] = {}
    for name, options in configs.items():
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            if (sink := _BACKENDS[name](run, **options)) is not None:
                sinks[name] = sink
        except Exception as error:  # noqa: BLE001 (see Sinks)
            _give_up(name, error)
    return Sinks(sinks)


def _give_up(name: str, error: Exception) -> None:
    _warn_once(name, f"logger {name} failed and is left out from here on: {_one_line(error)}")


def _warn_once(topic: str, message: str) -> None:
    if topic not in _warned:
        _warned.add(topic)
        _log.warning(message)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


class _CSV:
    """``csv/version_N/metrics.csv`` through Lightning."""

    def __init__(self, run: RunInfo, *, flush_every: int = 1) -> None:
        from pytorch_lightning.loggers import CSVLogger

        self._logger = CSVLogger(run.folder, name="csv", flush_logs_every_n_steps=flush_every)
        self._logger.log_hyperparams(run.logged_config)
        self._epoch = 0

    def log(self, row: Mapping[str, float], epoch: int) -> None:
        self._epoch = epoch
        self._logger.log_metrics(dict(row), step=epoch)

    def finish(self, summary: Mapping[str, float], status: str) -> None:
        if summary:
            self._logger.log_metrics(dict(summary), step=self._epoch)
        self._logger.finalize("success" if status == "done" else status)


class _TensorBoard:
    """Event files in ``tensorboard/version_N`` through Lightning."""

    def __init__(self, run: RunInfo, *, flush_seconds: int = 30) -> None:
        from pytorch_lightning.loggers import TensorBoardLogger

        self._config = run.logged_config
        self._logger = TensorBoardLogger(
            run.folder, name="tensorboard", default_hp_metric=False, flush_secs=flush_seconds
        )

    def log(self, row: Mapping[str, float], epoch: int) -> None:
        self._logger.log_metrics(dict(row), step=epoch)

    def finish(self, summary: Mapping[str, float], status: str) -> None:
        self._logger.log_hyperparams(self._config, dict(summary))
        self._logger.finalize("success" if status == "done" else status)


class _WandB:
    """One W&B run per training, below the run's folder."""

    def __init__(self, run: wandb.Run) -> None:
        self._run = run
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")
        # a summary without the step metric, or the glob alone, would drop one of the two
        run.define_metric("val/acc", step_metric="epoch", summary="max,last")

    def log(self, row: Mapping[str, float], epoch: int) -> None:
        self._run.log(dict(row))

    def finish(self, summary: Mapping[str, float], status: str) -> None:
        try:
            self._run.summary.update({**summary, "status": status})
        finally:
            self._run.finish(exit_code=0 if status == "done" else 1)


def _open_wandb(
    run: RunInfo,
    *,
    mode: str = "auto",
    project: str | None = None,
    entity: str | None = None,
    tags: list[str] | None = None,
    init_timeout: float = 15.0,
    finish_timeout: float = 60.0,
) -> _WandB | None:
    import wandb

    if mode == "auto":
        mode = os.environ.get("WANDB_MODE", "online")
    if mode == "disabled":
        return None
    settings = wandb.Settings(  # silent, as its lines would tear the progress display
        silent=True, console="off", init_timeout=init_timeout, finish_timeout=finish_timeout
    )
    wandb.setup(settings=settings)

    def start(mode: str) -> _WandB:
        started = wandb.init(
            mode=mode,  # pyright: ignore[reportArgumentType]
            project=project or run.project,
            entity=entity,
            group=run.group or None,
            job_type=run.role,
            name=run.name,
            tags=[*(tags or ()), *(["from-store"] if run.from_store else [])],
            config=run.logged_config,
            dir=run.folder,
            reinit="create_new",  # otherwise a second training of this process would go on in the first one's run
            settings=settings,
        )
        return _WandB(started)

    if mode == "offline" or "wandb offline" in _warned:  # unreachable once: do not wait for it again
        return start("offline")
    try:
        if not wandb.login(prompt=False, verify=False):  # init would ask for a key, and wait for the answer
            raise wandb.Error("no API key is configured; `wandb login` sets one")
        return start("online")
    except (wandb.Error, OSError) as error:
        _warn_once("wandb offline", f"W&B logs offline, `wandb sync` uploads later ({_one_line(error)})")
        return start("offline")


_BACKENDS: dict[str, Callable[..., _Sink | None]] = {"csv": _CSV, "tensorboard": _TensorBoard, "wandb": _open_wandb}
