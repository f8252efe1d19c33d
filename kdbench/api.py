"""From Python: ``kdbench.load(ID)``."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.store import Store

if TYPE_CHECKING:
    from kdbench.models.network import Network


def load(network_id: str, outputs: str | Path | None = None, *, trust: Sequence[str] = ()) -> "Network":
    """The trained network with this ID, in eval mode, on the CPU.

    Args:
        network_id: At least the first 4 digits of its digest, as ``kdbench store ls`` shows it.
        outputs: The folder of ``paths.outputs``; by default ``KDBENCH_OUTPUTS`` or ``./outputs``.
        trust: Packages of yours whose classes may be used.

    Raises:
        StoreError: There is no such network, several, or it is damaged.
    """
    from kdbench.config.build import Builder

    root = Path(outputs if outputs is not None else os.environ.get("KDBENCH_OUTPUTS", "outputs")).expanduser()
    store = Store(root / "store")
    entry = store.find(network_id)
    return Builder(store, root, trusted=trust).trained(entry.digest).eval()
