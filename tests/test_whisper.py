"""Whisper: the decoder's own attention, its attention to the encoder's frames, and the encoder."""

from functools import cache

import matplotlib as mpl
import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.errors import InputError, SiteError, UnknownFamilyError
from tests.full_maps import arriving
from tests.shared_data import shared
from tests.test_encoders_alone import a_clip
from tests.test_encoders_probes import closes
from tests.test_probes_attention import check_sample

START, END, ENGLISH, WRITE, PLAIN, EARLIER = 50, 51, 52, 53, 54, 55
WINDOW = 40
WORDS = [7, 9, 11, 13, 8, 6, 5, 12, 10]
IDS = [START, ENGLISH, WRITE, PLAIN, *WORDS, END]
MAPS = (ss.SegmentAttention(), ss.RowEntropy(), ss.ArgmaxShare(), ss.PatternBins(8))
SITES = ("resid_pre", "attn_out", "cross_out", "resid_mid", "mlp_out", "resid_post", "mlp_act")


def build(implementation: str = "sdpa", *, mels: int = 20, window: int = WINDOW):
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_source_positions=window,
        max_target_positions=32,
        num_mel_bins=mels,
        vocab_size=60,
        decoder_start_token_id=START,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=END,
        attn_implementation=implementation,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = WhisperForConditionalGeneration(config).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                noise = torch.randn_like(weight) * 0.3
                if "conv" not in name:
                    weight.copy_(weight + noise if weight.ndim == 1 else noise)
    settings = model.generation_config
    settings.lang_to_id, settings.task_to_id = {"<|en|>": ENGLISH}, {"transcribe": WRITE}
    settings.no_timestamps_token_id = PLAIN
    return model


@cache
def whisper(implementation: str = "sdpa"):
    """The shared random model; treat it as read-only."""
    return build(implementation)


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = {START: "startoftranscript", END: "endoftext", ENGLISH: "en", WRITE: "transcribe"}
    names |= {PLAIN: "notimestamps", EARLIER: "startofprev"}
    vocabulary = {f"w{i}": i for i in range(60) if i not in names}
    vocabulary |= {f"<|{name}|>": i for i, name in names.items()}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [f"<|{name}|>" for name in names.values()]
    made = PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="w0",
        eos_token="<|endoftext|>",
        additional_special_tokens=special,
    )
    assert made.get_vocab()["<|notimestamps|>"] == PLAIN
    return made


def sounds(samples: int = 2) -> torch.Tensor:
    return torch.randn(samples, 20, 2 * WINDOW, generator=torch.Generator().manual_seed(1))


def given(samples: int = 2) -> dict[str, torch.Tensor]:
    return {"input_features": sounds(samples), "decoder_input_ids": torch.tensor([IDS] * samples)}


def padded() -> dict[str, torch.Tensor]:
    mask = torch.ones(2, len(IDS), dtype=torch.long)
    mask[1, -4:] = 0
    return given() | {"decoder_attention_mask": mask}


# -- the decoder -------------------------------------------------------------------------------


def test_three_things_are_added_to_the_stream() -> None:
    record = ss.record(whisper(), given(), reducers=[ss.Keep(site) for site in SITES])
    for sample in range(2):
        for layer, block in enumerate(whisper().get_decoder().layers):
            at = {site: record[site][sample, layer].values for site in SITES}
            mid = at["resid_pre"] + at["attn_out"] + at["cross_out"]
            assert closes(mid, at["resid_mid"])
            assert closes(at["resid_mid"] + at["mlp_out"], at["resid_post"])
            assert not closes(at["resid_pre"] + at["attn_out"], at["resid_mid"])
            assert not closes(at["attn_out"], at["cross_out"])
            with torch.no_grad():
                down = block.fc2(torch.from_numpy(at["mlp_act"])).numpy()
            assert closes(down, at["mlp_out"])


def test_a_decoder_without_cross_attention_has_no_such_site() -> None:
    from tests.families import tiny

    subject = ss.load(tiny("llama"))
    assert "cross_out" not in subject.anatomy.sites()
    with pytest.raises(SiteError, match="llama has no cross-attention"):
        ss.record(subject, input_ids=[[1, 4, 7]], keep=["cross_out"])


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_self_attention_is_causal(implementation: str) -> None:
    model = whisper(implementation)
    record = ss.record(model, given(), reducers=[*MAPS, ss.Keep("pattern")])
    own = attentions(model, given()).decoder_attentions
    for sample in range(2):
        for layer, maps in enumerate(own):
            full = maps[sample].double().numpy()
            seen = np.tri(len(IDS), dtype=bool)
            check_sample(record.sample(sample), layer, full, seen, record.layouts[0].segment_index)


