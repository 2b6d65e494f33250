"""Sites are where the table says: for every family the residual bookkeeping closes, and only so."""

from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from sinkscope.errors import SiteError, UnknownFamilyError
from sinkscope.glossary import SITES
from sinkscope.subjects import families as table
from sinkscope.subjects.anatomy import (
    ATTENTION_SITES,
    Anatomy,
    anatomy_of,
    families,
    families_table,
)
from sinkscope.subjects.registering import register_family
from tests.families import (
    CONFIGURATIONS,
    FAMILIES,
    MORE_FAMILIES,
    PADDINGS,
    batch,
    build,
    config_of,
    model_type,
    tiny,
)
from tests.text_families import HYBRIDS, LATENT, TEXT_FAMILIES, text_model_type

SAMPLES = 3
EXPERTS = {"gpt_oss", "mixtral", "qwen2_moe", "qwen3_moe"}
UNGATED = {"gpt2", "gpt_neox", "gpt_neox_sequential", "opt", "phi", "starcoder2"}
PARALLEL = {"gpt_neox", "phi", "stablelm_parallel", "cohere", "cohere2"}

Sites = dict[tuple[str, int], Tensor]


@pytest.fixture(autouse=True)
def _same_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_TABLE", dict(table._TABLE))


def read_sites(
    model: nn.Module, anatomy: Anatomy, inputs: dict[str, Tensor]
) -> tuple[Sites, object]:
    """All sites of all layers, by plain hooks that are removed again, and the model's output."""
    seen: Sites = {}
    with ExitStack() as hooks, torch.no_grad():
        for site in anatomy.sites():
            for layer in range(anatomy.n_layers):
                tap = anatomy.tap(site, layer)

                def keep(value: object, key: tuple[str, int] = (site, layer), tap=tap) -> None:
                    seen[key] = tap.read(value, samples=SAMPLES).clone()

                if tap.where == "input":
                    handle = tap.module.register_forward_pre_hook(
                        lambda _, args, kwargs, keep=keep: keep((args, kwargs)), with_kwargs=True
                    )
                else:
                    handle = tap.module.register_forward_hook(
                        lambda _, args, output, keep=keep: keep(output)
                    )
                hooks.callback(handle.remove)
        output = model(**inputs)
    return seen, output


