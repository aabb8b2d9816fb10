"""Which linear modules a backbone has, and what each is for: the names that model families give them."""

from __future__ import annotations

import re

from torch import nn

from llmtune.model.layers import EMBEDDINGS, HEAD, LayerMap

KEY_VALUE = "key or value"
ATTENTION_OUT = "attention out"
FEED_FORWARD_OUT = "feed-forward out"

ROLES = (
    (ATTENTION_OUT, re.compile(
        r"attention\.output\.dense$|attn\.(c_proj|Wo|o)$|(Self|EncDec)Attention\.o$|out_lin$|"
        r"(attn|attention)\.(o_proj|out_proj|dense)$"
    )),
    (FEED_FORWARD_OUT, re.compile(
        r"(^|\.)output\.dense$|mlp\.(c_proj|Wo|fc2)$|down_proj$|lin2$|dense_4h_to_h$|(^|\.)fc2$|"
        r"DenseReluDense\.wo$|ff\.layer_2$|ffn_output$|feed_forward\.output_dense$"
    )),
    (KEY_VALUE, re.compile(
        r"(^|\.)(key|value|[kv]|[kv]_lin|[kv]_proj|key_proj|value_proj|c_attn|Wqkv|query_key_value|qkv_proj)$"
    )),
)  # fmt: skip
"""the first pattern that is found in a module's name decides; a projection that makes queries, keys and values at
once counts as keys and values. Feed-forward out: the second linear of a layer's feed-forward block"""


def linear_modules(network: nn.Module, base_prefix: str) -> dict[str, nn.Module]:
    """Name -> linear module (transformers' Conv1D counts) of the backbone's layers, from the bottom to the top.

    Neither the head, nor what the backbone keeps for it (poolers), nor embeddings are in.
    """
    from transformers.pytorch_utils import Conv1D

    layers = LayerMap.of(network, base_prefix)
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
        and layers.places.get(f"{name}.weight", HEAD) not in (HEAD, EMBEDDINGS)
    }


def role(name: str) -> str | None:
    """What the linear module `name` of a layer is for; None: something else, such as queries."""
    return next((word for word, pattern in ROLES if pattern.search(name)), None)


def head_modules(network: nn.Module, base_prefix: str) -> list[str]:
    """Names of the outermost modules whose parameters all stand at the head: classifiers, poolers."""
    layers = LayerMap.of(network, base_prefix)
    found: list[str] = []
    for path, _ in network.named_modules():
        inside = {place for name, place in layers.places.items() if name.startswith(f"{path}.")}
        nested = any(path.startswith(f"{outer}.") for outer in found)
        if path and inside == {HEAD} and not nested:
            found.append(path)
    return found
