import pytest
import torch
from criteria_toy import DATA, FeatureRig, Pair, draw, spec
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.criteria.ft import FT, factor_loss

SHAPES = [(3, 4, 4)], [(4, 2, 2)]


class TestPromises(FeatureRig):
    plain = False

    def make(self):
        return Pair(FT(), *SHAPES)


def attention(factors):
    """Squares averaged over channels, divided by their length: `[H * W]`."""
    channels, height, width = factors.shape
    places = [(h, w) for h in range(height) for w in range(width)]
    squares = [sum(factors[d, h, w].item() ** 2 for d in range(channels)) / channels for h, w in places]
    length = sum(value**2 for value in squares) ** 0.5
    return [value / length for value in squares]


def pooled(maps, side):
    """The mean of each of `side` x `side` equal blocks."""
    step = maps.shape[1] // side
    blocks = maps.unfold(1, step, step).unfold(2, step, step)
    return torch.stack([torch.stack([blocks[:, i, j].sum((1, 2)) / step**2 for j in range(side)], 1)
                        for i in range(side)], 1)  # fmt: skip


def test_factor_loss_equals_the_definition_with_the_larger_map_pooled():
    own, other = draw(3, 2, 4, 4), draw(3, 5, 2, 2, seed=1)
    total = 0.0
    for b in range(3):
        pairs = zip(attention(pooled(own[b], 2)), attention(other[b]), strict=True)
        total += sum(abs(s - t) for s, t in pairs)
    assert factor_loss(own, other).item() == pytest.approx(total / (3 * 4), rel=1e-9)


def test_terms_are_the_loss_of_translated_and_encoded_maps_and_the_error_of_the_auto_encoder():
    pair = Pair(FT(), *SHAPES)
    criterion, (own,), (other,) = pair.criterion, pair.student, pair.teacher
    terms = pair.terms()
    code = criterion.encoder(other)
    torch.testing.assert_close(terms["ft"], factor_loss(criterion.translator(own), code))
    errors = (criterion.decoder(code) - other).flatten().tolist()
    assert terms["ft_reconstruction"].item() == pytest.approx(sum(e**2 for e in errors) / other.numel(), rel=1e-9)


def test_layers_are_those_of_repdistiller():
    criterion = Pair(FT(rate=0.5), [(3, 4, 4)], [(8, 4, 4)]).criterion

    def convs(part):
        return [(m.in_channels, m.out_channels) for m in part if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]

    assert convs(criterion.encoder) == [(8, 8), (8, 4), (4, 4)]
    assert convs(criterion.decoder) == [(4, 4), (4, 8), (8, 8)]
    assert convs(criterion.translator) == [(3, 3), (3, 4), (4, 4)]
    assert [type(m) for m in criterion.translator[:3]] == [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU]
    assert [type(m) for m in criterion.decoder[:2]] == [nn.ConvTranspose2d, nn.LeakyReLU]


def test_the_paraphraser_learns_only_from_its_reconstruction_and_is_frozen_without():
    pair = Pair(FT(), *SHAPES)
    pair.terms()["ft"].backward()
    assert all(p.grad is None for part in (pair.criterion.encoder, pair.criterion.decoder) for p in part.parameters())
    pair.criterion.enter_phase({"ft"})
    assert pair.terms().keys() == {"ft"}
    assert not any(p.requires_grad for p in pair.criterion.encoder.parameters())
    pair.criterion.enter_phase({"ft_reconstruction"})
    assert pair.terms().keys() == {"ft_reconstruction"}
    assert not any(p.requires_grad for p in pair.criterion.translator.parameters())


@pytest.mark.parametrize("rate", [0, 1.5, True])
def test_rate_out_of_range_is_refused(rate):
    with pytest.raises(ConfigError, match=r"ft\.rate="):
        FT(rate=rate)


def test_vectors_are_refused():
    with pytest.raises(ConfigError, match="FT reads maps"):
        FT().setup(spec([(4,)]), [spec([(4,)])], DATA)
