"""The CPU platform: attention over paged keys against plain softmax, KV bookkeeping, when it is in force."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import sglang  # noqa: F401  (SGLang resolves its platform at import, and that imports the module under test)
import torch

from domino_sglang.serving.cpu import CPU_PLATFORM, cpu_platform_if_needed
from domino_sglang.serving.cpu.attention import CpuAttentionBackend, similar_lengths
from domino_sglang.serving.cpu.memory import assign_req_to_token_pool_func, extend_cache_locs, get_last_loc
from domino_sglang.serving.cpu.platform import ATTENTION_BACKEND, DominoCpuPlatform

HEADS, KV_HEADS, DIM, SLOTS = 6, 2, 8, 64


class Pool:
    """Keys and values by slot, as the backend writes and reads them."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.keys = torch.randn(SLOTS, KV_HEADS, DIM, generator=generator)
        self.values = torch.randn(SLOTS, KV_HEADS, DIM, generator=generator)

    def get_key_buffer(self, _layer):
        return self.keys

    def get_value_buffer(self, _layer):
        return self.values

    def set_kv_buffer(self, _layer, where, k, v):
        slots = where.out_cache_loc if hasattr(where, "out_cache_loc") else where.loc
        self.keys[slots], self.values[slots] = k.view(-1, KV_HEADS, DIM), v.view(-1, KV_HEADS, DIM)


def mode(name: str) -> SimpleNamespace:
    return SimpleNamespace(
        is_target_verify=lambda: name == "verify",
        is_decode_or_idle=lambda: name == "decode",
    )


def naive(query, keys, values, positions, causal, window, last) -> torch.Tensor:
    """One request: query ``[Q, heads, D]`` at ``positions``, keys ``[K, kv heads, D]`` at 0..K-1."""
    out = torch.zeros_like(query)
    for i, position in enumerate(positions):
        for head in range(query.shape[1]):
            shared = head // (query.shape[1] // keys.shape[1])
            allowed = [
                key
                for key in range(keys.shape[0])
                if key <= (position if causal else last) and (window < 0 or key >= position - window)
            ]
            scores = torch.stack([query[i, head] @ keys[key, shared] for key in allowed]) / math.sqrt(DIM)
            out[i, head] = scores.softmax(0) @ values[allowed, shared]
    return out


