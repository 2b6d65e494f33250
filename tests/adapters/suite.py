"""The generic adapter suite: what every multimodal family must pass, and what must make it fail.

A `Case` is a tiny random composite with the arguments of one padded forward. Each check compares
what sinkscope says with something that it had no hand in: the model's own ``hidden_states`` and
eager ``attentions``, the embeddings that reached the LLM.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import sinkscope as ss
from sinkscope.layout import TokenLayout
from sinkscope.probes import attention as seam
from sinkscope.subjects.anatomy import Anatomy
from sinkscope.subjects.multimodal import subject as adapter
from tests.adapters.perturb import Place, received

TOLERANCE = 1e-5
QWEN2_TEXT: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""A small Qwen2, the LLM of several composites."""


@dataclass(frozen=True)
class Case:
    """One family under test.

    Attributes:
        name: the composite's ``model_type``.
        model: makes the tiny random model (cached), with norms and biases that are random too.
        inputs: the arguments of a forward of two samples of unequal length, padded.
        full_layers: the layers whose attention the model itself reports; None for all.
        adding: the sites that are added to ``resid_pre`` to make ``resid_post``.
        between: whether the composite adds to the stream between blocks (DeepStack); then the
            ``hidden_states`` that the model reports are those that leave the blocks.
        active: where the model carries several streams on a first axis, the one that is recorded.
        swapped: the two sites that the mutation swaps.
        places: parts of the input whose place is known by hand (`places.check_places`); families
            without any have tests of their own that move the input.
    """

    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Any]]
    full_layers: tuple[int, ...] | None = None
    adding: tuple[str, ...] = ("attn_out", "mlp_out")
    between: bool = False
    active: int | None = None
    swapped: tuple[str, str] = ("attn_out", "mlp_out")
    places: tuple[Place, ...] = ()

    def stream(self, states: torch.Tensor) -> torch.Tensor:
        """The stream that is recorded, (sample, token, feature), of states of the model."""
        return states if self.active is None else states[self.active]


def randomised(model: nn.Module, *, seed: int = 0, scale: float = 0.3) -> nn.Module:
    """The model with random weights, norms and biases, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(parameter + noise if parameter.ndim == 1 else noise)
    return model.eval()


def real_of(case: Case) -> np.ndarray:
    inputs = case.inputs()
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
    return mask.bool().numpy()


def check_sites(case: Case) -> None:
    """The stream is the model's own, and what is added to it makes the next."""
    model = case.model()
    sites = ["resid_pre", "resid_post", *case.adding]
    record = ss.record(model, case.inputs(), reducers=[ss.Keep(site) for site in sites])
    with torch.no_grad():
        hidden = model(**case.inputs(), output_hidden_states=True).hidden_states
    for sample, real in enumerate(real_of(case)):
        one = record.sample(sample)
        for layer in range(ss.load(model).anatomy.n_layers):
            own = case.stream(hidden[layer])[sample][torch.from_numpy(real)].numpy()
            leaves = case.between and layer > 0
            ours = one["resid_post"][0, layer - 1] if leaves else one["resid_pre"][0, layer]
            assert np.abs(ours - own).max() < TOLERANCE * np.abs(own).max()
            if not case.adding:
                left = one["resid_post"][0, layer - 1]
                assert layer == 0 or np.abs(left - own).max() < TOLERANCE * np.abs(own).max()
                continue
            made = sum(one[site][0, layer] for site in ("resid_pre", *case.adding))
            post = one["resid_post"][0, layer]
            assert np.abs(made - post).max() < TOLERANCE * np.abs(post).max()
            mid = one["resid_pre"][0, layer] + one["attn_out"][0, layer]
            if "resid_mid" in ss.load(model).anatomy.sites():
                kept = ss.record(model, case.inputs(), reducers=[ss.Keep("resid_mid")])
                found = kept.sample(sample)["resid_mid"][0, layer]
                assert np.abs(mid - found).max() < TOLERANCE * np.abs(mid).max()


def check_statistics(case: Case) -> None:
    """α, entropy and patterns equal the maps that the model itself reports in eager attention."""
    model = case.model()
    maps = [ss.SegmentAttention(), ss.RowEntropy(), ss.Keep("pattern")]
    record = ss.record(model, case.inputs(), reducers=maps)
    full = eager_attentions(model, case.inputs())
    layers = case.full_layers or range(len(full))
    for sample, real in enumerate(real_of(case)):
        one = record.sample(sample)
        for layer, own in zip(layers, full, strict=True):
            places = np.flatnonzero(real)
            weights = own[sample][:, places][:, :, places].double().numpy()
            assert np.abs(one["pattern"][0, layer].values - weights).max() < TOLERANCE
            sums = one["segment_sum"][0, layer].sum("segment").values
            assert np.abs(sums - weights.sum(1)).max() < TOLERANCE * len(places)
            entropy = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1)
            assert np.abs(one["entropy"][0, layer] - entropy).max() < 10 * TOLERANCE


def eager_attentions(model: nn.Module, inputs: dict[str, Any]) -> list[torch.Tensor]:
    """The attention maps of the LLM that the model's own eager attention makes."""
    modules = [m for m in model.modules() if hasattr(m, "config")]
    before = [(m.config, m.config._attn_implementation) for m in modules]
    try:
        model.set_attn_implementation("eager")
        with torch.no_grad():
            found = model(**inputs, output_attentions=True).attentions
    finally:
        for config, name in before:
            config._attn_implementation = name
    return [one for one in found if one is not None]


