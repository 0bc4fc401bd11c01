"""The Domino rollout on a GPU: S proposals for B requests, exact over the full vocabulary, replayable in a CUDA graph.

Computes the function of ``domino_sglang.core.head.rollout``. Source: arXiv 2605.29707, section 3.
"""

from __future__ import annotations

import torch
import triton

from domino_kernels.arguments import Embedder, Proposals, Sampling, VocabShard, Weights
from domino_kernels.checks import check_tensor
from domino_kernels.device import INTERPRETED, device_limits
from domino_kernels.ops.finalize import finalize_kernel, merge_keys_kernel, merge_shards_kernel
from domino_kernels.ops.gru import gru_kernel
from domino_kernels.ops.ordering import NO_CANDIDATE
from domino_kernels.ops.project import project_hidden_kernel, project_kernel
from domino_kernels.ops.scan import scan_kernel
from domino_kernels.plan import Device, LaunchPlan, Shape, bucket, make_plan, next_power_of_2

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class DominoRollout:
    """Built once per model; each call drafts for up to ``max_batch`` requests without host synchronisation.

    Nothing is allocated during a call, except by the ``embedding`` and ``all_gather`` callables. Call once per batch
    size, with and without ``sampling`` as needed, before capturing a CUDA graph: Triton compiles on first use.

    Args:
        weights: see :class:`domino_kernels.arguments.Weights`; float32, bfloat16 or float16.
        embedding: the target's table ``[V, H]``, or a callable for a vocabulary-parallel one.
        max_batch: largest B.
        num_proposals: S.
        pure_draft_prefix_len: proposals 1..n take the base logits as they are; 0..S.
        shard: set under tensor parallelism.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, naming value, expectation and fix.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        embedding: torch.Tensor | Embedder,
        max_batch: int,
        num_proposals: int,
        pure_draft_prefix_len: int,
        shard: VocabShard | None = None,
    ):
        self.shape = _check_weights(weights, embedding, num_proposals, shard.start if shard is not None else 0)
        _check_choice("max_batch", max_batch, max_batch >= 1, "at least 1")
        _check_choice(
            "pure_draft_prefix_len",
            pure_draft_prefix_len,
            0 <= pure_draft_prefix_len <= num_proposals,
            f"0 to num_proposals ({num_proposals})",
        )
        self.weights, self.shard = weights, shard
        self.max_batch, self.prefix = max_batch, pure_draft_prefix_len
        self.device, self.dtype = weights.w2.device, weights.w2.dtype
        self._limits = self._device_limits()
        self._embed = None if isinstance(embedding, torch.Tensor) else embedding
        self._separate_lookup = self._embed is not None or shard is not None
        self._table = embedding if isinstance(embedding, torch.Tensor) else weights.w_ih
        self._allocate()

    def _device_limits(self) -> Device:
        return device_limits(self.device)

    def _launch(self, kernel, grid: tuple[int, ...], *arguments, **options) -> None:
        """Every launch passes here, so that a benchmark can record them without a GPU."""
        kernel[grid](*arguments, **options)

    def _buckets(self) -> list[int]:
        return [1 << i for i in range(bucket(self.max_batch).bit_length())]

    def plan(self, batch: int) -> LaunchPlan:
        """The plan that serves ``batch`` requests."""
        return make_plan(batch, self.shape, self._limits)

    def _allocate(self) -> None:
        batch, s, r, g = self.max_batch, self.shape.num_proposals, self.shape.rank, self.shape.num_units
        partials = s * max(min(b, batch) * self.plan(b).num_programs for b in self._buckets())

        def empty(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.empty(*size, dtype=dtype, device=self.device)

        self._tokens = empty(batch, s, dtype=torch.int64)
        self._log_q, self._logsumexp = empty(batch, s), empty(batch, s)
        self._correction = empty(batch, s, r, dtype=self.dtype)
        self._z_part = empty(batch, s, r)
        self._state = empty(2, batch, g)
        self._keys = empty(s * batch, dtype=torch.int64)
        self._maxima, self._sums = empty(partials), empty(partials)
        self._chosen = empty(s * batch, dtype=torch.int64)
        self._stats = empty(batch * s * 2)

    @property
    def extra_bytes(self) -> int:
        """Device memory held besides the caller's weights: static buffers."""
        held = [value for value in vars(self).values() if isinstance(value, torch.Tensor) and value is not self._table]
        return sum(value.numel() * value.element_size() for value in held)

    @torch.no_grad()
    def __call__(
        self,
        z: torch.Tensor,
        base_logits: torch.Tensor,
        bonus_tokens: torch.Tensor,
        sampling: Sampling | None = None,
    ) -> Proposals:
        """Draft.

        Args:
            z: ``[B, S, H]``, row j-1 for proposal j (``shift_label`` applied); any strides, last one 1.
            base_logits: ``[B, S, V]``, any dtype of the three, any strides; this rank's columns under a shard.
            bonus_tokens: int64 ``[B]``.
            sampling: None drafts every request greedily.
        """
        self._check_inputs(z, base_logits, bonus_tokens, sampling)
        batch = z.shape[0]
        run = _Run(self, self.plan(batch), z, base_logits, bonus_tokens, sampling)
        self._keys[: self.shape.num_proposals * batch].fill_(NO_CANDIDATE)
        run.propose()
        run.finalize()
        return self.proposals(batch)

    def proposals(self, batch: int) -> Proposals:
        """What the newest call or graph replay left for its first ``batch`` requests."""
        return Proposals(self._tokens[:batch], self._log_q[:batch], self._logsumexp[:batch], self._correction[:batch])

    def _check_inputs(
        self, z: torch.Tensor, base_logits: torch.Tensor, bonus_tokens: torch.Tensor, sampling: Sampling | None
    ) -> None:
        batch = z.shape[0]
        if not 1 <= batch <= self.max_batch:
            raise ValueError(f"batch is {batch}, expected 1 to max_batch ({self.max_batch}); raise max_batch")
        shape = self.shape
        check_tensor("z", z, (batch, shape.num_proposals, shape.hidden), _DTYPES, self.device)
        check_tensor("base_logits", base_logits, (batch, shape.num_proposals, shape.vocab), _DTYPES, self.device)
        check_tensor("bonus_tokens", bonus_tokens, (batch,), (torch.int64,), self.device)
        if z.stride(2) != 1:
            raise ValueError(f"z has stride {z.stride(2)} in its last dimension, expected 1; call z.contiguous()")
        vectors = [bonus_tokens]
        if sampling is not None:
            check_tensor("temperature", sampling.temperature, (batch,), (torch.float32,), self.device)
            check_tensor("seed", sampling.seed, (batch,), (torch.int64,), self.device)
            check_tensor("position", sampling.position, (batch,), (torch.int64,), self.device)
            vectors += [sampling.temperature, sampling.seed, sampling.position]
        if any(not vector.is_contiguous() for vector in vectors):
            raise ValueError("bonus_tokens, temperature, seed and position must be contiguous; call .contiguous()")


