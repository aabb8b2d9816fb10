"""Models that are asked how likely answers are: as plain transformers says, in one piece or in several."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from llmtune.model import answer_scores
from llmtune.model.answer_scores import AnswerScorer

WORDS, SEQUENCES, TOKENS = 37, 3, 8
CONFIGS = {
    "gpt2": GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=16, resid_pdrop=0, attn_pdrop=0,
                       embd_pdrop=0, bos_token_id=0, eos_token_id=0),
    "llama": LlamaConfig(vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=1, bos_token_id=0, eos_token_id=0),
}  # fmt: skip


def _view() -> dict[str, torch.Tensor]:
    ids = torch.randint(WORDS, (SEQUENCES, TOKENS), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3, [1] * 7 + [0]])
    wanted = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 0], [0, 1, 0, 1, 0, 0, 0, 0], [0] * 8])
    return {"input_ids": ids, "attention_mask": mask, "wanted": wanted}


def _plain(model: torch.nn.Module, view: dict[str, torch.Tensor]) -> list[list[float]]:
    logits = type(model).forward(model, input_ids=view["input_ids"], attention_mask=view["attention_mask"]).logits
    rows = []
    for sequence in range(SEQUENCES):
        places = [place for place in range(TOKENS) if view["wanted"][sequence, place]]
        following = [int(view["input_ids"][sequence, place + 1]) for place in places]
        logs = [float(logits[sequence, place].log_softmax(-1)[word]) for place, word in zip(places, following)]
        rows.append([sum(logs), len(logs)])
    return rows


@pytest.mark.parametrize("family", CONFIGS)
def test_scores_are_log_probabilities_of_what_follows(family: str) -> None:
    torch.manual_seed(0)
    model, view = AnswerScorer().from_config(CONFIGS[family]), _view()
    with torch.no_grad():
        found = model(**view).logits
        for got, wanted in zip(found.tolist(), _plain(model, view), strict=True):
            assert got == pytest.approx(wanted, abs=1e-4)
    without = {name: values for name, values in view.items() if name != "wanted"}
    assert model(**without).logits.shape == (SEQUENCES, TOKENS, WORDS)


def test_pieces_give_the_same_scores_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, view = AnswerScorer().from_config(CONFIGS["gpt2"]).eval(), _view()
    found = []
    for most in (answer_scores.MOST_SCORES, 8 * WORDS):
        monkeypatch.setattr(answer_scores, "MOST_SCORES", most)
        model.zero_grad()
        scores = model(**view).logits
        (scores[:, 0] * torch.tensor([1.0, -2.0, 3.0])).sum().backward()
        found.append((scores.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    (whole, gradients), (pieces, others) = found
    torch.testing.assert_close(pieces, whole)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_the_folder_is_transformers_own(tmp_path) -> None:
    torch.manual_seed(0)
    model = AnswerScorer().from_config(CONFIGS["llama"])
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = _view()["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, model(input_ids=ids).logits)
        torch.testing.assert_close(
            AnswerScorer().from_pretrained(tmp_path)(**_view()).logits, model(**_view()).logits
        )
