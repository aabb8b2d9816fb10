"""Windows that lose no answer, losses and spans by hand, answers read out of spans, and one whole tiny run."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from llmtune.config.settings import TokenizerSettings
from llmtune.core.errors import ConfigError, DataError, ModelError
from llmtune.data.forms.answer_places import Place
from llmtune.data.report import summary
from llmtune.data.rows import RawSplits
from llmtune.task.answer_results import decoded
from llmtune.task.answer_spans import allowed, best_spans, span_divergences, span_losses
from llmtune.task.answer_windows import NOT_SCORED, WindowEncoder, tokens_of
from llmtune.task.question_answering import QuestionAnswering
from tests.tiny import config_of, prepared_of

SETTINGS = {
    "name": "qa", "kind": "question_answering", "metric": "f1", "stride_tokens": "auto", "max_question_tokens": 64,
    "max_answer_tokens": "auto", "null_threshold": "auto", "num_answers": 5,
}  # fmt: skip
WORDS = [
    "Ada",
    "lives",
    "in",
    "Ashford",
    "near",
    "the",
    "river",
    "Arle;",
    "银行",
    "在",
    "青河镇",
    "开门",
    "naïve",
    "Straße",
    "(1871)",
    "don't",
    "U.S.",
    "🙂",
    "ab12",
    "über",
]
FAMILIES = {
    "wordpiece": ("wordpiece", "bert", True), "bpe": ("bpe", "roberta", False), "decoder": ("bpe", "gpt2", False),
    "unigram": ("unigram", "xlnet", False),
}  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A small one of each kind, trained on the words that the tests use."""
    from llmtune.model.tokenizers import train_tokenizer

    kind, model_type, lowercase = FAMILIES[request.param]
    settings = TokenizerSettings(kind=kind, vocab_size=400, min_frequency=1, lowercase=lowercase)
    config = SimpleNamespace(model_type=model_type, type_vocab_size=2 if kind == "wordpiece" else 1)
    texts = [" ".join(random.Random(seed).choices(WORDS, k=12)) for seed in range(40)]
    return train_tokenizer(settings, texts, config)


def rows(count: int, seed: int) -> Iterator[tuple[str, str, Place]]:
    """Random contexts with an answer that begins and ends at words."""
    rng = random.Random(seed)
    for _ in range(count):
        words = rng.choices(WORDS, k=rng.randint(1, 120))
        first = rng.randrange(len(words))
        last = min(len(words), first + rng.randint(1, 4))
        gap = rng.choice([" ", " ", "  ", "\n"])
        context = gap.join(words)
        text = gap.join(words[first:last])
        yield (
            " ".join(rng.choices(WORDS, k=rng.randint(1, 9))),
            context,
            Place(text, len(gap.join([*words[:first], ""]))),
        )


def encoded(encoder: WindowEncoder, question: str, context: str, *places: Place, most: int | None) -> dict[str, Any]:
    answers = json.dumps([{"text": place.text, "answer_start": place.start} for place in places])
    columns = {"question": [question], "context": [context], "answers": [answers]}
    return {name: values[0] for name, values in encoder(columns, most).items()}


def test_windows_lose_no_answer(tokenizer: Any) -> None:
    encoder = WindowEncoder(tokenizer, stride_tokens=20, max_question_tokens=12)
    scored = 0
    for question, context, place in rows(150, seed=1):
        assert context[place.start : place.start + len(place.text)] == place.text
        most = random.Random(len(context)).randint(48, 90)
        made = encoded(encoder, question, context, place, most=most)
        assert sum(made["cuts"]) == len(made["input_ids"])
        assert max(made["cuts"]) <= most
        offsets = encoder.offsets([question], [context])[0]
        span = tokens_of(place, offsets)
        assert span is not None
        whole = encoded(encoder, question, context, place, most=None)
        first, end, _ = whole["regions"]
        context_ids = whole["input_ids"][first:end]
        covered, found, at = set(), 0, 0
        for number, (left, right, start, size) in enumerate(
            zip(made["regions"][::3], made["regions"][1::3], made["regions"][2::3], made["cuts"])
        ):
            ids = made["input_ids"][at : at + size]
            at += size
            assert ids[left:right] == context_ids[start : start + right - left]
            covered.update(range(start, start + right - left))
            begin, stop, *region = made["target"][4 * number : 4 * number + 4]
            assert region == [left, right]
            if begin > 0:
                assert (begin - left + start, stop - left + start) == span
                found += 1
        assert covered == set(range(len(offsets)))
        if span[1] - span[0] < 20:
            assert found >= 1, "the answer is whole in no window"
        scored += found
    assert scored >= 100


