"""Batched generation by any Transformers causal LM, fast enough to write a training set on a CPU.

Requests flow through a fixed number of slots: finished slots are refilled a few at a time, so that every decode step is
one full batch, or nearly. Draws depend on the request's seed and the position alone, never on what else is in the
batch. While it decodes, the generator can keep the hidden states the drafter will be trained on, which saves a second
forward.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from domino_sglang.core.random_numbers import STREAM_PROPOSAL, counter_key, uniform
from domino_sglang.training.data.loops import loop_start

GROUPED_ATTENTION = "domino_grouped"
LOOP_CHECK_EVERY = 16
# On a GPU a pass over a few short prompts is mostly the launching of kernels: few passes, each over many. On a CPU it
# is arithmetic, and the padding of a pass is lost.
REFILL_SHARE = 32  # of the slots are free before prompts are read
PREFILL_TOGETHER = {"cpu": 8, "cuda": 64}
WINDOW = 4  # times the slots: requests sorted by length among themselves
# A CPU attends to so many rows at once, as far as the longest of them goes.
ROWS_ATTENDING = 16
SORT_EVERY = 32


@dataclass(frozen=True)
class Request:
    """One text to continue.

    Attributes:
        index: the caller's number; comes back with the completion.
        prompt_ids: token ids, at least one.
        max_new_tokens: upper bound of the response.
        temperature: 0 is greedy.
        seed: of this request alone.
    """

    index: int
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    temperature: float
    seed: int


@dataclass
class Completion:
    """A finished request.

    Attributes:
        ids: response tokens, the stop token included when one was reached.
        finish: ``stop``, ``length`` or ``loop`` (cut because the text repeats itself).
        features: float16 ``[len(prompt) + len(ids) - 1, K * H]`` of the capture layers, or None. The last token has
            none: it was never fed back.
    """

    request: Request
    ids: list[int]
    finish: str
    features: torch.Tensor | None


class SlotGenerator:
    """Continuous batching over ``slots`` sequences of at most ``max_length`` tokens.

    Args:
        target: a causal LM in eval mode; its attention implementation is switched while generating.
        slots: sequences decoded together.
        max_length: prompt and response together.
        stop_ids: token ids that end a response.
        capture_layers: target layers whose output is kept (layer i is ``output_hidden_states[i + 1]``).
        cut_loops: stop a response that repeats itself.
    """

    def __init__(
        self,
        target: PreTrainedModel,
        *,
        slots: int,
        max_length: int,
        stop_ids: Iterable[int],
        capture_layers: tuple[int, ...] = (),
        cut_loops: bool = True,
    ):
        self.target, self.slots, self.max_length = target, slots, max_length
        self.stop_ids = frozenset(stop_ids)
        self.capture_layers, self.cut_loops = tuple(capture_layers), cut_loops
        self.device = target.device
        self.cache = SlotCache(target, slots, max_length)
        width = len(self.capture_layers) * target.config.get_text_config().hidden_size
        self.features = torch.zeros(slots, max_length, width, dtype=torch.float16) if width else None
        self.requests: list[Request | None] = [None] * slots
        self.responses: list[list[int]] = [[] for _ in range(slots)]
        self.lengths = torch.zeros(slots, dtype=torch.long)
        self.steps = 0

    @torch.inference_mode()
    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Completions in the order in which they finish.

        Raises:
            ValueError: a request does not fit into ``max_length``.
        """
        pending = _alike(requests, WINDOW * self.slots)
        together = PREFILL_TOGETHER.get(self.device.type, PREFILL_TOGETHER["cuda"])
        config = self.target.config.get_text_config()
        previous, config._attn_implementation = config._attn_implementation, GROUPED_ATTENTION
        try:
            exhausted = False
            while True:
                free = [slot for slot in range(self.slots) if self.requests[slot] is None]
                if not exhausted and len(free) >= max(1, self.slots // REFILL_SHARE):
                    fresh = list(zip(free, itertools.islice(pending, min(len(free), together)), strict=False))
                    exhausted = not fresh
                    for (slot, asked), token in zip(fresh, self._prefill(fresh), strict=True):
                        yield from self._accept(slot, asked, token)
                    continue
                if len(free) == self.slots:
                    return
                tokens = self._decode()
                for slot in range(self.slots):
                    request = self.requests[slot]
                    if request is not None:
                        yield from self._accept(slot, request, int(tokens[slot]))
        finally:
            config._attn_implementation = previous
            self.requests = [None] * self.slots

    def _accept(self, slot: int, request: Request, token: int) -> Iterator[Completion]:
        response = self.responses[slot]
        response.append(token)
        finish = None
        if token in self.stop_ids:
            finish = "stop"
        elif len(response) >= request.max_new_tokens:
            finish = "length"
        elif self.cut_loops and len(response) % LOOP_CHECK_EVERY == 0 and loop_start(response) is not None:
            finish = "loop"
        if finish is None:
            return
        features = None
        if self.features is not None:
            features = self.features[slot, : len(request.prompt_ids) + len(response) - 1].clone()
        self.requests[slot] = None
        self.lengths[slot] = 0
        yield Completion(request, response, finish, features)

    def _prefill(self, fresh: list[tuple[int, Request]]) -> list[int]:
        """Read the prompts of ``fresh`` into their slots in one pass; returns the first token of each."""
        if not fresh:
            return []
        slots, requests = [slot for slot, _ in fresh], [request for _, request in fresh]
        for request in requests:
            length = len(request.prompt_ids)
            if length == 0 or length + request.max_new_tokens > self.max_length:
                raise ValueError(
                    f"request {request.index} has {length} prompt tokens and asks for {request.max_new_tokens} more; "
                    f"expected 1 or more and at most {self.max_length} together (max_length)"
                )
        lengths = torch.tensor([len(request.prompt_ids) for request in requests])
        longest, last = int(lengths.max()), torch.unique(lengths - 1)
        # Padded at the end: attention is causal, so nobody sees the padding before decoding has overwritten it.
        ids = torch.tensor([[*request.prompt_ids, *[0] * (longest - len(request.prompt_ids))] for request in requests])
        cache = DynamicCache(config=self.target.config)
        output = self.target(
            ids.to(self.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=last.to(self.device),
            output_hidden_states=bool(self.capture_layers),
        )
        self.cache.insert(slots, cache, longest)
        rows = torch.tensor(slots)
        self._keep_features(output, rows.repeat_interleave(longest), torch.arange(longest).repeat(len(slots)))
        for slot, request in fresh:
            self.requests[slot], self.responses[slot] = request, []
        self.lengths[rows] = lengths
        column = torch.searchsorted(last, lengths - 1).to(self.device)
        logits = output.logits[torch.arange(len(slots), device=self.device), column]
        return self._choose(logits, requests, lengths).tolist()

    def _sort_slots(self) -> None:
        """Rows of similar lengths side by side, for :func:`grouped_attention`."""
        order = self.lengths.argsort()
        self.requests = [self.requests[i] for i in order]
        self.responses = [self.responses[i] for i in order]
        self.lengths = self.lengths[order]
        self.cache.reorder_cache(order)
        if self.features is not None:
            self.features = self.features[order]

    def _decode(self) -> torch.Tensor:
        self.steps += 1
        if self.device.type == "cpu" and self.steps % SORT_EVERY == 0:
            self._sort_slots()
        tokens = torch.tensor([[r[-1] if q else 0] for q, r in zip(self.requests, self.responses, strict=True)])
        positions = self.lengths.clone()
        mask = self.cache.begin_step(positions)
        output = self.target(
            tokens.to(self.device),
            attention_mask=mask,
            position_ids=positions[:, None].to(self.device),
            past_key_values=self.cache,
            use_cache=True,
            output_hidden_states=bool(self.capture_layers),
        )
        self._keep_features(output, torch.arange(self.slots), positions)
        self.lengths += torch.tensor([request is not None for request in self.requests])
        return self._choose(output.logits[:, -1], self.requests, self.lengths)

    def _keep_features(self, output, rows: torch.Tensor, positions: torch.Tensor) -> None:
        if self.features is not None:
            layers = [output.hidden_states[layer + 1] for layer in self.capture_layers]
            kept = torch.cat(layers, dim=-1).flatten(0, 1)
            self.features[rows, positions] = kept.clamp(-65504, 65504).half().cpu()

    def _choose(
        self, logits: torch.Tensor, requests: Sequence[Request | None], positions: torch.Tensor
    ) -> torch.Tensor:
        """Next token of each row: argmax, or the inverse of the distribution at a number drawn for the position."""
        logits = logits.float()
        tokens = logits.argmax(-1)
        rows = [i for i, request in enumerate(requests) if request is not None and request.temperature > 0]
        if rows:
            seeds = torch.tensor([requests[i].seed for i in rows])  # type: ignore[union-attr]
            temperature = torch.tensor([requests[i].temperature for i in rows], device=self.device)  # type: ignore[union-attr]
            key = counter_key(seeds, positions[rows], 0, STREAM_PROPOSAL)
            draw = uniform((key[0][:, None], key[1][:, None]), torch.zeros(1, dtype=torch.long)).to(self.device)
            total = torch.softmax(logits[rows] / temperature[:, None], -1).cumsum(-1)
            picked = torch.searchsorted(total, draw * total[:, -1:]).clamp(max=logits.shape[-1] - 1)
            tokens[rows] = picked.squeeze(-1)
        return tokens.cpu()


def _alike(requests: Iterable[Request], window: int) -> Iterator[Request]:
    """Requests whose prompts have similar lengths one after the other: little of a pass is padding."""
    source = iter(requests)
    while some := list(itertools.islice(source, window)):
        yield from sorted(some, key=lambda request: len(request.prompt_ids))


class SlotCache(Cache):
    """One static key and value buffer per layer; in a decode step every row writes at its own position."""

    def __init__(self, target: PreTrainedModel, slots: int, max_length: int):
        config = target.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (slots, heads, max_length, head_dim)
        self.rows = torch.arange(slots, device=target.device)
        self.positions = torch.zeros(slots, dtype=torch.long, device=target.device)
        self.extent = 0
        super().__init__(
            layers=[_SlotLayer(self, shape, target.dtype, target.device) for _ in range(config.num_hidden_layers)]
        )

    def begin_step(self, positions: torch.Tensor) -> torch.Tensor:
        """Set where the rows write; returns the additive mask ``[slots, 1, 1, extent]`` of the step."""
        self.positions = positions.to(self.rows.device)
        self.extent = int(positions.max()) + 1
        columns = torch.arange(self.extent, device=self.rows.device)
        hidden = columns[None] > self.positions[:, None]
        dtype = self.layers[0].keys.dtype  # type: ignore[union-attr]
        return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(
            hidden, torch.finfo(dtype).min
        )[:, None, None]

    def insert(self, slots: list[int], cache: DynamicCache, length: int) -> None:
        """Copy prefilled sequences into ``slots``."""
        rows = torch.tensor(slots, device=self.rows.device)
        for mine, theirs in zip(self.layers, cache.layers, strict=True):
            mine.keys[rows, :, :length] = theirs.keys  # type: ignore[index]
            mine.values[rows, :, :length] = theirs.values  # type: ignore[index]


class _SlotLayer(CacheLayerMixin):
    def __init__(self, owner: SlotCache, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device):
        super().__init__()
        self.owner = owner
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        owner = self.owner
        self.keys[owner.rows, :, owner.positions] = key_states[:, :, 0]
        self.values[owner.rows, :, owner.positions] = value_states[:, :, 0]
        return self.keys[:, :, : owner.extent], self.values[:, :, : owner.extent]

    def lazy_initialization(self, key_states, value_states) -> None:
        pass

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.extent, 0

    def get_seq_length(self) -> int:
        return self.owner.extent

    def get_max_length(self) -> int:
        return self.keys.shape[2]


def grouped_attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Attention of one new token per row that reads each key/value head once.

    Transformers repeats the key and value heads for grouped queries, which on a CPU costs more than the attention.
    """
    batch, heads, queries, dim = query.shape
    if queries > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    # The heads of a group become the queries of their key/value head.
    grouped = query.view(batch, key.shape[1], -1, dim)
    attend = partial(F.scaled_dot_product_attention, scale=scaling)
    if key.is_cpu:
        parts = [part.split(ROWS_ATTENDING) for part in (grouped, key, value, attention_mask)]
        mixed = torch.cat([attend(*_within(*rows)) for rows in zip(*parts, strict=True)])
    else:
        mixed = attend(grouped, key, value, attention_mask)
    return mixed.reshape(batch, 1, heads, dim), None


def _within(query, key, value, mask):
    """Without the columns that no row sees."""
    extent = int((mask == 0).sum(-1).max())
    return query, key[:, :, :extent], value[:, :, :extent], mask[..., :extent]


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
AttentionMaskInterface.register(GROUPED_ATTENTION, sdpa_mask)
