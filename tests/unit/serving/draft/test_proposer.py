"""The proposer that runs behind the backbone, against the head's rollout; two shards of the vocabulary act as one."""

from __future__ import annotations

import threading

import pytest
import torch

from domino_sglang.core.config import DominoConfig
from domino_sglang.core.head import DominoHead, DraftSampling, HeadWeights, VocabShard, rollout
from domino_sglang.serving.draft.proposer import TargetHead, TorchProposer, proposal_rows
from tests.support.drafters import drafter_config

TARGET = {"hidden_size": 32, "vocab_size": 50, "num_hidden_layers": 6}
BATCH = 3


def make(shift_label: bool = True, pure: int = 1, block: int = 6) -> tuple[DominoConfig, HeadWeights, torch.Tensor]:
    config = DominoConfig.from_dict(
        drafter_config(TARGET, shift_label=shift_label, pure_draft_prefix_len=pure, block_size=block)
    )
    torch.manual_seed(0)
    head = DominoHead(
        hidden_size=config.H, vocab_size=config.V, gru_hidden_dim=config.G, emb_dim=config.R, gru_bias=True
    )
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return config, head.weights(), torch.randn(config.V, config.H)


def whole(table: torch.Tensor) -> TargetHead:
    return TargetHead(
        embed=lambda ids: table[ids],
        table=table,
        base_logits=lambda hidden: hidden @ table.T,
        shard=VocabShard(),
        columns=table.shape[0],
        padded_columns=table.shape[0],
    )


def block_inputs(config: DominoConfig, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hidden = torch.randn(BATCH * width, config.H, generator=torch.Generator().manual_seed(1))
    ids = torch.full((BATCH, width), config.mask_token_id)
    ids[:, 0] = torch.tensor([7, 8, 9])
    positions = torch.tensor([[4], [40], [17]]) + torch.arange(width)
    return hidden, ids.reshape(-1), positions.reshape(-1)


@pytest.mark.parametrize("shift_label", [True, False])
@pytest.mark.parametrize("pure", [0, 2, 5])
@pytest.mark.parametrize("width", [6, 4])
@pytest.mark.parametrize("temperature", [None, 0.8])
@torch.no_grad()
def test_proposals_are_the_rollouts(shift_label, pure, width, temperature):
    config, weights, table = make(shift_label, pure)
    proposer = TorchProposer(config, width, weights, whole(table))
    hidden, ids, positions = block_inputs(config, width)
    sampling = None
    if temperature is not None:
        heat, seed = torch.tensor([temperature, 0.0, 1.5]), torch.tensor([1, 2, 3])
        proposer.stage(heat, seed)
        sampling = DraftSampling(heat, seed, torch.tensor([4, 40, 17]))
    proposer(hidden, ids, positions)
    drafted = proposer.block(BATCH)

    first = 0 if shift_label else 1
    z = hidden.view(BATCH, width, -1)[:, first : first + width - 1]
    expected = rollout(
        weights,
        z=z,
        base_logits=z @ table.T,
        bonus_tokens=torch.tensor([7, 8, 9]),
        embedding=table,
        pure_draft_prefix_len=pure,
        sampling=sampling,
    )
    assert drafted.draft.tokens.equal(expected.tokens)
    if sampling is None:
        assert drafted.draft.log_q.isnan().all()
    else:
        torch.testing.assert_close(drafted.draft.log_q, expected.log_q)
    torch.testing.assert_close(drafted.base_logits, z @ table.T)
    assert proposal_rows(hidden, config, width).equal(z)


@torch.no_grad()
def test_rows_of_q_give_back_log_q():
    config, weights, table = make()
    proposer = TorchProposer(config, 6, weights, whole(table))
    proposer.stage(torch.tensor([0.7, 1.0, 1.3]), torch.tensor([1, 2, 3]))
    proposer(*block_inputs(config, 6))
    drafted = proposer.block(BATCH)
    for j in range(5):
        row = drafted.q_row(j)
        torch.testing.assert_close(row.sum(-1), torch.ones(BATCH))
        chosen = row.gather(1, drafted.draft.tokens[:, j : j + 1]).squeeze(1)
        torch.testing.assert_close(chosen.log(), drafted.draft.log_q[:, j], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_greedy_block_has_no_rows_of_q():
    config, weights, table = make()
    proposer = TorchProposer(config, 6, weights, whole(table))
    proposer.stage(torch.ones(BATCH), torch.zeros(BATCH, dtype=torch.int64))
    proposer.stage(None, None)
    proposer(*block_inputs(config, 6))
    with pytest.raises(RuntimeError, match="greedy"):
        _ = proposer.block(BATCH).q_row


def test_a_block_of_another_batch_is_not_given_out():
    config, weights, table = make()
    proposer = TorchProposer(config, 6, weights, whole(table))
    with pytest.raises(RuntimeError, match="no block of 3"):
        proposer.block(BATCH)
    with torch.no_grad():
        proposer(*block_inputs(config, 6))
    with pytest.raises(RuntimeError, match="no block of 2"):
        proposer.block(2)


class Ranks:
    """All-gather among threads, one a rank."""

    def __init__(self, size: int):
        self.barrier, self.parts = threading.Barrier(size), [None] * size

    def all_gather(self, rank: int):
        def gather(mine: torch.Tensor) -> torch.Tensor:
            self.parts[rank] = mine
            self.barrier.wait(30)
            together = torch.stack(self.parts)
            self.barrier.wait(30)
            return together

        return gather


@pytest.mark.parametrize("temperatures", [None, [0.7, 1.0, 0.0]])
@pytest.mark.parametrize("cut", [25, 31])
def test_two_shards_propose_what_one_does(temperatures, cut):
    config, weights, table = make()
    inputs = block_inputs(config, 6)
    staged = (None, None) if temperatures is None else (torch.tensor(temperatures), torch.tensor([1, 2, 3]))
    single = TorchProposer(config, 6, weights, whole(table))
    ranks = Ranks(2)
    results: list = [None, None]

    def run(rank: int) -> None:
        first, last = ((0, cut), (cut, config.V))[rank]
        own = HeadWeights(**{**vars(weights), "w2": weights.w2[first:last]})
        target = TargetHead(
            embed=lambda ids: table[ids],
            table=None,
            base_logits=lambda hidden: hidden @ table[first:last].T,
            shard=VocabShard(first, ranks.all_gather(rank)),
            columns=last - first,
            padded_columns=max(cut, config.V - cut),
        )
        proposer = TorchProposer(config, 6, own, target)
        with torch.no_grad():
            proposer.stage(*staged)
            proposer(*inputs)
            block = proposer.block(BATCH)
            rows = None if temperatures is None else [block.q_row(j) for j in range(5)]
        results[rank] = (block.draft, rows)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with torch.no_grad():
        single.stage(*staged)
        single(*inputs)
        expected = single.block(BATCH)
    for draft, rows in results:
        assert draft.tokens.equal(expected.draft.tokens)
        torch.testing.assert_close(draft.log_q, expected.draft.log_q, atol=1e-5, rtol=1e-5, equal_nan=True)
        if rows is not None and 2 * cut >= config.V:
            for j, row in enumerate(rows):
                torch.testing.assert_close(row[:, : config.V], expected.q_row(j), atol=1e-6, rtol=1e-4)
