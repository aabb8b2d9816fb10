"""Freezing: modes of modules, no graph below what trains, the table of what trains, and the proof at the end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from llmtune.core.errors import LlmtuneError
from llmtune.freeze_policy.phases import Phase, Phases
from llmtune.model.layers import LayerMap
from llmtune.reporting.what_trains import merged, table_lines, timeline_lines, trains_lines
from llmtune.training.freezing import Freezing
from llmtune.training.untouched import Untouched

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 50}
BERT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
BART = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_start_token_id": 1,
        "forced_eos_token_id": 2, "encoder_layerdrop": 0.5}  # fmt: skip
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "bert": (AutoModelForSequenceClassification, BERT),
    "gpt2": (AutoModelForSequenceClassification, {"n_embd": 16, "n_layer": 4, "n_head": 2}),
    "llama": (AutoModelForSequenceClassification, {**BERT, "num_key_value_heads": 1}),
    "t5": (AutoModelForSeq2SeqLM, T5),
    "bart": (AutoModelForSeq2SeqLM, BART),
}
IDS_BT = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


def network(family: str) -> Any:
    kind, shape = SHAPES[family]
    torch.manual_seed(0)
    return kind.from_config(AutoConfig.for_model(family, **shape, **IDS))


def inputs(family: str) -> dict[str, torch.Tensor]:
    return {"input_ids": IDS_BT, "labels": IDS_BT if family in ("t5", "bart") else torch.tensor([0, 1])}


def frozen(model: Any, *places: str, policy: Any = None) -> Freezing:
    """The model with `places` training from step 0 on."""
    freezing = Freezing(model, LayerMap.of(model, model.base_model_prefix), policy or Phases([Phase(0, places)]))
    freezing.apply(0)
    return freezing


TOP = ("layer 3", "final", "head")


@pytest.mark.parametrize("family", SHAPES)
def test_what_lies_below_draws_no_dropout(family: str) -> None:
    model = network(family)
    model.train()
    freezing = frozen(model, "layer 2", *TOP)
    layers = dict(model.named_modules())
    stack = {"bert": "bert.encoder.layer", "gpt2": "transformer.h", "llama": "model.layers", "t5": "encoder.block",
             "bart": "model.encoder.layers"}[family]  # fmt: skip
    seen: list[torch.Tensor] = []
    layers[f"{stack}.1"].register_forward_hook(
        lambda module, args, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        for _ in range(3):
            model(**inputs(family))
        model.eval()
        model(**inputs(family))
    assert len(seen) == 4
    assert all(torch.equal(hidden, seen[-1]) for hidden in seen)
    freezing.set_modes()
    last = {"t5": "decoder.block.1", "bart": "model.decoder.layers.1"}.get(family, f"{stack}.3")
    assert layers[last].training
    assert model.training


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_wholly_frozen_backbone_is_the_same_in_training_and_evaluation(family: str) -> None:
    model = network(family)
    frozen(model, "head")
    with torch.no_grad():
        training = model.base_model(input_ids=IDS_BT).last_hidden_state
        model.eval()
        assert torch.equal(training, model.base_model(input_ids=IDS_BT).last_hidden_state)


def in_graph(loss: torch.Tensor) -> set[int]:
    """ids of the tensors whose gradient the graph of `loss` would add to."""
    found, waiting, seen = set(), [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [following for following, _ in node.next_functions]
    return found


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", SHAPES)
def test_no_node_of_the_frozen_part_is_in_the_graph(family: str, checkpointing: bool) -> None:
    model = network(family)
    if family == "bart":
        model.config.encoder_layerdrop = model.model.encoder.layerdrop = 0.0
    freezing = frozen(model, *TOP)
    outputs: dict[str, Any] = {}
    for path, module in model.named_modules():
        inside = {place for name, place in freezing.layers.places.items() if name.startswith(f"{path}.")}
        if path and inside and inside.isdisjoint(TOP):
            module.register_forward_hook(lambda module, args, out, path=path: outputs.update({path: out}))
    if checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        model.disable_input_require_grads()  # as load_model does
    loss = model(**inputs(family)).loss
    trainable = {id(parameter) for name, parameter in model.named_parameters() if name in freezing.trainable}
    if not checkpointing:
        assert in_graph(loss) <= trainable
        assert len(in_graph(loss)) >= len(trainable) - 2  # Llama and T5 leave nothing out; a pooler's may be unused
    below = {path: out[0] if isinstance(out, tuple) else out for path, out in outputs.items()}
    tensors = {path: out for path, out in below.items() if isinstance(out, torch.Tensor)}
    assert len(tensors) > 10
    assert [path for path, out in tensors.items() if out.grad_fn is not None] == []
    loss.backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved <= freezing.trainable
    assert any("3" in name or "decoder.block.1" in name or "decoder.layers.1" in name for name in moved)


def test_what_objectives_bring_always_trains_and_integers_never() -> None:
    composite = nn.Module()
    composite.model = network("bert")
    composite.own = nn.ModuleDict({"extra": nn.Linear(2, 2)})
    key = composite.model.bert.encoder.layer[3].attention.self.key
    key.weight = nn.Parameter(torch.zeros(16, 8, dtype=torch.uint8), requires_grad=False)
    layers = LayerMap.of(composite, "model.bert")
    policy = SimpleNamespace(changes=False, trainable=lambda layers, step: layers.at("layer 3"))
    freezing = Freezing(composite, layers, policy)
    freezing.apply(0)
    names = {name for name, parameter in composite.named_parameters() if parameter.requires_grad}
    assert names == (layers.at("layer 3") | {"own.extra.weight", "own.extra.bias"}) - layers.fixed
    assert len(layers.fixed) == 1


# ---- the proof ----


class Counting(nn.Module):
    """A module with a lasting buffer, one that is not, and a -0.0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -0.0]))
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def proof() -> tuple[nn.ModuleDict, Untouched]:
    network = nn.ModuleDict({"low": Counting(), "high": Counting()})
    untouched = Untouched(network)
    untouched.remember({"high.weight"})
    return network, untouched


