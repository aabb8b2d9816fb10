"""Hostile programs are contained by each way that this machine allows, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmtune.core.errors import ConfigError
from llmtune.scoring import sandbox as module
from llmtune.scoring import sandbox_filter
from llmtune.scoring.sandbox import Limits, Program, Sandbox, Walls
from tests import hostile

ROOT = Path(__file__).parents[3]
ADD = "def add(a, b):\n    return a + b\n"
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox is for Linux")


@pytest.fixture(scope="module")
def box() -> Sandbox:
    try:
        return Sandbox(Limits(seconds=2.0))
    except ConfigError as error:
        pytest.skip(f"programs can't be contained here: {error}")


def possible(walls: Walls) -> bool:
    return bool(module.run_within(walls, Limits(), module._attempt(walls)).get("passed"))


def test_at_least_twelve_programs_are_hostile() -> None:
    assert len(hostile.PROGRAMS) + len(hostile.WRONG_ANSWERS) >= 12


@pytest.mark.slow
@pytest.mark.parametrize("walls", module.ladder(loose=False), ids=module._name)
def test_hostile_programs_are_contained(walls: Walls, monkeypatch: pytest.MonkeyPatch) -> None:
    if not possible(walls):
        pytest.skip("this machine does not allow it, or its Python can't be read by another user")
    monkeypatch.setenv("HOSTILE", "")
    assert hostile.attack(module, walls) == []


@pytest.mark.slow
def test_namespaces_alone_leave_no_process_and_no_way_out(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    if not box.walls.namespaces:
        pytest.skip("no namespaces here")
    monkeypatch.setenv("HOSTILE", "")
    found = hostile.attack(module, box.walls._replace(filter=False))
    inside = ("becomes root", "spawner of children")  # of its own namespace; nothing of it is left, and nothing outside
    assert [one for one in found if not one.startswith(inside)] == []


@pytest.fixture
def for_all() -> Iterator[Path]:
    """A copy of the sandbox in a folder that every user can read."""
    folder = Path(tempfile.mkdtemp(prefix="llmtune-for-all-"))
    for name in ("__init__.py", "core/__init__.py", "core/errors.py", "scoring/__init__.py", "scoring/sandbox.py",
                 "scoring/sandbox_child.py", "scoring/sandbox_filter.py", "scoring/sandbox_tests.py",
                 "scoring/sandbox_walls.py"):  # fmt: skip
        (folder / "llmtune" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "llmtune" / name, folder / "llmtune" / name)
    shutil.copy(ROOT / "tests" / "hostile.py", folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def python_for_all() -> str | None:
    """A Python that an ordinary user may run."""
    candidates = [sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"]
    for python in candidates:
        asked = [python, "-c", "import sys, ctypes, decimal; print(sys.version_info >= (3, 10))"]
        try:
            said = subprocess.run(asked, user=65534, group=65534, extra_groups=[], capture_output=True, timeout=30)
        except OSError:
            continue
        if said.stdout.strip() == b"True":
            return python
    return None


@pytest.mark.slow
def test_hostile_programs_are_contained_where_an_ordinary_user_runs_them(for_all: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests are run as an ordinary user already")
    python = python_for_all()
    if python is None:
        pytest.skip("no Python here that an ordinary user may read")
    ran = subprocess.run(
        [python, "-B", "hostile.py", "."], cwd=for_all, user=65534, group=65534, extra_groups=[], timeout=200,
        capture_output=True, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    answer = json.loads(ran.stdout)
    assert answer["user"] == 65534
    contained = [found for found in answer["found"].values() if not any("'walls'" in one for one in found)]
    assert contained
    assert not any(contained), answer["found"]


def test_a_right_program_passes_and_a_wrong_one_says_which_assertion_failed(box: Sandbox) -> None:
    assert box.run(Program(ADD, "assert add(1, 2) == 3")).passed
    wrong = box.run(Program(ADD, "assert add(1, 2) == 3\nassert add(2, 2) == 5"))
    assert not wrong.passed
    assert wrong.reason == "AssertionError in: assert add(2, 2) == 5"
    assert box.run(Program("def add(a b)", "")).reason.startswith("SyntaxError: ")
    raised = box.run(Program("def add(a, b):\n    return a / b", "assert add(1, 0)"))
    assert raised.reason == "ZeroDivisionError: division by zero in line 2 of the program: return a / b"
    top = box.run(Program("import nothing_of_this_name", "assert True"))
    assert top.reason.endswith("in line 1 of the program: import nothing_of_this_name")


def test_tests_come_as_a_check_as_functions_and_as_cases_of_unittest(box: Sandbox) -> None:
    check = "def check(candidate):\n    assert candidate(1, 2) == 3\n"
    functions = "def test_add():\n    assert add(1, 2) == {}\n"
    case = """
