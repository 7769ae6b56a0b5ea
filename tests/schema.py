"""What tests ask of the schema that protobuf tells in more than one way."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor


def is_repeated(field: Any) -> bool:
    """Whether a field is repeated. Old protobuf has no other way to tell, and new protobuf warns of that one."""
    known = getattr(field, "is_repeated", None)
    return bool(field.label == FieldDescriptor.LABEL_REPEATED if known is None else known)
