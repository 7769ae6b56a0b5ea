"""Plays a scenario on the engine and compares every step with the full-history rendering.

A step passes if the stream is the full tokenisation, token for token; or if a report says why it is not, of a kind
that explains the difference, and what was appended is literally what the template writes after the turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from chatenv_client.errors import ChatEnvError, TaskAnswerError, TemplateRejectedError
from chatenv_client.models import (
    ChatAction,
    ChatObservation,
    FidelityKind,
    FidelityReport,
    HistoryPolicy,
    Message,
    StopReason,
)
from chatenv_client.tokens import Int32Array
from chatenv_server.doctor.answering import ScriptedTask, answering
from chatenv_server.doctor.examination import Examination, Fault, FaultKind
from chatenv_server.doctor.reference import NotTakenError, Reference
from chatenv_server.doctor.sampling import SampledText, ended, sampled_ids, sampled_text, shown
from chatenv_server.doctor.scenarios import SCENARIOS, TOOLS, Ending, Round, Scenario, looking_for
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.codec import shared_prefix_length
from chatenv_server.environment.environment import ChatEnvironment

EXPLAINS_TEXT: Final = frozenset(
    {
        FidelityKind.HISTORY_REWRITTEN,
        FidelityKind.NONCANONICAL_STOP,
        FidelityKind.TRUNCATED_TURN_CLOSED,
        FidelityKind.STOP_STRING_OVERLAP,
        FidelityKind.UNDECODABLE_TOKENS,
        FidelityKind.TEXT_AFTER_STOP,
    }
)
"""Reports after which the stream may read otherwise than the full rendering."""
EXPLAINS_TOKENS: Final = EXPLAINS_TEXT | {FidelityKind.BOUNDARY_MERGE}
"""Reports after which it may at least be tokenised otherwise."""

_SAYS_INEXACT: Final = frozenset({FidelityKind.HISTORY_REWRITTEN, FidelityKind.BOUNDARY_MERGE})
"""Reports that say that the stream is not the full rendering; the others tell what happened."""
_LONGEST_BY_CHANCE: Final = 8
"""A given text up to this length may stand in a prompt by chance, so that nothing follows from its standing there."""
_MOST_LOOKED_FOR: Final = 6
_MOST_REPLAYED: Final = 4
"""Times that a scenario is played again in which a template tells the time: some tell the seconds."""
_END_CHARACTERS: Final = 12
"""How much of a turn's end has to come right before what was appended to it."""


def examine(engine: TokenEngine, reference: Reference, scenarios: Sequence[Scenario] = SCENARIOS) -> list[Examination]:
    """Play the scenarios, and some with the texts that the template itself looks for."""
    played = _with_special_ones(engine, scenarios)
    return [play(engine, reference, scenario) for scenario in played]


def examine_segments(engine: TokenEngine, reference: Reference, examined: Sequence[Examination]) -> list[Examination]:
    """Play those once more that were not exact throughout, under the policy `segment`."""
    inexact = {one.scenario for one in examined if one.exact_steps < one.steps}
    played = [one for one in _with_special_ones(engine, SCENARIOS) if one.name in inexact]
    return [play(engine, reference, scenario, HistoryPolicy.SEGMENT) for scenario in played]


def play(
    engine: TokenEngine, reference: Reference, scenario: Scenario, policy: HistoryPolicy = HistoryPolicy.APPEND
) -> Examination:
    """Play one scenario; again where transformers' clock, which nobody can set, may have ticked meanwhile."""
    tells_time = engine.chat_format is not None and "strftime_now" in engine.chat_format.template.variables
    examination = _Examiner(engine, reference, scenario, policy).run()
    for _ in range(_MOST_REPLAYED if tells_time else 0):
        if not examination.faults:
            break
        examination = _Examiner(engine, reference, scenario, policy).run()
    return examination


def _with_special_ones(engine: TokenEngine, scenarios: Sequence[Scenario]) -> list[Scenario]:
    """The scenarios that say something of this template, and some with the texts that it looks for."""
    template = engine.chat_format.template if engine.chat_format is not None else None
    looked_for = template.tested_texts if template is not None else ()
    special = [scenario for text in looked_for[:_MOST_LOOKED_FOR] for scenario in looking_for(text)]
    read = template.variables if template is not None else frozenset()
    return [one for one in (*scenarios, *special) if not one.template_kwargs or one.template_kwargs.keys() & read]


