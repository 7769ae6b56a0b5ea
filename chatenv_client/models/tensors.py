"""Torch tensors on numpy arrays. The only import of torch in the client; it happens when a tensor is first read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


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
