"""A W&B workspace and report of a study: the panels as plain values, and as wandb-workspaces' objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2.interface as wr
    import wandb_workspaces.workspaces as ws

STUDENTS = 'Metric("JobType") == "student"'


@dataclass(frozen=True)
class Panel:
    """One picture over the runs of students.

    Attributes:
        kind: ``scatter`` (one point per run), ``bar`` (mean and standard deviation per chain), ``line`` (over epochs).
        title: What it shows.
        y: Key of what is shown.
        x: Key of the horizontal axis, or what the bars stand for.
        log_x: Whether that axis has a logarithmic scale.
    """

    kind: str
    title: str
    y: str
    x: str
    log_x: bool = False


@dataclass(frozen=True)
class Section:
    """Panels under one heading."""

    name: str
    panels: tuple[Panel, ...]


LAYOUT = (
    Section("The gap", (
        Panel("scatter", "Student against the size of its teacher", "test/acc", "teacher/parameters", log_x=True),
        Panel("scatter", "Student against the accuracy of its teacher", "test/acc", "teacher/test/acc"),
        Panel("bar", "Gap (teacher minus student), test accuracy", "gap/test/acc", "chain"),
        Panel("bar", "Test accuracy", "test/acc", "chain"),
        Panel("bar", "Agreement with the teacher", "test/agreement", "chain"),
    )),
    Section("Cost", (
        Panel("scatter", "Test accuracy against parameters", "test/acc", "parameters", log_x=True),
        Panel("scatter", "Test accuracy against multiply-accumulates", "test/acc", "macs", log_x=True),
        Panel("bar", "Teacher queries", "teacher_queries", "chain"),
        Panel("bar", "Seconds", "seconds/total", "chain"),
    )),
    Section("Training", (
        Panel("line", "Validation accuracy", "val/acc", "epoch"),
        Panel("line", "Loss", "train/loss", "epoch"),
        Panel("line", "Learning rate", "lr", "epoch"),
    )),
)  # fmt: skip


@dataclass(frozen=True)
class Dashboard:
    """What is to be made.

    Attributes:
        project: W&B project: the study's name.
        group: The sweep whose runs are shown; empty for all.
        entity: User or team; nothing for the default one.
    """

    project: str
    group: str = ""
    entity: str | None = None

    @property
    def title(self) -> str:
        """Name of the workspace and of the report."""
        return f"{self.group or self.project}: the capacity gap"

    @property
    def filters(self) -> str:
        """Which runs are shown, in wandb-workspaces' words."""
        return f'{STUDENTS} and Metric("Group") == "{self.group}"' if self.group else STUDENTS

    def lines(self) -> list[str]:
        """What would be made, for people."""
        where = f"{self.entity}/{self.project}" if self.entity else self.project
        head = [f"workspace and report '{self.title}' in project {where}", f"runs: {self.filters}"]
        for section in LAYOUT:
            head.append(section.name)
            head += [f"  {panel.kind:<8} {panel.title}  ({panel.y} over {panel.x})" for panel in section.panels]
        return head

    def workspace(self) -> ws.Workspace:
        """The workspace, not saved; needs wandb-workspaces."""
        import wandb_workspaces.workspaces as ws

        return ws.Workspace(
            entity=self.entity or "",
            project=self.project,
            name=self.title,
            sections=[ws.Section(name=section.name, panels=_panels(section), is_open=True) for section in LAYOUT],
            runset_settings=ws.RunsetSettings(filters=self.filters, groupby=[ws.Config("chain")]),
        )

    def report(self) -> wr.Report:
        """The report, not saved; needs wandb-workspaces."""
        import wandb_workspaces.reports.v2.interface as wr

        blocks: list[Any] = []
        for section in LAYOUT:
            runs = wr.Runset(entity=self.entity or "", project=self.project, name="students", filters=self.filters)
            blocks += [wr.H2(text=section.name), wr.PanelGrid(runsets=[runs], panels=_panels(section))]
        about = (
            "Made by kdbench dashboard. Every point is a student; bars are means over seeds with standard deviations."
        )
        return wr.Report(project=self.project, entity=self.entity or "", title=self.title, description=about,
                         blocks=blocks)  # fmt: skip

    def save(self) -> list[str]:
        """Creates both; their addresses."""
        workspace, report = self.workspace(), self.report()
        workspace.save()
        report.save()
        return [workspace.url, report.url]


def _panels(section: Section) -> list[Any]:
    import wandb_workspaces.reports.v2.interface as wr

    makers = {
        "scatter": lambda panel: wr.ScatterPlot(
            title=panel.title, x=wr.SummaryMetric(panel.x), y=wr.SummaryMetric(panel.y), log_x=panel.log_x
        ),
        "bar": lambda panel: wr.BarPlot(
            title=panel.title, metrics=[panel.y], groupby=wr.Config("chain"), groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        ),
        "line": lambda panel: wr.LinePlot(
            title=panel.title, x=panel.x, y=[panel.y], groupby=wr.Config("chain"), groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        ),
    }  # fmt: skip
    return [makers[panel.kind](panel) for panel in section.panels]