def test_the_question_is_whole_in_each_window_and_predict_makes_the_same(tokenizer: Any) -> None:
    encoder = WindowEncoder(tokenizer, stride_tokens=16, max_question_tokens=40)
    question, context, place = next(rows(1, seed=5))
    context = " ".join([context] * 3)
    made = encoded(encoder, question, context, place, most=80)
    again = {name: values[0] for name, values in encoder({"question": [question], "context": [context]}, 80).items()}
    assert again == {name: numbers for name, numbers in made.items() if name != "target"}
    asked = tokenizer(question, add_special_tokens=False)["input_ids"]
    at, heads = 0, set()
    for size, left in zip(made["cuts"], made["regions"][::3]):
        heads.add(tuple(made["input_ids"][at : at + left]))
        at += size
    assert len(made["cuts"]) > 1
    assert len(heads) == 1
    head = list(heads.pop())
    assert any(head[start : start + len(asked)] == asked for start in range(len(head)))


def test_short_rows_are_what_the_tokenizer_makes_of_the_pair(tokenizer: Any) -> None:
    made = encoded(
        WindowEncoder(tokenizer, stride_tokens=16, max_question_tokens=40), "Ada lives", "in Ashford", most=80
    )
    pair = tokenizer("Ada lives", "in Ashford")
    plain = list(pair["input_ids"])
    if made["input_ids"] != plain:  # nothing stood between: a line break does now
        between = tokenizer("\n", add_special_tokens=False)["input_ids"]
        asked = len(tokenizer("Ada lives")["input_ids"])
        assert between
        assert made["input_ids"] == plain[:asked] + between + plain[asked:]
    else:
        assert made.get("token_type_ids") == pair.get("token_type_ids")
    assert made["target"][:2] == [0, 0]  # no answer


def test_offsets_give_the_answer_back(tokenizer: Any) -> None:
    encoder = WindowEncoder(tokenizer, stride_tokens=16, max_question_tokens=40)
    for question, context, place in rows(60, seed=9):
        offsets = encoder.offsets([question], [context])[0]
        first, last = tokens_of(place, offsets) or (0, 0)
        outputs = np.array([[0, 0, 0], [9, first, last]], dtype=np.float32)
        chunk = SimpleNamespace(columns={"question": [question], "context": [context]}, outputs=[outputs])
        (found,) = decoded(encoder, chunk, float("inf"))
        assert context[found["start"] : found["end"]] == found["answer"]
        assert place.text.strip() in found["answer"]
        assert found["probability"] == 1.0


def test_a_question_that_is_too_long_leaves_half_of_the_room(tokenizer: Any) -> None:
    encoder = WindowEncoder(tokenizer, stride_tokens=4, max_question_tokens=500)
    made = encoded(encoder, "Ada lives in Ashford " * 30, "the river Arle " * 30, most=40)
    assert max(made["cuts"]) <= 40
    assert all(end - first >= 10 for first, end in zip(made["regions"][:-3:3], made["regions"][1:-3:3]))


def test_of_a_question_that_is_too_long_the_end_is_read_and_this_is_told() -> None:
    encoder = WindowEncoder(Letters(), stride_tokens=2, max_question_tokens=5)
    made = encoder({"question": ["long, why?", "who?"], "context": ["abc", "abc"]}, 30)
    assert "".join(map(chr, made["input_ids"][0][1:6])) == " why?"
    assert encoder.told() == ["of 1 question(s) only the end is read: they are longer than "
                              "task.max_question_tokens=5, or half of a window"]  # fmt: skip
    assert not encoder.told()


