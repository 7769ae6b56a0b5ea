from chatenv_client._generated import status_pb2 as _status_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Origin(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORIGIN_UNSPECIFIED: _ClassVar[Origin]
    ORIGIN_TEMPLATE: _ClassVar[Origin]
    ORIGIN_SAMPLED: _ClassVar[Origin]

class StopReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STOP_REASON_UNSPECIFIED: _ClassVar[StopReason]
    STOP_REASON_STOP: _ClassVar[StopReason]
    STOP_REASON_LENGTH: _ClassVar[StopReason]
    STOP_REASON_ABORT: _ClassVar[StopReason]

class HistoryPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HISTORY_POLICY_UNSPECIFIED: _ClassVar[HistoryPolicy]
    HISTORY_POLICY_APPEND: _ClassVar[HistoryPolicy]
    HISTORY_POLICY_STRICT: _ClassVar[HistoryPolicy]
    HISTORY_POLICY_SEGMENT: _ClassVar[HistoryPolicy]

class ControlTokenPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONTROL_TOKEN_POLICY_UNSPECIFIED: _ClassVar[ControlTokenPolicy]
    CONTROL_TOKEN_POLICY_ESCAPE: _ClassVar[ControlTokenPolicy]
    CONTROL_TOKEN_POLICY_REJECT: _ClassVar[ControlTokenPolicy]
    CONTROL_TOKEN_POLICY_ALLOW: _ClassVar[ControlTokenPolicy]

class FidelityKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FIDELITY_KIND_UNSPECIFIED: _ClassVar[FidelityKind]
    FIDELITY_KIND_HISTORY_REWRITTEN: _ClassVar[FidelityKind]
    FIDELITY_KIND_CONTENT_ALTERED: _ClassVar[FidelityKind]
    FIDELITY_KIND_MESSAGE_DROPPED: _ClassVar[FidelityKind]
    FIDELITY_KIND_BOUNDARY_MERGE: _ClassVar[FidelityKind]
    FIDELITY_KIND_CONTROL_TOKEN_ESCAPED: _ClassVar[FidelityKind]
    FIDELITY_KIND_NONCANONICAL_STOP: _ClassVar[FidelityKind]
    FIDELITY_KIND_TRUNCATED_TURN_CLOSED: _ClassVar[FidelityKind]
    FIDELITY_KIND_STOP_STRING_OVERLAP: _ClassVar[FidelityKind]
    FIDELITY_KIND_UNDECODABLE_TOKENS: _ClassVar[FidelityKind]
    FIDELITY_KIND_KWARG_UNUSED: _ClassVar[FidelityKind]
    FIDELITY_KIND_TOOL_CALL_MALFORMED: _ClassVar[FidelityKind]
    FIDELITY_KIND_TEXT_AFTER_STOP: _ClassVar[FidelityKind]
    FIDELITY_KIND_TOOL_RESULT_UNMATCHED: _ClassVar[FidelityKind]

class FailureKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_KIND_UNSPECIFIED: _ClassVar[FailureKind]
    FAILURE_KIND_TASK: _ClassVar[FailureKind]
    FAILURE_KIND_TOOL: _ClassVar[FailureKind]
    FAILURE_KIND_JUDGE: _ClassVar[FailureKind]
    FAILURE_KIND_SAMPLER: _ClassVar[FailureKind]
    FAILURE_KIND_CANCELLED: _ClassVar[FailureKind]
    FAILURE_KIND_OTHER: _ClassVar[FailureKind]
ORIGIN_UNSPECIFIED: Origin
ORIGIN_TEMPLATE: Origin
ORIGIN_SAMPLED: Origin
STOP_REASON_UNSPECIFIED: StopReason
STOP_REASON_STOP: StopReason
STOP_REASON_LENGTH: StopReason
STOP_REASON_ABORT: StopReason
HISTORY_POLICY_UNSPECIFIED: HistoryPolicy
HISTORY_POLICY_APPEND: HistoryPolicy
HISTORY_POLICY_STRICT: HistoryPolicy
HISTORY_POLICY_SEGMENT: HistoryPolicy
CONTROL_TOKEN_POLICY_UNSPECIFIED: ControlTokenPolicy
CONTROL_TOKEN_POLICY_ESCAPE: ControlTokenPolicy
CONTROL_TOKEN_POLICY_REJECT: ControlTokenPolicy
CONTROL_TOKEN_POLICY_ALLOW: ControlTokenPolicy
FIDELITY_KIND_UNSPECIFIED: FidelityKind
FIDELITY_KIND_HISTORY_REWRITTEN: FidelityKind
FIDELITY_KIND_CONTENT_ALTERED: FidelityKind
FIDELITY_KIND_MESSAGE_DROPPED: FidelityKind
FIDELITY_KIND_BOUNDARY_MERGE: FidelityKind
FIDELITY_KIND_CONTROL_TOKEN_ESCAPED: FidelityKind
FIDELITY_KIND_NONCANONICAL_STOP: FidelityKind
FIDELITY_KIND_TRUNCATED_TURN_CLOSED: FidelityKind
FIDELITY_KIND_STOP_STRING_OVERLAP: FidelityKind
FIDELITY_KIND_UNDECODABLE_TOKENS: FidelityKind
FIDELITY_KIND_KWARG_UNUSED: FidelityKind
FIDELITY_KIND_TOOL_CALL_MALFORMED: FidelityKind
FIDELITY_KIND_TEXT_AFTER_STOP: FidelityKind
FIDELITY_KIND_TOOL_RESULT_UNMATCHED: FidelityKind
FAILURE_KIND_UNSPECIFIED: FailureKind
FAILURE_KIND_TASK: FailureKind
FAILURE_KIND_TOOL: FailureKind
FAILURE_KIND_JUDGE: FailureKind
FAILURE_KIND_SAMPLER: FailureKind
FAILURE_KIND_CANCELLED: FailureKind
FAILURE_KIND_OTHER: FailureKind

class Failure(_message.Message):
    __slots__ = ("kind", "reason")
    KIND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    kind: FailureKind
    reason: str
    def __init__(self, kind: _Optional[_Union[FailureKind, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class NamedReward(_message.Message):
    __slots__ = ("name", "value", "weight")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    weight: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., weight: _Optional[float] = ...) -> None: ...

class FidelityReport(_message.Message):
    __slots__ = ("kind", "token_index", "message_index", "detail")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TOKEN_INDEX_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    kind: FidelityKind
    token_index: int
    message_index: int
    detail: str
    def __init__(self, kind: _Optional[_Union[FidelityKind, str]] = ..., token_index: _Optional[int] = ..., message_index: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("role", "content", "content_parts", "tool_calls", "tool_call_id", "name", "reasoning_content", "extra_json")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_PARTS_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALLS_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASONING_CONTENT_FIELD_NUMBER: _ClassVar[int]
    EXTRA_JSON_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    content_parts: _containers.RepeatedCompositeFieldContainer[ContentPart]
    tool_calls: _containers.RepeatedCompositeFieldContainer[ToolCall]
    tool_call_id: str
    name: str
    reasoning_content: str
    extra_json: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ..., content_parts: _Optional[_Iterable[_Union[ContentPart, _Mapping]]] = ..., tool_calls: _Optional[_Iterable[_Union[ToolCall, _Mapping]]] = ..., tool_call_id: _Optional[str] = ..., name: _Optional[str] = ..., reasoning_content: _Optional[str] = ..., extra_json: _Optional[str] = ...) -> None: ...

class ContentPart(_message.Message):
    __slots__ = ("type", "text")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    type: str
    text: str
    def __init__(self, type: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class ToolCall(_message.Message):
    __slots__ = ("id", "type", "name", "arguments_json")
    ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    id: str
    type: str
    name: str
    arguments_json: str
    def __init__(self, id: _Optional[str] = ..., type: _Optional[str] = ..., name: _Optional[str] = ..., arguments_json: _Optional[str] = ...) -> None: ...

class Observation(_message.Message):
    __slots__ = ("episode_id", "step_count", "tokens_offset", "tokens", "generation_prompt_length", "prompt_fingerprint", "messages_offset", "messages", "reward", "terminated", "truncated", "metadata_json", "fidelity", "segment", "rewards", "turns_left", "tokens_left", "turn_open", "failure")
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_PROMPT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_OFFSET_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    TERMINATED_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    METADATA_JSON_FIELD_NUMBER: _ClassVar[int]
    FIDELITY_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    TURNS_LEFT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_LEFT_FIELD_NUMBER: _ClassVar[int]
    TURN_OPEN_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    step_count: int
    tokens_offset: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    generation_prompt_length: int
    prompt_fingerprint: str
    messages_offset: int
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    reward: float
    terminated: bool
    truncated: bool
    metadata_json: str
    fidelity: _containers.RepeatedCompositeFieldContainer[FidelityReport]
    segment: int
    rewards: _containers.RepeatedCompositeFieldContainer[NamedReward]
    turns_left: int
    tokens_left: int
    turn_open: bool
    failure: Failure
    def __init__(self, episode_id: _Optional[str] = ..., step_count: _Optional[int] = ..., tokens_offset: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., generation_prompt_length: _Optional[int] = ..., prompt_fingerprint: _Optional[str] = ..., messages_offset: _Optional[int] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., reward: _Optional[float] = ..., terminated: bool = ..., truncated: bool = ..., metadata_json: _Optional[str] = ..., fidelity: _Optional[_Iterable[_Union[FidelityReport, _Mapping]]] = ..., segment: _Optional[int] = ..., rewards: _Optional[_Iterable[_Union[NamedReward, _Mapping]]] = ..., turns_left: _Optional[int] = ..., tokens_left: _Optional[int] = ..., turn_open: bool = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class ResetRequest(_message.Message):
    __slots__ = ("episode_id", "messages", "system_prompt", "system_role", "tools_json", "chat_template_kwargs_json", "max_steps", "max_tokens", "seed", "metadata_json", "add_generation_prompt", "history_policy", "control_token_policy", "clock", "continue_final_message", "task", "task_args_json", "row", "row_id", "split", "max_turns", "max_sampled_tokens", "group")
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_PROMPT_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_ROLE_FIELD_NUMBER: _ClassVar[int]
    TOOLS_JSON_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_KWARGS_JSON_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    METADATA_JSON_FIELD_NUMBER: _ClassVar[int]
    ADD_GENERATION_PROMPT_FIELD_NUMBER: _ClassVar[int]
    HISTORY_POLICY_FIELD_NUMBER: _ClassVar[int]
    CONTROL_TOKEN_POLICY_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    CONTINUE_FINAL_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    TASK_ARGS_JSON_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    ROW_ID_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    MAX_TURNS_FIELD_NUMBER: _ClassVar[int]
    MAX_SAMPLED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    system_prompt: str
    system_role: str
    tools_json: str
    chat_template_kwargs_json: str
    max_steps: int
    max_tokens: int
    seed: int
    metadata_json: str
    add_generation_prompt: bool
    history_policy: HistoryPolicy
    control_token_policy: ControlTokenPolicy
    clock: _timestamp_pb2.Timestamp
    continue_final_message: bool
    task: str
    task_args_json: str
    row: int
    row_id: str
    split: str
    max_turns: int
    max_sampled_tokens: int
    group: str
    def __init__(self, episode_id: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., system_prompt: _Optional[str] = ..., system_role: _Optional[str] = ..., tools_json: _Optional[str] = ..., chat_template_kwargs_json: _Optional[str] = ..., max_steps: _Optional[int] = ..., max_tokens: _Optional[int] = ..., seed: _Optional[int] = ..., metadata_json: _Optional[str] = ..., add_generation_prompt: bool = ..., history_policy: _Optional[_Union[HistoryPolicy, str]] = ..., control_token_policy: _Optional[_Union[ControlTokenPolicy, str]] = ..., clock: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., continue_final_message: bool = ..., task: _Optional[str] = ..., task_args_json: _Optional[str] = ..., row: _Optional[int] = ..., row_id: _Optional[str] = ..., split: _Optional[str] = ..., max_turns: _Optional[int] = ..., max_sampled_tokens: _Optional[int] = ..., group: _Optional[str] = ...) -> None: ...

class ResetResponse(_message.Message):
    __slots__ = ("observation",)
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    observation: Observation
    def __init__(self, observation: _Optional[_Union[Observation, _Mapping]] = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("episode_id", "tokens", "messages", "logprobs", "stop_reason", "model_version", "step_index", "prompt_fingerprint", "known_tokens", "known_messages", "replace_from", "message", "sampled_runs", "model_version_runs", "extras", "amended_extras")
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    STEP_INDEX_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    KNOWN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FROM_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_RUNS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_RUNS_FIELD_NUMBER: _ClassVar[int]
    EXTRAS_FIELD_NUMBER: _ClassVar[int]
    AMENDED_EXTRAS_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    tokens: _containers.RepeatedScalarFieldContainer[int]
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    stop_reason: StopReason
    model_version: str
    step_index: int
    prompt_fingerprint: str
    known_tokens: int
    known_messages: int
    replace_from: int
    message: Message
    sampled_runs: _containers.RepeatedScalarFieldContainer[int]
    model_version_runs: _containers.RepeatedCompositeFieldContainer[ModelVersionRun]
    extras: _containers.RepeatedCompositeFieldContainer[Column]
    amended_extras: _containers.RepeatedCompositeFieldContainer[Column]
    def __init__(self, episode_id: _Optional[str] = ..., tokens: _Optional[_Iterable[int]] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., logprobs: _Optional[_Iterable[float]] = ..., stop_reason: _Optional[_Union[StopReason, str]] = ..., model_version: _Optional[str] = ..., step_index: _Optional[int] = ..., prompt_fingerprint: _Optional[str] = ..., known_tokens: _Optional[int] = ..., known_messages: _Optional[int] = ..., replace_from: _Optional[int] = ..., message: _Optional[_Union[Message, _Mapping]] = ..., sampled_runs: _Optional[_Iterable[int]] = ..., model_version_runs: _Optional[_Iterable[_Union[ModelVersionRun, _Mapping]]] = ..., extras: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., amended_extras: _Optional[_Iterable[_Union[Column, _Mapping]]] = ...) -> None: ...

class StepResponse(_message.Message):
    __slots__ = ("observation",)
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    observation: Observation
    def __init__(self, observation: _Optional[_Union[Observation, _Mapping]] = ...) -> None: ...

class SegmentEnd(_message.Message):
    __slots__ = ("token_count", "message_count", "step")
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    token_count: int
    message_count: int
    step: int
    def __init__(self, token_count: _Optional[int] = ..., message_count: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class GetStateRequest(_message.Message):
    __slots__ = ("episode_id",)
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    def __init__(self, episode_id: _Optional[str] = ...) -> None: ...

class MessageSpan(_message.Message):
    __slots__ = ("start", "length")
    START_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    start: int
    length: int
    def __init__(self, start: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "dtype", "row_shape", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    ROW_SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    row_shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., row_shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class ColumnRows(_message.Message):
    __slots__ = ("start", "column")
    START_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    start: int
    column: Column
    def __init__(self, start: _Optional[int] = ..., column: _Optional[_Union[Column, _Mapping]] = ...) -> None: ...

class ModelVersionRun(_message.Message):
    __slots__ = ("model_version", "length")
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    model_version: str
    length: int
    def __init__(self, model_version: _Optional[str] = ..., length: _Optional[int] = ...) -> None: ...

class Turn(_message.Message):
    __slots__ = ("origin", "start", "length", "step", "first_message", "message_count", "stop_reason", "model_version", "reward", "has_logprobs", "sampled_runs", "model_version_runs", "rewards", "at_ms")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    FIRST_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    HAS_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_RUNS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_RUNS_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    origin: Origin
    start: int
    length: int
    step: int
    first_message: int
    message_count: int
    stop_reason: StopReason
    model_version: str
    reward: float
    has_logprobs: bool
    sampled_runs: _containers.RepeatedScalarFieldContainer[int]
    model_version_runs: _containers.RepeatedCompositeFieldContainer[ModelVersionRun]
    rewards: _containers.RepeatedCompositeFieldContainer[NamedReward]
    at_ms: int
    def __init__(self, origin: _Optional[_Union[Origin, str]] = ..., start: _Optional[int] = ..., length: _Optional[int] = ..., step: _Optional[int] = ..., first_message: _Optional[int] = ..., message_count: _Optional[int] = ..., stop_reason: _Optional[_Union[StopReason, str]] = ..., model_version: _Optional[str] = ..., reward: _Optional[float] = ..., has_logprobs: bool = ..., sampled_runs: _Optional[_Iterable[int]] = ..., model_version_runs: _Optional[_Iterable[_Union[ModelVersionRun, _Mapping]]] = ..., rewards: _Optional[_Iterable[_Union[NamedReward, _Mapping]]] = ..., at_ms: _Optional[int] = ...) -> None: ...

class GetStateResponse(_message.Message):
    __slots__ = ("episode_id", "step_count", "messages", "tokens", "message_spans", "turns", "generation_prompt_length", "fidelity", "prompt_fingerprint", "terminated", "truncated", "max_steps", "max_tokens", "seed", "metadata_json", "clock", "sealed", "extras", "forked_from", "max_turns", "max_sampled_tokens", "turn_count", "turn_open", "failure", "task", "turns_left", "tokens_left", "group")
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_SPANS_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_PROMPT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    FIDELITY_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TERMINATED_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    METADATA_JSON_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    EXTRAS_FIELD_NUMBER: _ClassVar[int]
    FORKED_FROM_FIELD_NUMBER: _ClassVar[int]
    MAX_TURNS_FIELD_NUMBER: _ClassVar[int]
    MAX_SAMPLED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TURN_COUNT_FIELD_NUMBER: _ClassVar[int]
    TURN_OPEN_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    TURNS_LEFT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_LEFT_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    step_count: int
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    message_spans: _containers.RepeatedCompositeFieldContainer[MessageSpan]
    turns: _containers.RepeatedCompositeFieldContainer[Turn]
    generation_prompt_length: int
    fidelity: _containers.RepeatedCompositeFieldContainer[FidelityReport]
    prompt_fingerprint: str
    terminated: bool
    truncated: bool
    max_steps: int
    max_tokens: int
    seed: int
    metadata_json: str
    clock: _timestamp_pb2.Timestamp
    sealed: _containers.RepeatedCompositeFieldContainer[SegmentEnd]
    extras: _containers.RepeatedCompositeFieldContainer[ColumnRows]
    forked_from: ForkOrigin
    max_turns: int
    max_sampled_tokens: int
    turn_count: int
    turn_open: bool
    failure: Failure
    task: str
    turns_left: int
    tokens_left: int
    group: str
    def __init__(self, episode_id: _Optional[str] = ..., step_count: _Optional[int] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., tokens: _Optional[_Iterable[int]] = ..., message_spans: _Optional[_Iterable[_Union[MessageSpan, _Mapping]]] = ..., turns: _Optional[_Iterable[_Union[Turn, _Mapping]]] = ..., generation_prompt_length: _Optional[int] = ..., fidelity: _Optional[_Iterable[_Union[FidelityReport, _Mapping]]] = ..., prompt_fingerprint: _Optional[str] = ..., terminated: bool = ..., truncated: bool = ..., max_steps: _Optional[int] = ..., max_tokens: _Optional[int] = ..., seed: _Optional[int] = ..., metadata_json: _Optional[str] = ..., clock: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., sealed: _Optional[_Iterable[_Union[SegmentEnd, _Mapping]]] = ..., extras: _Optional[_Iterable[_Union[ColumnRows, _Mapping]]] = ..., forked_from: _Optional[_Union[ForkOrigin, _Mapping]] = ..., max_turns: _Optional[int] = ..., max_sampled_tokens: _Optional[int] = ..., turn_count: _Optional[int] = ..., turn_open: bool = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., task: _Optional[str] = ..., turns_left: _Optional[int] = ..., tokens_left: _Optional[int] = ..., group: _Optional[str] = ...) -> None: ...

class ForkOrigin(_message.Message):
    __slots__ = ("episode_id", "at_step")
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    AT_STEP_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    at_step: int
    def __init__(self, episode_id: _Optional[str] = ..., at_step: _Optional[int] = ...) -> None: ...

class GetTrajectoryRequest(_message.Message):
    __slots__ = ("episode_id", "assistants")
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    ASSISTANTS_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    assistants: bool
    def __init__(self, episode_id: _Optional[str] = ..., assistants: bool = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("shared_tokens", "tokens", "loss_mask_runs", "logprobs", "turns", "fidelity", "extras")
    SHARED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOSS_MASK_RUNS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    FIDELITY_FIELD_NUMBER: _ClassVar[int]
    EXTRAS_FIELD_NUMBER: _ClassVar[int]
    shared_tokens: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    loss_mask_runs: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    turns: _containers.RepeatedCompositeFieldContainer[Turn]
    fidelity: _containers.RepeatedCompositeFieldContainer[FidelityReport]
    extras: _containers.RepeatedCompositeFieldContainer[ColumnRows]
    def __init__(self, shared_tokens: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., loss_mask_runs: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[float]] = ..., turns: _Optional[_Iterable[_Union[Turn, _Mapping]]] = ..., fidelity: _Optional[_Iterable[_Union[FidelityReport, _Mapping]]] = ..., extras: _Optional[_Iterable[_Union[ColumnRows, _Mapping]]] = ...) -> None: ...

class GetTrajectoryResponse(_message.Message):
    __slots__ = ("episode_id", "segments", "terminated", "truncated", "failure", "messages", "metadata_json", "seed", "group", "given_assistants")
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    TERMINATED_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    METADATA_JSON_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    GIVEN_ASSISTANTS_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    terminated: bool
    truncated: bool
    failure: Failure
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    metadata_json: str
    seed: int
    group: str
    given_assistants: _containers.RepeatedCompositeFieldContainer[MessageSpan]
    def __init__(self, episode_id: _Optional[str] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., terminated: bool = ..., truncated: bool = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., metadata_json: _Optional[str] = ..., seed: _Optional[int] = ..., group: _Optional[str] = ..., given_assistants: _Optional[_Iterable[_Union[MessageSpan, _Mapping]]] = ...) -> None: ...

class RenderMessageRequest(_message.Message):
    __slots__ = ("episode_id", "messages")
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    def __init__(self, episode_id: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ...) -> None: ...

class RenderMessageResponse(_message.Message):
    __slots__ = ("tokens_offset", "tokens", "fidelity")
    TOKENS_OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FIDELITY_FIELD_NUMBER: _ClassVar[int]
    tokens_offset: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    fidelity: _containers.RepeatedCompositeFieldContainer[FidelityReport]
    def __init__(self, tokens_offset: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., fidelity: _Optional[_Iterable[_Union[FidelityReport, _Mapping]]] = ...) -> None: ...

class AuditEpisodeRequest(_message.Message):
    __slots__ = ("episode_id",)
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    def __init__(self, episode_id: _Optional[str] = ...) -> None: ...

class AuditEpisodeResponse(_message.Message):
    __slots__ = ("verdict", "index", "detail", "own_readings")
    class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VERDICT_UNSPECIFIED: _ClassVar[AuditEpisodeResponse.Verdict]
        VERDICT_EXACT: _ClassVar[AuditEpisodeResponse.Verdict]
        VERDICT_TOKENS_DIFFER: _ClassVar[AuditEpisodeResponse.Verdict]
        VERDICT_TEXT_DIFFERS: _ClassVar[AuditEpisodeResponse.Verdict]
        VERDICT_NOT_RENDERABLE: _ClassVar[AuditEpisodeResponse.Verdict]
    VERDICT_UNSPECIFIED: AuditEpisodeResponse.Verdict
    VERDICT_EXACT: AuditEpisodeResponse.Verdict
    VERDICT_TOKENS_DIFFER: AuditEpisodeResponse.Verdict
    VERDICT_TEXT_DIFFERS: AuditEpisodeResponse.Verdict
    VERDICT_NOT_RENDERABLE: AuditEpisodeResponse.Verdict
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    OWN_READINGS_FIELD_NUMBER: _ClassVar[int]
    verdict: AuditEpisodeResponse.Verdict
    index: int
    detail: str
    own_readings: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, verdict: _Optional[_Union[AuditEpisodeResponse.Verdict, str]] = ..., index: _Optional[int] = ..., detail: _Optional[str] = ..., own_readings: _Optional[_Iterable[int]] = ...) -> None: ...

class CloseEpisodeRequest(_message.Message):
    __slots__ = ("episode_id",)
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    def __init__(self, episode_id: _Optional[str] = ...) -> None: ...

class CloseEpisodeResponse(_message.Message):
    __slots__ = ("was_live",)
    WAS_LIVE_FIELD_NUMBER: _ClassVar[int]
    was_live: bool
    def __init__(self, was_live: bool = ...) -> None: ...

class DescribeTokensRequest(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, tokens: _Optional[_Iterable[int]] = ...) -> None: ...

class DescribeTokensResponse(_message.Message):
    __slots__ = ("tokens",)
    class TokenText(_message.Message):
        __slots__ = ("text", "is_control")
        TEXT_FIELD_NUMBER: _ClassVar[int]
        IS_CONTROL_FIELD_NUMBER: _ClassVar[int]
        text: bytes
        is_control: bool
        def __init__(self, text: _Optional[bytes] = ..., is_control: bool = ...) -> None: ...
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[DescribeTokensResponse.TokenText]
    def __init__(self, tokens: _Optional[_Iterable[_Union[DescribeTokensResponse.TokenText, _Mapping]]] = ...) -> None: ...

class FinishEpisodeRequest(_message.Message):
    __slots__ = ("episode_id", "assistants")
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    ASSISTANTS_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    assistants: bool
    def __init__(self, episode_id: _Optional[str] = ..., assistants: bool = ...) -> None: ...

class FinishEpisodeResponse(_message.Message):
    __slots__ = ("trajectory", "assistants")
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    ASSISTANTS_FIELD_NUMBER: _ClassVar[int]
    trajectory: GetTrajectoryResponse
    assistants: bool
    def __init__(self, trajectory: _Optional[_Union[GetTrajectoryResponse, _Mapping]] = ..., assistants: bool = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "tokenizer_name", "tokenizer_fingerprint", "chat_template_fingerprint", "vocabulary_size", "token_id_limit", "special_tokens", "features", "turn_parser", "limits", "uptime_seconds", "live_episodes", "live_tokens", "processes", "process", "tasks", "row_counts")
    class SpecialToken(_message.Message):
        __slots__ = ("id", "text", "stops")
        ID_FIELD_NUMBER: _ClassVar[int]
        TEXT_FIELD_NUMBER: _ClassVar[int]
        STOPS_FIELD_NUMBER: _ClassVar[int]
        id: int
        text: str
        stops: bool
        def __init__(self, id: _Optional[int] = ..., text: _Optional[str] = ..., stops: bool = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_NAME_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_LIMIT_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    TURN_PARSER_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LIVE_EPISODES_FIELD_NUMBER: _ClassVar[int]
    LIVE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNTS_FIELD_NUMBER: _ClassVar[int]
    version: str
    tokenizer_name: str
    tokenizer_fingerprint: str
    chat_template_fingerprint: str
    vocabulary_size: int
    token_id_limit: int
    special_tokens: _containers.RepeatedCompositeFieldContainer[GetServerInfoResponse.SpecialToken]
    features: _containers.RepeatedScalarFieldContainer[str]
    turn_parser: str
    limits: Limits
    uptime_seconds: float
    live_episodes: int
    live_tokens: int
    processes: int
    process: int
    tasks: _containers.RepeatedScalarFieldContainer[str]
    row_counts: _containers.RepeatedCompositeFieldContainer[RowCount]
    def __init__(self, version: _Optional[str] = ..., tokenizer_name: _Optional[str] = ..., tokenizer_fingerprint: _Optional[str] = ..., chat_template_fingerprint: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., token_id_limit: _Optional[int] = ..., special_tokens: _Optional[_Iterable[_Union[GetServerInfoResponse.SpecialToken, _Mapping]]] = ..., features: _Optional[_Iterable[str]] = ..., turn_parser: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., uptime_seconds: _Optional[float] = ..., live_episodes: _Optional[int] = ..., live_tokens: _Optional[int] = ..., processes: _Optional[int] = ..., process: _Optional[int] = ..., tasks: _Optional[_Iterable[str]] = ..., row_counts: _Optional[_Iterable[_Union[RowCount, _Mapping]]] = ...) -> None: ...

class RowCount(_message.Message):
    __slots__ = ("task", "split", "count")
    TASK_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    task: str
    split: str
    count: int
    def __init__(self, task: _Optional[str] = ..., split: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_episodes", "max_live_tokens", "max_steps", "max_tokens", "max_turns", "max_sampled_tokens", "max_message_bytes", "max_batch_items", "max_text_bytes", "idle_timeout_seconds")
    MAX_EPISODES_FIELD_NUMBER: _ClassVar[int]
    MAX_LIVE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TURNS_FIELD_NUMBER: _ClassVar[int]
    MAX_SAMPLED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    max_episodes: int
    max_live_tokens: int
    max_steps: int
    max_tokens: int
    max_turns: int
    max_sampled_tokens: int
    max_message_bytes: int
    max_batch_items: int
    max_text_bytes: int
    idle_timeout_seconds: float
    def __init__(self, max_episodes: _Optional[int] = ..., max_live_tokens: _Optional[int] = ..., max_steps: _Optional[int] = ..., max_tokens: _Optional[int] = ..., max_turns: _Optional[int] = ..., max_sampled_tokens: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_batch_items: _Optional[int] = ..., max_text_bytes: _Optional[int] = ..., idle_timeout_seconds: _Optional[float] = ...) -> None: ...

class BatchResetRequest(_message.Message):
    __slots__ = ("resets",)
    RESETS_FIELD_NUMBER: _ClassVar[int]
    resets: _containers.RepeatedCompositeFieldContainer[ResetRequest]
    def __init__(self, resets: _Optional[_Iterable[_Union[ResetRequest, _Mapping]]] = ...) -> None: ...

class BatchResetResult(_message.Message):
    __slots__ = ("response", "error")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    response: ResetResponse
    error: _status_pb2.RpcStatus
    def __init__(self, response: _Optional[_Union[ResetResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.RpcStatus, _Mapping]] = ...) -> None: ...

class BatchResetResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchResetResult]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchResetResult, _Mapping]]] = ...) -> None: ...

class BatchStepRequest(_message.Message):
    __slots__ = ("steps",)
    STEPS_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[StepRequest]
    def __init__(self, steps: _Optional[_Iterable[_Union[StepRequest, _Mapping]]] = ...) -> None: ...

class BatchStepResult(_message.Message):
    __slots__ = ("response", "error")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    response: StepResponse
    error: _status_pb2.RpcStatus
    def __init__(self, response: _Optional[_Union[StepResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.RpcStatus, _Mapping]] = ...) -> None: ...

class BatchStepResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchStepResult]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchStepResult, _Mapping]]] = ...) -> None: ...

