"""What turns mouth crops into one vector a frame: a 3-D convolution and a ResNet-18 with PReLU.

Every frame of every clip goes through the ResNet by itself; only the first convolution sees its
neighbours (two frames on either side).
"""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["FRONT_WIDTH", "ResNet", "VideoFeatures"]

FRONT_WIDTH = 512
"""Features of a frame after the ResNet."""

_STEM = 64
_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, each sum through a PReLU of its own."""

    def __init__(self, inputs: int, planes: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.PReLU(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu2 = nn.PReLU(planes)
        self.downsample = None
        if stride != 1 or inputs != planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes)
            )

    def forward(self, x: Float[Tensor, "image c h w"]) -> Float[Tensor, "image c2 h2 w2"]:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(x)) + shortcut)


class _Trunk(nn.Module):
    """The four stages of the ResNet, and the mean over what is left of the picture."""

    def __init__(self) -> None:
        super().__init__()
        inputs = _STEM
        for number, (planes, stride) in enumerate(_STAGES, 1):
            blocks = nn.Sequential(
                _Block(inputs, planes, stride=stride), _Block(planes, planes, stride=1)
            )
            self.add_module(f"layer{number}", blocks)
            inputs = planes

    def forward(self, x: Float[Tensor, "image 64 h w"]) -> Float[Tensor, "image 512"]:
        for stage in self.children():
            x = stage(x)
        return x.mean((2, 3))


class ResNet(nn.Module):
    """Grey pictures to one vector a frame."""

    def __init__(self) -> None:
        super().__init__()
        self.frontend3D = nn.Sequential(
            nn.Conv3d(1, _STEM, (5, 7, 7), stride=(1, 2, 2), padding=(2, 3, 3), bias=False),
            nn.BatchNorm3d(_STEM),
            nn.PReLU(_STEM),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
        )
        self.trunk = _Trunk()

    def forward(
        self, video: Float[Tensor, "sample frame height width"]
    ) -> Float[Tensor, "sample frame 512"]:
        """Features of each frame."""
        seen = self.frontend3D(rearrange(video, "s f h w -> s 1 f h w"))
        flat = self.trunk(rearrange(seen, "s c f h w -> (s f) c h w"))
        return rearrange(flat, "(s f) c -> s f c", s=len(video))


class VideoFeatures(nn.Module):
    """The ResNet and the linear layer after it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resnet = ResNet()
        self.proj = nn.Linear(FRONT_WIDTH, width)

    def forward(
        self, video: Float[Tensor, "sample frame height width"]
    ) -> Float[Tensor, "sample frame width_out"]:
        """Features of each frame, of the transformer's width."""
        return self.proj(self.resnet(video))
