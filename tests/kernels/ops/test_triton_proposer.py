"""The proposer of the serving path against the PyTorch proposer: same hidden states in, same block out."""

from __future__ import annotations

import pytest
import torch

from domino_sglang.core.config import DominoConfig
from domino_sglang.core.head import DominoHead, VocabShard
from domino_sglang.core.verify import accept_block, accept_sampled
from domino_sglang.serving.draft.proposer import TargetHead, TorchProposer
from domino_sglang.serving.draft.triton_proposer import TritonProposer
from tests.support.drafters import drafter_config

TARGET = {"hidden_size": 32, "vocab_size": 210, "num_hidden_layers": 6}
BATCH, MAX_BATCH = 3, 5


def proposers(device, block_size: int, dense: bool = True, **changes):
    torch.manual_seed(0)
    config = DominoConfig.from_dict(drafter_config(TARGET, block_size=block_size, **changes))
    head = DominoHead(hidden_size=config.H, vocab_size=config.V, gru_hidden_dim=config.G, emb_dim=config.R)
    weights = head.to(device).requires_grad_(False).weights()
    table, lm_head = torch.randn(2, config.V, config.H, device=device)
    target = TargetHead(
        embed=lambda ids: table[ids],
        table=table,
        base_logits=lambda hidden: hidden @ lm_head.T,
        shard=VocabShard(),
        columns=config.V,
        padded_columns=config.V,
        lm_head=lm_head if dense else None,
    )
    return (
        TorchProposer(config, block_size, weights, target),
        TritonProposer(config, block_size, weights, target, MAX_BATCH),
    )


def inputs(device, block_size: int):
    hidden = torch.randn(BATCH * block_size, TARGET["hidden_size"], device=device)
    ids = torch.randint(0, TARGET["vocab_size"], (BATCH * block_size,), device=device)
    positions = torch.arange(BATCH * block_size, device=device) + 7
    return hidden, ids, positions


@pytest.mark.parametrize(("shift_label", "dense"), [(True, True), (False, False)])
@pytest.mark.parametrize("temperature", [None, (0.0, 1.0, 0.6)])
def test_both_proposers_draft_the_same_block(device, shift_label, dense, temperature):
    oracle, ours = proposers(device, 5, dense, shift_label=shift_label)
    staged = (None, None)
    if temperature is not None:
        staged = torch.tensor(temperature, device=device), torch.tensor([1, 2, -3], device=device)
    step = inputs(device, 5)
    ours.stage(*staged)
    # Asked as a sampled batch that happens to be greedy, the oracle gives probabilities as well.
    oracle.stage(*staged if temperature else (torch.zeros(BATCH, device=device), torch.arange(BATCH, device=device)))
    for proposer in (oracle, ours):
        proposer(*step)
    expected, drafted = oracle.block(BATCH), ours.block(BATCH)
    assert drafted.draft.tokens.tolist() == expected.draft.tokens.tolist()
    torch.testing.assert_close(drafted.draft.log_q, expected.draft.log_q, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(drafted.draft.correction, expected.draft.correction, atol=1e-5, rtol=1e-4)
    if temperature is not None:
        torch.testing.assert_close(drafted.q_row(2), expected.q_row(2), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("accept", [accept_sampled, accept_block])
def test_both_proposers_blocks_are_accepted_alike(device, accept):
    oracle, ours = proposers(device, 5)
    step = inputs(device, 5)
    for proposer in (oracle, ours):
        proposer.stage(torch.tensor([0.0, 1.0, 0.6], device=device), torch.tensor([1, 2, -3], device=device))
        proposer(*step)
    p = (2 * torch.randn(BATCH, 5, TARGET["vocab_size"], device=device)).softmax(-1)
    p[:, :3] = torch.cat([oracle.block(BATCH).q_row(j)[:, None] for j in range(3)], 1)  # so that some are accepted
    drawn = []
    for proposer in (oracle, ours):
        block = proposer.block(BATCH).rows(slice(1, BATCH))
        candidates = torch.cat([block.draft.tokens[:, :1], block.draft.tokens], 1)
        draft = (candidates[:, 1:], block.draft.log_q, block.q_row, block.sampling)
        drawn.append(accept(p[1:], *draft, bonus_of=block.bonus_of))
    assert ours.block(BATCH).bonus_of is not oracle.block(BATCH).bonus_of
    assert drawn[0].accept_len.tolist() == drawn[1].accept_len.tolist()
    assert drawn[0].bonus.tolist() == drawn[1].bonus.tolist()


def test_a_greedy_batch_after_a_sampled_one_is_greedy(device):
    oracle, ours = proposers(device, 4)
    step = inputs(device, 4)
    ours.stage(torch.ones(BATCH, device=device), torch.arange(BATCH, device=device))
    ours(*step)
    for proposer in (oracle, ours):
        proposer.stage(None, None)
        proposer(*step)
    assert ours.block(BATCH).draft.tokens.tolist() == oracle.block(BATCH).draft.tokens.tolist()


def test_a_drafter_may_leave_more_proposals_uncorrected_than_a_shorter_block_has(device):
    oracle, ours = proposers(device, 4, pure_draft_prefix_len=3)
    _, shorter = proposers(device, 3)
    assert ours.rollout.prefix == 3 and shorter.rollout.prefix == 1
    step = inputs(device, 4)
    for proposer in (oracle, ours):
        proposer.stage(None, None)
        proposer(*step)
    assert ours.block(BATCH).draft.tokens.tolist() == oracle.block(BATCH).draft.tokens.tolist()


def test_a_shorter_block_drafts_in_memory_that_a_longer_one_lends(device):
    _, longer = proposers(device, 5)
    oracle, shorter = proposers(device, 3)
    lent = TritonProposer(shorter.config, 3, shorter.weights, shorter.target, MAX_BATCH, longer.scratch)
    assert lent.base_logits.data_ptr() == longer.base_logits.data_ptr()
    longer.stage(None, None)
    longer(*inputs(device, 5))
    step = inputs(device, 3)
    for proposer in (oracle, lent):
        proposer.stage(None, None)
        proposer(*step)
    assert lent.block(BATCH).draft.tokens.tolist() == oracle.block(BATCH).draft.tokens.tolist()
