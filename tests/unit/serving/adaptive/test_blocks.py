"""What switching the length of the block rests on: all of upstream's buffers are known, and none is shared."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections import deque
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from sglang.srt.speculative.dflash_worker_v2 import DFlashWorkerV2

from domino_sglang.serving.adaptive import blocks as adaptive
from domino_sglang.serving.adaptive.blocks import (
    BUFFERS,
    SIZED_BY_THE_BLOCK,
    AdaptiveBlocks,
    RestingDrafter,
    check_flags,
)
from domino_sglang.serving.draft.proposer import NoProposer
from tests.support.paths import ROOT

TABLE = ROOT / "launch" / "adaptive" / "two-cores.json"
# Upstream's own greedy head, which DOMINO never calls, and one that nothing writes.
UNUSED = re.compile(r"_draft_greedy_|_draft_probs_buf")


def test_every_buffer_of_the_worker_is_switched():
    source = inspect.getsource(DFlashWorkerV2.__init__)
    found = set(re.findall(r"self\.(_\w+_(?:bufs?|buffer_\w+))\b", source))
    assert {name for name in found if not UNUSED.match(name)} == set(BUFFERS)


def test_whatever_upstream_makes_from_the_block_size_is_switched():
    tree = ast.parse(textwrap.dedent(inspect.getsource(DFlashWorkerV2.__init__)))
    made = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and "self.block_size" in ast.unparse(node.value or node):
            made.add(ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target))
    assert made >= {"self._block_pos_offsets", "self._draft_block_spec_info"}
    assert {name.removeprefix("self.") for name in made} <= set(SIZED_BY_THE_BLOCK)


def test_a_fresh_state_shares_no_buffer():
    before = SimpleNamespace(worker=dict.fromkeys(SIZED_BY_THE_BLOCK), target={}, draft={})
    blocks = SimpleNamespace(worker=SimpleNamespace(device="cpu"))
    one, other = (AdaptiveBlocks._fresh(blocks, before, width) for width in (1, 3))
    assert one.worker["block_size"] == 1 and other.worker["_block_pos_offsets"].tolist() == [0, 1, 2]
    for name, value in BUFFERS.items():
        assert one.worker[name] == value
        if isinstance(value, list):
            assert one.worker[name] is not other.worker[name] and one.worker[name] is not value


def test_the_table_in_launch_fits_the_packaged_drafter():
    args = dict(speculative_adaptive_config=str(TABLE), enable_two_batch_overlap=False, enable_pdmux=False)
    check_flags(SimpleNamespace(**args, speculative_num_draft_tokens=6))
    with pytest.raises(ValueError, match="names 5 proposals, and this server's block has at most 4"):
        check_flags(SimpleNamespace(**args, speculative_num_draft_tokens=5))


def test_a_target_with_mamba_layers_is_refused_in_words():
    blocks = SimpleNamespace(worker=SimpleNamespace(_need_mamba_verify_commit=True))
    with pytest.raises(ValueError, match=r"mamba layers.*drop --speculative-adaptive"):
        AdaptiveBlocks.init_states(blocks)


def test_a_resting_drafter_drafts_nothing_and_is_the_runner_in_all_else():
    proposer = NoProposer(target=None, device="cpu")
    resting = RestingDrafter(SimpleNamespace(pages=7), SimpleNamespace(proposer=proposer))
    assert resting.pages == 7
    proposer.stage(torch.tensor([0.5, 0.0]), torch.tensor([3, 4]))
    batch = SimpleNamespace(
        input_embeds=torch.randn(2, 4), input_ids=torch.tensor([1, 2]), positions=torch.tensor([8, 9])
    )
    hidden = resting.forward(batch).logits_output.hidden_states.view(2, 1, -1)
    assert hidden[:, 1:].reshape(-1, hidden.shape[-1]).shape[0] == 0
    block = proposer.block(2)
    assert block.draft.tokens.shape == block.draft.log_q.shape == (2, 0)
    assert block.sampling.position.tolist() == [8, 9]


def test_a_candidates_graphs_are_built_for_its_block_and_batch_sizes(monkeypatch):
    """On a GPU; the sizes are those that were captured, for the flag that names them is usually not given."""
    spec, graph = SimpleNamespace(speculative_num_draft_tokens=6), SimpleNamespace(decode=SimpleNamespace(bs=[1, 2, 8]))
    context = SimpleNamespace(override=lambda _who, **changes: vars(spec).update(changes))
    monkeypatch.setattr(adaptive, "get_spec", lambda: spec)
    monkeypatch.setattr(adaptive, "get_exec", lambda: SimpleNamespace(graph=SimpleNamespace(cuda_graph_config=graph)))
    monkeypatch.setattr(adaptive, "get_context", lambda: context)
    with pytest.raises(RuntimeError), adaptive._building_for(3, [1, 2]):
        assert spec.speculative_num_draft_tokens == 3 and graph.decode.bs == [1, 2]
        raise RuntimeError("out of memory")
    assert spec.speculative_num_draft_tokens == 6 and graph.decode.bs == [1, 2, 8]

    captured = SimpleNamespace(capture_bs=[1, 2, 8])
    runner = SimpleNamespace(decode_cuda_graph_runner=captured, eager_runner=None, token_to_kv_pool_allocator="slots")
    heeded = []
    worker = SimpleNamespace(_need_mamba_verify_commit=False, model_runner=runner, device="cuda")
    told = []
    controller = SimpleNamespace(register=lambda _state, _steps: None, init_states=told.append)
    blocks = SimpleNamespace(
        worker=worker,
        draft_runner=None,
        longest=5,
        controller=controller,
        context=SimpleNamespace(heed=heeded.append),
        _states={},
        _on_gpu=True,
    )
    monkeypatch.setattr(adaptive.BlockState, "of", lambda *_of: None)
    AdaptiveBlocks.init_states(blocks)
    assert heeded == ["slots"]
    assert told == [[1, 2, 8]]


def test_the_policy_hears_of_its_own_choices_alone():
    """Steps that seeds or the end of the pool have decided are settled in turn with the others, and not told."""
    told = []
    blocks = SimpleNamespace(
        longest=7,
        controller=SimpleNamespace(
            params=SimpleNamespace(get_steps_for_batch=lambda size: 3),
            on_verify_complete=lambda accepted, size: told.append((accepted, size)),
        ),
        _states={3: 3, 7: 7},
        _by_policy=deque(),
        context=SimpleNamespace(turn_to=lambda requests: None),
        observe=lambda proposals: None,
        resting=False,
    )
    blocks.apply_runtime_state = lambda state: setattr(blocks, "speculative_num_steps", state)
    blocks.proposals_for = partial(AdaptiveBlocks.proposals_for, blocks)

    def request(seed=None):
        return SimpleNamespace(rid="r", sampling_params=SimpleNamespace(sampling_seed=seed, top_k=50))

    steps = [([request()], 8), ([request(), request(5)], 8), ([request()], 2), ([request()], 4)]
    for number, (reqs, slots) in enumerate(steps):
        AdaptiveBlocks.choose(blocks, reqs, slots)
        assert blocks.speculative_num_steps == (7 if number == 1 else 3)
        # The overlap scheduler settles a step after the next one was chosen.
        if number:
            AdaptiveBlocks.settle(blocks, [number - 1], 1)
    AdaptiveBlocks.settle(blocks, [3], 1)
    assert told == [([0], 1), ([3], 1)]
