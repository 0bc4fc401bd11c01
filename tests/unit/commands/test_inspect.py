"""``domino-sglang inspect``: the exit status, every problem, and numbers that can be checked by hand."""

from __future__ import annotations

import argparse
import copy
import json

import pytest
import torch
from safetensors.torch import save_file

from domino_sglang.checkpoint import check_checkpoint, expected_tensors
from domino_sglang.commands.inspect import add_arguments, costs, run
from domino_sglang.core.config import DominoConfig
from tests.support.drafters import SMALL
from tests.support.drafters import SMALL_TARGET as TARGET

RAW = SMALL | {"architectures": ["DFlashDraftModel"], "num_hidden_layers": 3}


@pytest.fixture
def drafter(tmp_path):
    folder = tmp_path / "drafter"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(RAW))
    shapes = expected_tensors(DominoConfig.from_dict(RAW))
    save_file({n: torch.zeros(e.shape, dtype=torch.bfloat16) for n, e in shapes.items()}, folder / "model.safetensors")
    return folder


@pytest.fixture
def target(tmp_path):
    return target_folder(tmp_path, TARGET)


def target_folder(tmp_path, config):
    folder = tmp_path / "target"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def inspect(capsys, *arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    status = run(parser.parse_args([str(a) for a in arguments]))
    return status, capsys.readouterr().out


def test_a_good_checkpoint(capsys, drafter):
    status, text = inspect(capsys, drafter)
    assert status == 0
    for words in (
        "block_size",
        "layers.0..2.mlp.up_proj.weight",
        "[48, 32]",
        "prefix GRU",
        "draft KV cache",
        "OK:",
        "--target",
    ):
        assert words in text
    assert text.count("mlp.up_proj.weight") == 1, "layers that look alike share a row"
    assert "problem" not in text


def test_with_a_target_that_fits(capsys, drafter, target):
    status, text = inspect(capsys, drafter, "--target", target, "--num-draft-tokens", 4)
    assert status == 0 and "fits the target" in text
    assert not any(line.endswith(" no") for line in text.splitlines())
    for words in ("hidden size", "vocabulary", "capture layers", "0, 2, 4", "mask token", "4 requested"):
        assert words in text


def test_with_a_target_that_does_not(capsys, drafter, tmp_path):
    folder = target_folder(tmp_path, {"hidden_size": 64, "vocab_size": 60, "num_hidden_layers": 6})
    status, text = inspect(capsys, drafter, "--target", folder, "--num-draft-tokens", 9)
    assert status == 1
    lines = [line for line in text.splitlines() if line.startswith("problem: ")]
    assert len(lines) == 3 and "3 problems" in text
    assert any("found 32, expected the target's 64" in line for line in lines)
    assert any("found 50, expected the target's 60" in line for line in lines)
    assert any("--speculative-num-draft-tokens" in line for line in lines)


def test_draft_tokens_without_a_target(capsys, drafter):
    assert inspect(capsys, drafter, "--num-draft-tokens", 8)[0] == 0
    status, text = inspect(capsys, drafter, "--num-draft-tokens", 9)
    assert status == 1 and "2 to 8" in text


def test_a_drafter_of_fewer_positions_than_the_target(capsys, drafter, tmp_path):
    (drafter / "config.json").write_text(json.dumps(RAW | {"max_position_embeddings": 256}))
    folder = target_folder(tmp_path, TARGET | {"max_position_embeddings": 512})
    status, text = inspect(capsys, drafter, "--target", folder)
    assert status == 1 and "found 256 in its config.json, expected at least 512" in text
    assert "--context-length 256" in text
    status, text = inspect(capsys, drafter, "--target", folder, "--context-length", 256)
    assert status == 0 and "fits the target" in text
    assert inspect(capsys, drafter, "--context-length", 257)[0] == 1


def test_every_problem_is_listed_and_the_target_still_compared(capsys, drafter, tmp_path):
    shapes = expected_tensors(DominoConfig.from_dict(RAW))
    tensors = {n: torch.zeros(e.shape, dtype=torch.bfloat16) for n, e in shapes.items()}
    del tensors["norm.weight"]
    tensors["fc.weight"] = torch.zeros(2, 2, dtype=torch.bfloat16)
    save_file(tensors, drafter / "model.safetensors")
    folder = target_folder(tmp_path, TARGET | {"hidden_size": 64})
    status, text = inspect(capsys, drafter, "--target", folder)
    assert status == 1 and "3 problems" in text
    for words in ("norm.weight is missing", "fc.weight", "[2, 2]", "hidden_size is unlike"):
        assert words in text


def test_not_a_drafter(capsys, tmp_path, drafter):
    status, text = inspect(capsys, tmp_path / "nowhere", "--target", tmp_path)
    assert status == 1 and "1 problem:" in text
    raw = copy.deepcopy(RAW)
    raw["dflash_config"]["projector_type"] = "none"
    (drafter / "config.json").write_text(json.dumps(raw))
    status, text = inspect(capsys, drafter)
    assert status == 1 and "not a Domino drafter" in text


def test_an_unreadable_target(capsys, drafter, tmp_path):
    (tmp_path / "empty").mkdir()
    status, text = inspect(capsys, drafter, "--target", tmp_path / "empty")
    assert status == 1 and "no config.json in the target" in text


def test_warnings_do_not_fail(capsys, drafter):
    shapes = expected_tensors(DominoConfig.from_dict(RAW))
    tensors = {n: torch.zeros(e.shape, dtype=torch.bfloat16) for n, e in shapes.items()}
    tensors["lm_head.weight"] = torch.zeros(50, 32, dtype=torch.bfloat16)
    save_file(tensors, drafter / "model.safetensors")
    status, text = inspect(capsys, drafter)
    assert status == 0 and "warning: lm_head.weight" in text


def test_json(capsys, drafter, target, tmp_path):
    status, text = inspect(capsys, drafter, "--target", target, "--json")
    found = json.loads(text)
    assert status == 0 and found["ok"] is True and found["problems"] == []
    assert found["tensors"]["fc.weight"] == {"shape": [32, 96], "bytes": 6144, "file": "model.safetensors"}
    assert found["parameters"]["total"] == sum(found["parameters"][p] for p in found["parameters"] if p != "total")
    assert found["dtype"] == "bfloat16" and found["config"]["target_layer_ids"] == [0, 2, 4]
    assert all(row["fits"] for row in found["fits"])
    target_folder(tmp_path, TARGET | {"vocab_size": 51})
    status, text = inspect(capsys, drafter, "--target", target, "--json")
    found = json.loads(text)
    assert status == 1 and found["ok"] is False
    assert found["problems"][0]["found"] == "50" and found["problems"][0]["expected"] == "the target's 51"


def test_costs_by_hand(drafter):
    report = check_checkpoint(drafter)
    cost = costs(report)
    layer = 32 * (32 + 16 + 16 + 32) + 16 + 3 * 32 * 48 + 64
    backbone, context = 3 * layer + 32, 32 * 96 + 32
    gru, correction = 30 * 32 + 30 * 10, 6 * 42 + 50 * 6
    assert cost["weights"] == 2 * (backbone + context + gru + correction)
    assert cost["read_per_draft_step"] == 2 * (backbone + context + 7 * gru + 6 * correction)
    assert cost["kv_per_token"] == 2 * 3 * 2 * 8 * 2
    assert cost["base_logits_per_request"] == 7 * 50 * 2
    assert cost["target_lm_head_read"] == 50 * 32 * 2
