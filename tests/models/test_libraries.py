"""Networks of timm and torchvision; published weights come from caches made here, never from a network."""

import urllib.error
import urllib.request
from urllib.parse import urlparse

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.models import create_network, describe_taps, known_heads
from kdbench.models._pretrained import require_hub, require_url
from kdbench.models.pretrained import pretrained_identity

TIMM_SMALL, TORCHVISION_SMALL = "mobilenetv3_small_050", "shufflenet_v2_x0_5"


def _timm(model_name, **options):
    return {"_target_": "timm.create_model", "model_name": model_name, "pretrained": False, "args": {}} | options


def _torchvision(model_name, **options):
    return {"_target_": "torchvision.models.get_model", "model_name": model_name, "weights": None, "args": {}} | options


def _create(config, data, seed=0):
    return create_network(config, data, name="net", seed=seed)


def _shapes(network, data):
    return {row.name: row.shape for row in describe_taps(network, data) if row.name in network.taps}


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Empty caches, and a network that fails loudly."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


@pytest.fixture
def timm_weights(offline, monkeypatch):
    """The cached weights of a small timm network, as the hub's client lays them out."""
    source = timm.create_model(TIMM_SMALL)
    repository = offline / "hub" / f"models--{source.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    save_file(source.state_dict(), repository / "snapshots" / "abc" / "model.safetensors")
    monkeypatch.delattr("timm.models._hub.hf_hub_download")
    return source


@pytest.fixture
def torchvision_weights(offline):
    source = torchvision.models.get_model(TORCHVISION_SMALL)
    url = torchvision.models.get_model_weights(TORCHVISION_SMALL)["DEFAULT"].url
    folder = offline / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(source.state_dict(), folder / urlparse(url).path.rpartition("/")[2])
    return source


def test_timm_resnet_has_stem_stages_and_preactivations(make_data):
    data = make_data(side=64)
    shapes = _shapes(_create(_timm("resnet18"), data), data)
    assert list(shapes)[:3] == ["stem", "stage1", "stage1.preact"]
    assert shapes["stem"] == (64, 32, 32)
    assert shapes["stage4"] == shapes["stage4.preact"] == (512, 2, 2)
    assert (shapes["pooled"], shapes["logits"]) == ((512,), (10,))


def test_timm_bottlenecks_are_tapped_before_their_last_activation(make_data):
    network = _create(_timm("resnet26"), make_data())
    assert network.taps["stage2.preact"].path == "body.layer2.1.act3"


def test_timm_vit_is_built_for_the_size_of_the_images(make_data):
    network = _create(_timm("vit_tiny_patch16_224", args={"depth": 2}), make_data())
    assert network.body.pos_embed.shape == (1, 5, 192)
    assert _shapes(network, make_data()) == {
        "stem": (192, 2, 2),
        "stage1": (5, 192),
        "stage2": (5, 192),
        "pooled": (192,),
        "logits": (10,),
    }


def test_timm_taps_are_measured_and_not_taken_from_declared_reductions(make_data):
    shapes = _shapes(_create(_timm(TIMM_SMALL), make_data()), make_data())
    assert shapes == {
        "stem": (16, 16, 16),
        "stage1": (8, 8, 8),
        "stage2": (16, 4, 4),
        "stage3": (24, 2, 2),
        "stage4": (288, 1, 1),
        "last_map": (288, 1, 1),
        "pooled": (1024,),
        "logits": (10,),
    }


def test_timm_network_that_declares_absent_modules_keeps_the_taps_that_exist(make_data):
    network = _create(_timm("hrnet_w18_small"), make_data())  # lists stage1, which is named otherwise
    assert list(network.taps) == ["last_map", "pooled", "logits"]


