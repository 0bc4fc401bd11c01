"""What the compiled kernels of FlashAttention and FlashInfer compute, in PyTorch, under the names by which SGLang's
backends and FlashInfer's own Python call them.

Everything around the kernels is real: page tables, index pointers, plans, static buffers, the choice of mask. A plan is
obeyed as a kernel obeys it: keys that the host did not plan for are not read.
"""

from __future__ import annotations

import importlib
import math
import sys
from types import ModuleType, SimpleNamespace

import torch

BACKENDS = ("fa3", "fa4", "flashinfer")
CAUSAL = 1  # FlashInfer's MaskMode.CAUSAL; 0 is none
LAYERS = "sglang.srt.layers.attention"
CAPABILITY = (9, 0)
LOG2_E = math.log2(math.e)


def attend(q, k, v, same_request, position, key_position, *, scale, causal, window_left, softcap):
    """Attention of any ragged batch as one masked matrix.

    Args:
        q: ``[T, heads, D]``; k, v: ``[N, kv_heads, D]``.
        same_request: bool ``[T, N]``; position, key_position: ``[T]`` and ``[N]``, within the request.

    Returns:
        output ``[T, heads, D]``, zero in rows that see nothing, and logsumexp ``[T, heads]``.
    """
    seen = same_request
    if causal:
        seen = seen & (key_position[None] <= position[:, None])
    if window_left >= 0:
        seen = seen & (key_position[None] >= position[:, None] - window_left)
    k, v = (x.float().repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = torch.einsum("thd,nhd->htn", q.float(), k) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen, -torch.inf)
    # A slot of the pool that nobody wrote may hold anything.
    visible = seen.any(0)[:, None, None]
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    output = torch.einsum("htn,nhd->thd", weights, v.masked_fill(~visible, 0.0))
    return output.to(q.dtype).contiguous(), torch.logsumexp(scores, -1).T


def _owner(rows: int, indptr: torch.Tensor) -> torch.Tensor:
    """The request that each of ``rows`` belongs to; beyond the last one, the number of requests."""
    return torch.bucketize(torch.arange(rows), indptr[1:].long(), right=True)


