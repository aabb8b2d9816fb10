"""The student answers as a teacher does, and, if asked, computes as it does (arXiv 1503.02531, 1909.10351)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts, Prospect
from llmtune.core.ranges import at_least, one_of, positive, weight
from llmtune.objective.layer_pairs import LAYER_MAPS, PAIRS, layer_pairs, num_layers

if TYPE_CHECKING:
    from llmtune.objective.distilling import DistillationLoss
    from llmtune.objective.teacher import Teacher

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

        if parts.config.augmentation:
            parts.console.say("distillation: the teacher has read the rows as they are, augmentation or not")
        return distillation_loss(self, self._found(parts.config.run.plugins), parts)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError or ModelError: no teacher, or one that can't teach this task or this model."""
        from llmtune.objective.teacher import strange_answers

        teacher = self._found(prospect.config.run.plugins)
        faults = strange_answers(teacher, prospect.task, WHERE)
        if self.wants:
            faults += self._unlike(teacher, prospect)
        if faults:
            raise ConfigError(*faults)

    def _found(self, plugins: Any) -> Teacher:
        from llmtune.objective.teacher import find_teacher

        if self.teacher is None:
            raise ConfigError(
                Fault(WHERE, "no teacher is given", "a run folder, a model's folder, or a hub id", f"{WHERE}=DIR")
            )
        return find_teacher(self.teacher, WHERE, plugins)

    def _unlike(self, teacher: Teacher, prospect: Prospect) -> list[Fault]:
        """Why layers can't be compared token by token."""
        from llmtune.model.backbone import longest_row
        from llmtune.objective.teacher import same_words

        words = " and ".join(self.wants)
        fix = " ".join(f"objective.distillation.{word}=0" for word in self.wants)
        faults = []
        if teacher.config.is_encoder_decoder or prospect.model_config.is_encoder_decoder:
            return [Fault("objective.distillation", f"{words} of encoder-decoders are not compared",
                          "their answers are", fix)]  # fmt: skip
        if not same_words(teacher, prospect.tokenizer):
            faults.append(Fault(WHERE, f"{teacher.given} has another vocabulary, so its {words} are of other tokens",
                                "its answers alone can be learnt from", fix))  # fmt: skip
        most, longest = longest_row(teacher.config, teacher.tokenizer), max(prospect.splits["train"]["length"])
        if longest > most:
            faults.append(Fault(WHERE, f"rows have up to {longest} tokens, {teacher.given} reads {most}", "",
                                f"data.max_tokens={most}"))  # fmt: skip
        try:
            pairs = layer_pairs(self.layers, num_layers(prospect.model_config), num_layers(teacher.config))
        except ValueError as error:
            faults.append(Fault("objective.distillation.layers", str(error), "layers count from 1; 0: embeddings"))
        else:
            if self.attentions and not any(own and other for own, other in pairs):
                faults.append(Fault("objective.distillation.layers", f"{self.layers} has no attention in it"))
        if self.attentions and prospect.network.config._attn_implementation != "eager":
            faults.append(Fault("objective.distillation.attentions", "attention weights are not handed out by "
                                f"{prospect.network.config._attn_implementation} attention", "eager attention",
                                "type model.attention=eager"))  # fmt: skip
        return faults
