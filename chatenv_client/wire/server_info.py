"""What a server is."""

from __future__ import annotations

from dataclasses import asdict

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.models import Limits, RowCount, ServerInfo, SpecialToken


def info_to_proto(info: ServerInfo) -> pb.GetServerInfoResponse:
    """A server's description of itself."""
    return pb.GetServerInfoResponse(
        version=info.version,
        tokenizer_name=info.tokenizer_name,
        tokenizer_fingerprint=info.tokenizer_fingerprint,
        chat_template_fingerprint=info.chat_template_fingerprint,
        vocabulary_size=info.vocabulary_size,
        token_id_limit=info.token_id_limit,
        special_tokens=[
            pb.GetServerInfoResponse.SpecialToken(id=token.id, text=token.text, stops=token.stops)
            for token in info.special_tokens
        ],
        features=info.features,
        turn_parser=info.turn_parser,
        limits=pb.Limits(**{name: limit or 0 for name, limit in asdict(info.limits).items()}),
        uptime_seconds=info.uptime_seconds,
        live_episodes=info.live_episodes,
        live_tokens=info.live_tokens,
        processes=info.processes,
        process=info.process,
        tasks=info.tasks,
        row_counts=[pb.RowCount(task=one.task, split=one.split, count=one.count) for one in info.row_counts],
    )


def info_from_proto(encoded: pb.GetServerInfoResponse) -> ServerInfo:
    """A server's description of itself."""
    limits = encoded.limits
    return ServerInfo(
        version=encoded.version,
        tokenizer_name=encoded.tokenizer_name,
        tokenizer_fingerprint=encoded.tokenizer_fingerprint,
        chat_template_fingerprint=encoded.chat_template_fingerprint,
        vocabulary_size=encoded.vocabulary_size,
        token_id_limit=encoded.token_id_limit,
        special_tokens=tuple(SpecialToken(token.id, token.text, token.stops) for token in encoded.special_tokens),
        features=tuple(encoded.features),
        turn_parser=encoded.turn_parser,
        limits=Limits(**{field.name: getattr(limits, field.name) or None for field in limits.DESCRIPTOR.fields}),
        uptime_seconds=encoded.uptime_seconds,
        live_episodes=encoded.live_episodes,
        live_tokens=encoded.live_tokens,
        processes=encoded.processes,
        process=encoded.process,
        tasks=tuple(encoded.tasks),
        row_counts=tuple(RowCount(one.task, one.split, one.count) for one in encoded.row_counts),
    )
