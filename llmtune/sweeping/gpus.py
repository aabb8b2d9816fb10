"""Which GPUs a sweep may use, and who gets which."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Sequence

ASK_S = 20


def visible_gpus() -> list[str]:
    """Ids for CUDA_VISIBLE_DEVICES: those that it holds already, else all that the driver knows. No torch is loaded."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        ids = [part.strip() for part in allowed.split(",")]
        return [gpu for gpu in ids if gpu and not gpu.startswith("-")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=ASK_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed_ids(listed.stdout) if listed.returncode == 0 else []


def listed_ids(text: str) -> list[str]:
    """UUIDs in what `nvidia-smi -L` prints; of a GPU cut into MIG slices the slices, since only they compute."""
    ids: list[str] = []
    for line in text.splitlines():
        found = re.search(r"UUID: ((?:GPU|MIG)-[^)\s]+)", line)
        if not found:
            continue
        if found[1].startswith("MIG-") and ids and ids[-1].startswith("GPU-"):
            ids.pop()
        ids.append(found[1])
    return ids


class GpuShares:
    """Hands out the GPUs with the fewest jobs on them. Jobs beyond the number of GPUs share."""

    def __init__(self, ids: Sequence[str]):
        self._jobs = Counter(dict.fromkeys(ids, 0))

    def take(self, num: int) -> list[str]:
        """`num` ids, fewer where there are fewer."""
        taken = sorted(self._jobs, key=lambda gpu: self._jobs[gpu])[:num]
        self._jobs.update(taken)
        return taken

    def give_back(self, ids: Sequence[str]) -> None:
        self._jobs.subtract(ids)
