import itertools

import numpy as np
import pytest
import torch
from criteria_toy import DATA, FeatureRig, Pair, draw, spec

from kdbench.core.errors import ConfigError
from kdbench.criteria.dpk import DPK, linear_cka

STUDENT, TEACHER = [(3, 4, 4), (5, 2, 2)], [(4, 4, 4), (6, 4, 4)]
SMALL = {"width": 8, "heads": 2}


def make(**options):
    return Pair(DPK(**{**SMALL, **options}), STUDENT, TEACHER)


class TestPromises(FeatureRig):
    plain = False

    def make(self):
        return make(mask="fixed", mask_scope="sample")


def oracle_hsic(k, m):
    """Song et al.'s estimator: means over tuples of different samples."""
    n = len(k)
    pairs, triples, quadruples = (list(itertools.permutations(range(n), count)) for count in (2, 3, 4))
    return (
        sum(k[i, j] * m[i, j] for i, j in pairs) / len(pairs)
        - 2 * sum(k[i, j] * m[i, q] for i, j, q in triples) / len(triples)
        + sum(k[i, j] * m[q, r] for i, j, q, r in quadruples) / len(quadruples)
    )


def test_unbiased_cka_equals_the_mean_over_tuples():
    x, y = draw(6, 2), draw(6, 2, seed=1) + draw(6, 2)
    k, m = (np.asarray(each @ each.T) for each in (x, y))
    expected = oracle_hsic(k, m) / np.sqrt(oracle_hsic(k, k) * oracle_hsic(m, m))
    assert linear_cka(x, y, unbiased=True).item() == pytest.approx(expected, rel=1e-9)


def test_biased_cka_equals_the_formula_over_features():
    x, y = (np.asarray(draw(6, width, seed=width)) for width in (3, 5))
    x, y = (each - each.mean(0) for each in (x, y))
    expected = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    found = linear_cka(draw(6, 3, seed=3), draw(6, 5, seed=5), unbiased=False)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_unrelated_features_are_unlike_only_without_bias():
    x, y = draw(64, 4096), draw(64, 4096, seed=1)
    assert linear_cka(x, y, unbiased=False).item() == pytest.approx(0.985, abs=0.003)
    assert linear_cka(x, y, unbiased=True).item() < 0.05


@pytest.mark.parametrize("unbiased", [True, False])
def test_cka_of_equal_features_is_one_and_of_constant_ones_finite(unbiased):
    assert linear_cka(draw(8, 5), draw(8, 5), unbiased=unbiased).item() == pytest.approx(1)
    assert linear_cka(torch.ones(8, 5), torch.ones(8, 5), unbiased=unbiased).isfinite()


