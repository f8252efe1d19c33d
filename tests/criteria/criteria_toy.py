"""Features of two networks, and what every criterion over features promises."""

import pytest
import torch

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec, Progress

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, -1, 0])
DATA = DataSpec("toy", 3, (1, 4, 4), (0.5,), (0.5,), train_size=7, index_size=8, labels=LABELS)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spec(shapes, name="toy", head=None):
    return NetworkSpec(name, 3, {f"tap{number}": shape for number, shape in enumerate(shapes)}, head)


class Pair:
    """A criterion in float64, set up for two networks whose features are random numbers."""

    def __init__(self, criterion, student, teacher, *, size=4, head=None):
        torch.manual_seed(0)
        criterion.setup(spec(student), [spec(teacher, head=head)], DATA)
        self.criterion = criterion.double()
        self.batch = Batch(torch.zeros(size, 1), LABELS[:size], torch.arange(size))
        self.student = [draw(size, *shape, seed=number) for number, shape in enumerate(student)]
        self.teacher = [draw(size, *shape, seed=number + 10) for number, shape in enumerate(teacher)]
        self.logits = draw(size, 3, seed=20)

    def terms(self, *student, teacher=None):
        torch.manual_seed(1)  # for criteria that draw
        own = ModelOutput(self.logits, dict(enumerate(student or self.student)))
        other = ModelOutput(self.logits, dict(enumerate(teacher or self.teacher)))
        return self.criterion(own, [other], self.batch)

    def total(self, *student, teacher=None):
        return torch.stack(list(self.terms(*student, teacher=teacher).values())).sum()


class FeatureRig:
    """The tests of every criterion over features; a subclass gives :meth:`make`, and ``lr`` for its scale.

    ``plain`` says that nothing trainable stands before the loss, so that autocast must not touch the numbers at all.
    """

    lr = 0.1
    plain = True

    def make(self) -> Pair:
        raise NotImplementedError

    def test_gradient_equals_finite_differences(self):
        pair = self.make()
        pair.total()  # what is fixed by the first batch
        assert torch.autograd.gradcheck(pair.total, [features.requires_grad_() for features in pair.student])

    def test_gradient_reaches_every_student_feature_and_no_teacher(self):
        pair = self.make()
        pair.total(
            *(features.requires_grad_() for features in pair.student),
            teacher=[features.requires_grad_() for features in pair.teacher],
        ).backward()
        assert all(features.grad is not None and features.grad.any() for features in pair.student)
        assert all(features.grad is None for features in pair.teacher)

    def test_a_few_steps_on_the_criterion_alone_shrink_it(self):
        pair = self.make()
        tensors = [*(features.requires_grad_() for features in pair.student), *pair.criterion.parameters()]
        optimizer = torch.optim.SGD(tensors, lr=self.lr)
        losses = []
        for _ in range(8):
            loss = pair.total()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pair.criterion.after_step(Progress(1, 8, 8))
            losses.append(loss.item())
        assert losses[-1] < losses[0] - 0.01 * abs(losses[0])

    def test_memory_format_of_maps_changes_nothing(self):
        pair = self.make()
        last = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in pair.student]
        torch.testing.assert_close(self.make().terms(*last), self.make().terms())

    def test_terms_keep_float32_accuracy_under_autocast(self):
        pair, other = self.make(), self.make()
        half = [features.bfloat16() for features in pair.student], [features.bfloat16() for features in pair.teacher]
        wide = [[features.float() for features in side] for side in half]
        pair.criterion.float(), other.criterion.float()
        pair.logits, other.logits = pair.logits.float(), other.logits.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = pair.terms(*half[0], teacher=half[1])
        expected = other.terms(*wide[0], teacher=wide[1])
        assert all(term.dtype == torch.float32 for term in found.values())
        torch.testing.assert_close(found, expected, rtol=1e-5 if self.plain else 0.1, atol=1e-7 if self.plain else 0.1)

    def test_zero_features_have_a_finite_gradient(self):
        pair = self.make()
        zeros = [torch.zeros_like(features, requires_grad=True) for features in pair.student]
        loss = pair.total(*zeros)
        loss.backward()
        assert loss.isfinite()
        assert all(features.grad is None or features.grad.abs().max() < 1e6 for features in zeros)

    def test_missing_taps_are_refused(self):
        pair = self.make()
        criterion = type(pair.criterion)()
        with pytest.raises(
            ConfigError, match=f"{type(criterion).__name__} reads .* one tap of the student, here are 0"
        ):
            criterion.setup(spec([]), [spec([])], DATA)
