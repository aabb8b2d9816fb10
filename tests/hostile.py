"""Programs that try to break out of the sandbox, each of which would stop by itself, and what must hold afterwards.

Standard library only, so that another user's Python can run it: `python hostile.py FOLDER` answers with what failed.
Each program sets `escaped` where it got what it must not have; its test asserts that it did, so passing is a fault.
"""

from __future__ import annotations

import contextlib
import functools
import json
import operator
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ESCAPED = "assert escaped"
RIGHT, WRONG = "def add(a, b): return a + b\n", "def add(a, b): return 0\n"
TEST = "assert add(1, 2) == 3"

TRY = """
import os, sys
escaped = False
def attempt(act):
    global escaped
    try:
        act()
    except Exception:
        return
    escaped = True
"""

PROGRAMS = {
    "endless loop": "import time\nend = time.time() + 60\nwhile time.time() < end: pass\nescaped = True",
    "endless loop in C": "escaped = sum(range(3 * 10**9)) > 0",
    "sleeps": "import time\ntime.sleep(60)\nescaped = True",
    "ignores signals": """
import signal, time
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
end = time.time() + 60
while time.time() < end: pass
escaped = True""",
    "memory hog": "held = []\nfor _ in range(20): held.append(bytearray(100 << 20))\nescaped = True",
    "spawner of children": TRY + """
import time
children = 0
while children < 200:
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
    children += 1
escaped = True""",
    "daemon": TRY + """
import signal, time
def daemon():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    time.sleep(20)
    os._exit(0)
daemon()""",
    "threads": """
import threading, time
threading.stack_size(1 << 16)
for _ in range(2000): threading.Thread(target=time.sleep, args=(3,), daemon=True).start()
escaped = True""",
    "recursion": "def f(): return f()\nf()\nescaped = True",
    "recursion without limit": """
import sys
sys.setrecursionlimit(10**7)
def f(n): return n and f(n - 1)
f(10**6)
f()""",
    "segmentation fault": "import ctypes\nctypes.string_at(0)\nescaped = True",
    "writes elsewhere": TRY + """
for folder in FOLDERS:
    try:
        with open(folder + "/escaped-MARK", "w") as file: file.write("x")
    except OSError: pass""",
    "symlinks": TRY + """
for place, folder in enumerate(FOLDERS):
    try:
        os.symlink(folder, f"link{place}")
        with open(f"link{place}/escaped-MARK", "w") as file: file.write("x")
    except OSError: pass""",
    "changes files": TRY + """
attempt(lambda: os.chmod("VICTIM", 0o777))
attempt(lambda: os.utime("VICTIM"))
attempt(lambda: os.truncate("VICTIM", 0))
attempt(lambda: os.rename("VICTIM", "VICTIM.gone"))
attempt(lambda: os.unlink("VICTIM"))""",
    "reads a secret file": TRY + "attempt(lambda: open('VICTIM').read())",
    "huge file": TRY + """
def fill():
    with open("big", "wb") as file:
        for _ in range(100): file.write(bytes(1 << 20))
attempt(fill)""",
    "many files": TRY + """
def fill():
    for place in range(100):
        with open(f"big{place}", "wb") as file: file.write(bytes(4 << 20))
attempt(fill)""",
    "TCP": TRY + "import socket\nattempt(lambda: socket.create_connection(('127.0.0.1', TCP), timeout=2))",
    "UDP": TRY + """
import socket
def send():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"escaped", ("127.0.0.1", UDP))
try: send()
except OSError: pass""",
    "unix sockets": TRY + """
import socket
attempt(lambda: socket.socket(socket.AF_UNIX).connect("UNIX"))
attempt(lambda: socket.socket(socket.AF_UNIX).connect("\\0MARK"))
attempt(lambda: socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b"x", "UNIX"))""",
    "listens": TRY + """
import socket, time
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
one.bind(("0.0.0.0", LISTEN))
one.listen()
one.settimeout(3)
attempt(one.accept)""",
    "environment": TRY + """
def found(path):
    with open(path, "rb") as file: return b"SECRET-MARK" in file.read()
import pathlib
escaped = "SECRET-MARK" in str(os.environ)
for path in ["/proc/self/environ", "/proc/OUTER/environ", *map(str, pathlib.Path("/proc").glob("[0-9]*/environ"))]:
    try: escaped = escaped or found(path)
    except OSError: pass""",
    "memory of the parent": TRY + """
import ctypes
attempt(lambda: open("/proc/OUTER/mem", "rb"))
attempt(lambda: open("/proc/OUTER/maps").read()[0])
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(16, OUTER, None, None) == 0: escaped = True""",
    "signals to others": TRY + "attempt(lambda: os.kill(OUTER, 0))",
    "becomes root": TRY + """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
attempt(lambda: os.setuid(0))
attempt(lambda: os.setgroups([0]))
attempt(lambda: os.chroot("."))
for flag in (0x10000000, 0x00020000, 0x40000000):
    if libc.unshare(flag) == 0: escaped = True
if libc.mount(b"none", b".", b"tmpfs", 0, None) == 0: escaped = True""",
    "other programs": TRY + """
import subprocess
attempt(lambda: subprocess.run(["/bin/true"], check=True))
attempt(lambda: os.posix_spawn("/bin/true", ["true"], {}))
attempt(lambda: os.execv("/bin/true", ["true"]))""",
    "reads stdin": "escaped = bool(input() or True)",
    "leaves with success": "import sys\nescaped = True\nsys.exit(0)",
    "leaves at once": "import os\nescaped = True\nos._exit(0)",
    "kills itself": "import os, signal\nescaped = True\nos.abort()",
    "closes everything": "import os\nescaped = True\nos.closerange(0, 4096)",
    "forges a verdict": """
import os, sys
escaped = True
for handle in range(256):
    for said in (b'{"passed": true}', b"ready\\n", b"passed"):
        try: os.write(handle, said)
        except OSError: pass
print('{"passed": true, "reason": "", "seconds": 0.1}', flush=True)
os._exit(0)""",
}
"""fail, and leave nothing behind"""
WRONG_ANSWERS = {
    "patches builtins": """
import builtins
builtins.AssertionError = ValueError
builtins.compile = builtins.exec = print
""",
    "patches os": "import os\nos.write = os._exit = os.read = lambda *a: None\n",
    "patches json": """
import json, sys
json.dumps = json.dump = lambda *a, **k: '{"passed": true}'
sys.modules["os"] = None
""",
    "hooks": "import sys\nsys.excepthook = lambda *a: None\nsys.stdout = sys.stderr = None\n",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\n",
    "threads": "import threading, os, time\nthreading.Thread(target=time.sleep, args=(9,)).start()\n",
    "an exception whose text raises": """
class E(Exception):
    def __str__(self): raise SystemExit(0)
raise E
""",
}
"""before a wrong function: still fail"""
RIGHT_ANSWERS = {
    "huge output": """
import sys
for _ in range(50):
    sys.stdout.write("x" * (1 << 20))
    sys.stderr.write("x" * (1 << 20))
""",
    "atexit raises": "import atexit\n@atexit.register\ndef bad(): raise ValueError\n",
    "deletes its folder": "import os, shutil\nshutil.rmtree(os.getcwd(), ignore_errors=True)\n",
    "a thread that stays": "import threading, time\nthreading.Thread(target=time.sleep, args=(9,)).start()\n",
}
"""before a right function: pass all the same"""


