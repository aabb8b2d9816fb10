"""Every kind of model that the README names: its layers are told apart, it trains, it reopens with equal logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from llmtune.config.settings import TokenizerSettings
from llmtune.finish import finish
from llmtune.model.layers import LayerMap
from llmtune.model.tokenizers import train_tokenizer
from llmtune.run.console import Console
from llmtune.run.rundir import RunDir
from tests.tiny import TINY, WORDS, prepared_of, trainer_of, write_rows

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
DECODER = {**SMALL, "num_key_value_heads": 1, "head_dim": 8}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("wordpiece", SMALL),
    "roberta": ("bpe", SMALL),
    "xlm-roberta": ("unigram", SMALL),
    "distilbert": ("wordpiece", {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}),
    "deberta-v2": ("unigram", {**SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"],
                               "position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True}),
    "modernbert": ("bpe", {**SMALL, "global_attn_every_n_layers": 1}),
    "xlnet": ("unigram", {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}),
    "gpt2": ("bpe", {"n_embd": 16, "n_layer": 2, "n_head": 2}),
    "llama": ("bpe", DECODER),
    "qwen3": ("bpe", DECODER),
}  # fmt: skip
DECODERS = ("gpt2", "llama", "qwen3")


def make_folder(family: str, folder: Path) -> str:
    """A pretrained-looking folder: random weights, a tokenizer without a pad token for decoders."""
    kind, shape = FAMILIES[family]
    config = AutoConfig.for_model(family, **shape)
    settings = TokenizerSettings(kind=kind, vocab_size=300, min_frequency=1, lowercase=False)
    tokenizer = train_tokenizer(settings, [" ".join(WORDS)] * 3, config)
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
           "eos_token_id": tokenizer.eos_token_id, "cls_token_id": tokenizer.cls_token_id,
           "sep_token_id": tokenizer.sep_token_id}  # fmt: skip
    config = AutoConfig.for_model(family, **{**shape, **ids, "vocab_size": len(tokenizer), "num_labels": 5})
    if family in DECODERS:
        tokenizer.pad_token = None
        config.pad_token_id = None
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def words_for(rows: list[str], path: str) -> list[str]:
    tiny = [word for word in TINY if not word.startswith("model.")]
    return [*tiny, *rows, "model=pretrained", f"model.path={path}", "train.verify_model=here", "train.batch_rows=16"]


@pytest.mark.parametrize("family", FAMILIES)
def test_family_trains_and_reopens(family: str, rows: list[str], tmp_path: Path) -> None:
    prepared = prepared_of(*words_for(rows, make_folder(family, tmp_path / "model")), "train.max_steps=3")
    trainer = trainer_of(prepared, tmp_path / "run")
    before = {name: value.detach().clone() for name, value in trainer.composite.named_parameters()}
    trainer.fit()
    moved = {name for name, value in trainer.composite.named_parameters() if not torch.equal(before[name], value)}
    assert {place for name, place in trainer.freezing.layers.places.items() if name in moved} >= {
        "embeddings", "layer 0", "layer 1", "head"
    }  # fmt: skip
    result = finish(trainer, prepared, RunDir(tmp_path / "run"), Console(quiet=True))
    assert result["test"]["accuracy"] >= 0
    saved = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert saved["id2label"] == {"0": "bad", "1": "good"}


@pytest.mark.parametrize("family", DECODERS)
def test_decoder_padded_equals_unpadded(family: str, rows: list[str], tmp_path: Path) -> None:
    prepared = prepared_of(*words_for(rows, make_folder(family, tmp_path / "model")), "train.max_steps=1")
    trainer = trainer_of(prepared, tmp_path / "run")
    model, table = trainer.composite.model.eval(), trainer.feed.feeds["task"].table
    chosen = np.argsort(table.lengths)[[0, 20, 40, -1]]
    with torch.inference_mode():
        together = model(**table.inputs(chosen)).logits
        alone = torch.cat([model(**table.inputs(chosen[i : i + 1])).logits for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_places_cover_every_parameter(family: str) -> None:
    _, shape = FAMILIES[family]
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, num_labels=2, **shape))
    layers = LayerMap.of(model, model.base_model_prefix)
    assert layers.num_layers == 2
    assert set(layers.places) == {name for name, _ in model.named_parameters()}
    by_place = {place: layers.at(place) for place in layers.order}
    assert all(by_place[place] for place in ("embeddings", "layer 0", "layer 1", "head"))
    assert len(by_place["layer 0"]) == len(by_place["layer 1"]) or family == "modernbert"
    assert by_place["final"] == {
        "modernbert": {"model.final_norm.weight"}, "gpt2": {"transformer.ln_f.weight", "transformer.ln_f.bias"},
        "llama": {"model.norm.weight"}, "qwen3": {"model.norm.weight"},
    }.get(family, frozenset())  # fmt: skip
    norms = {name for name, kind in layers.kinds.items() if kind == "norm"}
    assert all("norm" in name.lower() or ".ln_" in name for name in norms)


def test_weights_of_another_architecture_are_refused(rows: list[str], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from llmtune.core.errors import ModelError

    path = make_folder("bert", tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    save_file({f"other.{name}": value for name, value in load_file(file).items()}, file, {"format": "pt"})
    prepared = prepared_of(*words_for(rows, path))
    with pytest.raises(ModelError, match=r"holds 0 of the backbone's \d+ tensors"):
        trainer_of(prepared, tmp_path / "run")


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_damaged_or_missing_weights_are_refused_before_anything_is_made(
    harm: str, rows: list[str], tmp_path: Path
) -> None:
    from llmtune.core.errors import ModelError

    path = make_folder("bert", tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000]) if harm == "cut" else file.unlink()
    with pytest.raises(ModelError, match="is damaged" if harm == "cut" else "no weights in"):
        prepared_of(*words_for(rows, path))