def check_logits(case: Case) -> None:
    """Logits are bit-equal with the probe, and nothing is left behind."""
    model, inputs = case.model(), case.inputs()
    hooks, table = hooks_of(model), dict(ALL_ATTENTION_FUNCTIONS)
    with torch.no_grad():
        plain = model(**inputs).logits
        with ss.probe(model) as probe:
            watched = model(**inputs).logits
        after = model(**inputs).logits
    assert torch.equal(watched, plain)
    assert torch.equal(after, plain)
    assert hooks_of(model) == hooks
    assert dict(ALL_ATTENTION_FUNCTIONS) == table
    assert len(probe.record) == len(inputs["input_ids"])


def check_layout(case: Case) -> None:
    """The layout is as long as what reached the LLM, and its streams stand where features do."""
    model, inputs = case.model(), case.inputs()
    subject = ss.load(model)
    with received(subject) as with_streams:
        record = ss.record(subject, inputs)
    blank = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
    with received(subject) as without, torch.no_grad():
        model(**blank)
    entering, blank = case.stream(with_streams[0]), case.stream(without[0])
    changed = (entering != blank).any(-1).numpy()
    streams = subject.composite.streams
    assert any(row.any() for row in changed)
    for sample, real in enumerate(real_of(case)):
        layout = record.layouts[sample]
        assert len(layout) == real.sum() <= entering.shape[1]
        assert np.array_equal(layout.mask(*streams), changed[sample][real])


def check_hooks_gone(case: Case) -> None:
    """A forward that fails in the middle leaves no hook and no attention function behind."""
    model, inputs = case.model(), case.inputs()
    hooks, table = hooks_of(model), dict(ALL_ATTENTION_FUNCTIONS)
    methods = set(vars(model))

    def fail(*_: Any) -> None:
        raise RuntimeError("in the middle")

    last = ss.load(model).anatomy.blocks[-1]
    handle = last.register_forward_hook(fail)
    probe = ss.probe(model)
    with pytest.raises(RuntimeError, match="in the middle"), probe:
        model(**inputs)
    handle.remove()
    assert hooks_of(model) == hooks
    assert dict(ALL_ATTENTION_FUNCTIONS) == table
    assert set(vars(model)) == methods


def check_generation(case: Case) -> None:
    """A generation is stitched to one sequence whose tokens are those that were generated."""
    model, inputs = case.model(), case.inputs()
    with ss.probe(model) as probe, torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    new = ids.shape[1] - inputs["input_ids"].shape[1]
    for layout, real in zip(probe.record.layouts, real_of(case), strict=True):
        assert real.sum() < len(layout) <= real.sum() + (3 if new < 0 else new)
        assert set(layout.segments[real.sum() :]) == {"response"}


def hooks_of(model: nn.Module) -> dict[str, Any]:
    return {
        name: (list(module._forward_hooks), list(module._forward_pre_hooks))
        for name, module in model.named_modules()
    }


CHECKS = {
    check.__name__.removeprefix("check_"): check
    for check in (
        check_sites,
        check_statistics,
        check_logits,
        check_layout,
        check_hooks_gone,
        check_generation,
    )
}


@contextmanager
def two_sites_swapped(case: Case, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What attention adds is read where the MLP adds, and the other way round."""
    own = Anatomy._tap
    other = dict(zip(case.swapped, reversed(case.swapped), strict=True))
    with monkeypatch.context() as patch:
        patch.setattr(
            Anatomy, "_tap", lambda self, site, *rest: own(self, other.get(site, site), *rest)
        )
        yield


@contextmanager
def layout_shifted_by_one(case: Case, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every token is taken for the one before it."""
    with _layouts_changed(_shifted, monkeypatch):
        yield


@contextmanager
def places_shifted_by_one(case: Case, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Segments stay; item, seconds, row and column are those of the token before."""
    with _layouts_changed(places_shifted, monkeypatch):
        yield


@contextmanager
def _layouts_changed(
    change: Callable[[TokenLayout], TokenLayout], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    own = adapter.layouts_of
    with monkeypatch.context() as patch:
        patch.setattr(adapter, "layouts_of", lambda *args: tuple(map(change, own(*args))))
        yield


def _shifted(layout: TokenLayout) -> TokenLayout:
    real = np.flatnonzero(layout.is_real)
    segments = list(layout.segments)
    for place, before in zip(real, np.roll(real, 1), strict=True):
        segments[place] = layout.segments[before]
    return replace(places_shifted(layout), segments=tuple(segments))


def places_shifted(layout: TokenLayout) -> TokenLayout:
    """The layout with seconds, rows and columns of the token before."""
    real = np.flatnonzero(layout.is_real)
    before = np.arange(len(layout))
    before[real] = np.roll(real, 1)
    known = {name: values[before] for name, values in layout.descriptors.items()}
    return replace(layout, seconds=layout.seconds[before], descriptors=known)


@contextmanager
def mask_dropped(case: Case, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither mask nor causality reaches the statistics: every query sees every key."""
    own = seam._call

    def unmasked(*args: Any) -> Any:
        return replace(own(*args), mask=None, causal=False)

    with monkeypatch.context() as patch:
        patch.setattr(seam, "_call", unmasked)
        yield


MUTATIONS = {
    "two sites swapped": (two_sites_swapped, check_sites),
    "layout shifted by one": (layout_shifted_by_one, check_layout),
    "mask dropped": (mask_dropped, check_statistics),
}
"""What is broken, and the check that must then fail."""
