"""How a tokenizer cuts ASCII text into pre-tokens, as a pattern of Python's `re`; None where that is not certain.

Byte-level tokenizers cut by patterns of Oniguruma. Of ASCII text, the constructs that such patterns are made of mean
the same to `re`, once Unicode's categories are written as the ASCII characters that are in them. A pattern with
anything else in it is left alone, and what is read is tried before it is trusted. Knows nothing of ids.
"""

from __future__ import annotations

import itertools
import json
import re
import string
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, Final

from tokenizers.pre_tokenizers import PreTokenizer

Cut = Callable[[str], list[str]]
"""Cuts an ASCII text into its pre-tokens, in order."""

BYTE_LEVEL_PATTERN: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What the tokenizers library's `ByteLevel` cuts by (Radford et al. 2019, "Language Models are Unsupervised Multitask
Learners": the pattern of GPT-2)."""

_CATEGORY: Final = r"\\p\{(?P<category>[A-Z][a-z]?)\}"
_ESCAPE: Final = rf"\\[rntsSdD]|\\[{re.escape(string.punctuation)}]"
_ANY_CASE: Final = r"\(\?i:(?:[A-Za-z'|]|\[[A-Za-z]+\])+\)"
"""Letters of either case. Oniguruma has them match more than `re` does where there is more than letters."""
_OUTSIDE: Final = re.compile(
    rf"{_CATEGORY}|(?P<bracket>\[\^?(?!\]))|{_ESCAPE}|{_ANY_CASE}|\(\?[:!=]|[)|]"
    r"|[?*+][?+]?|\{\d+(?:,\d*)?\}(?![?*+])|[^\\\[\](){}?*+|.^$]"
)
"""A construct outside of `[...]` that both engines read alike."""
_INSIDE: Final = re.compile(rf"{_CATEGORY}|(?P<bracket>\])|{_ESCAPE}|[^\\\[\]]")
"""The same inside of `[...]`."""
_LOOK_AHEAD: Final = re.compile(r"\(\?[!=]")
_SET_OPERATORS: Final = ("&&", "||", "~~", "--")

_NONE_IN_ASCII: Final = "\U0010ffff"

_ATOMS: Final = (" ", "\n", "\r\n", "\t", "a", "B", "Ab", "'ll", "'S", "12", ".", "_/")
"""What patterns tell apart. Each three of them are tried beside each other."""


def ascii_cut(pre_tokenizer: PreTokenizer | None) -> Cut | None:
    """How a byte-level pre-tokenizer cuts ASCII text; None where that is not certain."""
    if pre_tokenizer is None:
        return None
    state = json.loads(pre_tokenizer.__getstate__())
    *steps, last = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    patterns = [*map(_pattern_of, steps), *([BYTE_LEVEL_PATTERN] if last.get("use_regex", True) else [])]
    cuts = [cut for cut in map(_cut_by, patterns) if cut is not None]
    if not cuts or len(cuts) < len(patterns):
        return None
    cut = cuts[0] if len(cuts) == 1 else _one_after_another(cuts)
    return cut if _is_alike(cut, pre_tokenizer) else None


def _pattern_of(step: Mapping[str, Any]) -> str | None:
    """The pattern that one step of a pre-tokenizer cuts by; None where it does something else."""
    if step["type"] == "Digits":
        return r"\p{N}" if step["individual_digits"] else r"\p{N}+"
    if step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        pattern: str | None = step["pattern"].get("Regex")
        return pattern
    return None


def _cut_by(pattern: str | None) -> Cut | None:
    """Cuts by one pattern of Oniguruma: what it matches, and what lies between, are pieces."""
    ascii_pattern = None if pattern is None else _for_ascii(pattern)
    if ascii_pattern is None:
        return None
    between = rf"(?:(?!{ascii_pattern})[\s\S])+"
    try:
        if _may_match_nothing(ascii_pattern):
            return None
        return re.compile(rf"{ascii_pattern}|{between}", re.ASCII).findall
    except re.error:  # a construct that this version of Python does not know
        return None


def _may_match_nothing(ascii_pattern: str) -> bool:
    """Whether it may match between two characters, where engines go on in ways of their own."""
    return re.fullmatch(_LOOK_AHEAD.sub("(?:|", ascii_pattern), "", re.ASCII) is not None


def _for_ascii(pattern: str) -> str | None:
    """A pattern with Unicode's categories written out, in a group; None where it holds what is not read alike."""
    if any(operator in pattern for operator in _SET_OPERATORS):
        return None
    written, place, is_inside = "", 0, False
    while place < len(pattern):
        found = (_INSIDE if is_inside else _OUTSIDE).match(pattern, place)
        if found is None:
            return None
        if found["category"]:
            characters = _in_category(found["category"])
            written += characters if is_inside else f"[{characters}]"
        else:
            written += found[0]
        is_inside ^= found["bracket"] is not None
        place = found.end()
    return None if is_inside else f"(?:{written})"


def _in_category(category: str) -> str:
    """The ASCII characters of one of Unicode's general categories, as they stand inside of `[...]`."""
    found = "".join(chr(code) for code in range(128) if unicodedata.category(chr(code)).startswith(category))
    return re.escape(found) or _NONE_IN_ASCII


def _one_after_another(cuts: list[Cut]) -> Cut:
    def cut(text: str) -> list[str]:
        pieces = [text]
        for each in cuts:
            pieces = [part for piece in pieces for part in each(piece)]
        return pieces

    return cut


def _is_alike(cut: Cut, pre_tokenizer: PreTokenizer) -> bool:
    tried = "".join(itertools.chain.from_iterable(itertools.product(_ATOMS, repeat=3)))
    return cut(tried) == [tried[start:stop] for _, (start, stop) in pre_tokenizer.pre_tokenize_str(tried)]
