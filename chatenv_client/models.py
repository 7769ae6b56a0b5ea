"""What callers of chatenv hold in their hands: messages, actions, observations, states, trajectories.

Plain data, the same in-process and over the wire. Shapes: T is the length of an episode's token stream.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict

import numpy as np

from chatenv_client.tokens import (
    EMPTY_SNAPSHOT,
    EMPTY_TOKENS,
    BoolArray,
    Float32Array,
    Int32Array,
    TokenSnapshot,
    as_logprobs,
    as_token_ids,
    fingerprint_of,
)

if TYPE_CHECKING:
    import torch


class Function(TypedDict, total=False):
    """The function that a tool call names, and its arguments: an object, or JSON text where that is kept."""

    name: str
    arguments: dict[str, Any] | str


class ToolCall(TypedDict, total=False):
    """One call of a tool in an assistant message."""

    id: str
    type: str
    function: Function


class Message(TypedDict, total=False):
    """A Hugging Face chat message. `role` is always there; templates may read further keys."""

    role: str
    content: str | list[dict[str, Any]] | None
    reasoning_content: str
    tool_calls: list[ToolCall]
    tool_call_id: str
    name: str


class StopReason(enum.Enum):
    """Why sampling of a turn stopped."""

    STOP = "stop"
    """The model ended its turn, by a stop token or a stop string."""
    LENGTH = "length"
    """The sampler's length limit cut the turn off."""
    ABORT = "abort"
    """The sampler gave up."""


class Origin(enum.Enum):
    """Who wrote a stretch of the token stream."""

    TEMPLATE = "template"
    """Rendered by the chat template; loss mask 0."""
    SAMPLED = "sampled"
    """Sampled by a model, kept bit for bit; loss mask 1."""


class HistoryPolicy(enum.Enum):
    """What to do when the chat template would write earlier turns differently from what the model saw."""

    APPEND = "append"
    """Keep the stream append-only and report it."""
    STRICT = "strict"
    """Refuse the step."""


class ControlTokenPolicy(enum.Enum):
    """What to do with control-token strings, such as `<|im_end|>`, inside message text."""

    ESCAPE = "escape"
    """Encode them as ordinary text and report it."""
    REJECT = "reject"
    """Refuse the message."""
    ALLOW = "allow"
    """Let them become control tokens, as plain Hugging Face code does."""


class FidelityKind(enum.Enum):
    """What was not exact about a step."""

    HISTORY_REWRITTEN = "history_rewritten"
    """The template would now write an earlier turn differently; the stream keeps what the model saw."""
    CONTENT_ALTERED = "content_altered"
    """The template changed the text of a given message."""
    MESSAGE_DROPPED = "message_dropped"
    """The template left out a given message, a part of it, or the tools."""
    BOUNDARY_MERGE = "boundary_merge"
    """Encoding the whole conversation would merge text across the end of a sampled span."""
    CONTROL_TOKEN_ESCAPED = "control_token_escaped"
    """Message text held control-token strings, encoded as ordinary text."""
    NONCANONICAL_STOP = "noncanonical_stop"
    """The sampled turn ended in another stop token than the template's."""
    TRUNCATED_TURN_CLOSED = "truncated_turn_closed"
    """The sampled turn had no stop token; its close was written as template tokens."""
    STOP_STRING_OVERLAP = "stop_string_overlap"
    """A stop string in the sampled turn had already written a part of the template's close."""
    UNDECODABLE_TOKENS = "undecodable_tokens"
    """The sampled tokens do not decode to valid text."""
    KWARG_UNUSED = "kwarg_unused"
    """A chat-template keyword that the template never reads."""
    TOOL_CALL_MALFORMED = "tool_call_malformed"
    """A sampled turn looked like a tool call but could not be parsed; it is kept as text."""


@dataclass(frozen=True, slots=True)
class FidelityReport:
    """One thing that was not exact, and where."""

    kind: FidelityKind
    detail: str
    """One sentence for a person; holds no message text."""
    token_index: int | None = None
    message_index: int | None = None


