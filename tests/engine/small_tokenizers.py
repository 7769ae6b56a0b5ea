"""Small tokenizers built on the spot, each with the one habit of real ones that a test is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from chatenv_client import ChatAction, ChatObservation, FidelityKind, Message
from chatenv_server import ChatEnvironment

CLOCK = 1_700_000_000.0
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETS = (
    "{% set n = namespace(last=-1) %}{% for m in messages if m.role == 'user' %}{% set n.last = n.last + 1 %}"
    "{% endfor %}{% set s = namespace(users=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set s.users = s.users + 1 %}{% endif %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' and s.users < n.last else m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Drops thoughts of turns before the last user's message, as the templates of reasoning models do."""


def byte_level(
    template: str = CHATML,
    *,
    control: Sequence[str | AddedToken] = CHATML_TOKENS,
    merges: Sequence[tuple[str, str]] = (),
    nfc: bool = False,
    cuts: bool = False,
    adds_bos: bool = False,
    eos: str = "<|im_end|>",
) -> Any:
    """A byte is a token, but for the merges given (` ` is written `Ġ` there, and a newline `Ċ`).

    Args:
        template: chat template.
        control: its control tokens, by text or in full.
        merges: pairs that BPE merges, in order.
        nfc: whether text is normalised, as Qwen does.
        cuts: whether text is cut into words first, across whose edges nothing merges, as GPT-2 does.
        adds_bos: whether `encode` puts `<s>` in front unless told not to, as Llama does.
        eos: which control token ends a turn.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*alphabet, *(left + right for left, right in merges)])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cuts)
    backend.decoder = decoders.ByteLevel()
    if nfc:
        backend.normalizer = normalizers.NFC()
    return _finished(backend, template, control, eos, adds_bos=adds_bos)


def sentencepiece_like(
    template: str = CHATML,
    *,
    control: Sequence[str | AddedToken] = CHATML_TOKENS,
    metaspace: bool = True,
    merges: Sequence[tuple[str, str]] = (),
    eos: str = "<|im_end|>",
) -> Any:
    """A space is `▁`, and one is put in front of a text: by a pre-tokenizer (`metaspace`), or by a normaliser."""
    characters = ["<unk>", "▁", *(chr(code) for code in range(0x21, 0x7F)), "\n"]
    pieces = [*characters, *(left + right for left, right in merges)]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    backend = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=list(merges),
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    if metaspace:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=False)
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finished(backend, template, control, eos)


def _finished(
    backend: Tokenizer, template: str, control: Sequence[str | AddedToken], eos: str, *, adds_bos: bool = False
) -> Any:
    tokens = [AddedToken(t, special=True, normalized=False) if isinstance(t, str) else t for t in control]
    backend.add_special_tokens(tokens)
    if adds_bos:
        bos = backend.token_to_id("<s>")
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=template,
        eos_token=eos,
        **({"bos_token": "<s>"} if "<s>" in control else {}),
    )


class Dialogue:
    """An episode, next to what its tokenizer itself makes of the same messages."""

    def __init__(self, tokenizer: Any, opening: Sequence[Mapping[str, Any]] | str = "Hi", **options: Any) -> None:
        self.tokenizer = tokenizer
        self.meant: list[Any] = [user(opening)] if isinstance(opening, str) else list(opening)
        """The messages as they are meant, sampled ones among them."""
        self.options = options
        self.env = ChatEnvironment(tokenizer)
        self.observation: ChatObservation = self.env.reset(messages=self.meant, clock=CLOCK, **options)
        self.prompt_length = len(self)

    def __len__(self) -> int:
        return len(self.observation.token_ids)

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def says(self, text: str, *, stop: str = "<|im_end|>", **fields: Any) -> Dialogue:
        """Sample a turn: the tokens of `text` and the stop token. `fields`: the message that is meant."""
        return self.samples(
            [*self.ids(text), *([self.tokenizer.convert_tokens_to_ids(stop)] if stop else [])],
            **{"content": text, **fields},
        )

    def samples(self, ids: Sequence[int], *, stop_reason: str | None = None, **fields: Any) -> Dialogue:
        """Sample tokens. `fields`: the message that is meant."""
        self.prompt_length = len(self)
        self.observation = self.env.step(ChatAction(tokens=ids, stop_reason=stop_reason))
        self.meant.append({"role": "assistant", **fields})
        return self

    def hears(self, *messages: str | Mapping[str, Any]) -> Dialogue:
        """Append messages; texts are a user's."""
        given: list[Any] = [user(each) if isinstance(each, str) else each for each in messages]
        self.observation = self.env.step(given)
        self.meant += given
        return self

    @property
    def stream(self) -> list[int]:
        return list(self.observation.token_ids.tolist())

    @property
    def tail(self) -> str:
        """The text behind the last sampled span."""
        turns = self.env.state.turns
        start = max((turn.stop for turn in turns if turn.stop_reason is not None), default=0)
        return str(self.tokenizer.backend_tokenizer.decode(self.stream[start:], skip_special_tokens=False))

    @property
    def text(self) -> str:
        return str(self.tokenizer.backend_tokenizer.decode(self.stream, skip_special_tokens=False))

    def full(self, *, prompt: bool = True) -> list[int]:
        """The tokenizer's own tokens of the messages as they are meant."""
        named = ("tools",)
        options = {key: value for key, value in self.options.items() if key in named}
        options |= self.options.get("chat_template_kwargs", {})
        return list(
            self.tokenizer.apply_chat_template(
                self.meant, add_generation_prompt=prompt, tokenize=True, return_dict=False, **options
            )
        )

    @property
    def kinds(self) -> set[FidelityKind]:
        """Everything that was reported so far."""
        return {report.kind for report in self.env.state.fidelity}

    def is_exact(self) -> bool:
        """Nothing was reported of the stream, and it is what the tokenizer itself gives."""
        return self.kinds <= {FidelityKind.TOOL_RESULT_UNMATCHED} and self.stream == self.full()


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def tool(text: str) -> Message:
    return {"role": "tool", "content": text, "tool_call_id": "call00001", "name": "lookup"}
