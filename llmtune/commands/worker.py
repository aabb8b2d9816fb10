"""One of several processes of a run: `python -m llmtune.commands.worker RUN_DIR`, started by `train` alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llmtune.run.signals import StopRequest

POLL_S = 0.1
GRACE_S = 30.0
"""after one process failed, the others get so long to notice"""


def start(run: Path, processes: int) -> list[subprocess.Popen[bytes]]:
    """The processes, in sessions of their own so that a Ctrl-C reaches them once, through their parent.

    They meet over a file: no port that another run may have taken.
    """
    meeting = Path(tempfile.mkdtemp(prefix="llmtune-")) / "meeting"
    workers = []
    for rank in range(processes):
        environment = {
            **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes), "LLMTUNE_MEETING": str(meeting),
        }  # fmt: skip
        words = [sys.executable, "-m", "llmtune.commands.worker", str(run)]
        workers.append(subprocess.Popen(words, env=environment, start_new_session=True))
    return workers


def wait(workers: list[subprocess.Popen[bytes]], stop: StopRequest) -> int:
    """The exit code of the first process that failed, else 0. A stop request is handed on once."""
    handed_on, failed_at, first = False, None, 0
    while any(worker.poll() is None for worker in workers):
        if stop and not handed_on:
            handed_on = True
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
        codes = [worker.poll() for worker in workers]
        first = first or next((code for code in codes if code), 0)
        if first and failed_at is None:
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > GRACE_S:
            for worker in workers:
                worker.kill()
        time.sleep(POLL_S)
    codes = [worker.wait() for worker in workers]
    return codes[0] or first or next((code for code in codes if code), 0)


def main(run_dir: str) -> int:
    """Train as one of several: rank 0 speaks, writes and raises its exit code."""
    from llmtune.commands.train import run_training, status_of
    from llmtune.config.stored import load_config
    from llmtune.core.errors import LlmtuneError
    from llmtune.preflight import preflight
    from llmtune.run.console import Console
    from llmtune.run.rundir import RunDir

    stop = StopRequest().listen()
    rank = int(os.environ["RANK"])
    run = RunDir(Path(run_dir))
    config = load_config(run.config)
    console = Console(quiet=rank > 0)
    try:
        prepared = preflight(config, Console(quiet=True), stop, resuming=True)
        join(config.hardware.device)
        console.attach(run.log)
        run_training(prepared, run, console, stop)
    except LlmtuneError as error:
        if rank == 0:
            run.update(status=status_of(error), ended_with=str(error))
        if rank == 0 and error.exit_code not in (3, 75):
            print(error, file=sys.stderr)
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
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{os.environ['LLMTUNE_MEETING']}",
        rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]),
    )  # fmt: skip


def leave() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
