"""`llmtune smoke`: every shipped task from its rows to a reopened model, in a few steps, offline; nothing is left."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator

from llmtune.config.locate import conf_dir, option_files
from llmtune.core.errors import ConfigError, Fault, LlmtuneError, Stopped, did_you_mean

HELP = """llmtune smoke: run every shipped task, tiny and offline

usage: llmtune smoke [TASK ...]

Each task trains a few steps on a few rows on the CPU, in a temporary folder, and its model is opened again; a line
says how long it took. Exit code 1 if any fails: what it printed stands above its line."""

ROWS, STEPS = 48, 3
TINY = (
    f"data.limit={ROWS}", f"train.max_steps={STEPS}", "train.epochs=1", "train.batch_rows=8", "train.batch_tokens=null",
    "train.eval_every=null", "train.save_every=null", "train.verify_model=here", "data.max_truncated_share=1",
    "hardware=cpu", "hardware.threads=1", "offline=true",
)  # fmt: skip


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(HELP)
        return 0
    shipped = list(option_files("task", [conf_dir()]))
    unknown = [name for name in argv if name not in shipped]
    if unknown:
        raise ConfigError(*(
            Fault(name, "is no shipped task", f"allowed: {', '.join(shipped)}", did_you_mean(name, shipped))
            for name in unknown
        ))  # fmt: skip
    failed = [name for name in argv or shipped if not _passes(name, width=max(map(len, shipped)))]
    if failed:
        print(f"{len(failed)} of {len(argv or shipped)} failed: {', '.join(failed)}")
    return 1 if failed else 0


def _passes(task: str, *, width: int) -> bool:
    """Run one task and print its line; what it said comes before the line of one that fails."""
    start = time.perf_counter()
    said = io.StringIO()
    fault = None
    with tempfile.TemporaryDirectory(prefix="llmtune-smoke-") as folder, _as_it_was():
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                code = _train(task, folder)
            fault = f"exit code {code}" if code else None
        except (KeyboardInterrupt, Stopped):
            raise
        except LlmtuneError as error:
            fault = str(error)
        except Exception as error:
            said.write(traceback.format_exc())
            fault = f"{type(error).__name__}: {error}"
    if fault:
        print(said.getvalue(), end="")
    print(f"{task:<{width}}  {time.perf_counter() - start:5.1f} s  {'ok' if fault is None else fault}", flush=True)
    return fault is None


def _train(task: str, folder: str) -> int:
    from llmtune.commands import train

    run, cache = os.path.join(folder, "run"), os.path.join(folder, "cache")
    return train.main([f"task={task}", *TINY, f"run.dir={run}", f"data.cache_dir={cache}"])


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Training listens to signals and sets the environment; the next task shall find both as they were."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    before = dict(os.environ)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(before)
