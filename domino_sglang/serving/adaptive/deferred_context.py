"""While the drafter rests, its KV cache is brought up to date late, many tokens at a time.

The context features of every token must be in the draft KV cache before the drafter reads them. During a rest nobody
does, and writing the few tokens of one step reads all the weights that writing hundreds does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

MAX_BYTES = 8 << 20

Write = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


class DeferredContext:
    """Context features of steps of plain decoding, until they are written.

    A slot that a request has left may be given to another one. So whatever waits is written before other requests
    decode, and before any prefill: what is written later belongs there.

    Args:
        write: takes context features ``[N, F]``, KV slots and positions (int64 ``[N]``) to the draft KV cache.
        max_bytes: of features that wait; steps that would soon reach it are not made to wait at all, with 0 none is.
    """

    def __init__(self, write: Write, max_bytes: int):
        self.write, self.max_bytes = write, max_bytes
        self._waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._bytes = 0
        self._requests: list[str] = []

    def add(self, features: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor) -> None:
        """Write these rows now or later; features may have rows of padding at their end."""
        features = features[: len(slots)]
        if 2 * features.nbytes > self.max_bytes:
            self.flush()
            self.write(features, slots, positions)
            return
        # All three are views of buffers that the next step overwrites.
        self._waiting.append((features.clone(), slots.clone(), positions.clone()))
        self._bytes += features.nbytes
        if self._bytes >= self.max_bytes:
            self.flush()

    def turn_to(self, requests: Sequence[str]) -> None:
        """Before a step of plain decoding of these requests, by id."""
        if self._requests != list(requests):
            self.flush()
            self._requests = list(requests)

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            waiting, self._waiting, self._bytes = self._waiting, [], 0
            self.write(*(torch.cat(column) for column in zip(*waiting, strict=True)))
