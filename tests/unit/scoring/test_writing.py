"""Texts against references: sums of chunks equal the libraries' scores of all rows, also in Chinese."""

from __future__ import annotations

import random

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF, TER

from llmtune.scoring.writing import METRICS, Words, WritingScores, row_scores, tokenizer_for

ENGLISH = [
    "a", "dog", "runs", "over", "the", "green", "field", "while", "two", "men", "with", "red", "hats", "look", "at",
    "it",
]  # fmt: skip
CHINESE = list("一只狗在绿色的草地上奔跑两个戴红帽子的人看着它")


def made(words: list[str], joint: str, rows: int = 60, references: int = 1) -> tuple[list[str], list[list[str]]]:
    """Texts and references that have much in common, each of another length."""
    rng = random.Random(3)

    def text() -> str:
        return joint.join(rng.choices(words, k=rng.randint(3, 14))) + ("." if joint else "。")

    golds = [[text() for _ in range(references)] for _ in range(rows)]
    texts = [rng.choice([text(), some[-1], some[0][: len(some[0]) // 2]]) for some in golds]
    return texts, golds


def scored(texts, golds, sizes=(7, 20, 33), names=tuple(METRICS), **options) -> WritingScores:
    scores, start = WritingScores(names, **options), 0
    for size in sizes:
        scores.add(texts[start : start + size], golds[start : start + size])
        start += size
    assert start == len(texts)
    return scores


@pytest.mark.parametrize("references", [1, 3])
def test_sums_of_chunks_are_sacrebleus_corpus_scores(references: int) -> None:
    texts, golds = made(ENGLISH, " ", references=references)
    streams = [[some[place] for some in golds] for place in range(references)]
    found = scored(texts, golds)
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF()), ("ter", TER())):
        assert found.scores()[name] == pytest.approx(metric.corpus_score(texts, streams).score, abs=1e-9)
        assert found.signatures()[name] == str(metric.get_signature())
    assert found.signatures()["bleu"].startswith(f"nrefs:{references}|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_rows_may_have_different_numbers_of_references() -> None:
    texts, golds = made(ENGLISH, " ", references=3)
    golds = [some[: 1 + row % 3] for row, some in enumerate(golds)]
    streams = [[some[place] if place < len(some) else None for some in golds] for place in range(3)]
    found = scored(texts, golds, names=("bleu", "ter"))
    assert found.scores()["bleu"] == pytest.approx(BLEU().corpus_score(texts, streams).score, abs=1e-9)
    assert found.scores()["ter"] == pytest.approx(TER().corpus_score(texts, streams).score, abs=1e-9)
    assert found.signatures()["bleu"].startswith("nrefs:var|")


def test_chinese_is_scored_by_characters() -> None:
    texts, golds = made(CHINESE, "")
    streams = [[some[0] for some in golds]]
    found = scored(texts, golds)
    assert found.scores()["bleu"] == pytest.approx(BLEU(tokenize="zh").corpus_score(texts, streams).score, abs=1e-9)
    by_characters = TER(normalized=True, asian_support=True)
    assert found.scores()["ter"] == pytest.approx(by_characters.corpus_score(texts, streams).score, abs=1e-9)
    assert "tok:zh" in found.signatures()["bleu"]
    half = WritingScores(["rouge1", "rouge2", "rougeL"])
    half.add(["两只猫"], [["两只大猫。"]])
    assert half.scores() == pytest.approx({"rouge1": 100 * 6 / 7, "rouge2": 40.0, "rougeL": 100 * 6 / 7})


@pytest.mark.parametrize("stemmer", [False, True])
def test_rouge_of_english_is_that_of_rouge_score(stemmer: bool) -> None:
    texts, golds = made([*ENGLISH, "running", "hat's", "3,000", "well-kept", "fields"], " ", references=2)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemmer)
    rows = [scorer.score_multi(some, text) for text, some in zip(texts, golds)]
    found = scored(texts, golds, names=("rougeL", "rouge2", "rouge1"), stemmer=stemmer)
    assert list(found.scores()) == ["rougeL", "rouge2", "rouge1"]
    for name, value in found.scores().items():
        assert value == pytest.approx(100 * sum(row[name].fmeasure for row in rows) / len(rows))
    assert f"nrefs:2|best:f|case:lc|tok:words+characters|stem:{'porter' if stemmer else 'no'}" in str(
        found.signatures()["rouge1"]
    )


def test_words_of_other_scripts() -> None:
    assert Words(False).tokenize("Über 3 Straßen_läuft GPT-4的模型, ね") == [
        "über", "3", "straßen", "läuft", "gpt", "4", "的", "模", "型", "ね",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "tokenizer"),
    [
        ("Ein Hund läuft.", "13a"), ("狗在跑。", "zh"), ("用 PyTorch 训练 GPT-4 模型", "zh"),
        ("犬が走っている", "char"), ("개가 달린다", "char"), ("สุนัขกำลังวิ่ง", "char"),
        ("Собака бежит.", "13a"), ("", "13a"),
        ("The word 狗 means dog, and that is all that has to be said of it here.", "13a"),
    ],
)  # fmt: skip
def test_the_tokenizer_follows_the_references(text: str, tokenizer: str) -> None:
    assert tokenizer_for([text]) == tokenizer


def test_a_typed_tokenizer_is_taken() -> None:
    scores = WritingScores(["bleu"], tokenizer="char")
    scores.add(["ein Hund rennt"], [["ein Hund rennt"]])
    assert scores.scores()["bleu"] == pytest.approx(100)
    assert "tok:char" in scores.signatures()["bleu"]


def test_nothing_written_is_scored_too_and_no_rows_give_no_scores() -> None:
    assert WritingScores(list(METRICS)).scores() == {}
    assert WritingScores(list(METRICS)).signatures() == {}
    scores = WritingScores(list(METRICS))
    scores.add([], [])
    scores.add(["", ""], [["a dog runs"], ["two men"]])
    assert scores.scores() == {"bleu": 0, "chrf": 0, "ter": 100, "rouge1": 0, "rouge2": 0, "rougeL": 0}


def test_single_rows_are_told_apart() -> None:
    golds = [["a dog runs", "one dog is running"], ["eine Straße"], ["狗在跑"]]
    for name in ("chrf", "rougeL"):
        right, near, wrong = row_scores(name, ["one dog is running", "eine Strasse", "xyz"], golds)
        assert right == pytest.approx(100)
        assert 0 < near < 100
        assert wrong == 0
