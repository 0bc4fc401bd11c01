"""One decode step of DOMINO under SGLang: draft, verify, commit."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch
from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.lora.layers import unwrap_lora_layer
from sglang.srt.runtime_context import get_exec
from sglang.srt.speculative.dflash_worker_v2 import DFlashWorkerV2, _commit_accept
from sglang.srt.speculative.spec_tp_sync import SpecTpSyncSite

from domino_sglang.core.devices import runs_triton
from domino_sglang.core.verify import accept_block, accept_sampled
from domino_sglang.serving.adaptive.blocks import AdaptiveBlocks
from domino_sglang.serving.adaptive.deferred_context import MAX_BYTES, DeferredContext
from domino_sglang.serving.draft.proposer import Proposer, TorchProposer
from domino_sglang.serving.draft.target_head import target_head
from domino_sglang.serving.observe.metrics import count_blocks, count_positions
from domino_sglang.serving.observe.step_timer import NoTimer, step_timer
from domino_sglang.serving.sampling.first_token import SeededFirstToken
from domino_sglang.serving.sampling.logit_processors import LogitProcessors
from domino_sglang.serving.sampling.penalties import BlockPenalties, TokenLedger, count_of
from domino_sglang.serving.sampling.prefill_penalties import has_past, penalise_prefill
from domino_sglang.serving.sampling.seeds import SeedSource
from domino_sglang.serving.sampling.target_distribution import rows_of, target_probabilities
from domino_sglang.serving.slots import StepSlots, commit_at_most
from domino_sglang.serving.step import DecodeStep

logger = logging.getLogger(__name__)

# Accepting sampled blocks takes about five tensors [B, block_size, V] in float32, and so do penalties; this many bytes
# each at most.
ACCEPT_BYTES = 256 << 20


class DominoWorker(DFlashWorkerV2):
    """SGLang's DFLASH worker with the Domino head inside the draft forward and lossless acceptance.

    What is upstream's stays upstream's: the draft KV cache, the verify forward, grammar masks, mamba states, CUDA
    graphs. What is ours: the proposals, which the drafter's own forward leaves in static buffers (so the same code
    serves eagerly and from a CUDA graph), the penalties inside a block, and the acceptance.
    """

    def __init__(self, server_args, gpu_id, nccl_port, target_worker, **kwargs):
        super().__init__(server_args, gpu_id=gpu_id, nccl_port=nccl_port, target_worker=target_worker, **kwargs)
        self._attach_target()
        vocab_size = self.model_runner.model_config.vocab_size
        self.ledger = TokenLedger(vocab_size, self.device)
        self.processors = LogitProcessors()
        settled = resolving_view(server_args)
        self.seeds = SeedSource(target_worker.random_seed, self.device, settled.enable_deterministic_inference)
        self.first_token = SeededFirstToken(self.model_runner.sampler)
        self.adaptive = None
        if settled.speculative_adaptive:
            # SGLang copies a hierarchical cache to the host when it likes: nothing may be missing from it.
            waiting = 0 if settled.enable_hierarchical_cache else MAX_BYTES
            context = DeferredContext(self._write_context, waiting)
            self.adaptive = AdaptiveBlocks(self, settled.speculative_adaptive_config, context)
        self.slots = StepSlots(self.block_size, self._width)
        self.slots.manage()
        self.timer = NoTimer()
        if settled.enable_metrics:
            self._measure(settled.served_model_name or settled.model_path)
        self._step: DecodeStep | None = None

    def _width(self, reqs: list[Any]) -> int:
        """Tokens a request that the next decode step of these requests verifies."""
        return self.block_size if self.adaptive is None else self.adaptive.proposals_for(reqs) + 1

    def _measure(self, model_name: str) -> None:
        count_positions(model_name, self.block_size - 1)
        self.timer = step_timer(self.device, model_name)
        if self.adaptive is not None:
            self.adaptive.observe = count_blocks(model_name)

    def _attach_target(self) -> None:
        target_model = self._target_worker.model_runner.model
        target = target_head(target_model, self.draft_model.domino)
        first, columns = target.shard.start, target.columns
        self.target_head, self._head_weights = target, self.draft_model.head_weights(slice(first, first + columns))
        self.proposer = self.build_proposer()
        embedding, scale = unwrap_lora_layer(target_model.get_input_embeddings()), self._noise_embed_scale
        self.draft_model.embed_block = lambda ids: embedding(ids) if scale == 1.0 else embedding(ids) * scale
        self.draft_model.propose = self._propose
        logger.info(
            "DOMINO drafts %d tokens a step: the head runs in %s, %s, with %.1f MB besides its weights.",
            self.block_size,
            self.proposer.name,
            str(self.draft_model.embed_proj[2].weight.dtype).removeprefix("torch."),
            self.proposer.extra_bytes / 1e6,
        )

    def build_proposer(self, scratch: torch.Tensor | None = None) -> Proposer:
        """The LM head and the Domino head behind a backbone of ``block_size`` tokens; on a GPU it takes lent memory."""
        config, target, weights = self.draft_model.domino, self.target_head, self._head_weights
        if not runs_triton(self.device):
            return TorchProposer(config, self.block_size, weights, target)
        from domino_sglang.serving.draft.triton_proposer import TritonProposer

        buckets = get_exec().graph.cuda_graph_config.decode.bs or [1]
        max_batch = max(resolving_view(self.server_args).max_running_requests, *buckets)
        return TritonProposer(config, self.block_size, weights, target, max_batch, scratch)

    def init_cuda_graphs(self):
        super().init_cuda_graphs()
        if self.adaptive is not None:
            self.adaptive.init_states()

    def on_verify_complete_cpu(self, num_correct_drafts_per_req: list[int], batch_size: int = 0) -> None:
        if self.adaptive is not None:
            self.adaptive.settle(num_correct_drafts_per_req, batch_size)

    def _append_target_hidden_to_draft_kv_by_loc(self, *, target_hidden, cache_loc, positions, **kwargs):
        if self._step is not None and self.adaptive is not None and self.adaptive.resting:
            self.adaptive.context.add(target_hidden, cache_loc, positions)
            return
        super()._append_target_hidden_to_draft_kv_by_loc(
            target_hidden=target_hidden, cache_loc=cache_loc, positions=positions, **kwargs
        )

    def _write_context(self, features: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor) -> None:
        super()._append_target_hidden_to_draft_kv_by_loc(target_hidden=features, cache_loc=slots, positions=positions)

    def forward_batch_generation(self, batch, *args, **kwargs):
        if batch.forward_mode.is_idle():
            return super().forward_batch_generation(batch, *args, **kwargs)
        if batch.forward_mode.is_extend() or batch.is_extend_in_batch:
            self.timer.interrupted()
            return self._prefill(batch, *args, **kwargs)
        with self.timer.step():
            return self._decode(batch, *args, **kwargs)

    def _prefill(self, batch, *args, **kwargs):
        if self.adaptive is not None:
            self.adaptive.context.flush()
        # The last requests of a mixed batch are already decoding, and decode one token here.
        decoding = len(batch.decoding_reqs) if batch.forward_mode.is_mixed() else 0
        first = len(batch.reqs) - decoding
        self.ledger.forget({req.rid for req in batch.reqs[:first]})
        info, reqs = batch.sampling_info, batch.reqs
        batch.sampling_info = penalise_prefill(info, reqs, batch.seq_lens, self._past(batch, first))
        if decoding:
            newest = batch.input_ids[-decoding:], batch.seq_lens[first:]
            batch.sampling_info = self.processors.stage_mixed(batch.sampling_info, reqs[first:], *newest)
        self.first_token.stage(batch)
        try:
            result = super().forward_batch_generation(batch, *args, **kwargs)
        finally:
            batch.sampling_info = info
        if decoding:
            tokens = result.next_token_ids[first : len(reqs), None]
            ones = torch.ones_like(tokens[:, 0])
            self.ledger.commit(reqs[first:], tokens, ones)
            self.processors.commit(reqs[first:], tokens, ones)
        return result

    def _past(self, batch, first_decoding: int) -> dict[int, torch.Tensor]:
        """Counts of the tokens produced so far, by row, of a prefill's requests that this bears on."""
        past = {}
        for row, req in enumerate(batch.reqs):
            if not has_past(req):
                continue
            if row >= first_decoding:
                past[row] = self.ledger.counts_of(req, batch.input_ids[row - len(batch.reqs)])
            elif req.output_ids:
                # Retracted: the host has the whole record, for what was in flight is dropped with the KV cache.
                past[row] = count_of(req.output_ids, self.ledger.vocab_size, self.device)
        return past

    def _decode(self, batch, *args, **kwargs):
        if self.adaptive is not None:
            self.adaptive.choose(batch.reqs, self.slots.granted)
        self._step = step = DecodeStep.of(batch, self.ledger, self.processors)
        batch.sampling_info = step.without_adjustments()
        try:
            return super().forward_batch_generation(batch, *args, **kwargs)
        finally:
            batch.sampling_info, self._step = step.sampling_info, None

    @property
    def _decoding(self) -> DecodeStep:
        if self._step is None:
            raise RuntimeError("no decode step is under way")
        return self._step

    # --- draft ---

    def _validate_phase1_sampling_support(self, batch) -> None:
        # Upstream's first word in every step, and the last before the draft forward reads how to sample.
        if batch.forward_mode.is_extend() or batch.forward_mode.is_idle():
            return
        info = batch.sampling_info
        if info.is_all_greedy:
            self.proposer.stage(None, None)
            return
        temperature = info.temperatures.view(-1).float().masked_fill(info.top_ks.view(-1) <= 1, 0.0)
        self.proposer.stage(temperature, self.seeds.draw(batch.reqs))

    def _propose(self, hidden_states: torch.Tensor, input_ids: torch.Tensor, positions: torch.Tensor) -> None:
        with self.timer.inside("head", of="draft"):
            self.proposer(hidden_states, input_ids, positions)

    def _maybe_build_draft_sampler(self):
        # The head is part of the drafter's forward: nothing is left to capture behind it.
        return None

    def _greedy_sample_from_vocab_parallel_head(self, *, hidden_states, lm_head, chunk_size=256):
        # Upstream asks for the proposals of the block whose forward has just run.
        self.timer.ends("draft")
        return self.proposer.block(len(self._decoding.reqs)).draft.tokens.reshape(-1)

    # --- verify ---

    def _can_skip_verify_logits(self, batch, sampling_info) -> bool:
        return not self._decoding.adjusts() and super()._can_skip_verify_logits(batch, sampling_info)

    def _accept_block(
        self, *, candidates, next_token_logits, sampling_info, draft_input, prefix_lens, bs, target_predict=None
    ):
        self.timer.ends("verify")
        step = self._decoding
        if next_token_logits is not None:
            logits = next_token_logits.view(bs, self.block_size, -1)
            step.adjust(logits, candidates, prefix_lens, self._accepted_at_once(logits.shape[-1]))
        if sampling_info.is_all_greedy:
            accepted = super()._accept_block(
                candidates=candidates,
                next_token_logits=next_token_logits,
                sampling_info=sampling_info,
                draft_input=draft_input,
                prefix_lens=prefix_lens,
                bs=bs,
                target_predict=target_predict,
            )
        else:
            accepted = self._accept_sampled(candidates, next_token_logits, sampling_info, bs)
        accepted = commit_at_most(self.slots.granted, accepted, prefix_lens)
        _accept_len, commit_lens, _bonus, out_tokens, _new_seq_lens = accepted
        self.ledger.commit(step.reqs, out_tokens, commit_lens)
        self.processors.commit(step.reqs, out_tokens, commit_lens)
        self.timer.ends("accept")
        return accepted

    def _accept_sampled(self, candidates, next_token_logits, sampling_info, bs):
        logits, block = next_token_logits.view(bs, self.block_size, -1), self.proposer.block(bs)
        at_once = self._accepted_at_once(logits.shape[-1])
        parts = [
            self._accept_rows(slice(start, start + at_once), candidates, logits, sampling_info, block)
            for start in range(0, bs, at_once)
        ]
        accept_len, bonus = (torch.cat(column) for column in zip(*parts, strict=True))
        self._tp_sync.sync(SpecTpSyncSite.DFLASH_ACCEPT_SAMPLE, accept_len)
        self._tp_sync.sync(SpecTpSyncSite.DFLASH_ACCEPT_SAMPLE, bonus)
        out_tokens, commit_lens = _commit_accept(candidates, accept_len, bonus)
        return accept_len, commit_lens, bonus, out_tokens, None

    def _accept_rows(self, requests: slice, candidates, logits, sampling_info, block):
        """Accept length and bonus token of some of a batch's requests; every tensor-parallel rank cuts alike."""
        logits, info, block = logits[requests], rows_of(sampling_info, requests), block.rows(requests)
        accept = accept_block if self._block_verification else accept_sampled
        acceptance = accept(
            target_probabilities(logits, info),
            candidates[requests, 1:],
            block.draft.log_q,
            block.q_row,
            block.sampling,
            target_greedy=info.top_ks.view(-1) <= 1,
            target_predict=logits.argmax(-1),
            bonus_of=block.bonus_of,
        )
        return acceptance.accept_len, acceptance.bonus

    def _accepted_at_once(self, vocab_size: int) -> int:
        return max(1, ACCEPT_BYTES // (4 * self.block_size * vocab_size))

    def _prewarm_batch_size(self, block_size: int) -> int:
        vocab_size = self.model_runner.model_config.vocab_size
        return min(super()._prewarm_batch_size(block_size), self._accepted_at_once(vocab_size))

    def _measure_sampling_peak(self, *, candidates, target_logits, sampling_info) -> int:
        # Upstream runs its own acceptance here, at start-up, and keeps as much memory free beside the KV cache.
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self._rehearse(candidates, target_logits, sampling_info)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def _rehearse(self, candidates, target_logits, sampling_info) -> None:
        """Penalties, every filter and the acceptance, of as many requests as are accepted together."""
        bs, vocab_size = candidates.shape[0], target_logits.shape[-1]
        logits, device = target_logits.view(bs, self.block_size, vocab_size), target_logits.device
        penalties = BlockPenalties.neutral(torch.arange(bs, device=device), vocab_size)
        penalties.apply(logits, candidates[:, 1:])
        every_filter = dataclasses.replace(
            sampling_info,
            top_ks=torch.full_like(sampling_info.top_ks, vocab_size),
            need_top_k_sampling=True,
            need_min_p_sampling=True,
        )
        block = self.proposer.block(bs).blank()
        # Each power of two has kernels of its own, which are better compiled now than under the first request.
        for size in {1 << i for i in range(bs.bit_length())} | {bs}:
            self._accept_rows(slice(0, size), candidates, logits, every_filter, block)
