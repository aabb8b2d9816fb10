"""Every adapter in every kind of network: only it and the head learn, what is written opens as the trained model."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSequenceClassification

from llmtune.config.locate import conf_dir
from llmtune.config.shelf import find_part
from llmtune.core.errors import ModelError, UserError
from llmtune.model.layers import LayerMap, wrap
from tests.unit.adapter.tiny_models import ADAPTERS, FAMILIES

MERGED = ("lora", "dora", "rslora", "adalora", "ia3")
SMALLER = {
    "lora": {"rank": 4, "dropout": 0.0}, "dora": {"rank": 4, "dropout": 0.0}, "rslora": {"rank": 4, "dropout": 0.0},
    "adalora": {"rank": 4, "target_rank": 2, "dropout": 0.0}, "prompt": {"virtual_tokens": 3},
    "p_tuning": {"virtual_tokens": 3, "width": 8}, "prefix": {"length": 3}, "bottleneck": {"width": 4},
}  # fmt: skip
REFUSED = {
    ("t5", "prompt"): "t5 models have two stacks", ("t5", "p_tuning"): "t5 models have two stacks",
    ("t5", "prefix"): "t5 models have attention across two stacks",
    ("deberta-v2", "prefix"): "deberta-v2 models have an attention of their own",
    ("xlnet", "prefix"): "xlnet models have an attention of their own",
    ("xlnet", "ia3"): "xlnet models have no linear modules known as key or value",
    ("xlnet", "bottleneck"): "xlnet models have no linear modules known as attention out",
}  # fmt: skip
SERVED = [(family, adapter) for family in FAMILIES for adapter in ADAPTERS
          if (family, adapter) not in REFUSED and family != "xlnet"]  # fmt: skip
NUM_NEW = {"lora": 1792, "dora": 2016, "rslora": 1792, "adalora": 1840, "ia3": 128, "prompt": 48, "p_tuning": 400,
           "prefix": 192, "bottleneck": 592}  # fmt: skip
"""parameters in a BERT of 2 layers, 16 wide, 32 within. LoRA: 4 (16 + 16) for each of four projections, 4 (16 + 32)
for either feed-forward one; DoRA: and its outputs; AdaLoRA: and 4 each, and its rank is no parameter; IA3: 16 keys, 16
values, 32 within; prompt: 3 embeddings; p_tuning: and 16 x 8 + 8 + 8 x 8 + 8 + 8 x 16 + 16; prefix: 3 keys and values a
layer; bottleneck: 16 x 4 + 4 + 4 x 16 + 16, twice a layer"""


def settings_of(adapter: str, **changed: Any) -> Any:
    """The settings of a shipped adapter, made smaller."""
    values = yaml.safe_load(Path(conf_dir(), "adapter", f"{adapter}.yaml").read_text(encoding="utf-8"))
    return find_part("adapter", adapter, [], "adapter").load()(**{**values, **SMALLER.get(adapter, {}), **changed})


def network_of(family: str, device: str = "cpu", **values: Any) -> Any:
    """A tiny task model of 3 classes without dropout, the same at each call."""
    config = AutoConfig.for_model(family, **{
        **FAMILIES[family][1], "vocab_size": 50, "num_labels": 3, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, **values,
    })  # fmt: skip
    for key in [key for key in config.to_dict() if "dropout" in key or key.endswith("pdrop")]:
        if isinstance(getattr(config, key), float):
            setattr(config, key, 0.0)
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForSequenceClassification.from_config(config).eval()


def wrapped(part: Any, network: Any) -> tuple[Any, LayerMap]:
    network, added = wrap(part, network)
    return network, LayerMap.of(network, network.base_model_prefix, added)


def parts_of(num_steps: int = 10, tokenizer: Any = None) -> Any:
    return types.SimpleNamespace(config=types.SimpleNamespace(seed=1), num_steps=num_steps, token_table=tokenizer)


def rows_of(padding: int = 0) -> dict[str, torch.Tensor]:
    ids_BT = torch.randint(5, 50, (3, 9), generator=torch.Generator().manual_seed(0))
    ids_BT[:, -1] = 2
    return {"input_ids": functional.pad(ids_BT, (0, padding)),
            "attention_mask": functional.pad(torch.ones_like(ids_BT), (0, padding))}  # fmt: skip


def train(network: Any, names: frozenset[str], steps: int = 2) -> None:
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in names)
    optimizer = torch.optim.AdamW([one for one in network.parameters() if one.requires_grad], lr=0.05)
    network.train()
    for _ in range(steps):
        functional.cross_entropy(network(**rows_of()).logits, torch.tensor([0, 1, 2])).backward()
        optimizer.step()
        optimizer.zero_grad()
    network.eval()


@torch.no_grad()
def logits_of(network: Any, padding: int = 0) -> torch.Tensor:
    return network(**rows_of(padding)).logits


@pytest.mark.parametrize(("family", "adapter"), SERVED)
def test_it_learns_and_reopens(family: str, adapter: str, tmp_path: Path) -> None:
    settings, network = settings_of(adapter), network_of(family)
    bare = {name: value.clone() for name, value in network.named_parameters()}
    part = settings.build(parts_of())
    network, layers = wrapped(part, network)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    first = logits_of(network)
    train(network, layers.everything)
    for name, value in network.named_parameters():
        if name not in layers.everything and name not in layers.fixed:
            assert torch.equal(value, bare[layers.plain[name]]), name
    assert any(not torch.equal(network.get_parameter(name), before[name]) for name in layers.adapters)

    trained = logits_of(network)
    assert not torch.allclose(trained, first, atol=1e-3)
    assert torch.allclose(logits_of(network, padding=4), trained, atol=1e-5)  # padding is seen by nobody
    with part.plain(network) as plain:
        plain.save_pretrained(tmp_path)
    part.save(network, tmp_path / "adapter", None)
    assert torch.equal(logits_of(network), trained)  # it is as it was
    again, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    if adapter not in MERGED:
        part = settings.build(None)
        part.wrap(again)
        part.load(again, tmp_path / "adapter")
    assert torch.allclose(logits_of(again.eval()), trained, atol=1e-5)
    assert part.merges is (adapter in MERGED)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("adapter", MERGED)
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "deberta-v2"])
def test_peft_opens_what_lies_beside_the_model(family: str, adapter: str, tmp_path: Path) -> None:
    from peft import PeftModel

    part = settings_of(adapter).build(parts_of())
    network, layers = wrapped(part, network_of(family))
    train(network, layers.everything)
    part.save(network, tmp_path, "base/folder")
    opened = PeftModel.from_pretrained(network_of(family), str(tmp_path)).eval()
    assert torch.allclose(logits_of(opened), logits_of(network), atol=1e-6)
    kept = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (kept["base_model_name_or_path"], kept["task_type"]) == ("base/folder", "SEQ_CLS")


@pytest.mark.parametrize(("family", "adapter"), [*SERVED, ("xlnet", "lora")])
def test_on_the_meta_device_it_has_the_same_parameters(family: str, adapter: str) -> None:
    settings = settings_of(adapter)
    real, layers = wrapped(settings.build(parts_of()), network_of(family))
    meta = settings.build(None).wrap(network_of(family, "meta"))
    for name, value in real.named_parameters():
        assert meta.get_parameter(name).shape == value.shape
    assert layers.adapters
    assert all(meta.get_parameter(name).is_meta for name in layers.adapters)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_number_of_its_parameters(adapter: str) -> None:
    network, layers = wrapped(settings_of(adapter).build(None), network_of("bert", "meta"))
    new = layers.adapters & layers.everything
    assert sum(network.get_parameter(name).numel() for name in new) == NUM_NEW[adapter]
    assert {layers.places[name] for name in new} == (
        {"embeddings"} if adapter in ("prompt", "p_tuning") else {"layer 0", "layer 1"}
    )


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_activations_computed_twice_give_the_same_gradients(adapter: str) -> None:
    gradients = []
    for again in (False, True):
        network, layers = wrapped(settings_of(adapter).build(parts_of()), network_of("bert"))
        names = layers.everything
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in names)
        if again:
            enable = getattr(network, "activation_checkpointing_enable", network.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
        functional.cross_entropy(network.train()(**rows_of()).logits, torch.tensor([0, 1, 2])).backward()
        gradients.append({name: network.get_parameter(name).grad for name in names})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name


@pytest.mark.parametrize(("pair", "given"), REFUSED.items())
def test_families_that_it_can_not_serve_are_refused_by_name(pair: tuple[str, str], given: str) -> None:
    family, adapter = pair
    with pytest.raises(ModelError, match=given):
        settings_of(adapter).build(None).wrap(network_of(family, "meta"))


@pytest.mark.parametrize(("targets", "count"), [
    (["query", "value"], 4), (["attention.self.query"], 2), ([r".*layer\.1\..*"], 6), (["dense"], 6),
])  # fmt: skip
def test_targets_are_names_or_regular_expressions(targets: list[str], count: int) -> None:
    network = settings_of("lora", targets=targets).build(None).wrap(network_of("bert", "meta"))
    adapted = {name for name, _ in network.named_parameters() if "lora_A" in name}
    assert len(adapted) == count


@pytest.mark.parametrize(("adapter", "words", "said"), [
    ("lora", {"targets": ["quary", "value", "dence"]}, ["'quary' is no linear", "did you mean 'query'?", "'dence'",
                                                   "did you mean 'dense'?"]),
    ("lora", {"targets": ["classifier"]}, ["'classifier' is no linear module of the backbone"]),
    ("lora", {"targets": ["("]}, ["is no regular expression"]),
    ("lora", {"targets": "query"}, ["targets=[query]"]),
    ("lora", {"rank": 0}, ["must be 1 or more"]),
    ("adalora", {"target_rank": 4}, ["leaves nothing to take away"]),
    ("adalora", {"hold": 0.6, "settle": 0.6}, ["leave no steps between"]),
    ("prompt", {"init": "text"}, ["the two go together"]),
    ("prefix", {"projection": 8}, ["keys that a projection makes can't be set"]),
    ("bottleneck", {"after": "attention"}, ["allowed: both, feed_forward"]),
])  # fmt: skip
def test_mistakes_are_told(adapter: str, words: dict[str, Any], said: list[str]) -> None:
    with pytest.raises((UserError, ValueError)) as error:
        settings_of(adapter, **words).build(None).wrap(network_of("bert", "meta"))
    assert [text for text in said if text not in str(error.value)] == []


@pytest.mark.parametrize("adapter", ["prompt", "prefix"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_hidden_states_and_attentions_are_of_the_real_tokens(adapter: str, family: str) -> None:
    network = settings_of(adapter).build(parts_of()).wrap(network_of(family))
    with torch.no_grad():
        output = network.base_model(**rows_of(padding=2), output_hidden_states=True)
    assert {tuple(hidden.shape) for hidden in output.hidden_states} == {(3, 11, 16)}
    assert output.last_hidden_state.shape == (3, 11, 16)


@pytest.mark.parametrize("adapter", ["prompt", "prefix"])
def test_eager_attention_gives_the_same(adapter: str) -> None:
    networks = [network_of("gpt2"), network_of("gpt2")]
    networks[1].set_attn_implementation("eager")
    fast, eager = (settings_of(adapter).build(parts_of()).wrap(network) for network in networks)
    assert torch.allclose(logits_of(fast, padding=3), logits_of(eager, padding=3), atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_prefix_of_words_is_as_good_as_those_words_in_front(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words_1P = torch.tensor([[7, 19, 31]])
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: words_1P)
    network = settings_of("prefix").build(parts_of()).wrap(network_of(family))
    monkeypatch.undo()
    ids_BT = rows_of()["input_ids"]
    in_front = torch.cat([words_1P.expand(3, -1), ids_BT], dim=1)
    with torch.no_grad():
        expected = network_of(family).base_model(input_ids=in_front).last_hidden_state[:, 3:]
        found = network.base_model(input_ids=ids_BT, position_ids=torch.arange(3, 12)[None]).last_hidden_state
    assert torch.allclose(found, expected, atol=1e-5)


def test_orthogonality_is_a_sum_over_rows_whose_gradient_is_that_of_the_mean() -> None:
    from llmtune.core.types import Batch

    part = settings_of("adalora").build(parts_of())
    network = part.wrap(network_of("bert"))
    loss = part.terms()["orthogonality"].loss(None, Batch(row_ids=[1, 2, 3], views={}, targets={}))
    gaps = []
    for name, value in network.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            gram = value @ value.T if "lora_A" in name else value.T @ value
            gaps.append((gram - torch.eye(4)).pow(2).sum().sqrt())
    mean = torch.stack(gaps).mean()
    assert torch.allclose(loss.total / loss.count, mean)
    weight = next(value for name, value in network.named_parameters() if "lora_A" in name)
    by_sum, by_mean = (torch.autograd.grad(one, weight)[0] for one in (loss.total / loss.count, mean))
    assert torch.allclose(by_sum, by_mean, atol=1e-7)


def test_ranks_go_with_policies_that_are_schedules() -> None:
    from types import SimpleNamespace

    policy = SimpleNamespace(name="gradual")  # its settings know neither `changes` nor `trainable`
    settings_of("adalora").check(SimpleNamespace(config=SimpleNamespace(freeze_policy=policy), layers=None))


def test_virtual_tokens_may_start_as_words_of_a_text() -> None:
    class Tokenizer:
        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [len(word) for word in text.split()]}

    settings = settings_of("prompt", init="text", text="four by fifty")
    network = settings.build(parts_of(tokenizer=Tokenizer())).wrap(network_of("bert"))
    words: nn.Embedding = network.get_input_embeddings()
    assert torch.equal(words.prompt_encoder.embedding.weight, words.weight[torch.tensor([4, 2, 5])])


def test_without_an_adapter_there_is_none() -> None:
    network = network_of("bert")
    same, layers = wrapped(settings_of("none").build(None), network)
    assert same is network
    assert layers.adapters == frozenset()
