"""The cache with teachers of a few weights, so that every way in which a file can be wrong is tried in a second."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdbench.cache.identity import Pass
from kdbench.cache.teacher import CachedTeacher, Kept, Source, TeacherCache
from kdbench.core.errors import Stopped, TrainingError
from kdbench.core.signals import stopping_safely
from kdbench.core.types import Batch, Tap
from kdbench.models.network import Network
from kdbench.store.cache import OutputCache

SIZE = 100
IMAGES = torch.rand(SIZE, 1, 4, 4, generator=torch.Generator().manual_seed(0))
INDEX = torch.arange(SIZE) * 3  # positions in a larger set
DIGEST = "ab" * 32


class Counting(nn.Module):
    """A linear classifier that counts the samples it was shown; ``across`` lets them depend on each other."""

    def __init__(self, seed: int, across: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 10, bias=False)
        nn.init.normal_(self.fc.weight, generator=torch.Generator().manual_seed(seed))
        self.shown = 0
        self.across = across

    def forward(self, inputs: Tensor) -> Tensor:
        self.shown += len(inputs)
        flat = inputs.flatten(1)
        return self.fc(flat - flat.mean(0) if self.across else flat)


def teacher(seed: int = 0, *, across: bool = False) -> Network:
    return Network(
        Counting(seed, across), name="toy", num_classes=10, mean=[0.0], std=[1.0],
        taps={"pooled": Tap("fc", "input")}, heads=["fc"],
    )  # fmt: skip


def at(positions: Tensor) -> Batch:
    return Batch(IMAGES[positions], positions, INDEX[positions])


def asked(**changes: Any) -> Pass:
    plain: dict[str, Any] = {"split": "train", "data": {"name": "toy"}, "view": None, "precision": "32-true",
                             "layout": "contiguous", "batch_size": 32}  # fmt: skip
    return Pass(DIGEST, **(plain | changes))


def cache(outputs: Path, *, on_disk: bool = True, check: int = 8) -> TeacherCache:
    return TeacherCache(OutputCache(outputs / "cache"), on_disk=on_disk, check=check, conditions={"threads": 1})


class Asking:
    """Asks one cache about one teacher, and remembers what it noted."""

    def __init__(self, outputs: Path, network: Network, **options: Any) -> None:
        self.notes: list[str] = []
        self.network = network
        self.cache = cache(outputs, **options)
        self.source = Source(network, SIZE, at, self.notes.append)

    def __call__(self, **changes: Any) -> Kept:
        return self.cache.rows(asked(**changes), self.source)

    @property
    def shown(self) -> int:
        assert isinstance(self.network.body, Counting)
        return self.network.body.shown


def file_of(outputs: Path) -> Path:
    (file,) = outputs.glob("cache/??/*/*.safetensors")
    return file


def test_rows_are_the_teachers_bits_and_are_asked_for_once(outputs: Path) -> None:
    first, again = Asking(outputs, teacher()), Asking(outputs, teacher())
    made, found = first(taps=("pooled",)), again(taps=("pooled",))
    with torch.no_grad():
        expected = torch.cat([teacher()(part) for part in IMAGES.split(32)])
    for kept in (made, found):
        assert torch.equal(kept.rows["logits"], expected)
        assert torch.equal(kept.rows["tap.pooled"], IMAGES.flatten(1))
    assert (first.shown, again.shown) == (made.shown, found.shown) == (SIZE + 8, 8)
    assert first.notes == again.notes == []


def damage_bytes(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_bytes, "checksum"),
        (lambda file: file.write_bytes(file.read_bytes()[:-7]), "damaged"),
        (lambda file: file.write_bytes(b""), "damaged"),
    ],
    ids=["a bit", "cut short", "empty"],
)
def test_a_damaged_file_is_named_and_made_again(damage: Callable[[Path], None], words: str, outputs: Path) -> None:
    expected = Asking(outputs, teacher())().rows["logits"].clone()
    file_of(outputs).chmod(0o644)
    damage(file_of(outputs))
    asking = Asking(outputs, teacher())
    assert torch.equal(asking().rows["logits"], expected)
    assert len(asking.notes) == 1
    assert words in asking.notes[0]
    assert asking.shown == SIZE + 8


def test_a_file_of_other_facts_is_not_taken(outputs: Path) -> None:
    Asking(outputs, teacher())()
    file = file_of(outputs)
    Asking(outputs, teacher())(precision="bf16-mixed")
    (other,) = (path for path in file.parent.glob("*.safetensors") if path != file)
    other.replace(file)
    asking = Asking(outputs, teacher())
    asking()
    assert "made from something else" in asking.notes[0]


def test_rows_that_the_live_teacher_does_not_confirm_are_stale(outputs: Path) -> None:
    Asking(outputs, teacher(seed=0))()
    asking = Asking(outputs, teacher(seed=1))
    fresh = asking().rows["logits"]
    assert "toy: its logits are off by" in asking.notes[0]
    with torch.no_grad():
        assert torch.allclose(fresh, teacher(seed=1)(IMAGES))


def test_without_a_check_the_live_teacher_is_not_asked(outputs: Path) -> None:
    Asking(outputs, teacher())()
    asking = Asking(outputs, teacher(), check=0)
    assert (asking().shown, asking.shown) == (0, 0)


def test_a_teacher_whose_answers_depend_on_the_batch_is_refused(outputs: Path) -> None:
    with pytest.raises(TrainingError, match=r"toy answers otherwise in another batch.*cache=none"):
        Asking(outputs, teacher(across=True))()


@pytest.mark.parametrize("form", [{"dtype": "float16"}, {"top_k": 3}, {"dtype": "float16", "top_k": 3}])
def test_a_lossy_form_states_its_loss(form: dict[str, Any], outputs: Path) -> None:
    made, found = (Asking(outputs, teacher())(**form, taps=("logits",)) for _ in range(2))
    assert "nats" in made.remark
    assert made.remark == found.remark
    assert made.rows["tap.logits"].shape == (SIZE, 10), "a tap of this name is not the logits that are cut"
    assert Asking(outputs, teacher())().remark == ""


def test_what_is_measured_on_is_asked_about_once_for_all_students(outputs: Path) -> None:
    one, two = (Asking(outputs, teacher(), on_disk=False, check=0) for _ in range(2))
    found = [asking.cache.logits(asked(split="test"), asking.source) for asking in (one, one, two)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert (one.shown, two.shown) == (SIZE, 0)


def test_what_is_measured_on_needs_no_disk(outputs: Path) -> None:
    outputs.mkdir(parents=True)
    (outputs / "cache").write_text("a file where a folder should be")
    asking = Asking(outputs, teacher(), on_disk=False)
    first, again = (asking.cache.logits(asked(split="test"), asking.source) for _ in range(2))
    assert torch.equal(first, again)
    assert asking.shown == SIZE


def test_a_stop_is_heeded_while_a_teacher_is_asked(outputs: Path) -> None:
    asking = Asking(outputs, teacher())

    def interrupted(positions: Tensor) -> Batch:
        os.kill(os.getpid(), signal.SIGTERM)
        return at(positions)

    asking.source = Source(asking.network, SIZE, interrupted, asking.notes.append)
    with pytest.raises(Stopped), stopping_safely():
        asking()
    assert not list(outputs.glob("cache/??/*/*")), "neither half a file nor a lock is left"


def test_who_comes_second_waits_and_reads(outputs: Path) -> None:
    one, two = Asking(outputs, teacher()), Asking(outputs, teacher())
    entered, go_on = threading.Event(), threading.Event()

    def slowly(positions: Tensor) -> Batch:
        entered.set()
        go_on.wait(10)
        return at(positions)

    one.source = Source(one.network, SIZE, slowly, one.notes.append)
    first = threading.Thread(target=one)
    first.start()
    entered.wait(10)
    second = threading.Thread(target=two)
    second.start()
    while not two.notes:
        time.sleep(0.01)
    go_on.set()
    first.join()
    second.join()
    assert "waiting for another process" in two.notes[0]
    assert (one.shown, two.shown) == (SIZE + 8, 8)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.cache.test_teacher import Asking, teacher
import kdbench.store._files as files
replace = os.replace
when = sys.argv[2]
def deadly(*paths):
    if when == "after":
        replace(*paths)
    os.kill(os.getpid(), signal.SIGKILL)
files.os.replace = deadly
Asking(Path(sys.argv[1]), teacher())()
"""


