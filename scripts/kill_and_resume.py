"""Kill a run with SIGKILL at random moments, some in the middle of a save, and go on each time with resume=auto.

    python scripts/kill_and_resume.py [--kills 60] [--in-saves 20]

Reports how often a checkpoint did not load, how many steps were lost at most, and whether the run that was killed
so often ends with the files of a run that was left alone. Each child is forked from this process, so that a start
costs no import.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path

SAVE_EVERY = 4
WORDS = (
    "task=sentiment", "train.epochs=12", f"train.save_every={SAVE_EVERY}", "train.eval_every=6", "train.log_every=2",
    "train.verify_model=off", "hardware.device=cpu", "hardware.threads=1",
)  # fmt: skip


def run(words: list[str]) -> None:
    from llmtune.cli import main

    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 1)
    raise SystemExit(main(["train", *words]))


def start(folder: Path) -> multiprocessing.Process:
    words = [*WORDS, f"run.dir={folder}", "resume=auto"]
    child = multiprocessing.get_context("fork").Process(target=run, args=(words,))
    child.start()
    return child


def steps_done(folder: Path) -> int:
    """The newest step in the speed log."""
    try:
        return json.loads((folder / "speed.jsonl").read_text().splitlines()[-1])["step"]
    except (OSError, ValueError, IndexError, KeyError):
        return 0


def saving(folder: Path) -> bool:
    return any((folder / "checkpoints").glob(".step-*"))


def kill_once(child: multiprocessing.Process, folder: Path, in_save: bool, rng: random.Random) -> bool:
    """Kill at a random moment of the child's next second of training, or as soon as it saves; was it in a save?"""
    before = steps_done(folder)
    while child.is_alive() and steps_done(folder) == before:
        time.sleep(0.002)
    deadline = time.monotonic() + rng.uniform(0, 0.6)
    caught = False
    while child.is_alive() and (in_save or time.monotonic() < deadline):
        if in_save and saving(folder):
            time.sleep(rng.uniform(0, 0.003))
            caught = saving(folder)
            break
        time.sleep(0.0002)
    if child.is_alive():
        os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    return caught


def files(folder: Path) -> dict[str, str]:
    from llmtune.run.tensor_files import sha256

    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    return {path.name: sha256(path) for path in [*sorted(last.glob("*.safetensors")), folder / "metrics.jsonl"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--in-saves", type=int, default=20)
    wanted = parser.parse_args()
    import llmtune.build
    import llmtune.finish  # noqa: F401 - imported once here, the children have it
    from llmtune.run.checkpoint import CheckpointStore, verify

    rng = random.Random(0)
    base = Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    reference = start(base / "alone")
    reference.join()
    assert reference.exitcode == 0
    kills = in_saves = corrupt = worst_lost = starts = 0
    while kills < wanted.kills:
        folder = base / f"killed-{starts}"
        starts += 1
        while kills < wanted.kills:
            child = start(folder)
            caught = kill_once(child, folder, in_saves < wanted.in_saves, rng)
            if child.exitcode == 0:
                break
            kills, in_saves = kills + 1, in_saves + caught
            done = steps_done(folder)
            store = CheckpointStore(folder / "checkpoints", keep=1)
            whole = sorted(folder.glob("checkpoints/step-*"))
            corrupt += sum(verify(path) is not None for path in whole)
            newest = store.newest_good(print) if whole else None
            worst_lost = max(worst_lost, done - (newest.step if newest else 0))
    child = start(folder)
    child.join()
    assert child.exitcode == 0, f"the last start ended with {child.exitcode}"
    print(f"kills: {kills}, of them in the middle of a save: {in_saves}")
    print(f"checkpoints that did not verify: {corrupt}")
    print(f"steps lost at most: {worst_lost} (a save every {SAVE_EVERY})")
    print(f"files equal those of the run left alone: {files(folder) == files(base / 'alone')}")
    print(f"in {base}")


if __name__ == "__main__":
    main()