class Letters:
    """A tokenizer of letters, by which targets can be counted by hand: [1, question, 2, context, 3]."""

    eos_token_id = 3

    def __call__(self, one: list[str], two: list[str], **options: Any) -> Any:
        rows = [[1, *map(ord, left), 2, *map(ord, right), 3] for left, right in zip(one, two)]
        parts = [[None, *[0] * len(left), None, *[1] * len(right), None] for left, right in zip(one, two)]
        offsets = [[(0, 0)] * (len(left) + 2) + [(i, i + 1) for i in range(len(right))] + [(0, 0)]
                   for left, right in zip(one, two)]  # fmt: skip
        return Encoded({"input_ids": rows, "offset_mapping": offsets}, parts)


class Encoded(dict[str, Any]):
    def __init__(self, values: dict[str, Any], parts: list[Any]):
        super().__init__(values)
        self.sequence_ids = parts.__getitem__


def test_targets_by_hand() -> None:
    encoder = WindowEncoder(Letters(), stride_tokens=2, max_question_tokens=9)
    # room for 5 letters: windows abcde, defgh, ghij
    made = encoded(encoder, "qq", "abcdefghij", Place("de", 3), most=10)
    assert made["regions"] == [4, 9, 0, 4, 9, 3, 4, 8, 6]
    assert made["cuts"] == [10, 10, 9]
    assert made["target"] == [7, 8, 4, 9, 4, 5, 4, 9, 0, 0, 4, 8]
    # what most annotators gave; in a window without it another that is whole there
    golds = (Place("ab", 0), Place("de", 3), Place("de", 3))
    assert encoded(encoder, "qq", "abcdefghij", *golds, most=10)["target"][:8] == [7, 8, 4, 9, 4, 5, 4, 9]
    # too long for any window: those that cut it say nothing, the others that it is not there
    made = encoded(encoder, "qq", "abcdefghij", Place("abcdef", 0), most=10)
    assert made["target"] == [NOT_SCORED, NOT_SCORED, 4, 9, NOT_SCORED, NOT_SCORED, 4, 9, 0, 0, 4, 8]


def task_of(**changes: Any) -> Any:
    return QuestionAnswering(**{**SETTINGS, **changes}).build()


def test_loss_is_the_cross_entropy_over_allowed_places() -> None:
    logits_RT2 = torch.tensor([[[0.0, 0.0], [5.0, 5.0], [1.0, 0.0], [2.0, 3.0]]])
    targets = task_of().collate_targets([[2, 3, 2, 4]], [[4]])
    assert allowed(4, targets["region"]).tolist() == [[True, False, True, True]]
    losses_R = span_losses(logits_RT2, targets["label"], targets["region"])
    starts, ends = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 0.0, 3.0])
    assert losses_R[0] == pytest.approx(-(starts.log_softmax(0)[1] + ends.log_softmax(0)[2]).item())


def test_counts_and_shares_of_rows() -> None:
    task = task_of()
    torch.manual_seed(0)
    logits_RT2 = torch.randn(4, 6, 2, requires_grad=True)
    targets = task.collate_targets(
        [[2, 3, 2, 6, 0, 0, 2, 5], [NOT_SCORED, NOT_SCORED, 2, 6], [3, 3, 2, 6]], [[6, 5], [6], [6]]
    )
    assert targets["row"].tolist() == [0, 0, 1, 2]
    assert task.count(targets) == 6
    share_B = torch.tensor([0.5, 1.0, 2.0])
    whole, shared = task.loss(logits_RT2, targets), task.loss(logits_RT2, targets, share_B)
    losses_R = span_losses(logits_RT2, targets["label"], targets["region"])
    assert losses_R[2] == 0
    assert whole.total.item() == pytest.approx(losses_R.sum().item())
    assert shared.total.item() == pytest.approx((0.5 * losses_R[:2].sum() + 2 * losses_R[3]).item())
    assert float(shared.count) == task.count(targets, share_B) == 2 * (0.5 * 2 + 2)
    whole.total.backward()
    assert torch.isfinite(logits_RT2.grad).all()
    assert (logits_RT2.grad[0, 1] == 0).all()


