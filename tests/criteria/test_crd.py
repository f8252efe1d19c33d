import math
from dataclasses import replace

import pytest
import torch
from criteria_toy import DATA, LABELS, FeatureRig, Pair, draw, spec

from kdbench.core.errors import ConfigError
from kdbench.core.types import Progress
from kdbench.criteria.crd import CRD, nce_loss

PROGRESS = Progress(1, 8, 8)


def make(**options):
    return Pair(CRD(**{"dim": 6, "negatives": 3, **options}), [(3,)], [(5,)])


def rows_of(pair):
    torch.manual_seed(1)
    return pair.criterion._draw_rows(pair.batch.index)


class TestPromises(FeatureRig):
    lr = 0.01
    plain = False

    def make(self):
        return make()


def oracle_side(anchors, bank, rows, temperature, samples):
    scores = [
        [math.exp(sum(x * y for x, y in zip(v, bank[j], strict=True)) / temperature) for j in own]
        for v, own in zip(anchors, rows, strict=True)
    ]
    partition = sum(sum(own) for own in scores) / (len(scores) * len(scores[0])) * samples
    noise = (len(scores[0]) - 1) / samples
    total = 0.0
    for positive, *negatives in ([value / partition for value in own] for own in scores):
        total += math.log(positive / (positive + noise + 1e-7))
        total += sum(math.log(noise / (value + noise + 1e-7)) for value in negatives)
    return -total / len(scores)


@pytest.mark.parametrize("positive", ["exact", "relaxed"])
def test_crd_equals_the_definition(positive):
    pair = make(positive=positive, temperature=0.5)
    rows = rows_of(pair).tolist()
    banks = pair.criterion.teacher_bank.numpy(), pair.criterion.student_bank.numpy()
    layers = pair.criterion.student_embedding, pair.criterion.teacher_embedding
    total = 0.0
    for features, layer, bank in zip((pair.student[0], pair.teacher[0]), layers, banks, strict=True):
        embedded = layer(features).detach().numpy()
        anchors = [v / math.sqrt(sum(value**2 for value in v)) for v in embedded]
        total += oracle_side(anchors, bank, rows, 0.5, samples=7)
    assert pair.terms()["crd"].item() == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("negatives", [3, 50])
def test_negatives_are_of_other_classes_and_never_held_out(negatives):
    rows = rows_of(make(negatives=negatives))
    labels = LABELS[rows]
    assert rows.shape == (4, 1 + negatives)
    assert (labels[:, 1:] != labels[:, :1]).all()
    assert (labels >= 0).all()


def test_negatives_repeat_only_if_there_are_too_few():
    assert all(len(set(row[1:])) == 4 for row in rows_of(make(negatives=4)).tolist())
    assert make(negatives=5).criterion.replacement


def test_negatives_are_drawn_uniformly():
    rows = rows_of(make(negatives=4000))[0, 1:]
    counts = rows.bincount(minlength=8)
    assert counts.tolist()[0] == counts.tolist()[6] == 0
    assert all(900 < counts[j] < 1100 for j in (1, 2, 4, 5))


def test_exact_positive_is_the_sample_itself():
    assert rows_of(make())[:, 0].tolist() == [0, 1, 2, 3]


def test_relaxed_positive_is_any_training_sample_of_the_class():
    pair = make(positive="relaxed")
    drawn = pair.criterion._draw_rows(torch.zeros(64, dtype=torch.int64))[:, 0]
    assert drawn.unique().tolist() == [0, 3, 7]


def test_banks_move_the_batch_s_own_rows_after_the_step_and_no_others():
    pair = make(positive="relaxed")
    banks = pair.criterion.student_bank, pair.criterion.teacher_bank
    before = [bank.clone() for bank in banks]
    pair.terms()
    assert all(torch.equal(bank, old) for bank, old in zip(banks, before, strict=True))
    pair.criterion.after_step(PROGRESS)
    layers = pair.criterion.student_embedding, pair.criterion.teacher_embedding
    for bank, old, layer, features in zip(banks, before, layers, (pair.student[0], pair.teacher[0]), strict=True):
        moved = old[:4] / 2 + torch.nn.functional.normalize(layer(features)) / 2
        torch.testing.assert_close(bank[:4], torch.nn.functional.normalize(moved).detach())
        torch.testing.assert_close(bank[4:], old[4:], rtol=0, atol=0)
    after = banks[0].clone()
    pair.criterion.after_step(PROGRESS)
    assert torch.equal(banks[0], after), "a batch moves its rows once"


def test_partition_is_fixed_by_the_first_batch():
    pair = make()
    pair.terms()
    first = pair.criterion.partitions.clone()
    assert (first > 0).all()
    pair.criterion.after_step(PROGRESS)
    pair.terms(pair.student[0] * -2.0)
    torch.testing.assert_close(pair.criterion.partitions, first, rtol=0, atol=0)


def test_a_resumed_criterion_gives_the_same_next_loss():
    pair, resumed = make(), make()
    pair.terms()
    pair.criterion.after_step(PROGRESS)
    untouched = resumed.terms()
    resumed.criterion.load_state_dict(pair.criterion.state_dict())
    torch.testing.assert_close(resumed.terms(), pair.terms(), rtol=0, atol=0)
    assert untouched != pair.terms()
    state = {name for name in pair.criterion.state_dict() if "embedding" not in name}
    assert state == {"student_bank", "teacher_bank", "partitions"}


def test_banks_start_uniform_with_a_row_for_every_index():
    criterion = make(dim=128).criterion
    assert criterion.student_bank.shape == (8, 128)
    assert criterion.student_bank.abs().max() <= 1 / math.sqrt(128 / 3)
    assert criterion.student_bank.std().item() == pytest.approx(1 / math.sqrt(128), rel=0.05)
    assert not torch.equal(criterion.student_bank, criterion.teacher_bank)


def test_loss_is_finite_for_extreme_scores_in_value_and_gradient():
    scores = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, 0.0]], requires_grad=True)
    loss = nce_loss(scores, torch.tensor(2.0), samples=100)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def test_both_embeddings_are_trained_and_no_bank_is():
    pair = make()
    pair.total().backward()
    assert all(p.grad is not None and p.grad.any() for p in pair.criterion.parameters())
    assert not pair.criterion.student_bank.requires_grad


def test_sum_over_thousands_of_negatives_keeps_float32_accuracy():
    scores, partition = draw(2, 16385) / 0.07, torch.tensor(20.0)
    wide = nce_loss(scores, partition, samples=50000)
    torch.testing.assert_close(nce_loss(scores.float(), partition, samples=50000), wide.float())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "CRD draws negatives by class, but the labels of toy are not known"),
        (torch.tensor([1, 1, -1]), "CRD draws negatives of other classes, but toy has one class"),
    ],
)
def test_crd_refuses_data_without_other_classes(labels, message):
    with pytest.raises(ConfigError, match=message):
        CRD().setup(spec([(3,)]), [spec([(3,)])], replace(DATA, labels=labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positive": "relax"}, "crd.positive=relax: unknown; did you mean 'relaxed'"),
        ({"momentum": 1}, "crd.momentum=1: a number between 0 and 1"),
        ({"temperature": 0}, "crd.temperature=0: a number"),
        ({"negatives": 0}, "crd.negatives=0: a number"),
        ({"dim": 0}, "crd.dim=0: a number"),
    ],
)
def test_crd_refuses_a_wrong_option(options, message):
    with pytest.raises(ConfigError, match=message):
        CRD(**options)
