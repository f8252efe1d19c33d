"""Sinks for the history of a training: CSV, TensorBoard, Weights & Biases. Importing this imports none of them.

Our own ``history.csv`` is the source of truth; a sink is a view of it. So nothing that a logger does may stop a
training: a sink that fails is reported once, dropped, and the training goes on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

from kdbench.core.errors import ConfigError, nearest
from kdbench.loggers._run import RunInfo, Stored, one_line, warn_once
from kdbench.loggers._wandb import open_wandb

__all__ = ["RunInfo", "Sinks", "Stored", "check_sinks", "open_sinks"]

_WANDB_MODES = ("auto", "online", "offline", "disabled")


class _Sink(Protocol):
    def log(self, row: Mapping[str, float], epoch: int) -> None: ...

    def lineage(self, network: Stored, teachers: Sequence[Stored]) -> None: ...

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

    def lineage(self, network: Stored, teachers: Sequence[Stored]) -> None:
        """The network that came of it, and what taught it, where a sink can show that."""
        self._each(lambda sink: sink.lineage(network, teachers))

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
    warn_once(name, f"logger {name} failed and is left out from here on: {one_line(error)}")


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

    def lineage(self, network: Stored, teachers: Sequence[Stored]) -> None:
        """It has no place for that."""

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

    def lineage(self, network: Stored, teachers: Sequence[Stored]) -> None:
        """It has no place for that."""

    def finish(self, summary: Mapping[str, float], status: str) -> None:
        self._logger.log_hyperparams(self._config, dict(summary))
        self._logger.finalize("success" if status == "done" else status)


_BACKENDS: dict[str, Callable[..., _Sink | None]] = {"csv": _CSV, "tensorboard": _TensorBoard, "wandb": open_wandb}