class _Stop(Exception):  # noqa: N818 - it ends a scenario, and is no error
    """The scenario goes no further."""


class _Examiner:
    """One scenario in play."""

    def __init__(self, engine: TokenEngine, reference: Reference, scenario: Scenario, policy: HistoryPolicy) -> None:
        self._engine, self._scenario = engine, scenario
        self._reference = reference.under(scenario.template_kwargs)
        self._result = Examination(scenario.name)
        self._task = ScriptedTask()
        task = (lambda: self._task) if scenario.answered else None
        self._environment = ChatEnvironment(engine, task=task, history_policy=policy)
        self._segment, self._reads = 0, policy is HistoryPolicy.SEGMENT
        self._history: list[Message] = []
        self._told_apart: list[Message] = []
        """The same, with the thoughts of sampled contents as thoughts where the engine reads them so."""
        self._stream: Int32Array = np.empty(0, dtype=np.int32)
        self._last: SampledText | None = None
        self._sampled: list[tuple[int, int]] = []
        self._explained = 0

    def run(self) -> Examination:
        """Play it to its end, or to where the template rejects it."""
        if self._scenario.escapes and not self._reference.sanitizes:
            self._result.rejection = "not compared: this transformers has no sanitize_control_tokens"
            return self._result
        try:
            self._open()
            for turn in self._scenario.rounds:
                given = self._reference.spelt(turn.given)
                observation = self._sample(turn, given)
                following = answering(given, turn.sampled, self._history[-1])
                self._give(following, observation if self._scenario.answered else None)
        except _Stop:
            pass
        return self._result

    # -- the parts --------------------------------------------------------------------------------

    def _open(self) -> None:
        messages = self._reference.spelt(self._scenario.opening)
        tools = list(TOOLS) if self._scenario.tools else None
        observation = self._both_take(
            messages,
            lambda: self._environment.reset(
                messages=messages,
                tools=tools,
                chat_template_kwargs=dict(self._scenario.template_kwargs),
                add_generation_prompt=self._scenario.add_generation_prompt,
                clock=self._reference.clock(),
            ),
        )
        self._compare(observation)

    def _give(self, messages: Sequence[Message], answered: ChatObservation | None) -> None:
        """Append messages, unless a task has answered with them already."""
        observation = self._both_take(messages, lambda: answered or self._environment.step(list(messages)))
        self._compare(observation)

    def _sample(self, turn: Round, following: Sequence[Message]) -> ChatObservation:
        try:
            said = sampled_text(
                self._reference,
                self._history,
                turn.sampled,
                following,
                tools=self._scenario.tools,
                prompt=self._scenario.add_generation_prompt,
            )
            message, said = ended(turn, said, [text for _, text, stops in self._engine.control_tokens if stops])
        except NotTakenError as error:
            self._result.rejection = self._result.rejection or str(error)
            raise _Stop from error
        message = shown(message, said.text)
        if not said.text:
            self._result.rejection = "the template writes nothing for a sampled turn"
            raise _Stop
        ids = sampled_ids(self._reference, self._stream, said.text)
        reason = StopReason.STOP if turn.ending is not Ending.CUT_OFF and not said.stop else None
        self._task.meant, self._task.given = turn.sampled, following
        observation = self._sampled_step(ChatAction(tokens=ids, stop_reason=reason), [message, *following])
        self._last = said
        read = self._environment.state.history_messages[len(self._history)]
        message = _with_ids_of(read, message)
        self._take_in_sampled(message, _with_thought_apart(message, read), ids, observation)
        self._read_back(message, said, following)
        return observation

    def _sampled_step(self, action: ChatAction, expected: Sequence[Message]) -> ChatObservation:
        try:
            return self._environment.step(action)
        except TaskAnswerError as error:
            self._both_take(expected, partial(_reject, str(error.__cause__ or error)))
            raise _Stop from error
        except TemplateRejectedError as error:
            # Where the template has written nothing yet, nobody can have sampled after it.
            self._result.rejection = self._result.rejection or error.message
            if len(self._stream):
                self._fault(FaultKind.REFUSED, f"a sampled turn was refused: {error.message}")
            raise _Stop from error
        except ChatEnvError as error:
            self._fault(FaultKind.BROKEN, f"failed: {type(error).__name__}: {error}")
            raise _Stop from error

    # -- the checks -------------------------------------------------------------------------------

    def _both_take(self, messages: Sequence[Message], act: Any) -> ChatObservation:
        """What the engine answers.

        The scenario ends where the template rejects the conversation, with a fault where only one of the two does.
        """
        try:
            self._full_text([*self._history, *messages])
            rejection = ""
        except NotTakenError as error:
            rejection = str(error)
        try:
            observation: ChatObservation = act()
        except TemplateRejectedError as error:
            self._result.rejection = rejection
            if not rejection:
                self._fault(FaultKind.REFUSED, f"refused, although the template takes it: {error.message}")
            raise _Stop from error
        except ChatEnvError as error:
            self._fault(FaultKind.BROKEN, f"failed: {type(error).__name__}: {error}")
            raise _Stop from error
        if rejection:
            self._result.rejection = rejection
            if len(observation.token_ids) or not _waits(self._environment):
                self._fault(FaultKind.LET_IN, f"taken, although the template rejects it: {rejection}")
            raise _Stop
        self._take_in(messages, observation)
        return observation

    def _take_in(self, messages: Sequence[Message], observation: ChatObservation) -> None:
        self._history.extend(messages)
        self._told_apart.extend(messages)
        if observation.segment > self._segment:
            self._segment, self._sampled = observation.segment, []
        self._stream = observation.token_ids
        self._result.reports.extend(observation.fidelity)

    def _take_in_sampled(
        self, message: Message, told_apart: Message, ids: Sequence[int], observation: ChatObservation
    ) -> None:
        start, stop = len(self._stream), len(self._stream) + len(ids)
        self._sampled.append((start, stop))
        is_same_stream = observation.segment == self._segment
        shown = observation.token_ids[:stop] if self._scenario.answered else observation.token_ids
        if is_same_stream and not np.array_equal(shown, [*self._stream, *ids]):
            self._fault(FaultKind.BROKEN, "the stream is not the prompt and the sampled tokens")
        self._history.append(message)
        self._told_apart.append(told_apart)
        if not self._scenario.answered:  # else what the step shows is taken in with the answer
            self._stream = observation.token_ids
            self._result.reports.extend(observation.fidelity)

    def _full_text(self, messages: Sequence[Message]) -> str:
        return self._reference.text(messages, tools=self._scenario.tools, prompt=self._scenario.add_generation_prompt)

    def _compare(self, observation: ChatObservation) -> None:
        self._result.steps += 1
        self._check_mask()
        stream = self._stream.tolist()
        candidates = self._full_tokens()
        if stream in candidates:
            self._result.exact_steps += 1
            if candidates == [stream]:
                needless = [report for report in self._fresh_reports() if self._contradicts(report, stream)]
                self._result.needless.extend(f"{report.kind.value}: {report.detail}" for report in needless)
                self._explained = len(self._result.reports)
            return
        ours, theirs = self._reference.decode(stream), [self._reference.decode(each) for each in candidates]
        same_text = ours in theirs
        explanations = EXPLAINS_TOKENS if same_text else EXPLAINS_TEXT
        if not any(report.kind in explanations for report in self._fresh_reports()):
            differ = f"{'tokens' if same_text else 'text'} differ without a report"
            self._fault(FaultKind.SILENT, f"{differ}: {_difference(ours, theirs[0])}")
        elif self._last is not None and not same_text:
            tail = self._reference.decode(observation.stream.tail)
            if wrong := _wrong_tail(self._last, tail, theirs, observation.fidelity):
                self._fault(FaultKind.WRONG_TAIL, wrong)

    def _full_tokens(self) -> list[list[int]]:
        """The full rendering of the messages as they are meant; and one with thoughts told apart, where it is another.

        A model that writes a thought may mean it as a part of its content or not; the tokens are the same, but a
        template may strip the one and keep the other. Segments are written of the messages as they were read; where
        those are others than the meant ones, that is said apart.
        """
        found: list[list[int]] = []
        read = [self._environment.state.history_messages] if self._reads else []
        for messages in (self._history, self._told_apart, *read):
            try:
                tokens = self._reference.tokens(
                    messages,
                    tools=self._scenario.tools,
                    prompt=self._scenario.add_generation_prompt,
                    escapes=self._scenario.escapes,
                )
            except NotTakenError:
                if messages is self._history:
                    raise
                continue
            found.extend([tokens] if tokens not in found else [])
        return found

    def _contradicts(self, report: FidelityReport, exact: Sequence[int]) -> bool:
        """Whether a report says what is not so of a stream that is the full rendering."""
        if report.kind is FidelityKind.MESSAGE_DROPPED and report.message_index is not None:
            message = self._history[report.message_index]
            content = message.get("content")
            tells_more = any(message.get(key) for key in ("tool_calls", "reasoning_content"))
            if tells_more or not isinstance(content, str) or len(content) <= _LONGEST_BY_CHANCE:
                return False
            said = sum(one.get("content") == content for one in self._history)
            return self._reference.decode(exact).count(content) >= said
        return report.kind in _SAYS_INEXACT

    def _fresh_reports(self) -> list[FidelityReport]:
        """What was reported since the stream was last exact."""
        return self._result.reports[self._explained :]

    def _check_mask(self) -> None:
        mask = np.zeros(len(self._stream), dtype=np.bool_)
        for start, stop in self._sampled:
            mask[start:stop] = True
        if not np.array_equal(self._environment.state.loss_mask, mask):
            self._fault(FaultKind.BROKEN, "the loss mask is not true exactly on the sampled tokens")

    def _read_back(self, message: Message, said: SampledText, following: Sequence[Message]) -> None:
        """Whether the turn was read as the message it was written from; if not, whether the template tells."""
        read = self._environment.state.history_messages[len(self._history) - 1]
        if _same_message(read, message):
            return
        as_read, as_written = (self._rendered([*self._history[:-1], one, *following]) for one in (read, message))
        if as_read != as_written and said.natural:
            self._result.misread.append(f"{said.text!r}: {_difference(as_read, as_written)}")

    def _rendered(self, messages: Sequence[Message]) -> str:
        """The conversation, or the words with which the template rejects it."""
        try:
            return self._full_text(messages)
        except NotTakenError as error:
            return str(error)

    def _fault(self, kind: FaultKind, sentence: str) -> None:
        self._result.faults.append(Fault(kind, sentence))


