import csv
import importlib.util
import inspect
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
from omegaconf import OmegaConf

from kdbench import loggers
from kdbench.core.errors import ConfigError
from kdbench.loggers import RunInfo, _run, open_sinks

ROWS = [
    {"train/loss": 1.5, "train/term/kd": 0.9, "train/weight/kd": 0.9, "val/acc": 0.8},
    {"train/loss": 1.0, "train/term/kd": 0.5, "train/weight/kd": 0.9, "val/acc": 0.7},
]


@pytest.fixture(autouse=True)
def _fresh_process(tmp_path, monkeypatch):
    """No key, no settings of the user's, no warnings given before."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    _run.warned.clear()
    yield
    wandb.teardown()


def run_info(folder: Path, **changes) -> RunInfo:
    fields = {
        "project": "kdbench",
        "group": "sweep-1",
        "role": "student",
        "name": "plain6 -> plain2, seed 1",
        "config": {"optim": {"lr": 0.1}, "digest": "3fa9c1"},
        "folder": folder,
    }
    return RunInfo(**{**fields, **changes})


def train(configs, run: RunInfo) -> None:
    with open_sinks(configs, run=run) as sinks:
        for epoch, row in enumerate(ROWS, start=1):
            sinks.log(row, epoch)
        sinks.finish({"test/acc": 0.75})


def wandb_records(folder: Path) -> list[list[dict]]:
    """The records of every offline run below ``folder``, read back by W&B's own tool."""
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json"]
    texts = [
        subprocess.run([*command, path], capture_output=True, text=True, check=True).stdout
        for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    ]
    return [[json.loads(line) for line in text.splitlines() if line] for text in texts]


def warnings_of(caplog) -> list[str]:
    assert all(record.levelno == logging.WARNING for record in caplog.records if record.name == "kdbench.loggers")
    return [record.message for record in caplog.records if record.name == "kdbench.loggers"]


def of_type(records: list[dict], kind: str) -> list[dict]:
    return [record[kind] for record in records if record["type"] == kind]


