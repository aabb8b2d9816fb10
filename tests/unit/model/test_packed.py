"""Packed rows of every family: losses and gradients are those of the rows alone; what would mix them is refused.

Legend: B rows, T tokens.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

from llmtune.core.types import Batch
from llmtune.model.isolation import find_isolation, is_exact
from llmtune.model.packed import Isolation, Packed
from llmtune.model.trunk import Trunk

LENGTHS = (11, 3, 6, 9, 2, 7, 4)
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}
SLIDING = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 5}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {}, "roberta": {}, "xlm-roberta": {}, "electra": {"embedding_size": 32},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48}, "albert": {"embedding_size": 16},
    "deberta-v2": DEBERTA, "modernbert": {"local_attention": 4, "global_attn_every_n_layers": 2}, "mpnet": {},
    "ernie": {}, "eurobert": {}, "camembert": {},
}  # fmt: skip
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4}, "gpt_neox": {}, "gptj": {"n_embd": 32, "n_head": 4,
    "n_layer": 3, "rotary_dim": 4}, "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32}, "falcon": {},
    "llama": {"num_key_value_heads": 2}, "mistral": {"num_key_value_heads": 2, "sliding_window": 5},
    "qwen2": {"num_key_value_heads": 2}, "qwen3": {"num_key_value_heads": 2, "head_dim": 8}, "gemma3_text": SLIDING,
    "phi3": {"num_key_value_heads": 2}, "olmo2": {}, "smollm3": {"num_key_value_heads": 2},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 3}, "cohere2": SLIDING,
}  # fmt: skip
NONE: dict[str, dict[str, Any]] = {
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}, "bloom": {"n_layer": 2, "n_head": 4},
    "mamba": {}, "fnet": {}, "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32,
    "true_hidden_size": 32}, "t5": {}, "qwen3_next": {"num_key_value_heads": 2, "head_dim": 8},
}  # fmt: skip


def config_of(family: str, extra: dict[str, Any]) -> Any:
    settings = {**SIZES, "vocab_size": 60, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, **extra}
    return AutoConfig.for_model(family, **settings)


def model_of(auto: Any, config: Any) -> Any:
    torch.manual_seed(0)
    model = auto.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.1)
    return model.eval()


def rows_of(lengths: tuple[int, ...] = LENGTHS) -> Batch:
    generator = torch.Generator().manual_seed(4)
    ids_BT = torch.randint(5, 60, (len(lengths), max(lengths)), generator=generator)
    mask_BT = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    view = {"input_ids": torch.where(mask_BT.bool(), ids_BT, 1), "attention_mask": mask_BT}
    return Batch(row_ids=list(range(len(lengths))), views={"clean": view}, targets={})


def loss_of(logits: torch.Tensor, view: dict[str, torch.Tensor], causal: bool) -> torch.Tensor:
    """Cross-entropy as a sum: of each word (a decoder: of the next) of logits (B, T, V); of class 1 of (B, C)."""
    if logits.dim() == 2:
        return torch.nn.functional.cross_entropy(logits, torch.ones(len(logits), dtype=torch.long), reduction="sum")
    targets_BT = torch.where(view["attention_mask"].bool(), view["input_ids"], -100)
    if causal:
        logits, targets_BT = logits[:, :-1], targets_BT[:, 1:]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets_BT, reduction="sum")


def alone(batch: Batch) -> list[dict[str, torch.Tensor]]:
    view = batch.views["clean"]
    lengths = view["attention_mask"].sum(1).tolist()
    return [{name: values[row : row + 1, :length] for name, values in view.items()} for row, length in
            enumerate(lengths)]  # fmt: skip


CASES = [
    *[(family, AutoModelForMaskedLM) for family in ENCODERS],
    *[(family, AutoModelForSequenceClassification) for family in ENCODERS if family != "albert"],
    *[(family, AutoModelForCausalLM) for family in DECODERS],
    *[(family, AutoModelForSequenceClassification) for family in ("gpt2", "llama", "mistral", "opt")],
]  # fmt: skip


@pytest.mark.parametrize(("family", "auto"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_the_loss_of_packed_rows_is_the_sum_of_their_losses(family: str, auto: Any) -> None:
    model = model_of(auto, config_of(family, {**ENCODERS, **DECODERS}[family]))
    isolation = find_isolation(model.config, model.config._attn_implementation)
    assert isolation is not None
    batch, causal = rows_of(), auto is AutoModelForCausalLM
    view = batch.views["clean"]
    one_by_one = sum(loss_of(model(**row).logits, row, causal) for row in alone(batch))
    one_by_one.backward()
    wanted = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)

    trunk = Trunk(model)
    trunk.packed = Packed(trunk.backbone, isolation)
    assert trunk.packed.packs(**view)
    together = loss_of(trunk.logits("clean", batch), view, causal)
    together.backward()
    assert together.item() == pytest.approx(one_by_one.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        if name in wanted:
            scale = float(wanted[name].abs().max())
            torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-4 * scale + 1e-6, rtol=1e-3)


@pytest.mark.parametrize("family", NONE)
def test_families_whose_rows_would_mix_have_no_way(family: str) -> None:
    config = config_of(family, NONE[family])
    assert find_isolation(config, "eager") is None
    assert find_isolation(config, "sdpa") is None


def test_a_way_that_lets_rows_see_each_other_is_noticed() -> None:
    bert = model_of(AutoModelForMaskedLM, config_of("bert", {})).base_model
    gpt2 = model_of(AutoModelForCausalLM, config_of("gpt2", DECODERS["gpt2"])).base_model
    ids_BT = torch.randint(5, 60, (5, 9))
    assert is_exact(bert, Isolation("mask"), ids_BT)
    assert is_exact(gpt2, Isolation("positions"), ids_BT)
    for backbone, way in (
        (bert, Isolation("positions")), (bert, Isolation("mask", after_pad=True)),
        (bert, Isolation("mask", causal=True)), (gpt2, Isolation("mask")),
        (gpt2, Isolation("positions", after_pad=True)),
    ):  # fmt: skip
        assert not is_exact(backbone, way, ids_BT)


def test_windows_of_sliding_attention_are_those_of_the_row() -> None:
    """The copy that is tried has windows shorter than its rows, whatever the model's are."""
    config = config_of("mistral", {"num_key_value_heads": 2, "sliding_window": 4096})
    assert find_isolation(config, "sdpa") == Isolation("positions")
    far = config_of("modernbert", {"global_attn_every_n_layers": 3, "local_attention": 128})
    assert find_isolation(far, "sdpa") == Isolation("mask", "layers")


