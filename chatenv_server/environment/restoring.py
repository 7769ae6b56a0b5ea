"""Reads snapshots: makes an episode anew by writing its entries into a log, each as it was written first.

The template is not asked: committed tokens are never rendered again. A snapshot becomes an episode that could have
been, or it is refused; `entries.py` checks what each entry says.
"""

from __future__ import annotations

from dataclasses import replace

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import ChatEnvError, TokenizerMismatchError
from chatenv_client.models import ChatObservation, ForkOrigin
from chatenv_client.reasons import Reason
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.continuations import Continuation
from chatenv_server.engine.conversation import RecordedTurn
from chatenv_server.environment.entries import read_continuation, read_entry, read_moments, read_reward, refusal
from chatenv_server.environment.journal import Appended, Entry, Outcome, Sampled
from chatenv_server.environment.late_rewards import set_late
from chatenv_server.environment.options import EpisodeOptions
from chatenv_server.environment.record import EpisodeRecord
from chatenv_server.environment.snapshots import FORMAT, GOES_ON, new_snapshot
from chatenv_server.environment.views import observation_of, show_reward

Restored = tuple[EpisodeRecord, ChatObservation]
"""An episode, and what its last step showed."""


def restored(
    engine: TokenEngine, snapshot: pb.EpisodeSnapshot, *, keeps_texts: bool = True, keeps_journal: bool = True
) -> Restored:
    """The episode of a snapshot, as it was after the last of its entries.

    Raises:
        TokenizerMismatchError: another tokenizer, template or token-id limit wrote it.
        InvalidRequestError: it is no snapshot that this release reads, or is cut off or altered.
    """
    if snapshot.format != FORMAT:
        raise refusal(f"its format is {snapshot.format}, and this release reads format {FORMAT}")
    if not snapshot.entries or not snapshot.entries[0].HasField("opened"):
        raise refusal("it has no opening")
    try:
        return _restored(engine, snapshot, keeps_texts=keeps_texts, keeps_journal=keeps_journal)
    except TokenizerMismatchError:
        raise
    except (ChatEnvError, ValueError, LookupError, TypeError, OverflowError, ArithmeticError) as error:
        if isinstance(error, ChatEnvError) and error.reason == Reason.BAD_SNAPSHOT:
            raise
        raise refusal(f"an entry does not follow on those before ({error})") from error


def _restored(engine: TokenEngine, snapshot: pb.EpisodeSnapshot, *, keeps_texts: bool, keeps_journal: bool) -> Restored:
    options = EpisodeOptions().overridden_by(wire.reset_from_proto(snapshot.entries[0].opened))
    origin = snapshot.forked_from
    forked_from = ForkOrigin(origin.episode_id, origin.at_step) if snapshot.HasField("forked_from") else None
    log = engine.open(options.render_options(), keeps_texts=keeps_texts)
    options = replace(options, episode_id=snapshot.episode_id)
    began = snapshot.entries[0].began_unix_ms
    record = EpisodeRecord(options, log, forked_from, keeps_journal=keeps_journal, began_unix_ms=began)
    _check_written_alike(snapshot, new_snapshot(engine, record))
    observation, is_sure = ChatObservation(), False
    for step, encoded in enumerate(snapshot.entries):
        if step and encoded.HasField("opened"):
            raise refusal("it has two openings")
        observation, is_sure = _step_again(encoded, record, engine, step, is_sure=is_sure)
    last = snapshot.entries[-1].prompt_fingerprint
    if not last or last.startswith(GOES_ON):
        raise refusal("it is cut off: its last entry does not say what the stream is then")
    for late in snapshot.late_rewards:
        set_late(record, late.step, read_reward(late))
    if snapshot.HasField("failure"):
        observation.failure = record.fail(wire.failure_from_proto(snapshot.failure))
    return record, observation


def _step_again(
    encoded: pb.EpisodeEntry, record: EpisodeRecord, engine: TokenEngine, step: int, *, is_sure: bool
) -> tuple[ChatObservation, bool]:
    """Do again what an entry did.

    Args:
        encoded: the entry.
        record: the episode.
        engine: its engine.
        step: number of the entry.
        is_sure: whether a fingerprint says what the stream was after the last span.

    Returns:
        What the step showed, and whether one says it now.
    """
    entry, appended = read_entry(encoded, record, engine), None
    if entry.sampled is not None:
        appended = _span_again(record, entry, entry.sampled, step)
        is_sure = _is_as_written(encoded.sampled_fingerprint, record, step)
    if appended is None or encoded.HasField("went_on"):
        if encoded.went_on.begins_segment and not is_sure:
            raise refusal(f"no fingerprint says what the segment before step {step} was")
        appended = _messages_again(record, read_continuation(encoded, record, engine), step, appended)
    appended = replace(appended, moments=read_moments(encoded, record.times.last))
    observation = _settle_again(record, appended, entry.outcome, step)
    fingerprint = encoded.prompt_fingerprint.removeprefix(GOES_ON)
    return observation, _is_as_written(fingerprint, record, step) or is_sure


def _span_again(record: EpisodeRecord, entry: Entry, span: Sampled, step: int) -> Appended:
    recorded = RecordedTurn(entry.read, entry.reports)
    return Appended(record.log.append_sampled(*span, step=step, recorded=recorded), span)


def _messages_again(record: EpisodeRecord, then: Continuation, step: int, appended: Appended | None) -> Appended:
    """Go on with messages as an entry did, after the span of the same entry, if it has one."""
    change = record.log.go_on_as_recorded(then, step)
    return Appended(change) if appended is None else replace(appended, answered=change)


def _settle_again(record: EpisodeRecord, appended: Appended, outcome: Outcome, step: int) -> ChatObservation:
    """Let a step come to what it came to before; what it showed."""
    record.count_step(step, appended.sampled)
    record.end_as(outcome.terminated, outcome.truncated)
    observation = observation_of(record, appended.shown)
    if outcome.metadata is not None:
        observation.metadata = dict(outcome.metadata)
    show_reward(observation, outcome.reward)
    record.book(appended, outcome)
    return observation


def _is_as_written(fingerprint: str, record: EpisodeRecord, step: int) -> bool:
    """Whether a fingerprint says what the stream is now. Raises InvalidRequestError if it says another."""
    if fingerprint and fingerprint != record.log.fingerprint():
        raise refusal(f"the stream after step {step} is another one than was written")
    return bool(fingerprint)


def _check_written_alike(snapshot: pb.EpisodeSnapshot, own: pb.EpisodeSnapshot) -> None:
    for field, what in (
        ("tokenizer_fingerprint", "tokenizer"),
        ("chat_template_fingerprint", "chat template"),
        ("token_id_limit", "token-id limit"),
    ):
        if getattr(snapshot, field) != getattr(own, field):
            raise TokenizerMismatchError(
                f"the episode was written with another {what} than this server's; "
                "serve it with the one that it was written with",
                details={"expected": str(getattr(own, field)), "received": str(getattr(snapshot, field))},
            )
