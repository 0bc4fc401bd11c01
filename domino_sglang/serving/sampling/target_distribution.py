"""The target's distribution p, exactly as plain decoding on the same server would sample it."""

from __future__ import annotations

import dataclasses

import torch
from sglang.srt.runtime_context import get_exec


def target_probabilities(logits: torch.Tensor, sampling_info) -> torch.Tensor:
    """Distribution of the next token after each drafted prefix.

    Args:
        logits: ``[B, N, V]``, with penalties, bias and grammar applied.
        sampling_info: SGLang's ``SamplingBatchInfo`` of the batch.

    Returns:
        float32 ``[B, N, V]``: after temperature, top-k, top-p and min-p, normalised; removed tokens are exactly 0.
    """
    temperature = sampling_info.temperatures.view(-1, 1, 1)
    return filtered(torch.softmax(logits.float() / temperature, -1), sampling_info)


def rows_of(info, requests: slice):
    """What of a ``SamplingBatchInfo`` makes the distribution, for some of its requests."""
    names = ("temperatures", "top_ks", "top_ps", "min_ps")
    return dataclasses.replace(info, **{name: getattr(info, name)[requests] for name in names})


def filtered(probs: torch.Tensor, info) -> torch.Tensor:
    """Apply top-k, top-p and min-p of ``SamplingBatchInfo`` to float32 ``[B, N, V]`` and normalise.

    A request's rows depend on its own parameters alone, to the last bit: its neighbours decide whether the filters run
    at all, and must not decide what it can say.
    """
    batch, positions, vocab = probs.shape
    if not (info.need_top_k_sampling or info.need_top_p_sampling or info.need_min_p_sampling):
        return probs
    flat = probs.reshape(-1, vocab).contiguous()

    def per_row(values: torch.Tensor) -> torch.Tensor:
        return values.view(-1).repeat_interleave(positions)

    top_k, top_p, min_p = per_row(info.top_ks), per_row(info.top_ps), per_row(info.min_ps)
    keep = keep_with_kernels if _renorm_kernels() else keep_with_sort
    kept = keep(flat, top_k=top_k, top_p=top_p, min_p=min_p if info.need_min_p_sampling else None)
    unfiltered = (top_k >= vocab) & (top_p >= 1) & (min_p <= 0)
    return torch.where(unfiltered[:, None], flat, kept, out=kept).view(batch, positions, vocab)


def keep_with_sort(
    probs: torch.Tensor, *, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor | None
) -> torch.Tensor:
    """top-k, top-p and min-p in PyTorch: ``[N, V]`` and ``[N]`` each -> normalised ``[N, V]``.

    Top-k and top-p are both judged on the unfiltered distribution, min-p on what they leave.
    Source: ``sglang.srt.layers.sampler.top_k_top_p_min_p_sampling_from_probs_torch``.
    """
    sorted_probs, order = probs.sort(-1, descending=True)
    before = sorted_probs.cumsum(-1) - sorted_probs
    rank = torch.arange(probs.shape[-1], device=probs.device)
    # A running sum in float32 may pass 1 before the tail is reached: a top_p of 1 removes nothing all the same.
    removed = (rank >= top_k[:, None]) | ((before > top_p[:, None]) & (top_p < 1)[:, None])
    if min_p is not None:
        removed |= sorted_probs < sorted_probs[:, :1] * min_p[:, None]
    kept = torch.zeros_like(probs).scatter_(-1, order, sorted_probs.masked_fill_(removed, 0.0))
    return kept / kept.sum(-1, keepdim=True)


def keep_with_kernels(
    probs: torch.Tensor, *, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor | None
) -> torch.Tensor:
    """The same with SGLang's renormalisation kernels, in the orders its FlashInfer sampling backend uses.

    Without min-p both filters are judged on the unfiltered distribution; with min-p they run one after the other.
    SGLang decides it for the batch, by whether any request has a min-p; here each request gets what it would get alone.
    Source: ``sglang.srt.layers.sampler.Sampler._sample_from_probs``.
    """
    from sgl_kernel import top_k_renorm_prob, top_p_renorm_prob

    # In place where it can be: a tensor like these is hundreds of megabytes.
    kept = top_k_renorm_prob(probs, top_k)
    if min_p is not None:
        chained = top_p_renorm_prob(kept, top_p)
    # A top_p of 1 removes nothing, whatever the kernel's running sum rounds to.
    kept.masked_fill_((top_p_renorm_prob(probs, top_p) <= 0) & (top_p < 1)[:, None], 0.0)
    if min_p is not None:
        chained.masked_fill_(chained < chained.amax(-1, keepdim=True) * min_p[:, None], 0.0)
        kept = torch.where((min_p > 0)[:, None], chained, kept, out=kept)
    return kept.div_(kept.sum(-1, keepdim=True))


def _renorm_kernels() -> bool:
    return get_exec().kernel.sampling_backend == "flashinfer"
