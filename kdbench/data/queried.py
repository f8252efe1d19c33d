"""The training images that teachers may be asked about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from kdbench.core.errors import ConfigError
from kdbench.data.load import DataSplits, ImageSplit
from kdbench.data.splits import choose
from kdbench.data.stream import Stream


def under_budget(data: DataSplits, budget: Mapping[str, Any], *, split_seed: int) -> DataSplits:
    """The data as a student sees them whose teachers may be asked about some images only.

    From each class its share, the same images for every method and seed; a larger budget adds to a smaller one, but for
    the rounding of shares.

    Args:
        data: All of them.
        budget: A recipe's ``method.budget``: ``teacher_queries`` and ``unqueried``; empty for no limit.
        split_seed: That of the data, which chose the validation images too.

    Returns:
        ``spec.labels`` and ``spec.train_size`` are of the chosen images alone, for criteria must not draw others. With
        ``unqueried`` of ``drop`` so is ``train``, with ``label`` it holds all images.

    Raises:
        ConfigError: There are fewer images than that.
    """
    if not budget:
        return data
    train, count = data.train, int(budget["teacher_queries"])
    if count > len(train):
        raise ConfigError(f"budget.teacher_queries={count}: there are {len(train)} training images; "
                          "budget.teacher_queries=null asks about all")  # fmt: skip
    chosen = torch.from_numpy(choose(train.labels.numpy(), count, seed=split_seed, stream="teacher_queries"))
    labels = torch.full((data.spec.index_size,), -1)
    labels[train.index[chosen]] = train.labels[chosen]
    spec = replace(data.spec, labels=labels, train_size=count)
    if budget["unqueried"] == "drop":
        images = train.images
        if isinstance(images, Stream):
            part = images.chosen(chosen.numpy())
        else:
            part = images[chosen].contiguous(memory_format=torch.channels_last)
        train = ImageSplit(part, train.labels[chosen], train.index[chosen])
    return replace(data, spec=spec, train=train)