@torch.no_grad()
def test_proof_finds_a_single_bit() -> None:
    network, untouched = proof()
    assert untouched.prove() == 2  # low.weight, low.seen
    network["high"].seen += 1
    network["high"].weight += 1
    network["low"].scratch += 1
    assert untouched.prove() == 2
    network["low"].weight.abs_()
    with pytest.raises(LlmtuneError, match=r"1 of 2 frozen tensors are not what they were .*: low\.weight"):
        untouched.prove()


@torch.no_grad()
def test_proof_covers_buffers() -> None:
    network, untouched = proof()
    network["low"].seen += 1
    with pytest.raises(LlmtuneError, match=r"low\.seen"):
        untouched.prove()


@torch.no_grad()
def test_proof_lets_go_of_what_trains_later_and_goes_on_from_a_checkpoint() -> None:
    network, untouched = proof()
    tensors, plain = untouched.state()
    assert tensors == {}
    untouched.forget({"low.weight", "high.weight"})
    network["low"].weight += 1
    assert untouched.prove() == 0
    again = Untouched(network)
    again.load_state({}, plain)
    again.remember(())  # the start of the run is known: this is not it
    with pytest.raises(LlmtuneError, match=r"low\.weight"):
        again.prove()
    fresh = Untouched(network)
    fresh.load_state({}, {})
    fresh.remember({"low.weight", "high.weight"})
    assert fresh.prove() == 0


def test_proof_reads_every_kind_of_number() -> None:
    network = nn.Module()
    for name, dtype in (
        ("brain", torch.bfloat16),
        ("octet", torch.uint8),
        ("flag", torch.bool),
        ("empty", torch.float),
    ):
        network.register_buffer(name, torch.zeros((2, 0) if name == "empty" else (2, 3), dtype=dtype).T)
    untouched = Untouched(network)
    untouched.remember(())
    assert untouched.prove() == 4


