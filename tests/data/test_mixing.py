import pytest
import torch
from torchvision.transforms.v2 import CutMix as TheirCutMix

from kdbench.core.types import Batch
from kdbench.data.counter import sample_keys
from kdbench.data.mixing import CutMix, Mixup, Shares, mix_batch

KEYS = sample_keys(0, 0, torch.arange(4000))


def batch_of(count: int = 33, *, second: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(0)
    inputs, other = (torch.rand(count, 3, 8, 10, generator=generator) for _ in range(2))
    return Batch(inputs, torch.arange(count) % 10, torch.arange(count), other if second else None)


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 3.0, 100.0])
def test_shares_have_the_distribution_of_beta(alpha):
    ours = Shares(alpha)(KEYS, 0).double()
    torch.manual_seed(0)
    theirs = torch.distributions.Beta(alpha, alpha).sample((40_000,)).double()
    assert ours.min() >= 0
    assert ours.max() <= 1
    grid = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    below = [(values[:, None] <= grid).double().mean(0) for values in (ours, theirs)]
    assert (below[0] - below[1]).abs().max() < 1.95 * (1 / len(ours) + 1 / len(theirs)) ** 0.5, "Kolmogorov and Smirnov"
    assert abs(ours.var() - 1 / (4 * (2 * alpha + 1))) < 0.012


@pytest.mark.parametrize("mixing", [Mixup(alpha=1.0, prob=1.0), CutMix(alpha=1.0, prob=1.0)])
@pytest.mark.parametrize("count", [1, 2, 33])
def test_inputs_and_labels_are_mixed_by_the_same_shares_with_a_partner_of_the_batch(mixing, count):
    batch = batch_of(count, second=True)
    mixed = mix_batch([mixing], batch, KEYS[:count])
    assert torch.equal(mixed.target, batch.target)
    assert torch.equal(mixed.index, batch.index)
    assert torch.equal(mixed.mix.target.sort().values, batch.target.sort().values), "partners are a permutation"
    for i in range(count):
        partners = {int(batch.target[j]) for j in range(count) if _is_mixture(mixed, batch, i, j)}
        assert int(mixed.mix.target[i]) in partners
        assert mixed.mix.share[i] == 1 or len(partners) == 1


def _is_mixture(mixed: Batch, batch: Batch, i: int, j: int) -> bool:
    """Whether sample i was mixed with j: both views by the same weights, whose mean is the label's share."""
    own, other, seen = batch.inputs[i], batch.inputs[j], mixed.inputs[i]
    weights = (seen - other) / (own - other) if i != j else torch.ones_like(own)
    share = mixed.mix.share[i]
    if not torch.allclose(weights, weights[:1].expand_as(weights), atol=1e-3):
        return False
    if i != j and not torch.allclose(weights.mean(), share, atol=1e-3):
        return False
    return torch.allclose(mixed.second[i], batch.second[j].lerp(batch.second[i], weights), atol=1e-3)


def test_mixup_keeps_one_share_in_all_of_an_image_and_cutmix_a_rectangle():
    assert Mixup(alpha=1.0, prob=1.0)(KEYS, 8, 10).shape == (4000, 1, 1, 1)
    kept = CutMix(alpha=1.0, prob=1.0)(KEYS, 8, 10)
    cut = kept[:, 0] == 0
    assert ((kept == 0) | (kept == 1)).all()
    assert torch.equal(cut.any(2).sum(1) * cut.any(1).sum(1), cut.sum((1, 2)))


def test_cutmix_cuts_like_torchvision_s():
    """At the same share and centre, with its own rounding and clipping: all of it in one table of frequencies."""
    torch.manual_seed(0)
    their = TheirCutMix(alpha=1.0, num_classes=2)
    shares = [their.make_params([torch.zeros(2, 3, 8, 10)])["lam_adjusted"] for _ in range(4000)]
    theirs = torch.tensor(shares)
    ours = CutMix(alpha=1.0, prob=1.0)(KEYS, 8, 10).mean((1, 2, 3))
    torch.testing.assert_close(ours.mean(), theirs.mean(), atol=4 * float(theirs.std()) * (2 / 4000) ** 0.5, rtol=0)
    torch.testing.assert_close(ours.std(), theirs.std(), atol=0.015, rtol=0)
    assert set(ours.mul(80).round().int().tolist()) == set(theirs.mul(80).round().int().tolist())


@pytest.mark.parametrize("kind", [Mixup, CutMix])
@pytest.mark.parametrize("prob", [0.0, 0.25])
def test_so_many_samples_are_mixed_and_the_others_keep_every_bit(kind, prob):
    batch = batch_of(400)
    mixed = mix_batch([kind(alpha=1.0, prob=prob)], batch, KEYS[:400])
    whole = mixed.mix.share == 1
    assert torch.equal(mixed.inputs[whole], batch.inputs[whole])
    assert whole.float().mean() >= 1 - prob - 0.09
    assert prob == 0 or whole.float().mean() < 0.97


def test_two_mixes_share_the_samples_between_them():
    batch = batch_of(1000)
    kept = (
        mix_batch([Mixup(alpha=1.0, prob=1.0), CutMix(alpha=1.0, prob=1.0)], batch, KEYS[:1000]).inputs == batch.inputs
    )
    partly = kept.flatten(1).float().mean(1)
    assert 0.4 < (partly == 0).float().mean() < 0.6


def test_mixing_is_a_function_of_the_keys():
    one, again, other = (
        mix_batch([Mixup(alpha=1.0, prob=1.0)], batch_of(), keys) for keys in (KEYS[:33], KEYS[:33], KEYS[33:66])
    )
    assert torch.equal(one.inputs, again.inputs)
    assert not torch.equal(one.inputs, other.inputs)
    assert not torch.equal(one.mix.target, other.mix.target)


def test_layout_stays():
    batch = batch_of()
    laid = batch._replace(inputs=batch.inputs.to(memory_format=torch.channels_last))
    mixed, plain = (mix_batch([CutMix(alpha=1.0, prob=1.0)], b, KEYS[:33]) for b in (laid, batch))
    assert mixed.inputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(mixed.inputs, plain.inputs)
