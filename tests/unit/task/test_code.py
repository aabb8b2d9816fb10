"""Programs: rows, what is written, verdicts, scores; refusals that say what to type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from llmtune.config.locate import conf_dir
from llmtune.core.errors import ConfigError, DataError, Fault, ModelError
from llmtune.data.forms.programs import FILL, assembled
from llmtune.data.rows import RawSplits
from llmtune.scoring.predictions import Outcomes, Predictions
from llmtune.scoring.sandbox import Sandbox
from llmtune.task import code_trials
from llmtune.task.code import Code, CodeTask
from llmtune.task.code_rows import CodeEncoder

SHIPPED = yaml.safe_load((Path(conf_dir()) / "task" / "code.yaml").read_text())["task"]
ASKED = 'def add(a, b):\n    """The sum."""\n'
RIGHT, WRONG, BROKEN = "    return a + b\n", "    return a - b\n", "    return (a\n"
TEXTS = [ASKED + RIGHT, "for i in range(10):\n        print(i)\n", "Write a function that adds two numbers."] * 3
FIM = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]


def settings(**changed: Any) -> Code:
    return Code(**{**SHIPPED, **changed})


def byte_level() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "<s>", "</s>", *FIM], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def llama_like() -> Any:
    """A blank before every text, a token for the line feed, a begin token before and none behind."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace(prepend_scheme="first", split=False)]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="</s>", eos_token="</s>", bos_token="<s>")


