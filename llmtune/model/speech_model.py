"""Models that hear: transformers' own classes, with what an instance needs to give each row its own answer.

The classes stay what they are, so that `model/` opens by transformers alone; the features' settings are written beside
the weights.

Legend: B rows, C channels, T frames, V characters.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutput

from llmtune.model.hearing import Hearing
from llmtune.model.word_model import asked

NEVER = -1e4
"""a score so low that its probability is 0 in any precision"""


@dataclass(frozen=True)
class SpeechModel:
    """Makes such models as transformers' Auto classes make theirs."""

    hearing: Hearing
    generation: dict[str, Any] = field(default_factory=dict)
    """of the generation_config of an encoder-decoder"""

    def from_config(self, config: Any, *, attn_implementation: str | None = None) -> Any:
        return self._ready(self._class().from_config(config, attn_implementation=attn_implementation))

    def from_pretrained(self, path: Any, *, output_loading_info: bool = False, **kwargs: Any) -> Any:
        model, info = self._class().from_pretrained(path, output_loading_info=True, **kwargs)
        return (self._ready(model), info) if output_loading_info else self._ready(model)

    def _class(self) -> Any:
        from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq

        return AutoModelForSpeechSeq2Seq if self.hearing.writes else AutoModelForCTC

    def _ready(self, model: Any) -> Any:
        extractor, write = self.hearing.extractor, getattr(model, "save_pretrained")  # noqa: B009 - bound to its class

        def save_pretrained(folder: Any, *args: Any, **kwargs: Any) -> None:
            write(folder, *args, **kwargs)
            extractor.save_pretrained(folder)

        model.save_pretrained = save_pretrained
        for name, value in self.generation.items():
            setattr(model.generation_config, name, value)
        return asked(model) if self.hearing.writes else framed(model)


def framed(model: Any) -> Any:
    """The same CTC model, whose scores of a row do not hang on the rows that it meets in a batch.

    Frames of padding say "blank" for certain, so that a loss, or a reading, over all frames is one over the true ones.
    Where the first convolution is normalised over time (wav2vec2-base, hubert-base), padding has no part in that.
    Masking of its inputs (SpecAugment), which transformers draws by numpy, is drawn from torch's seed.
    """
    plain = getattr(model, "forward")  # noqa: B009 - bound to transformers' class
    # WavLM's own attention asks torch in a way that it warns of at each step
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
    norms = [MaskedNorm(module, model) for module in model.modules() if isinstance(module, nn.GroupNorm)]

    def forward(*args: Any, **view: Any) -> Any:
        mask = view.get("attention_mask")
        for norm in norms:
            norm.mask = mask
        if model.training and model.config.apply_spec_augment:
            np.random.seed(int(torch.randint(2**31, ())))
        logits_BTV = plain(*args, **view).logits
        if mask is None:
            return CausalLMOutput(logits=logits_BTV)
        lengths_B = model._get_feat_extract_output_lengths(mask.sum(-1))
        padding_BT = torch.arange(logits_BTV.shape[1], device=mask.device) >= lengths_B[:, None]
        blank_V = torch.full((logits_BTV.shape[2],), NEVER, device=mask.device, dtype=logits_BTV.dtype)
        blank_V[model.config.pad_token_id] = 0
        return CausalLMOutput(logits=torch.where(padding_BT[..., None], blank_V, logits_BTV))

    forward.__signature__ = inspect.signature(plain)  # type: ignore[attr-defined]
    model.forward = forward
    return model


class MaskedNorm:
    """Makes a norm over time one over the frames of the recording alone."""

    def __init__(self, norm: nn.GroupNorm, model: Any):
        self.kernel, self.stride = model.config.conv_kernel[0], model.config.conv_stride[0]
        self.mask: torch.Tensor | None = None
        """(B, samples): 1 where there is sound; None: everywhere"""
        norm.register_forward_hook(self._normalised)

    def _normalised(self, norm: Any, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        if self.mask is None:
            return None
        inputs_BCT = args[0].float()
        lengths_B = (self.mask.sum(-1) - self.kernel) // self.stride + 1
        real_B1T = (torch.arange(inputs_BCT.shape[-1], device=inputs_BCT.device) < lengths_B[:, None]).float()[:, None]
        count_B11 = lengths_B.clamp(min=1)[:, None, None]
        centred_BCT = inputs_BCT - (inputs_BCT * real_B1T).sum(-1, keepdim=True) / count_B11
        variance_BC1 = (centred_BCT**2 * real_B1T).sum(-1, keepdim=True) / count_B11
        scaled_BCT = centred_BCT * torch.rsqrt(variance_BC1 + norm.eps)
        return (scaled_BCT * norm.weight[:, None] + norm.bias[:, None]).to(output.dtype)
