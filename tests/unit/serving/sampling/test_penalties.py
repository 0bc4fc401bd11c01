"""Penalties inside a block against SGLang's own penalizers, fed one token at a time; the ledger's life cycle."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from sglang.srt.sampling import penaltylib
from sglang.srt.sampling.sampling_params import SamplingParams

from domino_sglang.serving.sampling.penalties import BlockPenalties, TokenLedger, counts_tokens, forbid_early_stop

VOCAB, PROPOSALS = 23, 7
KINDS = [
    {"frequency_penalty": 0.7},
    {"presence_penalty": 1.2},
    {"repetition_penalty": 1.4},
    {"repetition_penalty": 0.8},
    {"presence_penalty": -0.5, "frequency_penalty": -0.9},
    {"presence_penalty": 0.4, "frequency_penalty": 0.3, "repetition_penalty": 1.2},
    {},
]


def request(number: int, output: list[int], prompt: int = 3, **params) -> SimpleNamespace:
    sampling = SamplingParams(**params)
    return SimpleNamespace(
        rid=f"r{number}",
        sampling_params=sampling,
        output_ids=output,
        origin_input_ids=list(range(prompt)),
        kv=SimpleNamespace(kv_committed_len=prompt + len(output) - 1),
        eos_token_ids={2},
        tokenizer=None,
    )


def one_after_the_other(reqs, logits: torch.Tensor, drafted: torch.Tensor) -> torch.Tensor:
    """What plain decoding would see at each position of the block: SGLang's penalizers after each token."""
    batch = SimpleNamespace(reqs=reqs, device="cpu")
    orchestrator = penaltylib.BatchedPenalizerOrchestrator(
        VOCAB,
        _Weak(batch),
        {
            penaltylib.BatchedFrequencyPenalizer,
            penaltylib.BatchedPresencePenalizer,
            penaltylib.BatchedRepetitionPenalizer,
        },
    )
    longest = max(len(req.output_ids) for req in reqs)
    assert all(len(req.output_ids) == longest for req in reqs), "the penalizers take a token of every request at a time"
    for step in range(longest):
        orchestrator.cumulate_output_tokens(torch.tensor([req.output_ids[step] for req in reqs]))
    expected = logits.clone()
    for position in range(logits.shape[1]):
        row = expected[:, position].clone()
        additive = torch.zeros_like(row)
        orchestrator.accumulate_additive_penalties(additive)
        row += additive
        scaling = orchestrator.accumulate_scaling_penalties()
        if scaling is not None:
            row = torch.where(row < 0, row * scaling, row / scaling)
        expected[:, position] = row
        if position < drafted.shape[1]:
            orchestrator.cumulate_output_tokens(drafted[:, position])
    return expected


class _Weak:
    """SGLang keeps a weak reference to its batch, which a SimpleNamespace cannot have."""

    def __init__(self, batch):
        self.reqs, self.device = batch.reqs, batch.device
        KEPT.append(self)


KEPT: list[_Weak] = []


@pytest.mark.parametrize("seed", range(6))
def test_block_equals_token_by_token(seed):
    generator = torch.Generator().manual_seed(seed)
    produced = torch.randint(VOCAB, (len(KINDS), 4), generator=generator)
    reqs = [request(i, produced[i].tolist(), **kind) for i, kind in enumerate(KINDS)]
    # Few tokens, so that the block repeats itself and the past.
    drafted = torch.randint(6 if seed % 2 else VOCAB, (len(KINDS), PROPOSALS), generator=generator)
    logits = 4 * torch.randn(len(KINDS), PROPOSALS + 1, VOCAB, generator=generator)
    ledger = TokenLedger(VOCAB, "cpu")
    penalties = ledger.penalties(reqs, produced[:, -1])
    ours = logits.clone()
    penalties.apply(ours, drafted)
    torch.testing.assert_close(ours, one_after_the_other(reqs, logits, drafted), atol=1e-5, rtol=1e-5)


def test_parts_penalise_as_the_whole_batch():
    generator = torch.Generator().manual_seed(0)
    reqs = [request(i, [3, 3, 5, i], **kind) for i, kind in enumerate(KINDS)]
    penalties = TokenLedger(VOCAB, "cpu").penalties(reqs, torch.arange(len(KINDS)))
    drafted = torch.randint(6, (len(KINDS), PROPOSALS), generator=generator)
    logits = torch.randn(len(KINDS), PROPOSALS + 1, VOCAB, generator=generator)
    whole = logits.clone()
    penalties.apply(whole, drafted)
    assert not torch.equal(whole, logits)
    for at_once in (1, 2, 5, 100):
        parts = logits.clone()
        for some in penalties.split(at_once):
            assert len(some.index) <= at_once
            some.apply(parts, drafted)
        assert torch.equal(parts, whole)


def test_neutral_penalties_change_nothing():
    logits = torch.randn(4, 3, VOCAB, generator=torch.Generator().manual_seed(0))
    after = logits.clone()
    BlockPenalties.neutral(torch.arange(4), VOCAB).apply(after, torch.tensor([[5, 5]] * 4))
    assert torch.equal(after, logits)


def test_masked_tokens_stay_masked():
    req = request(0, [4, 4], repetition_penalty=1.5, presence_penalty=0.3)
    penalties = TokenLedger(VOCAB, "cpu").penalties([req], torch.tensor([4]))
    logits = torch.zeros(1, 3, VOCAB)
    logits[..., 4] = logits[..., 9] = -torch.inf
    penalties.apply(logits, torch.tensor([[9, 4]]))
    assert not logits.isnan().any()
    assert (logits[..., [4, 9]] == -torch.inf).all()


