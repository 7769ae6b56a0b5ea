"""ChatEnvironment: one episode at a time, in-process; the server holds one for every episode id.

Owns the order of things in a step: check, append, limits, transform, and taking all of it back when something fails.
The tokens are the engine's, ids and concurrency the server's.
"""

from __future__ import annotations

import copy
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from chatenv_client.errors import (
    ChatEnvError,
    EpisodeDoneError,
    InvalidRequestError,
    PromptMismatchError,
    TransformError,
)
from chatenv_client.models import (
    Action,
    AuditReport,
    ChatAction,
    ChatObservation,
    ChatState,
    ControlTokenPolicy,
    FidelityReport,
    HistoryPolicy,
    Message,
    Rendered,
    StopReason,
    Trajectory,
    Turn,
    as_action,
    loss_mask_of,
    own_message,
)
from chatenv_client.reasons import Reason
from chatenv_client.tokens import Float32Array
from chatenv_server.engine import EpisodeLog, RenderOptions, TokenEngine, audit
from chatenv_server.engine.log import Change
from chatenv_server.environment.transforms import Transform
from chatenv_server.environment.validation import (
    check_action,
    check_clock,
    check_json,
    check_limit,
    check_messages,
    check_role,
    check_template_kwargs,
    check_text,
    check_tools,
)


@dataclass(frozen=True, slots=True)
class _Episode:
    """What is fixed at reset."""

    episode_id: str
    log: EpisodeLog
    seed: int | None
    max_steps: int | None
    max_tokens: int | None
    metadata: Mapping[str, Any]


class _Progress(NamedTuple):
    """What a step moves, apart from the log; replaced as a whole."""

    step_count: int = 0
    terminated: bool = False
    truncated: bool = False


