"""Runs with packed rows: the same numbers as padded ones, fewer passes and tokens, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtune.core.errors import UserError
from tests.tiny import TINY, prepared_of, trainer_of, write_rows

PLAIN = ("train.order=random", "train.batch_rows=16", "train.epochs=2", "model.dropout=0", "train.prefix_cache=off")
FNET = "model.architecture={model_type: fnet, hidden_size: 16, num_hidden_layers: 2, intermediate_size: 32}"
RUNS = {
    "supervised": ("objective=supervised",),
    "several": ("objective=[supervised,masked_lm,supervised_contrastive]",),
    "decoder": ("model=tiny_gpt2", "objective=[supervised,causal_lm]"),
    "r_drop": ("objective=r_drop", "model.dropout=0.1"),
}


def lines_of(folder: Path, *words: str) -> tuple[list[dict[str, float]], int, int]:
    """The records of training, and real and padded tokens that were seen."""
    trainer = trainer_of(prepared_of(*words), folder)
    trainer.fit()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    state = trainer.state
    return [line for line in lines if line.get("split") == "train"], state.tokens_seen, state.padded_tokens_seen


@pytest.mark.parametrize("name", ["supervised", "several", "decoder"])
def test_packed_training_has_the_numbers_of_padded_training(name: str, tmp_path: Path) -> None:
    words = [*TINY, *write_rows(tmp_path), *PLAIN, *RUNS[name]]
    plain, real, padded = lines_of(tmp_path / "plain", *words)
    packed, same_real, fewer = lines_of(tmp_path / "packed", *words, "train.packing=true")
    assert real == same_real
    assert padded > 1.3 * real
    assert fewer < 1.1 * real
    for one, other in zip(plain, packed, strict=True):
        assert one["step"] == other["step"]
        for key in (key for key in one if "loss" in key):
            assert other[key] == pytest.approx(one[key], rel=2e-4), key


def test_a_second_pass_with_other_dropout_is_packed_too(tmp_path: Path) -> None:
    records, real, padded = lines_of(
        tmp_path / "run", *TINY, *write_rows(tmp_path), *PLAIN[:3], *RUNS["r_drop"], "train.packing=true"
    )
    assert records
    assert padded < 1.1 * real


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("objective=[supervised,fgm]",), "objective=fgm"),
        (("adapter=p_tuning",), "adapter=p_tuning"),
        (("adapter=prefix",), "adapter=prefix"),
        (("model=tiny_t5",), "rows of two sides"),
        (("hardware.compile=true",), "hardware.compile"),
        (("model.attention=flex_attention",), "model.attention=sdpa"),
        ((FNET,), "fnet"),
        (("freeze_policy=head_only", "train.prefix_cache=on"), "train.prefix_cache"),
    ],
)  # fmt: skip
def test_what_rows_end_to_end_can_not_go_with_is_refused(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    tiny = [word for word in TINY if "fnet" not in told or "architecture" not in word]
    with pytest.raises(UserError, match=told) as caught:
        prepared_of(*tiny, *write_rows(tmp_path), *words, "train.packing=true")
    assert "packing" in str(caught.value)


def test_models_of_other_families_have_a_way(tmp_path: Path) -> None:
    rows = write_rows(tmp_path)
    assert prepared_of(*TINY, *rows).packing is None
    for words, form in (((), "mask"), (("model=tiny_gpt2",), "positions"), (("adapter=lora",), "mask")):
        found = prepared_of(*TINY, *rows, *words, "train.packing=true").packing
        assert found is not None
        assert found.form == form
