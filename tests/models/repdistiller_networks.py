"""The benchmark networks again, as RepDistiller defines them: its module names, its forward, its taps.

An oracle for ours, written apart from them: `forward` returns the features f0 ..., the pre-activations of f1 ..., and
the logits.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


def conv(inputs, outputs, kernel, stride=1, groups=1, bias=False):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)


def shuffle(x, groups):
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).permute(0, 2, 1, 3, 4).reshape(x.shape)


class Residual(nn.Module):
    """Basic block or bottleneck: `projection` is what the definition calls its 1x1 shortcut."""

    def __init__(self, inputs, width, stride, kernels, projection):
        super().__init__()
        self.depth, self.projection = len(kernels), projection
        outputs = width * (4 if len(kernels) == 3 else 1)
        channels = [inputs, *[width] * (len(kernels) - 1), outputs]
        strided = kernels.index(3)
        for i, kernel in enumerate(kernels):
            self.add_module(f"conv{i + 1}", conv(channels[i], channels[i + 1], kernel, stride if i == strided else 1))
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(channels[i + 1]))
        if stride != 1 or inputs != outputs:
            self.add_module(projection, nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)))

    def forward(self, x):
        out = x
        for i in range(1, self.depth + 1):
            out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
            out = F.relu(out) if i < self.depth else out
        preact = out + (getattr(self, self.projection)(x) if hasattr(self, self.projection) else x)
        return preact, F.relu(preact)


class ResNet(nn.Module):
    """`resnet.py` (downsample, fc) and `resnetv2.py` (shortcut, linear)."""

    def __init__(self, blocks, widths, kernels, projection, head, classes):
        super().__init__()
        self.head, self.stages = head, len(blocks)
        self.conv1, self.bn1 = conv(3, widths[0], 3), nn.BatchNorm2d(widths[0])
        channels = widths[0]
        for i, (count, width) in enumerate(zip(blocks, widths[1:], strict=True)):
            layer = nn.Sequential()
            for block in range(count):
                layer.append(Residual(channels, width, 2 if i and not block else 1, kernels, projection))
                channels = width * (4 if len(kernels) == 3 else 1)
            self.add_module(f"layer{i + 1}", layer)
        self.add_module(head, nn.Linear(channels, classes))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        features, preacts = [x], []
        for i in range(1, self.stages + 1):
            for block in getattr(self, f"layer{i}"):
                preact, x = block(x)
            features.append(x)
            preacts.append(preact)
        return features, preacts, getattr(self, self.head)(x.mean((2, 3)))


class WideBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3)
        self.equal = inputs == outputs
        self.convShortcut = None if self.equal else conv(inputs, outputs, 1, stride)

    def forward(self, x):
        if not self.equal:
            x = F.relu(self.bn1(x))
            out = self.conv1(x)
        else:
            out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        return out + (x if self.convShortcut is None else self.convShortcut(x))


class WideStage(nn.Module):
    def __init__(self, inputs, outputs, stride, count):
        super().__init__()
        rest = [WideBlock(outputs, outputs, 1) for _ in range(count - 1)]
        self.layer = nn.Sequential(WideBlock(inputs, outputs, stride), *rest)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(self, depth, width, classes):
        super().__init__()
        count = (depth - 4) // 6
        self.conv1 = conv(3, 16, 3)
        self.block1 = WideStage(16, 16 * width, 1, count)
        self.block2 = WideStage(16 * width, 32 * width, 2, count)
        self.block3 = WideStage(32 * width, 64 * width, 2, count)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)

    def forward(self, x):
        f0 = self.conv1(x)
        f1 = self.block1(f0)
        f2 = self.block2(f1)
        f3 = self.block3(f2)
        preacts = [self.block2.layer[0].bn1(f1), self.block3.layer[0].bn1(f2), self.bn1(f3)]
        return [f0, f1, f2, f3], preacts, self.fc(F.relu(self.bn1(f3)).mean((2, 3)))


class VGG(nn.Module):
    def __init__(self, stages, classes):
        super().__init__()
        channels = 3
        for i, widths in enumerate(stages):
            layers = []
            for width in widths:
                layers += [conv(channels, width, 3, bias=True), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            self.add_module(f"block{i}", nn.Sequential(*layers[:-1]))
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x):
        height = x.shape[2]
        features, preacts = [], []
        for i in range(5):
            preacts.append(getattr(self, f"block{i}")(x))
            x = F.relu(preacts[-1])
            features.append(x)
            if i < 3 or (i == 3 and height == 64):
                x = F.max_pool2d(x, 2)
        return features, preacts[1:], self.classifier(x.mean((2, 3)))


class InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        hidden = inputs * expansion
        self.conv = nn.Sequential(
            *(conv(inputs, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU()),
            *(conv(hidden, hidden, 3, stride, groups=hidden), nn.BatchNorm2d(hidden), nn.ReLU()),
            *(conv(hidden, outputs, 1), nn.BatchNorm2d(outputs)),
        )

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, width, classes, sequential_head):
        super().__init__()
        settings = [
            (1, 16, 1, 1),
            (6, 24, 2, 1),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ]
        channels = int(32 * width)
        self.conv1 = nn.Sequential(conv(3, channels, 3, 2), nn.BatchNorm2d(channels), nn.ReLU())
        self.blocks = nn.ModuleList()
        for expansion, base, count, stride in settings:
            group = nn.Sequential()
            for i in range(count):
                group.append(InvertedResidual(channels, int(base * width), 1 if i else stride, expansion))
                channels = int(base * width)
            self.blocks.append(group)
        self.conv2 = nn.Sequential(conv(channels, 1280, 1), nn.BatchNorm2d(1280), nn.ReLU())
        linear = nn.Linear(1280, classes)
        self.classifier = nn.Sequential(linear) if sequential_head else linear

    def forward(self, x):
        outputs = [self.conv1(x)]
        for group in self.blocks:
            outputs.append(group(outputs[-1]))
        features = [outputs[i] for i in (0, 2, 3, 5, 7)]
        return features, features[1:], self.classifier(self.conv2(outputs[-1]).mean((2, 3)))


class ShuffleBottleneck(nn.Module):
    def __init__(self, inputs, outputs, stride, groups):
        super().__init__()
        middle = int(outputs / 4)
        self.stride, self.first = stride, 1 if inputs == 24 else groups
        self.conv1, self.bn1 = conv(inputs, middle, 1, groups=self.first), nn.BatchNorm2d(middle)
        self.conv2, self.bn2 = conv(middle, middle, 3, stride, groups=middle), nn.BatchNorm2d(middle)
        self.conv3, self.bn3 = conv(middle, outputs, 1, groups=groups), nn.BatchNorm2d(outputs)

    def forward(self, x):
        out = shuffle(F.relu(self.bn1(self.conv1(x))), self.first)
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        preact = torch.cat([out, F.avg_pool2d(x, 3, 2, 1)], 1) if self.stride == 2 else out + x
        return preact, F.relu(preact)


class SplitBasic(nn.Module):
    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        self.conv1, self.bn1 = conv(half, half, 1), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = conv(half, half, 3, groups=half), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = conv(half, half, 1), nn.BatchNorm2d(half)

    def forward(self, x):
        kept, out = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(out)))))
        preact = self.bn3(self.conv3(out))
        return torch.cat([kept, preact], 1), shuffle(torch.cat([kept, F.relu(preact)], 1), 2)


class SplitDown(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        half = outputs // 2
        self.conv1, self.bn1 = conv(inputs, inputs, 3, 2, groups=inputs), nn.BatchNorm2d(inputs)
        self.conv2, self.bn2 = conv(inputs, half, 1), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = conv(inputs, half, 1), nn.BatchNorm2d(half)
        self.conv4, self.bn4 = conv(half, half, 3, 2, groups=half), nn.BatchNorm2d(half)
        self.conv5, self.bn5 = conv(half, half, 1), nn.BatchNorm2d(half)

    def forward(self, x):
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        right = F.relu(self.bn5(self.conv5(right)))
        return None, shuffle(torch.cat([left, right], 1), 2)


class ShuffleNet(nn.Module):
    """Both versions: `last` is the width of version 2's last convolution, `groups` are version 1's."""

    def __init__(self, widths, classes, groups=None, last=None):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 24, 1), nn.BatchNorm2d(24)
        channels = 24
        for i, (count, width) in enumerate(zip((4, 8, 4), widths, strict=True)):
            if groups:
                layer = nn.Sequential(ShuffleBottleneck(channels, width - channels, 2, groups))
                layer.extend(ShuffleBottleneck(width, width, 1, groups) for _ in range(count - 1))
            else:
                layer = nn.Sequential(SplitDown(channels, width), *(SplitBasic(width) for _ in range(count - 1)))
            self.add_module(f"layer{i + 1}", layer)
            channels = width
        if last:
            self.conv2, self.bn2 = conv(channels, last, 1), nn.BatchNorm2d(last)
        self.last = last
        self.linear = nn.Linear(last or channels, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        features, preacts = [x], []
        for layer in (self.layer1, self.layer2, self.layer3):
            for block in layer:
                preact, x = block(x)
            features.append(x)
            preacts.append(preact)
        if self.last:
            x = F.relu(self.bn2(self.conv2(x)))
        return features, preacts, self.linear(x.mean((2, 3)))
