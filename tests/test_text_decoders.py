"""The text decoders inside multimodal models: sites close, maps are right, logits stay."""

import pytest
import torch
from torch import Tensor

import sinkscope as ss
from sinkscope.errors import InputError, SiteError
from sinkscope.probes.probe import default_reducers
from sinkscope.subjects.anatomy import anatomy_of
from tests.families import batch
from tests.test_probes_attention import check_against_full_maps
from tests.test_probes_generate import check_stitched, generate
from tests.test_probes_outputs import check_bit_equal
from tests.test_subjects_anatomy import bookkeeping, far, read_sites
from tests.text_families import TEXT_FAMILIES, build_text, text_model_type

SAMPLES = 3
pytestmark = pytest.mark.filterwarnings("ignore:Sliding Window Attention is enabled")


def is_plain(name: str) -> bool:
    return not name.startswith(("gemma3n", "gemma4"))


def stream(hidden: Tensor) -> Tensor:
    """The stream that attention and MLP read: of Gemma 3n's four, the first."""
    return hidden if hidden.ndim == 3 else hidden[0]


@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_sites_close_the_bookkeeping(name: str, padding: str) -> None:
    model, inputs = build_text(name), batch(padding, samples=SAMPLES)
    anatomy = anatomy_of(model)
    assert anatomy.family == text_model_type(name)
    seen, output = read_sites(model, anatomy, inputs)
    with torch.no_grad():
        plain = model(**inputs, output_hidden_states=True)
    assert torch.equal(output.logits, plain.logits)
    assert torch.isfinite(plain.logits).all()
    for layer in range(anatomy.n_layers):
        assert far(seen["resid_pre", layer], stream(plain.hidden_states[layer])) == 0
        if layer + 1 < anatomy.n_layers:
            assert far(seen["resid_post", layer], stream(plain.hidden_states[layer + 1])) == 0
        if is_plain(name):
            assert bookkeeping(seen, layer, parallel=False) < 1e-5


@pytest.mark.parametrize("name", [name for name in TEXT_FAMILIES if name.startswith("gemma4")])
def test_gemma_4_adds_per_layer_embeddings_and_scales_the_stream(name: str) -> None:
    model = build_text(name)
    anatomy, added = anatomy_of(model), dict[int, Tensor]()
    for layer, block in enumerate(anatomy.blocks):
        if hasattr(block, "post_per_layer_input_norm"):
            block.post_per_layer_input_norm.register_forward_hook(
                lambda _, args, output, layer=layer: added.__setitem__(layer, output)
            )
    seen, _ = read_sites(model, anatomy, batch("left", samples=SAMPLES))
    for layer, block in enumerate(anatomy.blocks):
        middle = seen["resid_mid", layer]
        assert far(seen["resid_pre", layer] + seen["attn_out", layer], middle) < 1e-5
        whole = middle + seen["mlp_out", layer] + added.get(layer, 0)
        assert far(whole * block.layer_scalar, seen["resid_post", layer]) < 1e-5
        assert far(whole, seen["resid_post", layer]) > 1e-2
        assert far(middle * block.layer_scalar, seen["resid_post", layer]) > 1e-2
    assert bool(added) == (name == "gemma4_text")


def test_gemma_3n_says_why_it_has_few_sites() -> None:
    anatomy = anatomy_of(build_text("gemma3n_text"))
    assert anatomy.sites() == ("resid_pre", "resid_post", "mlp_up", "mlp_act")
    for site in ("attn_out", "mlp_out", "resid_mid", "mlp_gate"):
        with pytest.raises(SiteError, match=r"corrects four streams \(AltUp\)"):
            anatomy.tap(site, 1)


@pytest.mark.parametrize("index", [0, 2])
def test_the_stream_of_gemma_3n_is_the_one_that_is_read(index: int) -> None:
    model = build_text("gemma3n_text", altup_active_idx=index)
    inputs = batch("right", samples=SAMPLES)
    anatomy = anatomy_of(model)
    seen, _ = read_sites(model, anatomy, inputs)
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states
    for layer in range(anatomy.n_layers):
        assert torch.equal(seen["resid_pre", layer], hidden[layer][index])
        assert far(seen["resid_pre", layer], hidden[layer][1]) > 1e-2
        act = seen["mlp_act", layer]
        assert act.shape[-1] == model.config.intermediate_size[layer]


@pytest.mark.parametrize("name", ["gemma3n_text", "qwen3_vl_text"])
def test_what_is_written_to_a_stream_reaches_the_model(name: str) -> None:
    """Writing a site back changes nothing; writing zeros changes the other streams not."""
    model, inputs = build_text(name), batch(samples=SAMPLES)
    anatomy = anatomy_of(model)
    with torch.no_grad():
        before = model(**inputs).logits
        for site in ("resid_pre", "resid_post"):
            tap = anatomy.tap(site, 1)
            for factor, same in ((1, True), (0, False)):

                def write(value: object, tap=tap, factor=factor) -> object:
                    return tap.write(value, tap.read(value, samples=SAMPLES) * factor)

                if tap.where == "input":
                    handle = tap.module.register_forward_pre_hook(
                        lambda _, args, kwargs, write=write: write((args, kwargs)), with_kwargs=True
                    )
                else:
                    handle = tap.module.register_forward_hook(
                        lambda _, args, output, write=write: write(output)
                    )
                after = model(**inputs).logits
                handle.remove()
                assert torch.equal(after, before) == same, (site, factor)


@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_logits_are_bit_equal(name: str) -> None:
    model = build_text(name)
    anatomy = anatomy_of(model)
    usual = default_reducers(ss.load(model))
    sites = [ss.Keep(site) for site in (*anatomy.sites(), *"qkvz", "pattern")]
    check_bit_equal(model, batch("left"), [*usual, *(one for one in sites if one not in usual)])


@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_statistics_equal_full_maps(name: str) -> None:
    check_against_full_maps(build_text(name), batch("left"))


@pytest.mark.parametrize(
    "name", ["phi4_multimodal", "gemma3n_text", "gemma4_text", "gemma4_text:experts"]
)
def test_generate_is_stitched(name: str) -> None:
    """Shared keys, caches that drop old ones, key heads and widths that differ between layers."""
    model = build_text(name)
    sites = [ss.Keep(site) for site in (*"qkvz", "pattern")]
    reducers = [*default_reducers(ss.load(model)), *sites]
    check_stitched(model, batch("left", samples=2, tokens=9), reducers, logits_to_keep=0)


def test_a_forward_that_skips_tokens_in_its_later_blocks_is_refused() -> None:
    model = build_text("gemma4_text")
    with (
        pytest.raises(InputError, match=r"on the last 1 of 9 tokens only.*logits_to_keep=0"),
        ss.probe(model),
    ):
        generate(model, batch(samples=1, tokens=9))
