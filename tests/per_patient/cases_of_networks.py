"""Cases of whole networks and of losses."""

import torch
from tests.per_patient.case import add, classes, findings, noise, parameter
from tests.per_patient.oracle import (
    binary_cross_entropy,
    pixel_cross_entropy,
    smoothed_cross_entropy,
    soft_dice,
    squared_error,
)
from torch import Tensor, nn
from torch.nn import functional as F


class UNet(nn.Module):
    """One level down and up again, with a transposed convolution and a skip connection."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(inplace=True))
        self.bottom = nn.Sequential(
            nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.InstanceNorm2d(6, affine=True), nn.PReLU()
        )
        self.up = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1)
        self.out = nn.Conv2d(8, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        outputs: Tensor = self.out(torch.cat([skip, self.up(self.bottom(skip))], dim=1))
        return outputs


class ViT(nn.Module):
    """Patches, a class token, positions, two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = parameter(1, 1, 8), parameter(1, 7, 8)
        self.patches = nn.Conv2d(2, 8, 2, stride=2)
        self.blocks = nn.Sequential(
            *[
                nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=True)
                for _ in range(2)
            ]
        )
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        sequence = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(sequence))[:, 0])
        return logits


class Dense(nn.Module):
    """Each layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, width), nn.ReLU(inplace=False), nn.Conv2d(width, 2, 3, padding=1, bias=False)
            )
            for width in (2, 4, 6)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, dim=1)))
        logits: Tensor = self.head(torch.cat(features, dim=1).relu_().mean(dim=(2, 3)))
        return logits


class ConvNeXt(nn.Module):
    """Depthwise convolution, then layers that see channels last, then a scale of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(4, 4, 5, padding=2, groups=4), nn.LayerNorm(4)
        self.wide, self.narrow, self.scale = nn.Linear(4, 8), nn.Linear(8, 4), parameter(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.wide(y))) * self.scale
        logits: Tensor = self.head((x + y.permute(0, 3, 1, 2)).mean(dim=(2, 3)))
        return logits


class Residual(nn.Module):
    """The block of a ResNet, with a projected shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False), nn.GroupNorm(2, 4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.GroupNorm(2, 4)
        self.shortcut = nn.Sequential(nn.Conv2d(2, 4, 1, stride=2, bias=False), nn.GroupNorm(2, 4))
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        out += self.shortcut(x)
        logits: Tensor = self.head(self.relu(out).mean(dim=(2, 3)))
        return logits


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 2),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


# fmt: off
def add_networks() -> None:
    """Adds them to `CASES`."""
    pictures = noise(2, 6, 4)
    add("network", "small CNN", small_cnn, pictures)
    add("network", "U-Net, per-pixel cross-entropy", lambda: UNet(3), pictures, classes(6, 4), pixel_cross_entropy)
    add("network", "U-Net, soft Dice", lambda: UNet(1), pictures, findings(1, 6, 4), soft_dice)
    add("network", "ViT", ViT, pictures)
    add("network", "DenseNet block", Dense, pictures)
    add("network", "ConvNeXt block", ConvNeXt, noise(4, 6, 5))
    add("network", "ResNet block", Residual, pictures)
    add("network", "3-D CNN", lambda: nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=1), nn.InstanceNorm3d(3, affine=True), nn.ReLU(inplace=True), nn.MaxPool3d(2),
        nn.Conv3d(3, 4, 2), nn.PReLU(4), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)),
        noise(1, 4, 6, 5))
    add("network", "3-D U-Net's up path", lambda: nn.Sequential(
        nn.Conv3d(1, 3, 2, stride=2), nn.LeakyReLU(), nn.ConvTranspose3d(3, 2, 2, stride=2), nn.GroupNorm(1, 2),
        nn.Conv3d(2, 3, 1)), noise(1, 4, 6, 2), classes(4, 6, 2), pixel_cross_entropy)
    add("loss", "binary cross-entropy of several findings", small_cnn, pictures, findings(3), binary_cross_entropy)
    add("loss", "weighted, smoothed cross-entropy", small_cnn, pictures, classes(), smoothed_cross_entropy)
    add("loss", "squared error", small_cnn, pictures, noise(3), squared_error)
    add("loss", "loss that reads one logit only", small_cnn, pictures, classes(),
        lambda logits, labels: logits.gather(1, labels[:, None])[:, 0].exp())
