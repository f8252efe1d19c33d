"""What a person types, run in this process: exit status, what is printed, what is written."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import kdbench
from kdbench.cli import main
from tests.toy import SHORT


class Ran:
    """A command that was run."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Ran:
        status = main(arguments)
        return Ran(status, *capsys.readouterr())

    return call


def test_a_chain_is_trained_once_and_shown_from_the_store_afterwards(run: Any, outputs: Path) -> None:
    first = run(*SHORT)
    assert first.status == 0
    assert "3 networks: 3 to train" in first.out
    assert all(name in first.out for name in ("plain6", "plain6 -> plain4", "plain6 -> plain4 -> plain2"))
    again = run(*SHORT)
    assert again.status == 0
    assert "3 networks: 3 in the store" in again.out
    assert "start" not in again.out
    assert len(list(outputs.glob("store/??/*"))) == 3
    (folder,) = outputs.glob("runs/*")
    record = json.loads((folder / "run.json").read_text())
    assert [link["role"] for link in record["jobs"][0]["networks"]] == ["teacher", "assistant", "student"]


def test_an_entry_holds_everything_promised(run: Any, outputs: Path) -> None:
    run(*SHORT, "assistants=[]")
    metrics = [json.loads(file.read_text()) for file in outputs.glob("store/??/*/metrics.json")]
    student = next(found for found in metrics if found["teacher_queries"])
    assert student["test"].keys() == {"acc", "acc5", "nll", "ece", "agreement", "kl"}
    assert student["val"].keys() == student["test"].keys()
    assert student.keys() >= {"parameters", "macs", "latency_ms", "epochs", "images", "teacher_queries", "best"}
    assert student["seconds"].keys() == {"total", "data", "evaluation", "teacher", "student"}
    assert (student["parameters"], student["images"], student["teacher_queries"]) == (3194, 256, 256)
    histories = [list(csv.DictReader(file.read_text().splitlines())) for file in outputs.glob("store/??/*/history.csv")]
    assert all(len(rows) == 2 for rows in histories)
    assert any({"train/term/kd", "train/weight/kd", "val/acc", "lr"} <= rows[0].keys() for rows in histories)


@pytest.mark.parametrize("method", ["kd", "ckd"])  # ckd clips on its own account: its budget is not that of `alone`
def test_the_same_network_from_scratch_stands_beside_the_distilled_one(method: str, run: Any) -> None:
    alone = run(*SHORT, "teacher=none")
    accuracy = alone.out.split("student")[-1].split()[6]
    row = next(line for line in run(*SHORT, "assistants=[]", f"method={method}").out.splitlines()
               if line.startswith("student  "))  # fmt: skip
    assert row.split()[8] == accuracy


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["metod=kd", "method.temprature=2", "+foo=1"], ["'method'", "'temperature'", "foo"]),
        (["-m", "method.temperature=2,nonsense"], ["nonsense"]),
        (["method=[]"], ["choose a method"]),
        (["optim.lr=nan", "method.weights.kd=inf"], ["optim.lr=nan: not a finite", "method.weights.kd=inf"]),
        (["dry_run=true", "trainer.precision=bf17"], ["trainer.precision=bf17", "bf16-mixed"]),
        (["teacher=[plain4,plain6]"], ["teacher.ensemble=2"]),
        (["eval", "eval=[calibration]"], ["which network?", "store ls"]),
        (["eval", "1a2b", "3c4d", "eval=[calibration]"], ["3c4d: KEY=VALUE is expected"]),
        (["teacher=resnet999"], ["resnet999"]),
        (["dataset=fashion_mnist", "dataset.root=/nowhere"], ["/nowhere", "dataset-fashion-mnist"]),
        (["teacher=store/doesnotexist"], ["store ls"]),
        (["teacher=plain8"], ["plain8", "16x16"]),
        (["teacher=timm/resnet999"], ["resnet999"]),
        (["logger=wandb", "logger.wandb.mode=sometimes"], ["sometimes"]),
        (["sweep.backend=slurm"], ["sweep.backend=slurm"]),
        (["trainer=gpu"], ["no CUDA device"]),
        (["student=module"], ["_target_ is not set"]),
        (["--multirn"], ["--help"]),
        (["eval", "abcd1234", "eval=[calibration]"], ["no such network"]),
        (["eval", "abcd1234"], ["eval=[NAME"]),
        (["store", "show", "abcd1234"], ["no such network"]),
        (["store", "frobnicate"], ["frobnicate"]),
        (["taps", "resnet200"], ["resnet20"]),
    ],
)
def test_a_wrong_command_names_the_fix_starts_nothing_and_writes_nothing(
    arguments: list[str], words: list[str], run: Any, tmp_path: Path
) -> None:
    ran = run(*arguments)
    assert ran.status == 2
    assert all(word in ran.err for word in words)
    assert all(line.startswith("kdbench: ") for line in ran.err.splitlines())
    assert list(tmp_path.iterdir()) == []