def test_what_can_not_be_packed_runs_as_it_is() -> None:
    model = model_of(AutoModelForMaskedLM, config_of("bert", {}))
    packed = Packed(model.base_model, Isolation("mask"))
    view = rows_of().views["clean"]
    asked: list[Any] = []

    def compute(**inputs: Any) -> Any:
        asked.append(inputs)
        return model.base_model(**inputs)

    packed.run(compute, (), view)
    assert asked.pop()["input_ids"].numel() < view["input_ids"].numel()
    on_left = {name: values.flip(1) for name, values in view.items()}
    full = {"input_ids": view["input_ids"], "attention_mask": torch.ones_like(view["input_ids"])}
    for inputs in (
        on_left, full, {"input_ids": view["input_ids"]}, {**view, "output_attentions": True},
        {"inputs_embeds": torch.randn(2, 3, 32), "attention_mask": torch.ones(2, 3, dtype=torch.long)},
    ):  # fmt: skip
        packed.run(compute, (), inputs)
        assert asked.pop() == inputs


def test_states_of_all_layers_and_pooled_ones_come_back_by_row() -> None:
    from transformers import AutoModel

    model = model_of(AutoModel, config_of("albert", ENCODERS["albert"]))
    batch = rows_of()
    found = Packed(model, Isolation("mask")).run(
        model.forward, (), {**batch.views["clean"], "output_hidden_states": True}
    )
    for row, inputs in enumerate(alone(batch)):
        wanted = model(**inputs, output_hidden_states=True)
        torch.testing.assert_close(found.pooler_output[row], wanted.pooler_output[0], atol=1e-5, rtol=1e-4)
        for one, other in zip(found.hidden_states, wanted.hidden_states, strict=True):
            torch.testing.assert_close(one[row, : other.shape[1]], other[0], atol=1e-5, rtol=1e-4)


def test_batches_that_are_seen_whole_are_not_packed_in_evaluation_or_once_words_are_changed() -> None:
    model = model_of(AutoModelForSequenceClassification, config_of("bert", {}))
    trunk, batch = Trunk(model), rows_of()
    trunk.packed = Packed(trunk.backbone, Isolation("mask"))
    shapes: list[Any] = []
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: shapes.append(output.shape[:2]))
    trunk.evaluated(batch)
    trunk.perturbed("clean", batch, lambda embedded_BTD: embedded_BTD)
    assert shapes == [(7, 11), (7, 11)]
    trunk.again("clean", batch)
    trunk.output("clean", batch)
    assert all(rows * tokens < 77 for rows, tokens in shapes[2:])
    assert len(shapes) == 4
