"""The seams: what the loop asks of a task, an objective, a freeze policy, an optimizer, a watcher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from llmtune.core.types import Batch, Loss


class Stateful(Protocol):
    """A part whose next value depends on what was seen; everything else is a function of the step."""

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]: ...

    def load_state(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None: ...


class Follower(Protocol):
    """A part that looks at each step: any part that has the method is called."""

    def follow(self, step: int, result: Any) -> None:
        """After the update of `step`, while its gradients are still there; `result` is a training.step.StepResult."""


class Views(Protocol):
    """The model as an objective sees it: each view goes through the backbone once per micro-batch (model.trunk)."""

    def output(self, view: str, batch: Batch) -> Any:
        """The backbone's ModelOutput."""

    def logits(self, view: str, batch: Batch) -> torch.Tensor:
        """What the task's head makes of it."""

    def through(self, head_model: torch.nn.Module, view: str, batch: Batch) -> Any:
        """What another Hugging Face head makes of it, whose backbone is the same module."""

    def again(self, view: str, batch: Batch, name: str = "again") -> torch.Tensor:
        """The task's logits of a fresh run: the same inputs, other dropout."""

    def perturbed(
        self, view: str, batch: Batch, change: Callable[[torch.Tensor], torch.Tensor], name: str = "perturbed"
    ) -> torch.Tensor:
        """The task's logits of a fresh run whose word embeddings (B, T, D) went through `change`."""

    def hooked(self) -> AbstractContextManager[None]:
        """Runs within it see hooks that were set on the backbone's modules, compiled or not."""


class Objective(Protocol):
    """One term of the loss. If it has parameters of its own it is an nn.Module and the composite registers it.

    It may also have `prepare(batch)`, called in the feed: adds views and targets to a batch on the CPU, all draws
    derived from `batch.row_seeds`. And `wants`, words out of `hidden_states` and `attentions` that it reads from
    `output(view)`.
    """

    name: str
    feed: str
    """whose rows it is a loss of: `task`, a feed of its own, or core.types.EVERY_FEED"""
    weight: Callable[[int], float]
    """share of this term in the sum, as a function of the step"""

    def count(self, batch: Batch) -> float:
        """Items that `loss` will sum over; known without a forward pass, so that all ranks can add up first."""

    def loss(self, trunk: Views, batch: Batch) -> Loss: ...


class ObjectiveSettings(Protocol):
    """What an objective's YAML becomes: `build(parts)` makes the Objective, or a dict of several.

    It may declare as class attributes what kind of term it is; `core.terms` alone reads that: `balanced = False` of
    what is no loss of rows (a distance of weights), which keeps its own weight under any balance; `starts_at_zero =
    True` of a loss that is 0 as long as nothing has moved, which no size or fall can be measured of. And a property
    `num_terms`, where it builds several.
    """

    name: str

    def build(self, parts: Any) -> Any: ...


class PooledObjective(Objective, Protocol):
    """An objective that compares rows with each other, so that its loss is of a whole step and not of a row.

    `loss` is `compare(represent(...), keys(...))`. Where a step takes several forward passes or processes, the
    stepper gathers the representations of all of them first (Gao et al., arXiv 2101.06983).
    """

    pooled: bool

    def represent(self, trunk: Views, batch: Batch) -> torch.Tensor:
        """One vector for each of R items of the batch: (R, D)."""

    def keys(self, batch: Batch) -> dict[str, torch.Tensor]:
        """What is known of the R items without a forward pass (labels, row ids): tensors of R rows on the CPU."""

    def compare(self, items_RD: torch.Tensor, keys: Mapping[str, torch.Tensor]) -> Loss: ...


class Balance(Protocol):
    """Weighs the objectives against each other, by what was seen if it is a Follower.

    It may also have `combine(step, gradients) -> gradient`: then it makes the gradient out of those of the
    objectives, which are lists of tensors or None, one for each parameter that trains, their weights in them. It
    changes nothing of itself: the trial before step 0 calls it too.
    """

    learns: bool
    """do the weights change by what was seen?"""
    watched: Sequence[frozenset[str]]
    """groups of parameters: on the first of them in which any trains the gradient of each objective is taken by
    itself (StepResult.norms); empty: on none"""

    def weights(self, given: Mapping[str, float]) -> dict[str, float]:
        """By objective, of the weights that objectives have of their own in this step."""


class Sampling(Protocol):
    """Which sets of rows a step reads. It may have `follow_scores(step, scores)`, called after each evaluation with
    scores by set; state that it keeps decides what the next step reads, so `pick` changes nothing."""

    def pick(self, step: int) -> dict[str, int]:
        """Name of a feed -> which step of its own order."""


