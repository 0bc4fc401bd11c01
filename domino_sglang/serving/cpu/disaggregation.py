"""PD disaggregation between CPU servers, over Mooncake's TCP transport (``MOONCAKE_PROTOCOL=tcp``)."""

from __future__ import annotations


def make_transfers_streamless() -> None:
    """Hand Mooncake's sender finished page numbers, where SGLang hands it a copy in flight and a CUDA event."""
    from sglang.srt.disaggregation.mooncake.conn import MooncakeKVSender

    MooncakeKVSender.supports_host_tensor_indices = False
