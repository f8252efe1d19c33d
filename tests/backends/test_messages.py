import signal
import time
from pathlib import Path
from typing import Any

from kdbench.backends.messages import Mailbox, Messenger, asked_to_stop, file_messenger, stop_when_asked
from kdbench.core.signals import stop_signal, stopping_safely
from tests.toy import recipes


class Screen:
    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def __getattr__(self, kind: str) -> Any:
        return lambda recipe, *content: self.seen.append((kind, recipe.name, *content))


def test_steps_are_told_now_and_then_and_everything_else_always(outputs: Path) -> None:
    (recipe,) = recipes("teacher=none", outputs=outputs)
    sent: list[list[Any]] = []
    messenger = Messenger(sent.append, every=60.0)
    for step in range(5):
        messenger.step(recipe, step, 0)
        messenger.note(recipe, "n")
    messenger.row(recipe, {"val/acc": 50.0})
    assert sent == [["step", 0, 0], *[["note", "n"]] * 5, ["row", {"val/acc": 50.0}]]


def test_a_mailbox_delivers_each_line_once_and_waits_for_the_end_of_one(tmp_path: Path) -> None:
    (recipe,) = recipes("teacher=none", outputs=tmp_path)
    mailbox, screen = Mailbox(tmp_path / "run"), Screen()
    mailbox.deliver(recipe, screen)
    assert not mailbox.heard_of(recipe.digest)
    messenger = file_messenger(mailbox.folder, recipe.digest)
    messenger.row(recipe, {"val/acc": float("nan"), "epoch": 1.0})
    messenger.note(recipe, "waiting")
    mailbox.deliver(recipe, screen)
    assert [kind for kind, *_ in screen.seen] == ["row", "note"]
    with (mailbox.folder / recipe.digest).open("a") as file:
        file.write('["note", "ha')
        file.flush()
        mailbox.deliver(recipe, screen)
        file.write('lf"]\n')
    mailbox.deliver(recipe, screen)
    assert screen.seen[2:] == [("note", "plain2", "half")]
    mailbox.close()
    assert list((tmp_path / "run").iterdir()) == []
    messenger.note(recipe, "nobody reads this")  # and nothing is raised


def test_a_stop_reaches_the_worker_as_a_signal(tmp_path: Path) -> None:
    mailbox = Mailbox(tmp_path)
    with stopping_safely(signal.SIGTERM):
        stop_when_asked(mailbox.folder)
        time.sleep(0.1)
        assert not stop_signal()
        mailbox.ask_to_stop()
        deadline = time.monotonic() + 10
        while not stop_signal() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert stop_signal() == signal.SIGTERM
    assert asked_to_stop(mailbox.folder)
