"""Preferences: a language model is tuned to give the answers that people prefer, from pairs or from judged answers.

Rows are a prompt with two answers, or an answer with a label true or false. What the model was before the first step
is the reference that DPO, IPO and KTO compare with; it is asked once, and no second model is kept.

Legend: S sequences of all rows of a batch: of each row its answers, and for KTO one that answers another prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmtune.core.errors import ConfigError, Fault, ModelError, did_you_mean
from llmtune.core.ranges import at_least, between, one_of, positive
from llmtune.core.types import Batch, Loss
from llmtune.data.forms.preference_rows import ALL, check_preference
from llmtune.data.labels import Labelled

if TYPE_CHECKING:
    import torch

    from llmtune.core.parts import Prospect
    from llmtune.data.rows import RawSplits
    from llmtune.scoring.predictions import Chunk, Predictions
    from llmtune.task.preference_results import Rule

LOSSES = ("dpo", "ipo", "simpo", "orpo", "kto")
WITHOUT_REFERENCE = ("simpo", "orpo")
BETAS = {"dpo": 0.1, "ipo": 0.5, "simpo": 2.0, "orpo": 0.1, "kto": 0.1}
"""where beta is auto: those of the papers; ipo, per token: a gap of 1 in the log-probability of a token"""
METRICS = {
    "reward_accuracy": "max", "reward_margin": "max", "reward_auc": "max", "logp_accuracy": "max",
    "token_logp_accuracy": "max", "loss": "min",
}  # fmt: skip
OF_PAIRS = ("reward_accuracy", "reward_margin", "logp_accuracy", "token_logp_accuracy")


@dataclass(frozen=True, kw_only=True)
class Preference:
    name: str
    kind: str
    metric: str
    loss: str
    beta: float | str
    label_smoothing: float
    gamma: float
    desirable_weight: float
    undesirable_weight: float
    template: str
    system: str | None

    def __post_init__(self) -> None:
        one_of("loss", self.loss, LOSSES)
        one_of("metric", self.metric, ("auto", *METRICS))
        if self.beta != "auto":
            if isinstance(self.beta, str):
                raise ValueError(f"beta: {self.beta!r} is no number; must be above 0, or auto")
            positive("beta", self.beta)
        between("label_smoothing", self.label_smoothing, 0, 0.5)
        if self.label_smoothing and self.loss != "dpo":
            raise ValueError(f"label_smoothing: {self.label_smoothing}, and loss={self.loss} has none; dpo has, else 0")
        at_least("gamma", self.gamma, 0)
        for field in ("desirable_weight", "undesirable_weight"):
            positive(field, getattr(self, field))

    def check(self, prospect: Prospect) -> None:
        """Raises ModelError: the model writes no answers."""
        from llmtune.model.language_head import language_kind

        if language_kind(prospect.model_config) != "causal":
            given = f"{prospect.config.model.name} ({prospect.model_config.model_type}) is no decoder"
            raise ModelError(Fault("model", given, PreferenceTask.fits, "such as model=tiny_gpt2"))

    def build(self) -> PreferenceTask:
        return PreferenceTask(self)


class PreferenceTask:
    """The model tells how likely each answer of a row is; losses and scores are made of that."""

    roles = ALL
    labels = None
    fits = "preferences fit decoders (GPT-2, Llama, Qwen, ...)"
    num_outputs = 2
    problem_type = "preference"
    check_row = staticmethod(check_preference)
    fields = ("preferred", "margin", "by", "reward", "logp", "tokens")

    def __init__(self, settings: Preference):
        from llmtune.task.preference_reference import Reference
        from llmtune.task.preference_template import KeptTemplate

        self.settings = settings
        self.beta = float(BETAS[settings.loss] if settings.beta == "auto" else settings.beta)
        self.reference, self.template = Reference(), KeptTemplate(settings.template, settings.system)
        self._must_know = self._is_trained = False
        """in training a row without a reference would be passed over"""
        self._settle("pairs")

    def _settle(self, form: str) -> None:
        """The metric for rows of this form."""
        default = "reward_accuracy" if form == "pairs" else "reward_auc"
        self.form, self.metric = form, default if self.settings.metric == "auto" else self.settings.metric
        other = OF_PAIRS if form == "judged" else ("reward_auc",)
        if self.metric in other:
            allowed = ", ".join(name for name in METRICS if name not in other)
            raise ConfigError(
                Fault("task.metric", f"{self.metric}, and rows are {form}", f"allowed: auto, {allowed}",
                      did_you_mean(self.metric, [default]) or "type task.metric=auto")
            )  # fmt: skip
        self.mode = METRICS[self.metric]

    # ---- data ----

    def read_labels(self, raw: RawSplits, label_names: Any, delimiter: str | None) -> Labelled:
        """Which rows are pairs and which are judged; what a label says, and for KTO an answer to another prompt, stand
        beside each row from now on.

        Raises:
            DataError, ConfigError: rows that are neither, or that the loss can't learn from.
        """
        from llmtune.task.preference_reading import read_preferences

        facts, form = read_preferences(raw, self.settings.loss)
        self._settle(form)
        nothing = {split: [None] * len(rows) for split, rows in raw.splits.items()}
        return Labelled(self.problem_type, None, nothing, facts)

    @property
    def encoding_key(self) -> dict[str, Any]:
        """What tokens hang on besides rows and tokenizer."""
        return {**self.template.key, "mismatched": self.settings.loss == "kto"}

    def new_tokens(self, tokenizer: Any) -> tuple[str, ...]:
        """Special tokens of the template."""
        return self.template.new_tokens(tokenizer)

    @property
    def own_texts(self) -> list[str]:
        """What a tokenizer that is trained on the rows must know besides."""
        return self.template.own_texts

    def encoder(self, tokenizer: Any) -> Any:
        """`encode(columns, max_tokens)`: prompt and answer by the chat template, a sequence for each answer."""
        from llmtune.task.preference_encoding import PreferenceEncoder

        return PreferenceEncoder(self.template.of(tokenizer), trained=self._is_trained)

    def collate_targets(self, targets: Sequence[Any], cuts: Any = None) -> dict[str, torch.Tensor]:
        """Nothing: what answers are compared by is told by `complete`."""
        return {}

    def complete(self, batch: Batch) -> None:
        """Targets, all (S,): `kind`, what a sequence is; `reference`, its log-probability by the reference, NaN where
        that is not known; `row`, whose it is.

        Raises:
            KeyError: in training a row has no reference.
        """
        import torch

        from llmtune.task.preference_encoding import KEY, KIND
        from llmtune.task.preference_reference import keys_of

        reference_S = self.reference.of(keys_of(batch.facts[KEY]))
        if self._must_know and np.isnan(reference_S).any():
            raise KeyError(f"rows {batch.row_ids} have an answer that the reference was not asked for")
        kinds = [kind for row in batch.facts[KIND] for kind in row]
        rows = [row for row, kinds in enumerate(batch.facts[KIND]) for _ in kinds]
        batch.targets |= {
            "kind": torch.tensor(kinds), "reference": torch.from_numpy(reference_S), "row": torch.tensor(rows),
        }  # fmt: skip

    # ---- model and loss ----

    def model_class(self) -> Any:
        from llmtune.model.answer_scores import AnswerScorer

        return AnswerScorer()

    def config_values(self) -> dict[str, Any]:
        return {}

    @property
    def pooled(self) -> bool:
        """Is the loss of a whole step? KTO's zero is."""
        return self.settings.loss == "kto"

    @property
    def looks_before(self) -> bool:
        """Is the model to be asked for all rows before the first step?"""
        return self.settings.loss not in WITHOUT_REFERENCE

    def remember(self, split: str, rows: Any, outcomes: Any) -> None:
        """What the model makes of the encoded `rows` of a split before the first step (scoring.predictions)."""
        from llmtune.task.preference_encoding import KEY

        for start in range(0, len(rows), 1000):
            keys = rows.with_format(None)[start : start + 1000][KEY]
            values = [outcomes.get(start + row)[:, 0] for row in range(len(keys))]
            keys_S2 = np.asarray([number for row in keys for number in row]).reshape(-1, 2)
            self.reference.add(keys_S2, np.concatenate(values), keep=split != "train")
        self._must_know = True

    def set_loss(self, options: Any, targets: Sequence[Any]) -> None:
        """Raises ConfigError where what is for classes is set."""
        from llmtune.task.class_options import refuse_class_options

        refuse_class_options(self.settings.name, options)

    def count(self, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None) -> float:
        """Pairs; for KTO answers. Each counts by its row's share."""
        from llmtune.task.preference_loss import shares

        return float(shares(self.settings.loss, targets, share_B).sum())

    def loss(
        self, scores_S2: torch.Tensor, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None
    ) -> Loss:
        """Sum over pairs, or for KTO over answers, of the loss that `task.loss` names."""
        from llmtune.task.preference_loss import total_loss

        return total_loss(self.settings, self.beta, scores_S2.float(), targets, share_B)

    def divergence(
        self, first_S2: torch.Tensor, second_S2: torch.Tensor, targets: Mapping[str, torch.Tensor]
    ) -> Loss:
        """Sum of how far apart two views put the chance that the chosen answer is preferred (of a judged one: that it
        is wanted), by a symmetric KL."""
        from llmtune.task.preference_loss import total_divergence

        return total_divergence(self.settings, self.beta, first_S2.float(), second_S2.float(), targets)

    # ---- results ----

    @property
    def _rule(self) -> Rule:
        from llmtune.task.preference_results import Rule

        return Rule(self.settings.loss, self.beta, self.settings)

    def outputs(self, scores_S2: torch.Tensor, batch: Batch) -> list[np.ndarray]:
        """Of each row (sequences, 4): log-probability, tokens, log-probability by the reference, kind."""
        import torch

        beside = [batch.targets[name].to(scores_S2)[:, None] for name in ("reference", "kind")]
        all_S4 = torch.cat([scores_S2, *beside], dim=1).cpu().numpy()
        return np.split(all_S4, np.cumsum(batch.num_sequences)[:-1])

    def score(self, predictions: Predictions) -> dict[str, float]:
        """Reward accuracy and margin of pairs, AUC of judged answers, log-probabilities and lengths of both."""
        from llmtune.task.preference_results import scores

        return scores(predictions, self._rule)

    def remarks(self, predictions: Predictions) -> list[str]:
        """What `evaluate` says of rows that the model was not asked for before training."""
        if not self.looks_before or "reward_accuracy" in (found := self.score(predictions)) or "reward_auc" in found:
            return []
        return ["no rewards: what the model made of these rows before it was trained is not known; what it makes of "
                "them now is told by log-probabilities"]  # fmt: skip

    def decode(self, chunk: Chunk) -> list[dict[str, Any]]:
        """For each row which answer is preferred and by how much, and what is known of each."""
        from llmtune.task.preference_results import decoded

        return decoded(chunk, self._rule)

    table_names = ("preferred", "margin", "by", "chosen_logp", "rejected_logp", "chosen_tokens", "rejected_tokens")

    def table(self, decoded: Mapping[str, Any]) -> list[Any]:
        """The same as `table_names` names; of an answer by itself as if it were the chosen one."""
        sides = [[*decoded[name], None][:2] for name in ("logp", "tokens")]
        return [*(decoded[name] for name in ("preferred", "margin", "by")), *sides[0], *sides[1]]

    def judge(self, predictions: Predictions, num_worst: int) -> dict[str, Any]:
        """The pairs whose rejected answer is preferred most."""
        from llmtune.task.preference_results import worst

        return {"worst": worst(predictions, self._rule, num_worst)}

    def probe_texts(self, columns: Mapping[str, list[Any]]) -> tuple[list[str], None]:
        """Plain texts: of each row all that is said in it."""
        from llmtune.task.preference_encoding import said

        return said(columns), None

    def to_json(self) -> dict[str, Any]:
        """What `predict` and `evaluate` need besides the settings."""
        return {"form": self.form, "template": self.template.text, "reference": self.reference.to_json()}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Undo `to_json`."""
        self._settle(plain["form"])
        self.template.text, self._is_trained = plain["template"], True
        self.reference.restore(plain["reference"])
