"""Distillation token by token and layer by layer, against a few lines of plain torch on one row at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForTokenClassification,
)

from llmtune.core.types import Batch
from llmtune.model import language_head
from llmtune.model.trunk import Trunk
from llmtune.model.word_model import WordModel
from llmtune.objective.distilling import AnswersOfTokens, DistillationLoss
from llmtune.objective.layer_pairs import stack_pairs
from llmtune.objective.live_teacher import LiveTeacher
from llmtune.objective.matching import Matching
from llmtune.objective.own_teacher import SelfDistillationLoss
from llmtune.objective.token_answers import NEXT, TokenAnswers, head_of
from tests.unit.objective.small import assert_same_gradients, gradients_of, settings_of

WORDS, TAGS, T = 40, 5, 2.5
SHAPES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
             "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0, "num_labels": TAGS},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 1, "embd_pdrop": 0,
             "attn_pdrop": 0, "resid_pdrop": 0},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2,
           "dropout_rate": 0, "decoder_start_token_id": 0},
    "bart": {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "dropout": 0,
             "decoder_start_token_id": 2, "max_position_embeddings": 64},
}  # fmt: skip
MASKED = "masked for masked_lm"


class Case(NamedTuple):
    family: str
    model_class: Any
    answers: TokenAnswers


CASES = {
    "a decoder writes": Case("gpt2", WordModel("causal"), TokenAnswers("words", "causal")),
    "T5 writes": Case("t5", WordModel("sequence"), TokenAnswers("words", "sequence")),
    "BART writes": Case("bart", WordModel("sequence"), TokenAnswers("words", "sequence")),
    "tags": Case("bert", AutoModelForTokenClassification, TokenAnswers("tags")),
    "hidden words": Case("bert", AutoModelForMaskedLM, TokenAnswers("language", "masked", MASKED, "masked_lm")),
    "next words": Case("gpt2", AutoModelForCausalLM, TokenAnswers("language", "causal", target=NEXT)),
    "spans": Case("t5", AutoModelForSeq2SeqLM, TokenAnswers("language", "sequence", "denoising", "denoising")),
}


def model_of(case: Case, seed: int, **changed: Any) -> Any:
    config = AutoConfig.for_model(case.family, **{**SHAPES[case.family], **changed}, vocab_size=WORDS, pad_token_id=0)
    torch.manual_seed(seed)
    model = case.model_class.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.3)
    return model.train()


def rows_of(case: Case) -> list[dict[str, list[int]]]:
    """Six rows: what is read, what a decoder reads, and at which of its (or its only) tokens there is an answer."""
    draws = torch.Generator().manual_seed(1)
    rows = []
    for number, length in enumerate((3, 7, 5, 7, 4, 6)):
        row = {"ids": torch.randint(2, WORDS, (length,), generator=draws).tolist()}
        size = length
        if case.answers.kind == "sequence":
            size = 2 + number % 4
            row["decoded"] = torch.randint(2, WORDS, (size,), generator=draws).tolist()
            row["at"] = [1] * size
        elif case.answers.target == NEXT:
            row["at"] = [1] * (size - 1) + [0]
        else:
            row["at"] = [int(at % 2 == number % 2) for at in range(size - 1)] + [0]
        rows.append(row)
    return rows


def padded(values: list[list[int]], empty: int = 0) -> torch.Tensor:
    longest = max(map(len, values))
    return torch.tensor([row + [empty] * (longest - len(row)) for row in values])


def batch_of(case: Case, rows: list[dict[str, list[int]]]) -> Batch:
    view = {"input_ids": padded([row["ids"] for row in rows]),
            "attention_mask": padded([[1] * len(row["ids"]) for row in rows])}  # fmt: skip
    if "decoded" in rows[0]:
        view["decoder_input_ids"] = padded([row["decoded"] for row in rows])
    at = padded([row["at"] for row in rows])
    targets = {}
    if case.answers.form == "words":
        view["wanted"] = at
        targets["label"] = torch.zeros(int(at.sum()), dtype=torch.long)
    elif case.answers.target != NEXT:
        targets[case.answers.target] = torch.where(at == 1, 3, -100)
    return Batch(row_ids=list(range(len(rows))), views={"clean": view, case.answers.view: view}, targets=targets)


def part_of(case: Case, network: Any, other: Any, *, wants: bool = False, **shares: Any) -> DistillationLoss:
    shares = {"answers": 0.7, "hidden_states": 0.4, "attentions": 3.0} if wants else {"answers": 0.7, **shares}
    settings = settings_of("distillation", temperature=T, layers="1:2,2:1" if wants else "last", **shares)
    matching = None
    if wants:
        other.set_attn_implementation("eager")
        pairs = stack_pairs(settings.layers, network.config, other.config)
        matching = Matching(pairs, student_width=16, teacher_width=16, seed=0)
    answers = AnswersOfTokens(case.answers, head_of(network, case.answers), T)
    live = LiveTeacher(other.eval(), settings.wants, case.answers)
    return DistillationLoss(lambda step: 1.0, settings, answers, (matching, case.answers), live)


def alone(model: Any, row: dict[str, list[int]], **asked: bool) -> Any:
    """What a model makes of a row by itself."""
    given = {"input_ids": torch.tensor([row["ids"]])}
    if "decoded" in row:
        given["decoder_input_ids"] = torch.tensor([row["decoded"]])
    return model(**given, **asked)


def apart(own: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    p, q = (wanted.detach() / T).softmax(-1), (own / T).softmax(-1)
    return T**2 * (p * (p / q).log()).sum()


def expected_total(network: Any, other: Any, rows: list[dict[str, list[int]]]) -> Any:
    total = torch.zeros(())
    for row in rows:
        at = torch.tensor(row["at"]).bool()
        total = total + 0.7 * apart(alone(network, row).logits[0][at], alone(other, row).logits[0][at])
    return total


@pytest.mark.parametrize("name", CASES)
def test_answers_are_learnt_where_a_token_is_answered(name: str) -> None:
    case = CASES[name]
    network, other, rows = model_of(case, 0), model_of(case, 1), rows_of(case)
    expected = expected_total(network, other.eval(), rows)
    wanted = gradients_of(network, expected)
    part, trunk, batch = part_of(case, network, other), Trunk(network), batch_of(case, rows)
    part.prepare(batch)
    loss = part.loss(trunk, batch)
    torch.testing.assert_close(loss.total, expected.detach(), rtol=1e-4, atol=1e-5)
    assert loss.count == part.count(batch) == sum(sum(row["at"]) for row in rows)
    assert_same_gradients(gradients_of(network, loss.total), wanted, atol=1e-5)
    assert all(weight.grad is None for weight in other.parameters())
    halves = []
    for some in (rows[:2], rows[2:]):
        trunk.reset()
        half = batch_of(case, some)
        part.prepare(half)
        halves.append(part.loss(trunk, half))
    torch.testing.assert_close(sum(half.total for half in halves), loss.total, rtol=1e-4, atol=1e-5)
    assert sum(half.count for half in halves) == loss.count


@pytest.mark.parametrize("name", CASES)
def test_in_pieces_it_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    network, other, rows = model_of(case, 0), model_of(case, 1), rows_of(case)
    part, batch = part_of(case, network, other), batch_of(case, rows)
    part.prepare(batch)
    whole = part.loss(Trunk(network), batch).total
    found = gradients_of(network, whole)
    monkeypatch.setattr(language_head, "MOST_SCORES", 8 * (TAGS if name == "tags" else WORDS))
    trunk = Trunk(network)
    pieces = part.loss(trunk, batch).total
    assert case.answers.form == "tags" or bool(trunk._logits) == (name in ("T5 writes", "BART writes"))
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-5)
    assert_same_gradients(gradients_of(network, pieces), found, atol=1e-5)


def test_models_that_pad_one_vocabulary_to_two_sizes_are_compared_over_what_both_know() -> None:
    case = CASES["a decoder writes"]
    network, other, rows = model_of(case, 0), model_of(case, 1), rows_of(case)
    other.resize_token_embeddings(WORDS + 8)
    batch = batch_of(case, rows)
    total = torch.zeros(())
    for row in rows:
        at = torch.tensor(row["at"]).bool()
        wanted = alone(other.eval(), row).logits[0][at][:, :WORDS]
        total = total + 0.7 * apart(alone(network, row).logits[0][at], wanted)
    torch.testing.assert_close(part_of(case, network, other).loss(Trunk(network), batch).total, total)


def test_tags_come_in_the_teachers_order() -> None:
    case, order = CASES["tags"], [4, 2, 0, 1, 3]
    network, other, rows = model_of(case, 0), model_of(case, 1), rows_of(case)
    part = part_of(case, network, other)
    part.answers.order = order  # type: ignore[union-attr]
    total = torch.zeros(())
    for row in rows:
        at = torch.tensor(row["at"]).bool()
        wanted = alone(other.eval(), row).logits[0][at][:, order]
        total = total + 0.7 * apart(alone(network, row).logits[0][at], wanted)
    torch.testing.assert_close(part.loss(Trunk(network), batch_of(case, rows)).total, total)


@pytest.mark.parametrize("name", CASES)
def test_layers_are_compared_over_real_tokens_of_each_stack(name: str) -> None:
    case = CASES[name]
    network, other, rows = model_of(case, 0), model_of(case, 1), rows_of(case)
    asked = {"output_hidden_states": True, "output_attentions": True}
    total = expected_total(network, other.eval(), rows)
    stacks = ("encoder_", "decoder_") if case.answers.kind == "sequence" else ("",)
    for row in rows:
        mine, wanted = alone(network, row, **asked), alone(other, row, **asked)
        hidden, attention = [], []
        for stack in stacks:
            for i, j in ((1, 2), (2, 1)):
                h, g = mine[f"{stack}hidden_states"][i][0], wanted[f"{stack}hidden_states"][j][0].detach()
                hidden.append((h - g).square().sum() / g.square().sum())
                for kind in (f"{stack}attentions", *(["cross_attentions"] if stack == "decoder_" else [])):
                    a, b = mine[kind][i - 1][0], wanted[kind][j - 1][0].detach()
                    attention.append((a - b).square().sum() / (a.shape[0] * a.shape[1]))
        items = sum(row["at"])
        total = total + items * (0.4 * torch.stack(hidden).mean() + 3.0 * torch.stack(attention).mean())
    expected = gradients_of(network, total)
    part, batch = part_of(case, network, other, wants=True), batch_of(case, rows)
    part.prepare(batch)
    loss = part.loss(Trunk(network, part.wants), batch)
    torch.testing.assert_close(loss.total, total.detach(), rtol=1e-4, atol=1e-4)
    assert_same_gradients(gradients_of(network, loss.total), expected, rtol=1e-3, atol=1e-4)
    alone_part = DistillationLoss(lambda step: 1.0, part.settings, None, (part.matching, part.tokens), part.teacher)
    trunk = Trunk(network, part.wants)
    found = alone_part.loss(trunk, batch)
    assert found.count == alone_part.count(batch) == 6


@pytest.mark.parametrize("name", CASES)
def test_ones_own_average_answers_token_by_token(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    network, rows = model_of(case, 0), rows_of(case)
    part = object.__new__(SelfDistillationLoss)
    part.settings = settings_of("self_distillation", temperature=T)
    part.network, part.tokens, part.head = network, case.answers, head_of(network, case.answers)
    part.own = dict(network.named_parameters())
    part.weights = {key: weight.detach() * 1.1 for key, weight in part.own.items()}
    other = model_of(case, 0)
    with torch.no_grad():
        for weight, found in zip(other.parameters(), part.weights.values()):
            weight.copy_(found)
    expected = expected_total(network, other.eval(), rows) / 0.7
    wanted = gradients_of(network, expected)
    trunk, batch = Trunk(network), batch_of(case, rows)
    part.prepare(batch)
    for most in (language_head.MOST_SCORES, 8 * (TAGS if name == "tags" else WORDS)):
        monkeypatch.setattr(language_head, "MOST_SCORES", most)
        trunk.reset()
        loss = part.loss(trunk, batch)
        torch.testing.assert_close(loss.total, expected.detach(), rtol=1e-4, atol=1e-5)
        assert_same_gradients(gradients_of(network, loss.total), wanted, atol=1e-4)
        assert network.training
