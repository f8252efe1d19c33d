import torch
import torch.nn.functional as F  # noqa: N812

from kdbench.core.taps import TapReader
from kdbench.models.densenet_bc import DenseNetBC


def test_densenet_computes_the_definition_written_again():
    torch.manual_seed(0)
    network = DenseNetBC(16, 3, 0.5, num_classes=4).double()
    for name, value in network.named_parameters():
        if "norm" in name:
            value.data.uniform_(0.2, 1.0)
    weights = dict(network.named_parameters())

    def norm(x, name):
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        scaled = (x - mean) / (variance + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"].view(-1, 1, 1) + weights[f"{name}.bias"].view(-1, 1, 1)

    images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    x = F.conv2d(images, weights["conv.weight"], padding=1)
    assert x.shape[1] == 6
    expected = {"stem": x}
    for stage in range(3):
        for layer in range(2):
            place = f"stages.{2 * stage}.{layer}"
            new = F.conv2d(norm(x, f"{place}.norm1").relu(), weights[f"{place}.conv1.weight"])
            assert new.shape[1] == 12
            new = F.conv2d(norm(new, f"{place}.norm2").relu(), weights[f"{place}.conv2.weight"], padding=1)
            x = torch.cat([x, new], dim=1)
        expected[f"stage{stage + 1}"] = x
        x = expected[f"stage{stage + 1}.preact"] = norm(x, f"stages.{2 * stage + 1}.norm")
        if stage < 2:
            x = F.conv2d(x.relu(), weights[f"stages.{2 * stage + 1}.conv.weight"])
            assert x.shape[1] == expected[f"stage{stage + 1}"].shape[1] // 2
            x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    logits = x.relu().mean((2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]

    output = TapReader(network, list(expected))(images)
    torch.testing.assert_close(output.logits, logits)
    for name, value in expected.items():
        torch.testing.assert_close(output.features[name], value)
