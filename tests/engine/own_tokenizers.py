"""Tokenizers made here, for the laws: what a fresh clone has besides the embedded one.

Each is a chat template of our own on a small vocabulary of our own, with the merges of a few sentences. Together they
have what makes recorded ones hard: merges across white space, normalisation, spaces put in front, added tokens that
take white space away, thoughts that are stripped, roles that alternate, turns that nothing closes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from chatenv_server.doctor.stand_in import stand_in
from tests.engine.archetypes import ARCHETYPES
from tests.engine.small_tokenizers import byte_level, sentencepiece_like

_SENTENCES: Final = (
    "Hello, how are you?\n\nFine, thank you. What would you like to know about the weather in Paris?\n",
    "The user asks, the assistant answers, and the system says what both are to do.\n",
    "It is because of that: if the answer is right, then the reward is 1.0, and otherwise it is 0.\n\n",
    "A tool is called with arguments, such as 12, 2024 or 300, and the result comes back as text.\n",
    'def lookup(key):\n    """Looks a word up."""\n    return {"name": "lookup", "arguments": {"key": "x"}}\n',
    "> one\n> two\n\n- three\n- four\n\n1. five\n2. six\n\n    code\n\n",
)
_MERGES: Final = 240

Merges = list[tuple[str, str]]


def _learnt(pre_tokenizer: Any, normalizer: Any = None) -> Merges:
    """The merges that BPE learns from the sentences, in order."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    single = len({character for sentence in _SENTENCES for character in sentence})
    trainer = trainers.BpeTrainer(vocab_size=single + _MERGES, show_progress=False)
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def own_bytes(**options: Any) -> Any:
    """Bytes and merges, across white space too: a full stop and a line break are one token."""
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return byte_level(merges=_learnt(pieces), **options)


def own_pieces(**options: Any) -> Any:
    """Pieces of words, with a space in front of each text."""
    return sentencepiece_like(merges=_learnt(pre_tokenizers.Metaspace(), normalizers.Replace("\n", "")), **options)


def _stripping() -> Any:
    """Control tokens take the white space after them, as Phi's do."""
    template = ARCHETYPES["named tokens close every turn"]
    names = ("system", "user", "assistant", "tool", "end")
    control = [AddedToken(f"<|{name}|>", rstrip=True, special=True, normalized=False) for name in names]
    return own_pieces(template=template, control=control, eos="<|end|>", metaspace=False)


def _white_space() -> Any:
    """Runs of line breaks and spaces are added tokens, as Gemma's are."""
    runs = [AddedToken(character * length, normalized=False) for character in "\n " for length in (1, 2, 3, 4)]
    tokenizer = own_bytes(template=ARCHETYPES["a default system prompt, results of tools in one user turn"])
    tokenizer.backend_tokenizer.add_tokens(runs)
    return tokenizer


OWN: Final[Mapping[str, Callable[[], Any]]] = {
    "own_thoughts_stripped": lambda: stand_in(
        ARCHETYPES["thoughts are stripped once a user has spoken"], own_bytes(nfc=True)
    ),
    "own_roles_alternate": lambda: stand_in(ARCHETYPES["the assistant has another name, no system role"], own_pieces()),
    "own_nothing_closes": lambda: stand_in(ARCHETYPES["turns end where the next role begins"], own_bytes()),
    "own_tokens_strip": _stripping,
    "own_runs_of_white_space": _white_space,
    "own_thoughts_in_brackets": lambda: stand_in(
        ARCHETYPES["thoughts in square brackets, a default system prompt"], own_bytes()
    ),
}
"""By name; each call makes a tokenizer of transformers."""
