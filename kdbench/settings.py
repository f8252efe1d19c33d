"""What a run is told beside its recipes: nothing here changes a weight. Needs no torch, and pickles to workers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench.config.recipes import Chain
from kdbench.config.studies import NONE
from kdbench.core.recipe import digest_of
from kdbench.store import Store


@dataclass(frozen=True)
class Settings:
    """Where things are and how they are run.

    Attributes:
        outputs: Store, run folders and evaluations live below it.
        data_dir: Where datasets are looked for.
        roots: The folders of datasets that were given one, by name.
        in_memory: Whether their photos are held in memory, by name; ``None`` where they fit.
        files: Checkpoint files by their SHA-256.
        trusted: Packages of the user's, whose classes may be used.
        accelerator: ``auto``, ``cpu`` or ``gpu``.
        devices: How many of them a training uses.
        strategy: ``auto``, ``ddp`` or ``fsdp``: how they work together.
        workers: Trainings at a time.
        slot: Which of them this is, from 0; trainings on GPUs each have their own.
        threads: CPU threads of one process of a training.
        elsewhere: Whether a check is made for other machines, whose devices are not known here.
        eval_batch_size: Samples per batch when measuring.
        loader_workers: Processes that decode photos which are not in memory.
        checkpoint_every: Seconds between resumable states.
        cache: Whether what teachers say is kept on disk.
        cache_check: Rows of it that the live teacher answers again whenever they are opened.
        loggers: Options of each chosen logger.
        evaluations: Options of each chosen evaluation.
        run_dir: This command's own folder.
        shared: A folder through which the workers of a sweep share a data set in memory; ``None`` outside of one.
        project: Name of the study, for loggers.
        group: Name of the sweep, for loggers.
    """

    outputs: Path
    data_dir: Path
    run_dir: Path
    roots: Mapping[str, str | None] = field(default_factory=dict)
    in_memory: Mapping[str, bool | None] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    trusted: Sequence[str] = ()
    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    workers: int = 1
    slot: int = 0
    threads: int = 1
    elsewhere: bool = False
    eval_batch_size: int = 512
    loader_workers: int = 0
    checkpoint_every: float = 30.0
    cache: bool = False
    cache_check: int = 32
    loggers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    evaluations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shared: Path | None = None
    project: str = "kdbench"
    group: str = ""

    @property
    def store(self) -> Store:
        """The store below ``outputs``."""
        return Store(self.outputs / "store")


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of(share: int) -> int:
    """Threads of a process on ``share`` cores: as many, or fewer where ``OMP_NUM_THREADS`` says so; one at least."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return max(min(share, int(said)) if said.isdigit() else share, 1)


def run_name(chains: Sequence[Chain], *, multirun: bool) -> str:
    """A folder name made of what is run, never of a number: the same command finds its folder again."""
    students = [chain.links[-1].recipe for chain in chains]
    if multirun:
        study = chains[0].job.config["study"]["name"]
        return f"{'sweep' if study == NONE else study}-{digest_of([recipe.digest for recipe in students])[:8]}"
    return f"{'-'.join(dict.fromkeys(link.name for link in chains[0].links))}-{students[0].digest[:8]}"


def make_settings(chains: Sequence[Chain], *, workers: int, share: int, multirun: bool) -> Settings:
    """The settings of a command; what is not part of an identity is taken from its first job.

    Args:
        chains: All jobs.
        workers: Trainings at a time on one machine.
        share: Cores of one training, divided among its processes, so that they never fight for one.
        multirun: Whether the command is a sweep.
    """
    config = chains[0].job.config
    trainer, datasets = config["trainer"], [chain.job.config["dataset"] for chain in chains]
    outputs = Path(config["paths"]["outputs"]).expanduser()
    threads = trainer["threads"] or threads_of(share // trainer["devices"])
    name = run_name(chains, multirun=multirun)
    return Settings(
        outputs=outputs,
        data_dir=Path(config["paths"]["data"]).expanduser(),
        run_dir=outputs / "runs" / name,
        roots={data["name"]: data["root"] for data in datasets},
        in_memory={data["name"]: data.get("in_memory") for data in datasets},
        files={sha: file for chain in chains for sha, file in chain.files.items()},
        trusted=tuple(config["trust"]),
        accelerator=trainer["accelerator"],
        devices=trainer["devices"],
        strategy=trainer["strategy"],
        workers=workers,
        threads=threads,
        eval_batch_size=trainer["eval_batch_size"],
        loader_workers=threads if trainer["loader_workers"] is None else trainer["loader_workers"],
        checkpoint_every=float(trainer["checkpoint_every"]),
        cache=config["cache"]["kind"] == "teacher",
        cache_check=config["cache"].get("check", 32),
        loggers=config.get("logger", {}),
        evaluations=config.get("eval", {}),
        project="kdbench" if config["study"]["name"] == NONE else config["study"]["name"],
        group=name,
    )
