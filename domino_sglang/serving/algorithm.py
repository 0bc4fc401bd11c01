"""What SGLang asks about DOMINO before and beside the worker: names, predicates, server arguments."""

from __future__ import annotations

import logging

from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
from sglang.srt.speculative.spec_registry import CustomSpecAlgo

from domino_sglang.serving.admission import admit
from domino_sglang.serving.hooks import install_hooks, require_hooks
from domino_sglang.serving.refusal import refusing

logger = logging.getLogger(__name__)

NAME = "DOMINO"


class DominoAlgorithm(CustomSpecAlgo):
    """``--speculative-algorithm DOMINO``.

    To the scheduler, the memory pools and the CUDA-graph runners it is a member of the DFLASH family: the drafter has
    DFlash's layout and its context KV rides in the target's slots.
    """

    def is_dflash(self) -> bool:
        return True

    def is_dflash_family(self) -> bool:
        return True

    def supports_target_verify_for_draft(self) -> bool:
        return True

    def supports_prefill_shared_read_done(self) -> bool:
        return True

    def supports_mixed_chunk(self) -> bool:
        return True

    def supports_grammar_overlap(self) -> bool:
        return True

    # The next three are asked of every algorithm, and CustomSpecAlgo 0.5.23 lacks them.
    def need_topk(self) -> bool:
        return False

    def carries_draft_hidden_states(self) -> bool:
        return False

    def create_future_map(
        self, device, req_to_token_pool, needs_cpu_seq_lens: bool = True, needs_confidence_relay: bool = False
    ):
        from sglang.srt.managers.overlap_utils import FutureMap

        return FutureMap(device, self, req_to_token_pool, needs_cpu_seq_lens, needs_confidence_relay)

    def build_disagg_draft_input(self, batch, last_tokens_tensor, future_map):
        from sglang.srt.speculative.dflash_disaggregation import build_dflash_disagg_draft_input

        return build_dflash_disagg_draft_input(batch, last_tokens_tensor, future_map)

    def handle_server_args(self, server_args) -> None:
        """Refuse what cannot be served, before any weight is loaded, and settle the rest.

        Raises:
            Refusal: one line that names the value found, the value needed and what to change.
        """
        with refusing():
            require_hooks()
            admission = admit(server_args)
        # Neither belongs to a block drafter, but SGLang sizes its buffers by them.
        server_args.speculative_num_steps = 1
        server_args.speculative_eagle_topk = 1
        server_args.speculative_num_draft_tokens = admission.num_draft_tokens
        server_args.speculative_draft_attention_backend = admission.draft_attention_backend
        server_args.dtype = admission.dtype
        server_args.speculative_draft_model_quantization = admission.draft_quantization
        if server_args.max_running_requests is None:
            server_args.max_running_requests = admission.max_running_requests
            logger.info("DOMINO serves at most %d requests at once by default; --max-running-requests changes it",
                        admission.max_running_requests)  # fmt: skip


def register_domino() -> None:
    """Make DOMINO known to SGLang in this process: the algorithm, its drafter, and the hooks it needs."""
    from sglang.srt.models.registry import ModelRegistry

    install_hooks()

    @SpeculativeAlgorithm.register(NAME, supports_overlap=True, spec_class=DominoAlgorithm)
    def _worker(server_args):
        from domino_sglang.serving.draft.draft_model import DominoDraftModel
        from domino_sglang.serving.worker import DominoWorker

        ModelRegistry.models["DominoDraftModel"] = DominoDraftModel
        return DominoWorker

    _register_cpu_attention()


def _register_cpu_attention() -> None:
    from sglang.srt.arg_groups.choices import add_attention_backend_choices, add_draft_attention_backend_choices
    from sglang.srt.layers.attention.attention_registry import register_attention_backend

    from domino_sglang.serving.cpu.platform import ATTENTION_BACKEND

    add_attention_backend_choices([ATTENTION_BACKEND])
    add_draft_attention_backend_choices([ATTENTION_BACKEND])

    @register_attention_backend(ATTENTION_BACKEND)
    def _cpu_attention(runner):
        from domino_sglang.serving.cpu.attention import CpuAttentionBackend

        return CpuAttentionBackend(runner)
