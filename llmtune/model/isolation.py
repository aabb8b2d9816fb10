"""Finds out, on a small copy of a model with random weights, how rows of its family are packed without seeing
each other.

No family is listed: a way is taken if packed rows come out as each row does alone, and none is if none does.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import torch

from llmtune.model.packed import Isolation, Packed

LENGTHS = (9, 5, 7, 3, 6)
"""of the rows that are tried"""
WINDOW = 4
"""of attention to near words only, where the family has some: shorter than the longest row"""
WORDS = 64
EXACT = 1e-4
"""error, in shares of the largest state, up to which it is rounding; what other rows leak is 100 times that"""
MIXED = 0.02
"""the same for a model with its real weights, which may compute in fewer bits"""


def find_isolation(config: Any, attention: str) -> Isolation | None:
    """The first way that is exact for models of this transformers config; None: there is none.

    attention: eager | sdpa, what the model computes it by.
    """
    if getattr(config, "is_encoder_decoder", False):
        return None
    from transformers import AutoModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            backbone = AutoModel.from_config(_small(config), attn_implementation=attention).float().eval()
        except Exception:  # whatever a family finds wrong with a copy that small
            return None
        for parameter in backbone.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0, parameter.shape[-1] ** -0.5)
        ids_BT = torch.randint(5, WORDS, (len(LENGTHS), max(LENGTHS)))
    return next((way for way in _ways(backbone) if is_exact(backbone, way, ids_BT)), None)


def _small(config: Any) -> Any:
    """A copy with few words and layers, one of each type, whose windows are shorter than the rows that are tried."""
    small = copy.deepcopy(config)
    kinds = getattr(config, "layer_types", None)
    depth = 1 + max(kinds.index(kind) for kind in set(kinds)) if kinds else 2
    small.num_hidden_layers = min(max(2, depth), config.num_hidden_layers)
    if kinds:
        small.layer_types = kinds[: small.num_hidden_layers]
    small.vocab_size = WORDS
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
        token = getattr(config, name, None)
        if isinstance(token, list) or (token or 0) >= WORDS:
            setattr(small, name, 0)
    if small.pad_token_id is None:
        small.pad_token_id = 0
    for name in ("sliding_window", "local_attention", "window_size"):
        if isinstance(getattr(config, name, None), int):
            setattr(small, name, WINDOW)
    return small


def _ways(backbone: Any) -> Iterator[Isolation]:
    """Those that may be meant for it, what is quickest first."""
    places = ["backbone"]
    if "sliding_attention" in (getattr(backbone.config, "layer_types", None) or ()):
        places.append("layers")
    if isinstance(getattr(backbone, "encoder", None), torch.nn.Module):
        places.append("encoder")
    yield Isolation("positions")
    for where, form, after_pad, causal in itertools.product(places, ("mask", "bias"), (False, True), (False, True)):
        yield Isolation(form, where, causal, after_pad)


@torch.no_grad()
def is_exact(backbone: Any, way: Isolation, ids_BT: torch.Tensor, *, exact: float = EXACT) -> bool:
    """Are packed rows of LENGTHS what each of them is alone, and its pooled state too?

    exact: greatest error, in shares of the largest state.
    """
    packed = Packed(backbone, way)
    mask_BT = (torch.arange(ids_BT.shape[1]) < torch.tensor(LENGTHS)[:, None]).long().to(ids_BT.device)
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT}
    try:
        if not packed.packs(**inputs):
            return False
        together = packed.run(backbone.forward, (), inputs)
        return all(
            _alike(backbone(input_ids=ids_BT[row : row + 1, :length]), together, row, exact)
            for row, length in enumerate(LENGTHS)
        )
    except Exception:  # a family may refuse with anything what it is not made for
        return False


def _alike(alone: Any, together: Any, row: int, exact: float) -> bool:
    """Is a row the same by itself, a ModelOutput of one row, as it is among others?"""
    length = alone.last_hidden_state.shape[1]
    pairs = [(alone.last_hidden_state[0], together.last_hidden_state[row, :length])]
    if alone.get("pooler_output") is not None:
        pairs.append((alone.pooler_output[0], together.pooler_output[row]))
    return all(float((one - other).abs().max()) <= exact * float(one.abs().max()) for one, other in pairs)
