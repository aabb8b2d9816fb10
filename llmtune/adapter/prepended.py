"""Virtual tokens among a model's words: trained embeddings that stand in every row, unseen by what reads the output.

They stand in front of a decoder's words, and behind the first token of an encoder's, so that a head that reads the
first token (BERT's pooler, RoBERTa's classifier) or the last one of the row (GPT-2's, Llama's) still does. Their
positions are cut out of the backbone's output.

Legend: B rows, T tokens, P virtual tokens, D width, H heads.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from llmtune.adapter.attached import Attached
from llmtune.adapter.targets import unknown_family
from llmtune.model.hearing import is_ctc


class Prepended(Attached):
    """Virtual tokens whose embeddings an encoder of peft gives: a child of the word embeddings."""

    slot = "prompt_encoder"

    def __init__(self, settings: Any, seed: int | None, encoder_of: Callable[[int], nn.Module], words: Any = None):
        """Args:
        encoder_of: width D of the word embeddings -> module that makes (P, D) of the numbers of P virtual tokens.
        words: network -> ids (P,) of the words whose embeddings the virtual tokens start as, or None.
        """
        super().__init__(settings, seed)
        self.encoder_of = encoder_of
        self.words = words

    def make(self, network: Any) -> Mapping[str, nn.Module]:
        if is_ctc(network.config):
            raise unknown_family(network, "sound to read, and no words that virtual ones could stand before")
        if network.config.is_encoder_decoder:
            raise unknown_family(network, "two stacks, and it would take virtual tokens in both")
        words = network.get_input_embeddings()
        place = next(name for name, module in network.named_modules() if module is words)
        return {place: self.encoder_of(words.weight.shape[1])}

    def start(self, network: Any) -> None:
        ids_P = self.words(network) if self.words else None
        if ids_P is not None:
            words = network.get_input_embeddings()
            with torch.no_grad():
                words.prompt_encoder.embedding.weight.copy_(words.weight[ids_P])

    def wire(self, network: Any) -> None:
        backbone = network.base_model
        causal = any(getattr(module, "is_causal", False) for module in backbone.modules())
        backbone.forward = _with_virtual_tokens(
            backbone, self.settings.virtual_tokens, at=0 if causal else 1, forward=backbone.forward
        )


def _with_virtual_tokens(
    backbone: nn.Module, num_tokens: int, *, at: int, forward: Callable[..., Any]
) -> Callable[..., Any]:
    """`forward` of a backbone on rows that are P tokens longer; its output without them."""
    signature = inspect.signature(forward)
    extra = next((name for name, one in signature.parameters.items() if one.kind is one.VAR_KEYWORD), None)

    def longer_forward(*args: Any, **kwargs: Any) -> Any:
        words = backbone.get_input_embeddings()  # type: ignore[operator]
        if "prompt_encoder" not in words._modules:
            return forward(*args, **kwargs)
        given = dict(signature.bind(*args, **kwargs).arguments)
        given |= given.pop(extra, {}) if extra else {}
        embedded_BTD, input_ids_BT = given.pop("inputs_embeds", None), given.pop("input_ids", None)
        if embedded_BTD is None:
            embedded_BTD = words(input_ids_BT)
        virtual_PD = words.prompt_encoder(torch.arange(num_tokens, device=embedded_BTD.device))
        virtual_BPD = virtual_PD.to(embedded_BTD.dtype).expand(len(embedded_BTD), -1, -1)
        given["inputs_embeds"] = _put_in(embedded_BTD, virtual_BPD, at)
        for name, value in (("attention_mask", 1), ("token_type_ids", 0)):
            if given.get(name) is not None:
                filler_BP = given[name].new_full((len(embedded_BTD), num_tokens), value)
                given[name] = _put_in(given[name], filler_BP, at)
        return _cut_out(forward(**given), at, num_tokens)

    return longer_forward


def _put_in(rows: torch.Tensor, more: torch.Tensor, at: int) -> torch.Tensor:
    return torch.cat([rows[:, :at], more, rows[:, at:]], dim=1)


def _cut_out(output: Any, at: int, num_tokens: int) -> Any:
    """A ModelOutput of the real tokens only: hidden states (B, T, D), attentions (B, H, T, T)."""

    def cut(tensor: torch.Tensor, dim: int) -> torch.Tensor:
        before, _, behind = tensor.split([at, num_tokens, tensor.shape[dim] - at - num_tokens], dim)
        return torch.cat([before, behind], dim)

    shorter: dict[str, Any] = {"last_hidden_state": cut(output.last_hidden_state, 1)}
    if output.get("hidden_states") is not None:
        shorter["hidden_states"] = tuple(cut(hidden_BTD, 1) for hidden_BTD in output.hidden_states)
    if output.get("attentions") is not None:
        shorter["attentions"] = tuple(cut(cut(weights_BHTT, 2), 3) for weights_BHTT in output.attentions)
    return type(output)(**{**output, **shorter})
