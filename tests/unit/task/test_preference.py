"""Tuning by preferences: what rows become, what the reference is, and that nothing hangs on how a step is cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from llmtune import cli
from llmtune.core.errors import ConfigError, DataError, ModelError, Stopped
from llmtune.data.batches.feed import table_of
from llmtune.inference.predictor import Predictor
from llmtune.inference.run_folder import find_model, settings_of
from llmtune.run.checkpoint import CheckpointStore
from llmtune.run.signals import StopRequest
from llmtune.task import preference_encoding
from llmtune.task.preference_encoding import CHOSEN, MISMATCHED, REJECTED, UNWANTED, WANTED
from llmtune.training.evaluation import evaluate
from llmtune.training.trainer import Trainer
from tests.tiny import prepared_of, sha_of, trainer_of

SMALL = (
    "model.architecture.n_embd=32", "model.tokenizer.vocab_size=400", "train.verify_model=off", "hardware.device=cpu",
    "hardware.threads=1", "train.log_every=1", "optimizer.lr=0.003", "model.dropout=0", "data.limit=24",
    "train.batch_rows=12", "data.max_truncated_share=1",
)  # fmt: skip
TASKS = {
    "dpo": ("task=preference",), "ipo": ("task=preference", "task.loss=ipo"),
    "simpo": ("task=preference", "task.loss=simpo"), "orpo": ("task=preference", "task.loss=orpo"),
    "kto of pairs": ("task=preference", "task.loss=kto"), "kto": ("task=kto",), "smoothed": (
        "task=preference", "task.label_smoothing=0.1"),
    "reward": ("task=reward", "model=tiny_gpt2"),
}  # fmt: skip


def _trainer(folder: Path, *words: str, stop: StopRequest | None = None) -> Trainer:
    return trainer_of(prepared_of(*SMALL, *words), folder, stop)


def _scores(trainer: Trainer) -> dict[str, float]:
    done = evaluate(trainer.composite.model, trainer.validation, trainer.machine, trainer.task)
    return done.scores


@pytest.mark.parametrize("name", TASKS)
def test_a_step_is_the_same_in_one_pass_and_in_three(name: str, tmp_path: Path) -> None:
    results = []
    for micro_rows in (12, 4):
        trainer = _trainer(tmp_path / str(micro_rows), *TASKS[name], f"train.micro_rows={micro_rows}")
        trainer.stepper.run(0, trainer.feed.at(0), 1e-2, lambda: False)
        results.append(trainer.stepper.run(1, trainer.feed.at(1), 1e-3, lambda: False))
    whole, split = results
    assert whole.grad_norm > 0
    assert split.grad_norm == pytest.approx(whole.grad_norm, rel=5e-4)
    assert split.sums == pytest.approx(whole.sums, rel=5e-5)


def test_before_the_first_step_the_model_is_its_own_reference(tmp_path: Path) -> None:
    for words in (TASKS["dpo"], TASKS["kto"], (*TASKS["dpo"], "adapter=lora")):
        trainer = _trainer(tmp_path, *words)
        found = _scores(trainer)
        rewards = [value for name, value in found.items() if name.endswith("_reward")]
        assert rewards == pytest.approx([0, 0], abs=1e-4)
        assert found.get("reward_accuracy", found.get("reward_auc")) == 0.5  # what is left is rounding
        assert found["loss"] == pytest.approx(np.log(2) if "reward_margin" in found else 0.5, abs=1e-4)


def test_the_reference_stays_what_it_was(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, *TASKS["dpo"])
    before = _scores(trainer)
    for step in range(4):
        trainer.stepper.run(step, trainer.feed.at(step), 1e-2, lambda: False)
    after = _scores(trainer)
    assert after["reward_margin"] > 0.2
    moved = after["chosen_logp"] - before["chosen_logp"]
    assert after["chosen_reward"] == pytest.approx(0.1 * moved, abs=1e-3)


@pytest.mark.parametrize("words", [
    ("adapter=lora",), ("adapter=lora", "task.loss=simpo"), ("freeze_policy=gradual",), ("freeze_policy=top_layers",),
    ("freeze_policy=head_only", "model.architecture.tie_word_embeddings=false"), ("adapter=bottleneck",),
    ("objective=[supervised,r_drop]", "model.dropout=0.1"),
])  # fmt: skip
def test_what_trains_may_be_a_part(words: tuple[str, ...], tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, "task=preference", *words, "train.max_steps=2")
    trainer.fit()
    assert np.isfinite(trainer.state.best_score)


class _StopAt(StopRequest):
    def __init__(self, looks: int):
        self.left = looks

    @property
    def name(self) -> str | None:  # type: ignore[override]
        self.left -= 1
        return "SIGTERM" if self.left < 0 else None


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_stopped_and_gone_on_with_equals_unstopped(name: str, tmp_path: Path) -> None:
    words = (*TASKS[name], "train.max_steps=6", "train.micro_rows=4", "train.eval_every=3", "train.save_every=2")
    whole = _trainer(tmp_path / "whole", *words)
    whole.fit()
    with pytest.raises(Stopped):
        _trainer(tmp_path / "cut", *words, stop=_StopAt(40)).fit()
    again = _trainer(tmp_path / "cut", *words)  # a task of its own: its reference is made anew
    checkpoint = CheckpointStore(tmp_path / "cut" / "checkpoints", keep=2).newest_good(print)
    assert checkpoint is not None
    again.resume(checkpoint)
    assert 0 < again.state.step < 6
    again.fit()
    for place in ("checkpoints/step-000006/model.safetensors", "metrics.jsonl"):
        assert sha_of(tmp_path / "cut" / place) == sha_of(tmp_path / "whole" / place)


def _files(folder: Path, rows: list[dict[str, Any]], split: str = "train") -> str:
    path = folder / f"{split}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"data.{split}={path}"


SHARES = ("data=files", "data.validation_share=0.2", "data.test_share=0")


def _asked(number: int) -> str:
    return f"Please tell me about number {number} and its neighbours."


OWN_FORMATS = {
    "columns of other names": (
        lambda i: {"frage": _asked(i), "besser": f"It is {i}, gladly.", "schlechter": f"No {i}."},
        ("data.columns.prompt=frage", "data.columns.chosen=besser", "data.columns.rejected=schlechter"),
    ),
    "nested in lists": (
        lambda i: {"request": {"turns": [{"speaker": "human", "text": _asked(i)}]},
                   "answers": [{"text": f"It is {i}, gladly."}, {"text": f"No {i}."}], "votes": [7, 2]},
        ("data.columns.messages=request.turns", "data.columns.chosen=answers.0.text",
         "data.columns.rejected=answers.1.text"),
    ),
    "whole dialogues": (
        lambda i: {"win": [{"role": "user", "content": _asked(i)}, {"role": "assistant", "content": f"Yes, {i}."}],
                   "lose": [{"role": "user", "content": _asked(i)}, {"role": "assistant", "content": f"No {i}."}]},
        ("data.columns.chosen=win", "data.columns.rejected=lose"),
    ),
    "thumbs": (
        lambda i: {"q": _asked(i), "a": f"It is {i}." if i % 2 else f"No {i}.", "thumb": "yes" if i % 2 else "no"},
        ("data.columns.prompt=q", "data.columns.response=a", "data.columns.label=thumb", "task.loss=kto"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", OWN_FORMATS)
def test_rows_of_ones_own_need_no_more_than_names_of_columns(form: str, tmp_path: Path) -> None:
    row, words = OWN_FORMATS[form]
    named = _files(tmp_path, [row(i) for i in range(30)])
    prepared = prepared_of("task=preference", *SMALL, *SHARES, named, *words)
    facts = prepared.report["splits"]["train"]["labels"]["counts"]
    assert sum(facts.values()) == len(prepared.splits["train"]) == 24


def test_sequences_are_prompt_and_answer_and_only_the_answer_counts(tmp_path: Path) -> None:
    rows = [{"prompt": _asked(i), "chosen": f"Gladly, it is {i}.", "rejected": "No."} for i in range(30)]
    prepared = prepared_of("task=preference", *SMALL, *SHARES, _files(tmp_path, rows), "data.limit=null")
    tokenizer, row = prepared.tokenizer, prepared.splits["train"].with_format(None)[0]
    first, second = row["cuts"]
    assert row["kind"] == [CHOSEN, REJECTED]
    chosen = json.loads(row["chosen"])
    turns = [{"role": "user", "content": json.loads(row["prompt"])}, {"role": "assistant", "content": chosen}]
    # the same ids as transformers makes of the saved tokenizer
    ids = tokenizer.apply_chat_template(turns, return_dict=False)
    assert row["input_ids"][:first] == ids
    learnt = [row["input_ids"][place + 1] for place, one in enumerate(row["wanted"][:first]) if one]
    assert tokenizer.decode(learnt[:-1]).strip() == chosen.lower()
    assert learnt[-1] == tokenizer.eos_token_id
    assert len(row["target"]) == sum(row["wanted"])
    assert second < first


def test_cutting_takes_the_oldest_turns_and_no_answer(tmp_path: Path) -> None:
    turns = [{"role": role, "content": f"{word} " * 12} for word, role in (
        ("first", "user"), ("second", "assistant"), ("third", "user"), ("fourth", "assistant"), ("last", "user"))]
    rows = [{"messages": turns, "chosen": f"gladly {i}", "rejected": f"never {i}"} for i in range(12)]
    prepared = prepared_of("task=preference", *SMALL, *SHARES, _files(tmp_path, rows), "data.max_tokens=40")
    row = prepared.splits["train"].with_format(None)[0]
    text = prepared.tokenizer.decode(row["input_ids"][: row["cuts"][0]])
    assert "first" not in text
    assert "last" in text
    assert json.loads(row["chosen"]) in text
    assert max(row["cuts"]) <= 40
    rows[3]["chosen"] = "far too long " * 30
    with pytest.raises(DataError, match=r"train\.jsonl:4: the answer is too long"):
        prepared_of("task=preference", *SMALL, *SHARES, _files(tmp_path, rows), "data.max_tokens=40")


def test_a_trained_model_takes_answers_of_any_length_and_its_own_template(tmp_path: Path) -> None:
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
                        "{% if add_generation_prompt %}assistant: {% endif %}")  # fmt: skip
    words = ("task=preference", *SMALL, "data.max_tokens=256", f"task.template={template}", "train.max_steps=1")
    run = tmp_path / "run"
    assert cli.main(["train", *words, f"run.dir={run}"]) == 0
    template.unlink()
    place = find_model(str(run))
    predictor = Predictor(place, settings_of(place, []))
    long = {"prompt": ['"Where is the pool?"'], "chosen": [json.dumps("Over there. " * 400)], "rejected": ['"No."']}
    (told,) = predictor.predict(long)
    assert told["by"] == "logp_per_token"
    assert 200 < told["tokens"][0] < 256
    tokens = predictor.encode(long)
    assert tokens["cuts"][0][0] == 256
    assert predictor.tokenizer.decode(tokens["input_ids"][0][:4]).startswith("user:")


def test_every_row_of_kto_has_an_answer_to_another_prompt(tmp_path: Path) -> None:
    prepared = prepared_of("task=kto", *SMALL)
    for row in prepared.splits["train"].with_format(None):
        assert row["kind"][0] in (WANTED, UNWANTED)
        assert row["kind"][1:] == [MISMATCHED]
        own, other = (json.loads(row[name]) for name in ("response", "other"))
        assert other[0]["content"] != own
    batch = table_of(prepared.splits["train"], prepared.tokenizer, prepared.task).batch([0, 1], None)
    assert batch.targets["kind"].tolist()[1::2] == [MISMATCHED, MISMATCHED]
    assert torch.isnan(batch.targets["reference"]).all()


def test_other_answers_are_of_rows_with_other_prompts_however_many_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answers = [f"Q{row % 7}" for row in range(50)] + ["Alone?"], [f"A{row}" for row in range(51)]
    rows = datasets.Dataset.from_dict({
        "prompt": [json.dumps(one) for one in asked], "response": [json.dumps(one) for one in answers],
        "label": ['"true"'] * 51,
    })  # fmt: skip
    found = list(preference_encoding.preferences(rows))
    drawn = preference_encoding.mismatched([preference_encoding.prompt_key(one.prompt) for one in found])
    assert all(other is not None and asked[other] != asked[row] for row, other in enumerate(drawn))
    for held in (7, 1000):
        monkeypatch.setattr(preference_encoding, "HELD", held)
        given = list(preference_encoding.first_answers(rows, [None, *drawn[1:]]))
        assert given == [None, *(found[other].answers[0] for other in drawn[1:] if other is not None)]
    assert preference_encoding.mismatched([5] * 9) == [None] * 9
    assert preference_encoding.mismatched([]) == []


BAD_ROWS = [
    ({"prompt": "Q?", "chosen": "Same.", "rejected": "Same."}, "chosen equals rejected"),
    ({"prompt": "Q?", "chosen": "Yes.", "rejected": ""}, "no rejected answer"),
    ({"prompt": "", "chosen": "Yes.", "rejected": "No."}, "no prompt"),
    ({"prompt": "Q?", "chosen": [{"role": "user", "content": "Yes."}], "rejected": "No."}, "one is a whole dialogue"),
]


def test_bad_rows_are_told_by_file_and_line(tmp_path: Path) -> None:
    good = [{"prompt": _asked(i), "chosen": f"Yes {i}.", "rejected": f"No {i}."} for i in range(20)]
    named = _files(tmp_path, [*good, *(row for row, _ in BAD_ROWS)])
    with pytest.raises(DataError) as caught:
        prepared_of("task=preference", *SMALL, *SHARES, named)
    for line, (_, reason) in enumerate(BAD_ROWS, 21):
        assert any(f"train.jsonl:{line}: " in text and reason in text for text in str(caught.value).splitlines())


def test_labels_that_say_nothing_are_told(tmp_path: Path) -> None:
    rows = [{"prompt": _asked(i), "response": f"Yes {i}.", "label": True} for i in range(20)]
    with pytest.raises(DataError, match="every label is true"):
        prepared_of("task=kto", *SMALL, *SHARES, _files(tmp_path, rows))
    rows[2]["label"] = "perhaps"
    with pytest.raises(DataError, match=r"train\.jsonl:3: the label 'perhaps' is neither true nor false"):
        prepared_of("task=kto", *SMALL, *SHARES, _files(tmp_path, rows))
    with pytest.raises(ConfigError, match=r"type task\.loss=kto"):
        prepared_of("task=preference", *SMALL, *SHARES, _files(tmp_path, [r for r in rows if r["label"] is True]))
    rows = [{name: value for name, value in row.items() if name != "label"} for row in rows]
    with pytest.raises(DataError, match="20 of 20 rows have one answer and no label"):
        prepared_of("task=kto", *SMALL, *SHARES, "data.columns.label=null", _files(tmp_path, rows), "data.limit=null",
                    "data.validation_share=0")
    with pytest.raises(DataError, match="no answer: neither chosen and rejected"):
        prepared_of("task=preference", *SMALL, *SHARES, _files(tmp_path, [{"prompt": _asked(i)} for i in range(9)]))


def test_models_and_settings_that_do_not_fit_are_refused() -> None:
    for model in ("tiny_bert", "tiny_t5"):
        with pytest.raises(ModelError, match="preferences fit decoders"):
            prepared_of("task=preference", f"model={model}", "data.limit=24", "hardware.device=cpu")
    for word, reason in (("task.loss=ppo", "ppo"), ("task.beta=0", "beta"), ("task.beta=much", "beta"),
                         ("task.metric=reward_auc", "reward_auc")):  # fmt: skip
        with pytest.raises(ConfigError, match=reason):
            prepared_of("task=preference", *SMALL, word)
    with pytest.raises(ConfigError, match="label_smoothing"):
        prepared_of("task=preference", *SMALL, "task.loss=ipo", "task.label_smoothing=0.1")


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_gpt2", "tiny_t5"])
def test_a_reward_model_may_be_of_any_family(model: str, tmp_path: Path) -> None:
    small = [word for word in SMALL if "n_embd" not in word] if model != "tiny_gpt2" else SMALL
    trainer = trainer_of(prepared_of("task=reward", f"model={model}", *small, "train.max_steps=2"), tmp_path)
    trainer.fit()
    assert 0 <= trainer.state.best_score <= 1


def test_a_reward_model_refuses_answers_without_another(tmp_path: Path) -> None:
    rows = [{"prompt": _asked(i), "response": f"Yes {i}."} for i in range(20)]
    with pytest.raises(DataError, match="no other to compare it with"):
        prepared_of("task=reward", "data.limit=24", *SHARES, _files(tmp_path, rows))
