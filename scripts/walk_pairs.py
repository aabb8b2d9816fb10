"""Walk the pairs of shipped options: each trains two steps on a tiny model, or is refused with a reason.

    python scripts/walk_pairs.py --out pairs.jsonl             all pairs; started again, it goes on where it stopped
    python scripts/walk_pairs.py --out pairs.jsonl --table     what was found, as a table

Exit code 1 if any pair broke: an exception that is no message for a user, or a loss or weight that is no number.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

GROUPS = ("objective", "freeze_policy", "adapter", "optimizer", "balance", "sampling", "augmentation")

Option = tuple[str, str]
"""group, name"""


SMALL = (
    "data.limit=40", "data.max_tokens=48", "data.max_truncated_share=1", "train.verify_model=off",
    "hardware.device=cpu", "hardware.threads=1", "train.log_every=1", "optimizer.lr=0.003",
)  # fmt: skip
"""of tasks, which bring rows of their own"""


def all_options() -> list[Option]:
    """Options of all groups, and a task of each kind."""
    found = [(group, path.stem) for group in GROUPS for path in sorted((ROOT / "conf" / group).glob("*.yaml"))]
    return [*found, *(("task", name) for name in kinds().values())]


def kinds() -> dict[str, str]:
    """Kind of task -> the first of its tasks."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "conf" / "task").glob("*.yaml")):
        kind = yaml.safe_load(path.read_text(encoding="utf-8"))["task"]
        form = kind.get("form", "")  # language models of two kinds share a module
        found.setdefault(f"{kind['kind']} {form}", path.stem)
    return found


def all_pairs() -> list[tuple[Option, Option]]:
    """Each two options that can be chosen together: of two groups, or of one that takes several."""
    pairs = itertools.combinations(all_options(), 2)
    return [(a, b) for a, b in pairs if a[0] != b[0] or a[0] in ("objective", "augmentation")]


def sample(size: int, seed: int, *, of_tasks: bool) -> list[tuple[Option, Option]]:
    pairs = [pair for pair in all_pairs() if any(group == "task" for group, _ in pair) == of_tasks]
    return random.Random(seed).sample(pairs, size)


def walk(pair: tuple[Option, Option], rows: list[str], folder: Path) -> dict:
    """Train two steps with both options: `trained`, `refused` with the reason, or `broke` with the exception."""
    from llmtune.core.errors import UserError
    from tests.tiny import TINY, prepared_of, together, trainer_of

    words = together(*(f"{group}={name}" for group, name in pair))
    record = {"pair": [f"{group}={name}" for group, name in pair]}
    try:
        short = ("train.batch_rows=12", "train.max_steps=2", "train.eval_every=null")
        brings_rows = any(group == "task" for group, _ in pair)
        prepared = prepared_of(*(SMALL if brings_rows else (*TINY, *rows)), *words, *short)
        trainer = trainer_of(prepared, folder / "run")
        trainer.fit()
        weights = trainer.composite.parameters()
        fine = all(math.isfinite(float(weight.detach().abs().sum())) for weight in weights)
        return {**record, "outcome": "trained" if fine else "broke", "why": "" if fine else "weights are no numbers"}
    except UserError as error:
        return {**record, "outcome": "refused", "why": str(error)}
    except Exception as error:
        return {**record, "outcome": "broke", "why": f"{type(error).__name__}: {error}"[:500]}


def walk_all(out: Path, minutes: float, only_tasks: bool) -> Iterator[dict]:
    from tests.tiny import write_rows

    done = {tuple(record["pair"]) for record in read(out)}
    pairs = [pair for pair in all_pairs() if tuple(f"{group}={name}" for group, name in pair) not in done]
    if only_tasks:
        pairs = [pair for pair in pairs if any(group == "task" for group, _ in pair)]
    random.Random(0).shuffle(pairs)  # a walk that is cut short has seen something of everything
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as place:
        rows = write_rows(Path(place))
        for number, pair in enumerate(pairs):
            if time.monotonic() > end:
                return
            record = walk(pair, rows, Path(place) / str(number))
            with open(out, "a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            yield record


def read(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []


def table(records: list[dict]) -> str:
    """How many pairs of each two groups trained, and each reason of a refusal once."""
    counts: dict[str, Counter] = {}
    for record in records:
        groups = " x ".join(word.partition("=")[0] for word in record["pair"])
        counts.setdefault(groups, Counter())[record["outcome"]] += 1
    lines = ["| groups | trained | refused | broke |", "|---|---|---|---|"]
    for groups, outcomes in sorted(counts.items()):
        lines.append(f"| {groups} | {outcomes['trained']} | {outcomes['refused']} | {outcomes['broke']} |")
    reasons: dict[str, list[str]] = {}
    for record in records:
        if record["outcome"] == "refused":
            reasons.setdefault(record["why"].split("\n")[0], []).append(" with ".join(record["pair"]))
    lines += ["", "| refused | pairs | such as |", "|---|---|---|"]
    for why, pairs in sorted(reasons.items(), key=lambda item: -len(item[1])):
        lines.append(f"| {why} | {len(pairs)} | `{pairs[0]}` |".replace("\n", " "))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop in good order after so long")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--tasks", action="store_true", help="only pairs of a task and another option")
    options = parser.parse_args()
    if options.table:
        print(table(read(options.out)))
    else:
        for record in walk_all(options.out, options.minutes, options.tasks):
            if record["outcome"] == "broke":
                print(*record["pair"], record["why"], sep="  ", flush=True)
    records = read(options.out)
    print(f"{len(records)} of {len(all_pairs())} pairs walked", file=sys.stderr)
    return 1 if any(record["outcome"] == "broke" for record in records) else 0


if __name__ == "__main__":
    sys.exit(main())
