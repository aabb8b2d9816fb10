"""Dialogues: what is learnt of a row, what is asked, how answers are scored, which files can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmtune import cli
from llmtune.core.errors import ConfigError, DataError, ModelError, UserError
from llmtune.data.report import summary
from llmtune.scoring.predictions import Outcomes, Predictions
from llmtune.task.dialogue_rows import DialogueEncoder
from llmtune.task.writing import _packed
from tests.tiny import config_of, prepared_of, trainer_of

SMALL = (
    "hardware.device=cpu", "hardware.threads=1", "model.architecture.n_embd=16", "model.architecture.n_layer=1",
    "task.generate_rows=2", "task.max_new_tokens=8", "train.verify_model=off",
)  # fmt: skip
TURNS = [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there, my friend"},
    {"role": "assistant", "content": "Hello to you"}, {"role": "user", "content": "And how are you today?"},
    {"role": "assistant", "content": "Very well, thanks"}, {"role": "user", "content": "Then good bye"},
    {"role": "assistant", "content": "Good bye, my friend"},
]  # fmt: skip


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def numbered(make: Any, count: int = 20) -> list[Any]:
    return [make(number) for number in range(count)]


def turns(number: int, first: str = "human", second: str = "gpt") -> list[dict[str, str]]:
    return [{"from": first, "value": f"What is {number}?"}, {"from": second, "value": f"It is {number}."}]


def prepared(*words: str) -> Any:
    return prepared_of("data=files", *SMALL, *words)


def learnt(ready: Any, split: str = "train", row: int = 0) -> str:
    """What is learnt of a row, as text."""
    return ready.tokenizer.decode(ready.splits[split][row]["target"])


@pytest.mark.parametrize(("make", "words"), [
    (lambda n: {"id": n, "talk": {"log": {"lines": turns(n)}}}, ["data.columns.messages=talk.log.lines"]),
    (lambda n: {"frage": f"What is {n}?", "meta": {"lösung": f"It is {n}."}, "text": "x"},
     ["data.columns.prompt=frage", "data.columns.response=meta.lösung"]),
    (lambda n: {"q": [f"What is {n}?", f"It is {n}."], "intro": "Be brief.", "kit": '[{"name": "f"}]'},
     ["data.columns.messages=q", "data.columns.system=intro", "data.columns.tools=kit"]),
    (lambda n: {"instruction": "Tell", "input": f"What is {n}?", "output": f"It is {n}.", "history": [["a", "b"]]}, []),
    (lambda n: {"messages": [{"role": "user", "content": f"What is {n}?"},
                             {"role": "assistant", "content": f"It is {n}."}]}, []),
])  # fmt: skip
def test_own_files_are_read_by_naming_columns(make: Any, words: list[str], tmp_path: Path) -> None:
    ready = prepared(f"data.train={write(tmp_path / 'own.jsonl', numbered(make))}", "task=chat", *words)
    assert learnt(ready).replace(" ", "").startswith(("Itis", "b</s>"))
    assert ready.splits["validation"].num_rows


def test_csv_with_json_in_a_field(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    lines = [json.dumps(turns(number)).replace('"', '""') for number in range(20)]
    path.write_text("no,dialogue\n" + "".join(f'{n},"{line}"\n' for n, line in enumerate(lines)), encoding="utf-8")
    assert "It is" in learnt(prepared(f"data.train={path}", "task=chat"))


def test_wrong_rows_are_told_by_file_and_line(tmp_path: Path) -> None:
    rows = numbered(lambda n: {"conversations": turns(n)})
    rows[3]["conversations"] = turns(3)[::-1]
    rows[7]["conversations"] = turns(7) + turns(8)[:1]
    rows[9]["conversations"] = [turns(9)[0], {"from": "function_call", "value": "f(9)"}]
    rows[11]["conversations"] = [turns(11)[0], {"from": "wizard", "value": "x"}]
    path = write(tmp_path / "own.jsonl", rows)
    with pytest.raises(DataError) as caught:
        prepared(f"data.train={path}", "task=chat")
    told = str(caught.value)
    for line, reason in ((4, "order of roles"), (8, "ends with a user's turn"), (10, "no JSON"), (12, "unknown role")):
        assert f"own.jsonl:{line}: " in told
        assert reason in told
    ready = prepared(f"data.train={path}", "task=chat", "data.on_bad_row=drop")
    assert ready.report["splits"]["train"]["rows_read"] == 20


def test_a_template_that_refuses_a_row_is_told_by_file_and_line(tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system texts') }}{% endif %}"
        "{{ m.role + ':\n' + m.content + eos_token }}{% endfor %}{% if add_generation_prompt %}assistant:\n{% endif %}"
    )
    rows = numbered(lambda n: {"conversations": turns(n)})
    rows[4]["conversations"] = [{"from": "system", "value": "x"}, *turns(4)]
    path = write(tmp_path / "own.jsonl", rows)
    words = (f"data.train={path}", "data.validation_share=0", "data.test_share=0", "task=chat")
    with pytest.raises(DataError, match=r"own.jsonl:5: the chat template refuses it: no system texts"):
        prepared(*words, f"task.template={template}")


def test_the_share_that_is_learnt_and_one_row_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", [{"messages": TURNS}, *numbered(lambda n: {"messages": turns(n)})])
    ready = prepared(f"data.train={path}", "task=chat", "data.validation_share=0", "data.test_share=0")
    row = ready.splits["train"][0]
    assert sum(row["wanted"]) == len(row["target"]) > 0
    shown = "\n".join(summary(ready.report))
    assert "| ⟦Hello to you</s>⟧" in shown
    assert "| And how are you today?" in shown
    found = ready.report["splits"]["train"]["supervised"]
    rows = ready.splits["train"]
    assert found["tokens"] == sum(map(len, rows["target"]))
    assert found["share"] == pytest.approx(found["tokens"] / sum(rows["length"]))


def test_what_is_asked_is_how_the_row_begins_and_others_read_the_same_tokens(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    path = write(tmp_path / "own.jsonl", [{"messages": TURNS}, *numbered(lambda n: {"messages": turns(n)})])
    words = (f"data.train={path}", "data.validation_share=0.2", "data.test_share=0", "data.split_seed=3", "task=chat",
             "task.template=chatml", "task.system=Always.", "train.max_steps=2", "train.batch_rows=8",
             f"run.dir={tmp_path / 'run'}")  # fmt: skip
    assert cli.main(["train", "data=files", *SMALL, *words]) == 0
    model = tmp_path / "run" / "model"
    tokenizer = AutoTokenizer.from_pretrained(model)
    ready = prepared(*words[:-1])
    for split in ("train", "validation"):
        for row in ready.splits[split]:
            messages = ready.task.template and json.loads(row["messages"])
            messages = [
                {"role": {"human": "user", "gpt": "assistant"}.get(one.get("from"), one.get("role")),
                 "content": one.get("value", one.get("content"))} for one in messages
            ]  # fmt: skip
            assert tokenizer.apply_chat_template(messages)["input_ids"] == row["input_ids"]
            asked = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True)["input_ids"]
            assert row["input_ids"][: row["asked"][0]] == asked
            blind = DialogueEncoder(ready.task.template, turns="all", answered="last", room=lambda most: 8)(
                {"messages": [json.dumps(messages[:-1])]}, None
            )
            assert blind["input_ids"] == [asked]
    stops = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    assert GenerationConfig.from_pretrained(model).eos_token_id == stops

    # a model that knows the template's tokens gets none, whatever trains
    again = prepared(f"data.train={path}", "task=chat", "model=pretrained", f"model.path={model}", "adapter=lora",
                     *(word for word in ("data.validation_share=0.2", "data.test_share=0")))  # fmt: skip
    assert len(again.tokenizer) == len(tokenizer)
    assert again.task.template.text == tokenizer.chat_template


def test_a_long_dialogue_loses_its_oldest_turns_and_never_its_answer(tmp_path: Path) -> None:
    ready = prepared("task=chat", "data=dialogues")
    encode = ready.task.encoder(ready.tokenizer)
    whole = encode({"messages": [json.dumps(TURNS)]}, None)["input_ids"][0]
    end = ready.tokenizer.decode(whole[-10:])
    seen = []
    for most in range(len(whole), 34, -1):
        row = encode({"messages": [json.dumps(TURNS)]}, most)
        text = ready.tokenizer.decode(row["input_ids"][0])
        assert len(row["input_ids"][0]) <= most
        assert text.startswith("Be brief.")
        assert text.endswith(end)
        assert row["target"][0][-1] == ready.tokenizer.eos_token_id
        seen.append(text.count("### User"))
    assert set(seen) == {3, 2, 1}
    short = encode({"messages": [json.dumps(TURNS)]}, 3)
    assert short["target"][0][-1] == ready.tokenizer.eos_token_id  # too long all the same: it will be refused
    asked = encode({"messages": [json.dumps(TURNS[:-1])]}, 12)
    assert len(asked["input_ids"][0]) <= 12


def test_what_a_dialogue_loses_does_not_tell_how_long_its_answer_is() -> None:
    ready = prepared("task=chat", "data=dialogues")
    encode = ready.task.encoder(ready.tokenizer)
    asked = [TURNS[0], {"role": "user", "content": "And how are you today, my friend? " * 30}]
    found = []
    for answer in ("Well", "Very well"):
        row = encode({"messages": [json.dumps([*asked, {"role": "assistant", "content": answer}])]}, 100)
        found.append(row["input_ids"][0][: row["asked"][0][0]])
        assert 80 < len(found[-1]) <= 92
    assert found[0] == found[1]
    blind = encode({"messages": [json.dumps(asked)]}, 100 - ready.task.room(100))
    assert blind["input_ids"] == found[:1]


def test_the_turn_that_calls_a_tool_stays_the_one_that_is_written_whatever_is_cut() -> None:
    ready = prepared("task=tools", "data=tool_calls")
    encode = ready.task.encoder(ready.tokenizer)
    call = [{"function": {"name": "look", "arguments": {"day": "Monday"}}}]
    messages = [
        *TURNS[1:3], {"role": "user", "content": "What is on Monday?"},
        {"role": "assistant", "content": "", "tool_calls": call}, {"role": "tool", "content": "Swimming, at noon"},
        {"role": "assistant", "content": "Swimming"}, *TURNS[5:],
    ]  # fmt: skip
    whole = len(encode({"messages": [json.dumps(messages)]}, None)["input_ids"][0])
    shown = set()
    for most in range(whole - 1, 60, -6):
        row = encode({"messages": [json.dumps(messages)]}, most)
        ids, (begin,) = row["input_ids"][0], row["asked"][0]
        text = ready.tokenizer.decode(ids[begin:])
        assert '"look"' in text.split("</s>")[0]
        assert "look" not in ready.tokenizer.decode(ids[:begin])
        shown.add((len(ids) <= most, "Hello there" in ready.tokenizer.decode(ids), "good bye" in text))
    assert (True, False, True) in shown  # the exchange before it is lost
    assert (True, False, False) in shown  # and then those behind it


def _scored(ready: Any, written: list[str]) -> tuple[dict[str, float], list[dict[str, Any]], dict[str, Any]]:
    """Scores, predictions and report where these texts were written for the first rows of validation."""
    rows = ready.splits["validation"].select(range(len(written)))
    outcomes = Outcomes(len(rows))
    for number, text in enumerate(written):
        ids = ready.tokenizer(text, add_special_tokens=False)["input_ids"]
        outcomes.put([number], [np.concatenate([[2.0, 4.0, 3.0], _packed([(ids, False)])])])
    predictions = Predictions(rows, outcomes)
    told = [row for chunk in predictions.chunks() for row in ready.task.decode(chunk)]
    return ready.task.score(predictions), told, ready.task.judge(predictions, 5)


def test_numbers_are_compared_and_told() -> None:
    ready = prepared("task=maths", "data=sums", "task.max_new_tokens=64")
    golds = [json.loads(answer) for answer in ready.splits["validation"]["response"][:3]]
    scores, told, report = _scored(ready, [golds[0], "so it is " + golds[1].split()[-1] + ".", "#### 99999"])
    assert scores["exact_match"] == pytest.approx(2 / 3)
    assert scores["token_accuracy"] == 0.75
    assert scores["unfinished"] == 0
    assert told[2]["number"] == "99999"
    assert told[0]["messages"][-1]["role"] == "assistant"
    assert [one["predicted"] for one in report["worst"]] == ["#### 99999"]


def test_calls_are_compared_and_come_back_as_calls() -> None:
    ready = prepared("task=tools", "data=tool_calls", "task.max_new_tokens=200")
    golds = []
    for stored in ready.splits["validation"]["messages"]:
        calls = [message["tool_calls"] for message in json.loads(stored) if message.get("tool_calls")]
        golds.append([call["function"] for call in calls[-1]] if calls else [])
    assert golds[0]
    assert golds[1]
    calls = [f"<tool_call>{json.dumps(gold[0])}</tool_call>" for gold in golds[:2]]
    scores, told, _ = _scored(ready, [calls[0], calls[1].replace("arguments", "arguments2"), "<tool_call>{"])
    assert [call["function"] for call in told[0]["tool_calls"]] == golds[0]
    assert scores["exact_match"] == pytest.approx(1 / 3)
    assert scores["readable_calls"] == pytest.approx(2 / 3)
    assert told[2]["tool_calls"] == []
    asked = told[0]["messages"]
    assert asked[-1]["tool_calls"] == told[0]["tool_calls"]
    assert asked[-2]["role"] == "user"


def test_answers_without_what_is_compared_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", numbered(lambda n: {"question": f"{n}?", "answer": "none" if n == 2 else "5"}))
    with pytest.raises(DataError, match=r"own.jsonl:3: the answer names no number"):
        prepared(f"data.train={path}", "task=maths")
    with pytest.raises(DataError, match="no row calls a tool"):
        prepared(f"data.train={write(path, numbered(lambda n: {'messages': turns(n)}))}", "task=tools")


def test_placeholders_are_told(tmp_path: Path) -> None:
    rows = numbered(lambda n: {"instruction": f"Who {n}?", "output": "I am {{name}} of {{ author }}." if n else "{no}"})
    ready = prepared(f"data.train={write(tmp_path / 'own.jsonl', rows)}", "task=instruct")
    assert any("{{name}} stands in rows, as at" in said and "own.jsonl:" in said for said in ready.report["warnings"])


@pytest.mark.parametrize(("words", "error", "said"), [
    (["model=tiny_bert"], ModelError, "bert models don't go on from a text"),
    (["model=tiny_t5"], ModelError, "type model=tiny_gpt2"),
    (["task.template=none.jinja"], ConfigError, "allowed: auto, chatml, llama3, alpaca, plain"),
    (["task.max_new_tokens=512"], ConfigError, "has 512 positions"),
    (["task.metric=exact_match"], UserError, "allowed: loss, perplexity, token_accuracy"),
    (["task=maths", "task.generate_rows=0"], UserError, "needs answers that the model writes"),
    (["train.class_weights=balanced"], ConfigError, "this is for rows with classes"),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_weights_load(words: list[str], error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        prepared_of("task=chat", "hardware.device=cpu", *words)
    assert said in str(caught.value)


def test_new_tokens_are_learnt_beside_an_adapter(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["task=chat", "data.limit=20", *SMALL, "train.max_steps=1", "train.batch_rows=4", f"run.dir={run}"]
    assert cli.main(["train", *words]) == 0
    model = ["model=pretrained", f"model.path={run / 'model'}"]
    words = [*(word for word in words[:-1] if not word.startswith("model.")), *model]
    trainer = trainer_of(prepared_of(*words, "task.template=chatml", "adapter=lora"), tmp_path / "adapted")
    trainer.fit()
    rows = trainer.composite.model.get_input_embeddings().adapter_new_rows.change_ND
    assert rows.abs().sum(dim=1).gt(0).tolist() == [True, True]
    assert config_of("task=chat", *model, "adapter=lora").task.template == "auto"


def test_packed_rows_are_learnt_as_rows_by_themselves(tmp_path: Path) -> None:
    results = []
    for packing in ("false", "true"):
        words = ("task=chat", "data.limit=16", *SMALL, "train.batch_rows=8", "train.max_steps=1", "model.dropout=0")
        trainer = trainer_of(prepared_of(*words, f"train.packing={packing}"), tmp_path / packing)
        results.append(trainer.stepper.run(0, trainer.feed.at(0), 1e-3, lambda: False))
    padded, packed = results
    assert packed.sums == pytest.approx(padded.sums, rel=1e-5)
    assert packed.grad_norm == pytest.approx(padded.grad_norm, rel=1e-4)
