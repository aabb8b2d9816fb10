"""Translation from scratch: Multi30k, English to German, trained and then searched with beams; BLEU with its signature.

    LLMTUNE_DATA=DIR python scripts/bench_translation.py --work FOLDER           # one CPU core, a small model, 5 epochs
    LLMTUNE_DATA=DIR python scripts/bench_translation.py --work FOLDER --gpu     # the published shape, one GPU
    LLMTUNE_DATA=DIR python scripts/bench_translation.py --work FOLDER --check   # refuse what can't run, no training

DIR/multi30k_en_de holds {train,val,test_2016_flickr}.{en,de}.gz (task 1 of Multi30k, Elliott et al., arXiv 1605.00459).
`--gpu` has the shape with which about 41 BLEU on test_2016_flickr is published for a transformer of texts alone, 4 + 4
layers of width 128 (Wu et al., arXiv 2105.14462); there texts were split into tokens beforehand, here BLEU is
sacrebleu's on texts as they stand. These settings were not yet measured on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

SIDES = "{en,de}.gz"
CPU = {
    "model.architecture.d_model": 192, "model.architecture.encoder_ffn_dim": 384,
    "model.architecture.decoder_ffn_dim": 384, "model.tokenizer.vocab_size": 6000, "train.batch_tokens": 2048,
    "train.epochs": 5, "optimizer.lr": 2e-3, "hardware": "cpu", "hardware.threads": 1,
}  # fmt: skip
GPU = {
    "model.architecture.d_model": 128, "model.architecture.encoder_layers": 4,
    "model.architecture.decoder_layers": 4, "model.architecture.encoder_ffn_dim": 256,
    "model.architecture.decoder_ffn_dim": 256, "model.tokenizer.vocab_size": 10000, "model.dropout": 0.3,
    "train.batch_tokens": 8192, "train.epochs": 80, "optimizer.lr": 3e-3, "optimizer.schedule": "inverse_sqrt",
    "optimizer.warmup": 2000, "train.swa": 0.75, "hardware": "gpu",
}  # fmt: skip
BOTH = {"model.architecture.max_position_embeddings": 128, "train.label_smoothing": 0.1, "train.eval_every": "1ep"}
BEAMS = {"task.num_beams": 5, "task.length_penalty": 1.0}


def typed(settings: dict[str, object]) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


def words_of(folder: Path, gpu: bool) -> list[str]:
    """What to type behind `llmtune train`."""
    splits = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
    data = [f"data.{split}={folder / name}.{SIDES}" for split, name in splits.items()]
    return ["task=translate", "data=files", *data, *typed({**BOTH, **(GPU if gpu else CPU)})]


def llmtune(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "llmtune", *words])
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    words = [*words_of(Path(os.environ["LLMTUNE_DATA"]) / "multi30k_en_de", args.gpu), f"seed={args.seed}"]
    if args.check:
        llmtune("check", *words)
        return
    run, report = args.work / f"run-{args.seed}", args.work / f"beams-{args.seed}.json"
    start = time.perf_counter()
    llmtune("train", *words, f"run.dir={run}")
    minutes = (time.perf_counter() - start) / 60
    llmtune("evaluate", str(run), "split=test", f"out={report}", *typed(BEAMS))
    greedy = json.loads((run / "result.json").read_text(encoding="utf-8"))
    beams = json.loads(report.read_text(encoding="utf-8"))
    print(f"trained in {minutes:.1f} minutes, {greedy['parameters'] / 1e6:.1f}M parameters, {greedy['steps']} steps")
    print(f"greedy: BLEU {greedy['test']['bleu']:.2f}, chrF {greedy['test']['chrf']:.2f}")
    print(f"{BEAMS['task.num_beams']} beams: BLEU {beams['scores']['bleu']:.2f}, chrF {beams['scores']['chrf']:.2f}")
    print(beams["signatures"]["bleu"])


if __name__ == "__main__":
    main()
