import io
import re

import pytest

from kdbench.report.console import make_console
from kdbench.report.progress import Display


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Gone(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


@pytest.fixture(autouse=True)
def _colourful_environment(monkeypatch):
    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def follow(file: io.StringIO, *, terminal: bool, width: int = 100, trainings: int = 2, seconds: int = 30) -> list[str]:
    """What is shown of trainings side by side, 10 steps a second, 100 steps an epoch; escapes removed."""
    console = make_console(file, force_terminal=terminal)
    console.width = width
    clock = Clock()
    steps = seconds * 10
    with Display(console, total=trainings, clock=clock) as display:
        for task in range(trainings):
            display.start(f"t{task}", f"student plain{task}", steps // 100, steps)
        for step in range(1, steps + 1):
            clock.now = step / 10
            for task in range(trainings):
                display.update(f"t{task}", step, step // 100, {"train/loss": 1 / step, "val/acc": 50.0})
        for task in range(trainings):
            display.finish(f"t{task}", "done", "95.10 % val")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n").splitlines()


def test_plain_lines_tell_start_progress_and_end():
    assert follow(io.StringIO(), terminal=False, trainings=1) == [
        "start  student plain0  3 epochs",
        "       student plain0  epoch 1/3  loss 0.0100  val 50.00 %  20.0s left",
        "       student plain0  epoch 2/3  loss 0.0050  val 50.00 %  10.0s left",
        "       student plain0  epoch 3/3  loss 0.0033  val 50.00 %  0.0s left",
        "done  student plain0  95.10 % val  in 30.0s",
    ]


def test_no_training_hides_another():
    lines = follow(io.StringIO(), terminal=False)
    assert sum("plain0  epoch" in line for line in lines) == sum("plain1  epoch" in line for line in lines) == 3
    assert lines[-2:] == [
        "[1/2] done  student plain0  95.10 % val  in 30.0s",
        "[2/2] done  student plain1  95.10 % val  in 30.0s",
    ]


@pytest.mark.parametrize("width", [40, 100])
def test_terminal_has_a_bar_per_training_and_one_over_all(width):
    lines = follow(io.StringIO(), terminal=True, width=width)
    assert max(map(len, lines)) <= max(width, len("[1/2] done  student plain0  95.10 % val  in 30.0s"))
    bars = [line for line in lines if "━" in line]
    for name in ("all", "student plain0", "student plain1"):
        assert any(line.startswith(name) and line.rstrip().endswith("left") for line in bars)
    assert any("loss 0.0" in line for line in bars) == (width == 100)


def test_single_training_has_no_bar_over_all():
    assert not [line for line in follow(io.StringIO(), terminal=True, trainings=1) if line.startswith("all")]


def test_updates_are_drawn_ten_times_a_second_at_most():
    file, clock = io.StringIO(), Clock()
    with Display(make_console(file, force_terminal=True), clock=clock) as display:
        display.start("t", "student plain2", 1, 1000)
        display.update("t", 1, 0)
        drawn = file.tell()
        for step in range(2, 100):
            clock.now = step / 1001
            display.update("t", step, 0)
        assert file.tell() == drawn
        clock.now = 0.1
        display.update("t", 100, 0)
        assert file.tell() > drawn


def test_resumed_training_estimates_from_its_own_steps():
    file, clock = io.StringIO(), Clock()
    with Display(make_console(file), clock=clock) as display:
        display.start("t", "student plain2", 10, 1000)
        display.update("t", 900, 9)
        clock.now = 20.0
        display.update("t", 950, 9)
    assert "20.0s left" in file.getvalue()


def test_network_from_the_store_is_reported_without_a_start():
    file = io.StringIO()
    with Display(make_console(file), total=2) as display:
        display.finish("t", "in store", "teacher plain6")
    assert file.getvalue() == "[1/2] in store  teacher plain6\n"


def test_message_after_the_end_is_ignored():
    file = io.StringIO()
    with Display(make_console(file)) as display:
        display.start("t", "student plain2", 1, 10)
        display.finish("t", "failed", "the loss is not finite")
        before = file.getvalue()
        display.update("t", 10, 1)
    assert file.getvalue() == before


@pytest.mark.parametrize("terminal", [True, False])
def test_reader_that_goes_away_stops_no_training(terminal):
    follow(Gone(), terminal=terminal)
