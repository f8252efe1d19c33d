"""No step waits for the device: what a GPU would have to finish before Python can go on, is counted on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdbench.fit import CHECK_EVERY
from kdbench.runner import Trainer
from tests.toy import Quiet, recipes, settings

WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2", "unique_dim")
METHODS = ("cpu", "numpy", "tolist")  # seen by no dispatcher where the tensor is on the CPU already


class Counts(TorchDispatchMode):
    """Names of the operations that read the device back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.seen: list[str] = []
        for name in METHODS:
            monkeypatch.setattr(torch.Tensor, name, self._counted(name, getattr(torch.Tensor, name)))

    def _counted(self, name: str, method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.seen.append(name)
            return method(*args, **kwargs)

        return call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (name := func.overloadpacket.__name__) in WAITING:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class Marks(Quiet):
    """What had been counted at each step's end."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts, self.at = counts, list[int]()

    def on_step(self, step: int, epoch: int) -> None:
        self.at.append(len(self.counts.seen))


@pytest.mark.parametrize("method", ["kd", "at", "dkd", "rkd", "crd"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_no_step_waits_for_the_device(
    method: str, precision: str, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, student = recipes(
        f"method={method}", "teacher=plain4", "assistants=[]", "dataset.augment=crop_flip", "trainer.ema=0.9",
        "trainer.clip=1.0", "trainer.max_epochs=1", "trainer.limit_train_batches=8", f"trainer.precision={precision}",
        outputs=outputs,
    )  # fmt: skip
    trainer = Trainer(settings(outputs, checkpoint_every=1e9))
    trainer.make(teacher, Quiet())
    assert CHECK_EVERY > 8
    with Counts(monkeypatch) as counts:
        marks = Marks(counts)
        trainer.make(student, marks)
    assert counts.seen[marks.at[0] : marks.at[-1]] == []
    assert counts.seen, "outside of the steps it does wait, so counting works"
