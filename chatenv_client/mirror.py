"""The client's copy of an episode: what makes an answer small although the caller always sees the whole.

Within a segment the stream up to the last sampled token never changes, and is kept in a growing buffer that all
observations share. The tail after it may be rendered anew by any step until somebody samples again. A new segment is
tail alone at first.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np

from chatenv_client.errors import ProtocolError
from chatenv_client.models import ChatObservation, ChatState, Failure, Message, MessageSnapshot, Origin
from chatenv_client.tokens import EMPTY_TOKENS, Fingerprint, GrowingArray, Int32Array, TokenSnapshot, fingerprint_of
from chatenv_client.wire import ObservationDelta


class Mirror:
    """One live episode as its caller holds it. A failed `absorb` changes nothing."""

    def __init__(self, episode_id: str, seed: int | None = None) -> None:
        self.episode_id = episode_id
        self.step_count = -1
        """Steps taken since Reset; -1 before the answer to Reset."""
        self.prompt_fingerprint = ""
        """Of the whole stream."""
        self.shown = ChatObservation()
        """What the last answer showed."""
        self.seed = seed
        """As given at reset."""
        self._segment = 0
        self._frozen = GrowingArray(np.int32)
        self._frozen_fingerprint = Fingerprint()
        self._tail: Int32Array = EMPTY_TOKENS
        self._messages: list[Message] = []

    @classmethod
    def of_state(cls, state: ChatState) -> Mirror:
        """The mirror of an episode that somebody else opened.

        Raises:
            ProtocolError: the stream is not the one that the server took the fingerprint of.
        """
        mirror = cls(state.episode_id, state.seed)
        frozen_length = max((turn.stop for turn in state.turns if turn.origin is Origin.SAMPLED), default=0)
        mirror._frozen.extend(state.token_ids[:frozen_length])
        mirror._frozen_fingerprint = Fingerprint().extended(mirror._frozen.view())
        mirror._tail = state.token_ids[frozen_length:]
        mirror._messages = list(state.history_messages)
        mirror._segment = state.segment
        mirror.step_count = state.step_count
        mirror.prompt_fingerprint = mirror._frozen_fingerprint.with_tail(mirror._tail)
        mirror._check_fingerprint(mirror.prompt_fingerprint, state.prompt_fingerprint)
        return mirror

    @classmethod
    def of_copy(cls, delta: ObservationDelta, episode_id: str, step_count: int, seed: int | None) -> Mirror:
        """The mirror of an episode that a fork or an import made, as its answer shows it whole.

        Raises:
            ProtocolError: the answer is about another step or another episode, or is not whole.
        """
        observation, tokens, messages = delta
        if observation.held_tokens or observation.held_messages:
            raise ProtocolError("the answer does not show the whole episode; update the older of client and server")
        if observation.step_count != step_count or observation.episode_id not in ("", episode_id):
            raise ProtocolError(
                f"the answer is step {observation.step_count} of episode {observation.episode_id!r}, not step "
                f"{step_count} of {episode_id!r}; update the older of client and server"
            )
        mirror = cls(episode_id, seed)
        # Where the last sampled token stands, the answer does not say: all is tail until somebody samples.
        mirror._tail, mirror._messages, mirror._segment = tokens, list(messages), observation.segment
        mirror.step_count = step_count
        mirror.prompt_fingerprint = fingerprint_of(tokens)
        mirror._check_fingerprint(mirror.prompt_fingerprint, observation.prompt_fingerprint)
        mirror._show(replace(observation, episode_id=episode_id, metadata=deepcopy(observation.metadata)))
        return mirror

    @property
    def token_count(self) -> int:
        """Length of the stream."""
        return len(self._frozen) + len(self._tail)

    def kept_messages(self, replace_from: int | None) -> int:
        """How many messages stay where those from an index on are replaced; None: all."""
        count = len(self._messages)
        return count if replace_from is None else max(0, min(replace_from, count))

    def absorb(
        self,
        delta: ObservationDelta,
        sampled: Int32Array = EMPTY_TOKENS,
        given: tuple[Message, ...] = (),
        replace_from: int | None = None,
    ) -> ChatObservation:
        """Take in the answer to a step and show the whole episode. Costs only what is new; all, of a new segment.

        Args:
            delta: the answer.
            sampled: (n,) int32, the sampled tokens that were sent.
            given: the messages that were sent; they become the mirror's own.
            replace_from: the first message that was to be replaced by those; None: they were appended.

        Raises:
            ProtocolError: the answer does not follow on what is held.
        """
        observation, tokens, messages = delta
        kept = self.kept_messages(replace_from)
        self._check_order(observation, kept + len(given))
        if observation.segment != self._segment:
            self._begin_segment(observation, tokens, sampled)
        else:
            self._go_on(observation, tokens, sampled)
        self._replace_messages(kept, observation.held_messages, messages, given)
        self.step_count = observation.step_count
        return self._show(observation)

    def _show(self, observation: ChatObservation) -> ChatObservation:
        """Let an observation show the whole episode."""
        observation.stream = TokenSnapshot(self._frozen.view(), self._tail)
        observation.conversation = MessageSnapshot(self._messages, len(self._messages))
        observation.seed = self.seed
        self.shown = observation
        return observation

    def _go_on(self, observation: ChatObservation, tokens: Int32Array, sampled: Int32Array) -> None:
        """Take in the stream of a segment that goes on."""
        newly_frozen = (self._tail, sampled) if len(sampled) else ()
        tail = self._next_tail(observation.held_tokens, tokens, newly_frozen)
        fingerprint = self._frozen_fingerprint.extended(*newly_frozen) if newly_frozen else self._frozen_fingerprint
        prompt_fingerprint = fingerprint.with_tail(tail)
        self._check_fingerprint(prompt_fingerprint, observation.prompt_fingerprint)

        if newly_frozen:
            self._frozen.extend(*newly_frozen)
            self._frozen_fingerprint = fingerprint
        self._tail = tail
        self.prompt_fingerprint = prompt_fingerprint

    def _begin_segment(self, observation: ChatObservation, tokens: Int32Array, sampled: Int32Array) -> None:
        """Take in the stream of a new segment. Observations of earlier ones go on with the buffer as it was.

        What it shares with the one before may end within `sampled`, where a task has answered to those.
        """
        held = observation.held_tokens
        if held > self.token_count + len(sampled):
            raise ProtocolError(f"tokens before {held} are missing; call resume()")
        of_tail, of_sampled = max(0, held - len(self._frozen)), max(0, held - self.token_count)
        tail = np.concatenate([self._frozen.view(0, held), self._tail[:of_tail], sampled[:of_sampled], tokens])
        prompt_fingerprint = fingerprint_of(tail)
        self._check_fingerprint(prompt_fingerprint, observation.prompt_fingerprint)
        self._segment, self._tail = observation.segment, tail
        self._frozen, self._frozen_fingerprint = GrowingArray(np.int32), Fingerprint()
        self.prompt_fingerprint = prompt_fingerprint

    def fail(self, failure: Failure) -> Failure:
        """Take in that the episode failed; what was shown before stays as it was."""
        self.shown = replace(self.shown, failure=failure)
        return failure

    def observation(self, state: ChatState) -> ChatObservation:
        """What the last step of an episode showed, as far as its state tells."""
        last = [turn for turn in state.turns if turn.step == state.step_count > 0]
        # Of a sampled turn and what a task answered to it, the first has the reward.
        rewarded = next((turn for turn in last if turn.reward is not None), None)
        return self._show(
            ChatObservation(
                episode_id=self.episode_id,
                step_count=self.step_count,
                reward=rewarded.reward if rewarded else None,
                rewards=dict(rewarded.rewards) if rewarded else {},
                terminated=state.terminated,
                truncated=state.truncated,
                generation_prompt_length=state.generation_prompt_length,
                prompt_fingerprint=self.prompt_fingerprint,
                segment=self._segment,
                turns_left=state.turns_left,
                tokens_left=state.tokens_left,
                turn_open=state.turn_open,
                failure=state.failure,
            )
        )

    def _check_order(self, answered: ChatObservation, most_messages: int) -> None:
        if answered.step_count != self.step_count + 1 or answered.episode_id != self.episode_id:
            raise ProtocolError(
                f"the answer is step {answered.step_count} of episode {answered.episode_id!r}, not step "
                f"{self.step_count + 1} of {self.episode_id!r}; use one client per episode and thread"
            )
        if answered.held_messages > most_messages:
            raise ProtocolError(f"messages before {answered.held_messages} are missing; call resume()")

    def _next_tail(self, offset: int, tokens: Int32Array, newly_frozen: tuple[Int32Array, ...]) -> Int32Array:
        """(n,) int32, what follows the frozen part once `newly_frozen` has joined it: `tokens`, from `offset` on."""
        frozen_length = len(self._frozen) + sum(map(len, newly_frozen))
        held_tail = EMPTY_TOKENS if newly_frozen else self._tail
        kept = offset - frozen_length
        if kept > len(held_tail):
            raise ProtocolError(f"tokens before {offset} are missing; call resume()")
        if kept > 0:
            return np.concatenate([held_tail[:kept], tokens])
        # A server may repeat frozen tokens; that they are the same is what the fingerprint proves.
        return tokens[-kept:] if kept else tokens

    def _replace_messages(self, kept: int, offset: int, messages: list[Message], given: tuple[Message, ...]) -> None:
        """Put `given` after the first `kept` messages, and `messages` after `offset` of all those."""
        if min(kept, offset) < len(self._messages):
            # Observations of earlier steps go on with the list as it was.
            self._messages = self._messages[: min(kept, offset)]
        if given and offset > kept:
            self._messages += given[: offset - kept]
        self._messages += messages

    def _check_fingerprint(self, held: str, answered: str) -> None:
        if held != answered:
            raise ProtocolError(
                f"the stream of episode {self.episode_id!r} is not the one the server has; call resume()",
                details={"held": held, "answered": answered},
            )
