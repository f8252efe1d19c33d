"""What every test shares: no network but the own machine, one thread, outputs of its own."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

REPO = Path(__file__).parent.parent
os.environ["WANDB_MODE"] = "offline"


@pytest.fixture(autouse=True)
def _only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise OSError(f"a test reached for the network: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The outputs folder of the test's own commands."""
    torch.set_num_threads(1)
    folder = tmp_path / "outputs"
    monkeypatch.setenv("KDBENCH_OUTPUTS", str(folder))
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path / "data"))
    return folder
