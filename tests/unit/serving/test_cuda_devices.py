"""The acceptance of sampled blocks on tensors that claim to be on a GPU: one device, and the host asks for no value.

PyTorch's fake tensors carry shapes, dtypes and devices without memory. An operation that mixes devices raises, and so
does one that would copy a value to the host, which on a GPU is a wait in the middle of a step.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from domino_sglang.core.head import Draft, DraftSampling
from domino_sglang.core.verify import DraftRows, accept_block, accept_sampled
from domino_sglang.serving.draft.proposer import DraftedBlock, TargetHead, VocabShard
from domino_sglang.serving.sampling.penalties import BlockPenalties
from domino_sglang.serving.sampling.target_distribution import keep_with_sort, rows_of, target_probabilities
from domino_sglang.serving.worker import DominoWorker
from tests.support.sampling import sampling_information

B, S, V, R = 5, 7, 64, 8


@pytest.fixture
def fake():
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=False))
        yield


def cuda(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="cuda:0")


def block(dtype: torch.dtype):
    tokens = cuda(B, S, dtype=torch.int64)
    draft = Draft(tokens, cuda(B, S), cuda(B, S), cuda(B, S, R, dtype=dtype))
    sampling = DraftSampling(cuda(B), cuda(B, dtype=torch.int64), cuda(B, dtype=torch.int64))
    return draft, sampling, DraftRows(cuda(B, S, V, dtype=dtype), cuda(V, R, dtype=dtype), draft, sampling)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("accept", [accept_sampled, accept_block])
def test_acceptance_stays_on_the_device(fake, accept, dtype):
    draft, sampling, q_row = block(dtype)
    done = accept(
        cuda(B, S + 1, V),
        draft.tokens,
        draft.log_q,
        q_row,
        sampling,
        target_greedy=cuda(B, dtype=torch.bool),
        target_predict=cuda(B, S + 1, dtype=torch.int64),
    )
    assert (done.accept_len.shape, done.accept_len.dtype) == ((B,), torch.int32)
    assert (done.bonus.shape, done.bonus.dtype) == ((B,), torch.int64)
    assert {done.accept_len.device, done.bonus.device} == {torch.device("cuda:0")}


def test_the_targets_law_stays_on_the_device(fake):
    info = sampling_information(cuda(B, 1), cuda(B), cuda(B, dtype=torch.int32), cuda(B), vocab_size=V)
    distribution = target_probabilities(cuda(B, S + 1, V, dtype=torch.bfloat16)[1:3], rows_of(info, slice(1, 3)))
    assert (distribution.shape, distribution.dtype, distribution.device) == (
        (2, S + 1, V),
        torch.float32,
        torch.device("cuda:0"),
    )
    rows = keep_with_sort(cuda(B, V), top_k=cuda(B, dtype=torch.int32), top_p=cuda(B), min_p=cuda(B))
    assert rows.device == torch.device("cuda:0")


def test_penalties_inside_a_block_stay_on_the_device(fake):
    counts, strength = cuda(2, V, dtype=torch.int32), cuda(2)
    penalties = BlockPenalties(cuda(2, dtype=torch.int64), counts, strength, strength, strength)
    penalties.apply(cuda(B, S + 1, V, dtype=torch.bfloat16), cuda(B, S, dtype=torch.int64))


def test_the_rehearsal_at_start_up_stays_on_the_device(fake, monkeypatch):
    monkeypatch.setattr("domino_sglang.serving.sampling.target_distribution._renorm_kernels", lambda: False)
    draft, sampling, rows = block(torch.bfloat16)
    target = TargetHead(lambda ids: ids, None, lambda hidden: hidden, VocabShard(), V, V)
    drafted = DraftedBlock(draft, rows.base_logits, rows.w2, sampling, target)
    worker = SimpleNamespace(
        block_size=S + 1, proposer=SimpleNamespace(block=lambda _batch: drafted), _block_verification=False
    )
    worker._accept_rows = partial(DominoWorker._accept_rows, worker)
    info = sampling_information(cuda(B, 1), cuda(B), cuda(B, dtype=torch.int32), cuda(B), vocab_size=V)
    DominoWorker._rehearse(worker, cuda(B, S + 1, dtype=torch.int64), cuda(B * (S + 1), V), info)


def test_what_would_be_found(fake):
    with pytest.raises(DataDependentOutputException):
        int(cuda(B).sum())
    with pytest.raises(RuntimeError, match="device"):
        cuda(B) + torch.empty(B)
