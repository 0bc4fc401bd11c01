"""Penalties inside a drafted block: each position sees the tokens drafted before it, as plain decoding would.

SGLang's speculative workers apply one set of penalties, those at the block's start, to the whole block (and DFLASH
0.5.23, under the overlap scheduler, none). The distribution of plain decoding needs them position by position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch

from domino_sglang.core.devices import to_device


def counts_tokens(params: Any) -> bool:
    """Whether a request's sampling parameters need a count of the tokens it has produced."""
    return params.presence_penalty != 0 or params.frequency_penalty != 0 or params.repetition_penalty != 1


def count_of(tokens: Iterable[int], vocab_size: int, device: torch.device | str) -> torch.Tensor:
    """How often each token occurs: token ids -> int32 ``[vocab_size]``."""
    # Counted on the host: a GPU's bincount waits for the GPU.
    ids = torch.tensor(list(tokens), dtype=torch.int64)
    return to_device(torch.bincount(ids, minlength=vocab_size), torch.int32, device)


@dataclass(frozen=True)
class BlockPenalties:
    """Penalties of the requests of one batch that have any.

    Attributes:
        index: int64 ``[P]``, their rows in the batch.
        counts: int32 ``[P, V]``, how often each request has produced each token, the bonus token included.
        frequency, presence, repetition: float32 ``[P]``.
    """

    index: torch.Tensor
    counts: torch.Tensor
    frequency: torch.Tensor
    presence: torch.Tensor
    repetition: torch.Tensor

    @classmethod
    def neutral(cls, index: torch.Tensor, vocab_size: int) -> BlockPenalties:
        """Penalties that change nothing."""
        none = torch.zeros(len(index), device=index.device)
        counts = torch.zeros(len(index), vocab_size, dtype=torch.int32, device=index.device)
        return cls(index, counts, none, none, none + 1)

    def split(self, at_once: int) -> Iterator[BlockPenalties]:
        """The same penalties, those of at most ``at_once`` requests at a time."""
        for start in range(0, len(self.index), at_once):
            some = slice(start, start + at_once)
            yield BlockPenalties(*(getattr(self, field.name)[some] for field in fields(self)))

    def apply(self, logits: torch.Tensor, drafted: torch.Tensor) -> None:
        """Penalise in place.

        Args:
            logits: ``[B, S + 1, V]``; row j predicts the token after j drafted ones.
            drafted: int64 ``[B, S]``.

        Additive penalties first, then the repetition penalty, as SGLang's sampler has it.
        """
        rows = logits[self.index].float()
        vocab = rows.shape[-1]
        counts, drafted = self.counts[:, :vocab], drafted[self.index]
        appears = counts > 0
        rows -= (self.frequency[:, None] * counts + self.presence[:, None] * appears)[:, None]
        positions, proposals = rows.shape[1], drafted.shape[1]
        before = torch.arange(proposals, device=rows.device) < torch.arange(positions, device=rows.device)[:, None]
        new = _first_occurrences(drafted) & ~appears.gather(1, drafted)
        where = drafted[:, None].expand(-1, positions, -1)
        added = self.frequency[:, None] + self.presence[:, None] * new
        rows.scatter_add_(2, where, -(added[:, None] * before))
        strength = self.repetition[:, None, None]
        rows = torch.where(appears[:, None], _repeat(rows, strength), rows)
        # A token drafted for the first time is penalised from the next position on. Its change is added, not written:
        # a second occurrence of it in the block points at the same element.
        value = rows.gather(2, where)
        change = torch.where(new[:, None] & before & value.isfinite(), _repeat(value, strength) - value, 0.0)
        rows.scatter_add_(2, where, change)
        logits[self.index] = rows.to(logits.dtype)


