"""Language models that are asked for words at some positions alone: those whose next word is to be learnt.

The network stays transformers' own class, so its folder opens and generates elsewhere. Only what an instance makes of
a view that has `wanted` is another: scores (N, V) of the wanted positions, row after row, in the place of those of all
positions; in an instruction's row most of them would be thrown away.

Legend: B rows or sequences, T tokens, D width, N wanted positions, V words of the vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_outputs import CausalLMOutput, Seq2SeqLMOutput

from llmtune.core.types import Batch, Loss
from llmtune.data.batches.feed import WANTED
from llmtune.model.language_head import IGNORED, MOST_SCORES, LanguageHead, language_class, word_loss

HEAD_ATTRIBUTE = "_llmtune_word_head"
OF_LAYERS = (
    "encoder_hidden_states", "decoder_hidden_states", "encoder_attentions", "decoder_attentions", "cross_attentions",
)  # fmt: skip
"""what an encoder-decoder hands out of its layers, if it is asked to"""


@dataclass(frozen=True)
class WordModel:
    """Makes such models as transformers' Auto classes make theirs."""

    kind: str
    """`causal` (decoders) or `sequence` (encoder-decoders)"""
    stop_ids: tuple[int, ...] = ()
    """tokens that end what it writes, kept with it for others who let it write; none: as it has them"""
    generation: Any = None
    """transformers' GenerationConfig that is kept with it in the place of its own; None: its own"""

    def from_config(self, config: Any, *, attn_implementation: str | None = None) -> Any:
        return self._asked(language_class(self.kind).from_config(config, attn_implementation=attn_implementation))

    def from_pretrained(self, path: Any, *, output_loading_info: bool = False, **kwargs: Any) -> Any:
        model, info = language_class(self.kind).from_pretrained(path, output_loading_info=True, **kwargs)
        return (self._asked(model), info) if output_loading_info else self._asked(model)

    def _asked(self, model: Any) -> Any:
        if self.generation is not None:
            model.generation_config = copy.deepcopy(self.generation)
        if self.stop_ids and getattr(model, "generation_config", None) is not None:
            model.generation_config.eos_token_id = list(self.stop_ids)
        return asked(model)


def asked(model: Any) -> Any:
    """The same model, which knows `wanted`."""
    plain = getattr(model, "forward")  # noqa: B009 - bound to transformers' class
    decodes = bool(getattr(model.config, "is_encoder_decoder", False))
    head = None if decodes else LanguageHead(model, trained=True, shared=True)

    def forward(*args: Any, **view: Any) -> Any:
        wanted = view.pop(WANTED, None)
        if wanted is None:
            return plain(*args, **view)
        if head is None:  # nearly all that a decoder reads is wanted
            output = plain(*args, **view)
            states = {name: output.get(name) for name in OF_LAYERS}
            return Seq2SeqLMOutput(logits=output.logits[wanted.bool()], **states)
        return CausalLMOutput(logits=head(model.base_model(*args, **view).last_hidden_state[wanted.bool()]))

    forward.__signature__ = inspect.signature(plain)  # type: ignore[attr-defined]  # `generate` looks at it
    model.forward = forward
    setattr(model, HEAD_ATTRIBUTE, (head,))  # in a tuple: it has no parameters of its own
    return model


def loss_of_words(trunk: Any, batch: Batch, label_N: torch.Tensor, smoothing: float) -> Loss | None:
    """Cross-entropy where the scores of all wanted positions together would take too much memory; None where not.

    They are then made, and made again in the backward pass, piece by piece.
    """
    head: LanguageHead | None = getattr(trunk.model, HEAD_ATTRIBUTE)[0]
    if head is None or len(label_N) * head.num_words <= MOST_SCORES:
        return None
    wanted_BT = batch.views["clean"][WANTED].bool()
    targets_BT = torch.full(wanted_BT.shape, IGNORED, device=label_N.device)
    targets_BT[wanted_BT] = label_N
    return word_loss(head, trunk.output("clean", batch).last_hidden_state, targets_BT, smoothing)
