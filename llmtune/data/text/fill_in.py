"""Programs with a gap: a piece of their middle is taken out and becomes what is to be written (arXiv 2207.14255).

Which rows, and where they are cut, is a function of their text alone: token ids are made once and kept. Each row has
the same gap in every epoch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow

from llmtune.core.seeds import generator
from llmtune.data.files.arrow_files import column_list
from llmtune.data.forms.programs import FILL, is_begun, normal

FORMS = ("psm", "spm", "both")
"""order of prefix, suffix and middle; both: half of the rows each"""
SHORTEST = 8
"""characters of a program that is cut"""


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:6], "big")


def with_gap(program: str) -> tuple[str, str]:
    """(the program with FILL in place of a piece, the piece). Both ends are drawn over its characters."""
    rng = generator(_seed(program), "fill in")
    begin, end = sorted(int(place) for place in rng.choice(len(program) + 1, size=2, replace=False))
    return program[:begin] + FILL + program[end:], program[begin:end]


def is_suffix_first(prompt: str, form: str) -> bool:
    """Does the suffix of this prompt come before its prefix?"""
    return form == "spm" or (form == "both" and bool(generator(_seed(prompt), "order").integers(2)))


def with_gaps(rows: Any, share: float) -> Any:
    """The same rows, `share` of them as programs with a gap: `prompt` and `response` are others, `tests` are none."""
    import datasets

    names = [name for name in ("prompt", "response", "tests") if name in rows.column_names]
    columns = {name: column_list(rows, name) for name in names}
    for row, (prompt, response) in enumerate(zip(columns["prompt"], columns["response"])):
        if response is None or FILL in prompt:
            continue
        answer = json.loads(response)[0]
        program = normal(prompt + answer if is_begun(normal(prompt)) else answer)
        if len(program) >= SHORTEST and FILL not in program and generator(_seed(program), "share").random() < share:
            columns["prompt"][row], middle = with_gap(program)
            columns["response"][row] = json.dumps([middle], ensure_ascii=False)
            if "tests" in columns:
                columns["tests"][row] = None
    table = rows.data.table
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pyarrow.chunked_array([pyarrow.array(values, pyarrow.string())]))
    return datasets.Dataset(table)


def gap_ids(tokens: Mapping[str, int], parts: Sequence[list[int]], suffix_first: bool) -> list[int]:
    """Ids of a prompt with a gap. `tokens`: by `prefix`, `suffix`, `middle`; `parts`: ids of what stands before and
    behind the gap."""
    before, after = parts
    if suffix_first:
        return [tokens["prefix"], tokens["suffix"], *after, tokens["middle"], *before]
    return [tokens["prefix"], *before, tokens["suffix"], *after, tokens["middle"]]
