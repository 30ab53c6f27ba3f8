"""RPF's second stage in plain PyTorch, to time beside the project's. Run by benchmarks.other_process."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.torch_models import WIDTH, Block, ViTBlock, conv_norm
from fashionjax.models.backbones.resnet import BLOCKS
from fashionjax.ops.augment import IMAGENET_MEAN, IMAGENET_STD

D, COMMON, SIZE = 1024, 512, 224


def mlp(d: int, hidden: int, act: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d, hidden), act, nn.Dropout(0.1), nn.Linear(hidden, d), nn.Dropout(0.1))


class Region(nn.Module):
    """image [b 3 h w], e [b 512] -> region, complement [b 1024], attention [b h w]."""

    def __init__(self):
        super().__init__()
        stem, c, blocks = conv_norm(3, WIDTH, 7, 2), WIDTH, []
        for stage, count in enumerate(BLOCKS[50][:3]):
            for i in range(count):
                blocks.append(Block(c, WIDTH * 2**stage, 2 if stage and not i else 1, True))
                c = 4 * WIDTH * 2**stage
        self.backbone = nn.Sequential(stem, nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1), *blocks)
        self.x_norm, self.a_norm = nn.LayerNorm(D, eps=1e-6), nn.LayerNorm(COMMON, eps=1e-6)
        self.conv, self.transform = nn.Linear(D, COMMON), nn.Linear(COMMON, COMMON)
        self.project, self.norm = nn.Linear(D, D), nn.LayerNorm(D, eps=1e-6)
        self.mlp = mlp(D, COMMON, nn.ReLU())

    def forward(self, image, e):
        level = self.backbone(image)
        x = self.x_norm(level.flatten(2).transpose(1, 2))
        mask = torch.tanh(self.transform(self.a_norm(e)))
        p = ((torch.tanh(self.conv(x)) * mask[:, None]).sum(-1) / math.sqrt(COMMON)).softmax(-1)
        rest = (1 - p) / (p.shape[1] - 1)
        pooled, pooled_rest = ((w[:, :, None] * x).sum(1) for w in (p, rest))
        refined = lambda h: self.norm(h + self.mlp(self.norm(h)))  # noqa: E731
        return refined(self.project(pooled)), refined(pooled_rest), p.unflatten(1, level.shape[2:])


class Patch(nn.Module):
    """crop [b 3 224 224], e [b 512] -> [b 1024]."""

    def __init__(self, d: int = 768, depth: int = 12, heads: int = 12):
        super().__init__()
        self.heads, self.patches = heads, nn.Conv2d(3, d, 16, 16)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, d)), nn.Parameter(torch.zeros(1, 197, d))
        self.blocks = nn.Sequential(*(ViTBlock(d, heads) for _ in range(depth)))
        self.kind, self.query = nn.Parameter(0.02 * torch.randn(2, d)), nn.Linear(COMMON, d)
        self.cross_norm, self.parts = nn.LayerNorm(d, eps=1e-6), nn.Linear(d, d)
        self.key_value, self.out = nn.Linear(d, 2 * d), nn.Linear(d, d)
        self.fc, self.ffn_norm, self.norm = nn.Linear(d, D), nn.LayerNorm(D), nn.LayerNorm(D)
        self.mlp = mlp(D, COMMON, nn.GELU())

    def forward(self, crop, e):
        x = self.patches(crop).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        x = self.cross_norm(self.blocks(F.dropout(x, 0.1, self.training))[:, 1:] + self.kind[1])
        q = self.parts(self.cross_norm(self.query(e) + self.kind[0]))[:, None]
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, *self.key_value(x).chunk(2, -1))
        )
        h = self.fc(self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1)))
        return self.norm(h + self.mlp(self.ffn_norm(h)))


def boxes(attention: torch.Tensor, side: int) -> list[tuple[int, int, int]]:
    """attention [b h w] -> (x, y, d) of each crop in pixels of a square of this side, clamped."""
    wide = F.interpolate(attention[:, None], (SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0]
    low, high = wide.amin((1, 2), keepdim=True), wide.amax((1, 2), keepdim=True)
    kept = (255 * (wide - low) / (high - low)).floor() > 25.5
    found = []
    for mask in kept:
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        x, y = int(columns[0]), int(rows[0])
        w, h = int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
        d = max(w, h)
        half = d // 2
        corner = [SIZE - d if c + half > SIZE else max(0, c - half) for c in (x + w // 2, y + h // 2)]
        x, y, d = (int(value / SIZE * side) for value in (*corner, d))
        found.append((min(x, side - d), min(y, side - d), d))
    return found


def crops(canvas: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """canvas u8 [b 3 c c], attention [b h w] -> [b 3 224 224]."""
    cut = [
        canvas[i : i + 1, :, y : y + d, x : x + d].float()
        for i, (x, y, d) in enumerate(boxes(attention, canvas.shape[-1]))
    ]
    resize = lambda c: F.interpolate(c, (SIZE, SIZE), mode="bilinear", antialias=True)  # noqa: E731
    return torch.cat([resize(c) for c in cut])


def loss_of(region, complement, patch, attribute, value) -> torch.Tensor:
    def triplet(x):
        a, p, n = F.normalize(x).chunk(3)
        return F.relu((a * n).sum(1) - (a * p).sum(1) + 0.2).mean()

    r, p, c = (F.normalize(x) for x in (region, patch, complement))
    related = attribute[:, None] == attribute[None]
    same = related & (value[:, None] == value[None])
    near, far = (torch.exp(r @ x.T / 0.07) for x in (p, c))
    positive = (near * same).sum(1)
    contrast = torch.log(near.sum(1) + 12 * (far * related).sum(1)) - torch.log(positive)
    return triplet(region) + 0.1 * triplet(patch) + 0.04 * contrast.mean()


def make(batch: dict[str, np.ndarray], attributes: int) -> dict[str, Callable[[int], None]]:
    """A batch by role (image u8 [b h w 3], canvas u8, attribute, value) -> {"train": steps -> None}."""
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.ModuleDict({"region": Region(), "patch": Patch(), "table": nn.Embedding(attributes, COMMON)})
    model.to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    image, canvas = (
        torch.from_numpy(np.ascontiguousarray(batch[name].transpose(0, 3, 1, 2))).to(device)
        for name in ("image", "canvas")
    )
    attribute, value = (
        torch.from_numpy(batch[n].astype(np.int64)).to(device) for n in ("attribute", "value")
    )
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            e = model["table"](attribute)
            x = (image.float() / 255 - mean) / std
            passes = [model["region"](*part) for part in zip(x.chunk(3), e.chunk(3), strict=True)]
            region, complement, attention = (torch.cat(parts) for parts in zip(*passes, strict=True))
            with torch.no_grad():
                crop = (crops(canvas, attention) / 255 - mean) / std
            loss_of(region, complement, model["patch"](crop, e), attribute, value).backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return {"train": train}
