"""Whether a small change of the input touches the tokens that the layout says to cover it.

What is right is written down by hand in each `Case`, not taken from our layouts. Cases without
places (Whisper-like encoders, whose convolutions look into the neighbours) have tests of their own.
"""

from sinkscope.subjects.subject import load
from tests.adapters.perturb import covering, silenced, touched
from tests.adapters.suite import Case

LOCAL = (
    "attn.proj",
    "out_proj",
    "o_proj",
    "self_attn.post",
    "attention.post",
    "linear_end",
    "attn.to_out",
    "conv.down_conv",
)
"""How the modules are called whose silence leaves an encoder local (the LLM does not matter)."""


def check_places(case: Case) -> None:
    """Each change touches tokens, and these are the ones that cover its place."""
    model, before = case.model(), case.inputs()
    layouts = next(iter(load(model).batches(before))).layouts
    mixing = [module for name, module in model.named_modules() if name.endswith(LOCAL)]
    for place in case.places:
        moved = before[place.features].clone()
        moved[place.index] += 0.5
        with silenced(mixing):
            changed = touched(model, before, before | {place.features: moved})
        changed = changed if case.active is None else changed[case.active]
        expected = [covering(layout, place.stream, **place.at) for layout in layouts]
        assert changed.any()
        for own, row, layout in zip(expected, changed, layouts, strict=True):
            assert row.tolist() == own.tolist(), (place, layout.labels)