def _wrong_tail(last: SampledText, appended: str, candidates: Sequence[str], reports: Sequence[FidelityReport]) -> str:
    """Why what was appended is not the end of the full rendering, from where the sampled turn ends; empty: it is."""
    kinds = {report.kind for report in reports}
    if FidelityKind.NONCANONICAL_STOP in kinds:
        appended = appended.lstrip()  # the template's own stop token may have swallowed it
    theirs = next((each for each in candidates if each.endswith(appended)), candidates[0])
    if not theirs.endswith(appended):
        difference = _difference(appended[::-1], theirs[::-1])
        return f"the tail is not what the template writes, backwards: {difference}"
    before = theirs[: len(theirs) - len(appended)]
    if not kinds & EXPLAINS_TEXT and not before.endswith(last.text[-_END_CHARACTERS:]):
        return f"the tail begins in another place than the turn ends: {before[-40:]!r} before {appended[:20]!r}"
    return ""


def _waits(environment: ChatEnvironment) -> bool:
    """Whether an empty stream waits for more messages, so that nobody samples after what the template rejects."""
    try:
        environment.step(ChatAction(tokens=[0]))
    except TemplateRejectedError:
        return True
    return False


def _with_ids_of(read: Mapping[str, Any], message: Message) -> Message:
    """The message with the ids of calls as they were read: a caller knows no others, where the template writes none."""
    calls, found = message.get("tool_calls") or [], read.get("tool_calls") or []
    if len(calls) != len(found):
        return message
    renamed = [{**call, "id": one.get("id") or call["id"]} for call, one in zip(calls, found, strict=True)]
    return {**message, "tool_calls": renamed} if calls else message  # type: ignore[typeddict-item]


def _reject(why: str) -> ChatObservation:
    raise TemplateRejectedError(why)


def _with_thought_apart(message: Message, read: Mapping[str, Any]) -> Message:
    """The message with its thought apart, where it holds one in its content and was read so."""
    content, thought = message.get("content"), read.get("reasoning_content")
    if not thought or message.get("reasoning_content") or not isinstance(content, str) or thought not in content:
        return message
    return {**message, "content": str(read.get("content") or ""), "reasoning_content": thought}


def _same_message(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    def essence(message: Mapping[str, Any]) -> tuple[Any, ...]:
        calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or ()]
        return message.get("content") or "", message.get("reasoning_content") or "", calls

    return essence(left) == essence(right)


def _difference(ours: str, theirs: str) -> str:
    """Where two texts part, with a little around it."""
    index = shared_prefix_length(ours, theirs)
    start = max(0, index - 20)
    return f"{ours[start : index + 30]!r}, not {theirs[start : index + 30]!r}"