def attentions(model, kwargs):
    """The model's own maps, which only its eager function hands out."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            return model(**kwargs, output_attentions=True, use_cache=False)
    finally:
        model.set_attn_implementation(before)


def test_what_the_tokens_are() -> None:
    ids = [EARLIER, 4, *IDS]
    record = ss.record(
        ss.load(whisper(), tokenizer=tokenizer()),
        given(1) | {"decoder_input_ids": torch.tensor([ids])},
        reducers=[ss.Norms("resid_post")],
    )
    layout = record.layouts[0]
    said = ["instruction"] * 2 + ["bos"] + ["instruction"] * 3 + ["response"] * 10
    assert layout.segments == tuple(said)
    assert (layout.reference, layout.has_bos) == (2, True)
    assert layout.labels[2:8] == (
        "<|startoftranscript|>",
        "<|en|>",
        "<|transcribe|>",
        "<|notimestamps|>",
        "w7",
        "w9",
    )
    bare = ss.record(whisper(), given(1), reducers=[ss.Norms("resid_post")]).layouts[0]
    assert bare.segments == tuple(said[2:])


def test_generating_gives_the_record_of_the_whole_sequence() -> None:
    model = whisper()
    kept = [*MAPS, ss.Keep("resid_post"), ss.Keep("cross_out")]
    with ss.probe(model, kept) as probe:
        made = model.generate(
            input_features=sounds(1), max_new_tokens=6, num_beams=1, language="en"
        )
    assert len(probe.record) == 1
    record = probe.record
    layout = record.layouts[0]
    whole = [int(label) for label in layout.labels]
    said = [one for one, real in zip(whole, layout.mask("response"), strict=True) if real]
    assert layout.segments[:3] == ("bos", "instruction", "instruction")
    assert 4 <= len(said) <= 6
    assert ", ".join(map(str, said)) in str(made[0].tolist())
    kwargs = {"input_features": sounds(1), "decoder_input_ids": torch.tensor([whole])}
    again = ss.record(model, kwargs, reducers=kept)
    for name in ("resid_post", "cross_out", "segment_sum"):
        assert np.allclose(again[name][0], record[name][0], atol=1e-4), name


@pytest.mark.parametrize("part", ["decoder", "cross-attention"])
def test_generating_without_a_language_is_refused(part: str) -> None:
    """The forward that detects it would be one sample more, of one token."""
    model = whisper()
    subject = ss.load(model) if part == "decoder" else ss.load(model).cross_attention()
    before = set(vars(model))
    with pytest.raises(InputError, match="language='en'"), ss.probe(subject):
        model.generate(input_features=sounds(1), max_new_tokens=3)
    assert set(vars(model)) == before
    model.generate(input_features=sounds(1), max_new_tokens=3)


# -- its attention to the frames ---------------------------------------------------------------


@pytest.mark.parametrize("kwargs", [given(), padded()], ids=["whole", "padded"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_map_equals_the_models_own(implementation: str, kwargs) -> None:
    model = whisper(implementation)
    record = ss.record(
        ss.load(model).cross_attention(), kwargs, reducers=[*MAPS, ss.Keep("pattern")]
    )
    own = attentions(model, kwargs).cross_attentions
    for sample in range(2):
        layout = record.layouts[sample]
        tokens = len(layout) - WINDOW
        assert tokens == len(IDS) - 4 * (sample == 1 and "decoder_attention_mask" in kwargs)
        for layer, maps in enumerate(own):
            full = np.zeros((4, len(layout), len(layout)))
            full[:, WINDOW:, :WINDOW] = maps[sample, :, :tokens].double().numpy()
            check_crossing(record, sample, layer, full)


def check_crossing(record: ss.Record, sample: int, layer: int, full: np.ndarray) -> None:
    """Every statistic against the whole map of frames and tokens."""
    one, layout = record.sample(sample), record.layouts[sample]
    tokens = len(layout) - WINDOW
    seen = np.zeros((len(layout), len(layout)), bool)
    seen[WINDOW:, :WINDOW] = True
    pattern = one["pattern"][0, layer].values
    assert np.isnan(pattern[:, ~seen]).all()
    assert np.abs(pattern[:, seen] - full[:, seen]).max() < 1e-5
    assert (one["visible"][0, layer].values == seen).all()
    alpha = ss.key_attention(one).values[0, layer]
    assert np.abs(alpha[:, :WINDOW] - full[:, :, :WINDOW].sum(1) / tokens).max() < 1e-5
    assert np.isnan(alpha[:, WINDOW:]).all()
    also = ss.key_attention(one["pattern"]).values[0, layer]
    assert np.allclose(alpha, also, atol=1e-5, equal_nan=True)
    entropy = one["entropy"][0, layer].values
    expected = -np.sum(full * np.log(np.clip(full, 1e-30, 1)), -1)
    assert np.isnan(entropy[:, :WINDOW]).all()
    assert np.abs(entropy[:, WINDOW:] - expected[:, WINDOW:]).max() < 1e-4
    counts = one["argmax_count"][0, layer].values
    peaks = full[:, WINDOW:].argmax(-1)
    assert (counts == np.stack([np.bincount(p, minlength=len(layout)) for p in peaks])).all()
    for place, segment in enumerate(ss.glossary.SEGMENTS):
        rows = layout.mask(segment)
        found = one["segment_sum"][0, layer, :, place].values
        assert np.abs(found - full[:, rows].sum(1)).max() < 1e-4


def test_outputs_are_the_same_to_the_bit() -> None:
    model, subject = whisper(), ss.load(whisper())
    with torch.no_grad():
        before = model(**given()).logits
        with ss.probe(subject.cross_attention()), ss.probe(subject, [*ss.DEFAULT, "cross_out"]):
            during = model(**given()).logits
    assert torch.equal(before, during)


def test_a_planted_sink_among_the_frames_is_found() -> None:
    """Every query is one vector, and frame 7's key alone points where it does."""
    model = build()
    heard = model.get_encoder().layer_norm
    with torch.no_grad():
        for block in model.get_decoder().layers:
            block.encoder_attn.q_proj.weight.zero_()
            block.encoder_attn.k_proj.weight.copy_(torch.eye(32))
            block.encoder_attn.q_proj.bias.fill_(1)

    def louder(module, args, output):
        output = output * 0.1
        output[:, 7] = 10
        return output

    heard.register_forward_hook(louder)
    subject = ss.load(model).cross_attention()
    record = ss.record(subject, a_clip(0.5), input_ids=IDS, keep=["pattern"])
    found = ss.find_sinks(record)
    assert set(found["token"]) == {7}
    assert set(found["layer"]) == {0, 1, 2}
    assert set(found["segment"]) == {"audio"}
    assert np.allclose(found[["start", "end"]], [0.14, 0.16])
    flow = ss.segment_attention(record)
    heads = flow[(flow["query_segment"] == "response") & (flow["key_segment"] == "audio")]
    assert heads["attention"].min() > 0.9
    with mpl.rc_context({"backend": "agg"}):
        axes = ss.plots.attention_map(record, layer=1)
    image = axes.images[0].get_array()
    assert np.nanargmax(np.nan_to_num(np.asarray(image.filled(0)).sum(0))) == 7


