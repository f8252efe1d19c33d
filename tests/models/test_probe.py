import pytest
import torch
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.taps import TapReader
from kdbench.models import Network, create_network, describe_taps, probe
from kdbench.models.probe import dry_run


def _config(target: str, **options):
    return {"_target_": target, "version": 1, **options}


@pytest.fixture
def network(make_data):
    config = _config("kdbench.models.cifar_resnet.CifarResNet", depth=8, widths=[4, 4, 8, 16])
    return create_network(config, make_data(), name="resnet8", seed=0)


def test_probe_measures_canonical_taps_and_module_paths(network, make_data):
    spec = probe(network, ["stem", "stage2", "stage3.preact", "pooled", "logits", "body.stages.1.0.conv1"], make_data())
    assert (spec.name, spec.num_classes) == ("resnet8", 10)
    assert spec.shapes == {
        "stem": (4, 32, 32),
        "stage2": (8, 16, 16),
        "stage3.preact": (16, 8, 8),
        "pooled": (16,),
        "logits": (10,),
        "body.stages.1.0.conv1": (8, 16, 16),
    }


def test_probe_finds_the_norm_that_ran_last_before_a_tap(network, make_data):
    norms = probe(network, ["body.conv", "stem", "stage2", "stage2.preact"], make_data()).norms
    stage = network.body.stages[1][0]
    assert norms == {
        "stem": network.body.norm,
        "stage2": stage.norm2,
        "stage2.preact": stage.norm2,
    }  # not the shortcut's
    config = _config("kdbench.models.wrn.WideResNet", depth=10, width=1)
    wide = create_network(config, make_data(), name="wrn", seed=0)
    names = [f"stage{number}.preact" for number in (1, 2, 3)]
    body = wide.body
    found = probe(wide, names, make_data()).norms
    assert list(found.values()) == [body.stages[1][0].norm1, body.stages[2][0].norm1, body.norm]


def test_probe_leaves_modes_statistics_hooks_and_random_state_as_they_were(network, make_data):
    network.train()
    network.body.stages[0].eval()
    modes = [module.training for module in network.modules()]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    probe(network, ["stage1"], make_data())
    describe_taps(network, make_data())
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_probe_of_a_network_that_draws_at_random_touches_no_other_draw(make_data):
    class Noisy(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x.flatten(1))  # also in eval mode

    network = Network(Noisy(), name="noisy", num_classes=4, mean=[0.5], std=[1.0], taps={})
    state = torch.get_rng_state()
    probe(network, ["logits"], make_data(side=2, channels=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_probe_of_an_unknown_tap_names_the_nearest(network, make_data):
    with pytest.raises(ConfigError, match="did you mean 'stage3'"):
        probe(network, ["stage4"], make_data())
    assert not any(module._forward_hooks for module in network.modules())


def test_described_taps_begin_with_the_canonical_ones_and_go_on_with_every_module(network, make_data):
    rows = describe_taps(network, make_data())
    assert [row.name for row in rows[: len(network.taps)]] == list(network.taps)
    assert rows[0] == ("stem", "body.act", "output", (4, 32, 32))
    assert ("body.stages.2.0.shortcut.0", "body.stages.2.0.shortcut.0", "output", (16, 8, 8)) in rows


class Awkward(nn.Module):
    """A module used twice, one overwritten in place, one that carries a tuple, one that is not used."""

    def __init__(self):
        super().__init__()
        self.twice, self.overwritten, self.pair, self.unused = nn.ReLU(), nn.Flatten(), nn.GRU(4, 3), nn.ReLU()

    def forward(self, x):
        x = self.overwritten(self.twice(self.twice(x)).sin())
        x += 1
        return self.pair(x)[0]


def test_described_taps_are_exactly_those_that_the_reader_accepts(make_data):
    network = Network(Awkward(), name="awkward", num_classes=3, mean=[0.5], std=[1.0], taps={})
    data = make_data(side=2, channels=1)
    described = {row.path for row in describe_taps(network, data)}
    for path, _ in list(network.named_modules())[1:]:
        reader = TapReader(network, [path])
        try:
            reader(torch.rand(2, 1, 2, 2))
            accepted = True
        except ConfigError:
            accepted = False
        reader.close()
        assert (path in described) == accepted
    assert described == {"body"}


def test_dry_run_removes_its_hooks_even_when_the_network_fails(make_data):
    network = Network(nn.Sequential(nn.Linear(3, 3)), name="x", num_classes=3, mean=[0.5], std=[1.0], taps={})
    with pytest.raises(RuntimeError):
        dry_run(network, make_data())
    assert not any(module._forward_hooks for module in network.modules())
