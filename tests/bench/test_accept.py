"""Offline acceptance on a target of a few thousand weights."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from domino_sglang.bench.accept.replay import Drafts, Shape, replay, write_text
from domino_sglang.bench.accept.report import AcceptData, write_report
from domino_sglang.bench.accept.rows import AcceptRow, AcceptSettings, Way
from domino_sglang.bench.common import rows
from domino_sglang.core.tree import select
from domino_sglang.hf import DominoDraftModel
from tests.support.drafters import write_drafter

VOCAB = 40


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        vocab_size=VOCAB,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    target = LlamaForCausalLM(config).eval()
    folder = write_drafter(tmp_path_factory.mktemp("drafter"), config.to_dict(), block_size=4)
    return target, DominoDraftModel.from_pretrained(folder, dtype="float32")


PROMPT = torch.tensor([[3, 1, 4, 1, 5]])


TEXT = {"max_new_tokens": 24, "stops": set()}


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize(("topk", "proposals"), [(1, 1), (1, 3), (3, 2), (3, 9)])
def test_a_replay_commits_what_generation_does(models, temperature, topk, proposals):
    """Step for step the tokens of ``spec_generate``, which verifies with the target itself."""
    target, drafter = models
    for seed in range(3):
        text = write_text(drafter, target, PROMPT, temperature=temperature, seed=seed, **TEXT)
        generated = drafter.spec_generate(
            target, PROMPT, 24, temperature, seed=seed, stop_token_ids=[], topk=topk, num_draft_tokens=proposals + 1
        )
        assert text.tokens.tolist() == generated.sequences[0].tolist()
        steps = replay([text], Drafts(drafter, target, Shape(topk)), proposals)[0]
        *whole, last = generated.acceptance
        assert steps == [*whole, 23 - sum(whole)] and steps[-1] <= last


def test_the_head_can_be_left_out(models):
    target, drafter = models
    text = write_text(drafter, target, PROMPT, temperature=0.0, seed=0, **TEXT)
    generated = drafter.spec_generate(target, PROMPT, 24, stop_token_ids=[], topk=2, head=False)
    assert text.tokens.tolist() == generated.sequences[0].tolist()
    assert replay([text], Drafts(drafter, target, Shape(2, head=False)), 3)[0][:-1] == generated.acceptance[:-1]


def test_a_text_ends_with_the_stop(models):
    target, drafter = models
    text = write_text(drafter, target, PROMPT, temperature=0.0, seed=0, **TEXT)
    answer = text.tokens[text.prompt :].tolist()
    options = {"max_new_tokens": 24, "stops": {answer[7]}}
    cut = write_text(drafter, target, PROMPT, temperature=0.0, seed=0, **options)
    assert cut.tokens[cut.prompt :].tolist() == answer[: answer.index(answer[7]) + 1]


def test_a_ragged_batch_ends_every_text_and_never_spends_more_than_its_budget(models, monkeypatch):
    target, drafter = models
    texts = [
        write_text(drafter, target, prompt, temperature=t, seed=1, max_new_tokens=length, stops=set())
        for prompt, t, length in ((PROMPT, 0.0, 24), (PROMPT[:, :3], 0.0, 9), (PROMPT[:, 1:], 0.0, 2))
    ]
    totals, from_module = [], "domino_sglang.bench.accept.replay.select"

    def watched(candidates, roots, total):
        totals.append((len(roots), total))
        return select(candidates, roots, total)

    monkeypatch.setattr(from_module, watched)
    drafts = Drafts(drafter, target, Shape(3))
    steps = replay(texts, drafts, 1.5)
    assert [sum(committed) for committed in steps] == [23, 8, 1]
    assert all(total == active + round(1.5 * active) for active, total in totals)
    assert {active for active, _ in totals} == {1, 2, 3} or {active for active, _ in totals} == {1, 3}
    monkeypatch.undo()
    assert replay(texts, drafts, 0) == [[1] * 23, [1] * 8, [1]], "no proposal is plain decoding"


def test_the_report_is_a_table_by_workload(tmp_path):
    settings = AcceptSettings(["chat", "maths"], [0.0, 1.0], [1, 3], topk=4, num_prompts=1, max_tokens=8, seed=0)
    file = tmp_path / "rows.jsonl"
    rows.begin(file, settings)
    chain, tree = Way(1, True, False), Way(4, True, True)
    for workload in settings.workloads:
        for temperature in settings.temperatures:
            for proposals in settings.proposals:
                committed = [2, 1] if workload == "chat" else [2, 3]
                rows.append(file, AcceptRow(workload, 0, temperature, chain, proposals, [1, 2]))
                rows.append(file, AcceptRow(workload, 0, temperature, tree, proposals, committed))
    data = AcceptData.read(tmp_path)
    assert data.length("chat", 0.0, chain, 1) == 1.5
    assert data.length("mean", 1.0, tree, 3) == 2.0
    text = write_report(tmp_path).read_text()
    assert "| proposals | chain | tree, ragged |" in text
    assert "| 3 | 1.50 | 2.00 |" in text and "### Greedy, chat" in text and "## Temperature 1" in text
    assert (tmp_path / "acceptance.png").read_bytes().startswith(b"\x89PNG")
