import pytest
import timm
import torch

from kdbench.core.errors import ConfigError
from kdbench.models import register_timm


def test_timm_builds_our_networks_under_their_prefixed_names():
    register_timm()
    register_timm()  # a second time overwrites nothing, which timm would warn of
    assert len(timm.list_models("kdbench_*")) == 13
    network = timm.create_model("kdbench_resnet8", num_classes=7, in_chans=1).eval()
    assert network(torch.zeros(2, 1, 20, 20)).shape == (2, 7)
    assert timm.create_model("kdbench_plain4", img_size=8, widths=[2, 2, 3, 3]).eval()(
        torch.zeros(1, 3, 8, 8)
    ).shape == (1, 10)


def test_our_networks_have_no_published_weights():
    register_timm()
    with pytest.raises(ConfigError, match="kdbench_plain2: there are no published weights"):
        timm.create_model("kdbench_plain2", pretrained=True)