def test_a_plan_says_what_tells_networks_of_one_chain_and_method_apart(run: Any) -> None:
    typed = run("dry_run=true", "-m", "method.temperature=2,4", "assistants=[]").out.splitlines()
    assert [line.split()[-4] for line in typed[1:4]] == ["-", "method.temperature=2", "method.temperature=4"]
    renamed = run("dry_run=true", "-m", "method=kd,kdiga", "assistants=[]").out.splitlines()
    assert [line.split()[-5:-3] for line in renamed[2:4]] == [["kd", "-"], ["kd+iga", "method=kdiga"]]
    study = run("dry_run=true", "-m", "study=beyond_label_noise", "study.size=smoke").out
    assert re.findall(r" kd +(clean|noise [0-9.]+) ", study) == ["clean", "noise 0.2", "noise 0.4", "noise 0.6"]


def test_dry_run_prints_the_plan_and_writes_nothing(run: Any, tmp_path: Path) -> None:
    ran = run("dry_run=true", "-m", "assistants=[],[plain4]", "seed=1,2")
    assert ran.status == 0
    assert "8 networks: 8 to train" in ran.out
    assert list(tmp_path.iterdir()) == []


def test_a_student_of_a_stored_network_and_of_a_file(run: Any, tmp_path: Path, outputs: Path) -> None:
    run(*SHORT, "teacher=none", "student=plain4")
    (entry,) = outputs.glob("store/??/*")
    stored = run(*SHORT, f"teacher=store/{entry.name[:8]}")
    assert "1 in the store" in stored.out
    assert "plain4 -> plain2" in stored.out

    network = kdbench.load(entry.name[:8])
    file = tmp_path / "elsewhere.pt"
    torch.save({"state_dict": network.body.state_dict()}, file)
    given = run(*SHORT, "teacher=plain4", f"teacher.checkpoint={file}", "student=plain2", "seed=1")
    assert given.status == 0
    assert "use as is" in given.out
    tuned = run(*SHORT, "teacher=none", "student=plain4", f"student.checkpoint={file}", "seed=2")
    assert "1 to train" in tuned.out


def test_a_checkpoint_of_other_classes_gets_a_new_head_and_is_trained(run: Any, tmp_path: Path, outputs: Path) -> None:
    run(*SHORT, "teacher=none", "student=plain2")
    (entry,) = outputs.glob("store/??/*")
    file = tmp_path / "digits.pt"
    torch.save(kdbench.load(entry.name[:8]).body.state_dict(), file)
    shape = ("dataset=fake", "dataset.num_classes=7", "dataset.image_size=8", "dataset.channels=1")
    ran = run(*SHORT, *shape, "teacher=plain2", f"teacher.checkpoint={file}", "student=plain2")
    assert ran.status == 0, ran.err
    assert "2 to train" in ran.out


