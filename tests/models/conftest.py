from collections.abc import Callable

import pytest

from kdbench.core.types import DataSpec


@pytest.fixture
def make_data() -> Callable[..., DataSpec]:
    def make(side: int = 32, num_classes: int = 10, channels: int = 3) -> DataSpec:
        return DataSpec("fake", num_classes, (channels, side, side), (0.4,) * channels, (0.25,) * channels)

    return make
