import numpy as np
import pytest
import torch
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.taps import TapReader
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._strong_view import OPERATIONS, cut_out, strong_view
from kdbench.criteria.mlkd import MLKD, relation_loss, share_below_median

PIXELS = torch.randint(0, 256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0)).float() / 255
BATCH = Batch(PIXELS, torch.arange(6) % 4, torch.arange(6))
TEMPERATURES = [4.0, 3.0, 5.0, 2.0, 6.0]


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Hardtanh(-9, 9))


def terms(student, teacher, **options):
    own, other = TapReader(student)(BATCH.inputs), TapReader(teacher)(BATCH.inputs)
    torch.manual_seed(5)
    return MLKD(**options)(own, [other], BATCH)


def softmax(logits, temperature):
    scaled = np.exp(logits / temperature)
    return scaled / scaled.sum(1, keepdims=True)


def standardized(logits):
    return (logits - logits.mean(1, keepdims=True)) / (logits.std(1, keepdims=True, ddof=1) + 1e-7)


def oracle(student, teacher, ready=lambda logits: logits):
    torch.manual_seed(5)
    strong = strong_view(BATCH.inputs)
    with torch.no_grad():
        w, s, wt, st = (np.asarray(net(x).double()) for net in (student, teacher) for x in (BATCH.inputs, strong))
    p = softmax(wt, 1.0)
    m = np.mean(p.max(1) <= np.percentile(p.max(1), 50))
    c = np.mean(p.sum(0) <= np.percentile(p.sum(0), 50))

    def kl(own, other, temperature):
        p, q = softmax(ready(other), temperature), softmax(ready(own), temperature)
        return temperature**2 * sum(pc * np.log(pc / qc) for pc, qc in zip(p.flat, q.flat, strict=True)) / len(own)

    instance = m * sum(kl(w, wt, t) for t in TEMPERATURES) + sum(kl(s, st, t) for t in (4, 3, 5))
    instance += sum(kl(w, wt, t) for t in (2, 6))
    classes = batches = 0.0
    for t in TEMPERATURES:
        own, other = softmax(w, t), softmax(wt, t)
        classes += c * np.sum((other.T @ other - own.T @ own) ** 2) / 4
        batches += m * np.sum((other @ other.T - own @ own.T) ** 2) / 6
    task = -np.mean([np.log(softmax(s, 1.0)[i, y]) for i, y in enumerate(BATCH.target.tolist())])
    return {"mlkd_task": task, "mlkd_instance": instance, "mlkd_class": classes, "mlkd_batch": batches}


def test_mlkd_equals_the_definition():
    student, teacher = network(0), network(1)
    found = {name: term.item() for name, term in terms(student, teacher).items()}
    assert found == pytest.approx(oracle(student, teacher), rel=1e-4)


def test_standardised_divergences_leave_the_relations_as_they_are():
    student, teacher = network(0), network(1)
    found = {name: term.item() for name, term in terms(student, teacher, standardized=True).items()}
    assert found == pytest.approx(oracle(student, teacher, standardized), rel=1e-4)


def test_mlkd_of_equal_networks_is_zero_but_for_the_task():
    found = terms(network(0), network(0))
    assert found.pop("mlkd_task") > 0
    assert all(term.item() == pytest.approx(0, abs=1e-5) for term in found.values())


def test_every_term_reaches_the_student_and_none_the_teacher():
    for name in MLKD.terms:
        student, teacher = network(0), network(1)
        terms(student, teacher)[name].backward()
        assert student[1].weight.grad.any()
        assert teacher[1].weight.grad is None


def test_relation_loss_gradient_equals_finite_differences():
    draw = [torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert torch.autograd.gradcheck(relation_loss, [draw[0].requires_grad_(), draw[1]])


def test_a_few_steps_on_mlkd_alone_shrink_it():
    student, teacher = network(0), network(1)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.002)
    losses = []
    for _ in range(8):
        loss = torch.stack(list(terms(student, teacher).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_half_of_an_even_number_is_at_most_the_median():
    assert share_below_median(torch.tensor([4.0, 1.0, 3.0, 2.0])) == 0.5
    assert share_below_median(torch.tensor([1.0, 3.0, 2.0])).item() == pytest.approx(2 / 3)


def test_mlkd_is_finite_at_extreme_logits():
    own, other = (ModelOutput(1000 * torch.randn(6, 4), {}, lambda x: ModelOutput(1000 * torch.randn(6, 4), {}))
                  for _ in range(2))  # fmt: skip
    assert all(term.isfinite() for term in MLKD()(own, [other], BATCH).values())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_strong_view_is_another_image_in_range_and_the_same_for_a_seed(channels):
    views = []
    for _ in range(2):
        torch.manual_seed(0)
        views.append(strong_view(PIXELS[:, :channels]))
    assert torch.equal(*views)
    assert views[0].shape == (6, channels, 8, 8)
    assert views[0].min() >= 0
    assert views[0].max() <= 1
    assert sum(not torch.equal(a, b) for a, b in zip(views[0], PIXELS[:, :channels], strict=True)) >= 4


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_every_operation_takes_its_whole_range(name, share):
    operation, low, high = OPERATIONS[name]
    image = (PIXELS[0] * 255).to(torch.uint8)
    before = image.clone()
    moved = operation(image, low + share * (high - low))
    assert moved.dtype == torch.uint8
    assert moved.shape == image.shape
    assert torch.equal(image, before)
    if share == 0.0 and name not in ("identity", "auto_contrast", "equalize"):  # 64 pixels are too few for these
        assert not torch.equal(moved, image)


def test_operations_do_what_their_names_say():
    image = torch.arange(100, dtype=torch.uint8).reshape(1, 10, 10)
    apply = {name: operation for name, (operation, _, _) in OPERATIONS.items()}
    assert torch.equal(apply["translate_x"](image, 0.2)[:, :, 2:], image[:, :, :8])
    assert torch.equal(apply["translate_y"](image, -0.3)[:, :7], image[:, 3:])
    assert torch.equal(apply["solarize"](image, 50.0).flatten()[[49, 50]], torch.tensor([49, 205], dtype=torch.uint8))
    assert torch.equal(apply["posterize"](image, 4.9).unique(), torch.arange(0, 100, 16, dtype=torch.uint8))
    assert apply["brightness"](image, 0.5).max() == 49


def test_a_cutout_is_a_grey_square_of_up_to_half_the_side():
    image, sizes = torch.zeros(3, 32, 32, dtype=torch.uint8), []
    for seed in range(50):
        torch.manual_seed(seed)
        hole = cut_out(image)[0] == 125
        rows, columns = hole.any(1).sum().item(), hole.any(0).sum().item()
        assert hole.sum() == rows * columns
        sizes.append(max(rows, columns))
    assert max(sizes) <= 17
    assert max(sizes) > 12
    assert not image.any()


def test_mlkd_refuses_what_it_cannot_view_strongly():
    spec = NetworkSpec("toy", 4)
    with pytest.raises(ConfigError, match="MLKD makes strong views of images with 1 or 3 channels; toy has"):
        MLKD().setup(spec, [spec], DataSpec("toy", 4, (2, 8, 8), (0.5,), (0.5,)))


@pytest.mark.parametrize(
    ("temperatures", "message"), [([4.0], "five numbers"), ([1.0, 2.0, 3.0, 4.0, 0.0], "a number between 0")]
)
def test_mlkd_refuses_wrong_temperatures(temperatures, message):
    with pytest.raises(ConfigError, match=message):
        MLKD(temperatures=temperatures)
