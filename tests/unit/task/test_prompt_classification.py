"""Prompt and verbaliser: what is asked of the language model, what is cut, what is refused; its folder is of use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llmtune import cli
from llmtune.core.errors import UserError
from llmtune.task.template import Template, parsed
from tests.tiny import TINY, prepared_of, trainer_of, write_rows

WORDS = "task.verbaliser={good: [bright, warm], bad: dull}"
PROMPT = (*(word for word in TINY if not word.startswith("task=")), "task=prompt_classification", WORDS,
          "task.template='{text} It was {mask}.'", "train.batch_rows=12", "train.max_steps=3",
          "model.dropout=0")  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def test_logits_are_those_of_the_words_at_the_mask(rows: list[str], tmp_path: Path) -> None:
    prepared = prepared_of(*PROMPT, *rows)
    trainer = trainer_of(prepared, tmp_path)
    model, tokenizer = trainer.composite.model.eval(), prepared.tokenizer
    view = trainer.feed.at(0)[0].views["clean"]
    assert (view["input_ids"] == tokenizer.mask_token_id).sum(1).tolist() == [1] * len(view["input_ids"])
    all_BTV = type(model).forward(model, **view).logits
    scores_BV = torch.stack([row[ids == tokenizer.mask_token_id][0] for row, ids in zip(all_BTV, view["input_ids"])])
    bright, warm, dull = tokenizer.convert_tokens_to_ids(["bright", "warm", "dull"])
    assert prepared.task.labels.names == ("bad", "good")
    wanted_BC = torch.stack([scores_BV[:, dull], (scores_BV[:, bright] + scores_BV[:, warm]) / 2], dim=1)
    torch.testing.assert_close(model(**view).logits, wanted_BC)


@pytest.mark.parametrize("objective", ["[supervised]", "[supervised,masked_lm]"])
def test_a_run_is_proven_predicts_and_evaluates(objective: str, rows: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [word for word in PROMPT if word != "train.verify_model=off"]
    proven = (f"objective={objective}", "train.verify_model=here", f"run.dir={run}")
    assert cli.main(["train", *words, *rows, *proven]) == 0
    assert json.loads((run / "model" / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    file = tmp_path / "texts.csv"
    file.write_text("text,label\na warm film,good\nno joy,bad\n")
    assert cli.main(["predict", str(run), str(file), "-o", str(tmp_path / "out.csv")]) == 0
    assert "good" in (tmp_path / "out.csv").read_text()
    assert cli.main(["evaluate", str(run), f"data.test={file}"]) == 0
    # what fills masks is a start for another prompt
    shape = [word for word in words if "architecture" not in word and "vocab_size" not in word]
    prepared = prepared_of(*shape, *rows, "model=pretrained", f"model.path={run / 'model'}")
    assert trainer_of(prepared, tmp_path / "again").fit() is None


@pytest.fixture(scope="module")
def tokenizer(rows: list[str]):
    return prepared_of(*PROMPT, *rows).tokenizer


def test_only_texts_are_cut(tokenizer) -> None:
    encode = Template("{text} and {text_pair} ? {mask} it was").encoder(tokenizer)
    long, short = "dull slow grey film " * 30, "bright warm"
    whole = encode({"text": [long, short], "text_pair": [short, short]}, 24)
    first, second = (tokenizer.decode(ids) for ids in whole["input_ids"])
    assert len(whole["input_ids"][0]) == 24
    assert "bright warm" in first
    assert first.count("dull slow grey film") >= 2
    for text in (first, second):
        assert text.count(tokenizer.mask_token) == 1
    tail = tokenizer.decode(encode({"text": [""], "text_pair": [""]}, None)["input_ids"][0][-6:])
    assert first.endswith(tail)
    assert second.endswith(tail)


def test_a_mask_in_a_text_is_no_mask(tokenizer) -> None:
    encode = Template("{text} {mask}").encoder(tokenizer)
    (ids,) = encode({"text": [f"a {tokenizer.mask_token} film"]}, None)["input_ids"]
    assert ids.count(tokenizer.mask_token_id) == 1


@pytest.mark.parametrize("template", ["{text} only", "{mask} {mask} {text}", "{mask}", "{texts} {mask}"])
def test_templates_that_mean_nothing(template: str) -> None:
    with pytest.raises(ValueError, match=r"^template: "):
        parsed(template)


@pytest.mark.parametrize(("words", "said"), [
    (["task.verbaliser={good: bright, bat: dull}"], "did you mean 'bad'"),
    (["task.verbaliser='good: bright'"], "no word for bad"),
    (["task.verbaliser={good: bright, bad: slow film}"], "a mask stands for one token"),
    (["task.template='{text} {text_pair} {mask}'"], "names {text_pair}"),
    (["task.template='{text}'"], "such as"),
])  # fmt: skip
def test_what_cannot_be_asked_is_refused(words: list[str], said: str, rows: list[str]) -> None:
    with pytest.raises(UserError, match=said):
        prepared_of(*PROMPT, *rows, *words)


def test_a_model_without_a_language_head_is_refused(rows: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli.main(["train", *TINY, *rows, "train.max_steps=1", f"run.dir={run}"]) == 0
    shape = [word for word in PROMPT if "architecture" not in word and "vocab_size" not in word]
    with pytest.raises(UserError, match="no trained masked-language-model head"):
        prepared_of(*shape, *rows, "model=pretrained", f"model.path={run / 'model'}")


def test_a_character_of_several_tokens_is_cut_as_one() -> None:
    """Else nothing would get shorter, and a text of such characters would be cut for ever."""
    from llmtune.task.template import whole_end

    assert [whole_end([3, 3, 3, 4, 6, 6], keep) for keep in range(7)] == [0, 0, 0, 3, 4, 4, 6]
