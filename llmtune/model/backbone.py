"""Models and tokenizers: loaded from a folder or a hub, or made on the spot from a transformers config."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers.utils.logging
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from llmtune.config.settings import ModelSettings
from llmtune.core.errors import Fault, ModelError
from llmtune.core.seeds import fold
from llmtune.model.layers import HEAD, LayerMap
from llmtune.model.new_tokens import tell_network
from llmtune.model.speech_tokenizers import fast_form
from llmtune.model.tokenizers import train_tokenizer

LONGEST = 512
"""tokens of a row where `data.max_tokens` is auto and the model could take more"""
ROBERTA_KINDS = ("roberta", "camembert", "mpnet", "longformer", "data2vec-text", "xmod")
UNLIMITED = 10**6
"""transformers writes 1e30 for 'no limit'"""
WHENCE = ("_name_or_path", "transformers_version")
"""keys of a transformers config that say where it came from: the folder may move, the library may be newer"""

transformers.utils.logging.disable_progress_bar()  # it would break into our own display,
transformers.utils.logging.set_verbosity_error()  # and so would its report on new weights, which we give ourselves


@dataclass(frozen=True)
class LoadedModel:
    model: PreTrainedModel
    new_parameters: tuple[str, ...] = field(default=())
    """parameters that the source did not hold: they start at random"""


def load_tokenizer(settings: ModelSettings, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """The tokenizer in `settings.path`, or one trained on `texts`; with a pad token in any case.

    Raises:
        ModelError: none is there, or it is of the slow kind.
    """
    if settings.tokenizer is not None:
        tokenizer = train_tokenizer(settings.tokenizer, texts, model_config(settings))
    else:
        where = _path(settings)
        try:
            tokenizer = fast_form(AutoTokenizer.from_pretrained(where, revision=settings.revision))
        except Exception as error:
            raise ModelError(_not_there("tokenizer", where, error)) from error
    if not tokenizer.is_fast:
        raise ModelError(
            Fault("model.path", f"{settings.path} has a slow tokenizer", "a fast one (tokenizer.json) is needed")
        )
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        # transformers makes one that knows no word where the folder has the model alone
        raise ModelError(
            Fault("model.path", f"no tokenizer in {settings.path}", "tokenizer.json beside the weights",
                  "tokenizer.save_pretrained(DIR) writes it")
        )  # fmt: skip
    settle_pad_token(tokenizer)
    return tokenizer


def open_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved in a folder of ours, as a run has it."""
    tokenizer = fast_form(AutoTokenizer.from_pretrained(folder))
    settle_pad_token(tokenizer)
    return tokenizer


def settle_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a decoder's tokenizer a pad token: one it reserves for that, else the end-of-text token.

    Nothing is added to the vocabulary, so embeddings keep their size. Masks follow positions, never token ids,
    so a pad token that is also the end token hides no end token.
    """
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        vocabulary = tokenizer.get_vocab()
        reserved = [
            token
            for token in ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>")
            if token in vocabulary
        ]
        token = reserved[0] if reserved else tokenizer.eos_token or tokenizer.unk_token
        if token is None:
            raise ModelError(Fault("model.path", "the tokenizer has no pad, end or unknown token", "one is needed"))
        tokenizer.pad_token = token


def model_config(settings: ModelSettings) -> PreTrainedConfig:
    """The transformers config of the model, without its weights.

    Raises:
        ModelError: the folder, hub id or architecture can't be read.
    """
    if settings.path is None:
        if settings.architecture is None:
            raise ModelError(
                Fault("model.path", "not given", "a local folder or a hub id", f"model={settings.name} model.path=DIR")
            )
        values = dict(settings.architecture)
        try:
            return AutoConfig.for_model(values.pop("model_type"), **values)
        except Exception as error:
            raise ModelError(Fault("model.architecture", _first_line(error), "a transformers config")) from error
    try:
        return AutoConfig.from_pretrained(_path(settings), revision=settings.revision)
    except Exception as error:
        raise ModelError(_not_there("config", settings.path, error)) from error


def check_weights(settings: ModelSettings) -> None:
    """Look at the files of a local folder without loading them.

    Raises:
        ModelError: it holds no weights, a safetensors file that is cut short, or only half of a model: the weights
            under an adapter that can't be folded in.
    """
    folder = Path(_path(settings))
    if settings.path is None or not folder.is_dir():
        return
    files = sorted(folder.glob("*.safetensors"))
    if not files and not list(folder.glob("pytorch_model*.bin")):
        raise ModelError(Fault("model.path", f"no weights in {settings.path}", "model.safetensors beside config.json"))
    card = folder / "llmtune.json"  # of a run of ours
    kept = json.loads(card.read_text(encoding="utf-8")).get("adapter") if card.is_file() else None
    if kept and not kept["merged"]:
        raise ModelError(
            Fault("model.path", f"{settings.path} was trained with adapter={kept['settings']['name']}, which is no "
                  "part of its weights", "the model under that adapter, or one whose adapter is folded in")
        )  # fmt: skip
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except Exception as error:  # safetensors has an exception of its own
            raise ModelError(Fault("model.path", f"{file} is damaged: {_first_line(error)}", "copy it anew")) from error


def longest_row(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that a row of this model may have at most."""
    limits = [tokenizer.model_max_length]
    positions = getattr(config, "max_position_embeddings", None)
    if positions and positions > 0:
        # RoBERTa kinds count positions from pad_token_id + 1
        offset = (config.pad_token_id or 0) + 1 if any(kind in config.model_type for kind in ROBERTA_KINDS) else 0
        limits.append(positions - offset)
    return min([limit for limit in limits if limit < UNLIMITED], default=LONGEST)