class _Run:
    """One call: the launches, in order, over one batch."""

    def __init__(
        self,
        owner: DominoRollout,
        plan: LaunchPlan,
        z: torch.Tensor,
        base_logits: torch.Tensor,
        bonus_tokens: torch.Tensor,
        sampling: Sampling | None,
    ):
        self.o, self.plan, self.shape = owner, plan, owner.shape
        self.z, self.base, self.bonus = z, base_logits, bonus_tokens
        self.batch = z.shape[0]
        self.batch_blocks = triton.cdiv(self.batch, plan.block_b)
        self.sampled = sampling is not None
        # Never read when not sampled; a kernel argument has to point somewhere.
        self.sampling = (sampling.temperature, sampling.seed, sampling.position) if sampling else (bonus_tokens,) * 3
        w = owner.weights
        self.has_bias = w.b_ih is not None
        self.biases = (w.b_ih, w.b_hh) if self.has_bias else (w.w_ih, w.w_hh)
        self.w1_state = w.w1[:, self.shape.hidden :]
        count = self.shape.num_proposals * self.batch
        self.keys = owner._keys[:count].view(-1, self.batch)
        self.chosen = owner._chosen[:count].view(-1, self.batch)

    def propose(self) -> None:
        prefix, proposals = self.o.prefix, self.shape.num_proposals
        if prefix:
            self._scan(0, prefix, corrected=False)
        if prefix == proposals:
            return
        self._project_hidden()
        for j in range(proposals):
            self._gru(j)
            if j >= prefix:
                self._project(j)
                self._scan(j, 1, corrected=True)

    def _project_hidden(self) -> None:
        o, shape, tile = self.o, self.shape, self.plan.hidden
        rows = self.batch * shape.num_proposals
        grid = (triton.cdiv(rows, self.plan.hidden_rows), triton.cdiv(shape.rank, tile.rows))
        self.o._launch(project_hidden_kernel, grid,
            self.z, self.z.stride(0), self.z.stride(1), o.weights.w1, o.weights.w1.stride(0), o._z_part,
            self.batch, shape.num_proposals, shape.hidden, shape.rank,
            BLOCK_M=self.plan.hidden_rows, BLOCK_N=tile.rows, BLOCK_K=tile.depth,
            USE_DOT=True, UPCAST=INTERPRETED, NUM_STAGES=tile.num_stages, num_warps=tile.num_warps,
        )  # fmt: skip

    def finalize(self) -> None:
        o, shape, programs = self.o, self.shape, self.plan.num_programs
        w2 = o.weights.w2
        self.o._launch(finalize_kernel, (self.batch, shape.num_proposals),
            self.base, *self.base.stride(), o._correction, w2, w2.stride(0), self.keys, o._maxima, o._sums,
            self.sampling[0], o._tokens, o._log_q, o._logsumexp, o._stats,
            self.batch, shape.num_proposals, shape.vocab, self._vocab_start, shape.rank, programs, o.prefix,
            SAMPLED=self.sampled, SHARDED=o.shard is not None,
            BLOCK_P=min(1024, next_power_of_2(programs)), BLOCK_R=min(256, next_power_of_2(shape.rank)),
        )  # fmt: skip
        if o.shard is None:
            return
        count = self.batch * shape.num_proposals
        gathered = o.shard.all_gather(o._stats[: 2 * count].view(self.batch, shape.num_proposals, 2))
        self.o._launch(
            merge_shards_kernel,
            (triton.cdiv(count, 128),),
            gathered,
            o._log_q,
            o._logsumexp,
            count,
            gathered.shape[0],
            BLOCK=128,
        )

    @property
    def _vocab_start(self) -> int:
        return self.o.shard.start if self.o.shard is not None else 0

    def _gru(self, j: int) -> None:
        o, shape, tile, w = self.o, self.shape, self.plan.gru, self.o.weights
        inputs = o._table
        if o._embed is not None:
            inputs = o._embed(self.chosen[j - 1] if j else self.bonus)
        self.o._launch(gru_kernel, (self.batch_blocks, triton.cdiv(shape.num_units, tile.rows)),
            j, self.bonus, self.keys, inputs, inputs.stride(0), w.w_ih, w.w_ih.stride(0), w.w_hh, w.w_hh.stride(0),
            *self.biases, o._state, o._state.stride(0), self.batch, shape.hidden, shape.num_units,
            HAS_BIAS=self.has_bias, GATHER=o._embed is None,
            BLOCK_B=self.plan.block_b, BLOCK_G=tile.rows, BLOCK_K=tile.depth,
            USE_DOT=self.plan.use_dot, UPCAST=INTERPRETED, NUM_STAGES=tile.num_stages, num_warps=tile.num_warps,
        )  # fmt: skip

    def _project(self, j: int) -> None:
        o, shape, tile = self.o, self.shape, self.plan.project
        self.o._launch(project_kernel, (self.batch_blocks, triton.cdiv(shape.rank, tile.rows)),
            j, o._z_part, o._state, o._state.stride(0), self.w1_state, o.weights.w1.stride(0), o._correction,
            self.batch, shape.num_proposals, shape.num_units, shape.rank,
            BLOCK_B=self.plan.block_b, BLOCK_N=tile.rows, BLOCK_K=tile.depth,
            USE_DOT=self.plan.use_dot, UPCAST=INTERPRETED, NUM_STAGES=tile.num_stages, num_warps=tile.num_warps,
        )  # fmt: skip

    def _scan(self, first: int, count: int, *, corrected: bool) -> None:
        o, shape, tile, w2 = self.o, self.shape, self.plan.scan, self.o.weights.w2
        self.o._launch(scan_kernel, (self.batch_blocks, self.plan.num_programs, count),
            first, self.base, *self.base.stride(), o._correction, w2, w2.stride(0), self.keys, o._maxima, o._sums,
            *self.sampling, self.batch, shape.num_proposals, shape.vocab, self._vocab_start, shape.rank,
            CORRECTED=corrected, SAMPLED=self.sampled, BLOCK_B=self.plan.block_b,
            BLOCK_V=tile.rows if corrected else self.plan.base_rows,
            BLOCK_R=tile.depth, WHOLE_RANK=tile.depth >= shape.rank,
            USE_DOT=self.plan.use_dot, UPCAST=INTERPRETED, NUM_STAGES=tile.num_stages, num_warps=tile.num_warps,
        )  # fmt: skip
        if o._separate_lookup:
            self._merge_keys(first, count)

    def _merge_keys(self, first: int, count: int) -> None:
        keys, chosen = self.keys[first : first + count], self.chosen[first : first + count]
        gathered = self.o.shard.all_gather(keys) if self.o.shard is not None else keys[None]
        number = keys.numel()
        self.o._launch(
            merge_keys_kernel, (triton.cdiv(number, 128),), gathered, keys, chosen, number, gathered.shape[0], BLOCK=128
        )


