"""The backbones by name, and the published parameter counts with a 1000-class head."""

from collections.abc import Callable

import flax.linen as nn

from fashionjax.models.backbones import resnet, vgg, vit
from fashionjax.models.backbones.resnet import ResNet
from fashionjax.models.backbones.vgg import VGG
from fashionjax.models.backbones.vit import ViT
from fashionjax.models.torch_keys import Rules

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "resnet18": lambda **kw: ResNet(depth=18, **kw),
    "resnet34": lambda **kw: ResNet(depth=34, **kw),
    "resnet50": lambda **kw: ResNet(depth=50, **kw),
    "resnet101": lambda **kw: ResNet(depth=101, **kw),
    "resnext50": lambda **kw: ResNet(**{"depth": 50, "groups": 32, "group_width": 4, **kw}),
    "vgg11": lambda **kw: VGG(depth=11, **kw),
    "vgg11_bn": lambda **kw: VGG(depth=11, batch_norm=True, **kw),
    "vgg16": lambda **kw: VGG(depth=16, **kw),
    "vgg16_bn": lambda **kw: VGG(depth=16, batch_norm=True, **kw),
    "vit_s16": lambda **kw: ViT(**{"width": 384, "depth": 12, "heads": 6, **kw}),
    "vit_b16": lambda **kw: ViT(**{"width": 768, "depth": 12, "heads": 12, **kw}),
    "vit_l16": lambda **kw: ViT(**{"width": 1024, "depth": 24, "heads": 16, **kw}),
}

# torchvision's model pages (ResNet, VGG) and timm's results table (ViT); 224 px, 1000 classes.
PARAMETER_COUNTS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnext50": 25_028_904,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vit_s16": 22_050_664,
    "vit_b16": 86_567_656,
    "vit_l16": 304_326_632,
}


def build(name: str, **overrides) -> nn.Module:
    """The backbone `name` of `BACKBONES` with fields of its module overridden; ValueError for an unknown
    name.
    """
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; known: {', '.join(BACKBONES)}")
    return BACKBONES[name](**overrides)


# what a name of BACKBONES stands for beside the class; the widths of ResNet and VGG may differ
IDENTITY = {ResNet: ("depth", "groups"), VGG: ("depth", "batch_norm"), ViT: ("width", "depth", "patch")}


def name_of(backbone: nn.Module) -> str:
    """The name in BACKBONES of a module, '' where none has its depth (and of a ViT its width and patch)."""
    fields = IDENTITY[type(backbone)]
    for name, make in BACKBONES.items():
        known = make()
        if type(known) is type(backbone) and all(getattr(known, f) == getattr(backbone, f) for f in fields):
            return name
    return ""


def keras_keys(backbone: nn.Module) -> Rules:
    """The key rules of a VGG in the names of Keras's applications; () for other backbones."""
    return vgg.keras_keys(backbone.depth, backbone.batch_norm) if isinstance(backbone, VGG) else ()


def torch_keys(backbone: nn.Module) -> Rules:
    """The key rules of a backbone module, torchvision's names (ResNet, VGG) or timm's (ViT)."""
    if isinstance(backbone, VGG):
        return vgg.torch_keys(backbone.depth, backbone.batch_norm)
    if isinstance(backbone, ResNet):
        return resnet.TORCH_KEYS
    if isinstance(backbone, ViT):
        return vit.TORCH_KEYS
    raise TypeError(f"no key rules for a {type(backbone).__name__}")
