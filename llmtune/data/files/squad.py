"""Question answering in JSON as SQuAD (v1.1, v2.0) and CMRC 2018 have it: articles, paragraphs, questions, answers."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterator
from typing import Any

from llmtune.config.settings import DataSettings
from llmtune.core.errors import DataError, Fault
from llmtune.data.files.sources import Source
from llmtune.data.files.tables import Line, Table
from llmtune.data.files.text_encoding import find_encoding, open_text, reading
from llmtune.data.forms.answer_places import read_answers
from llmtune.data.forms.values import BadValue

NAMES = ["question", "context", "answers", "id", "title", "is_impossible"]
QUESTIONS, CONTEXTS, IDS = ("question", "query_text"), ("context", "context_text"), ("id", "query_id")
"""as SQuAD calls them, and as the first release of CMRC 2018 does"""
KEYS = re.compile(r'"(question|query_text|answer_start)"\s*:')
LIST_OF_QUESTIONS = re.compile(r'"(paragraphs|qas)"\s*:\s*\[')
DECODER = json.JSONDecoder()
BLANKS = re.compile(r"[ \t\r\n]*")


def looks_like(lines: list[str]) -> bool:
    """Does a file that begins so hold articles with paragraphs, or paragraphs with questions?"""
    return bool(lines) and lines[0].lstrip()[:1] in ("{", "[") and bool(LIST_OF_QUESTIONS.search("\n".join(lines)))


def read_table(source: Source, settings: DataSettings) -> Table:
    """Rows of question, context, answers, id, title, is_impossible; `line` is that of the question.

    A row whose answer does not stand at its offset comes with what is wrong, its line that of the answer; who asks for
    no answers can read it all the same. The text of the file is held in memory, its articles are decoded one by one.

    Raises:
        DataError: the file is no JSON, or holds no questions.
    """
    encoding = find_encoding(source.path, source.shown, settings.encoding)

    def rows() -> Iterator[Line]:
        with reading(source.shown, encoding.name), open_text(source.path, encoding) as file:
            yield from _Reader(file.read(), source.shown).rows()

    if next(rows(), None) is None:
        raise DataError(Fault(source.shown, "holds no questions", 'SQuAD: {"data": [{"paragraphs": [{"context": ..., '
                              '"qas": [{"question": ..., "answers": [...]}]}]}]}'))  # fmt: skip
    return Table(source.shown, list(NAMES), len(NAMES), rows, found={"encoding": encoding.said}, fixed=True)


class _Reader:
    """One file's text, where its lines begin, and how far it is read."""

    def __init__(self, text: str, shown: str):
        self.text, self.shown, self.place = text, shown, 0
        self.starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def rows(self) -> Iterator[Line]:
        for begin, item in self._articles():
            known = [found.start() for found in KEYS.finditer(self.text, begin, self.place)]
            wanted = list(_keys(item))
            # an object that has a key twice keeps one of them: then every line is that of the article
            known = known if len(known) == len(wanted) else [begin] * len(wanted)
            yield from self._of_article(item, dict(zip(wanted, map(self._line, known))), self._line(begin))

    def _of_article(self, item: Any, lines: dict[tuple[int, str], int], first: int) -> Iterator[Line]:
        """Rows of an article, or of a paragraph that stands in no article."""
        title = item.get("title") if isinstance(item, dict) else None
        paragraphs = item.get("paragraphs", [item]) if isinstance(item, dict) else [item]
        for paragraph in paragraphs if isinstance(paragraphs, list) else [paragraphs]:
            context = _named(paragraph, CONTEXTS)
            questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
            if context is None or not isinstance(questions, list):
                yield self.shown, first, None, "no paragraph: it needs 'context' and a list 'qas'"
                continue
            for asked in questions:
                name = next((name for name in QUESTIONS if isinstance(asked, dict) and name in asked), None)
                if name is None:
                    yield self.shown, first, None, "a question without 'question'"
                    continue
                yield self._row(context, asked, title, lines, lines[id(asked), name])

    def _row(
        self, context: Any, asked: dict[str, Any], title: Any, lines: dict[tuple[int, str], int], line: int
    ) -> Line:
        name = _named(asked, IDS)
        row = {"question": _named(asked, QUESTIONS), "context": context, "id": name, "title": title,
               "is_impossible": asked.get("is_impossible", False)}  # fmt: skip
        answers = asked.get("answers")
        if answers is None:  # rows to predict
            return self.shown, line, row, None
        place, why = self._fault(str(context), answers, bool(row["is_impossible"]), lines)
        said = None if why is None else f"question {name}: {why}"
        return self.shown, place or line, {**row, "answers": answers}, said

    def _fault(
        self, context: str, answers: Any, is_impossible: bool, lines: dict[tuple[int, str], int]
    ) -> tuple[int | None, str | None]:
        """Line and reason of the first answer that can't be one."""
        for answer in answers if isinstance(answers, list) else [answers]:
            line = lines.get((id(answer), "answer_start"))
            try:
                if read_answers(json.dumps(answer), context).places and is_impossible:
                    return None, "is_impossible, but it has answers"
            except BadValue as bad:
                return line, str(bad)
        return None, None

    def _line(self, place: int) -> int:
        return bisect.bisect_right(self.starts, place)

    def _articles(self) -> Iterator[tuple[int, Any]]:
        """The items of `data`, of `paragraphs`, or of a bare list: where each begins, and its value."""
        if self._next() == "[":
            yield from self._items()
            return
        if self._next() != "{":
            raise self._broken("neither an object nor a list")
        self.place += 1
        while self._next() == '"':
            name = self._value()
            self._take(":")
            if name in ("data", "paragraphs") and self._next() == "[":
                yield from self._items()
            else:
                self._value()
            if self._next() == ",":
                self.place += 1
        self._take("}")

    def _items(self) -> Iterator[tuple[int, Any]]:
        self._take("[")
        while self._next() not in ("]", ""):
            begin = self.place
            yield begin, self._value()
            if self._next() == ",":
                self.place += 1
        self._take("]")

    def _next(self) -> str:
        """The next character that is no blank; empty at the end."""
        self.place = BLANKS.match(self.text, self.place).end()  # type: ignore[union-attr]
        return self.text[self.place : self.place + 1]

    def _take(self, char: str) -> None:
        if self._next() != char:
            raise self._broken(f"{char!r} is missing")
        self.place += 1

    def _value(self) -> Any:
        self._next()
        try:
            value, self.place = DECODER.raw_decode(self.text, self.place)
        except (json.JSONDecodeError, RecursionError) as error:
            self.place = getattr(error, "pos", self.place)
            raise self._broken(getattr(error, "msg", "nested too deep")) from None
        return value

    def _broken(self, why: str) -> DataError:
        return DataError(Fault(f"{self.shown}:{self._line(self.place)}", f"no valid JSON ({why})"))


def _keys(item: Any) -> Iterator[tuple[int, str]]:
    """In the order of the file, which object has which of the keys whose lines are looked for."""
    for key, value in item.items() if isinstance(item, dict) else ():
        if key in (*QUESTIONS, "answer_start"):
            yield id(item), key
        yield from _keys(value)
    if isinstance(item, list):
        for one in item:
            yield from _keys(one)


def _named(item: Any, names: tuple[str, ...]) -> Any:
    return next((item[name] for name in names if name in item), None) if isinstance(item, dict) else None
