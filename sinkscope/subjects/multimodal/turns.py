"""Who speaks where in a chat: from the tokens of a template to segments."""

from collections.abc import Iterator, Sequence

from sinkscope.subjects.multimodal.table import Turns

__all__ = ["ROLES", "segments_of_turns"]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "instruction",
    "tool": "instruction",
    "assistant": "response",
    "model": "response",
}
"""The segment of what each speaker says."""


def segments_of_turns(words: Sequence[str], turns: Turns) -> list[str]:
    r"""The segment of each token of a chat: who speaks, or what marks it.

    Args:
        words: each token's text as the vocabulary decodes it, "" for placeholders.
        turns: how the template marks its turns.

    Returns:
        ``delimiter`` for the marks and the white space between turns, ``text`` outside them and
        before the first mark.

    Example:
        >>> from sinkscope.subjects.multimodal.table import CHATML
        >>> words = ["<|im_start|>", "user", "\n", "Hello", "<|im_end|>"]
        >>> segments_of_turns(words, CHATML)
        ['delimiter', 'delimiter', 'delimiter', 'instruction', 'delimiter']
    """
    found = list(_walk(words, turns))
    for place, word in enumerate(words):
        if word in turns.late:
            while place and found[place - 1] == "response":
                place -= 1
                found[place] = "instruction"
    return found


def _walk(words: Sequence[str], turns: Turns) -> Iterator[str]:
    now, name, naming, inside = "text", "", False, False
    for word in words:
        marks = word in turns.named or word in turns.direct or word in turns.ends
        inside = inside or marks
        if word in turns.named:
            name, naming = "", True
        elif word in turns.direct:
            now, naming = ROLES.get(turns.direct[word], "text"), False
        elif word in turns.ends:
            now, naming = "text", False
        elif naming and word in turns.closed:
            now, naming = ROLES.get(name.strip(), "text"), False
        elif naming:
            name += word
            ends = [i for i, letter in enumerate(name) if letter in turns.until]
            if ends:
                now, naming = ROLES.get(name[: ends[0]].strip(), "text"), False
                if name[ends[0] :].strip():
                    yield now
                    continue
        elif now != "text" or word.strip() or not (word and inside):
            yield now
            continue
        yield "delimiter"
