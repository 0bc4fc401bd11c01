"""SGLang's sampling information of a batch, made without a scheduler."""

from __future__ import annotations

import torch
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo


def sampling_information(
    temperatures: torch.Tensor,
    top_ps: torch.Tensor,
    top_ks: torch.Tensor,
    min_ps: torch.Tensor,
    vocab_size: int,
    filters: bool = False,
) -> SamplingBatchInfo:
    """Of sampled requests: temperatures ``[B, 1]``, the others ``[B]``; ``filters``: whether any of them filters."""
    return SamplingBatchInfo(
        temperatures=temperatures,
        top_ps=top_ps,
        top_ks=top_ks,
        min_ps=min_ps,
        is_all_greedy=False,
        is_any_greedy=False,
        need_top_p_sampling=filters,
        need_top_k_sampling=filters,
        need_min_p_sampling=filters,
        vocab_size=vocab_size,
    )
