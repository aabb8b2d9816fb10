"""Programs in rows: what a prompt asks for, which part of an answer is a program, and the tests that try it."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from llmtune.data.forms.values import BadValue

FILL = "<FILL_ME>"
"""stands in a prompt where something is to be filled in, as in Code Llama's tokenizer"""
FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
PYTHON = ("", "python", "py", "python3")
CODE = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.For,
    ast.While, ast.With,
)  # fmt: skip
"""statements that no sentence of a language is taken for"""


def normal(text: str) -> str:
    """The text with its lines ended by a line feed each."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def fault_of(source: str) -> str | None:
    """Why a text is no Python program; None if it is one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in its strings
            ast.parse(source)
    except SyntaxError as error:
        return f"{error.msg} (line {error.lineno})"
    except (ValueError, MemoryError, RecursionError) as error:
        return str(error) or "nested too deep"
    return None


def is_begun(prompt: str) -> bool:
    """Is a prompt a program that is to be gone on with, and no sentence about one?"""
    for end in ("", "pass", " pass", "    pass", "\n    pass", "\n        pass"):
        if fault_of(prompt + end) is None:
            return any(isinstance(statement, CODE) for statement in ast.parse(prompt + end).body)
    return False


def extracted(answer: str, entry_point: str | None = None) -> str:
    """The program in an answer: what stands between ``` if anything does, else all of it.

    Of several pieces the one that defines `entry_point` counts, else the first.
    """
    found = [body for kind, body in FENCE.findall(answer) if kind.lower() in PYTHON]
    if not found:
        return answer
    return next((body for body in found if entry_point and f"def {entry_point}" in body), found[0])


def cut_at(answer: str, stops: Sequence[str]) -> str:
    """An answer up to the first place where any of `stops` stands."""
    places = [answer.find(stop) for stop in stops]
    return answer[: min((place for place in places if place >= 0), default=len(answer))]


def assembled(prompt: str, answer: str, stops: Sequence[str] = (), entry_point: str | None = None) -> str:
    """The whole program that a prompt and an answer to it make.

    An answer fills in the gap of a prompt with FILL, goes on from a prompt that is a program, and is the program
    itself elsewhere, or where it begins anew. `stops` cut what is written behind a function that goes on.
    """
    prompt, answer = normal(prompt), normal(answer)
    if FILL in prompt:
        before, _, after = prompt.partition(FILL)
        return before + answer + after
    alone = extracted(answer, entry_point)
    if not is_begun(prompt):
        return alone
    if alone is answer and not _begins_anew(answer, entry_point):
        return prompt + cut_at(answer, stops)
    both = f"{prompt.rstrip()}\n\n{alone}"  # what the prompt imports and defines may be needed
    return both if fault_of(both) is None else alone


def _begins_anew(answer: str, entry_point: str | None) -> bool:
    return bool(entry_point and re.match(rf"(?:(?:from|import|@)\b[^\n]*\n+)*def {re.escape(entry_point)}\b", answer))


def tests_of(kept: str | None) -> str | None:
    """The source of a row's tests, of however many pieces; None where it has none."""
    pieces = [] if kept is None else _pieces(json.loads(kept))
    return "\n".join(piece for piece in pieces if piece.strip()) or None


def _pieces(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [normal(value)]
    if isinstance(value, list):
        return [piece for item in value for piece in _pieces(item)]
    raise BadValue(f"the tests hold a {type(value).__name__}; source of Python, or a list of assertions, is read")


def check_tests(values: Mapping[str, str | None]) -> None:
    """Whether the tests of a row, by role as rows keep them, can be run. Raises BadValue."""
    tests = tests_of(values.get("tests"))
    if tests is None:
        return
    entry_point = values.get("entry_point")
    fault = fault_of(tests)
    if fault is not None:
        raise BadValue(f"the tests don't parse: {fault}")
    if entry_point is not None and not entry_point.isidentifier():
        raise BadValue(f"the entry point {entry_point!r} is no name of a function")
    names = {one.name for one in ast.parse(tests).body if isinstance(one, ast.FunctionDef) and one.args.args}
    if "check" in names and entry_point is None:
        raise BadValue("the tests are a check(function), and no entry point names the function")
    if not any(_tries(statement) for statement in ast.parse(tests).body):
        raise BadValue("the tests assert nothing and call nothing when they are run: any program would pass them; "
                       "an assertion, check(function), a function test_... or a class with such is looked for")


def _tries(statement: ast.stmt) -> bool:
    """Does something happen where tests with this statement are run?"""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return statement.name == "check" or statement.name.startswith("test_")
    if isinstance(statement, ast.ClassDef):
        methods = [one.name for one in statement.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))]
        return bool(statement.bases) or any(name.startswith("test") for name in methods)
    return any(isinstance(one, (ast.Assert, ast.Call, ast.Raise)) for one in ast.walk(statement))
