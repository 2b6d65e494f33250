"""Encoders and Whisper from folders, as from a hub: what is stored, and what it lacks."""

from pathlib import Path

import numpy as np
import pytest

import sinkscope as ss
from sinkscope.errors import InputError
from sinkscope.subjects.encoders import EncoderSubject
from sinkscope.subjects.whisper import WhisperSubject
from tests.alone_models import alone
from tests.test_whisper import given, whisper

STORED = ["wav2vec2", "hubert stable", "clip", "siglip", "vit"]


@pytest.mark.parametrize("name", STORED)
def test_an_encoder_from_a_folder(name: str, tmp_path: Path) -> None:
    own = alone(name)
    own.model.save_pretrained(tmp_path)
    subject = ss.load(tmp_path)
    assert isinstance(subject, EncoderSubject)
    assert subject.name == tmp_path.name
    data = dict(own.kwargs)
    found, expected = (ss.record(one, data)["norm"] for one in (subject, own.model))
    assert np.array_equal(found, expected, equal_nan=True)
    with pytest.raises(InputError, match="takes no tokenizer"):
        ss.load(tmp_path, tokenizer=object())


def test_whisper_from_a_folder(tmp_path: Path) -> None:
    whisper().save_pretrained(tmp_path)
    subject = ss.load(tmp_path)
    assert isinstance(subject, WhisperSubject)
    found, expected = (ss.record(one, given())["entropy"] for one in (subject, whisper()))
    assert np.array_equal(found, expected, equal_nan=True)


def test_an_image_classifier_has_no_pooling_layer(tmp_path: Path) -> None:
    from transformers import ViTForImageClassification

    model = alone("vit").model
    ViTForImageClassification(model.config).save_pretrained(tmp_path)
    assert isinstance(ss.load(tmp_path), EncoderSubject)
