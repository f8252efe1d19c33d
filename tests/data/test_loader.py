from itertools import islice

import pytest
import torch

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch
from kdbench.data.load import ImageSplit
from kdbench.data.loader import EvalLoader, TrainLoader
from kdbench.data.mixing import make_mixes
from kdbench.data.views import make_views


def split_of(count: int) -> ImageSplit:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageSplit(images, torch.arange(count) % 10, torch.arange(count) * 2)


def loader_of(count: int = 50, batch_size: int = 8, **keys) -> TrainLoader:
    return TrainLoader(
        split_of(count), batch_size, **{"seed": 0, "views": make_views({"crop_flip": {"padding": 2}})} | keys
    )


def same(ones: list[Batch], others: list[Batch]) -> bool:
    pairs = list(zip(ones, others, strict=True))
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(tensors(one), tensors(other), strict=True))


def tensors(batch: Batch) -> list[torch.Tensor]:
    *parts, second, mix = batch
    return [*parts, *([] if second is None else [second]), *(mix or ())]


def test_an_epoch_shows_every_sample_once_with_its_own_label():
    batches = list(loader_of(views=()))
    index = torch.cat([batch.index for batch in batches])
    assert torch.equal(index.sort().values, torch.arange(50) * 2)
    split = split_of(50)
    assert torch.equal(torch.cat([batch.target for batch in batches]), split.labels[index // 2])
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), split.images[index // 2].float() / 255)


def test_inputs_are_float32_in_unit_range():
    batch = next(iter(loader_of()))
    assert (batch.inputs.dtype, batch.target.dtype, batch.index.dtype) == (torch.float32, torch.int64, torch.int64)
    assert batch.inputs.min() >= 0
    assert 0.9 < batch.inputs.max() <= 1


def test_epochs_differ_in_order_and_views():
    loader = loader_of(batch_size=50)
    (first,), (second,) = list(loader), list(loader)
    assert not torch.equal(first.index, second.index)
    by_first, by_second = first.inputs[first.index.argsort()], second.inputs[second.index.argsort()]
    assert (by_first == by_second).flatten(1).all(1).sum() < 10


@pytest.mark.parametrize("step", [0, 1, 6, 7, 9, 14, 20])
def test_seek_goes_on_bit_for_bit(step):
    straight = loader_of()
    batches = [batch for _ in range(3) for batch in straight]
    resumed = loader_of()
    resumed.seek(step)
    rest = [batch for _ in range(3 - step // len(resumed)) for batch in resumed]
    assert len(straight) == 7
    assert same(batches[step:], rest)


def test_an_iteration_left_early_is_followed_by_the_next_epoch():
    left, straight = loader_of(), loader_of()
    list(islice(left, 3))
    list(straight)
    assert same(list(left), list(straight))


def test_view_of_a_sample_is_the_same_in_a_smaller_training_set():
    split = split_of(50)
    part = ImageSplit(split.images[20:], split.labels[20:], split.index[20:])
    views = make_views({"crop_flip": {"padding": 2}})
    (whole,), (some,) = (list(TrainLoader(data, 50, seed=0, views=views)) for data in (split, part))
    kept = whole.index >= 40
    assert torch.equal(whole.index[kept], some.index)
    assert torch.equal(whole.inputs[kept], some.inputs)


def test_seed_moves_order_and_view_seed_moves_views():
    base, order, views = (
        next(iter(loader_of(batch_size=50, seed=seed, view_seed=view_seed)))
        for seed, view_seed in ((0, 0), (1, 0), (0, 1))
    )
    assert not torch.equal(base.index, order.index)
    assert torch.equal(base.inputs[base.index.argsort()], order.inputs[order.index.argsort()])
    assert torch.equal(base.index, views.index)
    assert not torch.equal(base.inputs, views.inputs)


def test_view_seed_is_the_seed_unless_given():
    assert same(list(loader_of(seed=5)), list(loader_of(seed=5, view_seed=5)))
    assert not same(list(loader_of(seed=5)), list(loader_of(seed=5, view_seed=0)))


@pytest.mark.parametrize(
    ("count", "keys", "sizes"),
    [
        (20, {}, [8, 8, 4]),
        (20, {"limit_batches": 1}, [8]),
        (20, {"limit_batches": 9}, [8, 8, 4]),
        (17, {}, [8, 8]),
        (3, {"batch_size": 1}, [1, 1, 1]),
    ],
)
def test_batches_of_an_epoch_never_end_with_a_remainder_of_one(count, keys, sizes):
    loader = loader_of(count, **keys)
    assert [len(batch.target) for batch in loader] == sizes
    assert len(loader) == len(sizes)


@pytest.mark.parametrize(("count", "keys"), [(1, {}), (5, {"limit_batches": 0}), (5, {"batch_size": 0})])
def test_no_batch_at_all_is_an_error(count, keys):
    with pytest.raises(ConfigError, match="batch"):
        loader_of(count, **keys)


def mixed_loader(**keys) -> TrainLoader:
    mixes = make_mixes({"mixup": {"alpha": 1.0, "prob": 1.0}, "cutmix": {"alpha": 1.0, "prob": 1.0}})
    return loader_of(two_views=True, mixes=mixes, **keys)


@pytest.mark.parametrize("step", [3, 7])
def test_second_views_and_mixes_go_on_bit_for_bit(step):
    straight, resumed = mixed_loader(), mixed_loader()
    batches = [batch for _ in range(2) for batch in straight]
    resumed.seek(step)
    assert same(batches[step:], [batch for _ in range(2 - step // 7) for batch in resumed])


def test_second_view_is_another_view_of_the_same_samples_and_changes_no_first_one():
    one, two = next(iter(loader_of(batch_size=50))), next(iter(loader_of(batch_size=50, two_views=True)))
    assert one.second is None
    assert torch.equal(one.inputs, two.inputs)
    assert (two.second == two.inputs).flatten(1).all(1).sum() < 10
    plain = next(iter(loader_of(batch_size=50, two_views=True, views=())))
    assert torch.equal(plain.second, plain.inputs)


def test_mixes_come_after_the_views_and_need_a_loader_that_asks():
    plain, mixed = next(iter(loader_of(batch_size=50))), next(iter(mixed_loader(batch_size=50)))
    assert plain.mix is None
    whole = mixed.mix.share == 1
    assert torch.equal(mixed.inputs[whole], plain.inputs[whole])
    assert not torch.equal(mixed.inputs, plain.inputs)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_layout_changes_strides_and_no_value(memory_format):
    split = split_of(50)
    loaders = (
        mixed_loader(memory_format=memory_format),
        EvalLoader(split, 8, memory_format=memory_format),
    )
    for loader, plain in zip(loaders, (mixed_loader(), EvalLoader(split, 8)), strict=True):
        batches = list(loader)
        assert all(batch.inputs.is_contiguous(memory_format=memory_format) for batch in batches)
        assert same(batches, list(plain))


def test_seconds_count_making_batches_only(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("kdbench.data.loader.perf_counter", lambda: next(clock))
    loader = loader_of()
    batches = iter(loader)
    for _ in range(3):
        next(batches)
        next(clock)  # what a training step takes
    assert loader.seconds == 3


def test_eval_loader_shows_all_samples_in_order():
    split = split_of(17)
    loader = EvalLoader(split, 8)
    batches = list(loader)
    assert [len(batch.target) for batch in batches] == [8, 8, 1]
    assert len(loader) == 3
    assert torch.equal(torch.cat([batch.index for batch in batches]), split.index)
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), split.images.float() / 255)
    assert torch.equal(torch.cat([batch.target for batch in batches]), split.labels)
