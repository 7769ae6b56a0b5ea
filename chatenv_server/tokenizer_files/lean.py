"""Reads a tokenizer's folder without transformers, where transformers would add nothing to what the files say.

That saves a sidecar 17 MB and half a second. Where the files ask for more than is understood here, the answer is None,
and transformers reads them: a lean tokenizer must never encode otherwise than the full one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer

_AS_WRITTEN: Final = ("PreTrainedTokenizer", "TokenizersBackend")
"""Classes that read `tokenizer.json` as it is; a class's older name ends in `Fast`."""
_NAMES_ITS_OWN: Final = {
    "Qwen2Tokenizer": ("unk_token", "eos_token", "pad_token"),
    "GPT2Tokenizer": ("unk_token", "bos_token", "eos_token"),
}
"""Classes that put steps of their own in the place of the file's, and name these tokens where the folder does not."""
_QWEN2_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_STEPS: Final[Mapping[str, tuple[Any, Any]]] = {
    "Qwen2Tokenizer": (
        {"type": "NFC"},
        {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": _QWEN2_WORDS}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        },
    ),
    "GPT2Tokenizer": (None, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}),
}
"""Normaliser and pre-tokenizer that these classes have, what only moves offsets left out."""
OVERRULED: Final[Mapping[str, str]] = {
    "qwen2": "Qwen2Tokenizer",
    "hyperclovax_vision_v2": "GPT2Tokenizer",
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen4_exp"), "Qwen3_5Tokenizer"),
    "siglip2": "Siglip2Tokenizer",
}
"""Kinds of models whose folders are read by this class although they name a class that reads the file as it is."""

_NAMED: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_UNDERSTOOD: Final = frozenset(
    {
        *_NAMED,
        *("additional_special_tokens", "added_tokens_decoder", "backend", "chat_template", "split_special_tokens"),
        # What only slow tokenizers, padding, post-processing or training look at.
        *("add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces", "errors", "is_local"),
        *("legacy", "model_input_names", "model_max_length", "padding_side", "processor_class", "sp_model_kwargs"),
        *("spaces_between_special_tokens", "tokenizer_class", "truncation_side", "use_default_system_prompt"),
    }
)
_FLAGS: Final = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, eq=False)
class LeanTokenizer:
    """The part of a Hugging Face fast tokenizer's interface that the token engine reads."""

    backend_tokenizer: Tokenizer
    chat_template: str | dict[str, str] | None
    special_tokens_map: dict[str, str]
    name_or_path: str

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends a generation; None where there is none."""
        text = self.special_tokens_map.get("eos_token")
        return None if text is None else self.backend_tokenizer.token_to_id(text)

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()


def read_lean(folder: Path) -> LeanTokenizer | None:
    """The tokenizer of a folder; None where transformers has to read it."""
    try:
        config = _read_json(folder / "tokenizer_config.json")
        if not _is_understood(config, folder):
            return None
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        special = _named_tokens(config)
        if not _adds_nothing(config, special, backend) or not _class_changes_nothing(config, folder, backend):
            return None
        return LeanTokenizer(backend, _templates(config, folder), special, str(folder))
    except Exception:  # noqa: BLE001 - a broken file surfaces as anything
        return None  # transformers tells better what is wrong with these files


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _is_understood(config: Mapping[str, Any], folder: Path) -> bool:
    names = folder / "special_tokens_map.json"
    return (
        config.keys() <= _UNDERSTOOD
        and config.get("backend", "tokenizers") == "tokenizers"
        and not config.get("split_special_tokens")
        and not (folder / "added_tokens.json").exists()
        and (not names.exists() or _agree(_read_json(names), config))
    )


def _class_changes_nothing(config: Mapping[str, Any], folder: Path, backend: Tokenizer) -> bool:
    """Whether the class that transformers has for a folder reads it as it is, or has just the steps that the file has.

    Which class that is depends on the folder's two configurations; see `AutoTokenizer.from_pretrained`.
    """
    named = str(config.get("tokenizer_class", "")).removesuffix("Fast")
    model = folder / "config.json"
    if named in _AS_WRITTEN:
        named = OVERRULED.get(_read_json(model).get("model_type", "") if model.exists() else "", named)
    if named in _AS_WRITTEN:
        return True
    if named not in _STEPS or any(name not in config for name in _NAMES_ITS_OWN[named]):
        return False
    decoder = _state_of(backend.decoder)
    steps = tuple(_without_offsets(_state_of(step)) for step in (backend.normalizer, backend.pre_tokenizer))
    return _STEPS[named] == steps and decoder is not None and decoder["type"] == "ByteLevel"


def _state_of(step: Any) -> Any:
    """A step of a tokenizer as its file writes it; None where there is none."""
    return None if step is None else json.loads(step.__getstate__())


def _without_offsets(step: Any) -> Any:
    """A step of a tokenizer's file without what decides nothing but where tokens stand."""
    if isinstance(step, dict):
        return {key: _without_offsets(value) for key, value in step.items() if key != "trim_offsets"}
    return [_without_offsets(value) for value in step] if isinstance(step, list) else step


def _agree(names: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether an older file's named tokens are those of the configuration."""
    additional = [*map(_text, names.get("additional_special_tokens", []))]
    return (
        names.keys() <= {*_NAMED, "additional_special_tokens"}
        and _named_tokens(names) == _named_tokens(config)
        and additional == [*map(_text, config.get("additional_special_tokens") or [])]
    )


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    return {name: _text(config[name]) for name in _NAMED if config.get(name) is not None}


def _text(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _adds_nothing(config: Mapping[str, Any], special: Mapping[str, str], backend: Tokenizer) -> bool:
    """Whether every token that the configuration names is in the tokenizer's file, and just as it is there."""
    added = backend.get_added_tokens_decoder()
    known = {token.content for token in added.values()}
    named = {*special.values(), *map(_text, config.get("additional_special_tokens") or [])}
    listed = config.get("added_tokens_decoder") or {}
    return named <= known and all(_is_same(token, added.get(int(index))) for index, token in listed.items())


def _is_same(listed: Mapping[str, Any], added: AddedToken | None) -> bool:
    return added is not None and all(listed.get(flag) == getattr(added, flag) for flag in _FLAGS)


def _templates(config: Mapping[str, Any], folder: Path) -> str | dict[str, str] | None:
    given = config.get("chat_template")
    named = {item["name"]: item["template"] for item in given} if isinstance(given, list) else {}
    if isinstance(given, str):
        named = {"default": given}
    if (folder / "chat_template.jinja").exists():
        named = {"default": (folder / "chat_template.jinja").read_text(encoding="utf-8")}
        for file in (folder / "additional_chat_templates").glob("*.jinja"):
            named[file.stem] = file.read_text(encoding="utf-8")
    if named.keys() <= {"default"}:
        return named.get("default")
    return named