def far(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest value wanted."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def bookkeeping(seen: Sites, layer: int, *, parallel: bool) -> float:
    """How far the residual stream of a layer is from its parts."""
    pre, post = seen["resid_pre", layer], seen["resid_post", layer]
    attention, mlp = seen["attn_out", layer], seen["mlp_out", layer]
    if parallel:
        return far(pre + attention + mlp, post)
    mid = seen["resid_mid", layer]
    return max(far(pre + attention, mid), far(mid + mlp, post))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", FAMILIES)
def test_sites_close_the_bookkeeping(name: str, padding: str) -> None:
    model, anatomy, inputs = tiny(name), anatomy_of(tiny(name)), batch(padding, samples=SAMPLES)
    seen, output = read_sites(model, anatomy, inputs)
    with torch.no_grad():
        plain = model(**inputs, output_hidden_states=True)
    assert torch.equal(output.logits, plain.logits)
    assert set(seen) == {(site, i) for site in anatomy.sites() for i in range(anatomy.n_layers)}
    for layer in range(anatomy.n_layers):
        assert far(seen["resid_pre", layer], plain.hidden_states[layer]) == 0
        if layer + 1 < anatomy.n_layers:
            assert far(seen["resid_post", layer], plain.hidden_states[layer + 1]) == 0
        assert bookkeeping(seen, layer, parallel=anatomy.parallel) < 1e-5


@pytest.mark.parametrize("name", MORE_FAMILIES)
def test_further_families(name: str) -> None:
    model, anatomy = tiny(name), anatomy_of(tiny(name))
    seen, output = read_sites(model, anatomy, batch("left", samples=SAMPLES))
    with torch.no_grad():
        plain = model(**batch("left", samples=SAMPLES), output_hidden_states=True)
    assert torch.equal(output.logits, plain.logits)
    for layer in range(anatomy.n_layers):
        assert far(seen["resid_pre", layer], plain.hidden_states[layer]) == 0
        assert bookkeeping(seen, layer, parallel=anatomy.parallel) < 1e-5


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox", "opt", "granite"])
@pytest.mark.parametrize(
    ("one", "other"),
    [("attn_out", "mlp_out"), ("resid_pre", "resid_mid"), ("resid_mid", "resid_post")],
)
def test_swapped_sites_would_show(name: str, one: str, other: str) -> None:
    anatomy = anatomy_of(tiny(name))
    if anatomy.parallel and "resid_mid" in (one, other):
        one, other = "resid_pre", "resid_post"
    if anatomy.parallel and one == "attn_out":
        one, other = "mlp_out", "resid_post"
    seen, _ = read_sites(tiny(name), anatomy, batch(samples=SAMPLES))
    seen[one, 1], seen[other, 1] = seen[other, 1], seen[one, 1]
    assert bookkeeping(seen, 1, parallel=anatomy.parallel) > 1e-2


def test_values_before_a_post_norm_or_a_multiplier_would_show() -> None:
    for name, module in (("gemma2", "self_attn"), ("granite", "self_attn"), ("olmo2", "mlp")):
        anatomy = anatomy_of(tiny(name))
        raw: list[Tensor] = []
        hook = getattr(anatomy.blocks[1], module).register_forward_hook(
            lambda _, args, output, raw=raw: raw.append(
                output[0] if isinstance(output, tuple) else output
            )
        )
        seen, _ = read_sites(tiny(name), anatomy, batch(samples=SAMPLES))
        hook.remove()
        seen["attn_out" if module == "self_attn" else "mlp_out", 1] = raw[0]
        assert bookkeeping(seen, 1, parallel=False) > 1e-2, name


def activation(anatomy: Anatomy, layer: int) -> nn.Module:
    block = anatomy.blocks[layer]
    inside = getattr(block, "mlp", block)
    return next(
        getattr(inside, name)
        for name in ("act_fn", "activation_fn", "act")
        if hasattr(inside, name)
    )


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if name not in EXPERTS])
def test_mlp_sites_make_the_output(name: str) -> None:
    """What enters the down projection is gate, act and up, and leaves it as what the MLP adds."""
    anatomy = anatomy_of(tiny(name))
    seen, _ = read_sites(tiny(name), anatomy, batch("right", samples=SAMPLES))
    layer = anatomy.n_layers - 1
    block, act = anatomy.blocks[layer], seen["mlp_act", layer]
    down = block.get_submodule(anatomy.row.down)
    with torch.no_grad():
        added = down(act)
        if "norm" in anatomy.row.mlp_out:
            added = block.get_submodule(anatomy.row.mlp_out)(added)
        added = added * (getattr(block, anatomy.row.multiplier) if anatomy.row.multiplier else 1)
        assert far(added, seen["mlp_out", layer]) < 1e-5
        assert ("mlp_gate" in anatomy.sites()) == (name not in UNGATED)
        if name not in UNGATED:
            gate, up = seen["mlp_gate", layer], seen["mlp_up", layer]
            assert far(activation(anatomy, layer)(gate) * up, act) < 1e-5
            assert far(activation(anatomy, layer)(up) * gate, act) > 1e-2


def test_expert_layers_have_no_neurons_and_dense_ones_do() -> None:
    anatomy = anatomy_of(tiny("qwen3_moe"))
    assert anatomy.tap("mlp_act", 0).where == "input"
    with pytest.raises(SiteError, match="fused parameters"):
        anatomy.tap("mlp_act", 1)
    assert not set(anatomy.sites()) & {"mlp_gate", "mlp_up", "mlp_act"}
    for name in EXPERTS:
        for site in ("mlp_gate", "mlp_up", "mlp_act"):
            with pytest.raises(SiteError, match=r"experts"):
                anatomy_of(tiny(name)).tap(site, 1)