import unittest
class Tests(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(1, 2), {})
"""
    assert box.run(Program(ADD, check, "add")).passed
    assert box.run(Program(ADD, check, "sub")).reason.startswith("NameError: the program defines no 'sub'")
    for tests in (functions, case):
        assert box.run(Program(ADD, tests.format(3))).passed
        assert not box.run(Program(ADD, tests.format(4))).passed


FORMS = {
    "default": "def test_a (x=1):\n    assert f(x) == 1",
    "async": "async def test_a():\n    assert f(1) == 1",
    "asleep": "import asyncio\nasync def test_a():\n    await asyncio.sleep(0)\n    assert f(1) == 1",
    "class": "class T:\n    def test_a(self):\n        assert f(1) == 1",
    "async method": "class T:\n    async def test_a(self):\n        assert f(1) == 1",
    "made ready": "class T:\n    def setup_method(self, method):\n        self.x = 1\n    def test_a(self):\n"
                  "        assert f(self.x) == 1",
    "inherited": "class A:\n    def test_a(self):\n        assert f(self.x) == 1\nclass T(A):\n    x = 1",
    "main": "if __name__ == '__main__':\n    assert f(1) == 1",
    "main of its own": "def main():\n    assert f(1) == 1\nif '__main__' == __name__:\n    main()",
    "unittest": "import unittest\nclass A(unittest.TestCase):\n    def test_a(self):\n"
                "        self.assertEqual(f(1), 1)\nif __name__ == \"__main__\":\n    unittest.main()",
    "exit": "import sys\nfrom unittest import TestCase, main\nclass M:\n    def test_a(self):\n"
            "        self.assertEqual(f(1), 1)\nclass A(M, TestCase):\n    pass\n"
            "if __name__ == '__main__':\n    sys.exit(main())",
    "unittest async": "import unittest\nclass A(unittest.IsolatedAsyncioTestCase):\n    async def test_a(self):\n"
                      "        self.assertEqual(f(1), 1)",
    "check": "async def check(candidate):\n    assert candidate(1) == 1",
}  # fmt: skip


@pytest.mark.parametrize("tests", FORMS.values(), ids=FORMS)
def test_tests_of_any_form_tell_a_right_program_from_a_wrong_one(box: Sandbox, tests: str) -> None:
    right = box.run(Program("def f(x):\n    return x\n", tests, "f"))
    assert right.passed, right.reason
    for wrong in ("return 0", "raise SystemExit(0)", "import unittest; unittest.main()", "import sys; sys.exit()"):
        assert not box.run(Program(f"def f(x):\n    {wrong}\n", tests, "f")).passed


def test_a_program_does_not_reach_what_finds_its_tests(box: Sandbox) -> None:
    source = (
        "import re, sys\nre.search = re.findall = lambda *a: []\n"
        "for name in list(sys.modules):\n    if 'sandbox_tests' in name:\n"
        "        sys.modules[name].checks = sys.modules[name]._run_class = lambda *a: []\ndef f(x): return 0"
    )
    assert not box.run(Program(source, FORMS["default"])).passed
    assert not box.run(Program(source, FORMS["class"])).passed


def test_what_programs_do_every_day_works(box: Sandbox) -> None:
    source = """
import asyncio, collections, dataclasses, datetime, decimal, json, os, random, re, sqlite3, tempfile, threading, zlib
@dataclasses.dataclass
class Point:
    x: "int" = 1
async def one(): return 1
def work():
    found = []
    threads = [threading.Thread(target=found.append, args=(i,)) for i in range(20)]
    [t.start() for t in threads]; [t.join() for t in threads]
    if WRITES:
        with tempfile.TemporaryDirectory() as folder, open(folder + "/a.txt", "w") as file: file.write("text")
        open("b.txt", "w").write("text")
        os.rename("b.txt", "c.txt")
    return len(found) + asyncio.run(one()) + Point().x + (__name__ == "__main__")
