"""Models that hear: a row's scores do not hang on its batch, losses are those of transformers, folders open there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCTC, AutoTokenizer

from llmtune.config.settings import TokenizerSettings
from llmtune.core.errors import ConfigError, ModelError
from llmtune.core.types import Batch
from llmtune.data.tokens.answer_rows import sequence_row
from llmtune.model.hearing import CTC_KINDS, Hearing
from llmtune.model.speech_model import SpeechModel
from llmtune.model.speech_tokenizers import character_tokenizer, fast_form, speech_tokenizer
from llmtune.task.speech_spelling import Spelling
from llmtune.task.word_targets import WordTargets

CHARACTERS = TokenizerSettings(kind="characters", vocab_size=64, min_frequency=1, lowercase=False)
PIECES = TokenizerSettings(kind="bpe", vocab_size=300, min_frequency=2, lowercase=False)
TEXTS = ["one two", "Ärger über 语音", "two one one"]
LENGTHS = (4000, 2777, 1603)
TINY: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 20,
    "conv_dim": [8, 8, 8], "conv_kernel": [10, 4, 4], "conv_stride": [5, 4, 4], "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "pad_token_id": 0, "sampling_rate": 8000,
}  # fmt: skip


def sounds() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [(rng.standard_normal(length) * 0.1).astype(np.float32) for length in LENGTHS]


def ctc(kind: str, **values: Any) -> tuple[Hearing, Any]:
    config = AutoConfig.for_model(kind, **{**TINY, **values})
    hearing = Hearing(config, None)
    torch.manual_seed(0)
    return hearing, SpeechModel(hearing).from_config(config).eval()


def whisper() -> tuple[Hearing, Any]:
    config = AutoConfig.for_model(
        "whisper", vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=8, max_source_positions=50,
        max_target_positions=16, pad_token_id=0, eos_token_id=1, bos_token_id=1,
        decoder_start_token_id=2, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    hearing = Hearing(config, None)
    torch.manual_seed(0)
    return hearing, SpeechModel(hearing).from_config(config).eval()


@pytest.mark.parametrize(
    ("kind", "norm"), [(kind, "layer") for kind in CTC_KINDS] + [("wav2vec2", "group"), ("hubert", "group")]
)
def test_a_row_is_scored_alike_alone_and_beside_longer_ones(kind: str, norm: str) -> None:
    hearing, model = ctc(kind, feat_extract_norm=norm, do_stable_layer_norm=norm == "layer", conv_bias=norm == "layer")
    with torch.no_grad():
        together_BTV = model(**hearing.features(sounds())).logits
        for row, sound in enumerate(sounds()):
            alone_TV = model(**hearing.features([sound])).logits[0]
            frames = hearing.frames(len(sound))
            assert len(alone_TV) == frames
            torch.testing.assert_close(together_BTV[row, :frames], alone_TV, rtol=1e-4, atol=1e-5)
            # what is padded is blank for certain
            assert together_BTV[row, frames:].softmax(-1)[:, 0].eq(1).all()


def test_samples_are_the_most_that_have_so_many_frames() -> None:
    for hearing in (ctc("wav2vec2")[0], whisper()[0]):
        for frames in (1, 7, 20):
            assert hearing.frames(hearing.samples(frames)) == frames
            assert hearing.frames(hearing.samples(frames) + 1) in (frames, frames + 1)


def test_the_ctc_loss_is_that_of_transformers_and_no_matter_how_rows_are_batched() -> None:
    hearing, model = ctc("wav2vec2", feat_extract_norm="layer", ctc_loss_reduction="sum")
    targets = [[5, 6, 6, 7], [8, 9], [5, 10, 5]]
    spelling = Spelling("speech")
    view, labels = hearing.features(sounds()), spelling.collate_targets(targets)
    with torch.no_grad():
        own = spelling.loss(model(**view).logits, labels)
        padded_BN = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in targets], batch_first=True, padding_value=-100
        )
        theirs = type(model).forward(model, **view, labels=padded_BN).loss
        parts = [
            spelling.loss(model(**hearing.features([sound])).logits, spelling.collate_targets([row]))
            for sound, row in zip(sounds(), targets)
        ]
    assert float(own.total) == pytest.approx(float(theirs), rel=1e-5)
    assert float(own.count) == 9 == sum(float(part.count) for part in parts)
    assert sum(float(part.total) for part in parts) == pytest.approx(float(own.total), rel=1e-5)


def test_each_row_counts_by_its_share() -> None:
    spelling, share_B = Spelling("speech"), torch.tensor([1.0, 0.0, 0.5])
    logits_BTV = torch.randn(3, 12, 11, generator=torch.Generator().manual_seed(0))
    labels = spelling.collate_targets([[5, 6], [7], [8, 9, 10]])
    losses_B = spelling.losses(logits_BTV, labels)
    found = spelling.loss(logits_BTV, labels, share_B)
    assert float(found.total) == pytest.approx(float(losses_B[0] + losses_B[2] / 2))
    assert float(found.count) == 2 + 1.5
    assert float(spelling.divergence(logits_BTV, logits_BTV, labels).total) == pytest.approx(0, abs=1e-5)


def test_repetitions_and_blanks_are_read_as_ctc_means_them() -> None:
    spelling = Spelling("speech")
    spelling.silent = frozenset({0, 1})
    best_T = [0, 5, 5, 0, 5, 6, 6, 1, 6]
    logits_BTV = torch.nn.functional.one_hot(torch.tensor([best_T]), 8).float()
    assert spelling.read(logits_BTV) == [[5, 5, 6, 6]]


def test_the_loss_of_whisper_is_that_of_transformers() -> None:
    hearing, model = whisper()
    start, targets = [2, 3], [[5, 6, 7, 1], [8, 1], [9, 10, 1]]
    rows = [sequence_row([0], target, start) for target in targets]
    width = max(len(row["decoder_input_ids"]) for row in rows)
    padded = {
        name: torch.tensor([row[name] + [0] * (width - len(row[name])) for row in rows])
        for name in ("decoder_input_ids", "wanted")
    }
    labels_BT = torch.full((3, width), -100)
    for place, target in enumerate(targets):
        labels_BT[place, 1 : 1 + len(target)] = torch.tensor(target)
    words, features = WordTargets("speech"), hearing.features(sounds())
    with torch.no_grad():
        own = words.loss(model(**features, **padded).logits, words.collate_targets(targets))
        inputs = {**features, "decoder_input_ids": padded["decoder_input_ids"]}
        theirs = type(model).forward(model, **inputs, labels=labels_BT).loss
    assert float(own.total / own.count) == pytest.approx(float(theirs), rel=1e-5)


def test_masking_of_what_is_heard_follows_torchs_seed() -> None:
    hearing, model = ctc("wav2vec2", feat_extract_norm="layer", apply_spec_augment=True, mask_time_prob=0.5,
                         mask_time_length=2, hidden_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0,
                         activation_dropout=0.0, final_dropout=0.0, layerdrop=0.0)  # fmt: skip
    model.train()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(model(**hearing.features(sounds())).logits)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_folder_opens_by_transformers_alone_and_hears_the_same(tmp_path: Path) -> None:
    hearing, model = ctc("hubert", feat_extract_norm="group")
    model.save_pretrained(tmp_path)
    tokenizer = character_tokenizer(CHARACTERS, TEXTS)
    tokenizer.save_pretrained(tmp_path)
    plain = AutoModelForCTC.from_pretrained(tmp_path).eval()
    again = Hearing(AutoConfig.from_pretrained(tmp_path), str(tmp_path))
    assert again.extractor.to_dict() == hearing.extractor.to_dict()
    view = again.features(sounds()[:1])
    with torch.no_grad():
        torch.testing.assert_close(plain(**view).logits, model(**view).logits)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "Wav2Vec2CTCTokenizer"
    ours = fast_form(theirs)
    assert ours.is_fast
    assert ours("two one")["input_ids"] == theirs("two one")["input_ids"] == tokenizer("two one")["input_ids"]
    assert ours.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_tokenizers_are_a_function_of_the_texts(tmp_path: Path) -> None:
    config = whisper()[0].config
    first, second = (speech_tokenizer(PIECES, texts, config) for texts in (TEXTS, list(TEXTS)))
    assert first.get_vocab() == second.get_vocab()
    assert first.decode(first("Ärger über 语音")["input_ids"], skip_special_tokens=True).strip() == "Ärger über 语音"
    assert first.convert_ids_to_tokens(first("one")["input_ids"])[:2] == ["<|startoftranscript|>", "<|notimestamps|>"]
    with pytest.raises(ConfigError, match=r"kind: characters, but whisper models write bpe"):
        speech_tokenizer(CHARACTERS, TEXTS, config)


def test_models_that_do_not_hear_are_refused() -> None:
    with pytest.raises(ModelError, match=r"bert models don't hear.*Whisper kinds"):
        Hearing(AutoConfig.for_model("bert"), None)


def test_a_folder_must_say_how_sound_becomes_features(tmp_path: Path) -> None:
    _, model = ctc("wav2vec2")
    type(model).save_pretrained(model, tmp_path)
    (tmp_path / "preprocessor_config.json").unlink(missing_ok=True)
    with pytest.raises(ModelError, match="preprocessor_config"):
        Hearing(AutoConfig.from_pretrained(tmp_path), str(tmp_path))


def test_what_is_written_is_asked_for_by_rows_alone() -> None:
    """`examine` of a CTC task keeps a loss and a transcript for each row, whatever stands beside it."""
    hearing, model = ctc("wavlm", feat_extract_norm="layer")
    spelling, targets = Spelling("speech"), [[5, 6], [7, 8], [9]]
    spelling.silent = frozenset({0})

    def kept(rows: list[int]) -> list[np.ndarray]:
        view = hearing.features([sounds()[row] for row in rows])
        batch = Batch(rows, {"clean": view}, spelling.collate_targets([targets[row] for row in rows]))
        with torch.no_grad():
            return spelling.examine(model, batch)[0]

    for alone, row in ((kept([row])[0], kept([0, 1, 2])[row]) for row in range(3)):
        np.testing.assert_allclose(row, alone, rtol=1e-4)
