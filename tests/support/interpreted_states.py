"""SGLang's Triton kernels of recurrent layers on CPU tensors, under ``TRITON_INTERPRET=1``, in float32."""

from __future__ import annotations

from contextlib import nullcontext

import torch


def serve_states_on_cpu() -> None:
    """Put PyTorch in the place of what the interpreter cannot run, in this process.

    Verifying stays the work of SGLang's own kernels. Copying an accepted state is SGLang's own path for devices without
    Triton. Reading a prompt is Transformers' function: SGLang's is autotuned on a GPU, and refuses float32.
    """
    from sglang.kernels.ops.attention.fla import layernorm_gated
    from sglang.kernels.ops.mamba import mamba_state_scatter_triton as scatter
    from sglang.srt.layers.attention.hybrid_linear_attn_backend import HybridLinearAttnBackend
    from sglang.srt.layers.attention.linear.kernels import gdn_triton

    copy = HybridLinearAttnBackend._scatter_speculative_state_with_mask
    scatter.fused_conv_window_scatter_with_mask = scatter.fused_mamba_state_scatter_with_mask = copy
    gdn_triton.chunk_gated_delta_rule = _gated_delta_rule
    layernorm_gated._get_sm_count = lambda _device: 1
    torch.cpu.device = lambda _device: nullcontext()


def _gated_delta_rule(q, k, v, g, beta, *, initial_state, initial_state_indices, cu_seqlens, **_rest):
    """Prompts one behind the other, ``[1, T, heads, width]``; states ``[slots, heads, V, K]`` are replaced.

    Returns the output and the states that every piece of a prompt began with, ``[1, pieces, heads, V, K]``.
    """
    from sglang.kernels.ops.attention.fla.chunk_delta_h import CHUNK_SIZE
    from transformers.models.qwen3_5.modeling_qwen3_5 import torch_chunk_gated_delta_rule

    shared = v.shape[2] // q.shape[2]
    q, k = q.repeat_interleave(shared, dim=2), k.repeat_interleave(shared, dim=2)
    outputs, states = [], []
    bounds = cu_seqlens.tolist()
    for slot, start, stop in zip(initial_state_indices.tolist(), bounds[:-1], bounds[1:], strict=True):
        for begin in range(start, stop, CHUNK_SIZE):
            states.append(initial_state[slot].clone())
            piece = slice(begin, min(begin + CHUNK_SIZE, stop))
            output, state = torch_chunk_gated_delta_rule(
                *(part[:, piece] for part in (q, k, v, g, beta)),
                initial_state=states[-1][None].transpose(-1, -2),
                output_final_state=True,
                use_qk_l2norm_in_kernel=True,
            )
            initial_state[slot] = state[0].transpose(-1, -2)
            outputs.append(output)
    return torch.cat(outputs, dim=1), None, torch.stack(states)[None]
