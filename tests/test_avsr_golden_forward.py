"""The whole Llama-AVSR against the authors' own numbers, case by case."""

import pytest
import torch
from torch import Tensor

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.inputs import Inputs
from sinkscope.avsr.projector import compress_average, compress_stack
from sinkscope.avsr.streams import MODALITIES
from sinkscope.errors import InputError
from tests.golden_avsr import Case, golden_case, golden_set
from tests.shared_data import ROOT

TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}
CASES = sorted(golden_set()[0]["cases"]) if (ROOT / "golden").is_dir() else ["none"]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    if request.param == "none":
        pytest.skip("the shared data are absent")
    return golden_case(request.param)


def streams_of(case: Case) -> tuple[str, ...]:
    if case.told["modality"] == "audiovisual_avhubert":
        return case.model.config.streams
    return MODALITIES[case.told["modality"]]


def run(case: Case, samples: int, *, texts: list[str] | None) -> tuple[Inputs, dict[str, Tensor]]:
    """The prepared batch, as ``prepare`` makes it from clips, and what the projectors made."""
    features: list[dict[str, Tensor]] = [{} for _ in range(samples)]
    seen: dict[str, Tensor] = {}
    model, rates = case.model, case.rates()
    for stream in streams_of(case):
        batch, lengths = case.batch(stream, samples)
        frames = model.encode(stream, batch, lengths, strict_original=True)[:, : int(lengths[0])]
        tokens, counts = model.project(stream, frames, lengths, rate=rates[stream])
        compress = compress_stack if case.told["mode"] == "stack" else compress_average
        seen[f"{stream}_proj/in"] = compress(frames, rate=rates[stream])
        seen[f"{stream}_proj/out"] = tokens
        for sample, row, count in zip(features, tokens, counts.tolist(), strict=True):
            sample[stream] = row[:count]
    parts = [
        model.parts(sample, rates=rates, text=texts[i] if texts else None)
        for i, sample in enumerate(features)
    ]
    return model.assemble(parts, strict_original=True), seen


@torch.no_grad()
def test_training_batch(case: Case) -> None:
    if "train_error" in case.told:
        pytest.skip("the authors' code fails on this batch")
    wanted = {
        name.removeprefix(f"{case.name}/train/"): value
        for name, value in case.outputs.items()
        if name.startswith(f"{case.name}/train/")
    }
    inputs, seen = run(case, 2, texts=golden_set()[0]["texts"])
    for name, value in seen.items():
        torch.testing.assert_close(value, wanted[name], **TOLERANCE)
    torch.testing.assert_close(inputs.inputs_embeds, wanted["inputs_embeds"], **TOLERANCE)
    assert inputs.labels is not None
    assert torch.equal(inputs.labels, wanted["labels"])
    assert inputs.attention_mask.all()
    output = case.model(inputs, use_cache=False, output_hidden_states=True)
    torch.testing.assert_close(output.logits, wanted["logits"], **TOLERANCE)
    torch.testing.assert_close(output.loss, wanted["loss_ce"], atol=2e-5, rtol=0)
    for number, state in enumerate(output.hidden_states):
        name = f"hidden_states.{number}"
        torch.testing.assert_close(state, wanted.get(name, state), **TOLERANCE)
    ours = next(span.stop for span in inputs.spans[0] if span.name == "prompt")
    assert ours == case.told["non_output_tokens_count"] + 1


@torch.no_grad()
def test_transcript(case: Case) -> None:
    if "test_error" in case.told:
        pytest.skip("the authors' code fails on this clip")
    inputs, _ = run(case, 1, texts=None)
    wanted = case.outputs[f"{case.name}/test/inputs_embeds"]
    torch.testing.assert_close(inputs.inputs_embeds, wanted, **TOLERANCE)
    new = golden_set()[0]["max_new_tokens"]
    ids = case.model.generate(inputs, max_new_tokens=new, num_beams=case.told["beams"])
    assert torch.equal(ids, case.outputs[f"{case.name}/test/generated_ids"])


def test_a_remainder_of_stacked_video_is_refused_as_in_the_original() -> None:
    case = golden_case("video_stack4_bB_nondiv") if CASES != ["none"] else pytest.skip("absent")
    clip = Clip(None, torch.zeros(17, 96, 96, dtype=torch.uint8).numpy())
    with pytest.raises(InputError, match="17 video frames do not make whole stacks of 4"):
        case.model.prepare([clip], strict_original=True)
    inputs = case.model.prepare([clip])
    assert [s.stop - s.start for s in inputs.spans[0] if s.name == "video"] == [4]
