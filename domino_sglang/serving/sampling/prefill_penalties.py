"""Penalties for the one token that a prefill samples, where the request has spoken before.

A request that was retracted, or that decodes one token inside a mixed batch, comes to the sampler with a past. SGLang's
penalizers begin every prefill at zero (and speculative decoding never feeds them), so that token would be drawn as if
it were the first.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from domino_sglang.core.devices import to_device
from domino_sglang.serving.sampling.penalties import counts_tokens, stop_token_ids


def has_past(req: Any) -> bool:
    """Whether what a request of SGLang's has produced bears on its next token."""
    return counts_tokens(req.sampling_params) or req.sampling_params.min_new_tokens > 0


def penalise_prefill(info: Any, reqs: list[Any], seq_lens: torch.Tensor, counts: dict[int, torch.Tensor]) -> Any:
    """The prefill's ``SamplingBatchInfo`` with the penalties of requests that have a past; ``info`` stays as it is.

    Args:
        info: SGLang's copy for one forward, its penalties accumulated in ``acc_additive_penalties`` and
            ``acc_scaling_penalties`` (float32 ``[B, V]``, or None).
        reqs: the batch's requests.
        seq_lens: int64 ``[B]``, length of each request with all tokens of this forward.
        counts: row of the batch -> int32 ``[V]``, how often the request has produced each token. Other rows keep what
            SGLang gave them.
    """
    if not counts:
        return info
    shape = (len(reqs), info.vocab_size)
    additive, scaling = info.acc_additive_penalties, info.acc_scaling_penalties
    additive = seq_lens.new_zeros(shape, dtype=torch.float32) if additive is None else additive.clone()
    scaling = seq_lens.new_ones(shape, dtype=torch.float32) if scaling is None else scaling.clone()
    for row, count in counts.items():
        req, params = reqs[row], reqs[row].sampling_params
        appears = count > 0
        additive[row] = -(params.frequency_penalty * count + params.presence_penalty * appears)
        scaling[row] = torch.where(appears, params.repetition_penalty, 1.0)
        early = seq_lens[row] - len(req.origin_input_ids) < params.min_new_tokens
        stop = to_device(sorted(stop_token_ids(req, info.vocab_size)), torch.int64, additive.device)
        additive[row, stop] = additive[row, stop].masked_fill(early, -torch.inf)
    return dataclasses.replace(info, acc_additive_penalties=additive, acc_scaling_penalties=scaling)
