"""Weights & Biases: online where that is possible, offline with one warning where it is not."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kdbench.loggers._run import RunInfo, Stored, one_line, warn_once, warned

if TYPE_CHECKING:
    import wandb


class WandB:
    """One W&B run per training, below the run's folder.

    Attributes:
        run: W&B's own.
    """

    def __init__(self, run: wandb.Run, *, lineage: bool = False) -> None:
        self.run = run
        self._lineage = lineage
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")
        # a summary without the step metric, or the glob alone, would drop one of the two
        run.define_metric("val/acc", step_metric="epoch", summary="max,last")

    def log(self, row: Mapping[str, float], epoch: int) -> None:
        """Passes a row on."""
        self.run.log(dict(row))

    def lineage(self, network: Stored, teachers: Sequence[Stored]) -> None:
        """Artifacts for the network and, as its inputs, for what taught it."""
        if self._lineage and not self.run.offline:  # offline runs cannot use artifacts
            for teacher in teachers:
                self.run.use_artifact(_artifact(teacher))
            self.run.log_artifact(_artifact(network))

    def finish(self, summary: Mapping[str, float], status: str) -> None:
        """Ends the run, as failed unless it is done."""
        try:
            self.run.summary.update({**summary, "status": status})
        finally:
            self.run.finish(exit_code=0 if status == "done" else 1)


def _artifact(network: Stored) -> wandb.Artifact:
    """Points to the files in the store: W&B shows who taught whom, the weights stay where they are."""
    import wandb

    artifact = wandb.Artifact(f"network-{network.digest[:8]}", type="network",
                              metadata={"name": network.name, "digest": network.digest})  # fmt: skip
    artifact.add_reference(network.folder.absolute().as_uri())
    return artifact


def open_wandb(
    run: RunInfo,
    *,
    mode: str = "auto",
    project: str | None = None,
    entity: str | None = None,
    tags: list[str] | None = None,
    init_timeout: float = 15.0,
    finish_timeout: float = 60.0,
    lineage: bool = True,
) -> WandB | None:
    """Starts a W&B run, offline where there is no key or no network; nothing where W&B is switched off."""
    import wandb

    if mode == "auto":
        mode = os.environ.get("WANDB_MODE", "online")
    if mode == "disabled":
        return None
    if "WANDB_SWEEP_ID" in os.environ and run.role not in ("student", "report"):
        return None  # the agent of a W&B sweep allows one run per process: that of the network which is tuned
    settings = wandb.Settings(  # silent, as its lines would tear the progress display
        silent=True, console="off", init_timeout=init_timeout, finish_timeout=finish_timeout
    )
    wandb.setup(settings=settings)

    def start(mode: str) -> WandB:
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
        return WandB(started, lineage=lineage)

    if mode == "offline" or "wandb offline" in warned:  # unreachable once: do not wait for it again
        return start("offline")
    try:
        if not wandb.login(prompt=False, verify=False):  # init would ask for a key, and wait for the answer
            raise wandb.Error("no API key is configured; `wandb login` sets one")
        return start("online")
    except (wandb.Error, OSError) as error:
        warn_once("wandb offline", f"W&B logs offline, `wandb sync` uploads later ({one_line(error)})")
        return start("offline")
