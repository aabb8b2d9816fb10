"""Keys and values that every attention module of a backbone sees before those of the row.

transformers lets an attention function be registered by name; ours puts the prefix in front and goes on to sdpa or
eager attention. So no cache is filled, positions of the words stay as they are, and activations can be recomputed.

Legend: B rows, H key-value heads, T queries, S keys, P length of the prefix, K width of a head.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from peft import PrefixEncoder, PrefixTuningConfig
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from llmtune.adapter.attached import Attached
from llmtune.adapter.targets import unknown_family
from llmtune.model.hearing import is_ctc

NAME = "llmtune_prefix_"


class KeyValuePrefix(Attached):
    """One of peft's prefix encoders a layer: a child of its attention module."""

    slot = "prefix_encoder"

    def make(self, network: Any) -> Mapping[str, nn.Module]:
        if is_ctc(network.config):
            raise unknown_family(network, "attention that was not tried with a prefix")
        if network.config.is_encoder_decoder:
            raise unknown_family(network, "attention across two stacks, which takes no prefix here")
        modules = _attention_modules(network)
        if len(modules) != network.config.num_hidden_layers:
            raise unknown_family(network, "an attention of their own, which takes no prefix")
        return {name: self._encoder(network.config, module) for name, module in modules.items()}

    def _encoder(self, config: Any, module: nn.Module) -> nn.Module:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        projection = self.settings.projection
        return PrefixEncoder(PrefixTuningConfig(
            num_virtual_tokens=self.settings.length, token_dim=heads * _head_width(module), num_layers=1,
            num_transformer_submodules=1, num_attention_heads=heads, encoder_hidden_size=projection,
            prefix_projection=projection is not None,
        ))  # fmt: skip

    def wire(self, network: Any) -> None:
        inner = "eager" if network.config._attn_implementation == "eager" else "sdpa"
        network.set_attn_implementation(NAME + inner)

    @torch.no_grad()
    def start(self, network: Any) -> None:
        """Keys and values that the model itself has for words drawn from its vocabulary (section 7.4 of the paper)."""
        if self.settings.init != "words":
            return
        seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        modules = _attention_modules(network)
        for name, module in modules.items():
            module.prefix_seen = lambda key, value, name=name: seen.update({name: (key, value)})
        ids_1P = torch.randint(len(network.get_input_embeddings().weight), (1, self.settings.length))
        was_training = network.training
        network.eval().base_model(input_ids=ids_1P, attention_mask=torch.ones_like(ids_1P))
        network.train(was_training)
        for name, module in modules.items():
            del module.prefix_seen
            flat_P2HK = torch.cat([part_1HPK[0].transpose(0, 1).flatten(1) for part_1HPK in seen[name]], dim=1)
            module.prefix_encoder.embedding.weight.copy_(flat_P2HK)


def _attention_modules(network: Any) -> dict[str, Any]:
    """The modules that call the registered attention function, in the order of the layers."""
    found = {}
    for name, module in network.base_model.named_modules(prefix=network.base_model_prefix):
        through_interface = hasattr(sys.modules[type(module).__module__], "ALL_ATTENTION_FUNCTIONS")
        if "Attention" in type(module).__name__ and through_interface and _head_width(module):
            found[name] = module
    return found


def _head_width(module: nn.Module) -> int:
    found = (getattr(module, word, None) for word in ("head_dim", "attention_head_size", "head_size"))
    return next((width for width in found if width), 0)


def _attend(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, *,
    inner: Any, **kwargs: Any,
) -> Any:  # fmt: skip
    """An attention function of transformers: (B, heads, T, K) queries on a prefix and (B, H, S, K) keys and values."""
    if hasattr(module, "prefix_seen"):
        module.prefix_seen(key, value)  # type: ignore[operator]
    elif "prefix_encoder" in module._modules:
        rows, heads, num_keys, width = key.shape
        encoder: Any = module.prefix_encoder
        length = encoder.embedding.num_embeddings
        flat_P2HK = encoder(torch.arange(length, device=key.device)).to(key.dtype)
        prefix_2HPK = flat_P2HK.view(length, 2, heads, width).permute(1, 2, 0, 3)
        if attention_mask is not None:
            attention_mask = functional.pad(attention_mask, (length, 0), value=attention_mask.dtype == torch.bool)
        elif _is_causal(module, kwargs):
            square_TS = torch.ones(query.shape[2], num_keys, dtype=torch.bool, device=key.device).tril()
            attention_mask = functional.pad(square_TS, (length, 0), value=True)[None, None]
        key, value = (torch.cat([prefix_HPK.expand(rows, -1, -1, -1), own], dim=2)
                      for prefix_HPK, own in zip(prefix_2HPK, (key, value)))  # fmt: skip
    return inner(module, query, key, value, attention_mask, **kwargs)


def _is_causal(module: nn.Module, kwargs: Mapping[str, Any]) -> bool:
    given = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if given is None else given)


def _sdpa(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return _attend(module, *args, inner=sdpa_attention_forward, **kwargs)


def _eager(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return _attend(module, *args, inner=sys.modules[type(module).__module__].eager_attention_forward, **kwargs)


AttentionInterface.register(f"{NAME}sdpa", _sdpa)
AttentionInterface.register(f"{NAME}eager", _eager)
AttentionMaskInterface.register(f"{NAME}sdpa", sdpa_mask)
AttentionMaskInterface.register(f"{NAME}eager", eager_mask)