def test_divergence() -> None:
    task = task_of()
    targets = task.collate_targets([[2, 3, 2, 4]], [[4]])
    torch.manual_seed(1)
    one, two = torch.randn(1, 4, 2), torch.randn(1, 4, 2)
    assert task.divergence(one, one, targets).total == 0
    apart = task.divergence(one, two, targets).total
    expected = 0.0
    for column in (0, 1):
        p, q = (logits[0, [0, 2, 3], column].log_softmax(0) for logits in (one, two))
        expected += float(((p.exp() - q.exp()) * (p - q)).sum()) / 2
    assert float(apart) == pytest.approx(expected, rel=1e-5)
    assert float(apart) == pytest.approx(float(task.divergence(two, one, targets).total))
    assert span_divergences(one, two, torch.full((1, 2), NOT_SCORED), targets["region"]).item() == 0


def test_best_spans_against_trying_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        logits_RT2 = rng.normal(size=(2, 12, 2)).astype(np.float32)
        regions_R3 = np.array([[3, 11, 0], [3, 9, 5]])
        scores: dict[tuple[int, int], float] = {}
        for logits_T2, (first, end, start) in zip(logits_RT2, regions_R3):
            for left in range(first, end):
                for right in range(left, min(end, left + 3)):
                    span = (left - first + start, right - first + start)
                    scores[span] = max(scores.get(span, -np.inf), float(logits_T2[left, 0] + logits_T2[right, 1]))
        spans = best_spans(logits_RT2, regions_R3, max_answer_tokens=3, num_spans=6)
        wanted = sorted(scores.items(), key=lambda item: -item[1])[:6]
        assert spans[0, 0] == pytest.approx(float(logits_RT2[:, 0].sum(-1).min()))
        assert [(int(first), int(last)) for _, first, last in spans[1:]] == [span for span, _ in wanted]
        assert spans[1:, 0] == pytest.approx([score for _, score in wanted])


def test_a_context_without_tokens_has_no_answer() -> None:
    spans = best_spans(np.zeros((1, 5, 2), np.float32), np.array([[5, 5, 0]]), max_answer_tokens=3, num_spans=2)
    assert spans.shape == (1, 3)
    chunk = SimpleNamespace(columns={"question": ["q"], "context": [""]}, outputs=[spans])
    (found,) = decoded(WindowEncoder(Letters(), stride_tokens=2, max_question_tokens=9), chunk, float("inf"))
    assert found["answer"] == ""
    assert found["start"] is None
    assert found["n_best"] == []


def test_answers_read_out_of_spans() -> None:
    encoder = WindowEncoder(Letters(), stride_tokens=2, max_question_tokens=9)
    outputs = np.array([[1, 0, 0], [3, 1, 2], [2, 4, 4]], dtype=np.float32)
    chunk = SimpleNamespace(columns={"question": ["q"], "context": ["a bcd e"]}, outputs=[outputs])
    (found,) = decoded(encoder, chunk, 0.0)
    assert (found["answer"], found["start"], found["end"]) == ("b", 2, 3)  # its blank is left out
    assert found["no_answer_score"] == -2
    assert [one["text"] for one in found["n_best"]] == ["b", "d"]
    chances = np.exp([3, 2, 1]) / np.exp([3, 2, 1]).sum()
    assert found["probability"] == pytest.approx(chances[0])
    assert found["no_answer_probability"] == pytest.approx(chances[2])
    (withheld,) = decoded(encoder, chunk, -3.0)
    assert withheld["answer"] == ""
    assert withheld["start"] is None
    assert withheld["probability"] == pytest.approx(chances[2])
    (always,) = decoded(encoder, chunk, float("inf"))
    assert always["probability"] == pytest.approx(np.exp(3) / (np.exp(3) + np.exp(2)))


