"""Speech to text: recordings are written down, by an encoder-decoder (Whisper) or frame by frame (wav2vec2, HuBERT).

A row is the path of a recording and what is said in it. The sound is read when a batch is made, by the same function
in training, evaluation and prediction.

Legend: B rows, N word pieces or characters of all rows, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, Fault, did_you_mean
from llmtune.core.ranges import at_least, one_of
from llmtune.core.types import Batch, Loss
from llmtune.data.forms.audio import check_recording
from llmtune.data.labels import Labelled
from llmtune.data.roles import AUDIO, TRANSCRIPT

if TYPE_CHECKING:
    import numpy as np
    import torch

    from llmtune.core.parts import Prospect
    from llmtune.data.rows import RawSplits
    from llmtune.model.hearing import Hearing

DECODED = ("num_beams", "temperature", "top_k", "top_p", "repetition_penalty", "no_repeat_ngram", "length_penalty")
PLAIN = {"num_beams": 1, "temperature": 0.0, "repetition_penalty": 1.0, "no_repeat_ngram": 0}
"""settings of writing that a CTC model, which writes nothing after the other, can't follow, and what they are then"""
OBJECTIVES = ("supervised", "r_drop", "l2_sp", "mixout")
"""that ask for nothing of a row but its loss"""


@dataclass(frozen=True, kw_only=True)
class Speech:
    name: str
    kind: str
    metric: str
    language: str | None
    action: str
    ignore_case: bool
    ignore_punctuation: bool
    spec_augment: bool
    max_new_tokens: int
    num_beams: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    no_repeat_ngram: int
    length_penalty: float
    generate_rows: int | None

    def __post_init__(self) -> None:
        one_of("action", self.action, ("transcribe", "translate"))
        at_least("generate_rows", self.generate_rows, 0)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError, DataError: what does not go together, transcripts that can't be written."""
        from llmtune.task.speech_rows import refuse_unfit

        task, faults = prospect.task, []
        faults += [
            Fault("objective", f"{name} looks into the words of a text, and rows of task={self.name} are sound",
                  f"allowed: {', '.join(OBJECTIVES)}", "type objective=[supervised]")
            for name in prospect.config.objective if name not in OBJECTIVES
        ]  # fmt: skip
        if not task.hearing.writes:
            faults += [
                Fault(f"task.{key}", f"{getattr(self, key)}, but {prospect.config.model.name} "
                      f"({prospect.model_config.model_type}) spells frame by frame", "for Whisper kinds alone",
                      f"type task.{key}={'null' if value is None else value}")
                for key, value in {**PLAIN, "language": None, "action": "transcribe"}.items()
                if getattr(self, key) != value
            ]  # fmt: skip
        hidden = getattr(prospect.model_config, "mask_time_length", 0)
        shortest = min(prospect.splits["train"]["length"][:])
        if self.spec_augment and not task.hearing.writes and shortest < hidden:
            faults.append(
                Fault("task.spec_augment", f"hides {hidden} frames at a time, and there is a recording of {shortest}",
                      "longer recordings, or a smaller mask_time_length in the model's config",
                      "type task.spec_augment=false")
            )  # fmt: skip
        if faults:
            raise ConfigError(*faults)
        refuse_unfit(prospect.splits, task.hearing.most_written)

    def build(self) -> SpeechTask:
        return SpeechTask(self)