def _at(values: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    return values.long().index_select(0, owner.clamp(max=len(values) - 1))


def _ragged(rows: int, q_indptr: torch.Tensor, kv_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Owner of each query, and its position when the last query stands at the last key."""
    owner = _owner(rows, q_indptr)
    q_lens = q_indptr[1:] - q_indptr[:-1]
    return owner, torch.arange(rows) - _at(q_indptr, owner) + _at(kv_lens - q_lens, owner)


# --- FlashAttention ---

NEUTRAL = {"rotary_interleaved", "sm_margin", "only_qv", "ver"}


def flash_attn_with_kvcache(
    q,
    k_cache,
    v_cache,
    *,
    page_table,
    cache_seqlens,
    cu_seqlens_q,
    max_seqlen_q,
    softmax_scale,
    causal,
    cu_seqlens_k_new=None,
    window_size=(-1, -1),
    softcap=0.0,
    return_softmax_lse=False,
    num_splits=0,
    scheduler_metadata=None,
    out=None,
    **others,
):
    """Of FlashAttention's options, what SGLang gives for grouped-query attention over a paged cache."""
    unknown = [name for name, value in others.items() if value is not None and name not in NEUTRAL]
    if unknown:
        raise NotImplementedError(f"flash_attn_with_kvcache was given {unknown}")
    page_size, columns = k_cache.shape[1], page_table.shape[1] * k_cache.shape[1]
    slots = (page_table.long()[..., None] * page_size + torch.arange(page_size)).flatten()
    owner, position = _ragged(len(q), cu_seqlens_q, cache_seqlens)
    row, column = torch.arange(len(slots)) // columns, torch.arange(len(slots)) % columns
    same = (owner[:, None] == row[None]) & (column < _at(cache_seqlens, row))[None]
    # The kernel launches tiles for so many queries of a request.
    same = same & (torch.arange(len(q)) - _at(cu_seqlens_q, owner) < max_seqlen_q)[:, None]
    slots = slots.clamp(0, k_cache.shape[0] * page_size - 1)
    k, v = (cache.flatten(0, 1).index_select(0, slots) for cache in (k_cache, v_cache))
    output, lse = attend(
        q,
        k,
        v,
        same,
        position,
        column,
        scale=softmax_scale,
        causal=causal,
        window_left=window_size[0],
        softcap=softcap,
    )
    if out is not None:
        output = out.copy_(output)
    return (output, lse.T) if return_softmax_lse else output


def _refused(*args, **kwargs):
    raise NotImplementedError("no test asks for this kernel of sgl_kernel")


def _sgl_kernel() -> dict[str, ModuleType]:
    package, attention = ModuleType("sgl_kernel"), ModuleType("sgl_kernel.flash_attn")
    package.merge_state_v2 = _refused  # trees of drafts, which DOMINO has not
    package.flash_attn = attention
    attention.flash_attn_with_kvcache = flash_attn_with_kvcache
    attention.flash_attn_varlen_func = _refused
    # Of plain decoding, which nobody does here; SGLang sizes its buffer by one call.
    attention.get_scheduler_metadata = lambda **shape: torch.zeros(1, dtype=torch.int32)
    return {"sgl_kernel": package, "sgl_kernel.flash_attn": attention}


# --- FlashInfer ---


def _plan(_workspace, int_workspace, _pinned, q_indptr, _kv_indptr, kv_lens, _rows, batch_size, *_shape):
    """What the host knows, where a replay reads it: query pointers, then lengths."""
    plan = int_workspace.view(torch.int32)
    plan[: batch_size + 1] = q_indptr
    plan[batch_size + 1 : 2 * batch_size + 1] = kv_lens
    return [batch_size]


def _planned(int_workspace: torch.Tensor, info: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    (batch_size,) = info
    plan = int_workspace.view(torch.int32)
    return plan[: batch_size + 1], plan[batch_size + 1 : 2 * batch_size + 1]


def _flashinfer(q, k, v, kv_indptr, planned, out, lse, mask_mode, window_left, softcap, scale):
    q_indptr, planned_lens = planned
    kv_lens = kv_indptr[1:] - kv_indptr[:-1]
    owner, position = _ragged(len(q), q_indptr, kv_lens)
    key_owner = _owner(len(k), kv_indptr)
    key_position = torch.arange(len(k)) - _at(kv_indptr, key_owner)
    same = (owner[:, None] == key_owner[None]) & (owner < len(kv_lens))[:, None]
    same = same & (key_position < _at(planned_lens, key_owner))[None]
    output, logsumexp = attend(
        q,
        k,
        v,
        same,
        position,
        key_position,
        scale=scale,
        causal=mask_mode == CAUSAL,
        window_left=window_left,
        softcap=softcap,
    )
    out.copy_(output)
    if lse is not None:
        lse.copy_(logsumexp * LOG2_E)


def _no_mask(mask_mode: int, layout: int) -> None:
    if mask_mode not in (0, CAUSAL) or layout != 0:
        raise NotImplementedError(f"mask mode {mask_mode}, layout {layout}: expected none or causal, and NHD")


def _paged_run(*args):
    _, int_workspace, info, q, k_cache, v_cache, _, kv_indptr, indices, _, out, lse = args[:12]
    mask_mode, layout, window_left = args[12:15]
    softcap, scale = args[22:24]
    _no_mask(mask_mode, layout)
    if k_cache.shape[1] != 1:
        raise NotImplementedError(f"page size {k_cache.shape[1]}: SGLang gives FlashInfer pages of one token")
    # The last ones may be anything: no pointer reaches them.
    slots = indices.long().clamp(0, len(k_cache) - 1)
    k, v = (cache[:, 0].index_select(0, slots) for cache in (k_cache, v_cache))
    _flashinfer(q, k, v, kv_indptr, _planned(int_workspace, info), out, lse, mask_mode, window_left, softcap, scale)


def _ragged_run(*args):
    _, int_workspace, info, q, k, v, _, kv_indptr, out, lse, mask_mode, layout, window_left = args[:13]
    softcap, scale = args[20:22]
    _no_mask(mask_mode, layout)
    _flashinfer(q, k, v, kv_indptr, _planned(int_workspace, info), out, lse, mask_mode, window_left, softcap, scale)


def _merge_state(v_a, s_a, v_b, s_b, v_merged, s_merged):
    """Two parts of one softmax, their logsumexps in base 2."""
    s_merged.copy_(torch.logaddexp2(s_a, s_b))
    shares = [torch.exp2(part - s_merged).nan_to_num(0.0)[..., None] for part in (s_a, s_b)]
    v_merged.copy_(v_a.float() * shares[0] + v_b.float() * shares[1])


# --- in place ---


def stand_in() -> None:
    """For the rest of this process."""
    import flashinfer.cascade
    import flashinfer.prefill
    import flashinfer.utils
    from sglang.srt import utils

    utils.is_flashinfer_available = lambda: True
    module = SimpleNamespace(plan=_plan, paged_run=_paged_run, ragged_run=_ragged_run)
    flashinfer.prefill.get_batch_prefill_module = lambda backend, *args: module
    flashinfer.utils.get_compute_capability = lambda device: CAPABILITY
    flashinfer.cascade.get_cascade_module = lambda: SimpleNamespace(merge_state=_merge_state)
    flashinfer.prefill.determine_attention_backend = lambda *args, **kwargs: "fa2"

    sys.modules.update(_sgl_kernel())
    # Imported without FlashInfer, if at all.
    sys.modules.pop(f"{LAYERS}.flashinfer_backend", None)
    from sglang.srt.layers.attention import attention_registry

    importlib.import_module(f"{LAYERS}.flashattention_backend").flash_attn_with_kvcache = flash_attn_with_kvcache
    attention_registry.get_device_capability = lambda *args: CAPABILITY
