"""How a text file is cut into rows and fields: delimiter, quotes, header; found where the settings say `auto`."""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from llmtune.core.errors import DataError, Fault

WORDS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
NAMES = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "pipe", " ": "space", None: "none (one column)"}
PREFERRED = {"tsv": "\t,;|", "csv": ",\t;|", "text": "\t|;,"}
EVEN_ENOUGH = {"tsv": 0.5, "csv": 0.5, "text": 0.95}
"""share of lines cut evenly from which a character is a delimiter; a .txt may as well hold one text a line"""
SAMPLE_LINES, SAMPLE_CHARS = 500, 1 << 20
LONGEST_FIELD_CHARS = 1 << 28
LONGEST_ROW_LINES = 2000
Row = tuple[int, "list[str] | None", "str | None"]
"""line it begins at (from 1), its fields, or what is wrong with it"""


@dataclass(frozen=True)
class Dialect:
    delimiter: str | None
    """None: each line is one field"""
    quote: str | None
    """None: quotes are plain characters"""
    escape: str | None = None
    skip_space: bool = False
    """blanks after a delimiter belong to it"""
    width: int = 1
    """fields in a row"""

    def rows(self, lines: Iterable[str], shown: str = "") -> Iterator[Row]:
        """Rows of any width; blank lines are passed over. A quote that never closes is a DataError."""
        return self._quoted_rows(lines, shown) if self.quote and self.delimiter else self._plain_rows(lines)

    def _plain_rows(self, lines: Iterable[str]) -> Iterator[Row]:
        for number, line in enumerate(lines, 1):
            line = line.rstrip("\r\n")
            if line:
                yield number, line.split(self.delimiter) if self.delimiter else [line], None

    def _quoted_rows(self, lines: Iterable[str], shown: str) -> Iterator[Row]:
        csv.field_size_limit(LONGEST_FIELD_CHARS)  # the default, 128 KiB, is less than some documents
        reader = csv.reader(
            lines,
            delimiter=self.delimiter or ",",
            quotechar=self.quote,
            escapechar=self.escape,
            skipinitialspace=self.skip_space,
            strict=True,
        )
        while True:
            first = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "end of data" in str(error):
                    raise DataError(_unclosed(f"{shown}:{first}", self.quote)) from None
                yield first, None, f"its quotes can't be read ({error})"
                fields = []
            if reader.line_num - first > LONGEST_ROW_LINES:
                raise DataError(_unclosed(f"{shown}:{first}", self.quote))
            if fields:
                yield first, fields, None


def _unclosed(where: str, quote: str | None) -> Fault:
    return Fault(
        where,
        f"a {quote} that opens here is never closed",
        "",
        "close it, or data.quote=none if quotes are plain characters",
    )


def find_dialect(read: Callable[[], Iterator[str]], *, format: str, delimiter: str, quote: str, shown: str) -> Dialect:
    """Delimiter by consistency over the first lines, quotes by what they do to the whole file.

    `read` opens the file anew and yields its lines. DataError where the lines can't be cut evenly.
    """
    sample, chars = [], 0
    for line in itertools.islice(read(), SAMPLE_LINES):
        sample.append(line)
        chars += len(line)
        if chars > SAMPLE_CHARS:
            break
    quotes = ['"', None] if quote == "auto" else [None if quote == "none" else _one_character("data.quote", quote)]
    given = None if delimiter == "auto" else _one_character("data.delimiter", WORDS.get(delimiter, delimiter))
    if format == "csv" and given in (None, ",") and quotes[0]:
        alone = Dialect(",", quotes[0])
        if _one_quoted_column(alone, read, sample):
            return alone
    best, best_share = Dialect(None, None), 0.0
    for character in [given] if given else PREFERRED[format]:
        for mark in quotes:
            tried = _with_width(Dialect(character, mark), sample)
            share = _even_share(tried, sample)
            if tried.width > 1 and share > best_share + 1e-9 and (best_share < 0.9 or given):
                best, best_share = tried, share
    if given and best.delimiter is None:
        raise DataError(Fault(shown, f"no line holds the delimiter {given!r}", "", "data.delimiter=auto"))
    if best.delimiter is None or (best_share < EVEN_ENOUGH[format] and not given):
        return Dialect(None, None)
    return _settle_quotes(best, read, sample) if quote == "auto" else best


def _one_quoted_column(dialect: Dialect, read: Callable[[], Iterator[str]], sample: list[str]) -> bool:
    """Is it a file of one column, in which texts that hold the delimiter stand in quotes?"""
    opened = any(line.startswith(str(dialect.quote)) for line in sample)
    return opened and _even_share(dialect, sample) == 1 and _uneven_lines(dialect, read) == 0


def _one_character(where: str, text: str) -> str:
    if len(text) != 1:
        raise DataError(
            Fault(where, f"{text!r} is not one character", "auto, a character, or " + " ".join(WORDS), f"{where}=auto")
        )
    return text


