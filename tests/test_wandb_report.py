"""The final report run, and lineage as artifacts."""

from pathlib import Path
from typing import Any

import pytest
import wandb
from PIL import Image

from kdbench.core.errors import UserError
from kdbench.loggers import Stored
from kdbench.loggers._wandb import WandB
from kdbench.loggers.report import log_report
from tests.test_loggers import _fresh_process, of_type, wandb_records  # noqa: F401 (a fixture)


def test_tables_and_figures_of_a_folder_can_be_read_back(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "summary.csv").write_text("arm,acc,n\nkd,91.5,3\ntakd,,2\n")
    Image.new("RGB", (4, 3)).save(tmp_path / "figures" / "gap.png")
    names = log_report(tmp_path, project="takd_paths", group="sweep-1", options={"mode": "offline"})
    assert names == ["tables/summary", "figures/figures/gap"]
    (records,) = wandb_records(tmp_path)
    (run,) = of_type(records, "run")
    assert (run["project"], run["run_group"], run["job_type"]) == ("takd_paths", "sweep-1", "report")
    (row,) = (record["item"] for record in of_type(records, "history"))
    table, figure = "tables/summary", "figures/figures/gap"
    assert [row[f"{table}.{key}"] for key in ("_type", "nrows", "ncols")] == ["table-file", 2, 3]
    assert [row[f"{figure}.{key}"] for key in ("_type", "width", "height")] == ["image-file", 4, 3]
    (file,) = tmp_path.glob("wandb/offline-run-*/files/media/table/tables/*.table.json")
    assert '["arm","acc","n"]' in file.read_text()
    assert '["kd",91.5,3.0]' in file.read_text()
    assert [record["exit_code"] for record in of_type(records, "exit")] == [0]


def test_a_folder_without_anything_to_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kdbench report"):
        log_report(tmp_path, project="takd_paths")


def test_switched_off_nothing_is_logged(tmp_path: Path) -> None:
    (tmp_path / "summary.csv").write_text("arm\nkd\n")
    assert log_report(tmp_path, project="p", options={"mode": "disabled"}) == []
    assert not (tmp_path / "wandb").exists()


class Run:
    """What is asked of a W&B run."""

    def __init__(self, *, offline: bool) -> None:
        self.offline = offline
        self.used: list[wandb.Artifact] = []
        self.logged: list[wandb.Artifact] = []

    def define_metric(self, *_: Any, **__: Any) -> None: ...

    def use_artifact(self, artifact: wandb.Artifact) -> None:
        self.used.append(artifact)

    def log_artifact(self, artifact: wandb.Artifact) -> None:
        self.logged.append(artifact)


@pytest.mark.parametrize(("offline", "lineage"), [(False, True), (True, True), (False, False)])
def test_lineage_is_artifacts_that_point_into_the_store(offline: bool, lineage: bool, tmp_path: Path) -> None:
    (tmp_path / "last.safetensors").write_bytes(b"weights")
    run = Run(offline=offline)
    sink = WandB(run, lineage=lineage)  # type: ignore[arg-type]
    sink.lineage(Stored("plain2", "b" * 64, tmp_path), [Stored("plain4", "a" * 64, tmp_path)])
    if offline or not lineage:
        assert run.used == run.logged == []
        return
    assert [artifact.name for artifact in run.used] == ["network-aaaaaaaa"]
    (made,) = run.logged
    assert (made.name, made.type, made.metadata["name"]) == ("network-bbbbbbbb", "network", "plain2")
    entry = made.manifest.entries["last.safetensors"]
    assert entry.ref == (tmp_path / "last.safetensors").as_uri()
