"""Rows of translations and summaries: families agree with transformers, prompts with training, cuts spare answers."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, MBart50Tokenizer, MBartTokenizer, NllbTokenizer
from transformers.models.m2m_100.modeling_m2m_100 import shift_tokens_right

from llmtune.config.settings import TokenizerSettings
from llmtune.core.errors import ConfigError, DataError, ModelError
from llmtune.data.batches.feed import TokenTable
from llmtune.data.tokens.token_rows import Limits, TokenRows
from llmtune.inference.predictor import _arrow
from llmtune.model.tokenizers import train_tokenizer
from llmtune.model.word_model import WordModel
from llmtune.task.rewriting import Rewriting
from llmtune.task.rewriting_rows import joined, references
from tests.tiny import config_of, prepared_of

TEXTS = ["The dog runs in the garden.", "Der Hund läuft im Garten.", "A small cat sleeps.",
         "Eine kleine Katze schläft.", "狗在花园里跑。", "一只小猫在睡觉。"]  # fmt: skip
SIDES = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
         "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 16, "max_position_embeddings": 64}  # fmt: skip
IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
FAMILIES: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0,
           "eos_token_id": 3},
    "bart": {**SIDES, **IDS, "decoder_start_token_id": 3},
    "marian": {**SIDES, **IDS, "decoder_start_token_id": 0},
}  # fmt: skip
MULTILINGUAL = {
    "mbart": (MBartTokenizer, {**SIDES}),
    "mbart50": (MBart50Tokenizer, {**SIDES, "decoder_start_token_id": 2}),
    "m2m_100": (NllbTokenizer, {**SIDES, "decoder_start_token_id": 2}),
}
LANGUAGES = {"mbart": ("en_XX", "de_DE"), "mbart50": ("en_XX", "de_DE"), "m2m_100": ("eng_Latn", "deu_Latn")}
DECODERS = {
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64},
    "llama": {"hidden_size": 16, "num_attention_heads": 2},
}
COLUMNS = {
    "source": [json.dumps([text], ensure_ascii=False) for text in (TEXTS[0], TEXTS[2], TEXTS[4])],
    "target_texts": [json.dumps([text, "x"], ensure_ascii=False) for text in (TEXTS[1], TEXTS[3], TEXTS[5])],
}


def tokenizer_for(family: str) -> Any:
    if family in MULTILINGUAL:
        made = MULTILINGUAL[family][0]()
        made.add_tokens(sorted({char for text in TEXTS for char in text} - {" "}))
        return made
    config = AutoConfig.for_model(family, **{**FAMILIES, **DECODERS}[family])
    settings = TokenizerSettings(kind="bpe", vocab_size=400, min_frequency=1, lowercase=False)
    return train_tokenizer(settings, TEXTS, config)


def config_for(family: str, tokenizer: Any) -> Any:
    values = MULTILINGUAL[family][1] if family in MULTILINGUAL else {**FAMILIES, **DECODERS}[family]
    kind = "mbart" if family == "mbart50" else family
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return AutoConfig.for_model(kind, **{**values, **sizes})


SETTINGS: dict[str, Any] = {}


def task_for(family: str, config: Any, **changes: Any) -> Any:
    if not SETTINGS:
        SETTINGS.update(vars(config_of("task=translate", "hardware.device=cpu").task))
    source, target = LANGUAGES.get(family, (None, None))
    task = Rewriting(**{**SETTINGS, "source_language": source, "target_language": target, **changes}).build()
    task.meet_model(config)
    return task


@pytest.mark.parametrize("family", [*FAMILIES, *MULTILINGUAL])
def test_decoder_inputs_and_loss_are_those_of_transformers_labels(family: str) -> None:
    tokenizer = tokenizer_for(family)
    config = config_for(family, tokenizer)
    task = task_for(family, config)
    tokens = task.encoder(tokenizer)(COLUMNS, None)
    torch.manual_seed(0)
    model = WordModel("sequence").from_config(config).eval()
    targets = [references(kept)[0] for kept in COLUMNS["target_texts"]]
    theirs = tokenizer(TEXTS[::2], text_target=targets, padding=True, return_tensors="pt")
    labels_BT = theirs["labels"].masked_fill(theirs["labels"] == tokenizer.pad_token_id, -100)
    if family == "m2m_100":  # it has no such method
        shifted_BT = shift_tokens_right(labels_BT, tokenizer.pad_token_id, config.decoder_start_token_id)
    else:
        shifted_BT = model.prepare_decoder_input_ids_from_labels(labels_BT)
    for row, decoded in enumerate(tokens["decoder_input_ids"]):
        assert decoded == shifted_BT[row][: len(decoded)].tolist()
        assert tokens["target"][row] == [token for token in labels_BT[row].tolist() if token >= 0]
        assert tokenizer.eos_token_id in tokens["target"][row][-2:]
    expected = model(input_ids=theirs["input_ids"], attention_mask=theirs["attention_mask"], labels=labels_BT).loss
    data = _arrow({name: rows for name, rows in tokens.items() if name != "target"}, tokens["target"])
    batch = TokenTable(data, pad_id=tokenizer.pad_token_id).batch([0, 1, 2], task.collate_targets)
    loss = task.loss(model(**batch.views["clean"]).logits, batch.targets)
    torch.testing.assert_close(loss.total / loss.count, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "start"),
    [("t5", ["<pad>", "<s>"]), ("bart", ["</s>", "<s>"]), ("marian", ["<pad>", "<s>"]), ("mbart", ["de_DE"]),
     ("mbart50", ["</s>", "de_DE"]), ("m2m_100", ["</s>", "deu_Latn"])],
)  # fmt: skip
def test_texts_begin_as_they_were_taught_to(family: str, start: list[str]) -> None:
    """What every target begins with, such as its language, is no guess of the model's."""
    tokenizer = tokenizer_for(family)
    task = task_for(family, config_for(family, tokenizer))
    tokens = task.encoder(tokenizer)(COLUMNS, None)
    assert tokenizer.convert_ids_to_tokens(task.writing.start) == start
    for decoded in tokens["decoder_input_ids"]:
        assert decoded[: len(start)] == task.writing.start


