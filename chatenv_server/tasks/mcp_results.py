"""Tools and results of the Model Context Protocol, as templates and models read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chatenv_server.tasks.tool_results import text_of

if TYPE_CHECKING:
    import mcp_types as types


def schema_of(tool: types.Tool) -> Mapping[str, Any]:
    """The schema of a tool, as chat templates take it."""
    function = {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
    return {"type": "function", "function": function}


def text_of_result(result: types.CallToolResult) -> str:
    """The texts of a result, one after the other; its structured content as JSON where there are none.

    What is no text, such as an image, is named and left out.
    """
    if result.content:
        return "\n".join(map(_text_of_block, result.content))
    if result.structured_content is not None:
        return text_of(result.structured_content)
    return "The tool failed." if result.is_error else ""


def _text_of_block(block: types.ContentBlock) -> str:
    if block.type == "text":
        return block.text
    if block.type == "resource_link":
        return f"[{block.name}: {block.uri}]"
    if block.type == "resource":
        text = getattr(block.resource, "text", None)
        return text if text is not None else f"[{block.resource.uri}: {block.resource.mime_type}, left out]"
    return f"[{block.mime_type}, {len(block.data) * 3 // 4:,} bytes, left out]"
