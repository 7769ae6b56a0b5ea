"""What a template writes for calls that one likes: the renders that a notation is induced from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from chatenv_server.engine.parsing import probes
from chatenv_server.engine.parsing.literal import FIRST_TAG, shared_end

Write = Callable[[Mapping[str, Any]], "str | None"]
"""What a template writes for an assistant message, from before the turn to before its close; None: it rejects it."""


class Evidence:
    """Turns that a template writes, each rendered once.

    Args:
        write: renders a message.
        before: what stands before every turn, which is left out.
        opening: the end of the generation prompt, as far as it belongs to the turn.
        named_by_id: whether a call is named by nothing but its id.
    """

    def __init__(self, write: Write, before: str, opening: str, *, named_by_id: bool = False) -> None:
        self._write = write
        self._before = before
        self._opening = opening
        self.named_by_id = named_by_id
        self.ids = probes.NAMING_IDS if named_by_id else probes.IDS
        """The ids that the probes' calls have."""
        self._turns: dict[str, str | None] = {}

    def turn(self, message: Mapping[str, Any]) -> str | None:
        """The turn that the template writes for a message; None where it rejects it."""
        key = repr(message)
        if key not in self._turns:
            whole = self._write(message)
            fits = whole is not None and whole.startswith(self._before)
            self._turns[key] = whole[len(self._before) :] if whole is not None and fits else None
        return self._turns[key]

    def calls(self, *arguments: dict[str, Any], text: str = "", thought: str | None = None) -> str | None:
        """The turn of calls with these arguments, one after the other."""
        calls = (probes.call(index, one, self.ids[index]) for index, one in enumerate(arguments))
        return self.turn(probes.calling(*calls, text=text, thought=thought))

    @property
    def shows_text_beside_calls(self) -> bool:
        """Whether the template writes a text in a turn of calls."""
        turn = self.calls({probes.KEYS[0]: probes.VALUES[0]}, text=probes.TEXT)
        return turn is not None and probes.TEXT in turn and probes.VALUES[0] in turn

    def before_calls(self, first: str) -> str:
        """What stands before `first`, the beginning of a call of the first probe, wherever there is a call.

        What the template writes around content and thoughts is no part of it.
        """
        opener, closer = self._empty_thought(first)
        after_text = self._lead(first, probes.TEXT, None) or ""
        # Where it announces a call after a text, too, the end of the prompt is a part of the call.
        opening = "" if probes.TEXT in after_text and after_text.endswith(self._opening) else self._opening
        leads = []
        for text, thought in (("", None), (probes.TEXT, None), ("", probes.THOUGHT), (probes.TEXT, probes.THOUGHT)):
            lead = self._lead(first, text, thought)
            if lead is None:
                continue
            if text and text in lead:
                leads.append(lead.rpartition(text)[2])
            elif thought and thought in lead:
                leads.append(lead.rpartition(thought)[2].removeprefix(closer))
            else:
                leads.append(lead.removeprefix(opener + closer).removeprefix(opening))
        shared = leads[0] if leads else ""
        for lead in leads[1:]:
            shared = shared_end(shared, lead)
        return shared.lstrip()

    def _lead(self, first: str, text: str, thought: str | None) -> str | None:
        """What stands in a turn before its call; None where the template writes no such turn."""
        turn = self.calls({probes.KEYS[0]: probes.VALUES[0]}, text=text, thought=thought)
        return None if turn is None or first not in turn else turn[: turn.index(first)]

    def _empty_thought(self, first: str) -> tuple[str, str]:
        """What opens and closes the thought of a turn of calls that has none; nothing where no such turn shows one."""
        bare, thinking = self._lead(first, "", None) or "", self._lead(first, "", probes.THOUGHT) or ""
        opener, _, after = thinking.partition(probes.THOUGHT)
        closer = FIRST_TAG.match(after)
        if not opener.strip() or closer is None or not bare.startswith(opener + closer.group()):
            return "", ""
        return opener, closer.group()
