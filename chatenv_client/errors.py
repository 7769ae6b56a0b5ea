"""The exceptions of chatenv: one small tree, the same in-process and from the client.

ChatEnvError
├── InvalidRequestError        bad input, INVALID_ARGUMENT
│   └── TemplateRejectedError  the chat template cannot render these messages
├── EpisodeNotFoundError       NOT_FOUND
│   ├── EpisodeUnknownError    never was
│   ├── EpisodeClosedError     was closed
│   └── EpisodeExpiredError    was idle for too long
├── EpisodeExistsError         an episode of this id is live, ALREADY_EXISTS
├── EpisodeDoneError           step after the end, FAILED_PRECONDITION
├── TokenizerMismatchError     another tokenizer or template wrote the episode, FAILED_PRECONDITION
├── EpisodeDamagedError        the episode's record is broken, DATA_LOSS
├── HistoryRewrittenError      policy `strict` refused the step, FAILED_PRECONDITION
├── StepConflictError          ABORTED
│   ├── StepIndexMismatchError stale or future step_index
│   └── PromptMismatchError    sampled from another prompt than the one on record
├── CapacityError              RESOURCE_EXHAUSTED
│   ├── EpisodeLimitError, TokenLimitError, ServerBusyError, MessageTooLargeError
├── TaskError                  the task failed, INTERNAL
│   ├── TaskTimeoutError       DEADLINE_EXCEEDED
│   ├── TaskAnswerError        what it answered cannot be, INTERNAL
│   └── TaskMissingError       the server has not the task of the episode, FAILED_PRECONDITION
├── TransformError             INTERNAL
│   └── TransformTimeoutError  DEADLINE_EXCEEDED
├── DeadlineError              the call's own deadline, DEADLINE_EXCEEDED
├── UnavailableError           no server, or it is shutting down, UNAVAILABLE
│   └── StoreUnavailableError  the server's store of episodes does not answer
├── AccessError                UNAUTHENTICATED, PERMISSION_DENIED
├── ProtocolError              an answer that does not fit the contract
├── BatchError                 some items of a round failed, the others were applied
└── UnexpectedStatusError      any other status

Each is picklable and carries `code` (name of the gRPC status), `reason` and `details`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from chatenv_client.reasons import Reason


class ChatEnvError(Exception):
    """Base of everything chatenv raises on purpose."""

    code: str = "UNKNOWN"
    """Name of the gRPC status."""
    default_reason: ClassVar[Reason] = Reason.UNEXPECTED

    def __init__(
        self,
        message: str,
        *,
        reason: Reason | str = "",
        field: str = "",
        details: Mapping[str, str] | None = None,
        code: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.message = message
        """One sentence: what was wrong and what to do next."""
        self.reason: Reason | str = Reason.__members__.get(reason, reason) or self.default_reason
        """For programs: a `Reason`, which equals its name; a plain text where a newer server gave one unknown here."""
        self.field = field
        """Path of the bad argument, such as `tokens[3]` or `messages[0].role`; empty where none is to blame."""
        self.details = dict(details or {})
        """Figures of the reason, as text."""

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field and self.field not in self.message else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.__dict__)


def _rebuild(kind: type[ChatEnvError], message: str, attributes: dict[str, Any]) -> ChatEnvError:
    error = kind(message)
    error.__dict__.update(attributes)
    return error


class InvalidRequestError(ChatEnvError, ValueError):
    """The request is wrong; `field` names where."""

    code = "INVALID_ARGUMENT"
    default_reason = Reason.INVALID_REQUEST


class TemplateRejectedError(InvalidRequestError):
    """The chat template cannot render these messages; the message holds the template's own words."""

    default_reason = Reason.TEMPLATE_REJECTED


class EpisodeNotFoundError(ChatEnvError, LookupError):
    """There is no such live episode."""

    code = "NOT_FOUND"
    default_reason = Reason.EPISODE_UNKNOWN


class EpisodeUnknownError(EpisodeNotFoundError):
    """The server never knew this episode, or has no store and was restarted since."""


class EpisodeClosedError(EpisodeNotFoundError):
    """The episode was closed."""

    default_reason = Reason.EPISODE_CLOSED


class EpisodeExpiredError(EpisodeNotFoundError):
    """The episode was idle for too long and was evicted."""

    default_reason = Reason.EPISODE_EXPIRED


class EpisodeExistsError(ChatEnvError):
    """A fork or an import was to get the id of another live episode."""

    code = "ALREADY_EXISTS"
    default_reason = Reason.EPISODE_EXISTS


class TokenizerMismatchError(ChatEnvError):
    """A server with another tokenizer, chat template or token-id limit wrote the episode."""

    code = "FAILED_PRECONDITION"
    default_reason = Reason.TOKENIZER_MISMATCH