def test_importing_loggers_imports_no_backend():
    check = (
        "import sys, kdbench.loggers; "
        "sys.exit(bool({'wandb', 'tensorboard', 'torch', 'pytorch_lightning'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize("name", sorted(loggers._BACKENDS))
def test_yaml_names_every_option_with_its_default(name):
    text = (Path(__file__).parents[1] / "configs" / "logger" / f"{name}.yaml").read_text()
    options = [p for p in inspect.signature(loggers._BACKENDS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert text.startswith(f"# @package logger.{name}\n")
    assert OmegaConf.to_container(OmegaConf.create(text)) == {option.name: option.default for option in options}


def test_csv_holds_every_row_and_the_summary(tmp_path):
    train({"csv": {}}, run_info(tmp_path))
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["train/loss"] for row in rows] == ["1.5", "1.0", ""]
    assert [(row["step"], row["epoch"]) for row in rows] == [("1", "1"), ("2", "2"), ("2", "")]
    assert rows[-1]["test/acc"] == "0.75"
    assert "digest: 3fa9c1" in (tmp_path / "csv" / "version_0" / "hparams.yaml").read_text()


def test_tensorboard_events_can_be_read_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train({"tensorboard": {}}, run_info(tmp_path))
    events = EventAccumulator(str(tmp_path / "tensorboard" / "version_0")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 1.5), (2, 1.0)]
    assert events.Scalars("test/acc")[0].value == 0.75


def test_missing_tensorboard_names_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'kdbench\[tensorboard\]'"):
        open_sinks({"tensorboard": {}}, run=run_info(tmp_path))


def test_unknown_logger_and_mode_are_named_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        open_sinks({"wand": {}, "wandb": {"mode": "of"}}, run=run_info(tmp_path))
    assert caught.value.problems == (
        "logger=wand: unknown; did you mean 'wandb'?",
        "logger.wandb.mode=of: unknown; there is: auto, disabled, offline, online",
    )


def test_wandb_offline_run_can_be_read_back(tmp_path, capfd):
    train({"wandb": {"mode": "offline", "tags": ["mine"]}}, run_info(tmp_path, from_store=True))
    assert capfd.readouterr() == ("", "")
    (records,) = wandb_records(tmp_path)
    (run,) = of_type(records, "run")
    assert (run["project"], run["run_group"], run["job_type"]) == ("kdbench", "sweep-1", "student")
    assert run["display_name"] == "plain6 -> plain2, seed 1"
    assert run["tags"] == ["mine", "from-store"]
    config = run["config"]["update"]
    assert (config["optim"], config["digest"], config["from_store"]) == ({"lr": 0.1}, "3fa9c1", True)
    rows = [record["item"] for record in of_type(records, "history")]
    assert [{key: row[key] for key in (*ROWS[0], "epoch")} for row in rows] == [
        {**ROWS[0], "epoch": 1},
        {**ROWS[1], "epoch": 2},
    ]
    metrics = {metric.get("name", metric.get("glob_name")): metric for metric in of_type(records, "metric")}
    assert metrics["*"]["step_metric"] == metrics["val/acc"]["step_metric"] == "epoch"
    summary = {}
    for record in of_type(records, "summary"):
        summary.update(record["update"])
    assert summary["val/acc"] == {"last": 0.7, "max": 0.8}
    assert (summary["test/acc"], summary["status"]) == (0.75, "done")
    assert [record["exit_code"] for record in of_type(records, "exit")] == [0]
    assert not (tmp_path / "elsewhere").exists()


def test_wandb_without_a_key_falls_back_with_one_warning_for_two_runs(tmp_path, caplog):
    for seed in (1, 2):
        train({"wandb": {}}, run_info(tmp_path, name=f"seed {seed}"))
    (warning,) = warnings_of(caplog)
    assert "offline" in warning
    assert "no API key" in warning
    runs = wandb_records(tmp_path)
    assert {of_type(records, "run")[0]["display_name"] for records in runs} == {"seed 1", "seed 2"}
    assert [len(of_type(records, "history")) for records in runs] == [2, 2]


def test_wandb_with_an_unreachable_server_falls_back_with_one_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    attempts = []
    login = wandb.login
    monkeypatch.setattr(wandb, "login", lambda **options: attempts.append(options) or login(**options))
    for mode in ("auto", "online"):
        train({"wandb": {"mode": mode, "init_timeout": 1}}, run_info(tmp_path))
    (warning,) = warnings_of(caplog)
    assert "127.0.0.1:9" in warning
    assert len(attempts) == 1  # the second training does not wait again
    assert len(wandb_records(tmp_path)) == 2


def test_two_trainings_at_once_are_two_wandb_runs(tmp_path):
    offline = {"wandb": {"mode": "offline"}}
    with (
        open_sinks(offline, run=run_info(tmp_path)) as first,
        open_sinks(offline, run=run_info(tmp_path)) as second,
    ):
        first.log(ROWS[0], 1)
        second.log(ROWS[1], 1)
    rows = [[row["item"]["val/acc"] for row in of_type(records, "history")] for records in wandb_records(tmp_path)]
    assert sorted(rows) == [[0.7], [0.8]]


@pytest.mark.parametrize("options", [{"mode": "disabled"}, {}])
def test_wandb_can_be_switched_off(tmp_path, monkeypatch, options):
    monkeypatch.setenv("WANDB_MODE", "disabled" if not options else "online")
    train({"wandb": options}, run_info(tmp_path))
    assert wandb_records(tmp_path) == []


def test_failed_training_is_a_failed_run(tmp_path):
    with pytest.raises(RuntimeError), open_sinks({"wandb": {"mode": "offline"}}, run=run_info(tmp_path)):
        raise RuntimeError
    assert [record["exit_code"] for record in of_type(wandb_records(tmp_path)[0], "exit")] == [1]


def test_failing_logger_is_dropped_and_the_others_go_on(tmp_path, caplog, monkeypatch):
    calls = []

    def full_disk(self, row, epoch):
        calls.append(epoch)
        raise OSError("disk full")

    monkeypatch.setattr(loggers._TensorBoard, "log", full_disk)
    for _ in range(2):
        train({"tensorboard": {}, "csv": {}}, run_info(tmp_path))
    assert calls == [1, 1]
    assert warnings_of(caplog) == ["logger tensorboard failed and is left out from here on: OSError: disk full"]
    assert len((tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()) == 4


def test_logger_that_cannot_be_opened_is_left_out(tmp_path, caplog):
    (tmp_path / "file").touch()
    with open_sinks({"csv": {}}, run=run_info(tmp_path / "file" / "run")) as sinks:
        sinks.log(ROWS[0], 1)
    (warning,) = warnings_of(caplog)
    assert warning.startswith("logger csv failed and is left out from here on: NotADirectoryError")