def test_absent_sites_say_why() -> None:
    for name in CONFIGURATIONS:
        anatomy = anatomy_of(tiny(name))
        assert ("resid_mid" in anatomy.sites()) == (name not in PARALLEL), name
        assert set(anatomy.sites()) <= set(SITES) - set(ATTENTION_SITES)
    with pytest.raises(SiteError, match="parallel block"):
        anatomy_of(tiny("gpt_neox")).tap("resid_mid", 0)
    with pytest.raises(SiteError, match="no gate"):
        anatomy_of(tiny("gpt2")).tap("mlp_gate", 0)
    with pytest.raises(SiteError, match="attention interface"):
        anatomy_of(tiny("llama")).tap("pattern", 0)
    with pytest.raises(SiteError, match="layers are 0 to 1"):
        anatomy_of(tiny("llama")).tap("resid_post", 2)
    with pytest.raises(SiteError, match="no such site"):
        anatomy_of(tiny("llama")).tap("residual", 0)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_sizes_are_those_of_the_weights(name: str) -> None:
    anatomy, config = anatomy_of(tiny(name)), config_of(name)
    assert anatomy.family == model_type(name)
    assert anatomy.n_layers == len(anatomy.attention) == config.num_hidden_layers
    if hasattr(anatomy.attention[0], "q_proj"):
        queries, keys = anatomy.attention[0].q_proj, anatomy.attention[0].k_proj
        assert queries.weight.shape == (anatomy.n_heads * anatomy.d_head, anatomy.d_model)
        assert keys.weight.shape[0] == anatomy.n_kv_heads * anatomy.d_head


def test_attention_modules_are_those_of_the_interface() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for name in (*FAMILIES, *MORE_FAMILIES):
        model, anatomy = tiny(name), anatomy_of(tiny(name))
        key, met = anatomy.attn_implementation, []
        eager = __import__(type(anatomy.attention[0]).__module__, fromlist=["x"])
        inner = eager.eager_attention_forward if key == "eager" else ALL_ATTENTION_FUNCTIONS[key]

        def seam(module: nn.Module, *args, inner=inner, met=met, **kwargs) -> object:
            met.append(module)
            return inner(module, *args, **kwargs)

        ALL_ATTENTION_FUNCTIONS[key] = seam
        try:
            with torch.no_grad():
                model(**batch())
        finally:
            del ALL_ATTENTION_FUNCTIONS[key]
        assert [id(module) for module in met] == [id(module) for module in anatomy.attention], name


@pytest.mark.parametrize("name", ["llama", "gemma2", "opt"])
def test_bfloat16(name: str) -> None:
    model = build(name).to(torch.bfloat16)
    seen, _ = read_sites(model, anatomy_of(model), batch("right", samples=SAMPLES))
    assert seen["resid_post", 1].dtype == torch.bfloat16
    assert bookkeeping({k: v.float() for k, v in seen.items()}, 1, parallel=False) < 2e-2


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_peft_is_seen_through() -> None:
    from peft import LoraConfig, get_peft_model

    model = build("llama")
    targets = ["q_proj", "down_proj", "gate_proj"]
    wrapped = get_peft_model(
        model, LoraConfig(target_modules=targets, init_lora_weights=False)
    ).eval()
    anatomy = anatomy_of(wrapped)
    assert anatomy.decoder is model.model
    seen, _ = read_sites(wrapped, anatomy, batch("left", samples=SAMPLES))
    assert bookkeeping(seen, 1, parallel=False) < 1e-5
    gate, up, act = (seen[site, 1] for site in ("mlp_gate", "mlp_up", "mlp_act"))
    assert far(nn.functional.silu(gate) * up, act) < 1e-5
    base = anatomy.blocks[1].mlp.gate_proj.base_layer.weight
    states = anatomy.blocks[1].post_attention_layernorm(seen["resid_mid", 1])
    assert far(states @ base.T, gate) > 1e-2, "the gate must hold what LoRA adds"


def test_a_bare_decoder_and_a_decoder_inside_a_larger_model() -> None:
    model = tiny("llama")
    assert anatomy_of(model.model).decoder is model.model
    outer = nn.Module()
    outer.ears, outer.llm = nn.Linear(2, 2), model
    assert anatomy_of(outer).blocks[0] is model.model.layers[0]
    assert anatomy_of(tiny("opt").model.decoder).decoder is tiny("opt").model.decoder
    outer.second = tiny("gpt2")
    with pytest.raises(UnknownFamilyError, match="2 decoders"):
        anatomy_of(outer)


