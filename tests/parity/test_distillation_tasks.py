"""Distillation of tasks with answers by token: however a step is split, resumed, refused with reasons."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from llmtune.core.errors import ResumeError, UserError
from llmtune.run.checkpoint import CheckpointStore
from tests.parity.test_resume_objectives import stopped_equals_unstopped
from tests.tiny import prepared_of, trainer_of

SAME = ("train.verify_model=off", "hardware.device=cpu", "hardware.threads=1", "train.log_every=1",
        "optimizer.lr=0.003", "data.limit=24")  # fmt: skip
BERT = ("model.architecture.hidden_size=16", "model.architecture.intermediate_size=32")
GPT2 = ("model=tiny_gpt2", "model.architecture.n_embd=16")
WRITES = ("task.generate_rows=1", "task.max_new_tokens=2")
TASKS: dict[str, tuple[str, ...]] = {
    "instruct": ("task=instruct", *GPT2, *WRITES),
    "translate": ("task=translate", *WRITES, "model.architecture.d_model=16", "model.architecture.encoder_ffn_dim=32",
                  "model.architecture.decoder_ffn_dim=32"),
    "summary": ("task=summary", "model=tiny_t5", *WRITES, "model.architecture.d_model=16", "model.architecture.d_ff=32",
                "model.architecture.d_kv=4"),
    "ner": ("task=ner", *BERT),
    "masked_lm": ("task=masked_lm", "task.blocks=false", *BERT),
    "causal_lm": ("task=causal_lm", "data.max_tokens=32", "data.limit=3", *GPT2),
}  # fmt: skip
TEACHER = "objective.distillation.teacher"
LAYERS = ("objective.distillation.hidden_states=1", "objective.distillation.attentions=1", "model.attention=eager")


def objectives(task: str, *others: str) -> str:
    own = task if task.endswith("_lm") else "supervised"
    return f"objective=[{','.join((own, *others))}]"


@functools.cache
def teacher_of(task: str, folder: Path) -> str:
    """A tiny model and its tokenizer, as others save theirs: what task it is for is told by its class alone."""
    prepared = prepared_of(*SAME, *TASKS[task], "seed=5", "train.max_steps=2")
    trainer_of(prepared, folder / f"{task} run").composite.model.save_pretrained(folder / task)
    prepared.tokenizer.save_pretrained(folder / task)
    return str(folder / task)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("teachers")


@pytest.mark.parametrize("task", TASKS)
def test_a_step_is_the_same_however_it_is_split(task: str, folder: Path, tmp_path: Path) -> None:
    rows = 2 if task == "causal_lm" else 8
    words = (*SAME, *TASKS[task], objectives(task, "distillation", "self_distillation"), *LAYERS,
             f"{TEACHER}={teacher_of(task, folder)}", "objective.self_distillation.weight=1", "model.dropout=0",
             f"train.batch_rows={rows}", "train.max_steps=2")  # fmt: skip
    results = []
    for micro_rows in (rows, rows // 2):
        prepared = prepared_of(*words, f"train.micro_rows={micro_rows}")
        trainer = trainer_of(prepared, tmp_path / str(micro_rows))
        part = trainer.composite.objectives["self_distillation"]
        part.weights = {name: weight * 1.05 for name, weight in part.weights.items()}
        results.append(trainer.stepper.run(0, trainer.feed.at(0), 1e-3, lambda: False))
    whole, split = results
    assert split.grad_norm == pytest.approx(whole.grad_norm, rel=1e-3)
    assert split.sums == pytest.approx(whole.sums, rel=1e-4)
    for name in ("distillation", "self_distillation"):
        assert whole.sums[f"{name}/count"] > rows
        assert whole.sums[name] > 0


@pytest.mark.parametrize("task", ["instruct", "summary", "ner"])
def test_it_resumes_exactly(task: str, folder: Path, tmp_path: Path) -> None:
    words = (*SAME, *TASKS[task], objectives(task, "distillation", "self_distillation"), *LAYERS,
             f"{TEACHER}={teacher_of(task, folder)}", "train.batch_rows=8", "train.micro_rows=4", "train.max_steps=6",
             "train.eval_every=2", "train.save_every=null", "model.dropout=0.1")  # fmt: skip
    stopped_equals_unstopped(prepared_of(*words), tmp_path)


def test_another_teacher_is_another_run(folder: Path, tmp_path: Path) -> None:
    words = (*SAME, *TASKS["ner"], objectives("ner", "distillation"), "train.max_steps=1", "train.batch_rows=8")
    first = prepared_of(*words, f"{TEACHER}={teacher_of('ner', folder)}")
    trainer_of(first, tmp_path).fit()
    moved = tmp_path / "moved"
    Path(teacher_of("ner", folder)).rename(moved)
    moved.joinpath("readme.md").write_text("is not looked at")
    assert prepared_of(*words, f"{TEACHER}={moved}").fingerprints == first.fingerprints
    weights = torch.nn.Linear(2, 2).state_dict()
    torch.save(weights, moved / "other.bin")
    other = prepared_of(*words, f"{TEACHER}={moved}")
    checkpoint = CheckpointStore(tmp_path / "checkpoints", keep=1).newest_good(print)
    assert checkpoint is not None
    with pytest.raises(ResumeError, match=r"resume: teacher changed"):
        trainer_of(other, tmp_path).resume(checkpoint)
    moved.rename(teacher_of("ner", folder))


def test_what_can_not_teach_is_refused(folder: Path) -> None:
    def said(task: str, *words: str, teacher: str | None = None) -> str:
        where = f"{TEACHER}={teacher_of(teacher or task, folder)}"
        with pytest.raises(UserError) as error:
            prepared_of(*SAME, *TASKS[task], objectives(task, "distillation"), where, *words)
        return str(error.value)

    assert "vocabulary, so its answers are of other tokens" in said("instruct", "model.tokenizer.vocab_size=300")
    assert "is an encoder-decoder; a model that goes on from a text" in said("instruct", teacher="translate")
    assert "has no class for each token (BertForMaskedLM)" in said("ner", teacher="masked_lm")
    assert "was trained for something else than words (BertForTokenClassification)" in said("masked_lm", teacher="ner")
    assert "scores whole chains of tags, which have no softmax" in said("ner", "task.head=crf")
    assert "type objective=[masked_lm,...]" in said("masked_lm", "objective=[distillation,l2_sp]")
    layers = ("objective.distillation.answers=0", *LAYERS)
    assert "compared with those of others that write" in said("summary", *layers, teacher="instruct")
    prepared_of(*SAME, *TASKS["ner"], objectives("ner", "distillation"), *layers, "task.head=crf",
                f"{TEACHER}={teacher_of('ner', folder)}")  # fmt: skip
    with pytest.raises(UserError, match=r"no answers can be compared: task=qa has no answers by row or by token"):
        prepared_of(*SAME, "task=qa", *BERT, "objective=[supervised,self_distillation]")
    start = "objective.self_distillation.teacher=start"
    pretrained = ("model=pretrained", f"model.path={teacher_of('instruct', folder)}")
    tuned = (*SAME, "task=instruct", *WRITES, *pretrained, "objective=[supervised,self_distillation]", start)
    prepared_of(*tuned)


def test_relations_are_read_with_the_marks_of_their_entities(tmp_path: Path) -> None:
    import json

    import numpy as np

    from llmtune.cli import main

    rows = [{"tokens": ["the", "wheel", "of", "the", "car", str(i)], "head": [1, 2], "tail": [4, 5],
             "label": ["part", "Other"][i % 2]} for i in range(20)]  # fmt: skip
    other = [{**row, "head": row["tail"], "tail": row["head"]} for row in rows]
    words = ["task=relation", *BERT, *SAME[:-1], "train.max_steps=1", "train.batch_rows=8", "data=files",
             f"data.cache_dir={tmp_path / 'cache'}", "data.validation_share=0", "data.test_share=0"]  # fmt: skip
    for name, some in (("rows", rows), ("other", other)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
    first = f"data.train={tmp_path / 'rows.jsonl'}"
    assert main(["train", *words, first, f"run.dir={tmp_path / 'teacher'}"]) == 0
    found = []
    for name in ("rows", "other"):
        taught = ("objective=[supervised,distillation]", f"{TEACHER}={tmp_path / 'teacher'}")
        prepared = prepared_of(*words, f"data.train={tmp_path / f'{name}.jsonl'}", *taught)
        part = trainer_of(prepared, tmp_path / name).composite.objectives["distillation"]
        found.append(np.array(part.answers.logits_NC))
    assert len(list((tmp_path / "cache" / "teacher").glob("[0-9a-f]*/manifest.json"))) == 2
    assert not np.allclose(found[0], found[1], atol=1e-6)