class Adapter(Protocol):
    """New weights that train in place of the model's own.

    The settings' `build(parts)` takes None for the shape alone: on the meta device, or for weights that are read next.
    """

    merges: bool
    """can it be folded into the model's weights?"""
    stands_alone: bool
    """does what `save` writes make the trained model of the base model, by peft alone?"""

    def wrap(self, network: Any) -> Any:
        """Put it into the Hugging Face task model, in place, before anything else looks at that."""

    def terms(self) -> dict[str, Objective]:
        """Losses that belong to it, by name."""

    def plain(self, network: Any) -> AbstractContextManager[Any]:
        """Meanwhile the network as transformers knows it: the adapter is folded in, or away."""

    def save(self, network: Any, folder: Path, base: str | None) -> None:
        """Write the adapter by itself; `base`: where the model under it came from."""


class FreezePolicy(Protocol):
    """It may also have `lr_stages`, (step, factor) of where the schedule of the learning rate begins anew."""

    changes: bool
    """does `trainable` depend on the step?"""

    def trainable(self, layers: Any, step: int) -> frozenset[str]:
        """Names of the parameters that train at `step`; pure. `layers` is the model's LayerMap."""


class Task(Protocol):
    """What is learnt and how it is measured: knows data and scores, not the loop.

    Besides what stands here it may have: `outputs(logits, batch)`, what is kept of each row in an evaluation, where
    logits would be too much; `run(model, batch)`, in place of the forward pass there; `examine(model, batch)`, in
    place of both: an array a row, and a Loss; `generate(model, batch)`, what is written for each row of
    `generated_rows(num_rows, thorough)`, as an array that comes to stand behind that of `examine` (task.writing);
    `loss_in_pieces(trunk, batch)`, the loss where logits would take too much memory, else None; `complete(batch)`,
    which puts model inputs into a batch that no column of encoded rows holds; `room(max_tokens)`, tokens of a row that
    stay free for an answer; `changeable`, settings that may be others when the trained model is used;
    `looks_before` and `remember(split, rows, outcomes)`, where it compares with what the model was before the first
    step (training.look_before); `remarks(predictions)`, lines that `evaluate` says besides;
    `meet_model(config)`, which looks at the transformers config before rows are encoded; `signatures`, by score what
    it hangs on; `settle(scores)`, which tunes something on validation once training is over and says whether that
    changed the scores; `probe_texts(columns)`, plain texts of rows that have no column `text`; `new_tokens`, special
    tokens that the tokenizer is to know, or a function of it; `encoding_key`, what token ids hang on besides it;
    `pooled` and `views`, where its loss compares rows (see PooledObjective); `fits`, which models can serve it.
    """

    roles: Sequence[Any]
    """data.roles.Role of each column that it asks for"""
    problem_type: str
    metric: str
    mode: str
    """"max" or "min": the direction in which `metric` is better"""
    labels: Any
    """data.labels.LabelTable, or None"""
    fields: Sequence[str]
    """keys of what `decode` tells, the main one first"""
    table_names: Sequence[str]
    """columns of a table of predictions"""

    def read_labels(self, raw: Any, label_names: Any, delimiter: str | None) -> Any:
        """A data.labels.Labelled; judges the gold of every row. DataError with file and line."""

    def encoder(self, tokenizer: Any) -> Any:
        """A data.tokens.token_rows.Encode: training and `predict` use this one."""

    def collate_targets(self, targets: Sequence[Any], cuts: Any = None) -> dict[str, torch.Tensor]: ...

    def model_class(self) -> Any:
        """An Auto class of transformers, or a model.own_head.OwnHead."""

    def config_values(self) -> dict[str, Any]:
        """What the model's config must say."""

    def set_loss(self, options: Any, targets: Sequence[Any]) -> None:
        """Settle the loss from the `train` settings. ConfigError for what has no meaning here."""

    def count(self, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None) -> float: ...

    def loss(
        self, logits: torch.Tensor, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None
    ) -> Loss: ...

    def divergence(self, first: torch.Tensor, second: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> Loss: ...

    def score(self, predictions: Any) -> dict[str, float]:
        """Of a scoring.predictions.Predictions, read in chunks; the loop adds `loss`."""

    def judge(self, predictions: Any, num_worst: int) -> dict[str, Any]:
        """What `evaluate` tells besides: `classes`, `confusion`, `tables`, `worst`."""

    def decode(self, chunk: Any) -> list[dict[str, Any]]:
        """For each row of a scoring.predictions.Chunk its `fields`."""

    def table(self, decoded: Mapping[str, Any]) -> list[Any]:
        """The same as one row of a table with `table_names`."""

    def to_json(self) -> dict[str, Any]:
        """What `predict` and `evaluate` need besides the settings."""

    def restore(self, plain: Mapping[str, Any]) -> None: ...


class Watcher(Protocol):
    """Sees what happened and changes nothing: the progress display, later trackers and profilers."""

    def on_plan(self, plan: Mapping[str, Any]) -> None: ...

    def on_step(self, record: Mapping[str, Any]) -> None: ...

    def on_evaluation(self, record: Mapping[str, Any]) -> None: ...

    def on_end(self) -> None: ...


Watchers = Sequence[Watcher]