@dataclass(eq=False, slots=True)
class ChatAction:
    """What a caller does in one step: the tokens that a model sampled, or messages to append.

    `tokens` takes a torch tensor, a numpy array or a list, of any shape with one row. With `messages`, the
    tokens are only what those messages would add (see `message_to_action`) and the messages are what counts.
    """

    tokens: Any = None
    """(n,) int32 after construction."""
    logprobs: Any = None
    """(n,) float32 after construction, or None: natural-log probability of each sampled token."""
    stop_reason: StopReason | str | None = None
    """`stop`, `length` or `abort`; None: `stop` if the span ends in a stop token, else `length`."""
    model_version: str = ""
    """Version of the weights that sampled."""
    messages: tuple[Message, ...] = ()
    """Messages to append, recorded as given."""
    prompt_fingerprint: str = ""
    """Fingerprint of the prompt the tokens were sampled from. Empty: no check; the client fills it in."""

    def __post_init__(self) -> None:
        self.tokens = EMPTY_TOKENS if self.tokens is None else as_token_ids(self.tokens)
        if self.logprobs is not None:
            self.logprobs = as_logprobs(self.logprobs)
        if self.stop_reason is not None:
            self.stop_reason = StopReason(self.stop_reason)
        self.messages = tuple(self.messages)

    @classmethod
    def of_checked(
        cls,
        *,
        tokens: Int32Array,
        logprobs: Float32Array | None = None,
        stop_reason: StopReason | None = None,
        model_version: str = "",
        messages: tuple[Message, ...] = (),
        prompt_fingerprint: str = "",
    ) -> ChatAction:
        """An action of values that have their final types and are nobody else's; they are neither read nor copied."""
        action = cls.__new__(cls)
        action.tokens = tokens
        action.logprobs = logprobs
        action.stop_reason = stop_reason
        action.model_version = model_version
        action.messages = messages
        action.prompt_fingerprint = prompt_fingerprint
        return action


class ResetOptions(TypedDict, total=False):
    """Keywords of `reset`, the same everywhere. What is left out, or None, is the default."""

    episode_id: str | None
    """1 to 128 characters of `[A-Za-z0-9._:-]`. Left out: one is chosen. One that is live is started anew."""
    seed: int | None
    """Handed to the transform."""
    messages: Sequence[Mapping[str, Any]]
    """Opening messages."""
    tools: Sequence[Mapping[str, Any]] | None
    """JSON schemas of tools, handed to the template."""
    system_prompt: str | None
    """Put before the opening messages; the empty string: none."""
    system_role: str | None
    chat_template_kwargs: Mapping[str, Any] | None
    """Keyword arguments for the template, such as `{"enable_thinking": False}`."""
    max_steps: int | None
    """Steps after which the episode is truncated, at least 1."""
    max_tokens: int | None
    """Stream length from which on the episode is truncated, at least 1."""
    metadata: Mapping[str, Any] | None
    """A JSON object kept with the episode and shown to transforms."""
    add_generation_prompt: bool | None
    """Whether the stream ends with the generation prompt when it is the model's turn."""
    history_policy: HistoryPolicy | str | None
    control_token_policy: ControlTokenPolicy | str | None
    clock: float | None
    """The time that templates see, in Unix seconds, fixed for the whole episode."""


Action = ChatAction | Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""What `step` takes: an action, a message, or a list of messages."""


def as_action(action: Any) -> ChatAction:
    """Make an action of what `step` was given.

    Raises:
        TypeError: it is neither an action, a message nor a list of messages.
    """
    if isinstance(action, ChatAction):
        return action
    if isinstance(action, Mapping):
        return ChatAction(messages=(action,))  # type: ignore[arg-type]
    if isinstance(action, (list, tuple)) and all(isinstance(item, Mapping) for item in action):
        return ChatAction(messages=tuple(action))
    raise TypeError(
        f"step takes a ChatAction, a message or a list of messages, not {type(action).__name__}; "
        "wrap sampled token ids as ChatAction(tokens=...)"
    )


def is_plain(message: Any) -> bool:
    """Whether a message is a dict of a role and a text, as nearly all are, and of nothing else."""
    return type(message) is dict and message.keys() == _PLAIN and type(message["content"]) is str


_PLAIN: Final = {"role", "content"}


def own_message(message: Mapping[str, Any]) -> Message:
    """A copy of a message that shares no list or mapping with it; several times faster than copy.deepcopy."""
    return message.copy() if is_plain(message) else _own(message)  # type: ignore[attr-defined, no-any-return]


def _own(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {key: _own(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_own(item) for item in value]
    return value


def _nothing_to_read(index: int) -> Message:
    raise LookupError(f"message {index} is not there")


@dataclass(eq=False, slots=True)
class MessageSnapshot:
    """A conversation at one moment. Shares the list with later snapshots; copies when it is read."""

    messages: Sequence[Message | None] = ()
    """None stands for a message that is read off the token stream when somebody asks for it."""
    length: int = 0
    read: Callable[[int], Message] = _nothing_to_read
    """Reads the message of an index, where the list has None."""

    def _at(self, index: int) -> Message:
        message = self.messages[index]
        return self.read(index) if message is None else message

    def first(self) -> Sequence[Message]:
        """The first message, if there is one, not copied."""
        return [self._at(0)] if self.length else ()

    def since(self, index: int) -> list[Message]:
        """The messages from `index` on, not copied."""
        return [self._at(each) for each in range(index, self.length)]

    def copy(self) -> list[Message]:
        """All messages, as the caller's own."""
        return [own_message(message) for message in self.since(0)]


