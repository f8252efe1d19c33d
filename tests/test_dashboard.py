"""The dashboard without a server: its layout, what is printed, and what is saved."""

from pathlib import Path
from typing import Any

import pytest
import wandb
import wandb_workspaces.reports.v2 as wr

from kdbench.cli import main
from kdbench.core.recipe import Recipe
from kdbench.dashboard import LAYOUT, Dashboard
from tests.toy import SHORT


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "sweep-1a2b"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    return folder


def test_every_panel_of_the_layout_is_in_the_workspace_as_it_is_sent() -> None:
    sent = Dashboard("takd_paths", "sweep-1a2b").workspace()._to_model()
    assert sent.project == "takd_paths"
    sections = sent.spec.section.panel_bank_config.sections[: len(LAYOUT)]
    for section, found in zip(LAYOUT, sections, strict=True):
        assert found.name == section.name
        assert [panel.config.chart_title for panel in found.panels] == [panel.title for panel in section.panels]
    gap = sections[0].panels
    assert (gap[0].config.x_axis, gap[0].config.y_axis) == ("summary:teacher/parameters", "summary:test/acc")
    assert gap[0].config.x_axis_log_scale
    assert gap[2].config.metrics == ["gap/test/acc"]
    assert "sweep-1a2b" in str(sent.spec.section.run_sets)


def test_the_report_has_the_same_panels_under_the_same_headings() -> None:
    blocks = Dashboard("takd_paths", entity="me").report().blocks
    headings = [block.text for block in blocks if isinstance(block, wr.H2)]
    grids = [block for block in blocks if isinstance(block, wr.PanelGrid)]
    assert headings == [section.name for section in LAYOUT]
    for section, grid in zip(LAYOUT, grids, strict=True):
        assert [panel.title for panel in grid.panels] == [panel.title for panel in section.panels]
        assert grid.runsets[0].entity == "me"
        assert "student" in str(grid.runsets[0].filters)


def test_what_the_panels_show_is_what_runs_log(outputs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    import kdbench.watch as watch

    logged: dict[str, set[str]] = {}

    class Sinks:
        def __init__(self, role: str) -> None:
            self.keys = logged.setdefault(role, set())

        def log(self, row: dict[str, float], epoch: int) -> None:
            self.keys |= set(row)

        def lineage(self, network: Any, teachers: Any) -> None:
            assert network.folder.is_dir()

        def finish(self, summary: dict[str, float], status: str = "done") -> None:
            self.keys |= set(summary)

    monkeypatch.setattr(watch, "open_sinks", lambda _, run: Sinks(run.role))
    assert main([*SHORT, "teacher=plain4"]) == 0
    shown = {key for section in LAYOUT for panel in section.panels for key in (panel.x, panel.y)} - {"chain"}
    assert shown <= logged["student"]
    assert not any(key.startswith("gap") for key in logged["teacher"])
    assert "chain" in watch.run_info(_node(outputs), _settings(outputs)).config


def _node(outputs: Path) -> Any:
    from kdbench.plan import Node
    from tests.toy import recipes

    (recipe,) = recipes("teacher=none", outputs=outputs)
    assert isinstance(recipe, Recipe)
    return Node(recipe, "student", "train")


def _settings(outputs: Path) -> Any:
    from tests.toy import settings

    return settings(outputs)


@pytest.mark.parametrize("arguments", [["--dry-run"], []])
def test_offline_and_dry_runs_print_what_would_be_created(
    arguments: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dashboard, "save", lambda self: pytest.fail("it was created"))
    assert main(["dashboard", str(run_dir), *arguments]) == 0
    out = capsys.readouterr().out
    assert "nothing is created" in out
    assert "sweep-1a2b: the capacity gap" in out
    assert "Gap (teacher minus student)" in out


def test_online_it_is_created_and_its_addresses_are_printed(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(Dashboard, "save", lambda self: [f"there/{self.project}", "and/there"])
    assert main(["dashboard", str(run_dir), "--project", "mine"]) == 0
    assert capsys.readouterr().out == "created there/mine\ncreated and/there\n"


def test_a_server_that_cannot_be_reached_is_one_line(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda **_: True)

    def refuse(self: Dashboard) -> list[str]:
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(Dashboard, "save", refuse)
    assert main(["dashboard", str(run_dir)]) == 1
    assert capsys.readouterr().err == "kdbench: W&B did not create the dashboard: no route to host\n"


def test_an_unknown_target_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "takd_pahts"]) == 2
    assert "neither a study nor the folder of a run" in capsys.readouterr().err
