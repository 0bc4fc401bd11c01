"""An SGLang platform for machines without an accelerator, in plain PyTorch.

SGLang 0.5.23's own CPU engine needs AMX kernels that its published wheel lacks; an out-of-tree platform does not.
"""

from __future__ import annotations

import torch
from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import PlatformCapabilities, SRTPlatform
from sglang.srt.runtime_context import get_disagg

ATTENTION_BACKEND = "cpu_sdpa"
ALGORITHMS = ("DOMINO", "DFLASH")
MAX_TOTAL_TOKENS = 65536


class DominoCpuPlatform(CpuDeviceMixin, SRTPlatform):
    """Serves plain decoding and DOMINO on CPU tensors, with neither Triton nor device graphs."""

    _enum = PlatformEnum.OOT
    capabilities = PlatformCapabilities()

    def get_device(self, device_id: int = 0) -> str:
        return "cpu"

    def apply_server_args_defaults(self, server_args) -> None:
        """Settle what SGLang would otherwise choose for a GPU; what the user set stays."""
        server_args.device = "cpu"
        if server_args.attention_backend in (None, "intel_amx"):
            # SGLang's own choice for a CPU, whose kernels its wheel lacks.
            server_args.attention_backend = self.get_default_attention_backend()
        # A scheduler that polls while idle would take a core from everything else on the machine.
        server_args.sleep_on_idle = True
        if server_args.sampling_backend is None:
            server_args.sampling_backend = "pytorch"
        # Host memory is shared with everything else on the machine: bound the KV pool by its tokens, and do not fail to
        # start because a neighbour took memory while the weights were loading.
        if server_args.mem_fraction_static is None:
            server_args.mem_fraction_static = 0.8
        if server_args.max_total_tokens is None:
            server_args.max_total_tokens = MAX_TOTAL_TOKENS
        if server_args.chunked_prefill_size is None:
            server_args.chunked_prefill_size = 2048
        if server_args.lora_backend == "csgmv":
            # SGLang's default, which is Triton's.
            server_args.lora_backend = "torch_native"
        if server_args.disaggregation_decode_retraction_backup is None:
            # SGLang would reserve a second pool of host memory beside the one that is the KV cache here.
            server_args.disaggregation_decode_retraction_backup = "cpu_tensor"

    def get_default_attention_backend(self) -> str:
        return ATTENTION_BACKEND

    def get_default_speculative_draft_attention_backend(self, algorithm: str) -> str:
        return ATTENTION_BACKEND

    def supports_speculative_algorithm(self, algorithm: str) -> bool:
        return algorithm in ALGORITHMS

    def supports_speculative_draft_attention_backend(self, algorithm: str, backend: str) -> bool:
        return backend == ATTENTION_BACKEND

    def get_speculative_cache_locs_fn(self):
        from domino_sglang.serving.cpu.memory import extend_cache_locs

        return extend_cache_locs

    def get_kv_pool_cls(self, *, kind):
        if kind != "mha":
            return None
        from domino_sglang.serving.cpu.memory import CpuKVPool

        return CpuKVPool

    def post_load_model(self, model: torch.nn.Module) -> None:
        from domino_sglang.serving.cpu.disaggregation import make_transfers_streamless
        from domino_sglang.serving.cpu.linear import pack_linear_layers

        pack_linear_layers(model)
        if get_disagg().disaggregation_mode == "prefill":
            # No sooner: Mooncake's sender imports Prometheus's client, which must not be in the process before SGLang
            # has said where its processes share their counters.
            make_transfers_streamless()

    def get_compile_backend(self, mode: str | None = None) -> str:
        return "eager"

    def get_torch_profiler_activity_str(self) -> str:
        return "CPU"

    def get_torch_profiler_activity(self):
        return torch.profiler.ProfilerActivity.CPU

    def init_backend(self) -> None:
        """Once in each scheduler process: the pieces of SGLang that assume a device with streams."""
        from domino_sglang.serving.cpu.lora import make_lora_pageable
        from domino_sglang.serving.cpu.memory import make_record_stream_harmless

        make_record_stream_harmless()
        make_lora_pageable()
