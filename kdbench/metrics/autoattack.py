"""Accuracy under AutoAttack: four attacks without parameters to tune, from their authors' own package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics.attacks import Attack

_INSTALL = (
    "eval=autoattack needs its authors' package, which no index has: "
    "pip install git+https://github.com/fra31/auto-attack; eval=[pgd] needs none"
)


class AutoAttack(Attack):
    """Accuracy under AutoAttack in the maximum norm; see :class:`kdbench.metrics.attacks.Attack`.

    Args:
        epsilons: Radii in 1/255 of the full range of a pixel.
        variant: ``standard`` (APGD-CE, APGD-T, FAB-T, Square), ``plus`` or ``rand``, for networks that draw at random.
        seed: Of the attacks' random draws.
        samples: Measure on the first so many; ``None`` for all.

    Raises:
        ConfigError: A number is out of its range, there is no such variant, or the package is not installed.

    Source: Croce and Hein 2020, arXiv:2003.01690.
    """

    def __init__(
        self,
        *,
        epsilons: Sequence[float] = (8.0,),
        variant: str = "standard",
        seed: int = 0,
        samples: int | None = None,
    ) -> None:
        super().__init__("autoattack", epsilons, samples)
        if variant not in ("standard", "plus", "rand"):
            raise ConfigError(f"eval.autoattack.variant={variant}: standard, plus or rand is expected")
        try:
            import autoattack  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError(_INSTALL) from error
        self._attacker: Any = autoattack.AutoAttack
        self.variant, self.seed = variant, seed

    def check(self, network: nn.Module, teachers: Sequence[nn.Module], data: DataSpec) -> None:
        """Its targeted attacks aim at nine other classes.

        Raises:
            ConfigError: There are fewer.
        """
        if self.variant != "rand" and data.num_classes < 10:
            raise ConfigError(f"eval.autoattack.variant={self.variant}: its targeted attacks need 10 classes, "
                              f"{data.name} has {data.num_classes}; take eval=[pgd]")  # fmt: skip

    def attack(self, network: nn.Module, batch: Batch, epsilon: float) -> Tensor:
        """The strongest of the attacks on each sample."""
        attacker = self._attacker(network, norm="Linf", eps=epsilon, version=self.variant, seed=self.seed,
                                  device=batch.inputs.device, verbose=False)  # fmt: skip
        return attacker.run_standard_evaluation(batch.inputs, batch.target, bs=len(batch.target))
