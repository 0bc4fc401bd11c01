"""Offline acceptance on a target of a few thousand weights."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from domino_sglang.bench.accept.offline import GREEDY, Drafting, decode, decode_plainly
from domino_sglang.bench.accept.report import AcceptData, write_report
from domino_sglang.bench.accept.rows import AcceptRow, AcceptSettings
from domino_sglang.bench.common import rows
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


@pytest.mark.parametrize("head", [True, False])
def test_greedy_decoding_gives_the_targets_own_text(models, head):
    target, drafter = models
    options = {"temperature": 0.0, "max_new_tokens": 24, "stops": set()}
    trace = decode(drafter, target, PROMPT, Drafting(head, GREEDY), **options)
    assert trace.tokens == decode_plainly(target, PROMPT, **options).tokens
    committed, after_prefill = [n + 1 for n in trace.accepted], len(trace.tokens) - 1
    assert sum(committed[:-1]) < after_prefill <= sum(committed), "only the last step may be cut at the limit"
    assert trace.seconds > 0


def test_decoding_ends_with_the_stop(models):
    target, drafter = models
    options = {"temperature": 0.0, "max_new_tokens": 24}
    tokens = decode(drafter, target, PROMPT, Drafting(True, GREEDY), stops=set(), **options).tokens
    stop = tokens[7]
    cut = decode(drafter, target, PROMPT, Drafting(True, GREEDY), stops={stop}, **options).tokens
    assert cut == tokens[: tokens.index(stop) + 1]


def test_greedy_drafts_keep_the_targets_distribution(models):
    """The second new token against the target's own distribution."""
    target, drafter = models
    draws = 300
    counts = torch.zeros(VOCAB)
    for seed in range(draws):
        options = {"temperature": 1.0, "max_new_tokens": 2, "stops": set(), "seed": seed}
        counts[decode(drafter, target, PROMPT, Drafting(True, GREEDY), **options).tokens[1]] += 1
    with torch.inference_mode():
        first = torch.softmax(target(PROMPT).logits[0, -1].float(), -1)
        second = target(torch.cat([PROMPT.expand(VOCAB, -1), torch.arange(VOCAB)[:, None]], 1)).logits[:, -1].float()
        expected = first @ torch.softmax(second, -1)
    distance = 0.5 * (counts / draws - expected).abs().sum()
    # As many draws from it lie about 0.14 away; greedy drafts taken as they are would lie at 0.8.
    assert distance < 0.25, f"total variation {distance:.3f}"


def test_the_report_is_a_table_by_workload(tmp_path):
    settings = AcceptSettings(["chat", "maths"], [0.0, 1.0], num_prompts=1, max_tokens=8, seed=0)
    file = tmp_path / "rows.jsonl"
    rows.begin(file, settings)
    for workload in settings.workloads:
        for temperature in settings.temperatures:
            rows.append(file, AcceptRow(workload, 0, temperature, "AR", "", [], 8, 2.0))
            for drafts in ("sampled", "greedy") if temperature else ("greedy",):
                rows.append(file, AcceptRow(workload, 0, temperature, "base", drafts, [1, 0, 1, 0], 8, 2.0))
                accepted = [3, 1] if workload == "chat" else [2, 2]
                rows.append(file, AcceptRow(workload, 0, temperature, "DOMINO", drafts, accepted, 8, 1.0))
    data = AcceptData.read(tmp_path)
    assert data.length("chat", 0.0, ("DOMINO", "greedy")) == 3.0
    assert data.length("mean", 0.0, ("base", "greedy")) == 1.5
    assert data.speedup("mean", 1.0, ("DOMINO", "sampled")) == pytest.approx(2.0)
    assert data.by_position(0.0, ("DOMINO", "greedy")) == [1.0, 0.75, 0.25]
    text = write_report(tmp_path).read_text()
    assert "| DOMINO | greedy | 3.00 (2.00x) | 3.00 (2.00x) | 3.00 (2.00x) | 4 |" in text
    assert "| drafter | drafts | chat | maths | mean | verify steps |" in text
    assert (tmp_path / "acceptance.png").read_bytes().startswith(b"\x89PNG")