EMPTY_CONVERSATION: Final = MessageSnapshot()


@dataclass(eq=False, slots=True)
class ChatObservation:
    """What an episode shows after a reset or a step.

    Reading `messages`, `token_ids` or `tokens` costs time proportional to the episode; not reading them costs
    nothing.
    """

    episode_id: str = ""
    step_count: int = 0
    stream: TokenSnapshot = EMPTY_SNAPSHOT
    """The token stream, not yet copied."""
    conversation: MessageSnapshot = EMPTY_CONVERSATION
    """The messages, not yet copied."""
    reward: float | None = None
    """Reward of this step; None: no transform gave one."""
    terminated: bool = False
    """The task itself ended the episode."""
    truncated: bool = False
    """A limit or a transform cut the episode off."""
    metadata: dict[str, Any] = field(default_factory=dict)
    generation_prompt_length: int = 0
    """How many trailing tokens are the generation prompt; 0 when it is not the model's turn."""
    fidelity: tuple[FidelityReport, ...] = ()
    """What was not exact about this step; empty: everything was."""
    prompt_fingerprint: str = ""
    """BLAKE2b-128 of the stream; empty: computed when `fingerprint()` is asked for."""
    seed: int | None = None
    """As given at reset, for transforms that draw."""
    held_tokens: int = 0
    """Length of the stream's prefix that a caller holds who saw the step before and sent this one."""
    held_messages: int = 0
    """Number of leading messages that such a caller holds."""

    @property
    def done(self) -> bool:
        """Whether the episode is over, by itself or cut off."""
        return self.terminated or self.truncated

    @done.setter
    def done(self, value: bool) -> None:
        self.terminated = value
        self.truncated = self.truncated and value

    @property
    def messages(self) -> list[Message]:
        """All messages, as a list of the caller's own."""
        return self.conversation.copy()

    @property
    def token_ids(self) -> Int32Array:
        """(T,) int32: the stream the model reads next, as a writable array."""
        return self.stream.token_ids

    @property
    def tokens(self) -> torch.Tensor:
        """(T,) int32 torch tensor on `token_ids`, without a copy. Imports torch on first use."""
        return as_tensor(self.token_ids)

    def fingerprint(self) -> str:
        """32 hexadecimal digits: BLAKE2b-128 of `token_ids` as little-endian int32 bytes."""
        return self.prompt_fingerprint or fingerprint_of(self.token_ids)


class StepResult(NamedTuple):
    """A client's answer to reset and step."""

    observation: ChatObservation
    reward: float | None
    done: bool


@dataclass(frozen=True, eq=False)
class Rendered:
    """What messages would add to an episode if they were appended now."""

    tokens_offset: int
    """From this offset on the stream would be `tokens`."""
    tokens: Int32Array
    """(n,) int32, the generation prompt included where it would stand."""
    fidelity: tuple[FidelityReport, ...] = ()
    """What would not be exact."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of an episode: a sampled span, or the template's text between two of them."""

    origin: Origin
    start: int
    """First token. Turns are contiguous and cover the stream."""
    length: int
    step: int
    """The step that appended it; 0 for the opening."""
    first_message: int
    message_count: int
    """Messages it added; 0 where a sampled turn went on with the message before."""
    stop_reason: StopReason | None = None
    model_version: str = ""
    reward: float | None = None
    has_logprobs: bool = False

    @property
    def stop(self) -> int:
        """First token behind the turn."""
        return self.start + self.length


