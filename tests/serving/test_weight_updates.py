"""New weights for the target of a running scheduler: text and proposals are those of the new target, or of the old one
where the new weights do not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.serving.test_layouts import PROMPTS, Layout, Oracle, compare
from tests.support.drafters import write_drafter
from tests.support.targets import write_target

NEW_TOKENS = 16


def test_the_target_served_is_the_last_that_fitted(fork_server, tmp_path):
    first, second, third = (write_target(tmp_path / f"target-{seed}", seed=seed) for seed in range(3))
    drafter = write_drafter(tmp_path / "drafter", first)
    lacking, misshapen, half_loaded = _unfit(third, tmp_path)
    # What comes before each prompt, whether it succeeds, and the target that is served then.
    steps = [
        (None, None, first),
        (("disk", str(second)), True, second),
        (("disk", str(lacking)), False, second),
        (("disk", str(misshapen)), False, second),
        (("disk", str(half_loaded)), False, second),
        (("disk", str(tmp_path / "nowhere")), False, second),
        (("tensor", str(third)), True, third),
        (("tensor", str(misshapen)), False, None),
        (("disk", str(first)), True, first),
    ]
    argv = ["--model-path", str(first), "--dtype", "float32"]
    argv += ["--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(drafter)]
    answer = fork_server.ask(
        "generate",
        argv=argv,
        prompts=[PROMPTS[0]] * len(steps),
        max_new_tokens=NEW_TOKENS,
        out=str(tmp_path / "blocks.pt"),
        updates=[update for update, _, _ in steps],
    )
    assert "value" in answer, answer
    assert [success for success, _ in answer["value"]["updates"]] == [success for _, success, _ in steps[1:]], answer
    oracles = {target: Oracle(target, drafter, torch.float32, None) for target in (first, second, third)}
    for (_, _, target), served in zip(steps, torch.load(tmp_path / "blocks.pt"), strict=True):
        if target is None:
            continue
        oracle, sequence = oracles[target], served["prompt"] + served["output"]
        assert served["output"] == oracle.greedy(served["prompt"], NEW_TOKENS)
        assert served["blocks"]
        for block in served["blocks"]:
            if block["position"] < len(sequence):
                compare(block, oracle, sequence, Layout())


def _unfit(target: Path, folder: Path) -> list[Path]:
    """Three copies of a target: without a tensor, with a wrong shape, and one that fails when most of it is loaded."""
    tensors = load_file(target / "model.safetensors")
    name = "model.layers.3.mlp.down_proj.weight"
    lacking = {other: tensor for other, tensor in tensors.items() if other != name}
    misshapen = tensors | {name: torch.zeros(7, 5)}
    copies = [shutil.copytree(target, folder / kind) for kind in ("lacking", "misshapen", "half-loaded")]
    save_file(lacking, copies[0] / "model.safetensors")
    save_file(misshapen, copies[1] / "model.safetensors")
    (copies[2] / "model.safetensors").unlink()
    torch.save(lacking | {name: misshapen[name]}, copies[2] / "pytorch_model.bin")
    return copies
