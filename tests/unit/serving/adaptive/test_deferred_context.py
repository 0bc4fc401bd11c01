"""Context features written late: whoever reads the draft KV cache finds what would be there had they come at once."""

from __future__ import annotations

import random

import pytest
import torch

from domino_sglang.serving.adaptive.deferred_context import DeferredContext

SLOTS, WIDTH = 24, 3


class Cache:
    """Stands for the draft KV cache: a feature row and a position for each slot."""

    def __init__(self):
        self.rows, self.writes = torch.zeros(SLOTS, WIDTH + 1), 0

    def write(self, features, slots, positions):
        assert features.shape == (len(slots), WIDTH) and len(slots.unique()) == len(slots)
        self.rows[slots] = torch.cat((features, positions[:, None].float()), 1)
        self.writes += 1


def steps(seed: int):
    """A server's life: requests come, decode with and without drafts, leave; their slots go to others at once."""
    rng = random.Random(seed)
    free, running = list(range(SLOTS)), {}
    for number in range(200):
        for name in [name for name, slots in running.items() if rng.random() < 0.1 or len(slots) > 9]:
            free += running.pop(name)
        if rng.random() < 0.15 and len(free) > 4:
            running[f"r{number}"] = [free.pop() for _ in range(2)]
            yield "prefill", [], running[f"r{number}"], [0, 1]
        # Requests that find no slot are put off, as SGLang retracts them.
        for name in list(running)[len(free) :]:
            free += running.pop(name)
        if running:
            new = {name: free.pop(0) for name in running}
            positions = [len(slots) for slots in running.values()]
            for name, slot in new.items():
                running[name].append(slot)
            yield rng.choice(["rest"] * 6 + ["draft"]), list(running), list(new.values()), positions


@pytest.mark.parametrize("max_bytes", [1 << 20, 8 * 4 * WIDTH, 0])
@pytest.mark.parametrize("seed", range(5))
def test_whoever_reads_the_cache_finds_all_of_it(seed, max_bytes):
    ours, at_once = Cache(), Cache()
    late, features, slots, positions = DeferredContext(ours.write, max_bytes), *buffers()
    kinds = set()
    for kind, requests, new_slots, new_positions in steps(seed):
        kinds.add(kind)
        count = len(new_slots)
        # One set of buffers for every step, as in SGLang, and a row of padding.
        features[: count + 1].normal_()
        slots[:count], positions[:count] = torch.tensor(new_slots), torch.tensor(new_positions)
        if kind == "rest":
            late.turn_to(requests)
            late.add(features[: count + 1], slots[:count], positions[:count])
        else:
            if kind == "prefill":
                late.flush()
            else:
                late.turn_to([])
            assert torch.equal(ours.rows, at_once.rows)
            ours.write(features[:count], slots[:count], positions[:count])
        at_once.write(features[:count], slots[:count], positions[:count])
    assert kinds == {"prefill", "rest", "draft"}
    assert ours.writes < at_once.writes if max_bytes else ours.writes == at_once.writes


def buffers():
    return torch.zeros(SLOTS + 1, WIDTH), torch.zeros(SLOTS, dtype=torch.int64), torch.zeros(SLOTS, dtype=torch.int64)


def test_what_waits_is_bounded_and_a_large_step_is_written_at_once():
    cache = Cache()
    late, (features, slots, positions) = DeferredContext(cache.write, max_bytes=10 * 4 * WIDTH), buffers()
    late.turn_to(["a"])
    for number in range(9):
        late.add(features[:1], slots[:1] + number, positions[:1])
    assert cache.writes == 0
    late.add(features[:1], slots[:1] + 9, positions[:1])
    assert cache.writes == 1
    late.add(features[:1].fill_(7), slots[:1] + 9, positions[:1])
    late.add(features[:6].fill_(8), torch.arange(6), positions[:6])
    assert cache.writes == 3 and cache.rows[9, 0] == 7 and cache.rows[:6, 0].tolist() == [8] * 6


@pytest.mark.parametrize("page_size", [1, 4])
def test_a_slot_that_was_freed_keeps_what_its_next_owner_gets(page_size):
    """A request that has rested ends, and a transfer from another server fills its slots before any step here."""
    pool = torch.zeros(SLOTS, WIDTH)

    def write(features, slots, positions):
        pool[slots] = features

    late, (features, _slots, positions) = DeferredContext(write, 1 << 20), buffers()
    allocator = Allocator(page_size)
    late.heed(allocator)
    late.turn_to(["stays", "ends"])
    stays, ends = list(range(4, 8)), list(range(8, 12))
    for pair in zip(stays, ends, strict=True):
        late.add(features[:2].fill_(7), torch.tensor(pair), positions[:2])
    allocator.free(torch.tensor(ends))
    pool[ends] = 9.0  # transferred
    late.add(features[:1].fill_(8), torch.tensor([12]), positions[:1])
    late.turn_to(["stays", "transferred"])
    assert pool[ends].unique().tolist() == [9.0]
    assert pool[stays].unique().tolist() == [7.0] and pool[12, 0] == 8
    assert allocator.freed == [ends]


def test_a_slot_that_is_given_back_to_a_resting_request_is_written():
    pool = torch.zeros(SLOTS, WIDTH)

    def write(features, slots, positions):
        pool[slots] = features

    late, (features, _slots, positions) = DeferredContext(write, 1 << 20), buffers()
    late.turn_to(["a"])
    late.add(features[:1].fill_(7), torch.tensor([5]), positions[:1])
    late.forget(torch.tensor([5]))
    late.add(features[:1].fill_(8), torch.tensor([5]), positions[:1])
    late.flush()
    assert pool[5].unique().tolist() == [8.0]


def test_an_emptied_pool_gets_nothing():
    cache = Cache()
    late, (features, slots, positions) = DeferredContext(cache.write, 1 << 20), buffers()
    allocator = Allocator(1)
    late.heed(allocator)
    late.add(features[:1], slots[:1] + 3, positions[:1])
    allocator.clear()
    late.flush()
    assert cache.writes == 0


class Allocator:
    """SGLang's allocators as far as they take slots back."""

    def __init__(self, page_size: int):
        self.page_size, self.freed = page_size, []

    def free(self, free_index):
        self.freed.append(free_index.tolist())

    def free_segment(self, free_index, *, start_pos):
        self.free(free_index)

    def free_page_ids(self, page_ids): ...

    def clear(self): ...
