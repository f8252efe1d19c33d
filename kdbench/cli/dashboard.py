"""``kdbench dashboard STUDY|FOLDER``: a W&B workspace and a report with the gap panels."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from kdbench.cli.arguments import Parser
from kdbench.config.compose import Composer
from kdbench.core.errors import ConfigError, UserError, nearest
from kdbench.dashboard import Dashboard
from kdbench.report.console import make_console, print_line


def main(arguments: Sequence[str]) -> int:
    """Creates both, or prints what would be created."""
    parser = Parser(prog="kdbench dashboard", description="A W&B workspace and a report of what was logged with "
                    "logger=wandb: the gap, its cost, the training.")  # fmt: skip
    parser.add_argument("target", help="a study, which is a project; or the folder of a sweep, whose runs are a group")
    parser.add_argument("--project", help="W&B project of a folder's runs (default: kdbench)")
    parser.add_argument("--entity", help="W&B user or team (default: your own)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be created")
    given = parser.parse_args(list(arguments))
    dashboard = _dashboard(given.target, given.project, given.entity)
    reason = "--dry-run" if given.dry_run else _offline()
    console = make_console()
    if reason is None:
        if importlib.util.find_spec("wandb_workspaces") is None:
            raise ConfigError("kdbench dashboard needs a package: pip install 'kdbench[dashboard]'")
        for address in _save(dashboard):
            print_line(console, f"created {address}")
        return 0
    print_line(console, f"nothing is created ({reason}); it would be:")
    for line in dashboard.lines():
        print_line(console, line)
    return 0


def _dashboard(target: str, project: str | None, entity: str | None) -> Dashboard:
    if (Path(target) / "run.json").is_file():
        return Dashboard(project or "kdbench", Path(target).resolve().name, entity)
    composer = Composer()
    if not composer.has_option("study", target):
        raise ConfigError(f"{target}: neither a study nor the folder of a run (outputs/runs/NAME)"
                          f"{nearest(target, composer.options('study'))}")  # fmt: skip
    return Dashboard(project or target, "", entity)


def _offline() -> str | None:
    """Why W&B cannot be reached, if it cannot."""
    if (mode := os.environ.get("WANDB_MODE", "online")) != "online":
        return f"WANDB_MODE={mode}"
    import wandb

    return None if wandb.login(prompt=False, verify=False) else "no API key is configured; wandb login sets one"


def _save(dashboard: Dashboard) -> list[str]:
    import requests
    import wandb

    try:
        return dashboard.save()
    except (wandb.Error, OSError, ValueError, requests.RequestException) as error:
        raise UserError(f"W&B did not create the dashboard: {str(error).strip().splitlines()[0]}") from error
