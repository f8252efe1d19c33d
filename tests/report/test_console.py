import io
import os
import subprocess
import sys

import pytest

from kdbench.report.console import (
    PlanRow,
    ResultRow,
    ResultTable,
    count_text,
    make_console,
    percent_text,
    print_plan,
    time_text,
)

PLAN = [
    PlanRow("use as is", "teacher", "plain6", None, 0, 0, "a" * 64),
    PlanRow("in store", "assistant", "plain6 -> plain4", "kd", 30, 0, "b" * 64),
    PlanRow("resume", "assistant", "plain6 -> plain4", "kd", 30, 1, "c" * 64),
    PlanRow("train", "student", "plain6 -> plain4 -> plain2", "kd", 30, 1, "d" * 64),
]
TEACHER = ResultRow("teacher", "plain6", "e" * 64, 1_660_000, 4.2e6, 30, 98.7, 98.12, seconds=12.3)
STUDENT = ResultRow(
    "student",
    "plain2",
    "f" * 64,
    18_000,
    4.2e5,
    30,
    96.7,
    96.12,
    95.0,
    97.01,
    38_790,
    72.3,
    marks=("selected on test",),
)
FAILED = ResultRow("student", "plain4", "0" * 64, status="failed", seed=3, reason="the loss is not finite (epoch 2)")
SKIPPED = ResultRow("student", "plain8", "1" * 64, status="skipped", reason="its teacher plain4 failed")


@pytest.fixture(autouse=True)
def _colourful_environment(monkeypatch):
    for name in ("NO_COLOR", "CI", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def shown(show, *, terminal: bool, width: int = 80) -> list[str]:
    console = make_console(file := io.StringIO(), force_terminal=terminal)
    console.width = width
    show(console)
    return file.getvalue().splitlines()


def words(lines: list[str]) -> list[str]:
    return [" ".join(line.split()) for line in lines]


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("CI", "true"), ("TERM", "dumb")])
def test_environment_asks_for_plain_lines(monkeypatch, variable, value):
    assert make_console(io.StringIO(), force_terminal=True).is_terminal
    monkeypatch.setenv(variable, value)
    assert not make_console(io.StringIO(), force_terminal=True).is_terminal


def test_file_is_no_terminal():
    assert not make_console(io.StringIO()).is_terminal


def test_plan_names_state_chain_method_epochs_seed_and_id():
    lines = words(shown(lambda console: print_plan(PLAN, console), terminal=False, width=20))
    assert lines[4] == "train student plain6 -> plain4 -> plain2 kd 30 1 dddddddd"
    assert lines[1] == "use as is teacher plain6 - - 0 aaaaaaaa"
    assert lines[-1] == "4 networks: 1 to train, 1 to resume, 1 in the store, 1 used as is"


def test_plan_of_one_network_is_not_in_the_plural():
    assert shown(lambda console: print_plan(PLAN[1:2], console), terminal=False)[-1] == "1 network: 1 in the store"


def test_table_shows_units_percent_and_dashes():
    assert words(shown(ResultTable([TEACHER]).print, terminal=False)) == [
        "role network params MACs epochs val % test % alone % agree % queries time id",
        "teacher plain6 1.66M 4.20M 30 98.70 98.12 - - - 12.3s eeeeeeee",
    ]


def test_mark_stands_at_its_network_and_is_explained():
    lines = words(shown(ResultTable([TEACHER, STUDENT]).print, terminal=False))
    assert lines[2].startswith("student plain2 *1 ")
    assert lines[3] == "*1 selected on test"


def test_failed_and_skipped_networks_are_named_with_their_reasons():
    lines = shown(ResultTable([TEACHER, FAILED, SKIPPED]).print, terminal=False)
    assert lines[-2:] == [
        "failed: student plain4, seed 3 (00000000): the loss is not finite (epoch 2)",
        "skipped: student plain8 (11111111): its teacher plain4 failed",
    ]
    assert "status" in lines[0]
    assert "seed" in lines[0]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_sweep_of_500_rows_fits_a_terminal(width):
    rows = [STUDENT, TEACHER] * 250
    lines = shown(ResultTable(rows).print, terminal=True, width=width)
    text = [line for line in lines if "plain" in line]
    assert len(text) == 500
    assert all("96.12" in line or "98.12" in line for line in text)
    assert len(lines) <= 500 + 1 + 3 + 1  # heading, columns left out, the mark: no row was wrapped


def test_narrow_terminal_says_which_columns_are_missing():
    lines = shown(ResultTable([TEACHER]).print, terminal=True, width=40)
    assert "queries" not in lines[0]
    assert "queries" in " ".join(lines[2:])


@pytest.mark.parametrize("separator", [" -> ", "_"])
def test_long_network_is_folded_and_never_cut(separator):
    name = separator.join(f"resnet{depth}" for depth in (110, 56, 44, 32, 20, 14, 8))
    row = PlanRow("train", "student", name, "kd", 240, 1, "d" * 64)
    lines = shown(lambda console: print_plan([row], console), terminal=True, width=40)
    assert name.replace(" ", "") in "".join("".join(lines).split()).replace("train", "")


def test_text_in_brackets_is_not_taken_for_markup():
    row = ResultRow("student", "[red]plain2", "f" * 64, status="failed", reason="[/] in a name")
    for terminal in (True, False):
        assert "[red]plain2" in " ".join(shown(ResultTable([row]).print, terminal=terminal, width=120))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (999, "999"), (999.7, "1.00k"), (18_000, "18.0k"), (999_900, "1.00M"), (4.127e10, "41.3G")],
)
def test_count_has_three_digits(value, text):
    assert count_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (4.24, "4.2s"), (59.97, "1m00s"), (65, "1m05s"), (7380, "2h03m"), (100_800, "1d04h")],
)
def test_duration_has_two_units(seconds, text):
    assert time_text(seconds) == text


def test_percent_has_two_decimals():
    assert [percent_text(value) for value in (None, 0.0, 98.126, 100)] == ["-", "0.00", "98.13", "100.00"]


def test_reader_that_goes_away_stops_the_output_and_nothing_else():
    code = (
        "from kdbench.report.console import *\n"
        "console = make_console()\n"
        "for _ in range(2000): print_plan([PlanRow('train', 'student', 'plain2', 'kd', 1, 0, 'a' * 8)], console)\n"
        "print('a line of somebody else'); raise SystemExit(7)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.read(process.stdout.fileno(), 10)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (7, b"")


def test_report_needs_no_torch():
    check = "import sys, kdbench.report.console, kdbench.report.progress; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