class SpeechTask:
    """What is taught and measured; `meet_model` tells it which model it is for, before anything is encoded."""

    roles = (AUDIO, TRANSCRIPT)
    labels = None
    problem_type = "transcription"
    fields = ("transcript",)
    table_names = ("transcript",)
    check_row = staticmethod(check_recording)

    def __init__(self, settings: Speech):
        from llmtune.scoring.transcripts import METRICS, Normaliser, refuse_without_jiwer

        refuse_without_jiwer(settings.name)
        known = {**METRICS, "loss": "min"}
        if settings.metric not in known:
            raise ConfigError(
                Fault("task.metric", f"'{settings.metric}' is no metric of task={settings.name}",
                      f"allowed: {', '.join(known)}", did_you_mean(settings.metric, known))
            )  # fmt: skip
        self.settings = settings
        self.metric, self.mode = settings.metric, known[settings.metric]
        self.normaliser = Normaliser(settings.ignore_case, settings.ignore_punctuation)
        self.changeable: tuple[str, ...] = ("max_new_tokens", *DECODED)
        self._hearing: Hearing | None = None
        self._parts: Any = None
        self._tokenizer: Any = None
        self._files = ""
        self._trained = False

    # ---- the model that is met ----

    @property
    def fits(self) -> str:
        from llmtune.model.hearing import FITS

        return FITS

    def meet_model(self, config: Any) -> None:
        """Settle how sound becomes features. Raises ModelError: the model does not hear."""
        from llmtune.model.hearing import Hearing
        from llmtune.task.speech_rows import Recordings
        from llmtune.task.speech_spelling import Spelling
        from llmtune.task.word_targets import WordTargets
        from llmtune.task.writing import Writing

        self._hearing = Hearing(config, config._name_or_path or None, getattr(config, "_commit_hash", None))
        self._recordings = Recordings(self._hearing)
        self.writing = Writing(self.settings)
        self._parts = WordTargets(self.settings.name) if self._hearing.writes else Spelling(self.settings.name)

    @property
    def hearing(self) -> Hearing:
        if self._hearing is None:
            raise RuntimeError("the model is met before its task is asked for anything")
        return self._hearing

    def longest_row(self, config: Any) -> int:
        """Frames of a recording at most. Raises ModelError: the model does not hear."""
        self.meet_model(config)
        return self.hearing.most_frames

    # ---- data ----

    def read_labels(self, raw: RawSplits, label_names: Any, delimiter: str | None) -> Labelled:
        """Nothing but the hours of each split: transcripts are made targets by the encoder.

        Raises:
            DataError: recordings that are gone since the rows were read, by file and line.
        """
        from llmtune.task.speech_rows import files_state

        self._files, hours = files_state(raw)
        targets: dict[str, list[Any]] = {split: [None] * len(rows) for split, rows in raw.splits.items()}
        facts = {split: {"counts": {"minutes of sound": round(60 * found, 1)}} for split, found in hours.items()}
        return Labelled(self.problem_type, None, targets, facts)

    def probe_texts(self, columns: Mapping[str, list[Any]]) -> tuple[list[str], None]:
        return list(columns["transcript"]), None

    def probe_sounds(self, columns: Mapping[str, list[Any]]) -> tuple[list[np.ndarray], list[int]]:
        """The beginnings of some recordings at the model's rate, and what its decoder begins with."""
        return self._recordings.beginnings(columns["audio"]), self.writing.start

    @property
    def encoding_key(self) -> dict[str, Any]:
        """What rows hang on besides tokenizer and code: the recordings' files, the features, what comes first."""
        from llmtune.data.cache import code_version
        from llmtune.data.forms import audio
        from llmtune.model import hearing
        from llmtune.task import speech_rows

        return {
            "files": self._files, "code": code_version(speech_rows, audio, hearing),
            "features": self.hearing.extractor.to_dict(), "language": self.settings.language,
            "action": self.settings.action, "convolutions": [
                list(getattr(self.hearing.config, name, ())) for name in ("conv_kernel", "conv_stride")
            ],
        }  # fmt: skip

    def encoder(self, tokenizer: Any) -> Any:
        """Raises ConfigError: a language that the tokenizer does not know, or none where it knows many."""
        from llmtune.task.speech_rows import SpelledSpeech, WrittenSpeech
        from llmtune.task.speech_start import start_of

        self._tokenizer = tokenizer
        if not self.hearing.writes:
            self._parts.use(tokenizer)
            return SpelledSpeech(self._recordings, tokenizer, cuts=self._trained)
        start = start_of(tokenizer, self.hearing.config, self.settings)
        self.writing.use(tokenizer, start=start)
        return WrittenSpeech(self._recordings, tokenizer, start, cuts=self._trained)

    def complete(self, batch: Batch) -> None:
        """Read the batch's recordings, and put their features in the place of `input_ids`."""
        self._recordings.complete(batch)

    def collate_targets(self, targets: Sequence[Any], cuts: Any = None) -> dict[str, torch.Tensor]:
        return self._parts.collate_targets(targets, cuts)

    # ---- model and loss ----

    def model_class(self) -> Any:
        from llmtune.model.speech_model import SpeechModel
        from llmtune.task.speech_start import generation_values

        known = self.hearing.writes and self._tokenizer is not None
        return SpeechModel(
            self.hearing, generation_values(self._tokenizer, self.hearing, self.settings) if known else {}
        )

    def config_values(self) -> dict[str, Any]:
        """No layer is left out at random (processes would wait for each other); masking as the settings say."""
        from llmtune.task.speech_start import config_values

        return config_values(self._tokenizer, self.hearing, self.settings)

    def set_loss(self, options: Any, targets: Sequence[Any]) -> None:
        self._parts.set_loss(options, targets)

    def count(self, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None) -> float:
        return self._parts.count(targets, share_B)

    def loss(
        self, logits: torch.Tensor, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None
    ) -> Loss:
        """Cross-entropy of word pieces (N, V), or the CTC loss of frames (B, T, V): a sum, counted by N."""
        return self._parts.loss(logits, targets, share_B)

    def divergence(self, first: torch.Tensor, second: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> Loss:
        return self._parts.divergence(first, second, targets)

    def examine(self, model: Any, batch: Batch) -> tuple[list[np.ndarray], Loss]:
        """For each row [loss, pieces, pieces foreseen], of a CTC model with the transcript behind it; their loss."""
        return (self.writing if self.hearing.writes else self._parts).examine(model, batch)

    def generated_rows(self, num_rows: int, thorough: bool) -> Sequence[int]:
        return self.writing.generated_rows(num_rows, thorough) if self.hearing.writes else ()

    def generate(self, model: Any, batch: Batch) -> list[np.ndarray]:
        """The transcript of each row as an encoder-decoder writes it."""
        from llmtune.task.speech_start import written

        return written(model, batch, self.writing, self.hearing, self._tokenizer.pad_token_id)

    # ---- results ----

    def decode(self, chunk: Any) -> list[dict[str, Any]]:
        """For each row its transcript; None where none was written."""
        return [{"transcript": None if not found else self._text(found[0])} for found in self.writing.answers(chunk)]

    def _text(self, ids: list[int]) -> str:
        if self.hearing.writes:
            return self._tokenizer.decode(ids, skip_special_tokens=True).strip()
        word_end = str(self._tokenizer.init_kwargs["word_delimiter_token"])
        return " ".join("".join(self._tokenizer.convert_ids_to_tokens(ids)).replace(word_end, " ").split())

    def table(self, decoded: Mapping[str, Any]) -> list[Any]:
        return [decoded["transcript"]]

    def score(self, predictions: Any) -> dict[str, float]:
        from llmtune.task.speech_results import score

        return score(self, predictions)

    def judge(self, predictions: Any, num_worst: int) -> dict[str, Any]:
        from llmtune.task.speech_results import judge

        return judge(self, predictions, num_worst)

    def to_json(self) -> dict[str, Any]:
        return {}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Nothing is kept but the settings; from now on a recording that is too long is cut."""
        self._trained = True
