"""kdbench: knowledge-distillation experiments from composable YAML.

``kdbench.load(ID)`` returns a trained network from the store. Importing this package imports nothing heavy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdbench.api import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from kdbench.api import load

        return load
    raise AttributeError(f"module 'kdbench' has no attribute {name!r}")
