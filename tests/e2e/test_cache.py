"""A cache of teachers' outputs as a person meets it: the plan, the table, what is refused, what is cleaned up."""

import json
from pathlib import Path
from typing import Any

import pytest

from kdbench.cli import main
from tests.toy import SHORT

PAIR = ("teacher=plain4", "student=plain2", "teacher.seed=0")
WHOLE = ("trainer.limit_train_batches=null", "trainer.batch_size=512")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_the_plan_says_what_a_cache_would_spare_and_what_it_does(run: Any) -> None:
    _, out, _ = run("dry_run=true", *PAIR)
    assert "note: cache=teacher would show teachers 1.29k samples instead of 38.8k, for 51.8kB on disk" in out
    _, out, _ = run("dry_run=true", *PAIR, "cache=teacher")
    assert "note: cache=teacher shows teachers 1.29k samples instead of 38.8k" in out
    _, out, _ = run("dry_run=true", *PAIR, "dataset.augment=crop_flip")
    assert "cache=teacher" not in out
    _, out, _ = run("dry_run=true", *PAIR, "dataset.augment=crop_flip", "cache=teacher")
    assert "spares nothing" in out
    _, out, _ = run("dry_run=true", *PAIR, "method=at", "cache=teacher")
    assert "asked at every step" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cache=teachr"], ["cache=teachr: unknown", "'teacher'"]),
        (["cache=teacher", "cache.views=0"], ["cache.views=0", "at least 1"]),
        (["cache=teacher", "cache.top_k=10"], ["cache.top_k=10", "[1, 9]"]),
        (["cache=teacher", "cache.dtype=float8"], ["cache.dtype=float8: unknown", "float"]),
        (["cache=teacher", "cache.views=few"], ["cache.views=few", "whole number"]),
        (["cache.views=4"], ["cache.views"]),
        (["trainer.teacher_precision=bf16-mix"], ["trainer.teacher_precision=bf16-mix", "'bf16-mixed'"]),
        (["-m", "cache=none,teacher"], ["cache.kind: differs between jobs"]),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], words: list[str], run: Any, outputs: Path) -> None:
    status, _, err = run(*arguments)
    assert status == 2
    assert all(word in err for word in words), err
    assert not outputs.exists()


def test_workers_share_what_a_teacher_said_and_gc_removes_it_with_the_teacher(run: Any, outputs: Path) -> None:
    status, _, _ = run("-m", *SHORT, *WHOLE, *PAIR, "seed=1,2", "cache=teacher", "sweep.workers=2")
    assert status == 0
    metrics = [json.loads(file.read_text()) for file in outputs.glob("store/??/*/metrics.json")]
    forwards = sorted(found["teacher_forwards"] for found in metrics if found["teacher_queries"])
    assert forwards == [32, 1294 + 32]
    files = list(outputs.glob("cache/??/*/*"))
    assert sorted(path.name.split("-")[0] for path in files) == ["test", "train", "val"]
    assert "0 things" in run("store", "gc")[1]
    run("store", "rm", files[0].parent.name[:8], "--force")
    assert "3 things were removed" in run("store", "gc")[1]
    assert not list(outputs.glob("cache/*"))


def test_a_student_of_a_lossy_cache_is_another_network_and_is_marked(run: Any) -> None:
    run(*SHORT, *PAIR)
    status, out, _ = run(*SHORT, *PAIR, "cache=teacher", "cache.top_k=2", "cache.dtype=float16")
    assert status == 0
    assert "2 networks: 1 to train, 1 in the store" in out
    assert "taught from a cache that changes the training: dtype=float16, top_k=2" in out
    assert "lossy cache: logits are off by at most" in out
    assert "2 in the store" in run(*SHORT, *PAIR, "cache=teacher")[1]