def test_few_tokens_make_no_sinks() -> None:
    """The prompt alone is four queries, fewer than a sink needs."""
    record = ss.record(ss.load(whisper()).cross_attention(), a_clip(0.5))
    assert len(record.layouts[0]) == WINDOW + 4
    assert not len(ss.find_sinks(record, threshold=1e-6, min_heads=0.1))
    assert len(ss.find_sinks(record, threshold=1e-6, min_heads=0.1, min_queries=1))


def test_frames_after_the_sound_are_appended_silence() -> None:
    layout = ss.record(ss.load(whisper()).cross_attention(), a_clip(0.5)).layouts[0]
    assert layout.segments[:WINDOW] == ("audio",) * 25 + ("appended_silence",) * 15
    assert layout.segments[WINDOW:] == ("bos", *("instruction",) * 3)
    assert np.allclose(layout.seconds[24], [0.48, 0.5])
    assert np.isnan(layout.seconds[WINDOW:]).all()
    assert "loudness_db" in layout.descriptors


@pytest.mark.parametrize("site", ["resid_post", "q", "k", "z", "cross_out"])
def test_other_sites_of_cross_attention_are_refused(site: str) -> None:
    with pytest.raises(SiteError):
        ss.record(ss.load(whisper()).cross_attention(), given(), keep=[site])


def test_what_cannot_be_followed_is_refused() -> None:
    crossing = ss.load(whisper()).cross_attention()
    with pytest.raises(InputError, match="recorded of whole forwards"), ss.probe(crossing):
        whisper().generate(input_features=sounds(1), max_new_tokens=4, language="en")
    record = ss.record(crossing, given(), keep=["pattern"])
    from sinkscope.probes.replay import replay

    with pytest.raises(SiteError, match="rows that attend to nothing"):
        replay(record, [ss.RowEntropy()])


def test_a_trace_that_would_leave_cross_attention_out_is_refused() -> None:
    subject = ss.load(whisper())
    record = ss.record(subject, given())
    found = ss.find_massive_activations(record, ratio=2)
    with pytest.raises(SiteError, match="cross-attention adds to the stream too"):
        ss.trace(subject, given(), at=found)


