"""A backbone run on rows that lie end to end, its output put back as if they had stood below each other.

Heads, losses and objectives see padded rows as ever; only the backbone's computation is spared the padding. No row
sees another: decoders of transformers keep rows apart by positions that begin anew, others by a mask of row against
row. Which way is exact for a family is found by trial (model.isolation), not from a list.

Legend: B rows, T tokens of the longest, S sequences of W tokens that rows are laid into, N real tokens, D width of a
state.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from llmtune.data.batches.packing import Layout, worth_packing

OF_ROWS = ("input_ids", "token_type_ids", "attention_mask")
SETTINGS = ("output_hidden_states", "output_attentions", "return_dict", "use_cache")


class Isolation(NamedTuple):
    """How a family's rows are kept apart."""

    form: str
    """positions: by them alone | mask: True where a token is seen | bias: 0 there, else the least number"""
    where: str = "backbone"
    """takes the mask: backbone | layers (one for each type of layer) | encoder (the module inside of the backbone)"""
    causal: bool = False
    """must the mask hide what comes later?"""
    after_pad: bool = False
    """are positions counted from pad_token_id + 1, as RoBERTa counts them?"""


@dataclass
class Packed:
    """Runs a backbone's own `forward` on packed rows."""

    backbone: Any
    isolation: Isolation

    def __post_init__(self) -> None:
        self._signature = inspect.signature(type(self.backbone).forward)

    def run(self, compute: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
        """What `compute(*args, **kwargs)` gives; packed where it is given rows padded on the right, and no more."""
        given = self._given(args, kwargs)
        places = None if given is None else _places(given)
        if given is None or places is None:
            return compute(*args, **kwargs)
        with ExitStack() as hooks:
            output = compute(**self._inputs(given, places, hooks))
        return self._unpacked(output, places)

    def packs(self, *args: Any, **kwargs: Any) -> bool:
        """Would these inputs be packed?"""
        given = self._given(args, kwargs)
        return given is not None and _places(given) is not None

    def _given(self, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the backbone is asked, by name; None if there is more than rows and what of them is wanted."""
        bound = self._signature.bind(None, *args, **kwargs).arguments
        extra = next((n for n, one in self._signature.parameters.items() if one.kind is one.VAR_KEYWORD), None)
        given = {**bound, **bound.pop(extra, {})} if extra else dict(bound)
        given = {name: value for name, value in given.items() if name not in ("self", extra) and value is not None}
        packs = set(given) <= {*OF_ROWS, *SETTINGS} and {"input_ids", "attention_mask"} <= set(given)
        plain = not given.get("output_attentions") and given.get("return_dict", True)
        return given if packs and plain else None

    def _inputs(self, given: Mapping[str, Any], places: _Places, hooks: ExitStack) -> dict[str, Any]:
        form, where, causal, after_pad = self.isolation
        names = self._signature.parameters
        inputs = {name: given[name] for name in ("output_hidden_states",) if name in given}
        for name in ("input_ids", "token_type_ids"):
            if name in given:
                inputs[name] = places.packed(given[name])
        if "position_ids" in names:
            inputs["position_ids"] = places.positions_SW + (self.backbone.config.pad_token_id + 1 if after_pad else 0)
        if "use_cache" in names:
            inputs["use_cache"] = False
        if form == "positions":
            return inputs
        seen = places.seen_S1WW(causal=causal)
        mask = seen if form == "mask" else _as_bias(seen)
        if where == "backbone":
            inputs["attention_mask"] = mask
        elif where == "layers":
            inputs["attention_mask"] = _by_layer(self.backbone.config, mask)
        else:
            hook = self.backbone.encoder.register_forward_pre_hook(
                lambda module, args, kwargs: _with_mask(args, kwargs, mask), with_kwargs=True
            )
            hooks.enter_context(hook)
        return inputs

    def _unpacked(self, output: Any, places: _Places) -> Any:
        """A ModelOutput of rows below each other, what is pooled of a row made of its own states."""
        back: dict[str, Any] = {"last_hidden_state": places.back(output.last_hidden_state)}
        if output.get("hidden_states") is not None:
            back["hidden_states"] = tuple(places.back(states_SWD) for states_SWD in output.hidden_states)
        if output.get("pooler_output") is not None:
            pooler, states_BTD = self.backbone.pooler, back["last_hidden_state"]
            if isinstance(pooler, nn.Linear):  # ALBERT's
                back["pooler_output"] = self.backbone.pooler_activation(pooler(states_BTD[:, 0]))
            else:
                back["pooler_output"] = pooler(states_BTD)
        return type(output)(**{**output, **back})


class _Places:
    """Where each real token of padded rows lies in the packed sequences."""

    def __init__(self, layout: Layout, mask_BT: torch.Tensor):
        self.shape_BT, self.shape_SW = tuple(mask_BT.shape), (layout.num_sequences, layout.width)
        starts_B = torch.from_numpy(layout.sequences_R * layout.width + layout.starts_R).to(mask_BT.device)
        rows_N, at_N = mask_BT.nonzero(as_tuple=True)
        self.real_N = rows_N * mask_BT.shape[1] + at_N
        self.slots_N = starts_B[rows_N] + at_N
        self._at_N, self._rows_N, self._num_rows = at_N, rows_N, len(mask_BT)

    def packed(self, values_BT: torch.Tensor) -> torch.Tensor:
        """(S, W); what is empty has the first value of all, which every model knows."""
        flat = values_BT.flatten()
        packed = flat[:1].repeat(self.shape_SW[0] * self.shape_SW[1])
        return packed.index_copy(0, self.slots_N, flat[self.real_N]).view(self.shape_SW)

    @property
    def positions_SW(self) -> torch.Tensor:
        """In its own row; 0 where it is empty, so that each empty place is a row of one token."""
        empty = torch.zeros(self.shape_SW[0] * self.shape_SW[1], dtype=torch.long, device=self.slots_N.device)
        return empty.index_copy(0, self.slots_N, self._at_N).view(self.shape_SW)

    def seen_S1WW(self, *, causal: bool) -> torch.Tensor:
        """Does the token in the third place see that in the fourth? Every token sees itself."""
        num_sequences, width = self.shape_SW
        # an empty place is a row of its own
        rows = self._num_rows + torch.arange(num_sequences * width, device=self.slots_N.device)
        rows_SW = rows.index_copy(0, self.slots_N, self._rows_N).view(self.shape_SW)
        seen_SWW = rows_SW[:, :, None] == rows_SW[:, None, :]
        return (seen_SWW.tril() if causal else seen_SWW)[:, None]

    def back(self, states_SWD: torch.Tensor) -> torch.Tensor:
        """(B, T, D), 0 where a row is padded."""
        rows, width = self.shape_BT
        empty = states_SWD.new_zeros(rows * width, states_SWD.shape[-1])
        return empty.index_copy(0, self.real_N, states_SWD.flatten(0, 1)[self.slots_N]).view(rows, width, -1)


def _places(given: Mapping[str, Any]) -> _Places | None:
    """Where rows go that are padded on the right; None where they are not, or where packing saves next to nothing."""
    mask_BT = given["attention_mask"]
    if mask_BT.dim() != 2 or mask_BT.shape != given["input_ids"].shape:
        return None
    lengths_B = mask_BT.sum(1)
    right_BT = torch.arange(mask_BT.shape[1], device=mask_BT.device) < lengths_B[:, None]
    on_right = (mask_BT.bool() == right_BT).all()
    *lengths, plain = torch.cat([lengths_B, on_right[None].to(lengths_B.dtype)]).tolist()  # one wait for the device
    if not plain or min(lengths) < 1:
        return None
    layout = worth_packing(lengths)
    return None if layout is None else _Places(layout, mask_BT.bool())


def _as_bias(seen: torch.Tensor) -> torch.Tensor:
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, torch.finfo(torch.float32).min)


def _by_layer(config: Any, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """The mask of each type of layer of an encoder of which some see a window of words only (ModernBERT)."""
    from transformers.masking_utils import create_bidirectional_sliding_window_mask

    like = torch.empty(1, mask.shape[-1], 1, device=mask.device)
    window = create_bidirectional_sliding_window_mask(config, like, None, allow_is_bidirectional_skip=False)
    assert isinstance(window, torch.Tensor)
    near = mask & window if mask.dtype == torch.bool else torch.minimum(mask, window)
    return {"full_attention": mask, "sliding_attention": near}


def _with_mask(args: tuple[Any, ...], kwargs: dict[str, Any], mask: torch.Tensor) -> Any:
    """The arguments of an encoder (states, attention_mask, ...) with this mask."""
    if "attention_mask" in kwargs:
        return args, {**kwargs, "attention_mask": mask}
    return (args[0], mask, *args[2:]), kwargs