@pytest.mark.parametrize("family", [*FAMILIES, *MULTILINGUAL, *DECODERS])
def test_predict_reads_what_training_read(family: str) -> None:
    tokenizer = tokenizer_for(family)
    config = config_for(family, tokenizer)
    trained = task_for(family, config)
    taught = trained.encoder(tokenizer)(COLUMNS, None)
    task = task_for(family, config)
    task.model = None
    task.restore(json.loads(json.dumps(trained.to_json())))
    asked = task.encoder(tokenizer)({"source": COLUMNS["source"]}, None)
    assert "target" not in asked
    for row, ids in enumerate(taught["input_ids"]):
        if family in DECODERS:
            ids = ids[: len(asked["input_ids"][row])]
        assert asked["input_ids"][row] == ids


@pytest.mark.parametrize("pad_is_end", [False, True])
@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_is_taught_the_answer_and_the_stop_alone(family: str, pad_is_end: bool) -> None:
    tokenizer = tokenizer_for(family)
    if pad_is_end:
        tokenizer.pad_token = tokenizer.eos_token
    task = task_for(family, config_for(family, tokenizer))
    tokens = task.encoder(tokenizer)(COLUMNS, None)
    for row, target in enumerate(tokens["target"]):
        assert target[-1] == tokenizer.eos_token_id
        ids, wanted = tokens["input_ids"][row], tokens["wanted"][row]
        assert ids[-1] == tokenizer.eos_token_id
        assert sum(wanted) == len(target)
        assert [ids[at + 1] for at, one in enumerate(wanted) if one] == target
        prompt = tokenizer.decode(ids[: len(ids) - len(target)])
        assert prompt == f"{TEXTS[2 * row]}\n=>"
        assert tokenizer.decode(target[:-1]).strip() == TEXTS[2 * row + 1]
    assert task.encoder(tokenizer).start == []