def test_distilled_deit_gives_one_tensor_in_training_and_trains_both_heads(make_data):
    network = _create(_timm("deit_tiny_distilled_patch16_224", args={"depth": 1}), make_data())
    assert network.train()(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert len(known_heads(network)) == 2


def test_library_networks_are_a_function_of_the_seed(make_data):
    state = torch.get_rng_state()
    for config in (_timm(TIMM_SMALL), _torchvision(TORCHVISION_SMALL)):
        first, again, other = (_create(config, make_data(), seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(value, again[key]) for key, value in first.items())
        assert not all(torch.equal(value, other[key]) for key, value in first.items())
    assert torch.equal(torch.get_rng_state(), state)


def test_cached_timm_weights_are_loaded_without_asking_any_network(timm_weights, make_data):
    network = _create(_timm(TIMM_SMALL, pretrained=True), make_data())
    assert torch.equal(network.body.conv_head.weight, timm_weights.conv_head.weight)
    assert network.body.classifier.out_features == 10
    assert network.mean.flatten().tolist() == pytest.approx(list(timm_weights.pretrained_cfg["mean"]))


def test_untrained_timm_network_normalises_by_the_datas_statistics(make_data):
    assert _create(_timm(TIMM_SMALL), make_data()).mean.flatten().tolist() == pytest.approx([0.4] * 3)


def test_pretrained_timm_network_of_one_channel_sums_over_rgb(timm_weights, make_data):
    network = _create(_timm(TIMM_SMALL, pretrained=True), make_data(channels=1))
    torch.testing.assert_close(network.body.conv_stem.weight, timm_weights.conv_stem.weight.sum(1, keepdim=True))
    assert network.mean.flatten().tolist() == pytest.approx([0.4])


def test_torchvision_resnet_has_taps_and_takes_the_datas_classes(make_data):
    shapes = _shapes(_create(_torchvision("resnet18"), make_data()), make_data())
    assert shapes == {
        "stem": (64, 16, 16),
        "stage1": (64, 8, 8),
        "stage2": (128, 4, 4),
        "stage3": (256, 2, 2),
        "stage4": (512, 1, 1),
        "last_map": (512, 1, 1),
        "pooled": (512,),
        "logits": (10,),
    }


@pytest.mark.parametrize(
    ("model_name", "stages"),
    [
        ("convnext_tiny", [96, 192, 384, 768]),
        ("densenet121", [256, 512, 1024, 1024]),
        ("mobilenet_v2", [16, 24, 32, 96, 320]),
        ("regnet_x_400mf", [32, 64, 160, 400]),
        (TORCHVISION_SMALL, [48, 96, 192]),
    ],
)
def test_torchvision_stages_stand_where_the_table_says(model_name, stages, make_data):
    shapes = _shapes(_create(_torchvision(model_name), make_data()), make_data())
    assert [shape[0] for name, shape in shapes.items() if name.startswith("stage")] == stages


def test_torchvision_vit_is_built_for_the_size_of_the_images(make_data):
    assert _create(_torchvision("vit_b_32"), make_data(side=64)).body.image_size == 64


def test_googlenet_gives_logits_alone_in_training(make_data):
    assert _create(_torchvision("googlenet"), make_data()).train()(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_torchvision_weights_keep_all_but_the_head(torchvision_weights, make_data):
    network = _create(_torchvision(TORCHVISION_SMALL, weights="DEFAULT"), make_data())
    assert torch.equal(network.body.conv5[0].weight, torchvision_weights.conv5[0].weight)
    assert network.body.fc.out_features == 10
    assert network.head == "body.fc"
    assert network.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_torchvision_weights_of_the_same_classes_keep_the_head_too(torchvision_weights, make_data):
    network = _create(_torchvision(TORCHVISION_SMALL, weights="DEFAULT"), make_data(num_classes=1000))
    assert torch.equal(network.body.fc.weight, torchvision_weights.fc.weight)


def test_torchvision_first_convolution_takes_other_channels(torchvision_weights, make_data):
    fresh = _create(_torchvision("resnet18"), make_data(channels=1))
    assert (fresh.body.conv1.in_channels, fresh.body.conv1.stride, fresh.body.conv1.bias) == (1, (2, 2), None)
    trained = _create(_torchvision(TORCHVISION_SMALL, weights="DEFAULT"), make_data(channels=1))
    torch.testing.assert_close(trained.body.conv1[0].weight, torchvision_weights.conv1[0].weight.sum(1, keepdim=True))
    assert trained.mean.flatten().tolist() == pytest.approx([0.4])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (_timm("resnet19"), "net: timm has no network 'resnet19'; did you mean 'resnet1"),
        (_timm("hf-hub:timm/resnet18"), "timm has no network 'hf-hub:timm/resnet18'"),
        (_timm("resnet18.a1_in2k"), "timm has no weights 'resnet18.a1_in2k'; did you mean 'resnet18.a1_in1k'"),
        (_timm("resnet18", args={"depht": 3}), "timm refuses it: .*unexpected keyword argument 'depht'"),
        (_timm("resnet18", args={"checkpoint_path": "x.pt"}), "args.checkpoint_path is not passed on"),
        (_timm("resnet200", pretrained=True), "timm has no weights of 'resnet200'; did you mean"),
        (_timm("resnet18", pretrained=True), "HF_HOME at such a cache, or give a file with checkpoint=FILE"),
        (_timm("vit_tiny_patch16_224"), "net does not take images of 3x8x8 .* 16x16 is the smallest that fits"),
        (_torchvision("resnet19"), "torchvision has no network 'resnet19'; did you mean 'resnet1"),
        (_torchvision("resnet18", weights="IMAGENET"), "no weights 'IMAGENET'; did you mean 'IMAGENET1K_V1'"),
        (_torchvision("resnet18", weights="DEFAULT"), "TORCH_HOME at such a cache"),
        (_torchvision("resnet18", args={"depht": 3}), "torchvision refuses it: .*'depht'"),
        (_torchvision("alexnet"), "net does not take images of 3x8x8 .* 64x64 is the smallest that fits"),
    ],
)
def test_library_networks_that_cannot_be_had_are_refused(config, message, offline, make_data):
    with pytest.raises(ConfigError, match=message):
        _create(config, make_data(side=8))


def test_a_classifier_that_is_not_linear_cannot_be_replaced(offline, make_data):
    source = torchvision.models.get_model("squeezenet1_1")
    url = torchvision.models.get_model_weights("squeezenet1_1")["DEFAULT"].url
    (offline / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(source.state_dict(), offline / "torch" / "hub" / "checkpoints" / url.rpartition("/")[2])
    with pytest.raises(ConfigError, match="its classifier is not linear"):
        _create(_torchvision("squeezenet1_1", weights="DEFAULT"), make_data())


def test_the_hub_switched_off_is_told_at_once(offline, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        require_hub("net")


def test_a_host_that_answers_anything_counts_as_reached(monkeypatch):
    def answer(request, timeout):
        assert timeout < 10
        raise urllib.error.HTTPError(request.full_url, 403, "forbidden", None, None)

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    require_hub("net")
    require_url("net", "https://example.org/x.pth")


def test_every_inplace_activation_of_a_library_is_switched_off(make_data):
    network = _create(_torchvision("resnet18"), make_data())
    assert not any(module.inplace for module in network.modules() if isinstance(module, nn.ReLU))


def test_identity_of_published_weights_names_the_very_ones():
    assert pretrained_identity(_timm("resnet18", pretrained=True)) == pretrained_identity(
        _timm(f"resnet18.{timm.models.get_pretrained_cfg('resnet18').tag}", pretrained=True)
    )
    default, old = (
        pretrained_identity(_torchvision("resnet50", weights=name)) for name in ("DEFAULT", "IMAGENET1K_V1")
    )
    assert default == pretrained_identity(_torchvision("resnet50", weights="IMAGENET1K_V2")) != old
    assert pretrained_identity(_timm("resnet18")) is pretrained_identity(_torchvision("resnet50")) is None
    assert pretrained_identity(_torchvision("resnet50", weights="NONE")) is None
