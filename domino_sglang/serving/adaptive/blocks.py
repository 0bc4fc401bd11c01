"""Blocks of several lengths in one server: ``--speculative-adaptive``, which SGLang has for EAGLE.

Drafting pays while verifying a block costs little more than decoding one token. With many requests in a batch it no
longer does, and a shorter block, or none, serves more. SGLang's policy (``adaptive_spec_params.py``, with backoff:
``backoff.py``) names the number of proposals for each batch from its size and the recent acceptance; here is what it
switches: everything in a worker that is sized by the block. Zero proposals is plain decoding: the drafter rests, and
its KV cache is brought up to date before it is read again (``deferred_context.py``).

Requests with a ``sampling_seed`` are served with the longest block, and what they are batched with too: their text must
not depend on how busy the server is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from sglang.srt.runtime_context import get_context, get_exec, get_spec
from sglang.srt.speculative.adaptive_runtime_state import AdaptiveController
from sglang.srt.speculative.adaptive_spec_params import resolve_candidate_steps_from_config
from sglang.srt.speculative.dflash_worker_v2 import draft_pp_context, draft_tp_context
from sglang.srt.speculative.draft_worker_common import build_block_pos_offsets, make_draft_block_spec_info

from domino_sglang.serving.adaptive.backoff import BackoffParams
from domino_sglang.serving.adaptive.deferred_context import DeferredContext
from domino_sglang.serving.draft.proposer import NoProposer
from domino_sglang.serving.sampling.seeds import seeded_rows

# What upstream's worker grows when a batch needs it, and how it is before that.
BUFFERS: dict[str, Any] = {
    "_draft_block_ids_buf": None,
    "_draft_block_positions_buf": None,
    "_draft_block_tokens_buf": None,
    "_draft_verify_out_cache_loc_buf": None,
    "_draft_block_end_buf": None,
    "_draft_seq_lens_cpu_buf": None,
    "_accept_bonus_buffer_cap": 0,
    "_accept_bonus_buffer_slot": 0,
    "_accept_len_buf": None,
    "_commit_lens_bufs": [],
    "_bonus_id_bufs": [],
    "_out_tokens_bufs": [],
    "_new_seq_lens_bufs": [],
}
SIZED_BY_THE_BLOCK = (
    "block_size",
    "speculative_num_draft_tokens",
    "_block_pos_offsets",
    "_draft_block_spec_info",
    "proposer",
    "draft_model_runner",
    *BUFFERS,
)
RUNNER_STATE = ("attn_backend", "decode_cuda_graph_runner")


def check_flags(args: Any) -> None:
    """Refuse a table that this drafter cannot serve, and flags that switching does not reach.

    Args:
        args: SGLang's server arguments, ``speculative_num_draft_tokens`` settled.

    Raises:
        ValueError: one line: value, expectation, fix.
    """
    for name in ("enable_two_batch_overlap", "enable_pdmux"):
        if getattr(args, name):
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"--speculative-adaptive is given with {flag}, which keeps attention backends of its own; drop either"
            )
    path, longest = args.speculative_adaptive_config, args.speculative_num_draft_tokens - 1
    example = f'{{"1": {{"candidate_steps": [{longest}]}}, "16": {{"candidate_steps": [0, 1]}}}}'
    if path is None:
        raise ValueError(
            "--speculative-adaptive is given without --speculative-adaptive-config, and DOMINO needs the numbers of "
            f"proposals to choose from, by batch size; pass a JSON file such as {example}"
        )
    try:
        candidates = resolve_candidate_steps_from_config(path)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"--speculative-adaptive-config is {path!r}, which is no such table ({type(error).__name__}: {error}); "
            f"pass a JSON file such as {example}"
        ) from None
    if max(candidates) > longest:
        raise ValueError(
            f"--speculative-adaptive-config {path!r} names {max(candidates)} proposals, and this server's block has at "
            f"most {longest}; lower candidate_steps or raise --speculative-num-draft-tokens"
        )


@dataclass
class BlockState:
    """A worker's state for one length of block.

    Attributes:
        worker: its fields by name, those of ``SIZED_BY_THE_BLOCK``.
        target, draft: the fields ``RUNNER_STATE`` of the two model runners.
    """

    worker: dict[str, Any]
    target: dict[str, Any]
    draft: dict[str, Any]

    @classmethod
    def of(cls, worker: Any, draft_runner: Any) -> BlockState:
        """What the worker holds now."""
        return cls(
            {name: getattr(worker, name) for name in SIZED_BY_THE_BLOCK},
            {name: getattr(worker.model_runner, name) for name in RUNNER_STATE},
            {name: getattr(draft_runner, name) for name in RUNNER_STATE},
        )

    def give(self, worker: Any, draft_runner: Any) -> None:
        """Let the worker hold this.

        SGLang's own record of the block stays at the longest: by it the KV slots of the next steps are reserved.
        """
        for owner, fields in ((worker, self.worker), (worker.model_runner, self.target), (draft_runner, self.draft)):
            for name, value in fields.items():
                setattr(owner, name, value)
        worker.draft_model.set_block_size(worker.block_size)


class AdaptiveBlocks:
    """Switches a DOMINO worker between its lengths of block; SGLang's ``AdaptiveSpecWorker``.

    Args:
        config_path: SGLang's table of candidates by batch size, in JSON.

    Attributes:
        observe: called with the number of proposals of every decode step.
        speculative_num_steps: proposals in force.
        context: of the steps without proposals.
    """

    def __init__(self, worker: Any, config_path: str, context: DeferredContext):
        self.observe: Callable[[int], None] = lambda proposals: None
        self.worker, self.draft_runner, self.context = worker, worker.draft_model_runner, context
        self.longest = self.speculative_num_steps = worker.block_size - 1
        self.controller = AdaptiveController(self, BackoffParams(self.longest, config_path))
        self._states: dict[int, BlockState] = {}
        self._by_policy: deque[bool] = deque()

    @property
    def resting(self) -> bool:
        """Whether the steps in force are plain decoding."""
        return self.speculative_num_steps == 0

    def init_states(self) -> None:
        """Build every candidate's state; the worker's own, with the longest block, is there already."""
        if self.worker._need_mamba_verify_commit:
            raise ValueError(
                "--speculative-adaptive is given with a target that has mamba layers, whose states DOMINO keeps for "
                "one length of block; drop --speculative-adaptive"
            )
        self._states[self.longest] = BlockState.of(self.worker, self.draft_runner)
        self.controller.register(self._states[self.longest], self.longest)
        runner = self.worker.model_runner
        self.context.heed(runner.token_to_kv_pool_allocator)
        graphs = self._on_gpu and _has_graphs(runner)
        self.controller.init_states(list(runner.decode_cuda_graph_runner.capture_bs) if graphs else None)

    def proposals_for(self, reqs: list[Any]) -> int:
        """Proposals of the next decode step of these requests."""
        return self.longest if seeded_rows(reqs) else self.controller.params.get_steps_for_batch(len(reqs))

    def choose(self, reqs: list[Any], slots: int) -> None:
        """Before a decode step of these requests, which may commit so many tokens each."""
        self.apply_runtime_state(self._states[self.proposals_for(reqs)])
        self.context.turn_to([req.rid for req in reqs] if self.resting else [])
        self.observe(self.speculative_num_steps)
        # Where seeds or the end of the pool decided, the step says nothing about the policy's choice.
        self._by_policy.append(not seeded_rows(reqs) and slots > self.speculative_num_steps)

    def settle(self, accepted: list[int], batch_size: int) -> None:
        """Tell the policy how many proposals of each request its oldest unsettled step has committed."""
        if self._by_policy.popleft():
            self.controller.on_verify_complete(accepted, batch_size)

    # --- SGLang's protocol ---

    def build_adaptive_runtime_state(
        self, speculative_num_steps: int, speculative_num_draft_tokens: int, cuda_graph_bs: list[int] | None = None
    ) -> BlockState:
        worker, before = self.worker, BlockState.of(self.worker, self.draft_runner)
        try:
            self._fresh(before, speculative_num_draft_tokens).give(worker, self.draft_runner)
            if speculative_num_steps:
                # The longest block's base logits have room for every other's, and one block runs at a time.
                worker.proposer = worker.build_proposer(before.worker["proposer"].scratch)
            else:
                worker.proposer = NoProposer(worker.target_head, worker.device)
                worker.draft_model_runner = RestingDrafter(self.draft_runner, worker)
            if self._on_gpu:
                self._build_runners(cuda_graph_bs, drafting=speculative_num_steps > 0)
            self._states[speculative_num_steps] = BlockState.of(worker, self.draft_runner)
        finally:
            before.give(worker, self.draft_runner)
        return self._states[speculative_num_steps]

    def apply_runtime_state(self, state: BlockState) -> None:
        current = self._states[self.speculative_num_steps]
        if state is current:
            return
        # Its buffers may have grown since it was taken.
        current.worker.update({name: getattr(self.worker, name) for name in BUFFERS})
        state.give(self.worker, self.draft_runner)
        self.speculative_num_steps = self.worker.block_size - 1

    # --- building ---

    def _fresh(self, before: BlockState, block_size: int) -> BlockState:
        device = self.worker.device
        sized = {
            "block_size": block_size,
            "speculative_num_draft_tokens": block_size,
            "_block_pos_offsets": build_block_pos_offsets(length=block_size, device=device),
            "_draft_block_spec_info": make_draft_block_spec_info(draft_token_num=block_size, device=device),
        }
        fresh = {name: [] if value == [] else value for name, value in BUFFERS.items()}
        return BlockState(before.worker | sized | fresh, before.target, before.draft)

    @property
    def _on_gpu(self) -> bool:
        return str(self.worker.device) != "cpu"

    def _build_runners(self, batch_sizes: list[int] | None, drafting: bool) -> None:
        with _building_for(self.worker.block_size, batch_sizes):
            self._build_runner(self.worker.model_runner, batch_sizes)
            if drafting:
                with draft_pp_context(), draft_tp_context(self.worker.draft_parallel_layout):
                    self._build_runner(self.draft_runner, batch_sizes)

    def _build_runner(self, runner: Any, batch_sizes: list[int] | None) -> None:
        """An attention backend and graphs for the block in force, as SGLang builds them for EAGLE's candidates."""
        had_graphs = _has_graphs(runner)
        backup = runner.init_new_workspace
        try:
            runner.attn_backend = runner._get_attention_backend(init_new_workspace=True)
        finally:
            runner.init_new_workspace = backup
        if had_graphs:
            runner.decode_cuda_graph_runner = None
            if batch_sizes:
                runner.decode_cuda_graph_runner = runner._decode_cuda_graph_runner_cls()(
                    runner,
                    attn_backend=runner.attn_backend,
                    speculative_num_draft_tokens=self.worker.block_size,
                )