@pytest.mark.parametrize("phase", ["prefill", "decode", "verify"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [-1, 0, 3])
@pytest.mark.parametrize("before", [[5, 0, 9], [5, 6, 4]], ids=["lengths apart", "similar lengths"])
def test_attention_equals_plain_softmax(phase, causal, window, before):
    from sglang.srt.layers.radix_attention import AttentionType

    generator = torch.Generator().manual_seed(1)
    new = {"prefill": [3, 4, 2], "decode": [1, 1, 1], "verify": [4, 4, 4]}[phase]
    table = torch.randperm(SLOTS, generator=generator)[: 3 * 16].view(3, 16)
    rows = torch.tensor([2, 0, 1])
    pool = Pool()
    slots = torch.cat([table[row, b : b + n] for row, b, n in zip(rows.tolist(), before, new, strict=True)])
    total = sum(new)
    q = torch.randn(total, HEADS * DIM, generator=generator)
    k, v = torch.randn(2, total, KV_HEADS * DIM, generator=generator)
    seq_lens = torch.tensor([b + n for b, n in zip(before, new, strict=True)])
    batch = SimpleNamespace(
        forward_mode=mode(phase),
        batch_size=3,
        req_pool_indices=rows,
        # Verification counts committed tokens only; decoding and prefill count the new ones too.
        seq_lens=torch.tensor(before) if phase == "verify" else seq_lens,
        extend_prefix_lens=torch.tensor(before),
        extend_seq_lens=torch.tensor(new),
        spec_info=SimpleNamespace(draft_token_num=4),
        out_cache_loc=slots,
    )
    runner = SimpleNamespace(
        use_mla_backend=False, req_to_token_pool=SimpleNamespace(req_to_token=table), token_to_kv_pool=pool
    )
    layer = SimpleNamespace(
        is_cross_attention=False,
        attn_type=AttentionType.DECODER if causal else AttentionType.ENCODER_ONLY,
        sliding_window_size=window,
        layer_id=0,
        tp_q_head_num=HEADS,
        qk_head_dim=DIM,
        v_head_dim=DIM,
        scaling=1 / math.sqrt(DIM),
    )
    backend = CpuAttentionBackend(runner)
    backend.init_forward_metadata(batch)
    ours = backend.forward_extend(q, k, v, layer, batch).view(total, HEADS, DIM)

    start = 0
    for row, b, n in zip(rows.tolist(), before, new, strict=True):
        keys, values = pool.keys[table[row, : b + n]], pool.values[table[row, : b + n]]
        torch.testing.assert_close(keys[b:], k[start : start + n].view(n, KV_HEADS, DIM))
        query = q[start : start + n].view(n, HEADS, DIM)
        expected = naive(query, keys, values, range(b, b + n), causal, window, b + n - 1)
        torch.testing.assert_close(ours[start : start + n], expected, atol=1e-5, rtol=1e-4)
        start += n


def test_requests_of_similar_lengths_attend_together():
    assert similar_lengths([9, 4, 13]) == [[2, 0], [1]]
    assert similar_lengths([5, 6, 4]) == [[0, 1, 2]]
    assert similar_lengths([100, 1400, 49, 50]) == [[1], [0, 3], [2]]
    assert similar_lengths([]) == []


def test_mla_is_refused_in_words():
    with pytest.raises(ValueError, match="multi-head latent attention"):
        CpuAttentionBackend(SimpleNamespace(use_mla_backend=True))


def test_cache_locations_and_their_assignment():
    table = torch.zeros(4, 12, dtype=torch.int32)
    requests, start, end = torch.tensor([3, 1]), torch.tensor([2, 5]), torch.tensor([6, 7])
    new = torch.tensor([40, 41, 42, 43, 50, 51])
    assign_req_to_token_pool_func(requests, table, start, end, new, 2)
    assert table[3].tolist() == [0, 0, 40, 41, 42, 43, 0, 0, 0, 0, 0, 0]
    assert table[1].tolist() == [0, 0, 0, 0, 0, 50, 51, 0, 0, 0, 0, 0]
    found = extend_cache_locs(requests, table, start, start + 2, 2, 2, "cpu")
    assert found.tolist() == [40, 41, 50, 51]
    assert found.dtype == torch.int64
    last = get_last_loc(table, requests, torch.tensor([6, 0], dtype=torch.int32))
    assert last.tolist() == [43, -1] and last.dtype == torch.int64


def test_the_platform_is_in_force_only_without_an_accelerator(monkeypatch):
    monkeypatch.delenv("SGLANG_USE_CPU_ENGINE", raising=False)
    monkeypatch.setattr("domino_sglang.serving.cpu.has_accelerator", lambda: False)
    assert cpu_platform_if_needed() == CPU_PLATFORM
    monkeypatch.setattr("domino_sglang.serving.cpu.has_accelerator", lambda: True)
    assert cpu_platform_if_needed() is None
    monkeypatch.setattr("domino_sglang.serving.cpu.has_accelerator", lambda: False)
    monkeypatch.setenv("SGLANG_USE_CPU_ENGINE", "1")
    assert cpu_platform_if_needed() is None


def test_what_the_user_set_stays():
    args = SimpleNamespace(
        device=None,
        attention_backend="torch_native",
        sampling_backend="pytorch",
        mem_fraction_static=0.5,
        max_total_tokens=512,
        chunked_prefill_size=64,
        sleep_on_idle=False,
        lora_backend="triton",
        disaggregation_decode_retraction_backup="none",
    )
    DominoCpuPlatform().apply_server_args_defaults(args)
    assert (args.device, args.attention_backend) == ("cpu", "torch_native")
    assert (args.mem_fraction_static, args.max_total_tokens, args.chunked_prefill_size) == (0.5, 512, 64)
    assert (args.lora_backend, args.disaggregation_decode_retraction_backup) == ("triton", "none")
    args.attention_backend = args.disaggregation_decode_retraction_backup = None
    args.lora_backend = "csgmv"
    DominoCpuPlatform().apply_server_args_defaults(args)
    assert args.attention_backend == ATTENTION_BACKEND
    assert (args.lora_backend, args.disaggregation_decode_retraction_backup) == ("torch_native", "cpu_tensor")
