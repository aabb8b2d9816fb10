"""sha256 of tensors' bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch


def sha256_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Name -> hexadecimal digits; one pass over the bytes, on as many threads as torch has."""
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        return dict(zip(tensors, pool.map(_sha256, tensors.values())))


def _sha256(tensor: torch.Tensor) -> str:
    with torch.no_grad():
        flat = tensor.reshape(-1).cpu().contiguous().view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()
