"""Reasoning tokens of an answer whose last block is cut: no more than the answer has tokens."""

from __future__ import annotations

from array import array

import pytest
from sglang.srt.managers.schedule_batch import Req
from sglang.srt.sampling.sampling_params import SamplingParams

from domino_sglang.serving.observe.reasoning import forget_reasoning_behind_the_end

END, STOP = 9, 5


def served(blocks: list[list[int]], **sampling) -> Req:
    """A request of SGLang's, its blocks settled as the scheduler settles them."""
    params = SamplingParams(**{"max_new_tokens": 100} | sampling)
    params.normalize(None)
    req = Req("r", "", array("q", [1, 2]), params, require_reasoning=True, vocab_size=50)
    for block in blocks:
        req.output_ids.extend(block)
        req.update_reasoning_tokens(block, [END])
        req.update_finish_state(len(block))
        forget_reasoning_behind_the_end(req, len(block))
    assert req.finished()
    return req


@pytest.mark.parametrize(
    ("blocks", "sampling", "answer", "reasoning"),
    [
        ([[1], [2, 3, 4, 6]], {"max_new_tokens": 3}, 3, 3),
        ([[1], [2, STOP, 4, 6]], {"stop_token_ids": [STOP]}, 3, 3),
        ([[1], [2, 3, 4, END]], {"max_new_tokens": 3}, 3, 3),
        ([[1], [2, END, 4, 6], [7, 8]], {"max_new_tokens": 6}, 6, 3),
        ([[1], [END, 4, 6]], {"max_new_tokens": 3}, 3, 2),
    ],
    ids=["cut by length", "cut by a stop", "ends behind the cut", "ended long ago", "ends before the cut"],
)
def test_no_reasoning_behind_the_end(blocks, sampling, answer, reasoning):
    req = served(blocks, **sampling)
    assert len(req.output_ids_through_stop) == answer
    assert req.reasoning_tokens == reasoning
