"""PD disaggregation between CPU servers, over Mooncake's TCP transport (``MOONCAKE_PROTOCOL=tcp``)."""

from __future__ import annotations


def make_transfers_streamless() -> None:
    """Hand Mooncake's sender finished page numbers, where SGLang hands it a copy in flight and a CUDA event.

    And let a cached prefix travel with the rest of its prompt: sent ahead, it waits for a CUDA event as well.
    """
    from sglang.srt.disaggregation.mooncake.conn import MooncakeKVSender
    from sglang.srt.environ import envs

    MooncakeKVSender.supports_host_tensor_indices = False
    envs.SGLANG_DISAGG_PREFILL_EARLY_SEND_CACHED_PREFIX.set(False)
