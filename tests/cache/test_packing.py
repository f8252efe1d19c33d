import math

import pytest
import torch

from kdbench.cache.packing import loss_of, pack, unpack_logits

LOGITS = torch.randn(16, 10, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_exact_form_keeps_every_bit_and_the_type(dtype: torch.dtype) -> None:
    logits = LOGITS.to(dtype)
    kept = unpack_logits(pack({"logits": logits, "pooled": logits}), 10)
    assert kept.dtype == dtype
    assert torch.equal(kept, logits)
    assert loss_of(logits, kept) == (0.0, 0.0)


def test_float16_rounds_logits_and_features_and_gives_float32() -> None:
    rows = pack({"logits": LOGITS, "pooled": LOGITS}, dtype="float16")
    assert {values.dtype for values in rows.values()} == {torch.float16}
    kept = unpack_logits(rows, 10)
    assert kept.dtype == torch.float32
    assert 0 < (kept - LOGITS).abs().max() <= 2**-11 * LOGITS.abs().max()
    assert loss_of(LOGITS, kept).logit == (kept - LOGITS).abs().max()


def test_float16_stays_finite_at_extreme_logits() -> None:
    assert unpack_logits(pack({"logits": LOGITS * 1e6}, dtype="float16"), 10).isfinite().all()


@pytest.mark.parametrize("k", [1, 3, 9])
def test_top_k_keeps_probabilities_of_the_top_and_shares_the_rest_equally(k: int) -> None:
    kept = unpack_logits(pack({"logits": LOGITS}, top_k=k), 10).double().softmax(1)
    for row, logits in zip(kept.tolist(), LOGITS.tolist(), strict=True):
        scores = [math.exp(value) for value in logits]
        order = sorted(range(10), key=lambda c: -scores[c])
        rest = sum(scores[c] for c in order[k:]) / (10 - k) / sum(scores)
        expected = [scores[c] / sum(scores) if c in order[:k] else rest for c in range(10)]
        assert row == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_the_largest_change_and_the_mean_divergence() -> None:
    kept = unpack_logits(pack({"logits": LOGITS}, top_k=3), 10)
    loss = loss_of(LOGITS, kept)
    p, q = LOGITS.double().softmax(1), kept.double().softmax(1)
    assert loss.kl == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-4)
    assert loss.logit == pytest.approx(float((LOGITS - kept).abs().max()))
    assert "nats" in str(loss)
