"""The token after a retraction is penalised as plain decoding without one would: against SGLang's own penalizers."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from sglang.srt.sampling import penaltylib
from sglang.srt.sampling.penaltylib.repetition_penalty import apply_scaling_penalties
from sglang.srt.sampling.sampling_params import SamplingParams

from domino_sglang.serving.sampling.penalties import count_of
from domino_sglang.serving.sampling.prefill_penalties import has_past, penalise_prefill

VOCAB, PROMPT, STOP = 19, 3, 2
KINDS = {
    "frequency": {"frequency_penalty": 0.7},
    "presence": {"presence_penalty": -1.2},
    "repetition": {"repetition_penalty": 1.4},
    "all": {"frequency_penalty": 0.3, "presence_penalty": 0.4, "repetition_penalty": 0.8, "min_new_tokens": 9},
    "minimum reached": {"min_new_tokens": 5},
    "minimum ahead": {"min_new_tokens": 6},
}
OUTPUT = [4, 7, 7, 11, 4]


@dataclasses.dataclass
class Info:
    vocab_size: int = VOCAB
    acc_additive_penalties: torch.Tensor | None = None
    acc_scaling_penalties: torch.Tensor | None = None


class Batch(SimpleNamespace):
    """SGLang keeps a weak reference to its batch."""

    __hash__ = object.__hash__


def request(output: list[int], **params) -> SimpleNamespace:
    return SimpleNamespace(
        sampling_params=SamplingParams(**params),
        output_ids=output,
        origin_input_ids=list(range(PROMPT)),
        eos_token_ids={STOP},
        tokenizer=SimpleNamespace(additional_stop_token_ids=None, eos_token_id=STOP),
    )


def penalizers(batch: Batch) -> penaltylib.BatchedPenalizerOrchestrator:
    kinds = ("Frequency", "Presence", "Repetition", "MinNewTokens")
    return penaltylib.BatchedPenalizerOrchestrator(
        VOCAB, batch, {getattr(penaltylib, f"Batched{kind}Penalizer") for kind in kinds}
    )


def applied(info: Info, logits: torch.Tensor) -> torch.Tensor:
    """As ``SamplingBatchInfo`` applies its accumulated penalties."""
    logits = logits.clone()
    if info.acc_additive_penalties is not None:
        logits += info.acc_additive_penalties
    if info.acc_scaling_penalties is not None:
        apply_scaling_penalties(logits, info.acc_scaling_penalties)
    return logits


def accumulated(reqs: list[SimpleNamespace], outputs: list[int]) -> Info:
    """What ``SamplingBatchInfo.copy_for_forward`` accumulates after penalizers have seen each of the outputs."""
    batch = Batch(reqs=reqs, device="cpu")
    orchestrator, info = penalizers(batch), Info()
    for token in outputs:
        orchestrator.cumulate_output_tokens(torch.tensor([token] * len(reqs)))
    info.acc_additive_penalties = torch.zeros(len(reqs), VOCAB)
    orchestrator.accumulate_additive_penalties(info.acc_additive_penalties)
    info.acc_scaling_penalties = orchestrator.accumulate_scaling_penalties()
    return info


@pytest.mark.parametrize("name", KINDS)
def test_the_sampled_token_sees_the_past(name):
    reqs = [request([]), request(OUTPUT, **KINDS[name]), request([], frequency_penalty=0.2)]
    logits = 3 * torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(1))
    info = accumulated(reqs, [])
    lengths = torch.tensor([PROMPT, PROMPT + len(OUTPUT), PROMPT])
    ours = applied(penalise_prefill(info, reqs, lengths, {1: count_of(OUTPUT, VOCAB, "cpu")}), logits)

    expected = logits.clone()
    expected[1:2] = applied(accumulated(reqs[1:2], OUTPUT), logits[1:2])
    torch.testing.assert_close(ours, expected)


def test_the_schedulers_own_information_stays():
    reqs = [request(OUTPUT, repetition_penalty=1.3, min_new_tokens=9)]
    info = accumulated(reqs, [])
    before = [tensor.clone() for tensor in (info.acc_additive_penalties, info.acc_scaling_penalties)]
    resumed = penalise_prefill(info, reqs, torch.tensor([PROMPT + 5]), {0: count_of(OUTPUT, VOCAB, "cpu")})
    assert resumed is not info
    assert torch.equal(info.acc_additive_penalties, before[0])
    assert torch.equal(info.acc_scaling_penalties, before[1])


def test_stop_tokens_that_the_target_does_not_have_are_none():
    req = request(OUTPUT, min_new_tokens=9, stop_token_ids=[7, VOCAB, VOCAB + 1, -1])
    resumed = penalise_prefill(Info(), [req], torch.tensor([PROMPT + 5]), {0: count_of(OUTPUT, VOCAB, "cpu")})
    forbidden = (resumed.acc_additive_penalties == -torch.inf).nonzero()[:, 1]
    assert forbidden.tolist() == sorted({STOP, 7})


def test_without_a_past_nothing_changes():
    info = Info()
    assert penalise_prefill(info, [request([])], torch.tensor([PROMPT]), {}) is info
    assert [has_past(request([], **kind)) for kind in ({}, *KINDS.values())] == [False] + [True] * len(KINDS)


def test_count_of():
    counts = count_of(OUTPUT, VOCAB, "cpu")
    assert counts.dtype == torch.int32
    assert torch.repeat_interleave(torch.arange(VOCAB), counts).tolist() == sorted(OUTPUT)
    assert count_of([], VOCAB, "cpu").sum() == 0
