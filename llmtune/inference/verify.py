"""Proof that `model/` is the trained model: a new process opens it with transformers alone and compares logits.

`python -m llmtune.inference.verify PROBE.json` exits with 0 if they are equal; it opens the model with nothing else of
llmtune, unless that has an adapter that can't be folded into it, or a head of our own, which transformers has no class
for. An adapter that can is also opened by itself, with peft, on the model that it was trained on.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

TOLERANCE = 1e-4
"""largest difference of a logit, relative to the largest logit or 1"""
POLL_S = 0.2


def probe(
    model: Any, tokenizer: Any, texts: Sequence[str], pairs: Sequence[str | None] | None, max_tokens: int,
    base: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Texts with their token ids and logits, one row at a time so that padding plays no part.

    `pairs`: the second texts, where rows have two. `base`: `path` and `revision` of the model under the adapter, where
    the adapter is to be tried by itself.
    """
    import torch

    model.eval()
    forward = type(model).forward  # past what a prompt makes of an instance
    rows = []
    with torch.inference_mode():
        for text, pair in zip(texts, pairs or [None] * len(texts)):
            inputs = tokenizer(text, pair, truncation="longest_first", max_length=max_tokens, return_tensors="pt")
            logits = _few(logits_of(forward(model, **_both_sides(model, inputs)))[0].float())
            rows.append({"text": text, "pair": pair, "ids": inputs["input_ids"][0].tolist(), "logits": logits.tolist()})
    return _proof(model, rows, max_tokens, base)