def test_dpk_equals_the_definition_given_its_parts():
    pair = make(mask="fixed", share=0.5, mask_scope="sample")
    terms = pair.terms()
    torch.manual_seed(1)
    total, places, shares = 0.0, 0.0, []
    for level, own, other in zip(pair.criterion.levels, pair.student, pair.teacher, strict=True):
        if other.shape[2] > own.shape[2]:
            other = other.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5))
        own, other = ((x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
                      for x in (own, other))  # fmt: skip
        mask = torch.rand(4, 4, 1) < 0.5
        hybrid = torch.where(mask, level.teacher(other), level.student(own))
        error = np.asarray(((level.decode(hybrid) - other) ** 2).detach())
        patch = level.patch
        rows = [(error[b, :, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].mean(), bool(mask[b, 2 * r + c]))
                for b in range(4) for r in range(2) for c in range(2)]  # fmt: skip
        total += sum(value for value, _ in rows) / len(rows)
        alone = [value for value, of_teacher in rows if not of_teacher]
        places += sum(alone) / len(alone)
        shares += [of_teacher for _, of_teacher in rows]
    assert terms["dpk"].item() == pytest.approx(total, rel=1e-9)
    assert terms["dpk_student"].item() == pytest.approx(places, rel=1e-9)
    assert terms["dpk_share"].item() == pytest.approx(np.mean(shares), rel=1e-6)


@pytest.mark.parametrize("share", [0.15, 0.35, 0.55, 0.75, 0.95])
def test_the_teachers_part_is_its_share_in_the_mean(share):
    pair = make(mask="fixed", share=share, mask_scope="sample")
    tokens = draw(500, 64, 8)
    assert pair.criterion._draw(0, tokens, tokens).float().mean().item() == pytest.approx(share, abs=0.01)


def test_equal_tokens_need_no_teacher_and_unlike_ones_need_it_all():
    pair = make(ema=0.0)
    tokens, other = draw(64, 200, 8), draw(64, 200, 8, seed=1)
    assert not pair.criterion._draw(0, tokens, tokens).any()
    assert pair.criterion._draw(1, tokens, other).float().mean() > 0.9
    torch.testing.assert_close(pair.criterion.similarity, torch.tensor([1.0, 0.0]).double(), atol=0.1, rtol=0)


def test_likeness_is_averaged_over_steps_and_part_of_the_state():
    pair = make(ema=0.9)
    for _ in range(2):
        pair.criterion._draw(0, draw(8, 4, 8), draw(8, 4, 8))
    assert pair.criterion.state_dict()["similarity"][0].item() == pytest.approx(1 - 0.5 * 0.9**2)
    pair.criterion._draw(0, draw(3, 4, 8), draw(3, 4, 8, seed=1))
    assert pair.criterion.similarity[0].item() == pytest.approx(1 - 0.5 * 0.9**2)


@pytest.mark.parametrize("scope", ["batch", "sample"])
def test_scope_says_whether_samples_share_a_mask(scope):
    mask = make(mask="fixed", mask_scope=scope).criterion._draw(0, draw(6, 64, 8), draw(6, 64, 8))
    assert mask.shape == ((1 if scope == "batch" else 6), 64, 1)


def test_gradient_reaches_the_students_tokens_only_where_the_teachers_do_not_stand_in():
    pair = make(mask="fixed", share=0.5)
    level = pair.criterion.levels[0]
    kept = {}
    level.student.register_forward_hook(lambda *args: args[2].retain_grad() or kept.update(tokens=args[2]))
    draws = pair.criterion._draw
    pair.criterion._draw = lambda number, *args: kept.setdefault(number, draws(number, *args))
    pair.terms()["dpk"].backward()
    mask = kept[0].expand(4, 4, 1).squeeze(-1)
    reached = kept["tokens"].grad.abs().sum(-1) > 0
    assert mask.any()
    assert torch.equal(reached, ~mask)


@pytest.mark.parametrize("mask", ["cka", "fixed", "random"])
def test_every_kind_of_share_runs(mask):
    assert all(term.isfinite() for term in make(mask=mask).terms().values())


def test_maps_that_cannot_be_cut_alike_are_refused():
    with pytest.raises(ConfigError, match=r"DPK cannot cut a 3x3 map into 2x2 square tokens, which method\.patch=1"):
        DPK().setup(spec([(3, 3, 3), (5, 2, 2)]), [spec([(3, 3, 3), (5, 2, 2)])], DATA)
    with pytest.raises(ConfigError, match="DPK cannot cut a 2x2 map into 0x0"):
        DPK(patch=4).setup(spec([(5, 2, 2)]), [spec([(5, 2, 2)])], DATA)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": "mean"}, "dpk.mask=mean: unknown"),
        ({"share": 1.0}, "dpk.share=1.0: a number between 0 and 1"),
        ({"mask_scope": "token"}, "dpk.mask_scope=token: unknown"),
        ({"cka": "none"}, "dpk.cka=none: unknown"),
        ({"ema": 1}, "dpk.ema=1: a number"),
        ({"patch": 0}, "dpk.patch=0: a whole number of at least 1"),
        ({"heads": 3}, "dpk.width=64: it must be a multiple of dpk.heads=3"),
    ],
)
def test_dpk_refuses_a_wrong_option(options, message):
    with pytest.raises(ConfigError, match=message):
        DPK(**options)
