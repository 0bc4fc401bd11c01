"""While the drafter rests, its KV cache is brought up to date late, many tokens at a time.

The context features of every token must be in the draft KV cache before the drafter reads them. During a rest nobody
does, and writing the few tokens of one step reads all the weights that writing hundreds does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

MAX_BYTES = 8 << 20

Write = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


class DeferredContext:
    """Context features of steps of plain decoding, until they are written.

    A slot that is freed may be given to another request, or filled by a transfer, before anything is written here. So
    rows that wait for a slot when it is freed never reach it (:meth:`forget`), and what waits is written before other
    requests decode and before any prefill, which may read it.

    Args:
        write: takes context features ``[N, F]``, KV slots and positions (int64 ``[N]``) to the draft KV cache.
        max_bytes: of features that wait; steps that would soon reach it are not made to wait at all, with 0 none is.
    """

    def __init__(self, write: Write, max_bytes: int):
        self.write, self.max_bytes, self.page_size = write, max_bytes, 1
        self._waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._bytes = 0
        self._freed: list[tuple[int, torch.Tensor]] = []
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

    def forget(self, pages: torch.Tensor) -> None:
        """These pages of KV slots are free: what waits for them now is written to slot 0, which belongs to nobody.

        Args:
            pages: int64 ``[N]``. Only noted here: what waits may still be on its way, on another stream than this one.
        """
        if self._waiting:
            self._freed.append((len(self._waiting), pages.clone()))

    def drop(self) -> None:
        """All KV slots are free: nothing is written of what waits."""
        self._waiting, self._freed, self._bytes = [], [], 0

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        waiting, freed = self._waiting, self._freed
        self._waiting, self._freed, self._bytes = [], [], 0
        features, slots, positions = (torch.cat(column) for column in zip(*waiting, strict=True))
        for steps, gone in freed:
            rows = sum(len(row[1]) for row in waiting[:steps])
            slots[:rows].masked_fill_(torch.isin(slots[:rows] // self.page_size, gone.to(slots.dtype)), 0)
        self.write(features, slots, positions)

    def heed(self, allocator: Any) -> None:
        """Hear of every slot that SGLang's allocator of KV slots gets back, whoever gives it."""
        self.page_size = allocator.page_size

        def told(name: str, pages_of: Callable[[torch.Tensor], torch.Tensor]) -> None:
            original = getattr(allocator, name)

            def free(index: torch.Tensor, **kwargs: Any) -> Any:
                self.forget(pages_of(index))
                return original(index, **kwargs)

            setattr(allocator, name, free)

        told("free", lambda slots: slots // self.page_size)
        told("free_segment", lambda slots: slots // self.page_size)
        told("free_page_ids", lambda pages: pages)
        clear = allocator.clear

        def cleared() -> None:
            self.drop()
            clear()

        setattr(allocator, "clear", cleared)  # noqa: B010
