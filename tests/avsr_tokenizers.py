"""Small tokenizers of the published LLMs' kinds, before the audio-visual tokens are added."""

import json
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from sinkscope.avsr.tokens import PROMPTS

TEXTS = [*PROMPTS.values(), "bin blue at f two now", "place red with a nine please"]
KINDS = ("llama 3", "llama 2", "qwen2.5")


def a_tokenizer(kind: str, folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer that was trained on a few sentences.

    Llama 3's is of byte pairs and was saved without the template that puts BOS first; Llama 2's is
    of sentencepiece; Qwen2.5's is of byte pairs and has no BOS.
    """
    if kind == "llama 3":
        return PreTrainedTokenizerFast(
            tokenizer_object=_byte_pairs(["<|begin_of_text|>", "<|end_of_text|>"]),
            bos_token="<|begin_of_text|>",
            eos_token="<|end_of_text|>",
            clean_up_tokenization_spaces=False,
        )
    if kind == "llama 2":
        return _pieces(folder)
    trained = json.loads(_byte_pairs(["<|endoftext|>", "<|im_start|>"]).to_str())["model"]
    return Qwen2Tokenizer(vocab=trained["vocab"], merges=[tuple(m) for m in trained["merges"]])


def _byte_pairs(specials: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    return tokenizer


def _pieces(folder: Path) -> PreTrainedTokenizerFast:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.txt").write_text("\n".join(TEXTS * 15))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "texts.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=5,
    )
    return LlamaTokenizer.from_pretrained(folder)