class BatchFinishEpisodeRequest(_message.Message):
    __slots__ = ("finishes",)
    FINISHES_FIELD_NUMBER: _ClassVar[int]
    finishes: _containers.RepeatedCompositeFieldContainer[FinishEpisodeRequest]
    def __init__(self, finishes: _Optional[_Iterable[_Union[FinishEpisodeRequest, _Mapping]]] = ...) -> None: ...

class BatchFinishEpisodeResult(_message.Message):
    __slots__ = ("response", "error")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    response: FinishEpisodeResponse
    error: _status_pb2.RpcStatus
    def __init__(self, response: _Optional[_Union[FinishEpisodeResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.RpcStatus, _Mapping]] = ...) -> None: ...

class BatchFinishEpisodeResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchFinishEpisodeResult]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchFinishEpisodeResult, _Mapping]]] = ...) -> None: ...

class StreamStepsRequest(_message.Message):
    __slots__ = ("request_id", "step")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    step: StepRequest
    def __init__(self, request_id: _Optional[int] = ..., step: _Optional[_Union[StepRequest, _Mapping]] = ...) -> None: ...

class StreamStepsResponse(_message.Message):
    __slots__ = ("request_id", "episode_id", "step_index", "response", "error")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_INDEX_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    episode_id: str
    step_index: int
    response: StepResponse
    error: _status_pb2.RpcStatus
    def __init__(self, request_id: _Optional[int] = ..., episode_id: _Optional[str] = ..., step_index: _Optional[int] = ..., response: _Optional[_Union[StepResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.RpcStatus, _Mapping]] = ...) -> None: ...

