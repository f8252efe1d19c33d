"""One training on two processes of this machine: the same network as on one, resumable, and never left hanging."""

import os
import signal
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from pytorch_lightning.strategies import FSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel

from kdbench import runner
from kdbench.config.compose import Composer
from kdbench.config.jobs import make_jobs
from kdbench.config.recipes import ChainBuilder
from kdbench.core.errors import ConfigError, Stopped, TrainingError
from kdbench.core.ranks import Share, agreed, rank
from kdbench.core.signals import stopping_safely
from kdbench.core.types import Batch
from kdbench.launch import ranks_running
from kdbench.runner import Trainer
from kdbench.settings import make_settings
from kdbench.store import Entry, Store
from kdbench.strategies import STRATEGIES
from tests.test_resume import Interrupts, same
from tests.toy import Quiet, recipes, settings

TWO = ("trainer=ddp", "trainer.accelerator=cpu")
CHAIN = ("teacher=plain4", "assistants=[]", "trainer.batch_size=31")


def make(
    outputs: Path, *overrides: str, devices: int = 2, strategy: str = "ddp", observer: Quiet | None = None,
    **options: Any,
) -> Entry:  # fmt: skip
    trainer = Trainer(settings(outputs, devices=devices, strategy=strategy, accelerator="cpu", **options))
    with stopping_safely():
        for recipe in recipes(*CHAIN, *TWO, f"trainer.devices={devices}", *overrides, outputs=outputs):
            entry = trainer.make(recipe, observer or Quiet())
    return entry


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Entry:
    torch.set_num_threads(1)
    return make(tmp_path_factory.mktemp("whole"), "trainer.ema=0.9", "select_on=val")


def test_two_devices_make_the_network_of_one(whole: Entry, tmp_path: Path) -> None:
    alone = make(tmp_path, "trainer.ema=0.9", "select_on=val", devices=1)
    assert whole.digest == alone.digest
    torch.testing.assert_close(whole.weights("last"), alone.weights("last"), rtol=1e-2, atol=1e-3)
    assert whole.metrics["images"] == alone.metrics["images"] == 8 * 31
    assert whole.metrics["teacher_queries"] == alone.metrics["teacher_queries"]
    for row, other in zip(whole.history, alone.history, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1.0)
    assert whole.env["devices"] == 2


@pytest.mark.parametrize("views", [(), ("dataset.augment=crop_flip",)], ids=str)
def test_a_cache_answers_all_devices_and_is_filled_once(views: tuple[str, ...], tmp_path: Path) -> None:
    few = ("dataset.train_size=100", *views)
    live, cached = (make(tmp_path / name, *few, cache=name == "cached") for name in ("live", "cached"))
    torch.testing.assert_close(cached.weights("last"), live.weights("last"), rtol=1e-4, atol=1e-5)
    passes = 2 if views else 1  # of both epochs, each with a check of 32 images
    assert cached.metrics["teacher_forwards"] == passes * (100 + 32)
    assert cached.metrics["teacher_queries"] == live.metrics["teacher_queries"] == live.metrics["teacher_forwards"]


