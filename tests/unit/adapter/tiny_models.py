"""Folders with tiny models of several families, for tests of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from llmtune.config.settings import TokenizerSettings
from llmtune.model.tokenizers import train_tokenizer
from tests.tiny import TINY, WORDS

ADAPTERS = ("lora", "dora", "rslora", "adalora", "ia3", "prompt", "p_tuning", "prefix", "bottleneck")
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("wordpiece", SMALL),
    "gpt2": ("bpe", {"n_embd": 16, "n_layer": 2, "n_head": 2}),
    "llama": ("bpe", {**SMALL, "num_key_value_heads": 1, "head_dim": 8}),
    "t5": ("unigram", {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_kv": 8, "d_ff": 32,
                       "decoder_start_token_id": 0}),
    "deberta-v2": ("unigram", SMALL),
    "xlnet": ("unigram", {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}),
}  # fmt: skip


def make_model(
    family: str, folder: Path, words: Sequence[str] = WORDS, vocab_size: int = 200,
    model_class: Any = AutoModelForSequenceClassification,
) -> str:  # fmt: skip
    """A pretrained-looking folder with random weights and a tokenizer of these words."""
    kind, shape = FAMILIES[family]
    settings = TokenizerSettings(kind=kind, vocab_size=vocab_size, min_frequency=1, lowercase=False)
    tokenizer = train_tokenizer(settings, [" ".join(words)] * 3, AutoConfig.for_model(family, **shape))
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id",
                                                       "sep_token_id")}  # fmt: skip
    config = AutoConfig.for_model(family, **{**shape, **ids, "vocab_size": len(tokenizer)})
    torch.manual_seed(0)
    model_class.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def words_for(rows: list[str], path: str) -> list[str]:
    """What is typed for a run of a few steps on such a model."""
    tiny = [word for word in TINY if not word.startswith("model.")]
    return [*tiny, *rows, "model=pretrained", f"model.path={path}", "train.verify_model=here", "train.batch_rows=12"]
