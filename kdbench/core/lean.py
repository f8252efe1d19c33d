"""Importing this module, before Lightning, spares the command seconds: what it does not use is not imported.

Lightning needs torchmetrics, and torchmetrics imports, with all of its metrics, whatever libraries of
:data:`UNUSED` are installed: torchvision's models and with them the compiler, matplotlib, scipy, transformers. None of
the metrics that need them is used here, so torchmetrics is told that they are absent. They stay importable
for everybody else. The command and its workers do this; whoever imports kdbench as a library is left alone.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import MetaPathFinder
from typing import Any

UNUSED = ("matplotlib", "scipy", "torchaudio", "torchvision", "transformers")


class _BeforeTorchmetrics(MetaPathFinder):
    """Finds nothing; being asked for torchmetrics is the moment to act, and costs nothing before."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname == "torchmetrics":
            sys.meta_path.remove(self)
            flags = importlib.import_module("lightning_utilities.core.imports").RequirementCache
            look = flags._check_requirement

            def look_away(flag: Any) -> None:
                flag.available = False
                flag.message = f"{flag.requirement} is not looked for"

            def check(flag: Any) -> None:
                (look_away if str(flag.requirement).startswith(UNUSED) else look)(flag)

            flags._check_requirement = check


if "torchmetrics" not in sys.modules:
    sys.meta_path.insert(0, _BeforeTorchmetrics())