class EpisodeDamagedError(ChatEnvError):
    """The record of the episode is broken. It is left as it is."""

    code = "DATA_LOSS"
    default_reason = Reason.EPISODE_DAMAGED


class EpisodeDoneError(ChatEnvError):
    """The episode is over; reset it."""

    code = "FAILED_PRECONDITION"
    default_reason = Reason.EPISODE_DONE


class HistoryRewrittenError(ChatEnvError):
    """The template would rewrite history and the episode's policy is `strict`."""

    code = "FAILED_PRECONDITION"
    default_reason = Reason.HISTORY_REWRITTEN


class StepConflictError(ChatEnvError):
    """The step does not follow on what is on record; nothing changed."""

    code = "ABORTED"
    default_reason = Reason.STEP_CONFLICT


class StepIndexMismatchError(StepConflictError):
    """Stale or future step_index; `details` holds both numbers."""

    default_reason = Reason.STEP_INDEX_MISMATCH


class PromptMismatchError(StepConflictError):
    """The tokens were sampled from another prompt than the one on record."""

    default_reason = Reason.PROMPT_MISMATCH


class CapacityError(ChatEnvError):
    """A limit of the server is reached. Never retried automatically."""

    code = "RESOURCE_EXHAUSTED"
    default_reason = Reason.CAPACITY


class EpisodeLimitError(CapacityError):
    """Too many live episodes."""

    default_reason = Reason.EPISODE_LIMIT


class TokenLimitError(CapacityError):
    """Too many tokens in live episodes."""

    default_reason = Reason.TOKEN_LIMIT


class ServerBusyError(CapacityError):
    """Too many calls at once."""

    default_reason = Reason.BUSY


class MessageTooLargeError(CapacityError):
    """A request or an answer is larger than the message limit."""

    default_reason = Reason.MESSAGE_TOO_LARGE


class TaskError(ChatEnvError):
    """A task failed; the episode is as it was, and the same call may be tried again."""

    code = "INTERNAL"
    default_reason = Reason.TASK_FAILED


class TaskTimeoutError(TaskError):
    """A task overran its deadline; the episode is as it was."""

    code = "DEADLINE_EXCEEDED"
    default_reason = Reason.TASK_TIMEOUT


class TaskAnswerError(TaskError):
    """A task answered messages that are malformed, or that the template rejects; the episode is as it was."""

    default_reason = Reason.TASK_ANSWER_REJECTED


class TaskMissingError(TaskError):
    """The episode was played by a task, or with a row of data, that the server does not have."""

    code = "FAILED_PRECONDITION"
    default_reason = Reason.TASK_MISSING


class TransformError(ChatEnvError):
    """A transform raised; the episode is as it was."""

    code = "INTERNAL"
    default_reason = Reason.TRANSFORM_FAILED


class TransformTimeoutError(TransformError):
    """A transform overran its deadline; the episode is as it was."""

    code = "DEADLINE_EXCEEDED"
    default_reason = Reason.TRANSFORM_TIMEOUT


class DeadlineError(ChatEnvError, TimeoutError):
    """The call took longer than its deadline. A Step may have applied or not; trying it again is safe."""

    code = "DEADLINE_EXCEEDED"
    default_reason = Reason.DEADLINE


class UnavailableError(ChatEnvError, ConnectionError):
    """No server answers, or it is shutting down."""

    code = "UNAVAILABLE"
    default_reason = Reason.UNAVAILABLE


class StoreUnavailableError(UnavailableError):
    """The server's store of episodes does not answer, or cannot write."""

    default_reason = Reason.STORE_UNAVAILABLE


class AccessError(ChatEnvError):
    """The server does not let this caller in."""

    code = "UNAUTHENTICATED"
    default_reason = Reason.ACCESS


class ProtocolError(ChatEnvError):
    """The server's answer does not fit the contract: client and server do not match."""

    code = "INTERNAL"
    default_reason = Reason.BAD_ANSWER


class BatchError(ChatEnvError):
    """Some items of a round over many episodes failed; the others were applied. See `VectorChatEnv`."""

    default_reason = Reason.BATCH_ITEMS_FAILED

    def __init__(
        self,
        message: str,
        *,
        results: Sequence[Any] = (),
        errors: Mapping[int, ChatEnvError] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(message, **common)
        self.results = list(results)
        """One an episode; None where an item failed or was not asked for."""
        self.errors = dict(errors or {})
        """Of the items that failed, by index of the episode."""


class UnexpectedStatusError(ChatEnvError):
    """A status that chatenv does not send on purpose."""
