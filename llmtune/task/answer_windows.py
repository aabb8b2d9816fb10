"""A question and its context as token windows, where its answers begin and end in them, and tokens back to characters.

A window is: special tokens, the question, special tokens, a part of the context, special tokens. Of a question that is
too long the end is kept, which is mostly where it asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from llmtune.data.forms.answer_places import Place, read_answers

NUMBERS = ("input_ids", "token_type_ids")
NOT_SCORED = -100


class Pair(NamedTuple):
    """A row's tokens: what stands before the context, the context, and what stands after it; by model input."""

    before: dict[str, list[int]]
    context: dict[str, list[int]]
    after: dict[str, list[int]]
    offsets: list[tuple[int, int]]
    """of each context token: its characters"""

    @property
    def num_tokens(self) -> int:
        return len(self.offsets)


class WindowEncoder:
    """`encode(columns, max_tokens)`: each row in as many windows as its context takes; no context is ever cut.

    Any answer of at most `stride_tokens` + 1 tokens is whole in one of them. Where a window is too small for that, half
    of it overlaps with the one before.

    It returns, besides the model's inputs and `cuts`, `regions` (for each window three numbers: where its part of the
    context begins and ends in it, and which token of the context is the first) and, where there are answers, `target`
    (for each window four: start and end of the answer, or twice 0 where it holds none, and the region again).
    """

    makes_windows = True

    def __init__(self, tokenizer: Any, *, stride_tokens: int, max_question_tokens: int):
        self.tokenizer = tokenizer
        self.stride_tokens, self.max_question_tokens = stride_tokens, max_question_tokens
        self._num_cut = 0

    def told(self) -> list[str]:
        """What to say of the rows encoded since this was last asked for: how many questions were too long."""
        count, self._num_cut = self._num_cut, 0
        most = f"task.max_question_tokens={self.max_question_tokens}, or half of a window"
        return [f"of {count:,} question(s) only the end is read: they are longer than {most}"] if count else []

    def __call__(self, columns: Mapping[str, list[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
        questions, contexts, answers = columns["question"], columns["context"], columns.get("answers")
        encoded: dict[str, list[Any]] = {}
        for row, pair in enumerate(self._pairs(questions, contexts, max_tokens)):
            regions = self._regions(pair, max_tokens)
            made: dict[str, list[int]] = {
                name: [
                    number
                    for first, end, start in regions
                    for number in (*before, *pair.context[name][start : start + end - first], *pair.after[name])
                ]
                for name, before in pair.before.items()
            }
            around = len(pair.before["input_ids"]) + len(pair.after["input_ids"])
            made["cuts"] = [around + end - first for first, end, _ in regions]
            made["regions"] = [number for region in regions for number in region]
            if answers is not None and answers[row] is not None:
                gold = read_answers(answers[row], contexts[row])
                made["target"] = self._targets(gold.places, pair.offsets, regions)
            for name, numbers in made.items():
                encoded.setdefault(name, []).append(numbers)
        return encoded

    def offsets(self, questions: Sequence[str], contexts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Of each row: of each token of its context the characters that it stands for."""
        return [pair.offsets for pair in self._pairs(questions, contexts, None)]

    def _pairs(self, questions: Sequence[str], contexts: Sequence[str], max_tokens: int | None) -> Iterator[Pair]:
        encoded = self.tokenizer(
            list(questions), list(contexts), padding=False, truncation=False, verbose=False,
            return_attention_mask=False, return_offsets_mapping=True,
        )  # fmt: skip
        names = [name for name in NUMBERS if name in encoded]
        for row in range(len(questions)):
            parts = encoded.sequence_ids(row)
            inside = [place for place, part in enumerate(parts) if part == 1]
            begin, end = (inside[0], inside[-1] + 1) if inside else (len(parts), len(parts))
            asked = [place for place in range(begin) if parts[place] == 0]
            most = self._most_question(max_tokens, len(parts) - len(asked) - len(inside))
            cut = set(asked[: max(0, len(asked) - most)])
            self._num_cut += bool(cut)
            between = self._between() if asked and inside and asked[-1] + 1 == begin else []
            before, context, after = {}, {}, {}
            for name in names:
                numbers = encoded[name][row]
                before[name] = [number for place, number in enumerate(numbers[:begin]) if place not in cut]
                before[name] += between if name == "input_ids" else [0] * len(between)
                context[name], after[name] = numbers[begin:end], numbers[end:]
            yield Pair(before, context, after, [tuple(span) for span in encoded["offset_mapping"][row][begin:end]])

    def _most_question(self, max_tokens: int | None, num_special: int) -> int:
        """Tokens of a question that are kept: at least half of the room is the context's."""
        if max_tokens is None:
            return self.max_question_tokens
        return max(1, min(self.max_question_tokens, (max_tokens - num_special) // 2))

    def _between(self) -> list[int]:
        """A line break (else the end token) where the tokenizer itself puts nothing between question and context."""
        found = self.tokenizer("\n", add_special_tokens=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        return list(found) or ([] if end is None else [end])

    def _regions(self, pair: Pair, max_tokens: int | None) -> list[tuple[int, int, int]]:
        before = len(pair.before["input_ids"])
        whole = pair.num_tokens
        room = whole if max_tokens is None else max_tokens - before - len(pair.after["input_ids"])
        if whole <= room:
            return [(before, before + whole, 0)]
        step = max(1, room - min(self.stride_tokens, room // 2))
        starts = range(0, whole - room + step, step)
        return [(before, before + min(room, whole - start), start) for start in starts]

    def _targets(
        self, places: Sequence[Place], offsets: Sequence[tuple[int, int]], regions: Sequence[tuple[int, int, int]]
    ) -> list[int]:
        """Of each window: start and end of the answer that most annotators gave, else of another that is whole in it.

        A window that cuts an answer which is whole in none is not scored: neither "here" nor "not here" is true.
        """
        counts = Counter(places)
        spans = [tokens_of(place, offsets) for place in sorted(counts, key=lambda place: -counts[place])]
        known = [span for span in spans if span is not None]
        lost = spans and (not known or not any(_inside(known[0], region) for region in regions))
        numbers: list[int] = []
        for first, end, start in regions:
            span = next((span for span in known if _inside(span, (first, end, start))), None)
            if span is not None:
                target = (span[0] - start + first, span[1] - start + first)
            elif lost and (not known or (known[0][0] < start + end - first and known[0][1] >= start)):
                target = (NOT_SCORED, NOT_SCORED)
            else:
                target = (0, 0)
            numbers += (*target, first, end)
        return numbers


def tokens_of(place: Place, offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """First and last token that hold a character of an answer; None where there is none."""
    begin, end = place.start, place.start + len(place.text)
    # a token of no width (a piece of a character has the whole character) holds nothing
    held = [token for token, (left, right) in enumerate(offsets) if left < end and right > begin and right > left]
    return (held[0], held[-1]) if held else None


def _inside(span: tuple[int, int], region: tuple[int, int, int]) -> bool:
    first, end, start = region
    return start <= span[0] and span[1] < start + end - first