@pytest.mark.parametrize(("when", "shown"), [("before", SIZE + 8), ("after", 8)])
def test_a_kill_leaves_a_sound_file_or_none(when: str, shown: int, outputs: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(outputs), when], check=False)
    assert killed.returncode == -9
    asking = Asking(outputs, teacher())
    asking()
    assert (asking.shown, asking.notes) == (shown, [])


def cached(outputs: Path, network: Network, notes: list[str]) -> CachedTeacher:
    source = Source(network, SIZE, at, notes.append)
    return CachedTeacher(cache(outputs), lambda _: source, lambda epoch: asked(view=epoch // 2, top_k=3), INDEX)


def test_a_batch_gets_the_rows_of_its_samples_and_the_loss_is_said_once(outputs: Path) -> None:
    notes: list[str] = []
    network = teacher()
    answers = cached(outputs, network, notes)
    chosen = torch.tensor([7, 99, 0])
    with torch.no_grad():
        expected = network(IMAGES[chosen])
    given = [answers(at(chosen), epoch).logits for epoch in range(4)]
    assert all(torch.equal(logits.argmax(1), expected.argmax(1)) for logits in given)
    assert answers.forwards == 2 * (SIZE + 8), "two views, each for two epochs"
    assert len(notes) == 1
    assert "lossy" in notes[0]


def test_mixed_batches_are_refused(outputs: Path) -> None:
    class Mixed(Batch):
        mix = ("partner", "lambda")

    with pytest.raises(TrainingError, match="cache=none"):
        cached(outputs, teacher(), [])(Mixed(*at(torch.arange(3))), 0)
