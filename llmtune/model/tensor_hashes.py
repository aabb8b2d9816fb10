"""sha256 of tensors' bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch


def sha256_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Name -> hexadecimal digits; one pass over the bytes, on as many threads as torch has.

    Of bf16 those of the same numbers in fp32: which of the two holds them may change when a run is gone on with.
    """
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        return dict(zip(tensors, pool.map(_sha256, tensors.values())))


def _sha256(tensor: torch.Tensor) -> str:
    with torch.no_grad():
        exact = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        flat = exact.reshape(-1).cpu().contiguous().view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()
