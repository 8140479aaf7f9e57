"""The networks on which private steps are timed: each with its batch, its pictures and how it is built.

Everything that Opacus, torch.func or deepee would refuse for a reason that is not theirs is taken out the same way
for all engines: batch normalisation becomes group normalisation (the largest divisor of the channels up to 32),
and activations do not work in place. Layers that start at zero get small weights, so that no gradient is zero.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 2


@dataclass(frozen=True)
class Case:
    """One network with one batch of random pictures.

    Attributes:
        title: how the table calls it.
        batch: pictures in a step; each is a patient's only one.
        shape: of one picture, (channel, *space).
        build: shape to the network.
        per_pixel: every pixel has a label, and a picture's loss is the mean over its pixels.
        needs: package that must be importable, None if torch is enough.
    """

    title: str
    batch: int
    shape: tuple[int, ...]
    build: Callable[[tuple[int, ...]], nn.Module]
    per_pixel: bool = False
    needs: str | None = None

    @property
    def missing(self) -> str | None:
        """A sentence with the line that installs what is missing, None if nothing is."""
        if self.needs is None or importlib.util.find_spec(self.needs) is not None:
            return None
        return f"needs {self.needs}: pip install 'wardround[bench]'"

    def quick(self) -> "Case":
        """The same network on a batch that only shows whether everything runs."""
        side = 64 if len(self.shape) == 3 else 16
        return replace(self, batch=max(2, self.batch // 8), shape=(self.shape[0], *[side] * (len(self.shape) - 1)))

    def model(self) -> nn.Module:
        """The network with the same weights at every call, in training mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = _with_group_norm(self.build(self.shape))
            for module in model.modules():
                if getattr(module, "inplace", False):
                    setattr(module, "inplace", False)  # noqa: B010  # the type checker refuses the assignment
            for parameter in model.parameters():
                if parameter.ndim > 1 and not parameter.any():
                    nn.init.normal_(parameter, std=0.01)
        return model.train()

    def pictures(self) -> tuple[Tensor, Tensor]:
        """Inputs (picture, channel, *space) and labels (picture,) or (picture, *space)."""
        generator = torch.Generator().manual_seed(2)
        inputs = torch.randn(self.batch, *self.shape, generator=generator)
        labels = (self.batch, *self.shape[1:]) if self.per_pixel else (self.batch,)
        return inputs, torch.randint(CLASSES, labels, generator=generator)


def picture_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each picture, (picture,); of a segmentation, the mean over the picture's pixels."""
    losses = F.cross_entropy(logits, labels, reduction="none")
    return losses.flatten(1).mean(1) if losses.ndim > 1 else losses


class SmallCnn(nn.Module):
    """Two convolutions with group normalisation and two fully connected layers; any picture size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.ReLU())
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(64 * 64, 128), nn.ReLU(), nn.Linear(128, CLASSES)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, (picture, class)."""
        values = F.max_pool2d(self.first(inputs), 2)
        logits: Tensor = self.head(F.max_pool2d(self.second(values), 2))
        return logits


class Residual(nn.Module):
    """Basic block of ResNet (He et al. 2015, https://arxiv.org/abs/1512.03385), with group normalisation."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(32, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(32, width)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.GroupNorm(32, width)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (picture, channels, height, width) to (picture, width, height / stride, width / stride)."""
        values = torch.relu(self.norm1(self.conv1(inputs)))
        return torch.relu(self.norm2(self.conv2(values)) + self.shortcut(inputs))


