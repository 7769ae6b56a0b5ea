"""Why calls fail, for programs. `make docs` writes the tables of docs/errors.md from this file."""

from __future__ import annotations

import enum


class Reason(str, enum.Enum):
    """Why a call failed: `error.reason`. Each says what happened, then what to do. `Reason.BUSY == "BUSY"`."""

    # The caller sent something wrong.

    EMPTY_ACTION = "EMPTY_ACTION"
    """The action holds neither tokens nor messages. Send one of them, or a `stop_reason` where nothing was sampled."""
    BAD_ACTION = "BAD_ACTION"
    """Tokens and messages came together; or logprobs, stop_reason, model_version, prompt_fingerprint or message came
    with messages, or replace_from with tokens; or model_version is no text of at most 256 characters; or message is
    no assistant's. Send two Steps, or leave out what does not fit."""
    BAD_REPLACE_FROM = "BAD_REPLACE_FROM"
    """`replace_from` is beyond the last message. Give an index of a message, or their number to append."""
    TOKEN_OUT_OF_RANGE = "TOKEN_OUT_OF_RANGE"
    """A token id is negative, or not below the server's `token_id_limit`. Check that sampler and server have the same
    tokenizer; raise `--token-id-limit` if the model's embedding is padded."""
    LOGPROBS_LENGTH = "LOGPROBS_LENGTH"
    """There are not as many logprobs as tokens. Send one per token, or none."""
    SAMPLED_RUNS = "SAMPLED_RUNS"
    """`mask`, on the wire `sampled_runs`, covers another number of tokens than there are. Give one value per token, or
    none."""
    BAD_EXTRAS = "BAD_EXTRAS"
    """A column of `extras` has another number of rows than there are tokens, another type or shape than before, or
    takes too many bytes; or there is no span whose last row can be amended. Give a row per token, alike throughout a
    segment."""
    BAD_ROLE = "BAD_ROLE"
    """A role is empty, not printable, or longer than 64 characters. Give `user`, `assistant`, `tool` or the like."""
    CONTENT_MISSING = "CONTENT_MISSING"
    """A message has neither content nor tool calls nor reasoning. Give it content; an empty text is fine."""
    BAD_MESSAGE = "BAD_MESSAGE"
    """A message is malformed: its content is no text, a tool call has no name, arguments or extra keys are not JSON, or
    the like. Mend the field that the error names."""
    CONTROL_TOKEN_IN_TEXT = "CONTROL_TOKEN_IN_TEXT"
    """A text spells a control token, and the episode's policy is `reject`; or it cannot be encoded as text, or nothing
    tells it from the template's own. Remove it, or choose another policy."""
    TEMPLATE_REJECTED = "TEMPLATE_REJECTED"
    """The chat template cannot render these messages; the error's message holds the template's own words. Give messages
    that the template takes: many demand that users and assistants alternate, some take no system role or no tools."""
    BAD_EPISODE_ID = "BAD_EPISODE_ID"
    """An episode_id is not 1 to 128 characters of `[A-Za-z0-9._:-]`. Choose another, or none."""
    SYSTEM_PROMPT_TWICE = "SYSTEM_PROMPT_TWICE"
    """There is a system_prompt, and the opening begins with a system message. Give one of them."""
    BAD_PREFILL = "BAD_PREFILL"
    """`continue_final_message` was given, and the opening does not end in an assistant's text. Let it end in the text
    that the model is to go on with."""
    BAD_TOOLS = "BAD_TOOLS"
    """The tools are not a list of JSON objects. Give JSON schemas."""
    BAD_TEMPLATE_KWARGS = "BAD_TEMPLATE_KWARGS"
    """Template arguments are not a JSON object, or one has the name of a template's own input. Rename or drop it."""
    BAD_METADATA = "BAD_METADATA"
    """The metadata is not a JSON object. Give one."""
    BAD_LIMIT = "BAD_LIMIT"
    """`max_steps`, `max_turns`, `max_tokens` or `max_sampled_tokens` is no whole number from 1 on. Leave it out for the
    server's default."""
    BAD_TASK = "BAD_TASK"
    """There is no such task, or the server has several and none was chosen; or task_args are not keywords that its
    constructor takes, or were given where no task answers. `server_info().tasks` lists the names."""
    BAD_ROW = "BAD_ROW"
    """There is no such row or split of the server's data, or `row` and `row_id` were both given.
    `server_info().row_counts` says how many there are."""
    BAD_REWARD = "BAD_REWARD"
    """A reward is no finite number, or has no name, or one that is given twice; or its step or turn is not there. Give
    numbers by name, for a step that was taken."""
    BAD_FAILURE = "BAD_FAILURE"
    """A failure has no kind, or a reason of more than 4,096 characters. Give one of the kinds below, and a sentence."""
    BAD_POLICY = "BAD_POLICY"
    """There is no such policy. Give one of those that the message lists."""
    BAD_ENUM = "BAD_ENUM"
    """No engine is known to say this stop reason; or, on the wire, an enum does not have this number. Give one of those
    that the message lists."""
    BAD_CLOCK = "BAD_CLOCK"
    """The clock is outside the years 1 to 9999. Give Unix seconds."""
    TOO_MANY_MESSAGES = "TOO_MANY_MESSAGES"
    """More than 4,096 messages are in one request, or more than 65,536 would be in an episode; or a trajectory is asked
    for with what given assistants say, and some 700 or more are there. Send the rest in further Steps, or start another
    episode."""
    TEXT_TOO_LONG = "TEXT_TOO_LONG"
    """The messages, tools and prompts of one request are longer than the server takes at once. Send less in one Step,
    or raise `--max-text-bytes` if the server has the memory."""
    BATCH_SIZE = "BATCH_SIZE"
    """A batch has no items, or more than the server takes. Send several batches."""
    BAD_SNAPSHOT = "BAD_SNAPSHOT"
    """A snapshot is none that this release can read: cut off, altered, or of a newer release. Export the episode again,
    or update the server."""
    BAD_AT_STEP = "BAD_AT_STEP"
    """`at_step` is beyond the episode's last step. Give 0 to `step_count`, or leave it out for now."""
    BAD_COUNT = "BAD_COUNT"
    """A fork makes more episodes than a batch may hold, or its ids are not as many as `count`, or name one twice. Ask
    for fewer, each under an id of its own."""
    BAD_PAGE = "BAD_PAGE"
    """`page_token` is none that this server gave, or the page size is beyond 1,000. Begin without a token, and take
    smaller pages."""
    NO_EPISODE = "NO_EPISODE"
    """In-process: there was no reset yet. Call `reset`."""
    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    """The bytes are no protobuf message of this method. Use the stubs of this version."""
    INVALID_REQUEST = "INVALID_REQUEST"
    """In the client: a value does not fit its field, such as a seed of more than 64 bits. Give another."""

    # The episode is not there, or not in the state for this call.

    EPISODE_UNKNOWN = "EPISODE_UNKNOWN"
    """The server never knew the episode, has no store and was restarted since, or has ended too many others since.
    Reset, and throw the rollout away."""
    EPISODE_CLOSED = "EPISODE_CLOSED"
    """The episode was closed, or was finished and its trajectory is not kept any more. Reset."""
    EPISODE_EXPIRED = "EPISODE_EXPIRED"
    """Nobody used the episode for as long as `--idle-timeout`. Reset; raise `--idle-timeout` if sampling takes that
    long."""
    EPISODE_EXISTS = "EPISODE_EXISTS"
    """A fork or an import was to get the id of another live episode. Choose another id, or close that episode."""
    TOKENIZER_MISMATCH = "TOKENIZER_MISMATCH"
    """Another tokenizer, chat template or token-id limit wrote the episode. Serve it with those that it was written
    with."""
    TASK_MISSING = "TASK_MISSING"
    """The episode was played by a task, or with a row of data, that this server does not have. Serve it with those that
    it began with: `--task` and `--rows`."""
    EPISODE_DAMAGED = "EPISODE_DAMAGED"
    """The episode's record in the store is cut off or altered, and is left as it is. Look at it, restore the store from
    a copy, or close the episode."""
    EPISODE_DONE = "EPISODE_DONE"
    """The episode is over; `done` was true in the last answer. Read the trajectory, then reset."""
    HISTORY_REWRITTEN = "HISTORY_REWRITTEN"
    """The template would write earlier turns differently, and the episode's policy is `strict`. Choose `segment`,
    `append`, or template arguments that keep history."""
    STEP_INDEX_MISMATCH = "STEP_INDEX_MISMATCH"
    """`step_index` is neither the next step nor a repetition of the last; `details` has `expected_step_index` and
    `received_step_index`. Let one caller work on an episode; `resume(episode_id)` takes up what another left."""
    PROMPT_MISMATCH = "PROMPT_MISMATCH"
    """The tokens were sampled from another prompt than the one on record. Sample again from the tokens on record."""
    STEP_CONFLICT = "STEP_CONFLICT"
    """The Step does not follow on what is on record, and the server gave no reason that this client knows. Update the
    client."""

    # A limit is reached.

    EPISODE_LIMIT = "EPISODE_LIMIT"
    """As many episodes are live as the server allows. Close some, or raise `--max-episodes`."""
    TOKEN_LIMIT = "TOKEN_LIMIT"
    """Live episodes hold as many tokens as the server allows. Close some, or raise `--max-live-tokens`."""
    BUSY = "BUSY"
    """As many calls, or as many bytes of requests and answers, are under way as the server takes at once. Try again
    later, or raise `--max-concurrent-calls` or `--max-bytes-in-flight`."""
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    """A request or an answer is beyond the message limit. Nothing was applied. Where gRPC itself or
    a proxy refuses it, the wire carries no ErrorInfo. Send less at once, or raise `max_message_bytes` on both sides and
    the limits of the proxies between."""
    CAPACITY = "CAPACITY"
    """A limit is reached, and the server gave no reason that this client knows. Update the client."""

    # A task, a transform or the server failed, or no server answers.

    TASK_FAILED = "TASK_FAILED"
    """The task raised, or said what no answer can hold; the reset or step was taken back. Try it again where the cause
    was outside; else mend the task: the server's log says what it raised, and where. To give the episode up, call
    `fail`."""
    TASK_TIMEOUT = "TASK_TIMEOUT"
    """The task took longer than `--task-timeout`; the reset or step was taken back. Try it again, mend the task, or
    raise the limit."""
    TASK_ANSWER_REJECTED = "TASK_ANSWER_REJECTED"
    """The messages that the task answered or opened with are malformed, or the chat template cannot render them; the
    reset or step was taken back. Mend the task; the error's message says what is wrong with them."""

    TRANSFORM_FAILED = "TRANSFORM_FAILED"
    """The transform raised, or set what no observation can hold; the step was taken back. Mend the transform; the
    server's log says what it raised, and where."""
    TRANSFORM_TIMEOUT = "TRANSFORM_TIMEOUT"
    """The transform took longer than `--transform-timeout`; the step was taken back. Mend the transform, or raise the
    limit."""
    INTERNAL = "INTERNAL"
    """The server failed. Its log says where; please report it."""
    DEADLINE = "DEADLINE"
    """The call took longer than its deadline, or waited that long for another call on its episode; a Step may have been
    applied or not. Try the same Step again: if it was applied, its answer is given again."""
    UNAVAILABLE = "UNAVAILABLE"
    """No server answers, or it is loading or shutting down. Check that one runs at this address; try the same call
    again."""
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    """The server's store of episodes does not answer, or cannot write. Try the same call again: where it took place
    after all, a Step with `step_index` gets the same answer."""
    ACCESS = "ACCESS"
    """The server asks for a bearer token, and the call has none or another. Give the client `token=`."""
    BAD_ANSWER = "BAD_ANSWER"
    """In the client: the answer does not fit what it holds. Use one client per episode and thread, call `resume`, or
    update the older of the two sides."""
    BATCH_ITEMS_FAILED = "BATCH_ITEMS_FAILED"
    """In `VectorChatEnv`: some items of a round failed, the others were applied; `errors` holds each. Try the items
    that failed again, with None for the others: the results then are those of the whole round."""
    UNEXPECTED = "UNEXPECTED"
    """A status came that chatenv does not send on purpose, perhaps from a proxy. Read its message."""

    __str__ = str.__str__  # the text alone, in messages and logs, on every Python
