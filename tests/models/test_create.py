import textwrap

import pytest
import torch

from kdbench.core.errors import ConfigError
from kdbench.models import create_network

PLAIN2 = {
    "_target_": "kdbench.models.plain_cnn.PlainCNN",
    "size": 2,
    "variant": "auto",
    "widths": None,
    "version": 1,
}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A user's module ``mynets``, and the config of one of its classes."""
    (tmp_path / "mynets.py").write_text(
        textwrap.dedent("""
        import torch
        from torch import nn
        from kdbench.core.types import Tap

        class Net(nn.Sequential):
            def __init__(self, width, num_classes, in_channels, depth=1):
                super().__init__(nn.Conv2d(in_channels, width, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1),
                                 nn.Flatten(), nn.Dropout(), nn.Linear(width, num_classes))

        class Deaf(nn.Sequential):  # knows nothing of the data
            def __init__(self):
                super().__init__(nn.Flatten(), nn.LazyLinear(7))

        class Mistapped(Net):
            taps = {"stem": Tap("9")}

        class Wide(nn.Sequential):
            def __init__(self, image_size, num_classes):
                super().__init__(nn.Conv2d(3, 4, 40), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
                self.image_size = image_size

        class Broken(nn.Module):
            def forward(self, x):
                raise RuntimeError("always\\nbroken")
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name, **args: {"_target_": f"mynets.{name}", "args": args, "version": 1}


def test_network_takes_classes_channels_and_size_from_the_data(make_data):
    network = create_network(PLAIN2, make_data(side=8, num_classes=5, channels=1), name="plain2", seed=0)
    assert network(torch.rand(3, 1, 8, 8)).shape == (3, 5)
    assert (network.name, network.num_classes, network.head) == ("plain2", 5, "body.fc")
    assert network.mean.flatten().tolist() == pytest.approx([0.4])
    assert list(network.taps) == ["stem", "stage1", "stage1.preact", "stage2", "stage2.preact", "pooled", "logits"]


def test_initial_weights_are_a_function_of_the_seed_and_touch_no_other_draw(make_data):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again, other = (create_network(PLAIN2, make_data(), name="plain2", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.body.fc.weight, again.body.fc.weight)
    assert not torch.equal(first.body.fc.weight, other.body.fc.weight)
    torch.rand(5)
    assert torch.equal(first.body.fc.weight, create_network(PLAIN2, make_data(), name="x", seed=1).body.fc.weight)


def test_network_comes_in_train_mode_with_fresh_statistics(make_data):
    network = create_network(PLAIN2, make_data(), name="plain2", seed=0)
    assert all(module.training for module in network.modules())
    assert network.body.stages[0][0].norm.num_batches_tracked == 0


def test_users_module_is_built_from_its_args_and_the_data(mine, make_data):
    network = create_network(mine("Net", width=6), make_data(num_classes=4), name="mine", seed=0, trusted=["mynets"])
    assert network(torch.rand(2, 3, 9, 9)).shape == (2, 4)
    assert network.head == "body.5"
    assert list(network.taps) == ["last_map", "pooled", "logits"]


def test_inplace_activations_are_switched_off(mine, make_data):
    network = create_network(mine("Net", width=6), make_data(), name="mine", seed=0, trusted=["mynets"])
    assert not any(getattr(module, "inplace", False) for module in network.modules())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PLAIN2 | {"widht": [1, 2]}, "plain2: 'widht' is no argument of PlainCNN; did you mean 'widths'"),
        ({"_target_": "kdbench.models.plain_cnn.PlainCNN"}, "plain2: PlainCNN: missing a required argument: 'size'"),
        (PLAIN2 | {"size": 8}, "^plain8 takes images of at least 16x16, here 8x8"),
        ({"_target_": None, "args": {}}, "_target_ is not set"),
        ({"args": {}}, "_target_ is not set"),
    ],
)
def test_configs_that_build_nothing_are_refused(config, message, make_data):
    with pytest.raises(ConfigError, match=message):
        create_network(config, make_data(side=8), name="plain2", seed=0)


def test_an_untrusted_module_is_refused(mine, make_data):
    with pytest.raises(ConfigError, match="'mynets' is not trusted"):
        create_network(mine("Net", width=6), make_data(), name="mine", seed=0)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        (
            "Deaf",
            {},
            r"mine: gives \(2, 7\) for 2 samples, not \(2, 10\); its last layer must have as many outputs as fake",
        ),
        ("Mistapped", {"width": 2}, r"mine: its tap 'stem' \(body.9, output\) cannot be read"),
        ("Wide", {}, "mine does not take images of 3x32x32 .*; of the sizes tried, 48x48 is the smallest that fits"),
        ("Broken", {}, "mine does not take samples of 3x32x32: always$"),
        ("Net", {"widht": 2}, "'widht' is no argument of Net; did you mean 'width'"),
    ],
)
def test_modules_that_do_not_fit_the_data_are_refused(mine, name, args, message, make_data):
    with pytest.raises(ConfigError, match=message):
        create_network(mine(name, **args), make_data(), name="mine", seed=0, trusted=["mynets"])


def test_a_refused_network_leaves_the_random_state_alone(mine, make_data):
    state = torch.get_rng_state()
    with pytest.raises(ConfigError):
        create_network(mine("Wide"), make_data(), name="mine", seed=0, trusted=["mynets"])
    assert torch.equal(torch.get_rng_state(), state)