def resnet18(shape: tuple[int, ...]) -> nn.Module:
    """ResNet-18 with group normalisation, 11.2 M parameters."""
    stem = [nn.Conv2d(shape[0], 64, 7, 2, padding=3, bias=False), nn.GroupNorm(32, 64), nn.ReLU()]
    blocks = [Residual(64, 64, 1), Residual(64, 64, 1)]
    for width in (128, 256, 512):
        blocks += [Residual(width // 2, width, 2), Residual(width, width, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES)]
    return nn.Sequential(*stem, nn.MaxPool2d(3, 2, padding=1), *blocks, *head)


def _double(channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (channels, width):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.GroupNorm(8, width), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """U-Net of four levels (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597), group normalisation.

    Args:
        channels: of the picture.
        transposed: grow by transposed convolutions; otherwise by repeating pixels.
    """

    def __init__(self, channels: int, transposed: bool) -> None:
        super().__init__()
        widths = (16, 32, 64, 128)
        self.down = nn.ModuleList(_double(a, b) for a, b in zip((channels, *widths), widths, strict=False))
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(width, width // 2, 2, 2) if transposed else nn.Upsample(scale_factor=2)
            for width in reversed(widths[1:])
        )
        self.up = nn.ModuleList(
            _double(width if transposed else width + width // 2, width // 2) for width in reversed(widths[1:])
        )
        self.out = nn.Conv2d(widths[0], CLASSES, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of every pixel, (picture, class, height, width)."""
        kept: list[Tensor] = []
        values = inputs
        for level in self.down:
            values = level(F.max_pool2d(values, 2) if kept else values)
            kept.append(values)
        for grow, level, skip in zip(self.grow, self.up, reversed(kept[:-1]), strict=True):
            values = level(torch.cat([skip, grow(values)], dim=1))
        logits: Tensor = self.out(values)
        return logits


class Tokens(nn.Module):
    """Patches to tokens, with a class token and learned positions, which are bare parameters."""

    def __init__(self, channels: int, patches: int, width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, 16, 16)
        self.extra = Extra(patches, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Pictures to (picture, token, width)."""
        tokens: Tensor = self.extra(self.patches(inputs).flatten(2).transpose(1, 2))
        return tokens


class Extra(nn.Module):
    """The class token and the positions; a module of their own, so that a fallback need not run anything else."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, patches + 1, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (picture, token, width) to one token more."""
        return torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1) + self.position


class Attention(nn.Module):
    """Self-attention with one linear layer for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (picture, token, width) to the same shape."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)
        values: Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
        return values


class Block(nn.Module):
    """Attention and perceptron, each behind a layer norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads))
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (picture, token, width) to the same shape."""
        tokens = tokens + self.attention(tokens)
        values: Tensor = tokens + self.perceptron(tokens)
        return values


class VisionTransformer(nn.Module):
    """ViT-tiny (Touvron et al. 2020, https://arxiv.org/abs/2012.12877, table 1), 5.5 M parameters at 224 px."""

    def __init__(self, shape: tuple[int, ...], width: int = 192, depth: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.tokens = Tokens(shape[0], (shape[1] // 16) * (shape[2] // 16), width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, (picture, class)."""
        logits: Tensor = self.head(self.norm(self.blocks(self.tokens(inputs)))[:, 0])
        return logits


def _catalogue(name: str) -> Callable[[tuple[int, ...]], nn.Module]:
    def build(shape: tuple[int, ...]) -> nn.Module:
        from wardround.models import catalogue

        network = catalogue.build(
            name,
            size=shape[1:],
            channels=shape[0],
            num_classes=CLASSES,
            init_generator=torch.Generator().manual_seed(1),
        )
        return network.trained

    return build


def _densenet121(shape: tuple[int, ...]) -> nn.Module:
    nets = importlib.import_module("monai.networks.nets")
    model: nn.Module = nets.DenseNet121(spatial_dims=2, in_channels=shape[0], out_channels=CLASSES)
    return model


def _monai_unet(shape: tuple[int, ...]) -> nn.Module:
    """MONAI's residual U-Net: transposed convolutions, PReLU, instance normalisation without parameters."""
    nets = importlib.import_module("monai.networks.nets")
    model: nn.Module = nets.UNet(
        spatial_dims=len(shape) - 1,
        in_channels=shape[0],
        out_channels=CLASSES,
        channels=(16, 32, 64, 128),
        strides=(2, 2, 2),
        num_res_units=2,
    )
    return model


def _with_group_norm(module: nn.Module) -> nn.Module:
    """Batch normalisation replaced by group normalisation, with the largest divisor of the channels up to 32."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            channels = child.num_features
            groups = max(number for number in range(1, 33) if channels % number == 0)
            setattr(module, name, nn.GroupNorm(groups, channels))
        else:
            _with_group_norm(child)
    return module


CASES: dict[str, Case] = {
    "small_cnn": Case("small CNN 64 px", 64, (3, 64, 64), lambda shape: SmallCnn(shape[0])),
    "alexnet": Case("AlexNet 224 px", 16, (3, 224, 224), _catalogue("alexnet")),
    "squeezenet": Case("SqueezeNet 224 px", 16, (3, 224, 224), _catalogue("squeezenet")),
    "resnet18": Case("ResNet-18-GN 128 px", 16, (3, 128, 128), resnet18),
    "densenet121": Case("DenseNet-121-GN 128 px (MONAI)", 8, (3, 128, 128), _densenet121, needs="monai"),
    "unet": Case("U-Net 128 px", 8, (1, 128, 128), lambda shape: UNet(shape[0], False), per_pixel=True),
    "unet_transposed": Case(
        "U-Net transposed 128 px", 8, (1, 128, 128), lambda shape: UNet(shape[0], True), per_pixel=True
    ),
    "unet_monai": Case("U-Net 128 px (MONAI)", 8, (1, 128, 128), _monai_unet, per_pixel=True, needs="monai"),
    "unet_3d": Case("3-D U-Net 32³ (MONAI)", 4, (1, 32, 32, 32), _monai_unet, per_pixel=True, needs="monai"),
    "vit_tiny": Case("ViT-tiny 224 px", 8, (3, 224, 224), VisionTransformer),
}
