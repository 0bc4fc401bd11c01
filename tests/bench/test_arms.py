import json

import pytest

from domino_sglang.bench.common.arms import ArmError, build_arms, headless_copy
from tests.support.drafters import write_drafter

TARGET = {"hidden_size": 16, "vocab_size": 64, "num_hidden_layers": 4}


@pytest.fixture
def drafter(tmp_path):
    return write_drafter(tmp_path / "drafter", TARGET)


def test_the_base_arm_is_the_same_drafter_with_its_head_off(drafter, tmp_path):
    from domino_sglang.checkpoint import check_checkpoint

    base = headless_copy(drafter, tmp_path / "base")
    config = check_checkpoint(base).config
    assert config.pure_draft_prefix_len == config.num_proposals
    assert (base / "model.safetensors").resolve() == (drafter / "model.safetensors").resolve()
    own = json.loads((drafter / "config.json").read_text())
    copied = json.loads((base / "config.json").read_text())
    assert own["dflash_config"].pop("pure_draft_prefix_len") == 1
    copied["dflash_config"].pop("pure_draft_prefix_len")
    assert own == copied


def test_arms_of_every_origin(drafter, tmp_path):
    arms = build_arms(
        ["AR", "base", "DOMINO"],
        common=["--model-path", "target"],
        drafter=drafter,
        workspace=tmp_path,
        extra=["NGRAM=--speculative-algorithm NGRAM --speculative-num-draft-tokens 8"],
        urls=["mine=http://127.0.0.1:1/"],
    )
    assert [arm.name for arm in arms] == ["AR", "base", "DOMINO", "NGRAM", "mine"]
    assert arms[0].flags == ("--model-path", "target")
    assert arms[1].flags[-1] == str(tmp_path / "base-drafter")
    assert arms[3].flags[2:] == ("--speculative-algorithm", "NGRAM", "--speculative-num-draft-tokens", "8")
    assert arms[4].url == "http://127.0.0.1:1" and not arms[4].flags


@pytest.mark.parametrize(
    ("names", "extra", "words"),
    [
        (["EAGLE"], [], "EAGLE"),
        (["AR", "AR"], [], "twice"),
        (["AR"], ["nothing"], "NAME=VALUE"),
        (["DOMINO"], [], "--drafter"),
        ([], [], "no arms"),
    ],
)
def test_what_cannot_be_an_arm_is_said(tmp_path, names, extra, words):
    with pytest.raises(ArmError, match=words):
        build_arms(names, common=[], drafter=None, workspace=tmp_path, extra=extra)
