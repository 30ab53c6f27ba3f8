"""The backbones in plain PyTorch, for timing beside those of fashionjax.models: same layers, same counts."""

import torch
import torch.nn.functional as F
from torch import nn

from fashionjax.models.backbones import PARAMETER_COUNTS
from fashionjax.models.backbones.resnet import BLOCKS, BOTTLENECK_DEPTHS
from fashionjax.models.backbones.vgg import STAGE_WIDTHS, STAGES

VITS = {"vit_s16": (384, 12, 6), "vit_b16": (768, 12, 12), "vit_l16": (1024, 24, 16)}
WIDTH = 64


def build(name: str, classes: int = 1000) -> nn.Module:
    """The backbone with a classifier; image [b 3 h w] -> logits [b classes]."""
    if name.startswith("resnet"):
        model = ResNet(int(name.removeprefix("resnet")), classes)
    elif name.startswith("vgg"):
        model = vgg(int(name[3:5]), name.endswith("_bn"), classes)
    else:
        model = ViT(*VITS[name], classes)
    count = sum(p.numel() for p in model.parameters())
    if classes == 1000 and count != PARAMETER_COUNTS[name]:
        raise ValueError(f"{name}: {count} parameters, published {PARAMETER_COUNTS[name]}")
    return model


def conv_norm(c: int, d: int, k: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c, d, k, stride, (k - 1) // 2, bias=False), nn.BatchNorm2d(d))


class Block(nn.Module):
    """Basic (two 3x3) or bottleneck (1x1, 3x3 with the stride, 1x1) with a shortcut."""

    def __init__(self, c: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        d = 4 * width if bottleneck else width
        if bottleneck:
            parts = [conv_norm(c, width, 1), conv_norm(width, width, 3, stride), conv_norm(width, d, 1)]
        else:
            parts = [conv_norm(c, d, 3, stride), conv_norm(d, d, 3)]
        self.parts = nn.ModuleList(parts)
        self.shortcut = conv_norm(c, d, 1, stride) if stride != 1 or c != d else nn.Identity()

    def forward(self, x):
        y = x
        for part in self.parts[:-1]:
            y = F.relu(part(y), inplace=True)
        return F.relu(self.parts[-1](y) + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    def __init__(self, depth: int, classes: int):
        super().__init__()
        bottleneck = depth in BOTTLENECK_DEPTHS
        self.stem, c, blocks = conv_norm(3, WIDTH, 7, 2), WIDTH, []
        for stage, count in enumerate(BLOCKS[depth]):
            width = WIDTH * 2**stage
            for i in range(count):
                blocks.append(Block(c, width, 2 if stage and not i else 1, bottleneck))
                c = 4 * width if bottleneck else width
        self.blocks, self.fc = nn.Sequential(*blocks), nn.Linear(c, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x), inplace=True), 3, 2, 1)
        return self.fc(self.blocks(x).mean((2, 3)))


def vgg(depth: int, batch_norm: bool, classes: int) -> nn.Sequential:
    layers, c = [], 3
    for count, factor in zip(STAGES[depth], STAGE_WIDTHS):
        for _ in range(count):
            layers.append(nn.Conv2d(c, WIDTH * factor, 3, padding=1))
            layers += [nn.BatchNorm2d(WIDTH * factor)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
            c = WIDTH * factor
        layers.append(nn.MaxPool2d(2, 2))
    layers += [nn.AdaptiveAvgPool2d((7, 7)), nn.Flatten()]
    for inputs in (49 * c, 4096):
        layers += [nn.Linear(inputs, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(4096, classes))


class ViTBlock(nn.Module):
    def __init__(self, d: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d, eps=1e-6), nn.LayerNorm(d, eps=1e-6)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.fc1, self.fc2 = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        b, t, d = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv)
        x = x + self.proj(mixed.transpose(1, 2).reshape(b, t, d))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    def __init__(self, d: int, depth: int, heads: int, classes: int):
        super().__init__()
        self.patches = nn.Conv2d(3, d, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, d))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 197, d))
        self.blocks = nn.Sequential(*(ViTBlock(d, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(d, eps=1e-6), nn.Linear(d, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])
