"""One of several processes of a run: `python -m llmtune.commands.worker RUN_DIR`, started by `train` alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llmtune.core.errors import Diverged, LlmtuneError, Stopped, UserError
from llmtune.run import children
from llmtune.run.files import read_json, write_json
from llmtune.run.rundir import RunDir
from llmtune.run.signals import StopRequest, held_back

POLL_S = 0.1
GRACE_S = 30.0
"""after one process failed, the others get so long to notice"""


def run_all(run: RunDir, processes: int, stop: StopRequest) -> None:
    """Train in several processes, wait for them, and raise what the first of them that failed has raised."""
    with tempfile.TemporaryDirectory(prefix="llmtune-") as meeting:
        code = wait(start(run.path, processes, Path(meeting)), stop)
        if code:
            raise _error(code, Path(meeting))


def start(run: Path, processes: int, meeting: Path) -> list[subprocess.Popen[bytes]]:
    """The processes, in sessions of their own so that a Ctrl-C reaches them once, through their parent.

    They meet over a file in the folder `meeting`: no port that another run may have taken.
    """
    workers = []
    with held_back():
        for rank in range(processes):
            environment = children.environment(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes),
                LLMTUNE_MEETING=str(meeting),
            )  # fmt: skip
            words = [sys.executable, "-m", "llmtune.commands.worker", str(run)]
            workers.append(subprocess.Popen(words, env=environment, start_new_session=True))
    return workers


def wait(workers: list[subprocess.Popen[bytes]], stop: StopRequest) -> int:
    """The exit code of the first process that failed, else 75 if they stopped, else 0. A stop is handed on once."""
    handed_on, failed_at, failed = False, 0.0, 0
    while any(worker.poll() is None for worker in workers):
        if stop and not handed_on:
            handed_on = True
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
        if not failed:
            failed, failed_at = _failed(workers), time.monotonic()
        elif time.monotonic() - failed_at > GRACE_S:
            for worker in workers:
                worker.kill()
        time.sleep(POLL_S)
    return failed or _failed(workers) or max(worker.wait() for worker in workers)


def _failed(workers: list[subprocess.Popen[bytes]]) -> int:
    """The code of one that failed, or 0. One that stopped has not: the first may be saving, for as long as it takes."""
    codes = [worker.poll() for worker in workers]
    return next((code for code in codes if code and code != Stopped.exit_code), 0)


def _error(code: int, meeting: Path) -> LlmtuneError:
    """What a process that ended with `code` has raised."""
    told = [read_json(path) for path in sorted(meeting.glob("ended-*.json"))]
    faults = next((each["faults"] for each in told if each["code"] == code), None)
    if faults is None:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return LlmtuneError(f"one of the processes {how}; with resume=auto the run goes on from its last checkpoint")
    kinds: dict[int, type[LlmtuneError]] = {2: UserError, 3: Diverged, 75: Stopped}
    return kinds.get(code, LlmtuneError)(*faults)


def main(run_dir: str) -> int:
    """Train as one of several: rank 0 speaks and writes; an error is left for the parent to tell, once."""
    children.follower()()
    stop = StopRequest().listen()
    from llmtune.commands.train import run_training
    from llmtune.config.stored import load_config
    from llmtune.preflight import preflight
    from llmtune.run.console import Console

    rank = int(os.environ["RANK"])
    run = RunDir(Path(run_dir))
    config = load_config(run.config)
    console = Console(quiet=rank > 0)
    try:
        # until they have met no process leaves: the loop looks for a stop first of all, and they agree on it
        prepared = preflight(config, Console(quiet=True), StopRequest(), run=run.path)
        join(config.hardware.device)
        if rank == 0:
            run.lock_as_worker()
        console.attach(run.log)
        run_training(prepared, run, console, stop)
    except LlmtuneError as error:
        ended = Path(os.environ["LLMTUNE_MEETING"]) / f"ended-{rank}.json"
        write_json(ended, {"code": error.exit_code, "faults": [str(fault) for fault in error.faults]})
        return error.exit_code
    leave()
    return 0


def join(device: str) -> None:
    """Meet the other processes; gloo on CPUs, NCCL on GPUs."""
    import torch
    from torch import distributed

    on_gpu = device != "cpu" and torch.cuda.is_available()
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "0")
    if not on_gpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # accelerate would say that it does so; Machine sets threads
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{os.environ['LLMTUNE_MEETING']}/meeting",
        rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]),
    )  # fmt: skip


def leave() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
