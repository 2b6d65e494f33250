"""Who speaks in the templates of models that hear."""

import pytest

from sinkscope.subjects.multimodal.registry import composite_of
from sinkscope.subjects.multimodal.table import Turns
from sinkscope.subjects.multimodal.turns import segments_of_turns

TOLD = {
    "voxtral chat": (
        "voxtral",
        "<s> [SYSTEM_PROMPT] Be [/SYSTEM_PROMPT] [INST] Why [/INST] Because so </s>",
        "tdsddidrrd",
    ),
    "voxtral transcription": (
        "voxtral",
        "<s> [INST] [/INST] lang : en [TRANSCRIBE] Bin",
        "tddiiidr",
    ),
    "granite": (
        "granite_speech",
        "<|start_of_role|> us er <|end_of_role|> Write <|end_of_text|> <|start_of_role|> "
        "assistant <|end_of_role|> Bin blue <|end_of_text|>",
        "ddddiddddrrd",
    ),
    "phi4": ("phi4_multimodal", "<|user|> Write <|end|> <|assistant|> Bin <|end|>", "diddrd"),
    "glmasr": ("glmasr", "<|user|> <|user|> Write <|assistant|> Bin", "ddidr"),
    "audio flamingo": ("audioflamingo3", "<|im_start|> user\n Write <|im_end|>", "ddid"),
}
LETTERS = {
    "text": "t",
    "delimiter": "d",
    "system": "s",
    "instruction": "i",
    "response": "r",
}


@pytest.mark.parametrize("case", TOLD)
def test_who_speaks(case: str) -> None:
    name, words, expected = TOLD[case]
    found = segments_of_turns(words.split(" "), composite_of(name).turns)
    assert "".join(LETTERS[segment] for segment in found) == expected


def test_white_space_before_any_mark_is_text() -> None:
    words = ["Hello", ".", "\n\n", "World", "[INST]", "Hi", "</s>", "\n"]
    turns = Turns(direct={"[INST]": "user"}, ends=("</s>",))
    assert segments_of_turns(words, turns) == [
        *["text"] * 4,
        *("delimiter", "instruction", "delimiter", "delimiter"),
    ]
