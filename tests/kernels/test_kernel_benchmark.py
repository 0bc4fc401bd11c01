"""The benchmark's parts that need no GPU: floors, SGLang's function out of a wheel, comparison, table and plot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.util import find_spec, module_from_spec

import pytest
import torch

from tests.support.paths import ROOT

BENCHMARK = ROOT / "benchmarks" / "kernels"


def tiny_model():
    from rollout_arms import make_inputs, make_model
    from rollout_shapes import ModelShape

    shape = ModelShape("tiny", hidden=32, vocab=211, num_units=16, rank=8, num_proposals=5)
    model = make_model(shape, torch.device("cpu"))
    return model, make_inputs(model, 3)


def test_without_a_gpu_it_says_so_and_prints_what_it_can():
    command = [sys.executable, str(BENCHMARK / "rollout.py"), "--archs", "90"]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "no CUDA GPU on this machine" in done.stdout and "owed" in done.stdout
    lines = done.stdout.splitlines()
    assert any(line.split()[:2] == ["qwen3-8b", "365"] for line in lines)  # microseconds at batch 1
    compiled = [line.split() for line in lines if " sm_90 " in line]
    assert {"gru", "project", "scan", "finalize"} <= {row[0] for row in compiled}
    registers, spilled = zip(*((int(row[-4]), int(row[-3])) for row in compiled), strict=True)
    assert all(0 < count <= 255 for count in registers) and set(spilled) == {0}


def test_the_bonus_draws_floors_and_resources_without_a_gpu():
    command = [sys.executable, str(BENCHMARK / "bonus.py"), "--shapes", "qwen3-8b", "--batches", "1"]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert "owed" in done.stdout
    # W2's 77.8 MB, and 6 bytes for each of 151936 tokens.
    assert ["qwen3-8b", "26"] in lines
    (row,) = [line for line in lines if line[:2] == ["residual", "sm_90"]]
    assert row[-3] == "0"  # spilled


def test_floors_are_those_of_the_design():
    from rollout_shapes import SHAPES

    shape = SHAPES["qwen3-8b"]
    assert shape.w2_bytes == 77_791_232
    # 363 us for W2 alone; the base logits of 15 rows add 1.5.
    assert shape.floor_us(1, 3.0e12) == pytest.approx(363.0 + 1.5, abs=0.1)
    assert shape.floor_us(32, 3.0e12) == pytest.approx(411.7, abs=0.1)


@pytest.mark.parametrize("imported", [False, True])
def test_upstream_comes_out_of_a_wheel_without_sglang(tmp_path, monkeypatch, imported):
    from rollout_arms import UPSTREAM_FILE, load_upstream

    # Whatever this process has imported, only the path counts.
    if imported:
        monkeypatch.setitem(sys.modules, "sglang", module_from_spec(find_spec("sglang")))
    else:
        monkeypatch.delitem(sys.modules, "sglang", raising=False)
    wheel = tmp_path / "sglang-0.0.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as out:
        out.writestr(
            UPSTREAM_FILE, "from __future__ import annotations\ndef domino_greedy_rollout(**_):\n    return 7\n"
        )
    assert load_upstream(wheel).domino_greedy_rollout(draft_hidden=None) == 7
    monkeypatch.setattr(sys, "path", [str(wheel)])
    assert load_upstream(None).domino_greedy_rollout() == 7
    monkeypatch.setattr(sys, "path", [])
    assert load_upstream(None) is None


def test_every_arm_drafts_the_oracles_tokens():
    """SGLang's exact path and the PyTorch rollout, in bfloat16, against float32; differences must be near-ties."""
    from rollout_arms import load_upstream, torch_arm, upstream_arm
    from rollout_timing import count_differences, run_oracle

    upstream = load_upstream(None)
    model, inputs = tiny_model()
    oracle = run_oracle(model, inputs)
    for arm in (torch_arm(model, inputs), upstream_arm(upstream, model, inputs, 0)):
        with torch.no_grad():
            found = count_differences(model, inputs, oracle, arm.call())
        assert found.requests == found.near_ties, (arm.name, found)
    wrong = oracle.tokens.clone()
    wrong[1, 2] = (wrong[1, 2] + 1) % 211
    found = count_differences(model, inputs, replace(oracle), wrong)
    assert found.requests == 1 and found.largest_gap > 0


