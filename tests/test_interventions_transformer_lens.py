"""A second opinion: TransformerLens's own hooks, changing the same values, give the same logits."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import sinkscope as ss
from sinkscope.interventions.rotation import rotated
from tests.families import batch
from tests.test_subjects_transformer_lens import boot

TOKENS = [2, 7]
Hook = Callable[..., torch.Tensor]


def zero(value: torch.Tensor, hook: object) -> torch.Tensor:
    value = value.clone()
    value[:, TOKENS] = 0
    return value


def triple(value: torch.Tensor, hook: object) -> torch.Tensor:
    value = value.clone()
    value[:, TOKENS, 5] *= 3
    return value


def turn(value: torch.Tensor, hook: object) -> torch.Tensor:
    value = value.clone()
    for sample in range(len(value)):
        target = value[sample, 0].expand(len(TOKENS), -1)
        value[sample, TOKENS] = rotated(value[sample, TOKENS], target, 0.6)
    return value


def no_head(value: torch.Tensor, hook: object) -> torch.Tensor:
    value = value.clone()
    value[:, :, 1] = 0
    return value


CASES: dict[str, tuple[str, Hook, object]] = {
    "zero the MLP": (
        "blocks.1.hook_mlp_out",
        zero,
        ss.Zero(site="mlp_out", layers=1, tokens=TOKENS),
    ),
    "zero the attention": (
        "blocks.0.hook_attn_out",
        zero,
        ss.Zero(site="attn_out", layers=0, tokens=TOKENS),
    ),
    "scale a feature": (
        "blocks.0.hook_resid_post",
        triple,
        ss.Scale(by=3, layers=0, tokens=TOKENS, features=5),
    ),
    "rotate entering states": (
        "blocks.1.hook_resid_pre",
        turn,
        ss.Rotate(layers=1, tokens=TOKENS, toward=0, fraction=0.6),
    ),
    "silence a head": ("blocks.1.attn.hook_z", no_head, ss.knock_out(layers=1, heads=1)),
}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_same_edits_by_other_hooks(name: str, tmp_path: Path) -> None:
    bridge, _ = boot(name, tmp_path)
    subject, ids = ss.load(bridge), batch(samples=2)["input_ids"]
    with torch.no_grad():
        plain = bridge(ids, prepend_bos=False)
    for case, (point, hook, edit) in CASES.items():
        if point not in bridge.hook_dict:
            continue
        with torch.no_grad():
            expected = bridge.run_with_hooks(ids, prepend_bos=False, fwd_hooks=[(point, hook)])
            with ss.intervene(subject, edit):
                found = subject.model(ids).logits
        assert not torch.allclose(expected, plain, atol=1e-2), case
        assert torch.allclose(found, expected, atol=1e-4 * float(plain.abs().max())), case


def test_enough_of_the_cases_can_be_compared(tmp_path: Path) -> None:
    bridge, _ = boot("llama", tmp_path)
    assert sum(point in bridge.hook_dict for point, _, _ in CASES.values()) >= 4
