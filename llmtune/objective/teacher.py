"""A trained model that another one learns from: found, held against the task at hand, opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llmtune.core.errors import Fault, ModelError, UserError
from llmtune.inference.model_folder import open_model
from llmtune.inference.run_folder import ModelPlace, find_model, trained_task

PROBLEMS = ("single_label", "multi_label", "regression")
HUGGING_FACE_PROBLEMS = {"single_label_classification": "single_label", "multi_label_classification": "multi_label"}


class Teacher(NamedTuple):
    """A model that was found but not loaded."""

    given: str
    place: ModelPlace | None
    """a run folder of ours, or its model/; None: any other Hugging Face folder or hub id"""
    task: Any
    """the task that it was trained for; None where no llmtune.json tells"""
    config: Any
    """the transformers config"""
    tokenizer: Any

    @property
    def problem_type(self) -> str | None:
        """None: its config doesn't say."""
        if self.task is not None:
            return getattr(self.task, "problem_type", None)
        told = self.config.problem_type
        return "regression" if self.config.num_labels == 1 else HUGGING_FACE_PROBLEMS.get(told, told)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its outputs, in their order."""
        if self.task is not None:
            table = getattr(self.task, "labels", None)
            return table.names if table else ()
        return tuple(str(self.config.id2label[i]) for i in range(self.config.num_labels))

    def open(self, plugins: Sequence[str], model_class: Any = None, *, attentions: bool = False) -> Any:
        """Its weights, in fp32 and eval mode, without gradients.

        Args:
            model_class: what it is opened as; None: what it was trained as, or without a head where that is not known.
            attentions: they can be read.
        Raises:
            ModelError: the weights can't be read, or are not whole.
        """
        import torch
        from transformers import AutoModel

        folder = Path(self.given).expanduser()
        try:
            if self.place is not None:
                found = self.task.model_class() if model_class is None else model_class
                model, missing = open_model(self.place.model, found, self.place.card, plugins)
            else:
                source = folder if folder.is_dir() else self.given
                model, info = (model_class or AutoModel).from_pretrained(
                    source, dtype=torch.float32, output_loading_info=True
                )
                # of a backbone alone nothing but its layers is read
                missing = [name for name in sorted(info["missing_keys"]) if model_class or "pooler" not in name]
        except Exception as error:  # whatever transformers or safetensors find wrong with a damaged file
            words = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ModelError(Fault(self.given, f"this teacher can't be opened: {words}")) from error
        if missing:
            given = f"this teacher lacks weights: {', '.join(missing[:4])}"
            raise ModelError(Fault(self.given, given, "a model that was trained for this task"))
        if attentions:
            model.set_attn_implementation("eager")  # no other hands its attention weights out
        return model.eval().requires_grad_(False)

    def identity(self) -> dict[str, str]:
        """What its answers depend on: hashes of its files, or the commit on the hub."""
        folder = self.place.model if self.place else Path(self.given).expanduser()
        if folder.is_dir():
            return file_hashes(folder)
        return {"id": self.given, "commit": str(getattr(self.config, "_commit_hash", None))}


def file_hashes(folder: Path) -> dict[str, str]:
    """By path below a model's folder, of the files that make it what it is."""
    from llmtune.data.cache import file_sha

    kinds = (".json", ".safetensors", ".bin", ".txt", ".model", ".jinja")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in kinds)
    return {str(path.relative_to(folder)): file_sha(path) for path in files}


def fingerprint(given: str) -> str:
    """Of a teacher that `find_teacher` found good, by what it is and not by where it lies; its task is not asked."""
    from llmtune.data.cache import key_of

    folder = Path(given).expanduser()
    if not folder.is_dir():
        from transformers import AutoConfig

        return key_of({"id": given, "commit": str(getattr(AutoConfig.from_pretrained(given), "_commit_hash", None))})
    return key_of(file_hashes(folder if (folder / "config.json").is_file() else find_model(given).model))


def find_teacher(given: str, where: str, plugins: Sequence[str]) -> Teacher:
    """A run folder, its model/, another folder of a Hugging Face model, or a hub id; weights are not looked at.

    Raises:
        UserError: it is not there, or not whole; `where` is the key under which it was given.
    """
    from transformers import AutoConfig, AutoTokenizer

    from llmtune.model.backbone import settle_pad_token

    folder = Path(given).expanduser()
    ours = (folder.is_dir() and not (folder / "config.json").is_file()) or (folder / "llmtune.json").is_file()
    if not folder.is_dir() and given.startswith((".", "/", "~")):
        raise ModelError(Fault(where, f"no folder {given}", "a run folder, a model's folder, or a hub id"))
    try:
        place = find_model(given) if ours else None
        task = trained_task(place, plugins) if place else None
        source = place.model if place else folder if folder.is_dir() else given
        config, tokenizer = AutoConfig.from_pretrained(source), AutoTokenizer.from_pretrained(source)
        settle_pad_token(tokenizer)
    except UserError as error:
        raise ModelError(Fault(where, f"{given} is no teacher: {error}")) from error
    except Exception as error:
        words = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        what = f"{given} can't be read: {words}" if folder.is_dir() else f"no folder {given} here, and not on the hub"
        raise ModelError(Fault(where, what, "a run folder, a model with its tokenizer, or a hub id")) from error
    return Teacher(given, place, task, config, tokenizer)


def label_order(teacher: Teacher, task: Any) -> list[int] | None:
    """For each class of the task the teacher's output that is the same; None where the labels are not the same.

    LABEL_0, LABEL_1, ... are no names: a teacher that has only those is taken to have the task's order.
    """
    own, known = task.labels.names, teacher.labels
    if len(own) == len(known) and all(name == f"LABEL_{i}" for i, name in enumerate(known)):
        return list(range(len(own)))
    return [known.index(name) for name in own] if set(own) == set(known) and len(own) == len(known) else None


def same_words(teacher: Teacher, tokenizer: Any) -> bool:
    """Does the teacher give the same ids to the same pieces of text?"""
    return teacher.tokenizer.get_vocab() == tokenizer.get_vocab()