def test_table_plot_and_rows(tmp_path, capsys):
    from rollout_report import append_row, print_floors, print_ratios, print_row, write_plot

    # Made-up numbers, chosen so that the ratios are easy: nothing here is a measurement.
    common = dict(shape="tiny", batch=1, floor_us=10.0, gb_per_s=None, extra_mb=0.0, differing_requests=None)
    times = {"LM head": 100.0, "torch": 60.0, "sglang pool 2048": 160.0, "ours": 20.0}
    rows = [common | {"arm": arm, "median_us": time, "warm_median_us": time} for arm, time in times.items()]
    rows.append({"arm": "ours sampled", "error": "broken", "shape": "tiny", "batch": 1, "floor_us": 10.0})
    for row in rows:
        print_row(row)
        append_row(tmp_path / "results.jsonl", row)
    print_ratios(rows)
    print_floors()
    write_plot(rows, tmp_path / "latency.png", "tiny")
    printed = capsys.readouterr().out
    assert "torch / ours 3.00x" in printed
    assert "sglang pool 2048 / ours 3.00x without the LM head, 1.33x with it in both" in printed
    assert "ours sampled         failed: broken" in printed
    assert [json.loads(line)["arm"] for line in (tmp_path / "results.jsonl").read_text().splitlines()] == [
        *times,
        "ours sampled",
    ]
    assert (tmp_path / "latency.png").stat().st_size > 1000


def made_up(shape: str, batch: int, **times: float | None) -> list[dict]:
    """Rows of invented times by arm; None is an arm that failed."""
    rows = []
    for arm, time in times.items():
        result = {"error": "broken"} if time is None else {"median_us": time}
        rows.append({"shape": shape, "batch": batch, "floor_us": 10.0, "arm": arm} | result)
    return rows


def test_targets_are_judged_by_the_worst_measurement(capsys):
    from rollout_targets import print_targets

    print_targets([])
    assert capsys.readouterr().out.count(": owed") == 4
    times = {"torch": 60.0, "LM head": 100.0, "sglang pool 2048": 160.0, "sglang pool 0": 150.0}
    print_targets(
        [
            *made_up("small", 1, **times, ours=12.0),
            *made_up("small", 64, **times, ours=40.0),
        ]
    )
    printed = capsys.readouterr().out
    assert "pool of 2048, at every B: missed, worst of 2 is 1.50x" in printed
    assert "pool 0 at B=1: met, worst of 1 is 4.17x" in printed
    assert "floor at B=1: met, worst of 1 is 1.20x" in printed
    assert "PyTorch rollout: missed, worst of 2 is 1.50x" in printed


@pytest.mark.parametrize("flat", [False, True])
def test_bytes_are_counted_by_what_each_proposal_read(flat):
    from rollout_bytes import TILE, ByteCount, shadow_of, table

    from domino_sglang.core.head import Draft, corrected_logits

    vocab, rank, proposals, prefix = 3 * TILE - 7, 32, 5, 2
    w2 = torch.randn(vocab, rank) * (1.0 if flat else 0.4) ** torch.arange(rank)
    base, correction = 3 * torch.randn(1, proposals, vocab), torch.randn(1, proposals, rank)
    tokens = corrected_logits(base[0], correction[0], w2).argmax(-1)[None]
    tokens[0, 4] = (tokens[0, 4] + 1) % vocab  # as if the full scan had chosen another
    count = ByteCount(w2, prefix, shadow_of(w2))
    count.block(Draft(tokens, base, base, correction), base)
    assert (count.same, len(count.tokens)) == (2, proposals - prefix)
    printed = "\n".join(table(count))
    assert "66.67%" in printed
    if flat:
        assert count.certified().tolist() == [2.0 * vocab * rank] * 3 and "spectrum of W2 is flat" in printed
        return
    assert count.shadow.kept == 4
    # Six bytes of every row, and of each tile a row of W2, a bound and a score.
    once = 6 * vocab + 3 * (64 + 8)
    for read, tokens_left, tiles_left in zip(count.certified().tolist(), count.tokens, count.tiles, strict=True):
        assert 1 <= tiles_left <= min(3, tokens_left)
        assert read == once + tiles_left * TILE * 6 + tokens_left * 64