def test_stopped_and_resumed_ends_with_the_same_bits(whole: Entry, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        make(tmp_path, "trainer.ema=0.9", "select_on=val", observer=Interrupts(6))
    observer = Quiet()
    same(make(tmp_path, "trainer.ema=0.9", "select_on=val", observer=observer), whole)
    assert observer.steps[:2] == [7, 8], "the teacher went on from where it was stopped"


def test_a_resume_on_another_number_of_devices_says_so(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        make(tmp_path, observer=Interrupts(3))
    observer = Quiet()
    make(tmp_path, devices=1, observer=observer)
    assert any("devices 2 -> 1" in note for note in observer.notes)


def test_bf16_and_statistics_of_each_device_train(tmp_path: Path) -> None:
    entry = make(tmp_path, "trainer.precision=bf16-mixed", "trainer.sync_batchnorm=false", "method=rkd")
    assert entry.recipe.budget["replicas"] == 2
    assert all(tensor.isfinite().all() for tensor in entry.weights().values())


def test_the_number_of_devices_is_in_the_digest_only_where_it_changes_the_mathematics(tmp_path: Path) -> None:
    def digest(*overrides: str) -> str:
        return recipes(*overrides, outputs=tmp_path)[-1].digest

    apart = "trainer.sync_batchnorm=false"
    assert digest() == digest(apart) == digest(*TWO) == digest(*TWO, "trainer.devices=4")
    assert len({digest(), digest(*TWO, apart), digest(*TWO, apart, "trainer.devices=4")}) == 3


class ShardedOnCPU(FSDPStrategy):
    """Lightning shards over GPUs only; torch itself can on a CPU, so everything else is the shipped code."""

    def _setup_model(self, model: torch.nn.Module) -> torch.nn.Module:
        return FullyShardedDataParallel(
            model, sharding_strategy=self.sharding_strategy, device_id=torch.device("cpu"), **self.kwargs
        )


SHARDED = {"fsdp": lambda unused: ShardedOnCPU(state_dict_type="full")}
_OTHER_RANK = runner._other_rank


def _other_rank_sharded(*arguments: Any) -> Any:
    cast("dict[str, Any]", STRATEGIES).update(SHARDED)
    return _OTHER_RANK(*arguments)


def test_sharded_weights_are_whole_in_the_store_and_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cast("dict[str, Any]", STRATEGIES), "fsdp", SHARDED["fsdp"])
    monkeypatch.setattr(runner, "_other_rank", _other_rank_sharded)
    with pytest.raises(Stopped):
        make(
            tmp_path,
            "trainer=fsdp",
            "trainer.accelerator=cpu",
            "select_on=val",
            strategy="fsdp",
            observer=Interrupts(6),
        )
    sharded = make(tmp_path, "trainer=fsdp", "trainer.accelerator=cpu", "select_on=val", strategy="fsdp")
    alone = make(tmp_path / "alone", "select_on=val", devices=1)
    torch.testing.assert_close(sharded.weights("last"), alone.weights("last"), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(sharded.weights("best"), alone.weights("best"), rtol=1e-2, atol=1e-3)


def _agree(number: int):
    return lambda: (agreed(number, 0), _small())


def _small() -> tuple[int, int]:
    """Rows of this rank of a batch of five, and of one that is too small to be divided."""
    batches = [Batch(torch.zeros(size, 1), torch.zeros(size), torch.zeros(size)) for size in (5, 3)]
    return tuple(len(Share(batch).own.target) for batch in batches)  # type: ignore[return-value]


def test_ranks_agree_on_the_largest_number_and_on_who_takes_which_rows() -> None:
    with ranks_running(2, "cpu", _agree):
        assert agreed(0, 7) == (1, 7)
        assert _small() == (3, 3)
    assert rank() == 0


def _unprepared(number: int):
    raise ConfigError("no such thing")


def _fails(number: int):
    def train() -> None:
        agreed(0)
        raise MemoryError("no room")

    return train


def _is_killed(number: int):
    def train() -> None:
        agreed(0)
        os.kill(os.getpid(), signal.SIGKILL)

    return train


def _together() -> None:
    agreed(0)
    agreed(0)


def _waits(number: int):
    return lambda: agreed(0)


@pytest.mark.parametrize(("other", "line"), [
    (_unprepared, "rank 1: no such thing"),
    (_fails, "rank 1: MemoryError: no room"),
    (_is_killed, "rank 1: its process was killed by SIGKILL; the same command goes on from its last state"),
])  # fmt: skip
def test_a_rank_that_fails_ends_the_training_in_one_line(other, line: str) -> None:
    with pytest.raises(TrainingError, match=f"^{line}$"), ranks_running(2, "cpu", other):
        _together()
    assert rank() == 0


def test_a_failure_of_the_first_rank_ends_the_others() -> None:
    with pytest.raises(KeyError), ranks_running(2, "cpu", _waits):
        raise KeyError("mine")


@pytest.mark.parametrize(("overrides", "changes", "line"), [
    ([], {"devices": 64, "workers": 2}, "trainer.devices=64 x sweep.workers=2: 128 CPU cores are needed"),
    (["trainer.batch_size=3"], {}, "trainer.batch_size=3 is the batch of all devices together: at least 4"),
    (["trainer.compile=default"], {}, "trainer.compile=default: cannot see BatchNorm's statistics"),
    ([], {"strategy": "dpp"}, "trainer.strategy=dpp: unknown; did you mean 'ddp'"),
    ([], {"strategy": "fsdp"}, "trainer.strategy=fsdp: shards over GPUs only"),
    (["trainer.ema=0.9"], {"strategy": "fsdp"}, "trainer.ema=0.9: not with trainer.strategy=fsdp"),
    (["trainer.precision=16-mixed"], {}, "trainer.precision=16-mixed: CPUs have no half precision"),
    (["teacher=plain4", "student=plain2", "assistants=[]", "method=ab"], {}, "trainer.devices=2: plain2's method has"),
])  # fmt: skip
def test_what_cannot_run_on_these_devices_is_refused(overrides, changes, line: str, tmp_path: Path) -> None:
    recipe = recipes("teacher=none", *overrides, outputs=tmp_path)[-1]
    with pytest.raises(ConfigError) as error:
        Trainer(settings(tmp_path, accelerator="cpu", **{"devices": 2, **changes})).check(recipe)
    assert any(problem.startswith(line) for problem in error.value.problems), error.value.problems


def test_a_process_has_its_share_of_the_cores_or_fewer_where_openmp_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    chains = [ChainBuilder(Store(Path("nowhere")), lambda *_: None).build(job) for job in make_jobs(Composer(), [])]
    found = []
    for said in ("", "3", "64", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        found.append(make_settings(chains, workers=1, share=8, multirun=False).threads)
    assert found == [8, 3, 8, 1, 8]


def test_under_torchrun_no_processes_are_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(ConfigError, match="without torchrun"):
        Trainer(settings(tmp_path))
