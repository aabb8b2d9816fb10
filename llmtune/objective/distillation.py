"""The student answers as a teacher does, and, if asked, computes as it does (arXiv 1503.02531, 1909.10351)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts, Prospect
from llmtune.core.ranges import at_least, one_of, positive, weight
from llmtune.objective.layer_pairs import LAYER_MAPS, PAIRS, stack_pairs

if TYPE_CHECKING:
    from llmtune.objective.distilling import DistillationLoss
    from llmtune.objective.teacher import Teacher
    from llmtune.objective.token_answers import TokenAnswers

WHERE = "objective.distillation.teacher"


@dataclass(frozen=True, kw_only=True)
class Distillation:
    name: str
    weight: float | str
    teacher: str | None
    answers: float
    temperature: float
    hidden_states: float
    attentions: float
    layers: str

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        positive("temperature", self.temperature)
        for field in ("answers", "hidden_states", "attentions"):
            at_least(field, getattr(self, field), 0)
        if not self.answers + self.hidden_states + self.attentions:
            raise ValueError("answers: 0, as hidden_states and attentions are; one of them must be above 0")
        if not PAIRS.fullmatch(self.layers):
            one_of("layers", self.layers, (*LAYER_MAPS, '"1:2,2:4"'))

    @property
    def wants(self) -> tuple[str, ...]:
        """What the student's and the teacher's backbone have to hand out."""
        return tuple(word for word in ("hidden_states", "attentions") if getattr(self, word))

    def build(self, parts: Parts) -> DistillationLoss:
        from llmtune.objective.distilling import distillation_loss

        if parts.config.augmentation and self.answers:
            parts.console.say("distillation: the teacher has read the rows as they are, augmentation or not")
        return distillation_loss(self, self._found(parts.config.run.plugins), parts)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError or ModelError: no teacher, or one that can't teach this task or this model."""
        from llmtune.objective.teaching import answer_faults, reading_faults
        from llmtune.objective.token_answers import token_answers

        teacher = self._found(prospect.config.run.plugins)
        tokens = token_answers(prospect.config, prospect.task)
        faults = answer_faults(teacher, prospect, WHERE) if self.answers else []
        if self.answers and tokens is not None and not faults:
            faults = reading_faults(teacher, prospect, WHERE, "answers", f"{WHERE}=DIR of another one")
        elif self.wants:
            fix = " ".join(f"objective.distillation.{word}=0" for word in self.wants)
            faults += reading_faults(teacher, prospect, WHERE, " and ".join(self.wants), fix)
        if self.wants:
            faults += self._unlike(teacher, prospect, tokens)
        if faults:
            raise ConfigError(*faults)

    def places(self) -> list[str]:
        """Models that it reads besides the run's own."""
        return [self.teacher] if self.teacher else []

    def fingerprints(self) -> dict[str, str]:
        """A run that is gone on with must find the same teacher."""
        from llmtune.objective.teacher import fingerprint

        return {} if self.teacher is None else {"teacher": fingerprint(self.teacher)}

    def _found(self, plugins: Any) -> Teacher:
        from llmtune.objective.teacher import find_teacher

        if self.teacher is None:
            raise ConfigError(
                Fault(WHERE, "no teacher is given", "a run folder, a model's folder, or a hub id", f"{WHERE}=DIR")
            )
        return find_teacher(self.teacher, WHERE, plugins)

    def _unlike(self, teacher: Teacher, prospect: Prospect, tokens: TokenAnswers | None) -> list[Fault]:
        """Why layers can't be compared token by token."""
        from llmtune.objective.attention_dropout import can_stop

        words = " and ".join(self.wants)
        stacks = [getattr(config, "is_encoder_decoder", False) for config in (prospect.model_config, teacher.config)]
        if any(stacks) and not (all(stacks) and tokens is not None and tokens.kind == "sequence"):
            fix = " ".join(f"objective.distillation.{word}=0" for word in self.wants)
            return [Fault("objective.distillation", f"{words} of encoder-decoders are compared with those of others "
                          "that write, in tasks that write", "", fix)]  # fmt: skip
        faults = []
        where = "objective.distillation.layers"
        try:
            stacks_pairs = stack_pairs(self.layers, prospect.model_config, teacher.config)
        except ValueError as error:
            faults.append(Fault(where, str(error), "layers count from 1; 0: embeddings"))
        else:
            if self.attentions and not any(own and other for pairs in stacks_pairs for own, other in pairs):
                faults.append(Fault(where, f"{self.layers} has no attention in it"))
        network, where = prospect.network, "objective.distillation.attentions"
        if self.attentions and network.config._attn_implementation != "eager":
            faults.append(Fault(where, "attention weights are not handed out by "
                                f"{network.config._attn_implementation} attention", "eager attention",
                                "type model.attention=eager"))  # fmt: skip
        virtual = getattr(prospect.config.adapter, "virtual_tokens", 0)
        if self.attentions and virtual:
            faults.append(Fault(where, f"the student also attends to {virtual} virtual tokens of adapter="
                                f"{prospect.config.adapter.name}", "adapters of layers",
                                "type adapter=lora"))  # fmt: skip
        elif self.attentions and not can_stop(network) and prospect.config.model.dropout != 0:
            faults.append(Fault(where, f"it is not known how {network.config.model_type} models are kept from dropping "
                                "attention, and dropped weights can't be learnt", "", "type model.dropout=0"))
        return faults
