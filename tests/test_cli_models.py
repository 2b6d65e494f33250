"""``sinkscope models`` says what the tables say."""

from collections.abc import Callable

import pytest

from sinkscope.cli.models import models
from sinkscope.errors import UnknownFamilyError
from sinkscope.glossary import SITES
from sinkscope.subjects.catalogue import families_in_words, missing_sites, unlisted
from sinkscope.subjects.encoder_rows import encoder_rows
from sinkscope.subjects.families import families, family
from sinkscope.subjects.multimodal.registry import composites
from tests.families import CONFIGURATIONS, model_type, tiny


@pytest.fixture
def said(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("COLUMNS", "200")

    def run(family: str | None = None) -> str:
        models(family)
        return " ".join(capsys.readouterr().out.split())

    return run


def test_every_row_is_listed(said: Callable[..., str]) -> None:
    words = said()
    for name in (*composites(), *families()):
        assert name in words
    for place, name in encoder_rows():
        assert name in words or not place.startswith("transformers.")
    assert "internvl" in words
    assert not set(unlisted()) & set(composites())


@pytest.mark.parametrize("name", ["gpt2", "qwen2_5_omni_thinker", "whisper", "gemma3n_text"])
def test_one_family_in_words(name: str, said: Callable[..., str]) -> None:
    assert said(name).startswith(name)
    assert "\n" in families_in_words(name)


def test_omni_models_are_known_by_their_own_name(said: Callable[..., str]) -> None:
    assert said("qwen2_5_omni").startswith("qwen2_5_omni_thinker: Qwen2.5-Omni")


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(UnknownFamilyError, match="no family 'nope'"):
        families_in_words("nope")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_sites_are_those_of_a_model(name: str) -> None:
    """What the table says is missing is what a tiny model of the family lacks in every layer."""
    from sinkscope.subjects.anatomy import ATTENTION_SITES, anatomy_of

    anatomy = anatomy_of(tiny(name))
    layers = range(anatomy.n_layers)
    lacks = {
        site
        for site in SITES
        if site not in ATTENTION_SITES and all(anatomy.absence(site, layer) for layer in layers)
    }
    named = set(missing_sites(family(model_type(name))))
    dense = {"mlp_gate", "mlp_up", "mlp_act"} if name in ("qwen3_moe",) else set()
    variants = {"resid_mid"} if name.startswith(("gpt_neox", "stablelm")) else set()
    assert lacks - variants == named - dense - variants
