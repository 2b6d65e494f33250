"""Tiny encoders: small convolutional nets that were trained to tell phonemes apart.

See ``sinkscope.experiments.tiny_encoders``. The authors of Llama-AVSR have no such encoders:
``strict_original`` changes nothing here.
"""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sinkscope.avsr.clip import FRAME_RATE, SAMPLE_RATE, Clip
from sinkscope.avsr.encoders.encoder import (
    Encoder,
    pictures_of,
    real_frames,
    refuse_short,
    sounds_of,
)

__all__ = ["TinyAudioEncoder", "TinyVideoEncoder"]

HOP = SAMPLE_RATE // 100
WINDOW = SAMPLE_RATE // 40
MELS = 80
SMALL = 32
AUDIO_RATE = 50.0


class _Residual(nn.Module):
    """A depthwise convolution over time and a two-layer net, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.time = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(
        self, x: Float[Tensor, "sample frame width"], mask: Float[Tensor, "sample frame 1"]
    ) -> Float[Tensor, "sample frame width"]:
        y = self.norm(x) * mask
        y = rearrange(self.time(rearrange(y, "s f w -> s w f")), "s w f -> s f w")
        return (x + self.down(functional.gelu(self.up(y)))) * mask


class TinyAudioEncoder(Encoder):
    """Log-mel bands at 100 frames a second, then a small net at 50.

    Args:
        width: features.
        depth: residual blocks.
    """

    frame_rate = AUDIO_RATE

    def __init__(self, *, width: int = 128, depth: int = 4) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("bands", _mel_bands(), persistent=False)
        self.inward = nn.Conv1d(MELS, width, 5, stride=2, padding=2)
        self.blocks = nn.ModuleList(_Residual(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def prepare(
        self, clips: Sequence[Clip], *, strict_original: bool = False
    ) -> tuple[Tensor, Int[Tensor, " sample"]]:
        """Waveforms ``(sample, samples)`` and feature frames: 50 for each whole second."""
        waveforms = sounds_of(clips)
        lengths = torch.tensor([len(waveform) // (2 * HOP) for waveform in waveforms])
        refuse_short(clips, lengths, "audio")
        return nn.utils.rnn.pad_sequence(waveforms, batch_first=True), lengths

    def forward(
        self, batch: Tensor, lengths: Int[Tensor, " sample"], *, strict_original: bool = False
    ) -> Float[Tensor, "sample frame width"]:
        """Features of waveforms."""
        mels = self.log_mels(batch, lengths)
        x = rearrange(self.inward(rearrange(mels, "s f m -> s m f")), "s w f -> s f w")
        x = x[:, : int(lengths.max())]
        mask = real_frames(lengths, x.shape[1])[..., None].to(x)
        x = x * mask
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x) * mask

    def log_mels(
        self, batch: Float[Tensor, "sample samples"], lengths: Int[Tensor, " sample"]
    ) -> Float[Tensor, "sample frame 80"]:
        """Log-mel bands, 100 frames a second, each sample to mean 0 and deviation 1."""
        whole = 2 * HOP * int(lengths.max())
        sound = functional.pad(batch[:, :whole], (0, max(0, whole - batch.shape[1])))
        inside = torch.arange(whole, device=batch.device)[None] < (2 * HOP * lengths)[:, None]
        sound = functional.pad(sound * inside, ((WINDOW - HOP) // 2, WINDOW))
        pieces = sound.unfold(1, WINDOW, HOP)[:, : whole // HOP]
        window = torch.hann_window(WINDOW, device=batch.device)
        power = torch.fft.rfft(pieces * window, 512).abs() ** 2
        mels = torch.log(power @ self.bands + 1e-6)
        mask = real_frames(2 * lengths, mels.shape[1])[..., None].to(mels)
        count = mask.sum((1, 2), keepdim=True) * MELS
        mean = (mels * mask).sum((1, 2), keepdim=True) / count
        spread = (((mels - mean) * mask) ** 2).sum((1, 2), keepdim=True) / count
        return (mels - mean) / (spread + 1e-5).sqrt() * mask


class TinyVideoEncoder(Encoder):
    """Mouth crops shrunk to 32 x 32, a small net a frame, then one over time at 25 frames a second.

    Args:
        width: features.
        depth: residual blocks over time.
    """

    frame_rate = float(FRAME_RATE)
    streams = ("video",)

    def __init__(self, *, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        self.width = width
        self.frame = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(32, 48, 3, stride=2, padding=1),
            nn.GELU(),
        )
        self.inward = nn.Linear(48 * 16, width)
        self.blocks = nn.ModuleList(_Residual(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def prepare(
        self, clips: Sequence[Clip], *, strict_original: bool = False
    ) -> tuple[Tensor, Int[Tensor, " sample"]]:
        """Frames ``(sample, frame, 32, 32)`` from 0 to 1, and their number."""
        pictures = [_shrunk(picture) for picture in pictures_of(clips)]
        lengths = torch.tensor([len(picture) for picture in pictures])
        refuse_short(clips, lengths, "video")
        return nn.utils.rnn.pad_sequence(pictures, batch_first=True), lengths

    def forward(
        self, batch: Tensor, lengths: Int[Tensor, " sample"], *, strict_original: bool = False
    ) -> Float[Tensor, "sample frame width"]:
        """Features of frames, each clip's greys brought to mean 0 and deviation 1."""
        mask = real_frames(lengths, batch.shape[1])[..., None].to(batch)
        real = mask[..., None]
        count = real.sum((1, 2, 3), keepdim=True) * SMALL * SMALL
        mean = (batch * real).sum((1, 2, 3), keepdim=True) / count
        spread = (((batch - mean) * real) ** 2).sum((1, 2, 3), keepdim=True) / count
        grey = (batch - mean) / (spread + 1e-5).sqrt() * real
        seen = self.frame(rearrange(grey, "s f h w -> (s f) 1 h w"))
        x = self.inward(rearrange(seen, "(s f) c h w -> s f (c h w)", s=len(batch))) * mask
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x) * mask


def _shrunk(frames: Tensor) -> Float[Tensor, "frame 32 32"]:
    """Frames from 0 to 1; larger squares as the mean of what falls into each small pixel."""
    grey = frames.float() / 255
    if grey.shape[-2:] == (SMALL, SMALL):
        return grey
    if grey.shape[-2] % SMALL == 0 and grey.shape[-1] % SMALL == 0:
        return functional.adaptive_avg_pool2d(grey, SMALL)
    return functional.interpolate(grey[:, None], (SMALL, SMALL), mode="area")[:, 0]


def _mel_bands() -> Float[Tensor, "bin 80"]:
    """Triangles on the mel scale (O'Shaughnessy), 20 Hz to 8 kHz."""
    mels = np.linspace(2595 * np.log10(1 + 20 / 700), 2595 * np.log10(1 + 8000 / 700), MELS + 2)
    corners = 700 * (10 ** (mels / 2595) - 1)
    bins = np.linspace(0, SAMPLE_RATE / 2, 257)[:, None]
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    return torch.from_numpy(np.clip(np.minimum(rising, falling), 0, None).astype(np.float32))