def _has_graphs(runner: Any) -> bool:
    return runner.decode_cuda_graph_runner not in (None, runner.eager_runner)


class RestingDrafter:
    """A model runner whose forward drafts nothing; in all else the drafter's own."""

    def __init__(self, runner: Any, worker: Any):
        self._runner, self._worker = runner, worker

    def forward(self, forward_batch: Any) -> Any:
        hidden = forward_batch.input_embeds[:, :1]
        self._worker.proposer(hidden, forward_batch.input_ids, forward_batch.positions)
        return SimpleNamespace(logits_output=SimpleNamespace(hidden_states=hidden), can_run_graph=False)

    def __getattr__(self, name: str) -> Any:
        if name in ("_runner", "_worker"):
            raise AttributeError(name)
        return getattr(self._runner, name)


@contextmanager
def _building_for(block_size: int, batch_sizes: list[int] | None) -> Iterator[None]:
    """Attention backends and graphs that are made within are of this block, for these batch sizes."""
    # What a runner captures stands here, resolved; the flag --cuda-graph-bs-decode is not read again.
    captured = get_exec().graph.cuda_graph_config.decode
    longest, every_size = get_spec().speculative_num_draft_tokens, captured.bs
    get_context().override("domino_adaptive", speculative_num_draft_tokens=block_size)
    captured.bs = batch_sizes or every_size
    try:
        yield
    finally:
        captured.bs = every_size
        get_context().override("domino_adaptive", speculative_num_draft_tokens=longest)