def test_threshold_and_state() -> None:
    task = task_of()
    task.unanswerable, task.answer_tokens = False, 7
    assert task.limit == float("inf")
    assert "no_answer_score" not in task.fields
    task.unanswerable = True
    assert task.limit == 0.0
    assert task.settle({"best_f1_threshold": 1.5, "best_em_threshold": 2.5})
    assert task.limit == 1.5
    assert task.table_names[-1] == "no_answer_score"
    again = task_of()
    again.restore(json.loads(json.dumps(task.to_json())))
    assert again.limit == 1.5
    assert again.answer_tokens == 7
    fixed = task_of(null_threshold=-1.0)
    fixed.unanswerable = True
    assert not fixed.settle({"best_f1_threshold": 1.5})
    assert fixed.limit == -1.0


def raw_of(*answers: Any) -> RawSplits:
    rows = {"question": ["q"] * len(answers), "context": ["to be or not to be"] * len(answers),
            "answers": list(map(json.dumps, answers)), "file": ["rows.jsonl"] * len(answers),
            "line": list(range(1, len(answers) + 1))}  # fmt: skip
    return RawSplits({"train": datasets.Dataset.from_dict(rows)}, {}, "x")


def test_questions_are_counted_and_places_that_were_chosen_are_told() -> None:
    task = task_of()
    labelled = task.read_labels(raw_of("be", "or", [], "to", "not", "to be", "to"), None, None)
    assert labelled.report["train"]["counts"] == {"answerable": 6, "unanswerable": 1}
    assert labelled.warnings == [
        "train: answers to 4 question(s) have no place and stand several times in their text; the first place is taken "
        "(rows.jsonl:1, rows.jsonl:4, rows.jsonl:6, ...)"
    ]
    assert task.unanswerable
    assert task.encoder(Fast()).stride_tokens == 64
    assert task.answer_tokens == len("to be") + 2


class Fast:
    is_fast = True

    def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [list(map(ord, text)) for text in texts]}


def test_rows_that_teach_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="no question has an answer"):
        task_of().read_labels(raw_of([], ""), None, None)
    with pytest.raises(ConfigError, match="best_f1, but every question of train has an answer"):
        task_of(metric="best_f1").read_labels(raw_of("or"), None, None)


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(ModelError, match="a tokenizer of the fast kind"):
        task_of().encoder(SimpleNamespace(is_fast=False))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stride_tokens": 20, "max_answer_tokens": 30}, "stride_tokens: 20"),
        ({"metric": "accuracy"}, "metric"),
        ({"stride_tokens": "some"}, "stride_tokens"),
        ({"max_answer_tokens": 0}, "max_answer_tokens"),
        ({"null_threshold": "never"}, "null_threshold"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        QuestionAnswering(**{**SETTINGS, **changes})


def test_what_is_for_classes_is_refused() -> None:
    options = SimpleNamespace(label_smoothing=0.1, class_weights="balanced", focal_gamma=0.0)
    with pytest.raises(ConfigError) as error:
        task_of().set_loss(options, [])
    assert "train.label_smoothing" in str(error.value)
    assert "type train.class_weights=none" in str(error.value)


def test_training_rows_and_rows_to_predict_have_the_same_ids(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTUNE_CACHE", str(tmp_path))
    words = (
        "task=qa", "data.max_tokens=40", "task.max_answer_tokens=8", "task.stride_tokens=8", "hardware.threads=1",
        "task.max_question_tokens=5",
        "model.architecture.hidden_size=16", "model.architecture.intermediate_size=32", "hardware.device=cpu",
    )  # fmt: skip
    prepared = prepared_of(*words)
    rows = prepared.splits["validation"]
    assert max(len(cuts) for cuts in rows["cuts"][:]) > 1
    encode = prepared.task.encoder(prepared.tokenizer)
    again = encode({"question": rows["question"][:], "context": rows["context"][:]}, prepared.max_tokens)
    assert again["input_ids"] == rows["input_ids"][:]
    assert again["regions"] == rows["regions"][:]
    told = [line for line in summary(prepared.report) if "only the end is read" in line]
    assert len(told) == 3
    assert told[0].startswith("warning: train: of ")
    assert config_of(*words).task.null_threshold == "auto"