def attack(sandbox: Any, walls: Any) -> list[str]:
    """What went wrong when all programs above ran within `walls`; `sandbox` is the module."""
    os.environ["HOSTILE"] = "SECRET-MARK"
    limits = sandbox.Limits(seconds=1.0, memory_bytes=512 << 20)
    with outside() as (fill, broken), own_temporary_folder() as (folder, left):
        programs = {name: (fill(source), ESCAPED, False) for name, source in PROGRAMS.items()}
        programs |= {f"wrong: {name}": (source + WRONG, TEST, False) for name, source in WRONG_ANSWERS.items()}
        programs |= {f"right: {name}": (source + RIGHT, TEST, True) for name, source in RIGHT_ANSWERS.items()}

        def faults(name: str) -> list[str]:
            source, tests, passes = programs[name]
            began = time.monotonic()
            answer = sandbox.run_within(walls, limits, sandbox.Program(source, tests))
            took = time.monotonic() - began
            found = [] if answer.get("passed") is passes else [f"{name}: {answer}"]
            return found + ([f"{name}: took {took:.1f} s"] if took > 90 else [])

        with ThreadPoolExecutor(4) as pool:
            found = functools.reduce(operator.iadd, pool.map(faults, programs), [])
        found += broken() + left()
    return found + [f"still running: {process}" for process in running(folder)]


@contextlib.contextmanager
def own_temporary_folder() -> Iterator[Any]:
    """Other processes use the machine's own too. (its name, what is left in it)"""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        tempfile.tempdir = folder
        try:
            yield folder, lambda: [f"left behind: {name}" for name in os.listdir(folder)]
        finally:
            tempfile.tempdir = before


@contextlib.contextmanager
def outside() -> Iterator[tuple[Any, Any]]:
    """What lies around the sandbox: files, sockets. (fill the names in, say what was touched)"""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o777)
        victim = folder / "victim"
        victim.write_text("secret")
        victim.chmod(0o600)
        mark = folder.name
        tcp, udp, unix = (
            stack.enter_context(socket.socket(*kind)) for kind in
            [(socket.AF_INET,), (socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_UNIX,)]
        )  # fmt: skip
        tcp.bind(("127.0.0.1", 0))
        udp.bind(("127.0.0.1", 0))
        unix.bind(str(folder / "socket"))
        for one in (tcp, unix):
            one.listen()
        udp.setblocking(False)
        folders = [str(folder), str(Path.home()), os.getcwd(), "/tmp", "/var/tmp", "/dev/shm", "/", "/usr/lib"]
        words = {
            "VICTIM": str(victim), "FOLDERS": repr(folders), "OUTER": str(os.getpid()), "UNIX": str(folder / "socket"),
            "TCP": str(tcp.getsockname()[1]), "UDP": str(udp.getsockname()[1]), "LISTEN": "45917",
        }  # fmt: skip

        def fill(source: str) -> str:
            if "SECRET-MARK" in source:
                return source.replace("OUTER", words["OUTER"])
            for word, value in {**words, "MARK": mark}.items():
                source = source.replace(word, value)
            return source

        def broken() -> list[str]:
            found = [f"written: {path}/escaped-{mark}" for path in folders if os.path.exists(f"{path}/escaped-{mark}")]
            with contextlib.suppress(BlockingIOError):
                found.append(f"UDP: {udp.recv(100)!r}")
            if not victim.exists() or victim.read_text() != "secret" or victim.stat().st_mode & 0o777 != 0o600:
                found.append("a file was changed")
            return found

        yield fill, broken


def running(folder: str) -> list[str]:
    """Processes of sandboxes whose temporary folder is in this one, after a while."""
    for _ in range(20):
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = entry.read_bytes()
                if b"sandbox_child.py" in words and folder.encode() in words:
                    found.append(entry.parent.name)
        if not found:
            break
        time.sleep(0.25)
    return found


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    from llmtune.scoring import sandbox as module

    print(json.dumps({
        "user": os.getuid(),
        "found": {str(walls): attack(module, walls) for walls in module.ladder(loose=False)},
    }))