@dataclass(frozen=True, eq=False)
class Trajectory:
    """An episode as training wants it. All arrays have the length T of the stream."""

    episode_id: str
    tokens: Int32Array
    """(T,) int32."""
    loss_mask: BoolArray
    """(T,) bool, true exactly on sampled tokens."""
    logprobs: Float32Array
    """(T,) float32 as given; NaN where none was given."""
    turn: Int32Array
    """(T,) int32, index into `turns`."""
    turns: tuple[Turn, ...]
    fidelity: tuple[FidelityReport, ...]
    terminated: bool = False
    truncated: bool = False


@dataclass(frozen=True, eq=False)
class ChatState:
    """A whole episode at one moment."""

    episode_id: str
    step_count: int
    history_messages: list[Message]
    message_spans: tuple[tuple[int, int], ...]
    """(start, stop) of each message's part of the stream. They cover it but for the generation prompt."""
    token_ids: Int32Array
    """(T,) int32, the generation prompt included."""
    turns: tuple[Turn, ...]
    fidelity: tuple[FidelityReport, ...]
    generation_prompt_length: int = 0
    prompt_fingerprint: str = ""
    terminated: bool = False
    truncated: bool = False
    max_steps: int | None = None
    max_tokens: int | None = None
    seed: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    clock_unix_seconds: float | None = None
    """The time that the template sees."""

    @property
    def history_token_ids(self) -> list[Int32Array]:
        """One int32 array a message."""
        return [self.token_ids[start:stop] for start, stop in self.message_spans]

    @property
    def history_tokens(self) -> list[torch.Tensor]:
        """One int32 torch tensor a message. Imports torch on first use."""
        return [as_tensor(ids) for ids in self.history_token_ids]

    @property
    def loss_mask(self) -> BoolArray:
        """(T,) bool, true exactly on sampled tokens."""
        return loss_mask_of(self.turns, len(self.token_ids))


def loss_mask_of(turns: Sequence[Turn], length: int) -> BoolArray:
    """(length,) bool, true exactly on the tokens of sampled turns."""
    mask = np.zeros(length, dtype=np.bool_)
    for turn in turns:
        if turn.origin is Origin.SAMPLED:
            mask[turn.start : turn.stop] = True
    return mask


class Verdict(enum.Enum):
    """How an episode's stream compares with a full rendering of its messages."""

    EXACT = "exact"
    """Token for token the same."""
    TOKENS_DIFFER = "tokens_differ"
    """The text is the same, the tokens are not: the model sampled another tokenisation."""
    TEXT_DIFFERS = "text_differs"
    """The text is another one."""
    NOT_RENDERABLE = "not_renderable"
    """The template cannot render the whole conversation."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Result of comparing an episode's stream with a full rendering of its messages."""

    verdict: Verdict
    index: int | None
    """First token (TOKENS_DIFFER) or character (TEXT_DIFFERS) that differs."""
    detail: str


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A control token of the server's tokenizer."""

    id: int
    text: str
    stops: bool
    """Whether a sampled turn that ends in it counts as stopped."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server allows; None means no limit."""

    max_episodes: int | None = None
    """Live episodes."""
    max_live_tokens: int | None = None
    """Tokens over all live episodes."""
    max_steps: int | None = None
    """Default truncation of an episode, in steps."""
    max_tokens: int | None = None
    """Default truncation of an episode, in tokens."""
    max_message_bytes: int | None = None
    """One message on the wire, either way."""
    max_batch_items: int | None = None
    idle_timeout_seconds: float | None = None
    """Time without a call after which an episode expires."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server is."""

    version: str
    tokenizer_name: str
    tokenizer_fingerprint: str
    """SHA-256; two servers with the same one encode the same."""
    chat_template_fingerprint: str
    """SHA-256 of the chat template's text."""
    vocabulary_size: int
    token_id_limit: int
    """Ids from here on are refused."""
    special_tokens: tuple[SpecialToken, ...]
    features: tuple[str, ...]
    """What the template does, one word each."""
    turn_parser: str
    """The parser for sampled turns; `verbatim` when the family is unknown."""
    limits: Limits
    uptime_seconds: float
    live_episodes: int
    live_tokens: int


def as_tensor(array: Any) -> torch.Tensor:
    """A numpy array as a torch tensor that shares its memory.

    Raises:
        ImportError: torch is not installed; use the numpy twin of the property instead.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError("this property needs torch; `token_ids` gives the same as numpy") from error
    return torch.from_numpy(array)