# ---- what is told ----


def test_places_are_merged() -> None:
    assert merged(["embeddings", "layer 0", "layer 1", "layer 3", "head"]) == [
        "embeddings", "layers 0-1", "layer 3", "head",
    ]  # fmt: skip
    assert merged([]) == []


def test_table_shows_places_parameters_and_rates() -> None:
    model = network("bert")
    freezing = frozen(model, "layer 2", *TOP)
    groups = [{"names": list(freezing.layers.at("layer 2", "layer 3")), "factor": 0.5},
              {"names": list(freezing.layers.at("head")), "factor": 1.0}]  # fmt: skip
    rows = freezing.table(groups, 0.002)
    assert [row["place"] for row in rows] == ["embeddings", *(f"layer {i}" for i in range(4)), "head"]
    assert [row["lr"] for row in rows] == [[], [], [], [0.001], [0.001], [0.002]]
    total = sum(parameter.numel() for parameter in model.parameters())
    assert sum(row["parameters"] for row in rows) == total
    assert sum(row["trainable"] for row in rows) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    lines = [line.split() for line in table_lines(rows)]
    assert [line[0] for line in lines] == ["parameters", "embeddings", "layers", "layers", "head", "together"]
    assert lines[2] == ["layers", "0-1", "4.4k", "frozen"]
    assert lines[3] == ["layers", "2-3", "4.4k", "4.4k", "0.001"]
    assert lines[4][-1] == "0.002"
    assert lines[5][-1] == "%"
    rows[-1]["lr"] = [0.002, 0.004]
    assert table_lines(rows)[4].endswith("0.002 to 0.004")


def test_timeline_says_what_joins_and_what_comes_too_late() -> None:
    model = network("bert")
    order = ["embeddings", *(f"layer {i}" for i in range(4)), "final", "head"]
    phases = Phases([Phase(0, ("head",)), Phase(10, ("layer 2", "layer 3", "head")), Phase(20, tuple(order))])
    freezing = frozen(model, policy=phases)
    timeline = freezing.timeline()
    assert [line["step"] for line in timeline] == [0, 10, 20]
    assert timeline[1]["places"] == ["layer 2", "layer 3", "head"]
    present = [row[0] for row in freezing.counts()]
    assert timeline_lines(timeline, present, 40) == [
        "trains from step 0 head; from step 10 layers 2-3, head; from step 20 everything"
    ]
    assert timeline_lines(timeline, present, 20) == [
        "trains from step 0 head; from step 10 layers 2-3, head",
        "the run ends with step 20, before what would train from step 20 on: everything",
    ]
    many = [{"step": step, "places": ["head"]} for step in range(9)]
    (line,) = timeline_lines(many, present, 40)
    assert line.count(";") == 5
    assert "; ...; from step 8 head" in line
    assert timeline_lines(timeline[:1], present, 40) == []


def test_a_phase_with_another_learning_rate_is_told() -> None:
    order = ["embeddings", *(f"layer {i}" for i in range(4)), "final", "head"]
    freezing = frozen(network("bert"), policy=Phases([Phase(0, ("head",), 20.0), Phase(10, tuple(order), 1.0)]))
    freezing.apply(0)
    groups = [{"factor": 1.0, "names": sorted(freezing.trainable or ())}]
    assert freezing.table(groups, 1e-3)[-1]["lr"] == [0.02]
    present = [row[0] for row in freezing.counts()]
    assert timeline_lines(freezing.timeline(), present, 40) == [
        "trains from step 0 head at 20 times the learning rate; from step 10 everything"
    ]


def test_tied_tensors_that_stay_frozen_are_named() -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **SHAPES["gpt2"][1], **IDS))
    freezing = frozen(model, *TOP)
    lines = trains_lines(freezing, [{"names": list(freezing.layers.places), "factor": 1.0}], 1e-3, 10)
    assert lines[-1] == "transformer.wte.weight serves embeddings and head: frozen"