class ForkEpisodeRequest(_message.Message):
    __slots__ = ("episode_id", "fork_ids", "count", "at_step")
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    FORK_IDS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    AT_STEP_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    fork_ids: _containers.RepeatedScalarFieldContainer[str]
    count: int
    at_step: int
    def __init__(self, episode_id: _Optional[str] = ..., fork_ids: _Optional[_Iterable[str]] = ..., count: _Optional[int] = ..., at_step: _Optional[int] = ...) -> None: ...

class ForkEpisodeResponse(_message.Message):
    __slots__ = ("fork_ids", "observation")
    FORK_IDS_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    fork_ids: _containers.RepeatedScalarFieldContainer[str]
    observation: Observation
    def __init__(self, fork_ids: _Optional[_Iterable[str]] = ..., observation: _Optional[_Union[Observation, _Mapping]] = ...) -> None: ...

class ExportEpisodeRequest(_message.Message):
    __slots__ = ("episode_id",)
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    def __init__(self, episode_id: _Optional[str] = ...) -> None: ...

class ExportEpisodeResponse(_message.Message):
    __slots__ = ("snapshot",)
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    snapshot: EpisodeSnapshot
    def __init__(self, snapshot: _Optional[_Union[EpisodeSnapshot, _Mapping]] = ...) -> None: ...

