"""One backbone in PyTorch to time: n training steps, n predictions. Run by benchmarks.other_process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import torch_models
from fashionjax.ops.augment import IMAGENET_MEAN, IMAGENET_STD


def make(
    name: str, image: np.ndarray, label: np.ndarray, dtype: str, layout: str, classes: int
) -> dict[str, Callable[[int], None]]:
    """image u8 [b h w 3], label i32 [b] -> {"train": steps -> None, "predict": steps -> None}.

    Float32 parameters; bfloat16 is autocast. SGD with momentum, cross-entropy, the image normalised on the
    device, as on the other side.
    """
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    memory = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}[layout]
    model = torch_models.build(name, classes).to(device, memory_format=memory)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(0, 3, 1, 2))).to(device)
    labels = torch.from_numpy(label.astype(np.int64)).to(device)
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))

    def precision():
        return torch.autocast(device, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()

    def forward():
        x = ((pixels.float() / 255 - mean) / std).contiguous(memory_format=memory)
        with precision():
            return model(x)

    def done():
        if device == "cuda":
            torch.cuda.synchronize()

    def train(steps: int) -> None:
        model.train()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(forward().float(), labels).backward()
            optimizer.step()
        done()

    def predict(steps: int) -> None:
        model.eval()
        with torch.inference_mode():
            for _ in range(steps):
                forward()
        done()

    return {"train": train, "predict": predict}
