"""Sampled blocks are accepted a few requests at a time where the vocabulary is large: the same decisions as at once.

And what SGLang measures at start-up, to keep that much memory free, is this acceptance and no other.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from domino_sglang.core.head import Draft, DraftSampling
from domino_sglang.serving import worker
from domino_sglang.serving.draft.proposer import DraftedBlock, TargetHead, VocabShard
from domino_sglang.serving.sampling.penalties import BlockPenalties
from domino_sglang.serving.worker import DominoWorker
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
    stand_in = stand_in_for(block, block_verification)
    return DominoWorker._accept_sampled(stand_in, candidates, logits.flatten(0, 1), info, BATCH)


def stand_in_for(block: DraftedBlock, block_verification: bool) -> SimpleNamespace:
    """A worker's acceptance around one drafted block."""
    stand_in = SimpleNamespace(
        block_size=BLOCK,
        proposer=SimpleNamespace(block=lambda batch: block.rows(slice(0, batch))),
        _block_verification=block_verification,
        _tp_sync=SimpleNamespace(sync=lambda _site, _tensor: None),
    )
    for name in ("_accepted_at_once", "_accept_rows", "_rehearse"):
        setattr(stand_in, name, partial(getattr(DominoWorker, name), stand_in))
    return stand_in


@pytest.mark.parametrize("block_verification", [False, True])
def test_parts_decide_as_the_whole_batch(monkeypatch, block_verification):
    monkeypatch.setattr("domino_sglang.serving.sampling.target_distribution._renorm_kernels", lambda: False)
    whole = accepted(block_verification)
    for at_once in (1, 2, 3, BATCH):
        monkeypatch.setattr(worker, "ACCEPT_BYTES", at_once * 4 * BLOCK * VOCAB)
        parts = accepted(block_verification)
        assert all(torch.equal(a, b) for a, b in zip(parts[:4], whole[:4], strict=True))
    assert len(set(whole[0].tolist())) > 1  # some are rejected early, some late


def test_a_request_is_accepted_however_large_its_block():
    assert DominoWorker._accepted_at_once(SimpleNamespace(block_size=16), 1 << 40) == 1


class Memory:
    """``torch.cuda`` as far as a measurement of memory asks it."""

    def __init__(self, monkeypatch):
        self.calls: list[str] = []
        for name, value in {"synchronize": None, "reset_peak_memory_stats": None}.items():
            monkeypatch.setattr(torch.cuda, name, partial(self.answer, name, value))
        monkeypatch.setattr(torch.cuda, "memory_allocated", partial(self.answer, "before", 100))
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", partial(self.answer, "peak", 350))

    def answer(self, name: str, value):
        self.calls.append(name)
        return value


@pytest.mark.parametrize("block_verification", [False, True])
def test_start_up_measures_this_acceptance_with_every_filter_and_penalties(monkeypatch, block_verification):
    monkeypatch.setattr("domino_sglang.serving.sampling.target_distribution._renorm_kernels", lambda: False)
    memory, bs = Memory(monkeypatch), 3
    for name in ("target_probabilities", "accept_block", "accept_sampled"):
        monkeypatch.setattr(worker, name, watched(getattr(worker, name), name, memory.calls))
    monkeypatch.setattr(BlockPenalties, "apply", watched(BlockPenalties.apply, "penalties", memory.calls))
    block = drafted()
    # Static buffers hold anything at start-up, numbers that are no token among them.
    block.draft.tokens.fill_(10**9)
    block.draft.log_q.fill_(torch.nan)
    measured = DominoWorker._measure_sampling_peak(
        stand_in_for(block, block_verification),
        candidates=torch.zeros(bs, BLOCK, dtype=torch.int64),
        target_logits=torch.zeros(bs * BLOCK, VOCAB),
        # As upstream makes it for its own: top-k off is a zero there.
        sampling_info=sampling_information(
            torch.ones(bs, 1), torch.full((bs,), 0.95), torch.zeros(bs, dtype=torch.int32), torch.zeros(bs), VOCAB
        ),
    )
    assert measured == 250
    accept = "accept_block" if block_verification else "accept_sampled"
    rehearsed = ["penalties", *["target_probabilities", accept] * 3]  # of 1, 2 and 3 requests
    assert memory.calls == ["synchronize", "reset_peak_memory_stats", "before", *rehearsed, "synchronize", "peak"]


def watched(function, name: str, calls: list[str]):
    def call(*args, **named):
        calls.append(name)
        return function(*args, **named)

    return call