def test_logits_in_16_bits_are_penalised_in_32():
    req = request(0, [4], frequency_penalty=0.5)
    penalties = TokenLedger(VOCAB, "cpu").penalties([req], torch.tensor([4]))
    logits = torch.full((1, 2, VOCAB), 3.0, dtype=torch.bfloat16)
    penalties.apply(logits, torch.tensor([[4]]))
    assert logits.dtype == torch.bfloat16
    assert logits[0, :, 4].tolist() == [2.5, 2.0]


def test_only_requests_with_penalties_are_counted():
    reqs = [request(0, [1]), request(1, [2], presence_penalty=1.0), request(2, [3])]
    ledger = TokenLedger(VOCAB, "cpu")
    penalties = ledger.penalties(reqs, torch.tensor([1, 2, 3]))
    assert penalties.index.tolist() == [1]
    assert [counts_tokens(req.sampling_params) for req in reqs] == [False, True, False]
    assert TokenLedger(VOCAB, "cpu").penalties(reqs[:1], torch.tensor([1])) is None


def counts(ledger: TokenLedger, req) -> list[int]:
    row = ledger.counts[ledger.slots[req.rid]]
    return torch.repeat_interleave(torch.arange(VOCAB), row.long()).tolist()


def test_ledger_counts_what_is_committed_though_the_host_lags_behind():
    req = request(0, [5], frequency_penalty=1.0)
    ledger = TokenLedger(VOCAB, "cpu")
    ledger.penalties([req], torch.tensor([5]))
    assert counts(ledger, req) == [5]
    ledger.commit([req], torch.tensor([[7, 7, 8, 0]]), torch.tensor([3]))
    assert counts(ledger, req) == [5, 7, 7, 8]
    # The host has seen none of the three; the next step must not ask it.
    assert ledger.penalties([req], torch.tensor([8])).counts[0].sum() == 4


def test_a_request_that_enters_one_token_ahead_of_the_host():
    req = request(0, [5], frequency_penalty=1.0)
    req.kv.kv_committed_len += 1
    ledger = TokenLedger(VOCAB, "cpu")
    ledger.penalties([req], torch.tensor([9]))
    assert counts(ledger, req) == [5, 9]


def test_slots_are_cleaned_and_used_again():
    ledger = TokenLedger(VOCAB, "cpu")
    first = [request(i, [i + 1], frequency_penalty=1.0) for i in range(5)]
    ledger.penalties(first, torch.tensor([1, 2, 3, 4, 5]))
    size = ledger.counts.shape[0]
    assert size >= 5
    second = [request(10 + i, [20], frequency_penalty=1.0) for i in range(5)]
    ledger.penalties(second, torch.full((5,), 20))
    assert ledger.counts.shape[0] == size
    assert all(counts(ledger, req) == [20] for req in second)
    assert set(ledger.slots) == {req.rid for req in second}


def test_a_retracted_request_starts_from_the_hosts_record():
    req = request(0, [5], frequency_penalty=1.0)
    ledger = TokenLedger(VOCAB, "cpu")
    ledger.penalties([req], torch.tensor([5]))
    ledger.commit([req], torch.tensor([[7, 8]]), torch.tensor([2]))
    ledger.forget({req.rid})
    again = copy.copy(req)
    again.output_ids = [5, 7]
    again.kv = SimpleNamespace(kv_committed_len=3 + 2 - 1)
    ledger.penalties([again], torch.tensor([7]))
    assert counts(ledger, again) == [5, 7]


def test_tokens_of_other_requests_are_not_counted():
    reqs = [request(0, [1]), request(1, [2], presence_penalty=1.0)]
    ledger = TokenLedger(VOCAB, "cpu")
    ledger.penalties(reqs, torch.tensor([1, 2]))
    ledger.commit(reqs, torch.tensor([[3, 3], [4, 6]]), torch.tensor([2, 1]))
    assert counts(ledger, reqs[1]) == [2, 4]


@pytest.mark.parametrize("minimum", range(1, 8))
def test_stop_tokens_are_forbidden_position_by_position(minimum):
    req = request(0, [11, 12], min_new_tokens=minimum, stop_token_ids=[7])
    logits = torch.zeros(1, 5, VOCAB)
    # Two tokens are out: the prompt of 3 and one of them are in the cache.
    forbid_early_stop(logits, [req], torch.tensor([3 + 1]))
    forbidden = (logits[0, :, [2, 7]] == -torch.inf).all(-1)
    assert forbidden.tolist() == [2 + j < minimum for j in range(5)]
    assert (logits[0, :, [1, 3]] == 0).all()


def test_stop_tokens_that_the_target_does_not_have_are_none():
    req = request(0, [11], min_new_tokens=9, stop_token_ids=[7, VOCAB, VOCAB + 1, -1])
    req.eos_token_ids = {2, VOCAB + 40}
    req.tokenizer = SimpleNamespace(additional_stop_token_ids={VOCAB + 2}, eos_token_id=VOCAB)
    logits = torch.zeros(1, 5, VOCAB)
    forbid_early_stop(logits, [req], torch.tensor([3]))
    assert (logits == -torch.inf).any((0, 1)).nonzero().flatten().tolist() == [2, 7]


def test_block_penalties_are_plain_data():
    penalties = BlockPenalties(
        index=torch.tensor([0]),
        counts=torch.zeros(1, VOCAB, dtype=torch.int32),
        frequency=torch.tensor([0.0]),
        presence=torch.tensor([2.0]),
        repetition=torch.tensor([1.0]),
    )
    logits = torch.zeros(1, 3, VOCAB)
    penalties.apply(logits, torch.tensor([[6, 6]]))
    assert logits[0, :, 6].tolist() == [0.0, -2.0, -2.0]