def test_a_map_of_another_formula_is_refused(monkeypatch) -> None:
    from transformers.models.whisper import modeling_whisper as file

    model, own = build("eager"), file.eager_attention_forward

    def sharper(module, query, key, value, mask, **options):
        return own(module, query * 2, key, value, mask, **options)

    monkeypatch.setattr(file, "eager_attention_forward", sharper)
    with pytest.raises(SiteError, match="layer 0 the model's own attention gives another output"):
        ss.record(ss.load(model).cross_attention(), given())


# -- what goes in ------------------------------------------------------------------------------


def test_a_clip_is_heard_through_the_published_extractor() -> None:
    from transformers import WhisperFeatureExtractor

    clip = a_clip(0.5)
    extract = WhisperFeatureExtractor(feature_size=20)
    bands = extract(
        clip.waveform, sampling_rate=16000, max_length=320 * WINDOW, return_tensors="pt"
    )["input_features"]
    kwargs = {"input_features": bands, "decoder_input_ids": torch.tensor([IDS])}
    for processor in (None, extract):
        subject = ss.load(whisper(), processor=processor)
        record = ss.record(subject, clip, input_ids=IDS, keep=["resid_post"])
        with torch.no_grad():
            own = whisper()(**kwargs, output_hidden_states=True, use_cache=False)
        assert closes(record["resid_post"][0, 0].values, own.decoder_hidden_states[1][0].numpy())


def test_the_encoder_inside_is_the_encoder_alone() -> None:
    subject, clip = ss.load(whisper()), a_clip(0.5)
    inside = ss.record(subject.encoder("audio"), clip, keep=["pattern"])
    alone = ss.record(whisper().get_encoder(), clip, keep=["pattern"])
    assert inside["pattern"].equals(alone["pattern"])
    with pytest.raises(InputError, match="has no video encoder"):
        subject.encoder("video")


def test_prompts() -> None:
    subject = ss.load(whisper())
    assert subject.prompt == (START, ENGLISH, WRITE, PLAIN)
    other = subject.with_options(prompt=[START, WRITE])
    record = ss.record(other, a_clip(0.5), reducers=[ss.Norms("resid_post")])
    assert record.layouts[0].segments == ("bos", "instruction")
    with pytest.raises(InputError, match="the vocabulary has 60 entries"):
        subject.with_options(prompt=[99])


def test_what_is_no_clip_is_refused() -> None:
    from transformers import WhisperForAudioClassification

    subject = ss.load(whisper())
    for data, message in (("words", "reads clips, not str"), ({}, "got no input_features")):
        with pytest.raises(InputError, match=message):
            ss.record(subject, data)
    with pytest.raises(InputError, match="3 rows of ids for 2 sounds"):
        ss.record(subject, given() | {"decoder_input_ids": torch.tensor([IDS] * 3)})
    with pytest.raises(UnknownFamilyError, match="is more than an encoder"):
        ss.load(WhisperForAudioClassification(whisper().config))


def test_real_speech_goes_through() -> None:
    """Two GRID clips of about 3 s, a window of 4 s, real log-mel bands and named tokens."""
    from transformers import WhisperFeatureExtractor

    model = build(mels=80, window=200)
    subject = ss.load(model, tokenizer=tokenizer(), processor=WhisperFeatureExtractor())
    clips = [ss.read_clip(path) for path in sorted(shared("data/grid").glob("*.mpg"))[:2]]
    record = ss.record(subject.cross_attention(), clips, input_ids=IDS, keep=["pattern"])
    with arriving(model) as arrived:
        next(iter(subject.batches(clips[0], input_ids=IDS)))
        for inputs in subject.batches(clips, input_ids=IDS):
            subject.forward(inputs)
    calls = [call for call in arrived if call.query.shape[2] != call.key.shape[2]]
    for place, call in enumerate(calls):
        sample, layer = divmod(place, 3)
        full = torch.softmax(call.query[0].double() @ call.key[0].double().mT, -1).numpy()
        found = record.sample(sample)["pattern"][0, layer].values[:, 200:, :200]
        assert np.abs(found - full).max() < 1e-5
    for layout, clip in zip(record.layouts, clips, strict=True):
        heard = layout.mask("audio")
        assert heard.sum() == int(np.ceil(len(clip.waveform) / 320))
        assert layout.labels[-2:] == ("w10", "<|endoftext|>")
        loud = layout.descriptors["loudness_db"][heard]
        assert np.isfinite(loud).all()
    assert len(calls) == 6
