"""task=speech from files to transcripts: rows, refusals, and that whoever asks hears the same."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from llmtune import cli
from llmtune.core.errors import ConfigError, DataError, ModelError
from llmtune.data.batches.feed import table_of
from llmtune.inference.predictor import Predictor, _arrow
from llmtune.inference.run_folder import find_model, settings_of
from llmtune.task.speech_start import start_of
from tests.tiny import prepared_of, trainer_of

SMALL = ("task=speech", "hardware.device=cpu", "hardware.threads=1", "data.limit=12", "train.max_steps=2",
         "train.verify_model=here", "model.dropout=0")  # fmt: skip
WHISPER = ("model=tiny_whisper", "task.max_new_tokens=12")
WORDS = ["yes it is", "no", "over there", "yes", "not now", "it is not", "there it is", "now", "over", "is it over"]


def clip(path: Path, seconds: float, seed: int = 0) -> str:
    samples = np.random.default_rng(seed).integers(100, 156, int(8000 * seconds), dtype=np.uint8)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 1, 8000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    return path.name


@pytest.fixture
def rows(tmp_path: Path) -> list[str]:
    """Words that name a table of ten recordings of random noise as data; its folder is `tmp_path`."""
    lines = [
        {"audio": clip(tmp_path / f"{number}.wav", 0.6 + 0.05 * number, number), "transcript": text}
        for number, text in enumerate(WORDS)
    ]
    write(tmp_path, lines)
    return ["data=files", f"data.train={tmp_path / 'train.jsonl'}", "data.validation_share=0.2", "data.test_share=0"]


def write(folder: Path, lines: list[dict[str, str]]) -> None:
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def changed(folder: Path, number: int, **values: str) -> None:
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    lines[number] |= values
    write(folder, lines)


@pytest.mark.parametrize("model", ["tiny_wav2vec2", "tiny_whisper"])
def test_a_run_writes_transcripts_and_whoever_asks_hears_the_same(model: str, tmp_path: Path, rows: list[str]) -> None:
    run = tmp_path / "run"
    words = [*SMALL, *rows, f"model={model}", "task.max_new_tokens=12", f"run.dir={run}"]
    assert cli.main(["train", *words]) == 0
    told = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert [set(row) >= {"audio", "transcript", "predicted", "file", "line"} for row in told] == [True] * len(told)

    place = find_model(str(run))
    predictor = Predictor(place, settings_of(place, []))
    paths = [row["audio"] for row in told]
    assert [row["transcript"] for row in predictor.predict({"audio": paths})] == [row["predicted"] for row in told]

    prepared = prepared_of(*words[:-1], "data.split_seed=0")
    trained = table_of(prepared.splits["validation"], prepared.tokenizer, prepared.task)
    asked = table_of(_arrow(predictor.encode({"audio": paths}), None), predictor.tokenizer, predictor.task)
    name = predictor.task.hearing.extractor.model_input_names[0]
    assert prepared.splits["validation"]["audio"][:] == paths
    places = np.arange(len(paths))
    first, second = (table.batch(places, None).views["clean"][name] for table in (trained, asked))
    assert torch.equal(first, second)


def test_beams_are_asked_for_when_a_trained_whisper_is_used(tmp_path: Path, rows: list[str]) -> None:
    run = tmp_path / "run"
    assert cli.main(["train", *SMALL, *rows, *WHISPER, f"run.dir={run}"]) == 0
    out = tmp_path / "out.jsonl"
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"audio": str(tmp_path / "3.wav"), "id": 7}) + "\n")
    words = ["predict", str(run), str(source), "-o", str(out), "task.num_beams=2", "task.max_new_tokens=3"]
    assert cli.main(words) == 0
    (found,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert found["id"] == 7
    assert isinstance(found["transcript"], str)


def test_what_whisper_pays_for_is_its_window(tmp_path: Path, rows: list[str]) -> None:
    trainer = trainer_of(prepared_of(*SMALL, *rows, *WHISPER), tmp_path / "run")
    (batch,) = trainer.feed.at(0)
    view = batch.views["clean"]
    count = len(batch.row_ids)
    assert view["input_features"].shape == (count, 40, 300)
    assert set(view) == {"input_features", "decoder_input_ids", "wanted"}
    assert batch.padded_tokens == 150 * count + view["decoder_input_ids"].numel()
    assert 0 < batch.real_tokens < batch.padded_tokens


def test_a_recording_that_the_model_can_not_hear_to_its_end(tmp_path: Path, rows: list[str]) -> None:
    clip(tmp_path / "9.wav", 3.2)
    with pytest.raises(DataError, match=r"1 of 8 rows .* longer than 150 tokens .*train\.jsonl:10"):
        prepared_of(*SMALL, *rows, *WHISPER)
    kept = prepared_of(*SMALL, *rows, *WHISPER, "data.on_overlength=drop")
    assert len(kept.splits["train"]) == 7
    with pytest.raises(ConfigError, match="would be cut, but what is said in them would not"):
        prepared_of(*SMALL, *rows, *WHISPER, "data.on_overlength=truncate")


def test_a_transcript_that_is_of_another_recording(tmp_path: Path, rows: list[str]) -> None:
    changed(tmp_path, 1, transcript="yes it is over there now " * 5)
    with pytest.raises(DataError, match=r"train\.jsonl:2: the transcript needs 1\d\d frames, the recording has 3\d"):
        prepared_of(*SMALL, *rows)
    changed(tmp_path, 1, transcript="yes it is over there now " * 20)
    with pytest.raises(DataError, match=r"train\.jsonl:2: the transcript has 1\d\d tokens, the model writes 64"):
        prepared_of(*SMALL, *rows, *WHISPER)


def test_a_recording_that_is_gone_or_changed_since_the_rows_were_read(tmp_path: Path, rows: list[str]) -> None:
    first = prepared_of(*SMALL, *rows)
    clip(tmp_path / "2.wav", 0.9, seed=5)
    assert prepared_of(*SMALL, *rows).fingerprints["data"] != first.fingerprints["data"]
    (tmp_path / "2.wav").unlink()
    with pytest.raises(DataError, match=r"train\.jsonl:3: .*2\.wav"):
        prepared_of(*SMALL, *rows)


def test_characters_that_a_model_can_not_write_are_told(tmp_path: Path, rows: list[str]) -> None:
    changed(tmp_path, 0, transcript="Ünique? yes")
    # which rows are taken for validation hangs on where the files lie
    prepared = prepared_of(*SMALL, *rows, "data.validation_share=0", "model.tokenizer.min_frequency=2")
    encoder = prepared.task.encoder(prepared.tokenizer)
    encoder.spelled("Yes, Ü!")
    (told,) = encoder.told()
    assert told == "characters that the model can't write are left out of transcripts: ',' 1x, 'ü' 1x, '!' 1x"
    assert encoder.told() == []
    spelled = prepared.tokenizer.convert_ids_to_tokens(encoder.spelled(" YES,  it! "))
    assert "".join(spelled) == "yes|it"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task.num_beams=2"], r"task\.num_beams: 2, but tiny_wav2vec2 \(wav2vec2\) spells frame by frame"),
        (["task.spec_augment=true", "model.architecture.conv_stride=[5,4,4,16]"], "hides 10 frames at a time"),
        (["task.language=german"], r"type task\.language=null"),
        ([*WHISPER, "task.language=german"], "this model knows one language"),
        (["objective=[fgm,supervised]"], "fgm looks into the words of a text"),
        (["model.tokenizer.kind=bpe"], "wav2vec2 models write characters"),
        (["train.label_smoothing=0.1"], "for rows with classes"),
        (["task.metric=bleu"], r"allowed: wer, cer, exact, loss"),
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str], message: str, rows: list[str]) -> None:
    with pytest.raises(ConfigError, match=message):
        prepared_of(*SMALL, *rows, *words)


def test_models_of_texts_are_refused_and_told_which_fit(rows: list[str]) -> None:
    with pytest.raises(ModelError, match=r"bert models don't hear.*Whisper kinds .*wav2vec2, hubert"):
        prepared_of("task=speech", *SMALL[1:], *rows, "model=tiny_bert")


def test_scores_are_sums_over_rows_and_the_worst_rows_are_told(tmp_path: Path, rows: list[str]) -> None:
    from llmtune.training.evaluation import evaluate

    trainer = trainer_of(prepared_of(*SMALL, *rows, *WHISPER), tmp_path / "run")
    done = evaluate(trainer.composite.model, trainer.validation, trainer.machine, trainer.task)
    assert {"wer", "cer", "exact", "words", "perplexity", "loss"} <= set(done.scores)
    report = trainer.task.judge(done.predictions, 1)
    assert len(report["worst"]) == 1
    assert set(report["worst"][0]) == {"file", "line", "gold", "predicted", "audio"}
    assert report["tables"][0]["columns"] == ["said", "written", "times"]


def test_a_whisper_of_many_languages_is_told_which_one() -> None:
    from types import SimpleNamespace

    known = ["<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>", "<|notimestamps|>"]
    tokenizer = SimpleNamespace(
        get_vocab=lambda: {token: place for place, token in enumerate(known)},
        convert_tokens_to_ids=lambda tokens: [known.index(token) for token in tokens],
    )
    config = SimpleNamespace(vocab_size=51865)

    def start(language: str | None, action: str = "transcribe") -> list[int]:
        return start_of(tokenizer, config, SimpleNamespace(language=language, action=action))

    assert start("german") == start("de") == [0, 2, 4, 5]
    assert start("English", "translate") == [0, 1, 3, 5]
    with pytest.raises(ConfigError, match="writes many languages"):
        start(None)
    with pytest.raises(ConfigError, match=r"'germn' is none that this model knows.*german"):
        start("germn")