def _repeat(logits: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    return torch.where(logits < 0, logits * strength, logits / strength)


def _first_occurrences(tokens: torch.Tensor) -> torch.Tensor:
    """bool ``[P, S]``: no earlier token of the row is the same."""
    same = tokens[:, :, None] == tokens[:, None, :]
    return ~same.tril(-1).any(-1)


class TokenLedger:
    """Counts, on the device, of the tokens each penalised request has produced.

    Under the overlap scheduler the host learns a step's tokens one step late; the counts are kept where the tokens are.
    A request enters with the outputs the host knows, and leaves when it is missing from a decode batch (finished,
    retracted, aborted).
    """

    def __init__(self, vocab_size: int, device: torch.device | str):
        self.vocab_size, self.device = vocab_size, device
        self.slots: dict[str, int] = {}
        self.counts = torch.zeros(0, vocab_size, dtype=torch.int32, device=device)

    def penalties(self, reqs: list[Any], bonus_tokens: torch.Tensor) -> BlockPenalties | None:
        """The batch's penalties, None when it has none.

        Args:
            reqs: SGLang's requests, in batch order.
            bonus_tokens: int64 ``[B]``, each request's newest token.
        """
        penalised = [i for i, req in enumerate(reqs) if counts_tokens(req.sampling_params)]
        self.forget(set(self.slots) - {reqs[i].rid for i in penalised})
        if not penalised:
            return None
        index = to_device(penalised, torch.int64, self.device)
        for i in penalised:
            if reqs[i].rid not in self.slots:
                self._enter(reqs[i], bonus_tokens[i])
        slots = to_device([self.slots[reqs[i].rid] for i in penalised], torch.int64, self.device)

        def parameter(name: str) -> torch.Tensor:
            values = [getattr(reqs[i].sampling_params, name) for i in penalised]
            return to_device(values, torch.float32, self.device)

        return BlockPenalties(
            index,
            self.counts[slots],
            parameter("frequency_penalty"),
            parameter("presence_penalty"),
            parameter("repetition_penalty"),
        )

    def counts_of(self, req: Any, bonus_token: torch.Tensor) -> torch.Tensor:
        """One decoding request's counts, int32 ``[V]``; ``bonus_token`` (int64 scalar) is its newest token."""
        if req.rid not in self.slots:
            self._enter(req, bonus_token)
        return self.counts[self.slots[req.rid]]

    def commit(self, reqs: list[Any], tokens: torch.Tensor, lengths: torch.Tensor) -> None:
        """Count the first ``lengths[b]`` of ``tokens[b]``: int64 ``[B, N]`` and ``[B]``."""
        rows = [(i, self.slots[req.rid]) for i, req in enumerate(reqs) if req.rid in self.slots]
        if not rows:
            return
        index, slots = to_device(rows, torch.int64, self.device).unbind(1)
        committed = torch.arange(tokens.shape[1], device=self.device) < lengths[index, None]
        self.counts.index_put_(
            (slots[:, None].expand_as(committed), tokens[index]), committed.to(torch.int32), accumulate=True
        )

    def _enter(self, req: Any, bonus_token: torch.Tensor) -> None:
        free = set(range(self.counts.shape[0])) - set(self.slots.values())
        if not free:
            grown = torch.zeros(max(4, self.counts.shape[0]), self.vocab_size, dtype=torch.int32, device=self.device)
            free = {self.counts.shape[0]}
            self.counts = torch.cat([self.counts, grown])
        slot = self.slots[req.rid] = min(free)
        self.counts[slot] = count_of(req.output_ids, self.vocab_size, self.device)
        # Committed KV holds the prompt and every output but the newest; the host may not have seen that one yet.
        produced = int(req.kv.kv_committed_len) + 1 - len(req.origin_input_ids)
        if produced > len(req.output_ids):
            self.counts[slot].index_add_(0, bonus_token[None], torch.ones(1, dtype=torch.int32, device=self.device))

    def forget(self, rids: set[str]) -> None:
        """Drop requests that start over: what they have produced is in the host's record by then."""
        self.slots = {rid: slot for rid, slot in self.slots.items() if rid not in rids}


def forbid_early_stop(logits: torch.Tensor, reqs: list[Any], seq_lens: torch.Tensor) -> None:
    """Apply ``min_new_tokens`` in place: no stop token before a request has produced that many.

    Args:
        logits: ``[B, S + 1, V]``; row j predicts the token after j drafted ones.
        seq_lens: int64 ``[B]``, committed tokens in the KV cache: all but the newest output.
    """
    for i, req in enumerate(reqs):
        minimum = req.sampling_params.min_new_tokens
        # The host's length lags behind the device's, never the other way: a request past it needs no look.
        if minimum <= 0 or len(req.output_ids) >= minimum:
            continue
        stop = to_device(sorted(stop_token_ids(req, logits.shape[-1])), torch.int64, logits.device)
        produced = seq_lens[i] + 1 - len(req.origin_input_ids)
        early = produced + torch.arange(logits.shape[1], device=logits.device) < minimum
        logits[i, :, stop] = logits[i, :, stop].masked_fill(early[:, None], -torch.inf)


def stop_token_ids(req: Any, vocab_size: int) -> set[int]:
    """Tokens that would end a request, as SGLang's ``BatchedMinNewTokensPenalizer`` collects them.

    A user, a generation config or a tokenizer may name ids that the target does not have; those are left out.
    """
    ids = set(req.sampling_params.stop_token_ids or ()) | set(req.eos_token_ids or ())
    if req.tokenizer is not None:
        ids |= set(req.tokenizer.additional_stop_token_ids or ()) | {req.tokenizer.eos_token_id}
    return {token for token in ids if token is not None and 0 <= token < vocab_size}