""".replace("WRITES", str(bool(box.walls.namespaces)))
    verdict = box.run(Program(source, "assert work() == 22"))
    assert verdict.passed, verdict.reason


def test_many_programs_keep_their_order_and_say_the_same_each_time() -> None:
    box = Sandbox(Limits(seconds=1.0), workers=3)
    source = "import random\nx = {}, list(set('abcdef')), random.random()"
    programs = [Program(source.format(i), "assert x[0] % 3\nraise ValueError(x)") for i in range(9)]
    programs[4] = Program("while True: pass", "")
    programs.append(programs[0])
    first, second = (box.run_all(programs) for _ in range(2))
    assert [verdict.reason for verdict in first] == [verdict.reason for verdict in second]
    assert first[4].reason == "it took more than 1 s"
    assert first[9] == first[0]
    assert ["assert x[0]" in verdict.reason for verdict in first] == [i % 3 == 0 for i in range(9)] + [True]


def test_nothing_more_is_run_once_asked_to_stop(box: Sandbox) -> None:
    assert [one.reason for one in box.run_all([Program(ADD, "")] * 2, lambda: True)] == ["stopped", "stopped"]


def test_programs_die_with_the_llmtune_that_started_them(box: Sandbox, tmp_path: Path) -> None:
    code = (
        "from llmtune.scoring.sandbox import *\nbox = Sandbox(Limits(seconds=20.0))\nprint('on', flush=True)\n"
        "box.run(Program('import time\\ntime.sleep(19)', ''))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    outer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, env=environment)
    assert outer.stdout
    assert outer.stdout.readline() == b"on\n"
    while not any(tmp_path.iterdir()):
        time.sleep(0.1)
    time.sleep(1.0)
    outer.send_signal(signal.SIGKILL)
    outer.wait()
    outer.stdout.close()
    assert hostile.running(str(tmp_path)) == []


def test_the_protections_are_told(box: Sandbox) -> None:
    told = "\n".join(box.describe())
    assert "no sockets" in told
    assert "limits on time" in told
    assert ("user of its own" in told) is (os.geteuid() == 0 and box.walls.user is not None)


def test_a_machine_that_can_not_contain_programs_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_known", {})
    monkeypatch.setattr(module, "run_within", lambda *a: {"walls": "unshare: Operation not permitted"})
    with pytest.raises(ConfigError, match=r"can't be contained on this machine \(.*not permitted.*task.sandbox=loose"):
        Sandbox()
    monkeypatch.setattr(module, "run_within", lambda walls, *a: {"passed": not walls.namespaces and not walls.landlock})
    assert Sandbox(loose=True).walls == Walls(None, module.ladder(True)[-1].user, False, True)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match=r"can't be contained on darwin; .* only run on Linux; type task.run_tests"):
        Sandbox()


def verdict_of(lines: list[sandbox_filter.Line], machine: int, call: int, *arguments: int) -> int:
    """What the filter answers: a machine for the five instructions that it is made of."""
    seen = struct.pack("IIQ6Q", call, machine, 0, *arguments, *[0] * (6 - len(arguments)))
    held, place = 0, 0
    while True:
        code, if_true, if_false, value = lines[place]
        place += 1
        if code == sandbox_filter.LOAD:
            held = struct.unpack_from("I", seen, value)[0]
        elif code == sandbox_filter.MASK:
            held &= value
        elif code == sandbox_filter.RETURN:
            return value
        else:
            assert code in (sandbox_filter.EQUAL, sandbox_filter.ANY_BIT)
            true = held == value if code == sandbox_filter.EQUAL else bool(held & value)
            place += if_true if true else if_false


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_the_filter_of_each_machine(name: str) -> None:
    column, machine = sandbox_filter.MACHINES[name]
    number = {
        word.split(":")[0]: int(word.split(":")[1 + column])
        for words in (*sandbox_filter.__dict__.values(),) if isinstance(words, str) and ":" in words
        for word in words.split() if word.count(":") == 2 and word.split(":")[1 + column].isdigit()
    }  # fmt: skip
    allow, refuse = sandbox_filter.ALLOW, sandbox_filter.REFUSE

    for free in (False, True):
        lines = sandbox_filter.program(name, 77, sandbox_filter.Freedom(free, free))

        def answer(call: str, *arguments: int, lines: list[sandbox_filter.Line] = lines) -> int:
            return verdict_of(lines, machine, number[call], *arguments)

        writes = allow if free else refuse
        assert answer("read") == answer("openat", 0, 0, os.O_RDONLY) == answer("clone", 0x3D0F00) == allow
        assert answer("openat", 0, 0, os.O_RDWR) == answer("openat", 0, 0, os.O_CREAT) == answer("unlinkat") == writes
        assert answer("clone", 17) == answer("socket") == answer("execve") == answer("ptrace") == refuse
        assert answer("kill", 1, 9) == answer("tgkill", 5, 5) == writes
        assert answer("tgkill", 77, 78) == allow
        assert answer("socketpair", 1, 1 | 0x80000) == answer("sendto", 3, 0, 1, 0, 0) == allow
        assert answer("socketpair", 1, 2) == answer("sendto", 3, 0, 1, 0, 1 << 40) == refuse
        assert answer("ioctl", 0, 0x5412) == refuse
        assert answer("ioctl", 0, 0x5401) == allow
        assert answer("prlimit64", 1) == refuse
        assert answer("prlimit64", 0) == allow
        assert verdict_of(lines, machine, 435) == verdict_of(lines, machine, 9999) == sandbox_filter.UNKNOWN
        assert verdict_of(lines, 0x40000003, number["read"]) == sandbox_filter.KILL