def _check_weights(weights: Weights, embedding: torch.Tensor | Embedder, num_proposals: int, vocab_start: int) -> Shape:
    w2 = weights.w2
    dtype, device = w2.dtype, w2.device
    vocab, rank = w2.shape
    gates, hidden = weights.w_ih.shape
    units = weights.w_hh.shape[-1]
    _check_choice("num_proposals", num_proposals, num_proposals >= 1, "at least 1")
    expected = {
        "w_ih": (3 * units, hidden),
        "w_hh": (3 * units, units),
        "w1": (rank, hidden + units),
        "w2": (vocab, rank),
    }
    for name, size in expected.items():
        tensor = getattr(weights, name)
        check_tensor(name, tensor, size, (dtype,) if dtype in _DTYPES else _DTYPES, device)
        if tensor.stride(1) != 1:
            raise ValueError(
                f"{name} has stride {tensor.stride(1)} in its last dimension, expected 1; make it contiguous"
            )
    if (weights.b_ih is None) != (weights.b_hh is None):
        raise ValueError("one of b_ih and b_hh is None, expected both or neither; give zeros for the missing one")
    for name in ("b_ih", "b_hh"):
        bias = getattr(weights, name)
        if bias is not None:
            check_tensor(name, bias, (gates,), _DTYPES, device)
    if isinstance(embedding, torch.Tensor):
        # More rows than tokens are padding; with fewer, a drafted token would be read from beyond the table.
        rows = max(embedding.shape[0], vocab_start + vocab)
        check_tensor("embedding", embedding, (rows, hidden), _DTYPES, device)
        if embedding.stride(1) != 1:
            raise ValueError("embedding is not contiguous in its last dimension; call .contiguous()")
    return Shape(hidden, vocab, units, rank, num_proposals, w2.element_size())


def _check_choice(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ValueError(f"{name} is {value!r}, expected {expected}")