def _complete(dialect: Dialect, sample: list[str]) -> list[Row]:
    """Rows of the sample, without the last where the sample may have cut through it."""
    rows: list[Row] = []
    try:
        for row in dialect.rows(sample):
            rows.append(row)
    except DataError:  # a field that is still open where the sample ends
        pass
    return rows


def _with_width(dialect: Dialect, sample: list[str]) -> Dialect:
    rows = _complete(dialect, sample)
    counts = Counter(len(fields) for _, fields, _ in rows if fields)
    if not counts:
        return dialect
    width = max(counts, key=lambda width: (counts[width], width))
    even = [fields for _, fields, _ in rows if fields and len(fields) == width]
    spaced = dialect.delimiter not in ("\t", " ") and width > 1 and all(f[:1] == " " for row in even for f in row[1:])
    return replace(dialect, width=width, skip_space=spaced)


def _even_share(dialect: Dialect, sample: list[str]) -> float:
    """Share of the sample's lines that stand in rows of the usual width."""
    rows = _complete(dialect, sample)
    ends = [row[0] for row in rows[1:]] + [len(sample) + 1]
    even = sum(end - row[0] for row, end in zip(rows, ends) if row[1] and len(row[1]) == dialect.width)
    return even / max(1, len(sample))


def _settle_quotes(dialect: Dialect, read: Callable[[], Iterator[str]], sample: list[str]) -> Dialect:
    """Whether quotes enclose fields, judged on the whole file.

    A bare quote at the start of a text swallows lines up to the next one, and the row that comes out can have
    the right number of fields; so quotes count only where the file is no less even with them than without.
    """
    plain = replace(dialect, quote=None)
    opening = (dialect.delimiter or "") + '"'
    uneven, opened, enclosed, doubled = 0, 0, 0, 0
    for _, fields, _ in plain.rows(read()):
        fields = fields or []
        uneven += len(fields) != dialect.width
        line = (dialect.delimiter or "").join(fields)
        if line[0] != '"' and opening not in line and not (dialect.skip_space and '"' in line):
            continue
        for field in (field.strip() if dialect.skip_space else field for field in fields):
            if field.startswith('"'):
                opened += 1
                enclosed += len(field) > 1 and field.endswith('"')
                doubled += '""' in field[1:-1]
    if not opened:
        return plain
    if not uneven:
        if dialect.delimiter == "\t":
            # writers of tab-separated files quote every text, or those that hold quotes (and double them)
            return (
                replace(dialect, quote='"') if opened == enclosed and (doubled or _all_quoted(plain, sample)) else plain
            )
        if opened > enclosed:
            return plain
    choices = [replace(dialect, quote='"'), replace(dialect, quote='"', escape="\\")]
    scored = [(_uneven_lines(choice, read), choice) for choice in choices[: 2 if _escapes(sample) else 1]]
    lines, quoted = min(scored, key=lambda pair: pair[0])
    return quoted if lines <= uneven else plain


def _all_quoted(plain: Dialect, sample: list[str]) -> bool:
    rows = [fields for _, fields, _ in plain.rows(sample) if fields and len(fields) == plain.width][1:]
    return bool(rows) and any(all(row[i].startswith('"') for row in rows) for i in range(plain.width))


def _escapes(sample: list[str]) -> bool:
    return any('\\"' in line for line in sample)


def _uneven_lines(dialect: Dialect, read: Callable[[], Iterator[str]]) -> float:
    """Lines in rows that are not as wide as usual; infinite where a quote never closes."""
    total, start, even = 0, 1, True
    try:
        for line, fields, _ in dialect.rows(read()):
            total += 0 if even else line - start
            start, even = line, fields is not None and len(fields) == dialect.width
    except DataError:
        return float("inf")
    return total + (not even)


def looks_like_header(first: list[str], rest: list[list[str]], known: set[str]) -> bool:
    """Whether the first row holds names: known ones, or words above a column of numbers or of a few other words."""
    names = [name.strip() for name in first]
    if len(set(names)) < len(names) or any(_is_number(name) or len(name) > 40 for name in names):
        return False
    if any(name.lower() in known or set(re.split(r"[\s_-]+", name.lower())) <= known for name in names):
        return True
    columns = list(zip(*(row for row in rest if len(row) == len(first))))
    numbers = any(len(column) > 1 and all(_is_number(value) for value in column) for column in columns)
    return numbers or any(_stands_over(name, column) for name, column in zip(names, columns))


def _stands_over(name: str, column: tuple[str, ...]) -> bool:
    """Whether the column holds few words, each again and again, never `name`: that is no label, but a header."""
    counts = Counter(value.strip() for value in column)
    return len(column) >= 4 * len(counts) >= 8 and min(counts.values()) > 1 and name not in counts


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