def room(max_tokens: int) -> int:
    return min(20, max_tokens // 2)


def encoder_of(tokenizer: Any, template: str = "auto", form: str = "psm") -> CodeEncoder:
    return CodeEncoder(tokenizer, template=template, fim_tokens=FIM, fim_form=form, room=room)


def columns_of(*rows: tuple[str, str | None], **more: list[Any]) -> dict[str, list[Any]]:
    prompts, answers = zip(*rows)
    known = [None if answer is None else json.dumps([answer]) for answer in answers]
    return {"prompt": list(prompts), "response": known, **more}


@pytest.mark.parametrize("make", [byte_level, llama_like])
def test_what_is_learnt_is_the_answer_and_predict_asks_by_the_same_tokens(make: Any) -> None:
    tokenizer = make()
    encode = encoder_of(tokenizer)
    columns = columns_of((ASKED, RIGHT), ("Write a function that adds two numbers.", "def add(a, b):\n" + RIGHT))
    known = encode(columns, None)
    asked = encode({"prompt": columns["prompt"]}, None)
    assert "wanted" not in asked
    assert "target" not in asked
    for row in range(2):
        begin = known["asked"][row][0]
        assert known["input_ids"][row][:begin] == asked["input_ids"][row]
        target = known["target"][row]
        assert target == known["input_ids"][row][begin:]
        assert target[-1] == tokenizer.eos_token_id
        assert encode.text_of(target[:-1]) == json.loads(columns["response"][row])[0]
        assert sum(known["wanted"][row]) == len(target)


def test_what_stands_around_a_prompt() -> None:
    tokenizer = byte_level()
    word = "Write a function that adds two numbers."

    def shown(template: str, prompt: str, **more: Any) -> str:
        return tokenizer.decode(encoder_of(tokenizer, template)({"prompt": [prompt], **more}, None)["input_ids"][0])

    assert shown("auto", ASKED) == ASKED
    assert shown("auto", word) == f'"""\n{word}\n"""\n'
    tests = [json.dumps(["assert add(1, 2) == 3"])]
    assert shown("# {prompt}\\n# {tests}\\n", word, tests=tests) == f"# {word}\n# assert add(1, 2) == 3\n"
    assert shown("{prompt}", "a {tests} b", tests=tests) == "a {tests} b"
    chat = shown("chat", ASKED)
    assert "```python\n" + ASKED in chat
    assert "Complete this program" in chat
    assert "Complete" not in shown("chat", word)
    assert word in shown("chat", word)


def test_a_long_row_loses_the_beginning_of_its_prompt_and_nothing_of_its_answer() -> None:
    tokenizer = byte_level()
    encode = encoder_of(tokenizer)
    long = "".join(f"x{n} = {n}\n" for n in range(200)) + ASKED
    columns = columns_of((long, RIGHT), (f"a = {FILL}\n" + long, "1"))
    whole, cut = encode(columns, None), encode(columns, 60)
    for row in range(2):
        assert len(whole["input_ids"][row]) > 60 >= len(cut["input_ids"][row])
        assert cut["target"][row] == whole["target"][row]
    assert tokenizer.decode(cut["input_ids"][0][: cut["asked"][0][0]]).endswith(ASKED)
    short = encode({"prompt": [long]}, 40)
    assert len(short["input_ids"][0]) <= 40
    assert tokenizer.decode(short["input_ids"][0]).endswith(ASKED[-20:])


def test_gaps_are_written_with_the_tokens_that_the_model_has() -> None:
    tokenizer = byte_level()
    prefix, suffix, middle = tokenizer.convert_tokens_to_ids(FIM)
    prompt = f"def add(a, b):\n    return {FILL}\n"
    columns = columns_of((prompt, "a + b"))
    ids = encoder_of(tokenizer)(columns, None)["input_ids"][0]
    assert (ids[0], ids.count(suffix), ids.count(middle)) == (prefix, 1, 1)
    assert tokenizer.decode(ids[ids.index(middle) + 1 : -1]) == "a + b"
    first = encoder_of(tokenizer, form="spm")(columns, None)["input_ids"][0]
    assert first[:2] == [prefix, suffix]
    with pytest.raises(ConfigError, match=r"task.fim_tokens: not all .* train with task.fim_share=0.5"):
        encoder_of(llama_like())(columns, None)


def test_what_a_prompt_loses_does_not_tell_how_long_its_program_is() -> None:
    encode = encoder_of(byte_level())
    prompt = "x = 1\n" * 50 + ASKED
    found = []
    for answer in ("    pass\n", RIGHT):
        row = encode(columns_of((prompt, answer)), 60)
        found.append(row["input_ids"][0][: row["asked"][0][0]])
    assert 30 < len(found[0]) <= 40
    assert found[0] == found[1] == encode({"prompt": [prompt]}, 40)["input_ids"][0]


def test_a_model_must_know_where_a_text_ends() -> None:
    tokenizer = byte_level()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no token for the end of a text"):
        encoder_of(tokenizer)


# ---- what is written ----


def predictions_of(task: CodeTask, rows: list[dict[str, Any]], written: list[list[str] | None]) -> Predictions:
    tokenizer = byte_level()
    encode = task.encoder(tokenizer)
    outcomes = Outcomes(len(rows))
    for row, answers in enumerate(written):
        flat: list[int] = []
        for ids in encode.answers_of(answers or []):
            flat += [len(ids) - 1, *ids[:-1]]
        outcomes.put([row], [np.asarray([3.0, 2.0, 1.0, *([len(answers), *flat] if answers is not None else [])])])
    names = ("prompt", "response", "tests", "entry_point")
    columns = {name: [row.get(name) for row in rows] for name in names}
    places = {"file": ["rows.jsonl"] * len(rows), "line": list(range(1, len(rows) + 1))}
    return Predictions(datasets.Dataset.from_dict({**columns, **places}), outcomes)


def row(**more: Any) -> dict[str, Any]:
    tests = json.dumps(["assert add(1, 2) == 3"])
    return {"prompt": ASKED, "response": json.dumps([RIGHT]), "tests": tests, "entry_point": "add", **more}


@pytest.fixture(scope="module")
def contained() -> None:
    try:
        Sandbox()
    except ConfigError as error:
        pytest.skip(f"programs can't be contained here: {error}")


def test_programs_are_scored_and_told_with_their_verdicts(contained: None) -> None:
    task = CodeTask(settings(num_samples=4, temperature=0.8, pass_at=[1, 2, 4], metric="pass@1", test_workers=2))
    rows = [row(), row(tests=None), row(prompt="Add."), row()]
    written = [[WRONG, RIGHT, RIGHT, BROKEN], [RIGHT, RIGHT, RIGHT, BROKEN], ["def add(a, b):\n" + WRONG] * 4, None]
    predictions = predictions_of(task, rows, written)
    scores = task.score(predictions)
    assert scores["pass@1"] == pytest.approx((2 / 4 + 0) / 2)
    assert scores["pass@2"] == pytest.approx((1 - 1 / 6) / 2)
    assert scores["pass@4"] == pytest.approx(0.5)
    assert scores["syntax_rate"] == pytest.approx(10 / 12)
    assert scores["unfinished"] == 0.0
    assert scores["token_accuracy"] == pytest.approx(0.5)

    told = [one for chunk in predictions.chunks() for one in task.decode(chunk)]
    assert told[0]["verdict"] == "failed: AssertionError in: assert add(1, 2) == 3"
    assert [one["verdict"] for one in told[0]["samples"]][1:3] == ["passed", "passed"]
    assert told[0]["code"] == ASKED + WRONG
    assert told[0]["completion"] == WRONG
    assert told[1]["verdict"] is None
    assert told[1]["parses"] is True
    assert set(told[3].values()) == {None}
    assert task.table(told[1]) == [ASKED + RIGHT, None, True]

    report = task.judge(predictions, 5)
    assert [(one["line"], one["reason"]) for one in report["worst"]] == [
        (3, "AssertionError in: assert add(1, 2) == 3")
    ]
    assert dict(report["tables"][0]["rows"]) == {
        "AssertionError": 5, "parses": 3, "passed": 2, "SyntaxError": 1, "does not parse": 1,
    }  # fmt: skip
    assert any("no sockets" in line for line in report["sandbox"])
    json.dumps(report)


def test_nothing_written_is_no_program(contained: None) -> None:
    task = CodeTask(settings())
    assert task.score(predictions_of(task, [row(tests=None)], [["  \n"]]))["syntax_rate"] == 0.0


def test_tests_are_not_run_where_they_must_not_or_can_not_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise ConfigError(Fault("task.run_tests", "programs can't be contained"))

    monkeypatch.setattr(code_trials, "Sandbox", refuse)
    for how in ("never", "auto"):
        task = CodeTask(settings(run_tests=how))
        predictions = predictions_of(task, [row()], [[RIGHT]])
        assert "pass@1" not in task.score(predictions)
        (told,) = [one for chunk in predictions.chunks() for one in task.decode(chunk)]
        assert told["verdict"] is None
        assert told["parses"] is True
        assert "sandbox" not in task.judge(predictions, 1)
        assert capsys.readouterr().err.count("tests are not run: task.run_tests: programs can't") == (how == "auto")
    raw = RawSplits({"train": datasets.Dataset.from_list([row()])}, {}, "")
    (warning,) = CodeTask(settings(run_tests="auto")).read_labels(raw, None, None).warnings
    assert warning.startswith("tests of train are not run: task.run_tests: programs can't be contained")
    for changed in ({"run_tests": "always"}, {"metric": "pass@1"}):
        with pytest.raises(ConfigError, match="can't be contained"):
            CodeTask(settings(**changed)).read_labels(raw, None, None)


# ---- settings and rows ----


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"template": "Write it"}, "template: .* {prompt} stands once"),
        ({"num_samples": 3}, "num_samples: 3, .* type task.temperature=0.8"),
        ({"pass_at": [2]}, "pass_at: 2 is out of range"),
        ({"metric": "pass@1", "run_tests": "never"}, "type task.run_tests=always"),
        ({"metric": "pass@3"}, "metric: 'pass@3' is not known"),
        ({"metric": "syntax_rate", "generate_rows": 0}, "type task.metric=loss"),
        ({"fim_tokens": ["<a>", "<b>"]}, "three are needed"),
        ({"fim_form": "mps"}, "fim_form: 'mps' is not known"),
        ({"test_workers": 0}, "test_workers: 0 is too small"),
        ({"test_seconds": 0}, "test_seconds: 0 is too small"),
    ],
)
def test_settings_that_can_not_be(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        settings(**changed)


def test_rows_without_what_is_to_be_learnt_or_scored_are_refused(contained: None) -> None:
    bare = datasets.Dataset.from_list([{"prompt": ASKED}])
    with pytest.raises(DataError, match=r"data.columns.response: .* type data.columns.response=NAME"):
        CodeTask(settings()).read_labels(RawSplits({"train": bare}, {}, ""), None, None)
    with pytest.raises(ConfigError, match="pass@1, and no row of validation has tests"):
        CodeTask(settings(metric="pass@1")).read_labels(RawSplits({"validation": bare}, {}, ""), None, None)
    trained = CodeTask(settings(fim_share=1.0))
    trained.restore(CodeTask(settings()).to_json())
    rows = datasets.Dataset.from_list([row()])
    raw = RawSplits({"train": rows}, {}, "")
    trained.read_labels(raw, None, None)
    assert raw.splits["train"]["prompt"] == rows["prompt"]  # only what is learnt from has gaps


def test_gaps_bring_their_tokens_and_only_where_there_are_any() -> None:
    rows = datasets.Dataset.from_list([row() for _ in range(20)])
    plain, filled = CodeTask(settings(run_tests="never")), CodeTask(settings(run_tests="never", fim_share=1.0))
    for task, tokens in ((plain, ()), (filled, tuple(FIM))):
        raw = RawSplits({"train": rows, "validation": rows}, {}, "")
        task.read_labels(raw, None, None)
        assert task.new_tokens == tokens
        assert all(FILL in prompt for prompt in raw.splits["train"]["prompt"]) is bool(tokens)
        assert not any(FILL in prompt for prompt in raw.splits["validation"]["prompt"])
        answers = zip(raw.splits["train"]["prompt"], raw.splits["train"]["response"])
        assert {assembled(prompt, json.loads(kept)[0]) for prompt, kept in answers} == {ASKED + RIGHT}