@pytest.mark.parametrize("unknown", ["bloom", "doge", "falcon"])
def test_unknown_families_are_refused_by_name(unknown: str) -> None:
    from transformers import AutoConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 97}
    sizes |= {"intermediate_size": 48} if unknown == "doge" else {}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(unknown, **sizes))
    with pytest.raises(UnknownFamilyError, match=f"'{unknown}'.*llama.*register_family"):
        anatomy_of(model)
    with pytest.raises(UnknownFamilyError, match=r"config\.model_type"):
        anatomy_of(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("opt", {"do_layer_norm_before": False}),
        ("gpt2", {"add_cross_attention": True}),
        ("gpt2", {"reorder_and_upcast_attn": True}),
        ("gemma3_text", {"use_bidirectional_attention": True}),
    ],
)
def test_fields_that_change_a_formula_are_refused(name: str, change: dict) -> None:
    with pytest.raises(UnknownFamilyError, match=next(iter(change))):
        anatomy_of(build(name, **change))


def test_foreign_code_under_a_known_name_is_refused() -> None:
    model = build("llama")
    layer = type(model.model.layers[0])

    class OtherLayer(layer):
        def forward(self, hidden_states: Tensor, **kwargs: object) -> Tensor:
            return hidden_states + self.mlp(hidden_states)

    for block in model.model.layers:
        block.__class__ = OtherLayer
    with pytest.raises(UnknownFamilyError, match="code of 'tests"):
        anatomy_of(model)


def test_compiled_models_are_refused() -> None:
    with pytest.raises(UnknownFamilyError, match=r"before torch\.compile"):
        anatomy_of(torch.compile(tiny("llama"), backend="eager"))


class MineConfig(LlamaConfig):
    model_type = "mine"


class MineBlock(LlamaDecoderLayer):
    """A block with names of its own, whose MLP passes through one more layer."""

    def __init__(self, config: MineConfig, index: int) -> None:
        super().__init__(config, index)
        self.feed, self.shrink = self.mlp, nn.Linear(config.hidden_size, config.hidden_size)
        del self.mlp

    def forward(self, states: Tensor, **kwargs: object) -> Tensor:
        middle = states + self.self_attn(self.input_layernorm(states), **kwargs)[0]
        return middle + self.shrink(self.feed(self.post_attention_layernorm(middle)))


def custom_model() -> LlamaForCausalLM:
    config = MineConfig(**CONFIGURATIONS["llama"])
    model = LlamaForCausalLM(config).eval()
    model.model.layers = nn.ModuleList(MineBlock(config, i) for i in range(2))
    return model


def test_register_family() -> None:
    model = custom_model()
    with pytest.raises(UnknownFamilyError, match="'mine'"):
        anatomy_of(model)
    inside = {"down": "feed.down_proj", "gate": "feed.gate_proj", "up": "feed.up_proj"}
    register_family("mine", mlp_out="shrink", **inside)
    anatomy = anatomy_of(model)
    seen, _ = read_sites(model, anatomy, batch(samples=SAMPLES))
    assert bookkeeping(seen, 1, parallel=False) < 1e-5
    register_family("mine", mlp_out="feed", **inside)
    seen, _ = read_sites(model, anatomy_of(model), batch(samples=SAMPLES))
    assert bookkeeping(seen, 1, parallel=False) > 1e-3
    register_family("mine", blocks="model.lairs")
    with pytest.raises(UnknownFamilyError, match=r"model\.lairs"):
        anatomy_of(model)
    register_family("mine", attention="attn")
    with pytest.raises(UnknownFamilyError, match="no module 'attn'"):
        anatomy_of(model)
    with pytest.raises(UnknownFamilyError, match="give both"):
        register_family("mine", gate=None)


def test_families_table_lists_every_row() -> None:
    lines = families_table().splitlines()
    tested = {model_type(name) for name in CONFIGURATIONS}
    tested |= {text_model_type(name) for name in (*TEXT_FAMILIES, *HYBRIDS, *LATENT)}
    assert [line.split("|")[1].strip() for line in lines[2:]] == sorted(tested)
    assert tested <= set(families()), "what a row promises is tested here"
    for name, parallel in (("cohere", True), ("llama", False)):
        line = next(line for line in lines if line.startswith(f"| {name} "))
        assert ("parallel" in line) == parallel
