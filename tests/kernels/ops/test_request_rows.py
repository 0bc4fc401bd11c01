"""SGLang's kernel that notes a step's KV slots in its request's row, at the end of the context."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sglang.srt.mem_cache import allocation, allocation_sizing
from sglang.srt.plugins import load_plugins

from domino_sglang.serving import slots

CONTEXT = 96


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("block", [2, 8, 9, 16, 64])
def test_the_next_row_is_left_alone(monkeypatch, device, block, page_size):
    load_plugins()
    spec = SimpleNamespace(
        speculative_algorithm="DOMINO",
        speculative_num_steps=1,
        speculative_eagle_topk=1,
        speculative_num_draft_tokens=block,
    )
    for module in (allocation_sizing, slots):
        monkeypatch.setattr(module, "get_spec", lambda: spec)
    monkeypatch.setattr(allocation_sizing, "max_speculative_num_draft_tokens", lambda: block)
    monkeypatch.setattr(allocation_sizing, "get_alloc_page_size", lambda: page_size)
    width = CONTEXT + allocation_sizing.get_req_to_token_extra_context_len()

    # An unfinished request of this length, behind which a step reserves twice the block.
    committed, rows = torch.tensor([CONTEXT - 4] * 2, device=device), torch.tensor([1, 4], device=device)
    end = (committed + 2 * block + page_size - 1) // page_size * page_size
    new = torch.arange(1, 1 + int((end - committed).sum()), device=device)
    # The last row is followed by other tensors.
    memory = torch.zeros(5 * width + 4 * block, dtype=torch.int32, device=device)
    allocation.assign_req_to_token_pool[(2,)](rows, memory, committed, end, new, width, 2)
    table, behind = memory[: 5 * width].view(5, width), memory[5 * width :]
    assert torch.equal(table[rows, CONTEXT - 4 : int(end[0])].flatten(), new.int())
    table[rows] = 0
    assert not table.any() and not behind.any()