def test_a_template_is_what_the_model_reads() -> None:
    tokenizer = tokenizer_for("t5")
    task = task_for("t5", config_for("t5", tokenizer), template="translate English to German: {source}\\n!")
    ids = task.encoder(tokenizer)({"source": COLUMNS["source"]}, None)["input_ids"]
    expected = f"translate English to German: {TEXTS[4]}\n!"
    assert tokenizer.decode(ids[2], skip_special_tokens=True) == expected


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_a_cut_takes_the_end_of_the_source_and_nothing_else(family: str) -> None:
    tokenizer = tokenizer_for(family)
    task = task_for(family, config_for(family, tokenizer), template="Read: {source} <end>", max_new_tokens=8)
    encode = task.encoder(tokenizer)
    sources = [json.dumps([TEXTS[0]] * 30), json.dumps(["狗在花园里跑。" * 40])]
    long = {"source": sources, "target_texts": COLUMNS["target_texts"][:2]}
    whole, cut = encode(long, None), encode(long, 40)
    for row in range(2):
        ids = cut["input_ids"][row]
        assert 30 < len(ids) <= 40 < len(whole["input_ids"][row])
        assert cut["target"][row] == whole["target"][row]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert text.startswith(("Read: The dog runs", "Read: 狗在花园"))
        assert text.split("<end>")[0].strip() in f"Read: {joined(long['source'][row])}"
        assert "<end>" in text
    strange = encode({"source": [json.dumps(["龘" * 50])]}, 21)  # each character is three tokens
    assert 15 <= len(strange["input_ids"][0]) <= 21
    assert "\ufffd" not in tokenizer.decode(strange["input_ids"][0])
    asked = encode({"source": long["source"]}, 40)
    assert all(len(ids) <= 40 for ids in asked["input_ids"])
    with pytest.raises(ConfigError, match="long without any source"):
        encode({"source": long["source"]}, 5)


def test_what_a_source_loses_does_not_tell_how_long_its_target_is() -> None:
    tokenizer = tokenizer_for("gpt2")
    task = task_for("gpt2", config_for("gpt2", tokenizer), max_new_tokens=20)
    encode = task.encoder(tokenizer)
    source = {"source": [json.dumps([TEXTS[0]] * 30)]}
    found = []
    for target in ("Hund", "Katze Katze", TEXTS[1] * 4):
        row = encode({**source, "target_texts": [json.dumps([target])]}, 60)
        found.append(row["input_ids"][0][: row["asked"][0][0]])
    assert found[0] == found[1] == encode(source, 60 - task.room(60))["input_ids"][0]
    assert 30 < len(found[0]) <= 40
    assert len(found[2]) < len(found[0])  # where it is longer than what is free


def rows_of(encode: Any, columns: dict[str, Any], **limits: Any) -> TokenRows:
    made = TokenRows(encode, Limits(**limits), None, lambda: False)
    places = {"file": ["a.csv"] * 3, "line": [2, 3, 4], "label": [None] * 3}
    made._batch({**columns, **places}, None)
    return made


def test_targets_that_are_too_long_are_told_or_dropped() -> None:
    tokenizer = tokenizer_for("t5")
    config = config_for("t5", tokenizer)
    first, _, last = COLUMNS["target_texts"]
    columns = {**COLUMNS, "target_texts": [first, json.dumps(["läuft " * 30]), last]}
    with pytest.raises(DataError, match=r"a\.csv:3: the answer is too long to be kept whole"):
        rows_of(task_for("t5", config).encoder(tokenizer), columns, max_tokens=30)
    short = task_for("t5", config, max_target_tokens=25, max_new_tokens=20).encoder(tokenizer)
    with pytest.raises(DataError, match=r"a\.csv:3: the answer has \d+ tokens; task\.max_target_tokens=25"):
        rows_of(short, columns, max_tokens=60)
    short.told()
    made = rows_of(short, columns, max_tokens=60, on_overlength="drop")
    assert (made.kept, made.over_lines) == (2, ["a.csv:3"])
    assert short.told() == ["1 target(s) are longer than task.max_new_tokens=20: it is never reached"]
    assert short.told() == []