class ImportEpisodeRequest(_message.Message):
    __slots__ = ("snapshot", "episode_id")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    snapshot: EpisodeSnapshot
    episode_id: str
    def __init__(self, snapshot: _Optional[_Union[EpisodeSnapshot, _Mapping]] = ..., episode_id: _Optional[str] = ...) -> None: ...

class ImportEpisodeResponse(_message.Message):
    __slots__ = ("observation",)
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    observation: Observation
    def __init__(self, observation: _Optional[_Union[Observation, _Mapping]] = ...) -> None: ...

class ListEpisodesRequest(_message.Message):
    __slots__ = ("id_prefix", "page_size", "page_token")
    ID_PREFIX_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    id_prefix: str
    page_size: int
    page_token: str
    def __init__(self, id_prefix: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class EpisodeSummary(_message.Message):
    __slots__ = ("episode_id", "step_count", "token_count", "message_count", "created", "last_used", "terminated", "truncated", "metadata_json", "failed")
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    LAST_USED_FIELD_NUMBER: _ClassVar[int]
    TERMINATED_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    METADATA_JSON_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    step_count: int
    token_count: int
    message_count: int
    created: _timestamp_pb2.Timestamp
    last_used: _timestamp_pb2.Timestamp
    terminated: bool
    truncated: bool
    metadata_json: str
    failed: bool
    def __init__(self, episode_id: _Optional[str] = ..., step_count: _Optional[int] = ..., token_count: _Optional[int] = ..., message_count: _Optional[int] = ..., created: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., last_used: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., terminated: bool = ..., truncated: bool = ..., metadata_json: _Optional[str] = ..., failed: bool = ...) -> None: ...

class ListEpisodesResponse(_message.Message):
    __slots__ = ("episodes", "next_page_token")
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    episodes: _containers.RepeatedCompositeFieldContainer[EpisodeSummary]
    next_page_token: str
    def __init__(self, episodes: _Optional[_Iterable[_Union[EpisodeSummary, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class SetRewardRequest(_message.Message):
    __slots__ = ("episode_id", "step", "turn", "rewards", "reward")
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    step: int
    turn: int
    rewards: _containers.RepeatedCompositeFieldContainer[NamedReward]
    reward: float
    def __init__(self, episode_id: _Optional[str] = ..., step: _Optional[int] = ..., turn: _Optional[int] = ..., rewards: _Optional[_Iterable[_Union[NamedReward, _Mapping]]] = ..., reward: _Optional[float] = ...) -> None: ...

class SetRewardResponse(_message.Message):
    __slots__ = ("step", "reward", "rewards")
    STEP_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    step: int
    reward: float
    rewards: _containers.RepeatedCompositeFieldContainer[NamedReward]
    def __init__(self, step: _Optional[int] = ..., reward: _Optional[float] = ..., rewards: _Optional[_Iterable[_Union[NamedReward, _Mapping]]] = ...) -> None: ...

class FailEpisodeRequest(_message.Message):
    __slots__ = ("episode_id", "failure")
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    failure: Failure
    def __init__(self, episode_id: _Optional[str] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class FailEpisodeResponse(_message.Message):
    __slots__ = ("failure",)
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    failure: Failure
    def __init__(self, failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class ListRowsRequest(_message.Message):
    __slots__ = ("task", "split", "page_size", "page_token")
    TASK_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    task: str
    split: str
    page_size: int
    page_token: str
    def __init__(self, task: _Optional[str] = ..., split: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class Row(_message.Message):
    __slots__ = ("index", "id", "public_json")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_JSON_FIELD_NUMBER: _ClassVar[int]
    index: int
    id: str
    public_json: str
    def __init__(self, index: _Optional[int] = ..., id: _Optional[str] = ..., public_json: _Optional[str] = ...) -> None: ...

class ListRowsResponse(_message.Message):
    __slots__ = ("rows", "next_page_token", "count")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    next_page_token: str
    count: int
    def __init__(self, rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class EpisodeSnapshot(_message.Message):
    __slots__ = ("format", "chatenv_version", "episode_id", "tokenizer_fingerprint", "chat_template_fingerprint", "token_id_limit", "forked_from", "entries", "late_rewards", "failure")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    CHATENV_VERSION_FIELD_NUMBER: _ClassVar[int]
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_LIMIT_FIELD_NUMBER: _ClassVar[int]
    FORKED_FROM_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    LATE_REWARDS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    format: int
    chatenv_version: str
    episode_id: str
    tokenizer_fingerprint: str
    chat_template_fingerprint: str
    token_id_limit: int
    forked_from: ForkOrigin
    entries: _containers.RepeatedCompositeFieldContainer[EpisodeEntry]
    late_rewards: _containers.RepeatedCompositeFieldContainer[LateReward]
    failure: Failure
    def __init__(self, format: _Optional[int] = ..., chatenv_version: _Optional[str] = ..., episode_id: _Optional[str] = ..., tokenizer_fingerprint: _Optional[str] = ..., chat_template_fingerprint: _Optional[str] = ..., token_id_limit: _Optional[int] = ..., forked_from: _Optional[_Union[ForkOrigin, _Mapping]] = ..., entries: _Optional[_Iterable[_Union[EpisodeEntry, _Mapping]]] = ..., late_rewards: _Optional[_Iterable[_Union[LateReward, _Mapping]]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class LateReward(_message.Message):
    __slots__ = ("step", "rewards", "reward")
    STEP_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    step: int
    rewards: _containers.RepeatedCompositeFieldContainer[NamedReward]
    reward: float
    def __init__(self, step: _Optional[int] = ..., rewards: _Optional[_Iterable[_Union[NamedReward, _Mapping]]] = ..., reward: _Optional[float] = ...) -> None: ...

class EpisodeEntry(_message.Message):
    __slots__ = ("opened", "sampled", "went_on", "fidelity", "reward", "terminated", "truncated", "metadata_json", "transform_state_json", "prompt_fingerprint", "request_digest", "rewards", "task_state_json", "sampled_fingerprint", "at_ms", "answered_at_ms", "began_unix_ms")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_FIELD_NUMBER: _ClassVar[int]
    WENT_ON_FIELD_NUMBER: _ClassVar[int]
    FIDELITY_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    TERMINATED_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    METADATA_JSON_FIELD_NUMBER: _ClassVar[int]
    TRANSFORM_STATE_JSON_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    TASK_STATE_JSON_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    BEGAN_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    opened: ResetRequest
    sampled: SampledSpan
    went_on: WrittenTail
    fidelity: _containers.RepeatedCompositeFieldContainer[FidelityReport]
    reward: float
    terminated: bool
    truncated: bool
    metadata_json: str
    transform_state_json: str
    prompt_fingerprint: str
    request_digest: bytes
    rewards: _containers.RepeatedCompositeFieldContainer[NamedReward]
    task_state_json: str
    sampled_fingerprint: str
    at_ms: int
    answered_at_ms: int
    began_unix_ms: int
    def __init__(self, opened: _Optional[_Union[ResetRequest, _Mapping]] = ..., sampled: _Optional[_Union[SampledSpan, _Mapping]] = ..., went_on: _Optional[_Union[WrittenTail, _Mapping]] = ..., fidelity: _Optional[_Iterable[_Union[FidelityReport, _Mapping]]] = ..., reward: _Optional[float] = ..., terminated: bool = ..., truncated: bool = ..., metadata_json: _Optional[str] = ..., transform_state_json: _Optional[str] = ..., prompt_fingerprint: _Optional[str] = ..., request_digest: _Optional[bytes] = ..., rewards: _Optional[_Iterable[_Union[NamedReward, _Mapping]]] = ..., task_state_json: _Optional[str] = ..., sampled_fingerprint: _Optional[str] = ..., at_ms: _Optional[int] = ..., answered_at_ms: _Optional[int] = ..., began_unix_ms: _Optional[int] = ...) -> None: ...

class SampledSpan(_message.Message):
    __slots__ = ("tokens", "logprobs", "stop_reason", "model_version", "sampled_runs", "model_version_runs", "extras", "message", "message_was_given")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_RUNS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_RUNS_FIELD_NUMBER: _ClassVar[int]
    EXTRAS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_WAS_GIVEN_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    stop_reason: StopReason
    model_version: str
    sampled_runs: _containers.RepeatedScalarFieldContainer[int]
    model_version_runs: _containers.RepeatedCompositeFieldContainer[ModelVersionRun]
    extras: _containers.RepeatedCompositeFieldContainer[ColumnRows]
    message: Message
    message_was_given: bool
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[float]] = ..., stop_reason: _Optional[_Union[StopReason, str]] = ..., model_version: _Optional[str] = ..., sampled_runs: _Optional[_Iterable[int]] = ..., model_version_runs: _Optional[_Iterable[_Union[ModelVersionRun, _Mapping]]] = ..., extras: _Optional[_Iterable[_Union[ColumnRows, _Mapping]]] = ..., message: _Optional[_Union[Message, _Mapping]] = ..., message_was_given: bool = ...) -> None: ...

class WrittenTail(_message.Message):
    __slots__ = ("first_message", "messages", "begins_segment", "shared_tokens", "tokens", "generation_prompt_length", "message_starts", "fidelity", "rewrite", "prefill", "recorded_messages", "own_messages")
    class Rewrite(_message.Message):
        __slots__ = ("message_index", "follower")
        MESSAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
        FOLLOWER_FIELD_NUMBER: _ClassVar[int]
        message_index: int
        follower: str
        def __init__(self, message_index: _Optional[int] = ..., follower: _Optional[str] = ...) -> None: ...
    class Prefill(_message.Message):
        __slots__ = ("start", "prompted")
        START_FIELD_NUMBER: _ClassVar[int]
        PROMPTED_FIELD_NUMBER: _ClassVar[int]
        start: int
        prompted: bool
        def __init__(self, start: _Optional[int] = ..., prompted: bool = ...) -> None: ...
    FIRST_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    BEGINS_SEGMENT_FIELD_NUMBER: _ClassVar[int]
    SHARED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_PROMPT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_STARTS_FIELD_NUMBER: _ClassVar[int]
    FIDELITY_FIELD_NUMBER: _ClassVar[int]
    REWRITE_FIELD_NUMBER: _ClassVar[int]
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    RECORDED_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    OWN_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    first_message: int
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    begins_segment: bool
    shared_tokens: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    generation_prompt_length: int
    message_starts: _containers.RepeatedScalarFieldContainer[int]
    fidelity: _containers.RepeatedCompositeFieldContainer[FidelityReport]
    rewrite: WrittenTail.Rewrite
    prefill: WrittenTail.Prefill
    recorded_messages: int
    own_messages: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, first_message: _Optional[int] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., begins_segment: bool = ..., shared_tokens: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., generation_prompt_length: _Optional[int] = ..., message_starts: _Optional[_Iterable[int]] = ..., fidelity: _Optional[_Iterable[_Union[FidelityReport, _Mapping]]] = ..., rewrite: _Optional[_Union[WrittenTail.Rewrite, _Mapping]] = ..., prefill: _Optional[_Union[WrittenTail.Prefill, _Mapping]] = ..., recorded_messages: _Optional[int] = ..., own_messages: _Optional[_Iterable[int]] = ...) -> None: ...
