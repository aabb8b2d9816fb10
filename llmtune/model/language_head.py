"""The language-model head that belongs to a backbone: hidden states in, scores of all words of the vocabulary out.

It never runs a backbone. Where the head is a part of transformers' own class (`BertForMaskedLM`), that class is run
with the hidden states in the place of its backbone's output, so that every family's head is computed by its own code,
and only for the positions that count.

Legend: N positions, D width, V words of the vocabulary, B rows, T tokens.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from llmtune.config.settings import ModelSettings
from llmtune.core.seeds import fold
from llmtune.core.types import Loss

IGNORED = -100
"""target of a position that is not predicted"""
MOST_SCORES = 2**27
"""scores of words (N x V) that are kept for the backward pass; beyond that they are computed again, piece by piece"""
OTHER_WAYS = ("xlnet", "xlm", "flaubert", "reformer", "funnel", "perceiver", "tapas")
"""families with heads that were trained to do something else, or that take more than hidden states"""
SCALED = ("t5", "mt5", "umt5", "longt5", "switch_transformers")
"""families that make the decoder's output smaller before a table that is tied"""
ALONE = ("opt",)
"""decoders whose language model reaches into its backbone past `forward`; their head is `lm_head` and no more"""
TRAINED_WORDS = ("LMHead", "ForMaskedLM", "ForCausalLM", "ForConditionalGeneration", "ForPreTraining")


def language_kind(config: Any) -> str | None:
    """`masked` (encoders), `causal` (decoders), `sequence` (encoder-decoders); None where there is no such head."""
    from transformers.models.auto import modeling_auto as auto

    family = config.model_type
    if family in OTHER_WAYS:
        return None
    if getattr(config, "is_encoder_decoder", False):
        return "sequence" if family in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES else None
    if family in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        return "masked"
    return "causal" if family in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else None