def test_load_gives_the_trained_network(run: Any, outputs: Path) -> None:
    ran = run(*SHORT, "teacher=none")
    (entry,) = outputs.glob("store/??/*")
    network = kdbench.load(entry.name[:6])
    assert not network.training
    assert network(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    assert entry.name[:8] in ran.out


def test_protocols_that_select_on_the_test_set_mark_their_numbers(run: Any, outputs: Path) -> None:
    ran = run(*SHORT, "teacher=none", "protocol=paper")
    assert "selected on the test set" in ran.out
    (history,) = outputs.glob("store/??/*/history.csv")
    assert "test/acc" in history.read_text()
    clean = run(*SHORT, "teacher=none")
    assert "selected on" not in clean.out


def test_a_clean_protocol_looks_at_the_test_set_once(run: Any, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kdbench.runner as runner

    sizes: list[int] = []
    original = runner.EvalLoader
    monkeypatch.setattr(
        runner, "EvalLoader", lambda split, *a, **k: sizes.append(len(split)) or original(split, *a, **k)
    )
    run(*SHORT, "teacher=none")
    assert sizes.count(359) == 1, "the 359 test images are measured once"
    assert sizes.count(144) == 3, "the 144 validation images after each of two epochs and at the end"


def test_generations_ensembles_and_dense_guidance_run(run: Any) -> None:
    for arguments in (["teacher=none", "generations=2"], ["teacher.ensemble=2"], ["method=dense_guidance"]):
        ran = run(*SHORT, *arguments)
        assert ran.status == 0, ran.err


def test_methods_add_up(run: Any) -> None:
    ran = run(
        *SHORT, "assistants=[]", "method=[kd,label_smoothing]", "method.guidance=chain", "method.weights.task=0.1"
    )
    assert ran.status == 0, ran.err
    assert "kd+label_smoothing" in ran.out


def test_more_measurements_are_kept_beside_the_store(run: Any, outputs: Path) -> None:
    run(*SHORT, "teacher=none")
    (entry,) = outputs.glob("store/??/*")
    ran = run("eval", entry.name[:8], "eval=[calibration,latency]", "eval.calibration.bins=5")
    assert ran.status == 0
    assert "ece" in ran.out
    records = [json.loads(file.read_text()) for file in outputs.glob("evals/*/*.json")]
    assert {record["evaluation"] for record in records} == {"calibration", "latency"}
    assert len(next(r for r in records if r["evaluation"] == "calibration")["result"]["bins"]) == 5


def test_store_commands(run: Any, outputs: Path) -> None:
    assert "0 networks" in run("store", "ls").out
    run(*SHORT, "teacher=none")
    (entry,) = outputs.glob("store/??/*")
    assert entry.name[:8] in run("store", "ls").out
    assert '"select_on": "last"' in run("store", "show", entry.name[:8]).out
    assert run("store", "verify").status == 0
    weights = entry / "last.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    broken = run("store", "verify")
    assert broken.status == 1
    assert "checksum" in broken.out
    taught = run(*SHORT, f"teacher=store/{entry.name[:8]}", "student=plain2", "seed=1")
    assert taught.status in (1, 2)
    assert "last.safetensors" in taught.err
    assert "gc --broken" in taught.err
    assert "1 things were removed" in run("store", "gc", "--broken").out


def test_lists_help_and_taps(run: Any) -> None:
    assert "resnet110" in run("models").out
    assert "1503.02531" in run("methods").out
    assert "fashion_mnist" in run("datasets").out
    assert "stage3" in run("taps", "resnet20").out
    text = run("--help").out
    assert all(word in text for word in ("dry_run", "hops.", "-m", "plain10", "Exit status"))
    assert run("--version").out == f"kdbench {kdbench.__version__}\n"


def test_cfg_job_prints_the_resolved_config(run: Any) -> None:
    ran = run("--cfg", "job", "method.temperature=2", "-p", "method.criteria.kd")
    assert "temperature: 2.0" in ran.out


def test_hydra_flags_and_foreign_launchers_work(run: Any, tmp_path: Path) -> None:
    assert "KdbenchLauncher" in run("--info", "plugins").out
    assert "complete" in run("-sc", "install=bash").out
    for launcher in ("basic", "kdbench"):
        ran = run("-m", f"hydra/launcher={launcher}", *SHORT, "teacher=none", "seed=1,2")
        assert ran.status == 0
        assert "plain2" in ran.out
    assert not (tmp_path / "multirun").exists()


def test_loggers_see_a_training_and_a_replay(run: Any, outputs: Path) -> None:
    run(*SHORT, "teacher=none", "logger=csv")
    (file,) = outputs.glob("runs/*/logs/*/csv/version_0/metrics.csv")
    first = list(csv.DictReader(file.read_text().splitlines()))
    run(*SHORT, "teacher=none", "logger=csv")
    (file,) = outputs.glob("runs/*/logs/*/csv/version_1/metrics.csv")
    assert [row["train/loss"] for row in csv.DictReader(file.read_text().splitlines())] == [
        row["train/loss"] for row in first
    ]
    assert "from_store: true" in (file.parent / "hparams.yaml").read_text()


def test_bf16_clipping_and_val_selection_train(run: Any) -> None:
    ran = run(
        *SHORT, "assistants=[]", "trainer.precision=bf16-mixed", "trainer.clip=1.0", "select_on=val", "optim=adamw"
    )
    assert ran.status == 0, ran.err


def test_a_read_only_store_serves_reads_and_refuses_to_train(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import tempfile

    run(*SHORT, "teacher=none")

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    ran = run(*SHORT, "teacher=none", "seed=1")
    assert ran.status == 1
    assert "paths.outputs" in ran.err
    assert "start" not in ran.out


@pytest.mark.parametrize(
    "override", ["paths.outputs=a,b", "logger=csv,tensorboard", "dry_run=true,false", "trainer.threads=1,2"]
)
def test_a_sweep_over_what_changes_no_network_is_refused(override: str, run: Any) -> None:
    ran = run("-m", override)
    assert ran.status == 2
    assert override.split("=")[0].split(".")[0] in ran.err


def test_the_past_of_a_stored_network_is_not_made_again(run: Any, outputs: Path) -> None:
    run(*SHORT, "teacher=plain4")
    (student,) = (path for path in outputs.glob("store/??/*") if '"plain2"' in (path / "recipe.json").read_text()[:900])
    (teacher,) = (path for path in outputs.glob("store/??/*") if path != student)
    assert run("store", "rm", teacher.name[:8]).status != 0
    assert run("store", "rm", teacher.name[:8], "--force").status == 0
    ran = run(*SHORT, f"teacher=store/{student.name[:8]}", "student=plain2", "seed=1")
    assert "2 networks: 1 to train, 1 in the store" in ran.out


def test_a_stored_teacher_that_cannot_take_the_images_is_named(run: Any, outputs: Path) -> None:
    run(*SHORT, "teacher=none", "student=plain2")
    (entry,) = outputs.glob("store/??/*")
    other = ("dataset=fake", "dataset.image_size=32", "dataset.channels=3")
    for sweep in ((), ("-m",)):
        ran = run(*sweep, *SHORT, *other, f"teacher=store/{entry.name[:8]}", "student=plain4")
        assert ran.status == 2
        assert "plain2" in ran.err
        assert "3x32x32" in ran.err


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "lacks"), ("criteriaa: {}\n", "lacks"), ("a: [1\n b: }\n", "mine")],
    ids=["empty", "typo", "broken"],
)
def test_a_file_of_the_users_that_is_wrong_is_one_line(content: str, words: str, run: Any, tmp_path: Path) -> None:
    (tmp_path / "cd" / "method").mkdir(parents=True)
    (tmp_path / "cd" / "method" / "mine.yaml").write_text(content)
    ran = run("--config-dir", str(tmp_path / "cd"), "method=mine")
    assert ran.status == 2
    assert words in ran.err


def test_a_mistyped_command_is_recognised(run: Any) -> None:
    ran = run("stor", "ls")
    assert ran.status == 2
    assert "did you mean 'store'" in ran.err


def test_eval_refuses_what_the_recipe_settles(run: Any) -> None:
    ran = run("eval", "abcd1234", "eval=[calibration]", "dataset=fashion_mnist", "method.temperature=9")
    assert ran.status == 2
    assert len(ran.err.splitlines()) == 2
