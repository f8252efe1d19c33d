"""Every method trains, stops and resumes through the real loop: what no criterion's own test can see."""

from pathlib import Path

import pytest
import torch

from kdbench.config.source import config_root
from kdbench.core.errors import Stopped
from kdbench.core.signals import stopping_safely
from kdbench.runner import Trainer
from tests.test_resume import Interrupts, same
from tests.toy import Quiet, recipes, settings

METHODS = sorted(path.stem for path in (config_root() / "method").glob("*.yaml"))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_and_resumes_with_the_same_bits(method: str, tmp_path: Path) -> None:
    entries = []
    for name, at in (("whole", None), ("stopped", 5)):
        outputs = tmp_path / name
        made = recipes("teacher=resnet14", "student=resnet8", f"method={method}", "trainer.batch_size=16",
                       "select_on=val", outputs=outputs)  # fmt: skip
        trainer = Trainer(settings(outputs))
        for teacher in made[:-1]:
            trainer.make(teacher, Quiet())
        if at is not None:
            with pytest.raises(Stopped), stopping_safely():
                trainer.make(made[-1], Interrupts(at))
        with stopping_safely():
            entries.append(trainer.make(made[-1], Quiet()))
    same(*entries)
    assert all(torch.isfinite(tensor).all() for tensor in entries[0].weights().values())
