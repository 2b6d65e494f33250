"""What each rate costs: operations against arithmetic by hand, tokens against the clip's length."""

from pathlib import Path

import pytest
import torch

import sinkscope as ss
from sinkscope.avsr.llm import build_llm
from sinkscope.avsr.mome import MomeSettings, add_mixtures
from sinkscope.experiments.elastic import (
    OTHERS,
    PUBLISHED,
    REPORTED,
    SECONDS,
    count_llm,
    measured,
    published,
)
from sinkscope.experiments.elastic_page import write_page

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def by_hand(tokens: int, *, experts: int = 0, bottleneck: int = 0, routed: int = 0) -> int:
    """Twice the multiplications of `SMALL`, attention counted whole."""
    attention = 2 * 16 * 16 + 2 * 16 * 8
    mlp = 3 * 16 * 24
    mixture = 2 * 16 * experts * bottleneck + experts * 16 + 16 * routed
    block = tokens * (attention + mlp + mixture) + 2 * tokens * tokens * 16
    return 2 * (3 * block + tokens * 16 * 50)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_counts_are_those_by_hand(device: str) -> None:
    with torch.device(device):
        llm = build_llm(SMALL).eval()
    assert llm.config._attn_implementation == "sdpa"
    for tokens in (1, 7, 40):
        assert count_llm(llm, tokens, hidden_size=16) == by_hand(tokens)
    assert llm.config._attn_implementation == "sdpa"


def test_counts_of_experts_are_those_by_hand() -> None:
    settings = MomeSettings(routed=5, top_k=2, shared=1, bottleneck=3)
    with torch.device("meta"):
        plain, mixed = build_llm(SMALL).eval(), build_llm(SMALL).eval()
        add_mixtures(mixed, settings)
    own = [count_llm(llm, 9, hidden_size=16) for llm in (plain, mixed)]
    hand = [by_hand(9), by_hand(9, experts=6, bottleneck=3, routed=5)]
    assert own[1] - own[0] == hand[1] - hand[0]


def test_published_sizes() -> None:
    table = published()
    own = table.loc[(table["llm"] == "Llama-3.1-8B") & ~table["experts"]]
    assert own["tokens"].tolist() == [757, 257, 182, 163, 88]
    assert SECONDS * 75 + OTHERS == 757
    for row, pair in zip(own.to_dict("records"), PUBLISHED, strict=True):
        assert row["tera"] == pytest.approx(REPORTED[pair], rel=0.03)
    mixed = table.loc[table["experts"], "tera"].to_numpy()
    plain = table.loc[~table["experts"], "tera"].to_numpy()
    assert ((mixed > plain) & (mixed < 1.02 * plain)).all()


def test_a_higher_rate_has_fewer_tokens_and_operations() -> None:
    subject = ss.load("tiny-mome")
    clip = ss.read_clip(ss.bundled_clips()[0])
    table = measured(subject, [clip], rounds=1).set_index(["modality", "audio_rate", "video_rate"])
    frames = int(clip.duration * 25)
    assert table.loc[("video", 4, 2), "tokens"] == frames // 2
    assert table.loc[("video", 4, 5), "tokens"] == frames // 5
    both = table.loc["audiovisual"]
    assert both.loc[(4, 2), "tokens"] == (
        table.loc[("audio", 4, 2), "tokens"] + table.loc[("video", 4, 2), "tokens"]
    )
    ordered = both.sort_values("tokens")
    assert ordered["mega"].is_monotonic_increasing
    assert ordered["mega"].iloc[0] < 0.5 * ordered["mega"].iloc[-1]
    assert table["wer"].between(0, 1).all()


def test_the_page_says_what_the_tables_say(tmp_path: Path) -> None:
    subject = ss.load("tiny-mome")
    table = measured(subject, [ss.read_clip(ss.bundled_clips()[0])], rounds=1)
    said = {"model": "tiny-mome", "clips": 1, "rounds": 1, "seconds": SECONDS, "others": OTHERS}
    write_page(tmp_path, table, published(), said=said)
    page = (tmp_path / "README.md").read_text()
    last = table.iloc[-1]
    assert f"| both, 16, 5 | {last['tokens']:.0f} | {last['mega']:.0f} |" in page
    assert "| 16, 5 | 88 | 0.219 / 0.222 | 0.568 / 0.578 | 1.32 / 1.34 | 1.33 |" in page
    assert (tmp_path / "wer_by_tokens.png").stat().st_size > 10_000
