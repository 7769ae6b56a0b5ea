"""Protobuf's enums and Python's, both ways. Zero is UNSPECIFIED on the wire and None here."""

from __future__ import annotations

import enum
from typing import Any, Final, Generic, TypeVar

from chatenv_client import models
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import InvalidRequestError, ProtocolError
from chatenv_client.reasons import Reason

EnumT = TypeVar("EnumT", bound=enum.Enum)


class EnumCodec(Generic[EnumT]):
    """One enum. Its members have the same names on both sides, but for a prefix on the wire."""

    def __init__(self, members: type[EnumT], wire: Any, prefix: str = "") -> None:
        self._members = members
        self._numbers = {member: int(wire.Value(prefix + member.name)) for member in members}
        self._by_number = {number: member for member, number in self._numbers.items()}

    def number(self, value: EnumT | str | None) -> int:
        """The wire's number of a member, or of its value; 0 for None.

        Raises:
            ValueError: there is no such member.
        """
        if value is None:
            return 0
        try:
            return self._numbers[self._members(value)]
        except ValueError:
            known = ", ".join(repr(member.value) for member in self._members)
            raise ValueError(f"{value!r} is none of {known}") from None

    def asked(self, number: int, field: str) -> EnumT | None:
        """What a request asks for; None when it leaves it open.

        Raises:
            InvalidRequestError: reason BAD_ENUM.
        """
        if number == 0:
            return None
        if number not in self._by_number:
            known = ", ".join(f"{number} ({member.value})" for number, member in self._by_number.items())
            what = f"{field} has no value {number}; there are {known}"
            raise InvalidRequestError(what, reason=Reason.BAD_ENUM, field=field)
        return self._by_number[number]

    def answered(self, number: int) -> EnumT:
        """What an answer says.

        Raises:
            ProtocolError: it is UNSPECIFIED or unknown.
        """
        if number not in self._by_number:
            kind = self._members.__name__
            raise ProtocolError(f"the server answered {number} for {kind}; update the older of the two sides")
        return self._by_number[number]


STOP_REASON: Final = EnumCodec(models.StopReason, pb.StopReason, "STOP_REASON_")
ORIGIN: Final = EnumCodec(models.Origin, pb.Origin, "ORIGIN_")
HISTORY_POLICY: Final = EnumCodec(models.HistoryPolicy, pb.HistoryPolicy, "HISTORY_POLICY_")
CONTROL_TOKEN_POLICY: Final = EnumCodec(models.ControlTokenPolicy, pb.ControlTokenPolicy, "CONTROL_TOKEN_POLICY_")
FIDELITY_KIND: Final = EnumCodec(models.FidelityKind, pb.FidelityKind, "FIDELITY_KIND_")
FAILURE_KIND: Final = EnumCodec(models.FailureKind, pb.FailureKind, "FAILURE_KIND_")
VERDICT: Final = EnumCodec(models.Verdict, pb.AuditEpisodeResponse.Verdict, "VERDICT_")
