"""Which tests a source of tests holds: code to be run as it is, and what is to be called after that.

Runs inside the sandboxed process; standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from types import CodeType, CoroutineType
from typing import Any, NamedTuple

OWN_MAIN = re.compile(r"\bfrom (?:unittest|pytest) import [^\n]*\bmain\b")
NO_TESTS = ("__init__", "__new__")
"""of a class that is made of something and so is a help of the tests, as for pytest"""


def code_of(tests: str, name: str) -> CodeType:
    """The tests compiled as the main module. Runners that end the process are left out: `checks` finds the same tests.

    Raises:
        SyntaxError: they are no Python.
    """
    if "__name__" not in tests and "main(" not in tests:
        return compile(tests, name, "exec")
    import ast

    runner = re.compile(r"\b(?:unittest|pytest)\.main\(" + (r"|(?<![\w.])main\(" if OWN_MAIN.search(tests) else ""))

    class Main(ast.NodeTransformer):
        def visit_Compare(self, node: ast.Compare) -> ast.expr:
            asked = ast.unparse(node).replace('"', "'")
            if asked in ("__name__ == '__main__'", "'__main__' == __name__"):
                return ast.copy_location(ast.Constant(True), node)
            return node

        def visit_Expr(self, node: ast.Expr) -> ast.stmt:
            return ast.copy_location(ast.Pass(), node) if runner.search(ast.unparse(node)) else node

        def visit_Raise(self, node: ast.Raise) -> ast.stmt:
            return ast.copy_location(ast.Pass(), node) if runner.search(ast.unparse(node)) else node

    return compile(Main().visit(ast.parse(tests, name)), name, "exec")


class Tests(NamedTuple):
    """What is known of tests before the program runs, which may put other things in many places."""

    code: CodeType
    defined: frozenset[str]
    """functions and classes, as `def name` and `class name`"""
    with_cases: bool
    """may there be cases of unittest?"""
    wait: Callable[[Any], Any] | None
    """what runs a coroutine to its end, where tests may make one"""


def read(tests: str, name: str) -> Tests:
    """`name` of the source, for tracebacks. Raises SyntaxError."""
    defined = frozenset(" ".join(found) for found in re.findall(r"\b(def|class)\s+(\w+)", tests))
    wait = None
    if "async def " in tests:
        import asyncio

        wait = asyncio.run
    return Tests(code_of(tests, name), defined, "TestCase" in tests, wait)


def checks(scope: dict[str, Any], entry_point: str | None, tests: Tests) -> list[Callable[[], Any]]:
    """What is to be called after the tests were run: check(function), test_...(), test_ methods, cases of unittest.

    Raises:
        NameError: the program lacks the function that is asked for.
    """
    def whole(call: Callable[..., Any], *given: Any) -> None:
        made = call(*given)
        if tests.wait is not None and isinstance(made, CoroutineType):
            tests.wait(made)

    def defined(word: str, name: str) -> bool:
        return f"{word} {name}" in tests.defined

    found: list[Callable[[], Any]] = []
    if entry_point and entry_point not in scope:
        raise NameError(f"the program defines no {entry_point!r}")
    if defined("def", "check") and callable(scope.get("check")):
        found.append(lambda: whole(scope["check"], *([scope[entry_point]] if entry_point else [])))
    values = [value for name, value in scope.items() if name.startswith("test_") and defined("def", name)]
    found += [lambda value=value: whole(value) for value in values]  # type: ignore[misc]
    kinds = [one for name, one in scope.items() if isinstance(one, type) and defined("class", name)]
    cases: list[type] = []
    if tests.with_cases:
        import unittest

        cases = [one for one in scope.values() if isinstance(one, type) and issubclass(one, unittest.TestCase)]
        found += [unittest.defaultTestLoader.loadTestsFromTestCase(case).debug for case in cases]
    mixed = {base for kind in kinds for base in kind.__mro__[1:]}
    plain = [kind for kind in kinds if kind not in mixed and kind not in cases]
    return found + [lambda kind=kind: _run_class(kind, whole) for kind in plain]


def _run_class(kind: Any, whole: Callable[..., None]) -> None:
    """The test_ methods of a plain class, each on an object of its own, as pytest does."""
    names = [name for name in _names(kind) if name.startswith("test_") and callable(getattr(kind, name))]
    if not names or any(getattr(kind, name) is not getattr(object, name) for name in NO_TESTS):
        return
    around = {name: getattr(kind, name, None) for name in ("setup_class", "teardown_class")}
    if around["setup_class"]:
        whole(around["setup_class"])
    for name in names:
        held = kind()
        for before in ("setup_method", "setUp"):
            _around(held, before, name, whole)
        whole(getattr(held, name))
        for after in ("tearDown", "teardown_method"):
            _around(held, after, name, whole)
    if around["teardown_class"]:
        whole(around["teardown_class"])


def _names(kind: type) -> Iterable[str]:
    """Of a class and what it is made of, in the order of their lines."""
    return dict.fromkeys(name for one in reversed(kind.__mro__) for name in vars(one))


def _around(held: Any, name: str, method: str, whole: Callable[..., None]) -> None:
    """Call what stands around each method, if there is such; pytest lets it ask for the method."""
    call = getattr(held, name, None)
    if call is not None:
        code = getattr(call, "__code__", None)
        whole(call, *([getattr(held, method)] if code is not None and code.co_argcount > 1 else []))
