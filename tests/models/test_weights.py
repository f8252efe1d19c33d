import os
import random

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.models import (
    Network,
    classes_of,
    create_network,
    export_state,
    known_heads,
    load_weights,
    read_checkpoint,
)


@pytest.fixture
def make_network(make_data):
    def make(seed=0, num_classes=10, depth=8):
        config = {"_target_": "kdbench.models.cifar_resnet.CifarResNet", "depth": depth, "widths": [2, 2, 4, 4]}
        return create_network(config, make_data(num_classes=num_classes), name="resnet8", seed=seed)

    return make


def _equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def test_exported_weights_round_trip_through_safetensors(make_network, tmp_path):
    source, target = make_network(1).to(memory_format=torch.channels_last), make_network(2)
    source.mean.fill_(0.125)
    save_file(export_state(source), tmp_path / "w.safetensors")
    load_weights(target, read_checkpoint(tmp_path / "w.safetensors"), head="load")
    assert _equal(source.state_dict(), target.state_dict())  # the normalisation as well


def test_exported_state_is_contiguous_and_shares_no_memory(tmp_path):
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    state = export_state(tied)
    save_file(state, tmp_path / "w.safetensors")  # refuses shared and strided tensors
    state["0.weight"].zero_()
    assert tied[0].weight.abs().sum() > 0
    assert not any(value.requires_grad for value in state.values())


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "body.", "module.model."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "net", "model_state_dict"])
def test_checkpoints_of_others_are_unwrapped(make_network, tmp_path, wrapper, prefix):
    source, target = make_network(1), make_network(2)
    state = {prefix + key: value for key, value in source.body.state_dict().items()}
    torch.save(state if wrapper is None else {"epoch": 3, wrapper: state}, tmp_path / "w.pth")
    load_weights(target, read_checkpoint(tmp_path / "w.pth"), head="load")
    assert _equal(source.body.state_dict(), target.body.state_dict())


def test_checkpoints_in_torchs_old_format_are_read(make_network, tmp_path):
    source = make_network(1)
    torch.save(source.body.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert _equal(read_checkpoint(tmp_path / "w.pth"), dict(source.body.state_dict()))


def test_a_body_that_has_such_a_prefix_itself_is_loaded_all_the_same():
    def wrap():
        body = nn.ModuleDict({"model": nn.Linear(2, 2)})
        return Network(body, name="x", num_classes=2, mean=[0.0], std=[1.0], taps={})

    source, target = wrap(), wrap()
    for state in (source.state_dict(), source.body.state_dict(), source.body["model"].state_dict()):
        nn.init.zeros_(target.body["model"].weight)
        load_weights(target, state, head="load")
        assert torch.equal(target.body["model"].weight, source.body["model"].weight)


def test_foreign_weights_leave_the_normalisation_alone(make_network):
    source, target = make_network(1), make_network(2)
    source.mean.fill_(0.125)
    load_weights(target, source.body.state_dict(), head="load")
    assert target.mean.flatten().tolist() == pytest.approx([0.4] * 3)


def test_a_new_head_stays_as_it_was_and_the_rest_is_loaded(make_network):
    source, target = make_network(1, num_classes=7), make_network(2)
    before = target.body.fc.weight.clone()
    load_weights(target, source.state_dict(), head="new")
    assert torch.equal(target.body.fc.weight, before)
    assert torch.equal(target.body.conv.weight, source.body.conv.weight)


def test_a_new_head_needs_no_head_in_the_file(make_network):
    state = {key: value for key, value in make_network(1).body.state_dict().items() if not key.startswith("fc.")}
    load_weights(make_network(2), state, head="new")
    with pytest.raises(ConfigError, match=r"the weights lack 'fc.bias' and 1 more"):
        load_weights(make_network(2), state, head="load")


def test_classes_are_counted_in_the_files_head(make_network):
    network = make_network()
    assert classes_of(make_network(num_classes=7).state_dict(), network) == 7
    assert classes_of(make_network(num_classes=7).body.state_dict(), network) == 7
    assert classes_of({"conv.weight": torch.zeros(1)}, network) is None
    headless = Network(nn.Flatten(), name="x", num_classes=2, mean=[0.0], std=[1.0], taps={})
    assert classes_of({"fc.weight": torch.zeros(7, 2)}, headless) is None


def test_known_heads_are_those_of_the_classifier_alone(make_network):
    network = make_network()
    assert known_heads(network) == ("body.fc",)


def test_an_unknown_head_can_neither_be_trained_nor_replaced():
    network = Network(nn.Flatten(), name="x", num_classes=2, mean=[0.0], std=[1.0], taps={})
    with pytest.raises(ConfigError, match="x: which module is its classifier is unknown"):
        known_heads(network)
    with pytest.raises(ConfigError, match="x: which module is its classifier is unknown"):
        load_weights(network, {}, head="new")


def test_weights_that_do_not_fit_are_refused_whole(make_network):
    network = make_network(2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ConfigError, match=r"fc.weight is \(7, 4\) in the weights, \(10, 4\) here; a new head"):
        load_weights(network, make_network(1, num_classes=7).state_dict(), head="load")
    with pytest.raises(ConfigError, match=r"the weights lack 'stages.0.1.conv1.weight' and"):
        load_weights(make_network(depth=14), make_network(1).state_dict(), head="load")
    with pytest.raises(ConfigError, match=r"the weights have an unknown 'stages.0.1.conv1.weight' and"):
        load_weights(network, make_network(1, depth=14).state_dict(), head="load")
    with pytest.raises(ConfigError, match=r"conv.weight is .*; they are of another network"):
        load_weights(network, network.body.state_dict() | {"conv.weight": torch.zeros(3)}, head="load")
    assert _equal(network.state_dict(), before)


class Hostile:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"state_dict": x}, lambda x: {"w": torch.zeros(1), "x": x}])
def test_pickled_code_is_refused_and_not_run(tmp_path, wrap, zipped):
    victim = tmp_path / "executed"
    torch.save(wrap(Hostile(victim)), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError, match=r"it holds pickled objects, which could run code; save the state_dict\(\)"):
        read_checkpoint(tmp_path / "w.pth")
    assert not victim.exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="pickled objects"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch guesses at what damaged bytes mean
@pytest.mark.parametrize("name", ["w.pth", "old.pth", "w.safetensors"])
def test_damaged_files_are_refused_whatever_the_damage(make_network, tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(export_state(make_network()), path)
    else:
        torch.save(make_network().state_dict(), path, _use_new_zipfile_serialization=name == "w.pth")
    whole, dice = path.read_bytes(), random.Random(0)
    for length in [0, 1, 8, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"checkpoint .*(damaged|no file of weights)"):
            read_checkpoint(path)
        path.write_bytes(dice.randbytes(length))
        with pytest.raises(ConfigError, match=r"checkpoint .*(damaged|no file of weights)"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds a list, named tensors are expected"),
        ({}, "holds a dict, named tensors are expected"),
        ({"a.weight": torch.zeros(1), "epoch": 3}, "'epoch' is a int, not a tensor"),
    ],
)
def test_files_without_named_tensors_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=message):
        read_checkpoint(tmp_path / "w.pth")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        read_checkpoint(tmp_path / "w.pth")