def test_languages_are_asked_for_where_a_tokenizer_knows_them() -> None:
    tokenizer = tokenizer_for("mbart")
    config = config_for("mbart", tokenizer)
    with pytest.raises(ConfigError, match=r"task\.target_language: 'german' is not known to this model.*ar_AR"):
        task_for("mbart", config, target_language="german").encoder(tokenizer)
    with pytest.raises(ConfigError, match=r"task\.source_language: is not set"):
        task_for("mbart", config, source_language=None).encoder(tokenizer)
    plain = tokenizer_for("t5")
    with pytest.raises(ConfigError, match="this model's tokenizer knows no languages"):
        task_for("t5", config_for("t5", plain), source_language="en_XX").encoder(plain)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_models_that_only_read_are_refused(family: str) -> None:
    with pytest.raises(ModelError, match=r"read and don't write; task=translate trains encoder-decoders \(T5"):
        task_for(family, AutoConfig.for_model(family))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"template": "translate {text}"}, "template: 'translate {text}'; {source} must stand in it once"),
        ({"metric": "rouge1"}, "metric: 'rouge1' is not known; allowed: bleu, chrf, ter, loss"),
        ({"scores": ["blue"]}, "scores: 'blue' is not known"),
        ({"generate_rows": 0}, "type task.metric=loss"),
        ({"num_beams": 4, "temperature": 1.0}, "beams are searched without draws"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0 is too small"),
        ({"output": "cut"}, "output: 'cut'"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], said: str) -> None:
    task_for("t5", SimpleNamespace(model_type="t5", is_encoder_decoder=True, decoder_start_token_id=0))
    with pytest.raises(ValueError) as error:  # noqa: PT011 - what it says is looked at below
        Rewriting(**{**SETTINGS, **changes})
    assert said in str(error.value)


def test_sentences_are_joined_as_their_script_does() -> None:
    assert joined(json.dumps(["We do this. ", "It works."])) == "We do this. It works."
    assert joined(json.dumps(["我们做了这个。", "很好。"])) == "我们做了这个。很好。"
    assert references(json.dumps([" one ", "", "two"])) == ["one", "two"]


def test_a_row_is_shown_with_what_is_learnt_of_it() -> None:
    for family, expected in (
        ("bart", "<s>The dog runs in the garden.</s>\n</s>⟦<s>Der Hund läuft im Garten.</s>⟧"),
        ("gpt2", "The dog runs in the garden.\n=>⟦ Der Hund läuft im Garten.</s>⟧"),
    ):
        tokenizer = tokenizer_for(family)
        encode = task_for(family, config_for(family, tokenizer)).encoder(tokenizer)
        made = rows_of(encode, COLUMNS, max_tokens=60)
        assert encode.example() == [expected]
        assert encode.example() == []
        found = made._report()["supervised"]
        assert found["tokens"] == made.supervised
        assert 0.3 < found["share"] < 0.6


def test_how_a_model_writes_is_kept_with_it_and_its_own_habits_have_no_say() -> None:
    tokenizer = tokenizer_for("mbart")
    config = config_for("mbart", tokenizer)
    task = task_for("mbart", config, max_new_tokens=9)
    tokens = task.encoder(tokenizer)({"source": COLUMNS["source"]}, None)
    torch.manual_seed(0)
    model = task.model_class().from_config(config).eval()
    german = tokenizer.convert_tokens_to_ids("de_DE")
    assert model.generation_config.decoder_start_token_id == german
    asked = torch.tensor(tokens["input_ids"][:1])
    plain_BG = model.generate(input_ids=asked)
    assert plain_BG[0, 0] == german
    batch = TokenTable(_arrow(tokens, None), pad_id=tokenizer.pad_token_id).batch([0], None)
    ours = task.generate(model, batch)[0]
    kept = model.generation_config.to_dict()
    model.generation_config.num_beams, model.generation_config.min_length = 3, 9
    model.generation_config.forced_bos_token_id = 7
    assert task.generate(model, batch)[0].tolist() == ours.tolist()
    assert model.generation_config.min_length == 9
    assert kept["max_new_tokens"] == 9
    written = ours[2:].astype(int).tolist()
    assert plain_BG[0, 1 : 1 + len(written)].tolist() == written


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=tiny_gpt2", "adapter=prompt"], "adapter: prompt puts tokens before what is read"),
        (["model=tiny_gpt2", "objective=mixup"], "objective: mixup mixes the answers of two rows"),
        (["objective=[supervised,fgm]"], "objective: fgm looks at one text"),
        (["task.max_new_tokens=600"], "task.max_new_tokens: 600, and tiny_encoder_decoder has 512 positions"),
    ],
)
def test_parts_that_cannot_go_with_writing_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        prepared_of("task=title", "data.limit=20", "hardware.device=cpu", "train.max_steps=1", *words)
    assert said in str(error.value)
