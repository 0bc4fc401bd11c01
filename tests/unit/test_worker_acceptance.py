"""Sampled blocks are accepted a few requests at a time where the vocabulary is large: the same decisions as at once."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from domino_sglang import worker
from domino_sglang.head import Draft, DraftSampling
from domino_sglang.proposer import DraftedBlock, TargetHead, VocabShard
from domino_sglang.worker import DominoWorker
from tests.support.sampling import sampling_information

BATCH, BLOCK, VOCAB, RANK = 7, 4, 30, 5


def drafted() -> DraftedBlock:
    generator = torch.Generator().manual_seed(0)
    base_logits = 2 * torch.randn(BATCH, BLOCK - 1, VOCAB, generator=generator)
    correction = torch.randn(BATCH, BLOCK - 1, RANK, generator=generator)
    w2 = torch.randn(VOCAB, RANK, generator=generator)
    temperature = torch.tensor([0.0, 1.0, 0.7, 1.3, 1.0, 0.0, 0.5])
    logits = base_logits + correction @ w2.T
    logits = logits / torch.where(temperature > 0, temperature, 1.0)[:, None, None]
    tokens = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator).view(BATCH, BLOCK - 1)
    tokens = torch.where(temperature[:, None] > 0, tokens, logits.argmax(-1))
    logsumexp = logits.logsumexp(-1)
    log_q = logits.gather(-1, tokens[..., None]).squeeze(-1) - logsumexp
    sampling = DraftSampling(temperature, torch.arange(BATCH) * 11, torch.arange(BATCH) + 40)
    target = TargetHead(lambda ids: ids, None, lambda hidden: hidden, VocabShard(), VOCAB, VOCAB)
    return DraftedBlock(Draft(tokens, log_q, logsumexp, correction), base_logits, w2, sampling, target)


def accepted(block_verification: bool):
    block = drafted()
    candidates = torch.cat([torch.zeros(BATCH, 1, dtype=torch.int64), block.draft.tokens], 1)
    logits = torch.cat([block.base_logits, block.base_logits[:, :1]], 1)
    logits = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    info = sampling_information(
        temperatures=block.sampling.temperature.clamp(min=0.1)[:, None],
        top_ps=torch.tensor([1.0, 0.9, 1.0, 0.5, 1.0, 1.0, 0.8]),
        top_ks=torch.tensor([1, VOCAB, 5, VOCAB, VOCAB, 1, 3]),
        min_ps=torch.tensor([0.0, 0.0, 0.0, 0.0, 0.2, 0.0, 0.0]),
        vocab_size=VOCAB,
        filters=True,
    )
    stand_in = SimpleNamespace(
        block_size=BLOCK,
        proposer=SimpleNamespace(block=lambda _batch: block),
        _block_verification=block_verification,
        _tp_sync=SimpleNamespace(sync=lambda _site, _tensor: None),
    )
    stand_in._accepted_at_once = partial(DominoWorker._accepted_at_once, stand_in)
    stand_in._accept_rows = partial(DominoWorker._accept_rows, stand_in)
    return DominoWorker._accept_sampled(stand_in, candidates, logits.flatten(0, 1), info, BATCH)


@pytest.mark.parametrize("block_verification", [False, True])
def test_parts_decide_as_the_whole_batch(monkeypatch, block_verification):
    monkeypatch.setattr("domino_sglang.target_law._renorm_kernels", lambda: False)
    whole = accepted(block_verification)
    for at_once in (1, 2, 3, BATCH):
        monkeypatch.setattr(worker, "ACCEPT_BYTES", at_once * 4 * BLOCK * VOCAB)
        parts = accepted(block_verification)
        assert all(torch.equal(a, b) for a, b in zip(parts[:4], whole[:4], strict=True))
    assert len(set(whole[0].tolist())) > 1  # some are rejected early, some late


def test_a_request_is_accepted_however_large_its_block():
    assert DominoWorker._accepted_at_once(SimpleNamespace(block_size=16), 1 << 40) == 1