def probe_sounds(
    model: Any, extractor: Any, sounds: Sequence[Sequence[float]], start: Sequence[int],
    base: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The same for a model that hears: samples at its rate, and the tokens that its decoder, if any, begins with."""
    import torch

    model.eval()
    forward = type(model).forward
    rows: list[dict[str, Any]] = [{"sound": list(map(float, sound)), "start": list(start)} for sound in sounds]
    with torch.inference_mode():
        for row in rows:
            row["logits"] = _few(logits_of(forward(model, **_heard(extractor, row)))[0].float()).tolist()
    return _proof(model, rows, None, base)


def _proof(model: Any, rows: list[Any], max_tokens: int | None, base: dict[str, Any] | None) -> dict[str, Any]:
    labels = {str(i): name for i, name in model.config.id2label.items()}
    kind = [type(model).__module__, type(model).__name__]
    return {"class": kind, "labels": labels, "max_tokens": max_tokens, "rows": rows, "base": base}


def _heard(extractor: Any, row: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    import torch

    made = extractor(np.asarray(row["sound"], np.float32), sampling_rate=extractor.sampling_rate, return_tensors="pt")
    name = extractor.model_input_names[0]
    return {name: made[name], **({"decoder_input_ids": torch.tensor([row["start"]])} if row["start"] else {})}


def compare(folder: Path, expected: dict[str, Any]) -> list[str]:
    """What differs between the model in `folder` and what the trained one gave; an empty list is the proof.

    `expected` of `probe`; its `beside`: the same for folders below this one.
    """
    import transformers

    model_class = _class_of(expected["class"])
    reads = transformers.AutoFeatureExtractor if "sound" in expected["rows"][0] else transformers.AutoTokenizer
    tokenizer = reads.from_pretrained(folder)
    model = _opened(folder, model_class)
    labels = {str(i): name for i, name in model.config.id2label.items()}
    faults = []
    if labels != expected["labels"]:
        faults.append(f"labels: {labels} instead of {expected['labels']}")
    faults += _differences(model, tokenizer, expected)
    for place, other in expected.get("beside", {}).items():
        faults += [f"{place}: {fault}" for fault in compare(folder / place, other)]
    if expected["base"] is not None:
        alone = _adapted(folder, model_class, expected["base"])
        faults += [f"the adapter by itself: {fault}" for fault in _differences(alone, tokenizer, expected)]
    return faults


def _class_of(named: list[str]) -> Any:
    """A class of transformers, or a head of our own. `named`: its module and its name."""
    import transformers

    module, name = named
    return getattr(transformers, name) if hasattr(transformers, name) else getattr(import_module(module), name)


def _opened(folder: Path, model_class: Any) -> Any:
    """The model, by transformers alone where the folder says that this is all of it."""
    import torch

    card = json.loads((folder / "llmtune.json").read_text(encoding="utf-8"))
    whole = "body" not in card
    if whole and (card["adapter"] is None or card["adapter"]["merged"]):
        return model_class.from_pretrained(folder, dtype=torch.float32).eval()
    from llmtune.inference.model_folder import open_model

    return open_model(folder, model_class, card)[0]


def _adapted(folder: Path, model_class: Any, base: dict[str, Any]) -> Any:
    """The base model with the adapter of `folder`, put together by peft."""
    import warnings

    import torch
    import transformers
    from peft import PeftModel

    config = transformers.AutoConfig.from_pretrained(folder)
    model = model_class.from_pretrained(
        base["path"], revision=base["revision"], config=config, dtype=torch.float32, ignore_mismatched_sizes=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by names of before
        return PeftModel.from_pretrained(model, str(folder / "adapter")).eval()


def _differences(model: Any, tokenizer: Any, expected: dict[str, Any]) -> list[str]:
    import torch

    faults = []
    for number, row in enumerate(expected["rows"]):
        if "sound" in row:
            inputs = _heard(tokenizer, row)
        else:
            inputs = tokenizer(
                row["text"], row["pair"], truncation="longest_first", max_length=expected["max_tokens"],
                return_tensors="pt",
            )  # fmt: skip
            if inputs["input_ids"][0].tolist() != row["ids"]:
                faults.append(f"row {number}: other token ids")
                continue
        with torch.inference_mode():
            logits = _few(logits_of(model(**_both_sides(model, inputs)))[0])
        wanted = torch.tensor(row["logits"])
        gap = float((logits - wanted).abs().max())
        if not gap <= TOLERANCE * max(1.0, float(wanted.abs().max())):
            faults.append(f"row {number}: logits differ by {gap:.2e}")
    return faults


def _both_sides(model: Any, inputs: Any) -> dict[str, Any]:
    """Inputs of a model; one that reads on one side and writes on the other reads the same on both."""
    writes = getattr(model.config, "is_encoder_decoder", False) and hasattr(model, "prepare_inputs_for_generation")
    writes = writes and "decoder_input_ids" not in inputs
    return {**inputs, **({"decoder_input_ids": inputs["input_ids"]} if writes else {})}


def _few(logits: Any) -> Any:
    """All of a row's logits; of a model that has some for each token, those of the last two."""
    return logits if logits.ndim == 1 else logits[-2:]


def logits_of(output: Any) -> Any:
    """As model.outputs, which this process is not to import before the model is open."""
    from llmtune.model import outputs

    return outputs.logits_of(output)


def start(folder: Path, expected: dict[str, Any]) -> subprocess.Popen[str]:
    """Compare in a new process; its output is the list of faults as JSON. A Ctrl-C does not reach it."""
    from llmtune.run import children

    path = folder.parent / ".probe.json"
    path.write_text(json.dumps({"folder": str(folder.absolute()), "expected": expected}), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "llmtune.inference.verify", str(path)], env=children.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def outcome(process: subprocess.Popen[str], folder: Path, should_stop: Callable[[], Any]) -> list[str] | None:
    """The faults that the process found; what it printed if it broke. None: a stop was asked for before its end."""
    try:
        while not should_stop():
            with contextlib.suppress(subprocess.TimeoutExpired):
                out, err = process.communicate(timeout=POLL_S)
                break
        if process.poll() == 0:
            return []
        if should_stop():
            return None
    finally:
        process.kill()
        (folder.parent / ".probe.json").unlink(missing_ok=True)
    try:
        return json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return [f"it could not be opened: {err.strip().splitlines()[-1] if err.strip() else 'no reason given'}"]


def main(path: str) -> int:
    plain = json.loads(Path(path).read_text(encoding="utf-8"))
    faults = compare(Path(plain["folder"]), plain["expected"])
    print(json.dumps(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
