"""Adapters that peft puts inside linear modules and that can be folded into them: LoRA and its kin, IA3.

Nothing around the network changes: it stays the Hugging Face task model, its adapted linear modules are peft's
layers, which hold the module of before as `base_layer`.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmtune.core.seeds import fold

PEFT_TASKS = {
    "SequenceClassification": "SEQ_CLS", "TokenClassification": "TOKEN_CLS", "CausalLM": "CAUSAL_LM",
    "ConditionalGeneration": "SEQ_2_SEQ_LM",
}  # fmt: skip
"""word in a class's name -> peft's word for it; not QUESTION_ANS, whose `forward` keeps token_type_ids to itself"""


class Tuner:
    """Puts the adapter of a peft config into a network, folds it in for `model/`, and writes it apart.

    Args:
        config_of: network -> its PeftConfig (which modules are meant depends on the network).
        seed: of the new weights; None where they are of no account (shapes only, or read afterwards).
    """

    merges = True
    stands_alone = True
    """what `save` writes makes the trained model of the base model, by peft alone"""

    def __init__(self, config_of: Callable[[Any], Any], seed: int | None):
        self.config_of = config_of
        self.seed = seed
        self.inner: Any = None
        """peft's own object around the network"""
        self.moved: frozenset[str] = frozenset()
        """parameters of the base that trained too, which `save` writes beside the adapter's"""

    def wrap(self, network: Any) -> Any:
        """Put the adapter in, in place, also on the meta device. Raises ConfigError or ModelError: no fit."""
        import torch
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

        from llmtune.adapter.new_rows import put_in

        config = self.config_of(network)
        on_meta = next(network.parameters()).is_meta
        state = torch.random.get_rng_state()
        if self.seed is not None:
            torch.manual_seed(fold(self.seed, "adapter"))
        with torch.device("meta") if on_meta else contextlib.nullcontext():
            self.inner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](network, config, "default")
        torch.random.set_rng_state(state)
        put_in(network)
        return network

    def terms(self) -> dict[str, Any]:
        """Losses that belong to the adapter, as objectives by name: none."""
        return {}

    @contextlib.contextmanager
    def plain(self, network: Any) -> Iterator[Any]:
        """The network as transformers knows it, the adapter folded into its weights; put back afterwards."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        from llmtune.adapter.new_rows import folded_in

        adapted = {name: module for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)}
        before = {name: [one.data for one in module.get_base_layer().parameters()] for name, module in adapted.items()}
        for name, module in adapted.items():
            self._fold_in(module)
            _put(network, name, module.get_base_layer())
        try:
            with folded_in(network):
                yield network
        finally:
            for name, module in adapted.items():
                _put(network, name, module)
                module.merged_adapters.clear()
                for parameter, values in zip(module.get_base_layer().parameters(), before[name]):
                    parameter.data = values

    def _fold_in(self, module: Any) -> None:
        """Give the base layer of one of peft's layers new weights; the tensors that it had are not written to."""
        module.merge(safe_merge=True)

    def save(self, network: Any, folder: Path, base: str | None) -> None:
        """Write adapter, head and what else trained in peft's own form: adapter_config.json, adapter_model.safetensors.

        `PeftModel.from_pretrained(model, folder)` opens it, where `model` is the one in `base`, with as many words as
        the tokenizer has. What peft has no part for (a table of words with new rows, weights of the base, parameters
        that are no modules) is there under its own name, by which peft loads it too.
        """
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        from llmtune.adapter.new_rows import folded_in
        from llmtune.model.layers import HEAD, LayerMap

        heads = _copied_by_peft(network)
        names = LayerMap.of(network, network.base_model_prefix).at(HEAD) | self.moved
        with folded_in(network) as table:
            names |= {table} if table else set()
            weights = get_peft_model_state_dict(network, save_embedding_layers=False)
            weights |= {
                name: value for name, value in network.state_dict().items()
                if name in names or any(name.startswith(f"{head}.") for head in heads)
            }  # fmt: skip
            weights = {f"base_model.model.{name}": value.contiguous().clone() for name, value in weights.items()}
        config = copy.deepcopy(network.peft_config["default"])
        config.base_model_name_or_path = base
        config.inference_mode = True
        config.modules_to_save = heads
        reads = network.main_input_name == "input_ids"  # peft's own classes hand on nothing else
        tasks = (task for word, task in PEFT_TASKS.items() if reads and word in type(network).__name__)
        config.task_type = next(tasks, None)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
        config.save_pretrained(str(folder))


class QuantisedTuner(Tuner):
    """LoRA on modules of bitsandbytes, which `unquantised` makes plain ones again before anything is folded in.

    By itself the adapter belongs on a base that is quantised as in training.
    """

    stands_alone = False

    def unquantised(self, network: Any) -> Any:
        """The network in place, its few-bit weights as the fp32 numbers that they stand for."""
        import torch

        return network.dequantize(dtype=torch.float32)

    def _fold_in(self, module: Any) -> None:
        base = module.get_base_layer()
        base.weight.data = base.weight.data + module.get_delta_weight("default")


def _put(network: Any, name: str, module: Any) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def _copied_by_peft(network: Any) -> list[str]:
    """Modules of the head that peft can be told to train: it looks for them by the ends of names, which others may
    share (a `dense` of ours, and one in each layer)."""
    from llmtune.model.projections import head_modules

    heads = head_modules(network, network.base_model_prefix)
    others = [name for name, _ in network.named_modules() if name not in heads]
    return [head for head in heads if not any(other.endswith(head) for other in others)]


def seed_of(parts: Any) -> int | None:
    """The run's seed; None without parts: an adapter built for its shape alone."""
    return None if parts is None else parts.config.seed


def has_conv1d(network: Any, names: list[str]) -> bool:
    """Do these modules keep their weights as (in, out), as GPT-2's do?"""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(network.get_submodule(name), Conv1D) for name in names)