def language_class(kind: str) -> Any:
    """transformers' Auto class of a kind."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    return {"masked": AutoModelForMaskedLM, "causal": AutoModelForCausalLM, "sequence": AutoModelForSeq2SeqLM}[kind]


class LanguageHead(nn.Module):
    """`forward(hidden_ND) -> logits_NV`. Its own parameters are those of the head; a tied table is the backbone's."""

    def __init__(self, model: nn.Module, *, trained: bool, shared: bool = False):
        """`model`: a Hugging Face language model. `shared`: it is the task model itself, whose head is not ours."""
        super().__init__()
        self.trained = trained
        """did the head come with the weights? Else it starts at random"""
        config: Any = model.config
        self.nested = not getattr(config, "is_encoder_decoder", False) and config.model_type not in ALONE
        """is the head run inside of transformers' class, or is it its `lm_head` alone?"""
        predictions = getattr(getattr(model, "cls", None), "predictions", None) if for_pre_training(model) else None
        self.nested &= predictions is None
        if self.nested and not shared:
            setattr(model, str(model.base_model_prefix), nn.Module())
        part: nn.Module = model if self.nested else predictions or model.lm_head  # type: ignore[assignment]
        self._shared = (part,) if shared else ()
        if not shared:
            self.part = part
        self.num_words: int = config.vocab_size
        scaled = config.model_type in SCALED and getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
        self.scale = config.d_model**-0.5 if scaled else 1.0

    def forward(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        part = self._shared[0] if self._shared else self.part
        if not self.nested:
            return part(hidden_ND * self.scale)
        with _answering(getattr(part, str(part.base_model_prefix)), hidden_ND[None]):
            # the ids are only looked at for their shape
            ids = torch.zeros(1, len(hidden_ND), dtype=torch.long, device=hidden_ND.device)
            return type(part).forward(part, input_ids=ids).logits[0]  # past what a prompt makes of an instance


def for_pre_training(model: Any) -> bool:
    """Does a model find hidden words and tell which sentence comes next, as BERT's kind was pre-trained?"""
    head = getattr(model, "cls", None)
    return hasattr(head, "predictions") and hasattr(head, "seq_relationship")


@contextmanager
def _answering(backbone: Any, hidden_BTD: torch.Tensor) -> Iterator[None]:
    """Let `backbone` answer with these hidden states, whatever it is asked."""
    from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions as Output

    before = vars(backbone).get("forward")
    backbone.forward = lambda *args, **kwargs: Output(last_hidden_state=hidden_BTD)
    try:
        yield
    finally:
        if before is None:
            del backbone.forward
        else:
            backbone.forward = before


def load_head(settings: ModelSettings, network: Any, *, seed: int) -> LanguageHead:
    """The head for `network`'s backbone: from the source of its weights where they hold it, else drawn from `seed`.

    A head that is tied to the table of words is tied to `network`'s. If `network` is a language model itself, this is
    its own head, trained and saved with it.
    """
    kind = language_kind(network.config)
    assert kind is not None  # refused before: see language_kind
    model_class = language_class(kind)
    is_one = type(network) in model_class._model_mapping.values()
    if is_one or for_pre_training(network):
        return LanguageHead(network, trained=head_is_there(settings, network.config), shared=True)
    config = copy.deepcopy(network.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold(seed, "language head"))
        if settings.path is None:
            model = model_class.from_config(config)
        else:
            path = str(Path(settings.path).expanduser()) if settings.path.startswith("~") else settings.path
            model = model_class.from_pretrained(
                path, config=config, revision=settings.revision, dtype=torch.float32, ignore_mismatched_sizes=True
            )
    outputs = model.get_output_embeddings()
    if config.tie_word_embeddings and outputs is not None:
        outputs.weight = network.get_input_embeddings().weight
    return LanguageHead(model.float(), trained=head_is_there(settings, network.config))


def head_is_there(settings: ModelSettings, config: Any) -> bool:
    """Does the source of the weights hold a trained language-model head? Looks at names only, loads nothing.

    Where all of the head is tied to the table of words, or the files are not at hand, the architecture that the
    config records decides.
    """
    kind = language_kind(config)
    if settings.path is None or kind is None:
        return False
    told = any(word in name for name in getattr(config, "architectures", None) or () for word in TRAINED_WORDS)
    folder = Path(settings.path).expanduser()
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    wanted = _own_names(config, kind)
    if not files or not wanted:
        return told
    there = {_plain(name) for file in files for name in _names_in(file)}
    return all(any(name.endswith(own) for name in there) for own in wanted)


def _own_names(config: Any, kind: str) -> list[str]:
    """Names of the head's parameters that are not tied to others."""
    with torch.device("meta"):
        model = language_class(kind).from_config(copy.deepcopy(config))
    prefix = f"{model.base_model_prefix}."
    in_backbone = (prefix, "shared.", "encoder.", "decoder.block") if kind == "sequence" else (prefix,)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    return [name for name, _ in model.named_parameters() if not name.startswith(in_backbone) and name not in tied]


def _names_in(file: Path) -> Sequence[str]:
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return [name for name in header if name != "__metadata__"]


def _plain(name: str) -> str:
    """A name as it is written today: older files call a norm's weight gamma and its bias beta."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def word_loss(
    head: LanguageHead, hidden_BTD: torch.Tensor, targets_BT: torch.Tensor, smoothing: float = 0.0
) -> Loss:
    """Cross-entropy of the words at the positions whose target is not -100, as a sum and their number."""
    wanted_BT = targets_BT != IGNORED
    hidden_ND, targets_N = hidden_BTD[wanted_BT], targets_BT[wanted_BT]
    num = len(targets_N)
    total = 0 * hidden_ND.float().sum()  # a gradient of 0 where nothing is to be predicted
    piece = num if num * head.num_words <= MOST_SCORES else max(1, MOST_SCORES // (4 * head.num_words))
    for start in range(0, num, max(1, piece)):
        some = (head, hidden_ND[start : start + piece], targets_N[start : start + piece], smoothing)
        again = piece < num and torch.is_grad_enabled()
        total = total + (checkpoint(_summed, *some, use_reentrant=False) if again else _summed(*some))
    return Loss(total, torch.tensor(float(num), device=total.device))


def _summed(
    head: LanguageHead, hidden_ND: torch.Tensor, targets_N: torch.Tensor, smoothing: float
) -> torch.Tensor:
    return F.cross_entropy(head(hidden_ND).float(), targets_N, reduction="sum", label_smoothing=smoothing)


def logits_loss(logits_BTV: torch.Tensor, targets_BT: torch.Tensor) -> Loss:
    """The same of scores that are there already."""
    wanted_BT = targets_BT != IGNORED
    total = F.cross_entropy(logits_BTV[wanted_BT].float(), targets_BT[wanted_BT], reduction="sum")
    return Loss(total, wanted_BT.sum().float())


def row_sums(
    head: Callable[[torch.Tensor], torch.Tensor], hidden_BTD: torch.Tensor, targets_BT: torch.Tensor
) -> torch.Tensor:
    """By row the sum of the cross-entropy and the number of words that it is a sum of: (B, 2). Without gradient.

    `head`: hidden_ND -> logits_NV, such as a LanguageHead.
    """
    wanted_BT = targets_BT != IGNORED
    rows_N = wanted_BT.nonzero()[:, 0]
    hidden_ND, targets_N = hidden_BTD[wanted_BT], targets_BT[wanted_BT]
    sums_B2 = torch.zeros(len(targets_BT), 2, device=hidden_BTD.device)
    piece = max(1, MOST_SCORES // (4 * getattr(head, "num_words", hidden_BTD.shape[-1])))
    for start in range(0, len(targets_N), piece):
        part = slice(start, start + piece)
        losses_N = F.cross_entropy(head(hidden_ND[part]).float(), targets_N[part], reduction="none")
        sums_B2.index_add_(0, rows_N[part], torch.stack([losses_N, torch.ones_like(losses_N)], dim=1))
    return sums_B2


def next_words(view: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """For each position of a view the id of the token after it, -100 where there is none: (B, T)."""
    ids_BT = view["input_ids"]
    targets_BT = torch.full_like(ids_BT, IGNORED)
    targets_BT[:, :-1] = ids_BT[:, 1:]
    mask_BT = view.get("attention_mask")
    if mask_BT is not None:
        targets_BT[:, :-1][mask_BT[:, 1:] == 0] = IGNORED
    return targets_BT
