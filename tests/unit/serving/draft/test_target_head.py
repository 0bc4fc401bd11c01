"""What is borrowed from targets whose embedding or LM head is not the usual one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding

from domino_sglang.core.config import DominoConfig
from domino_sglang.serving.draft import target_head as module
from domino_sglang.serving.draft.target_head import target_head
from tests.support.drafters import drafter_config

TARGET = {"hidden_size": 8, "vocab_size": 20, "num_hidden_layers": 6}


class ScaledEmbedding(torch.nn.Embedding):
    """As Gemma's: what it returns is not what it holds."""

    def forward(self, ids):
        return super().forward(ids) * 3.0


@pytest.fixture
def borrow(monkeypatch):
    def borrow(embedding, lm_head, ranks: int = 1):
        group = SimpleNamespace(world_size=ranks)
        monkeypatch.setattr(module, "get_parallel", lambda: SimpleNamespace(tp_group=group))
        monkeypatch.setattr(module, "should_apply_lm_head_quant_method", lambda *_of: False)
        model = SimpleNamespace(get_input_embeddings=lambda: embedding, lm_head=lm_head)
        return target_head(model, DominoConfig.from_dict(drafter_config(TARGET)))

    return borrow


def test_a_plain_table_is_read_directly(borrow):
    embedding = torch.nn.Embedding(20, 8)
    assert borrow(embedding, embedding).table is embedding.weight


def test_a_table_that_is_not_what_the_embedding_returns_is_not(borrow):
    embedding = ScaledEmbedding(20, 8)
    borrowed = borrow(embedding, embedding)
    assert borrowed.table is None
    assert torch.equal(borrowed.embed(torch.tensor([4])), embedding.weight[4:5] * 3)


def test_a_sharded_or_converting_table_is_not():
    for changes in ({"tp_size": 2}, {"output_dtype": torch.float32}):
        embedding = VocabParallelEmbedding.__new__(VocabParallelEmbedding)
        torch.nn.Module.__init__(embedding)
        embedding.weight = torch.nn.Parameter(torch.randn(20, 8))
        embedding.tp_size, embedding.output_dtype = 1, None
        assert module._table(embedding) is embedding.weight
        vars(embedding).update(changes)
        assert module._table(embedding) is None


class Int8Head(torch.nn.Module):
    """Rows of int8 with a scale each, padded, and only its method can read them."""

    def __init__(self, name: str):
        super().__init__()
        setattr(self, name, torch.nn.Parameter(torch.arange(24 * 8, dtype=torch.int8).view(24, 8), requires_grad=False))
        self.name, self.scale, self.quant_method = name, torch.linspace(0.1, 1.0, 24), self
        self.shard_indices = SimpleNamespace(
            num_added_elements=0, num_org_elements=20, num_org_elements_padded=24, org_vocab_start_index=0
        )

    def apply(self, head, hidden_states, bias):
        return hidden_states @ (getattr(head, self.name).float() * self.scale[:, None]).T


@pytest.mark.parametrize("name", ["weight", "qweight"])
def test_a_quantised_head_is_read_by_its_method(borrow, name):
    head, hidden_states = Int8Head(name), torch.randn(3, 8)
    borrowed = borrow(torch.nn.Embedding(20, 8), head)
    assert borrowed.lm_head is None, "nobody reads int8 as if it were the matrix"
    assert torch.equal(borrowed.base_logits(hidden_states), head.apply(head, hidden_states, None)[:, :20])


def test_a_head_that_every_rank_holds_whole_is_not_merged(borrow):
    """Merged, each rank's copy would count as another part of the vocabulary, and q come out too small."""
    head = torch.nn.Embedding(20, 8)
    borrowed = borrow(head, head, ranks=2)
    assert borrowed.shard.all_gather is None and borrowed.columns == 20
    half = torch.nn.Embedding(10, 8)
    half.shard_indices = SimpleNamespace(
        num_added_elements=0, num_org_elements=10, num_org_elements_padded=10, org_vocab_start_index=10
    )
    borrowed = borrow(head, half, ranks=2)
    assert borrowed.shard.all_gather is not None and (borrowed.shard.start, borrowed.columns) == (10, 10)
