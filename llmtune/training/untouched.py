"""The proof that what was frozen from the first step to the last is, bit for bit, what it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from llmtune.core.errors import LlmtuneError
from llmtune.model.tensor_hashes import sha256_of


class Untouched:
    """sha256 of each parameter and lasting buffer that has not trained so far, taken at the start of the run.

    A buffer counts with the parameters beside it. Checkpoints keep the hashes, so that a run which was gone on
    with is compared with its own first start.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        self.start: dict[str, str] | None = None

    def remember(self, trained: Iterable[str]) -> None:
        """Hash all but `trained`, unless that was done when the run began.

        One pass over the bytes, on as many threads as torch has.
        """
        if self.start is None:
            self.start = sha256_of(self._others(frozenset(trained)))

    def forget(self, trained: Iterable[str]) -> None:
        """These train now: nothing is claimed of them any longer."""
        if self.start:
            left = self._others(frozenset(trained))
            self.start = {name: digest for name, digest in self.start.items() if name in left}

    def prove(self) -> int:
        """Number of tensors that are what they were.

        Raises:
            LlmtuneError: some are not, with their names.
        """
        start = self.start or {}
        own = self._tensors()
        now = sha256_of({name: own[name] for name in start})
        changed = [name for name, digest in start.items() if now[name] != digest]
        if changed:
            raise LlmtuneError(
                f"{len(changed)} of {len(start)} frozen tensors are not what they were when the run began: "
                f"{', '.join(changed[:5])}{' ...' if len(changed) > 5 else ''}. Nothing should be able to do that: "
                "model/ was not written; please report it with the run folder's config.yaml"
            )
        return len(start)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {}, {"sha256": self.start}

    def load_state(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        self.start = plain.get("sha256")

    def _tensors(self) -> dict[str, torch.Tensor]:
        lasting = self.network.state_dict().keys()
        buffers = {name: value for name, value in self.network.named_buffers() if name in lasting}
        return {**dict(self.network.named_parameters()), **buffers}

    def _others(self, trained: frozenset[str]) -> dict[str, torch.Tensor]:
        """All tensors but `trained` and the buffers of modules in which something trains."""
        parameters = [name for name, _ in self.network.named_parameters()]
        others = {}
        for name, value in self._tensors().items():
            owner = name.rpartition(".")[0]
            while owner and not any(other.startswith(f"{owner}.") for other in parameters):
                owner = owner.rpartition(".")[0]
            is_parameter = isinstance(value, nn.Parameter)
            beside = is_parameter or not any(not owner or other.startswith(f"{owner}.") for other in trained)
            if name not in trained and beside:
                others[name] = value
        return others
