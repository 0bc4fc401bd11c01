"""Logit processors inside a block, against SGLang's own call of them after each token."""

from __future__ import annotations

import weakref
from array import array
from types import SimpleNamespace

import pytest
import torch
from sglang.srt.layers.sampler import apply_custom_logit_processor
from sglang.srt.sampling import sampling_batch_info
from sglang.srt.sampling.custom_logit_processor import (
    DeepseekOCRNoRepeatNGramLogitProcessor,
    DisallowedTokensLogitsProcessor,
    Qwen3ThinkingBudgetLogitProcessor,
)

from domino_sglang.serving.sampling.logit_processors import LogitProcessors

VOCAB, PROPOSALS = 23, 5


class ThinkingBudget(Qwen3ThinkingBudgetLogitProcessor):
    THINKING_START_TOKEN_ID, THINKING_END_TOKEN_ID, NEW_LINE_TOKEN_ID = 3, 4, 5


NO_REPEAT = (DeepseekOCRNoRepeatNGramLogitProcessor, {"ngram_size": 2, "window_size": 30})
BUDGET = (ThinkingBudget, {"thinking_budget": 4})
DISALLOWED = (DisallowedTokensLogitsProcessor, {"token_ids": [1, 8]})
NONE = (None, None)
BATCHES = {
    "one": [NO_REPEAT],
    "two of a kind": [BUDGET, BUDGET],
    "without the request": [DISALLOWED],
    "mixed": [NONE, NO_REPEAT, BUDGET, NONE, DISALLOWED, NO_REPEAT],
}


class Request:
    """What processors read of SGLang's ``Req``."""

    def __init__(self, number: int, processor: type | None, parameters: dict | None, output: list[int]):
        self.rid, self.custom_logit_processor = f"r{number}", processor and processor.__name__
        self.origin_input_ids, self.output_ids = array("q", [3, 7, 7, 9]), array("q", output)
        self.parameters = parameters and parameters | {"__req__": weakref.proxy(self)}


def information(reqs: list[Request], processors: list[type | None]):
    """A ``SamplingBatchInfo`` as far as processors are concerned."""
    entries = {}
    for processor in dict.fromkeys(filter(None, processors)):
        rows = [row for row, other in enumerate(processors) if other is processor]
        entries[processor] = sampling_batch_info.ProcessorEntry(processor(), rows, torch.tensor(rows))
    info = SimpleNamespace(
        has_custom_logit_processor=bool(entries),
        custom_logit_processor=entries,
        custom_params=[req.parameters for req in reqs],
        device="cpu",
    )
    return _Sized(info, len(reqs))


class _Sized(SimpleNamespace):
    def __init__(self, fields: SimpleNamespace, length: int):
        super().__init__(**vars(fields), length=length)

    def __len__(self) -> int:
        return self.length


def one_after_the_other(logits: torch.Tensor, info, reqs: list[Request], drafted: torch.Tensor) -> torch.Tensor:
    """Plain decoding: one token is written, the processors are called, the next token is written."""
    expected = []
    for position in range(logits.shape[1]):
        row = logits[:, position].clone()
        apply_custom_logit_processor(row, info)
        expected.append(row)
        if position < drafted.shape[1]:
            for req, token in zip(reqs, drafted[:, position].tolist(), strict=True):
                req.output_ids.append(token)
    return torch.stack(expected, 1)


@pytest.mark.parametrize("name", BATCHES)
# How many of its tokens the host has not seen yet: none, the bonus token alone, a whole step.
@pytest.mark.parametrize("unseen", [0, 1, 4])
def test_each_position_has_its_own_past(name, unseen):
    generator = torch.Generator().manual_seed(0)
    kinds = [processor for processor, _ in BATCHES[name]]
    # Few tokens, so that bigrams return.
    outputs = torch.randint(6, 9, (len(kinds), 9), generator=generator)
    drafted = torch.randint(6, 9, (len(kinds), PROPOSALS), generator=generator)
    logits = torch.randn(len(kinds), PROPOSALS + 1, VOCAB, generator=generator)

    def requests(seen: int) -> list[Request]:
        rows = zip(kinds, BATCHES[name], outputs.tolist(), strict=True)
        return [Request(i, kind, given, said[:seen]) for i, (kind, (_, given), said) in enumerate(rows)]

    plain = requests(9)
    expected = one_after_the_other(logits, information(plain, kinds), plain, drafted)

    ours, processors = requests(9 - unseen), LogitProcessors()
    # A step commits as many as it accepts, of the many that it looked at.
    committed = torch.cat([outputs[:, 5:], torch.full((len(kinds), 3), 22)], 1)
    processors.commit(ours, committed, torch.full((len(kinds),), 4))
    candidates = torch.cat([outputs[:, -1:], drafted], 1)
    info, got = information(ours, kinds), logits.clone()
    processors.apply(got, info, ours, candidates, torch.full((len(kinds),), 4 + 9 - 1))

    assert got.equal(expected)
    assert not got.equal(logits)
    # The requests themselves are as they were.
    assert [len(req.output_ids) for req in ours] == [9 - unseen] * len(ours)


def test_requests_of_a_mixed_batch_see_what_they_have_written():
    kinds = [NO_REPEAT, NO_REPEAT, NONE]
    reqs = [Request(i, kind, given, [6, 7]) for i, (kind, given) in enumerate(kinds)]
    processors = LogitProcessors()
    processors.commit(reqs[1:], torch.tensor([[8, 6, 8], [8, 8, 8]]), torch.tensor([3, 1]))
    info = sampling_batch_info.SamplingBatchInfo(
        **dict.fromkeys(["temperatures", "top_ps", "top_ks", "min_ps"], torch.ones(3)),
        **dict.fromkeys(
            ["is_all_greedy", "is_any_greedy", "need_top_p_sampling", "need_top_k_sampling", "need_min_p_sampling"],
            True,
        ),
        vocab_size=VOCAB,
        has_custom_logit_processor=True,
        custom_params=[req.parameters for req in reqs],
    )
    # The first is being prefilled; the others decode one token, after five and three.
    staged = processors.stage_mixed(info, reqs[1:], torch.tensor([8, 8]), torch.tensor([4 + 5, 4 + 3]))
    assert list(staged.custom_params[0]["__req__"].output_ids) == [6, 7]
    assert list(staged.custom_params[1]["__req__"].output_ids) == [6, 7, 8, 6, 8]
    assert staged.custom_params[2] is None
    assert list(info.custom_params[1]["__req__"].output_ids) == [6, 7]