def load_model(
    settings: ModelSettings,
    model_class: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    gradient_checkpointing: bool = False,
    quantise: Callable[[PreTrainedModel, Any], Any] | None = None,
    machine: Any = None,
    new_tokens: bool = False,
    **config_values: Any,
) -> LoadedModel:
    """The task model in fp32 on the CPU: weights from `settings.path` or at random, new parts drawn from `seed`.

    Args:
        model_class: one of transformers' Auto classes.
        quantise: the model on the meta device, `machine` -> transformers' quantisation_config; the model is then
            made on the machine's device.
        new_tokens: does the tokenizer know tokens that the task added? the embeddings grow by them.
        config_values: set in the model's config (`num_labels`, `id2label`, `problem_type`, ...).
    """
    config = model_config(settings)
    for key, value in config_values.items():
        setattr(config, key, value)
    config.pad_token_id = tokenizer.pad_token_id
    if settings.path is None:
        _fit_vocabulary(config, tokenizer, made=settings.tokenizer is not None)
    set_dropout(config, settings.dropout)
    attention = None if settings.attention == "auto" else settings.attention
    torch.manual_seed(fold(seed, "init"))
    new: tuple[str, ...] = ()
    try:
        if settings.path is None:
            model = model_class.from_config(config, attn_implementation=attention)
        else:
            few_bits = {}
            if quantise is not None:
                with torch.device("meta"):
                    shape = model_class.from_config(copy.deepcopy(config))
                few_bits = {"quantization_config": quantise(shape, machine), "device_map": {"": machine.device}}
            model, info = model_class.from_pretrained(
                _path(settings), config=config, revision=settings.revision, dtype=torch.float32,
                attn_implementation=attention, output_loading_info=True, ignore_mismatched_sizes=True, **few_bits,
            )  # fmt: skip
            new = tuple(sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}))
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(_not_there("weights", settings.path or settings.name, error)) from error
    _refuse_strange(settings, model, new)
    if new_tokens and len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        torch.manual_seed(fold(seed, "new tokens"))  # they are drawn around the mean of the others
        model.resize_token_embeddings(len(tokenizer))
    tell_network(model, tokenizer if settings.path else None)
    if quantise is None:
        model = model.float()
    if gradient_checkpointing:
        # renamed in transformers 5.23; the GPU releases of this year still have the old name
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        if hasattr(model, "_require_grads_hook"):
            # they let gradients into frozen embeddings, which only the other kind of checkpoints needs
            model.disable_input_require_grads()
    return LoadedModel(model, new)


def _refuse_strange(settings: ModelSettings, model: PreTrainedModel, new: tuple[str, ...]) -> None:
    """Raises ModelError if the source held less than half of the backbone: weights of another architecture."""
    layers = LayerMap.of(model, model.base_model_prefix)
    backbone = layers.places.keys() - layers.at(HEAD)
    missing = sorted(backbone & set(new))
    if 2 * len(missing) > len(backbone):
        given = f"{settings.path} holds {len(backbone) - len(missing)} of the backbone's {len(backbone)} tensors"
        raise ModelError(
            Fault("model.path", given, f"missing are {missing[0]}, ...", "are these weights of this model?")
        )


def tokenizer_sha(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of everything that decides which ids a text gets."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for asked in ("truncation", "padding"):  # how it was last called, not what it is
        backend.pop(asked, None)
    return _sha({"backend": backend, "special": tokenizer.special_tokens_map})


def model_fingerprint(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of the model's shape and tokenizer; its weights come from a checkpoint when a run is gone on with."""
    shape = {key: value for key, value in config.to_dict().items() if key not in WHENCE}
    return _sha({"shape": shape, "tokenizer": tokenizer_sha(tokenizer)})


def _sha(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def _fit_vocabulary(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, *, made: bool) -> None:
    """A model without weights gets as many words as the tokenizer has; if that was not `made` for it, no fewer than its
    family's."""
    config.vocab_size = max(len(tokenizer), 0 if made else getattr(config, "vocab_size", 0))
    for name in ("bos_token_id", "eos_token_id"):  # a family's own may lie outside of a small vocabulary
        given = getattr(config, name, None)
        if isinstance(given, int) and given >= config.vocab_size:
            setattr(config, name, getattr(tokenizer, name))


def set_dropout(config: PreTrainedConfig, dropout: float | None) -> None:
    """Every share that the backbone drops, as `model.dropout` says; None: as they are."""
    if dropout is None:
        return
    for key in list(config.to_dict()):
        is_dropout = "dropout" in key or key.endswith("_pdrop")  # GPT-2's
        if is_dropout and isinstance(getattr(config, key), (int, float)) and "classifier" not in key:
            setattr(config, key, dropout)


def _path(settings: ModelSettings) -> str:
    return os.path.expanduser(settings.path) if settings.path else settings.name


def _not_there(what: str, where: str, error: Exception) -> Fault:
    local = os.path.isdir(os.path.expanduser(where))
    looks_local = where.startswith((".", "/", "~"))
    if looks_local and not local:
        return Fault("model.path", f"no folder {where}", "a folder with config.json and model.safetensors, or a hub id")
    hint = "" if local else "is the hub reachable? offline: model.path=DIR with a copy of it"
    return Fault("model.path", f"no {what} could be loaded from {where}: {_first_line(error)}", hint)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
