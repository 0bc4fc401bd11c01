"""The paths that SGLang takes on a GPU, on CPU tensors.

Its Triton kernels run in the interpreter, its graph runner over :mod:`tests.support.recorded_graphs`, FlashInfer and
FlashAttention over :mod:`tests.support.attention_kernels`.

What a GPU has besides is not here: streams, tensor cores, compiled code.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import torch
from sglang.srt.platforms.interface import PlatformCapabilities

from domino_sglang.serving.cpu.platform import DominoCpuPlatform
from tests.support.attention_kernels import BACKENDS as COMPILED
from tests.support.recorded_graphs import RecordedGraphs
from tests.support.recording import record_kernels


class GpuPathsPlatform(DominoCpuPlatform):
    """Keeps of the CPU platform what has no other way on CPU tensors, and leaves the rest to SGLang."""

    capabilities = PlatformCapabilities(supports_triton=True, graph_capture=True)

    def apply_server_args_defaults(self, server_args) -> None:
        lora_backend = server_args.lora_backend
        super().apply_server_args_defaults(server_args)
        server_args.lora_backend = lora_backend

    def get_default_attention_backend(self) -> str:
        return "triton"

    def get_default_speculative_draft_attention_backend(self, algorithm: str) -> str:
        return "triton"

    def supports_speculative_draft_attention_backend(self, algorithm: str, backend: str) -> bool:
        return backend in ("triton", *COMPILED)

    def support_mamba_cache_extra_buffer(self) -> bool:
        return True

    def get_full_graph_backend_cls(self) -> type[RecordedGraphs]:
        return RecordedGraphs

    def get_graph_runner_cls(self) -> type:
        from sglang.srt.model_executor.runner import DecodeCudaGraphRunner

        return DecodeCudaGraphRunner

    def get_speculative_cache_locs_fn(self):
        return None

    def get_kv_pool_cls(self, *, kind):
        return None

    def post_load_model(self, model: torch.nn.Module) -> None:
        pass


def _without_a_device(make):
    """A factory of tensors that takes "cuda" for the CPU, whose memory need not be pinned."""

    def made(*args, device=None, pin_memory=False, **kwargs):
        return make(*args, device="cpu" if device == "cuda" else device, **kwargs)

    return made


def serve_as_on_a_gpu() -> None:
    """For the rest of this process."""
    from sglang.kernels.ops.gemm import int8_kernel
    from sglang.kernels.ops.lora.dense import lora_tuning_config
    from sglang.srt.layers.quantization.blockwise_int8 import BlockInt8Config
    from sglang.srt.model_executor.forward_batch_info import ForwardMode
    from sglang.srt.model_executor.model_runner_components import cuda_graph_setup
    from sglang.srt.model_executor.runner import decode_cuda_graph_runner
    from sglang.srt.platforms import current_platform
    from sglang.srt.speculative import dflash_worker_v2

    current_platform.__class__ = GpuPathsPlatform
    record_kernels()
    torch.zeros, torch.empty, torch.tensor = map(_without_a_device, (torch.zeros, torch.empty, torch.tensor))
    # DFLASH's worker asks three such questions, to use its Triton kernels where one is answered by yes.
    dflash_worker_v2.is_xpu = lambda: True
    # On a CPU SGLang captures what torch.compile makes of plain decoding, and nothing else.
    cuda_graph_setup.get_flags = lambda: SimpleNamespace(capture=SimpleNamespace(enable_torch_compile=True))
    ForwardMode.is_cpu_graph = ForwardMode.is_cuda_graph
    # There are no streams to capture on.
    decode_cuda_graph_runner.graph_capture = lambda stream=None: nullcontext(SimpleNamespace(stream=stream))
    torch.cpu.is_current_stream_capturing = lambda: False
    # Its kernels write float32 too.
    BlockInt8Config.get_supported_act_dtypes = lambda self: [torch.float32]
    # They are tuned for devices, by name.
    int8_kernel.get_device_name = lora_tuning_config.get_device_name = lambda *args: "none"
