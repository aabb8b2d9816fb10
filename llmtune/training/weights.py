"""The network's tensors by name, as checkpoints hold them, and which of them a run never changes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from llmtune.core.errors import ResumeError
from llmtune.freeze_policy.phases import ever_trained
from llmtune.model.held import fits
from llmtune.training.freezing import Freezing


def lasting_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and lasting buffers by name, tied ones once."""
    lasting = network.state_dict().keys()
    return {
        **dict(network.named_parameters()),
        **{name: value for name, value in network.named_buffers() if name in lasting},
    }


def never_trained(freezing: Freezing, num_steps: int) -> frozenset[str]:
    """Parameters that are what they were when the run began, and will stay so until its end.

    What trained so far, in an earlier start too, is known by the proof that a run keeps; what will is the policy's to
    say. Buffers are none of them: some count in each forward pass.
    """
    untouched = freezing.untouched.start or {}
    parameters = dict(freezing.network.named_parameters())
    ever = ever_trained(freezing.policy, freezing.layers, num_steps) | freezing.layers.own
    return frozenset(name for name in untouched if name in parameters and name not in ever)


@torch.no_grad()
def load_tensors(network: nn.Module, tensors: Mapping[str, torch.Tensor], *, but: frozenset[str]) -> None:
    """Copy them into the network, `but` for some; a weight that is held in bf16 becomes fp32 where that would round.

    Raises:
        ResumeError: the names are not the network's.
    """
    own = lasting_tensors(network)
    strange = sorted(own.keys() ^ tensors.keys())
    if strange:
        raise ResumeError(f"resume: the checkpoint's tensors are not this model's: {', '.join(strange[:5])}")
    for name in tensors.keys() - but:
        if own[name].dtype == torch.bfloat16 and tensors[name].dtype == torch.float32 and not fits(tensors[name]):
            own[name].data = own[name].data.float()
        own[name].copy_(tensors[name])