class ChatEnvironment:
    """A chat environment on one tokenizer. Not safe for threads: give each episode its own, they share the engine.

    Args:
        tokenizer: a Hugging Face tokenizer, any object with `apply_chat_template` and `decode`, or a `TokenEngine`
        to share.
        system_prompt: put before the opening messages of every episode; None: none.
        system_role: role of the system prompt.
        transform: called on the observation of every step; sets reward, end and metadata.
        chat_template: a Jinja template in place of the tokenizer's own.
        add_generation_prompt: whether the stream ends with the generation prompt when it is the model's turn.
        history_policy: `append` keeps what the model saw and reports, `strict` refuses a step before which the
        template rewrites history.
        control_token_policy: `escape`, `reject` or `allow` control-token strings in message text.
        max_steps: steps after which an episode is truncated.
        max_tokens: stream length in tokens from which on an episode is truncated.
        token_id_limit: ids from here on are refused; by default the tokenizer's length.

    Raises:
        TypeError: the object is no tokenizer.
        ValueError: the template or a policy is not valid.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        system_prompt: str | None = None,
        system_role: str = "system",
        transform: Transform | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        history_policy: HistoryPolicy | str = HistoryPolicy.APPEND,
        control_token_policy: ControlTokenPolicy | str = ControlTokenPolicy.ESCAPE,
        max_steps: int | None = None,
        max_tokens: int | None = None,
        token_id_limit: int | None = None,
    ) -> None:
        if isinstance(tokenizer, TokenEngine):
            self.engine = tokenizer
        else:
            self.engine = TokenEngine.shared(tokenizer, chat_template=chat_template, token_id_limit=token_id_limit)
        self._system_prompt = system_prompt
        self._system_role = system_role
        self._transform = transform
        self._add_generation_prompt = add_generation_prompt
        self._history_policy = HistoryPolicy(history_policy)
        self._control_token_policy = ControlTokenPolicy(control_token_policy)
        self._max_steps = check_limit(max_steps, "max_steps")
        self._max_tokens = check_limit(max_tokens, "max_tokens")
        self._episode: _Episode | None = None
        self._progress = _Progress()

    # -- episodes ---------------------------------------------------------------------------------

    def reset(
        self,
        *,
        episode_id: str | None = None,
        seed: int | None = None,
        messages: Sequence[Mapping[str, Any]] = (),
        tools: Sequence[Mapping[str, Any]] | None = None,
        system_prompt: str | None = None,
        system_role: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        max_steps: int | None = None,
        max_tokens: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        add_generation_prompt: bool | None = None,
        history_policy: HistoryPolicy | str | None = None,
        control_token_policy: ControlTokenPolicy | str | None = None,
        clock: float | None = None,
    ) -> ChatObservation:
        """Start a new episode. Arguments that are left out are the environment's own.

        Args:
            episode_id: name of the episode; chosen at random when left out.
            seed: shown to the transform.
            messages: opening messages.
            tools: JSON schemas, handed to the template.
            system_prompt: an empty one means none.
            chat_template_kwargs: further arguments of the template, e.g. `enable_thinking`.
            metadata: a JSON object, shown to the transform with every observation.
            clock: the time that templates see for the whole episode, in seconds since 1970; now when left out.

        Returns:
            The opening: prompt tokens and messages.

        Raises:
            InvalidRequestError: an argument is wrong; the episode before is untouched.
            TemplateRejectedError: the template cannot render the opening messages; the episode before is untouched.
        """
        template_kwargs = copy.deepcopy(dict(chat_template_kwargs or {}))
        check_template_kwargs(template_kwargs)
        check_json(metadata or {}, "metadata", reason=Reason.BAD_METADATA)
        options = RenderOptions(
            tools=copy.deepcopy(check_tools(tools)),
            template_kwargs=template_kwargs,
            clock_unix_seconds=time.time() if clock is None else check_clock(clock),
            add_generation_prompt=self._add_generation_prompt
            if add_generation_prompt is None
            else add_generation_prompt,
            history_policy=self._history_policy
            if history_policy is None
            else _policy(HistoryPolicy, history_policy, "history_policy"),
            control_token_policy=self._control_token_policy
            if control_token_policy is None
            else _policy(ControlTokenPolicy, control_token_policy, "control_token_policy"),
        )
        opening = self._opening(messages, system_prompt, system_role)
        # A transform may well read the messages at every step.
        log = self.engine.open(options, keeps_texts=self._transform is not None)
        change = log.append_messages(opening, step=0)
        self._episode = _Episode(
            episode_id=episode_id or uuid.uuid4().hex,
            log=log,
            seed=seed,
            max_steps=self._max_steps if max_steps is None else check_limit(max_steps, "max_steps"),
            max_tokens=self._max_tokens if max_tokens is None else check_limit(max_tokens, "max_tokens"),
            metadata=copy.deepcopy(dict(metadata or {})),
        )
        self._progress = _Progress(truncated=_over_limit(self._episode, 0))
        return self._observe(change.reports)

    def _opening(
        self, messages: Sequence[Mapping[str, Any]], system_prompt: str | None, system_role: str | None
    ) -> list[Message]:
        given = [own_message(message) for message in messages]
        check_messages(given)
        prompt = self._system_prompt if system_prompt is None else system_prompt
        role = system_role or self._system_role
        check_role(role, "system_role")
        if not prompt:
            return given
        check_text(prompt, "system_prompt")
        if given and given[0].get("role") == role:
            if system_prompt is None:
                return given  # a system message of the episode's own takes the place of the default
            raise InvalidRequestError(
                "system_prompt and an opening message of the system role; give one of them",
                reason=Reason.SYSTEM_PROMPT_TWICE,
                field="system_prompt",
            )
        return [{"role": role, "content": prompt}, *given]

    # -- steps ------------------------------------------------------------------------------------

    def step(self, action: Action) -> ChatObservation:
        """Append one turn: sampled tokens (`ChatAction(tokens=...)`), a message, or a list of messages.

        The observation's `terminated` says that the task ended the episode, `truncated` that a limit or a transform
        cut it off.

        Returns:
            The whole episode as it is now, with this step's reward and fidelity reports.

        Raises:
            InvalidRequestError: the action is wrong.
            TemplateRejectedError: the template cannot render the messages.
            HistoryRewrittenError: policy `strict`.
            PromptMismatchError: the action was sampled from another prompt.
            EpisodeDoneError: the episode is over.
            TransformError: the transform raised.
            In every case the episode is as it was.
        """
        episode = self._live()
        action = as_action(action)
        check_action(action, self.engine.token_id_limit)
        head, progress = episode.log.head, self._progress
        try:
            change = self._append(episode.log, action)
            count = progress.step_count + 1
            self._progress = _Progress(count, truncated=_over_limit(episode, count))
            observation = self._observe(change.reports, change)
            if self._transform is not None:
                observation = self._transformed(self._transform, observation)
                self._progress = _Progress(count, observation.terminated, observation.truncated)
        except BaseException:
            episode.log.take_back(head)
            self._progress = progress
            raise
        if observation.reward is not None:
            episode.log.add_reward(observation.reward)
        return observation

    def _live(self) -> _Episode:
        episode = self._current()
        if self._progress.terminated or self._progress.truncated:
            raise EpisodeDoneError("the episode is over; reset it to go on")
        return episode

    def _current(self) -> _Episode:
        if self._episode is None:
            raise InvalidRequestError("there is no episode yet; call reset first", reason=Reason.NO_EPISODE)
        return self._episode

    def _append(self, log: EpisodeLog, action: ChatAction) -> Change:
        step = self._progress.step_count + 1
        if action.messages:
            return log.append_messages([own_message(message) for message in action.messages], step)
        if action.prompt_fingerprint and action.prompt_fingerprint != log.fingerprint():
            raise PromptMismatchError(
                "these tokens were sampled from another prompt than the one on record; read the state and sample again",
                details={
                    "expected_fingerprint": log.fingerprint(),
                    "received_fingerprint": action.prompt_fingerprint,
                },
            )
        reason = None if action.stop_reason is None else StopReason(action.stop_reason)
        return log.append_sampled(action.tokens, step, action.logprobs, reason, action.model_version)

    def _transformed(self, transform: Transform, observation: ChatObservation) -> ChatObservation:
        try:
            transformed = transform(observation)
        except ChatEnvError:
            raise
        except Exception as error:
            raise TransformError("the transform raised; the step was taken back") from error
        if not isinstance(transformed, ChatObservation):
            raise TransformError(
                f"the transform returned {type(transformed).__name__}, not an observation; the step was taken back"
            )
        transformed.truncated = transformed.truncated or self._progress.truncated
        return transformed

    def _observe(self, reports: tuple[FidelityReport, ...], change: Change | None = None) -> ChatObservation:
        episode, progress = self._current(), self._progress
        log = episode.log
        return ChatObservation(
            episode_id=episode.episode_id,
            step_count=progress.step_count,
            stream=log.stream,
            conversation=log.conversation,
            terminated=progress.terminated,
            truncated=progress.truncated,
            metadata=copy.deepcopy(dict(episode.metadata)) if episode.metadata else {},
            generation_prompt_length=log.generation_prompt_length,
            fidelity=reports,
            prompt_fingerprint=log.fingerprint(),
            seed=episode.seed,
            held_tokens=0 if change is None else change.held_tokens,
            held_messages=0 if change is None else change.held_messages,
        )

    # -- looking, without changing anything -------------------------------------------------------

    def message_to_action(self, message: Mapping[str, Any]) -> ChatAction:
        """An action that appends `message`, with the tokens that it would add to the stream now.

        Raises:
            InvalidRequestError, TemplateRejectedError: the message cannot be appended now.
        """
        return ChatAction(tokens=self.render([message]).tokens, messages=(message,))  # type: ignore[arg-type]

    def render(self, messages: Sequence[Mapping[str, Any]]) -> Rendered:
        """What the stream would become if `messages` were appended now.

        Raises:
            InvalidRequestError, TemplateRejectedError: they cannot be appended now.
        """
        given: list[Message] = [dict(message) for message in messages]  # type: ignore[misc]
        check_messages(given)
        if not given:
            raise InvalidRequestError("there is no message to render", reason=Reason.EMPTY_ACTION, field="messages")
        offset, tokens, reports = self._current().log.preview(given)
        return Rendered(offset, tokens, reports)

    @property
    def state(self) -> ChatState:
        """The whole episode as it is now."""
        episode, progress, log = self._current(), self._progress, self._current().log
        return ChatState(
            episode_id=episode.episode_id,
            step_count=progress.step_count,
            history_messages=log.conversation.copy(),
            message_spans=log.message_spans(),
            token_ids=log.stream.token_ids,
            turns=log.turns(),
            fidelity=log.reports(),
            generation_prompt_length=log.generation_prompt_length,
            prompt_fingerprint=log.fingerprint(),
            terminated=progress.terminated,
            truncated=progress.truncated,
            max_steps=episode.max_steps,
            max_tokens=episode.max_tokens,
            seed=episode.seed,
            metadata=copy.deepcopy(dict(episode.metadata)),
            clock_unix_seconds=log.options.clock_unix_seconds,
        )

    def trajectory(self) -> Trajectory:
        """The episode as training wants it: tokens, loss mask, logprobs, turns."""
        episode, progress, log = self._current(), self._progress, self._current().log
        tokens, turns = log.stream.token_ids, log.turns()
        return Trajectory(
            episode_id=episode.episode_id,
            tokens=tokens,
            loss_mask=loss_mask_of(turns, len(tokens)),
            logprobs=_spread(log.logprobs(), turns, len(tokens)),
            turn=np.repeat(np.arange(len(turns), dtype=np.int32), [turn.length for turn in turns]),
            turns=turns,
            fidelity=log.reports(),
            terminated=progress.terminated,
            truncated=progress.truncated,
        )

    def audit(self) -> AuditReport:
        """Compare the stream with a full rendering of its messages. Costs time proportional to the episode."""
        return audit(self._current().log)

    @property
    def episode_id(self) -> str:
        """Name of the episode."""
        return self._current().episode_id

    @property
    def step_count(self) -> int:
        """Steps taken since reset."""
        return self._progress.step_count

    @property
    def token_count(self) -> int:
        """Length of the stream."""
        return len(self._current().log)

    @property
    def message_count(self) -> int:
        """Messages of the conversation."""
        return self._current().log.message_count

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self._progress.terminated or self._progress.truncated


def _over_limit(episode: _Episode, step_count: int) -> bool:
    too_many_steps = episode.max_steps is not None and step_count >= episode.max_steps
    return too_many_steps or (episode.max_tokens is not None and len(episode.log) >= episode.max_tokens)


def _policy(kind: type[Any], value: Any, field: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(repr(choice.value) for choice in kind)
        raise InvalidRequestError(
            f"{field} is one of {choices}, not {value!r}", reason=Reason.BAD_POLICY, field=field
        ) from None


def _spread(logprobs: Float32Array, turns: Sequence[Turn], length: int) -> Float32Array:
    """(length,) float32: the logprobs at the tokens they belong to, NaN elsewhere."""
    spread = np.full(length, np.nan, dtype=np.float32)
    taken = 0
    for turn in turns:
        if turn.has_logprobs:
            spread[turn.start : turn.stop] = logprobs[taken : taken + turn.length]
            taken += turn.length
    return spread
