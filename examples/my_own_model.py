"""A model whose code is not in transformers: describe it, then study it like any other.

The made-up "Whistle" hears a sound as mel frames: four of them become one token, whose place in
the text is held by the id 3. Its blocks are Llama's, at another path.
Run: python examples/my_own_model.py
"""

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

import sinkscope as ss

SOUND, FRAMES, HOP = 3, 4, 0.01
"""The placeholder's id, mel frames a token, and seconds a mel frame."""


class WhistleConfig(LlamaConfig):
    model_type = "whistle"


class Whistle(nn.Module):
    """Someone's own audio LLM: a linear encoder in front of an LLM."""

    def __init__(self, config: WhistleConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = nn.Linear(FRAMES * 8, config.hidden_size)
        self.brain = LlamaModel(config)

    def forward(
        self, input_ids: Tensor, mel: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        states = self.brain.get_input_embeddings()(input_ids)
        heard = self.encoder(mel.reshape(-1, FRAMES * 8))
        states = states.masked_scatter((input_ids == SOUND)[..., None], heard)
        return self.brain(inputs_embeds=states, attention_mask=attention_mask).last_hidden_state


def layout(given) -> list[ss.TokenLayout]:
    """What every token is: text, or four mel frames of sound with their seconds."""
    layouts = []
    for ids in given.inputs["input_ids"].tolist():
        sound = np.array(ids) == SOUND
        seconds = np.full((len(ids), 2), np.nan)
        start = np.arange(sound.sum()) * FRAMES * HOP
        seconds[sound] = np.stack([start, start + FRAMES * HOP], axis=1)
        segments = ["audio" if heard else "text" for heard in sound]
        labels = [f"t{i}" for i in range(len(ids))]
        layouts.append(ss.TokenLayout.of(segments, labels, seconds=seconds))
    return layouts


def main() -> None:
    """Describe the family once; then load, record, find."""
    ss.register_family("whistle", blocks="brain.layers", layout=layout)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 50}
    model = Whistle(WhistleConfig(num_attention_heads=4, **size)).eval()
    ids = torch.tensor([[5, 6, *[SOUND] * 20, 7, 8]])
    inputs = {"input_ids": ids, "mel": torch.randn(1, 20 * FRAMES, 8)}
    record = ss.record(ss.load(model), inputs)
    print(record.layouts[0].segments)
    print(ss.segment_attention(record).head())
    print(ss.describe(ss.find_sinks(record)))
    picture = ss.plots.sinks_over_time(record, layer=1).figure
    picture.savefig("whistle.png", bbox_inches="tight")


if __name__ == "__main__":
    main()
