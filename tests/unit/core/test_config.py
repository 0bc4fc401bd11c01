"""The drafter's config.json: every layout that must load, every mistake and its words."""

from __future__ import annotations

import copy
import json

import pytest

from domino_sglang.core.config import CheckpointError, DominoConfig

GOOD = {
    "architectures": ["DominoDraftModel"],
    "hidden_size": 64,
    "vocab_size": 100,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "rms_norm_eps": 1e-5,
    "block_size": 8,
    "num_target_layers": 6,
    "dflash_config": {
        "mask_token_id": 99,
        "target_layer_ids": [0, 2, 4],
        "projector_type": "domino",
        "pure_draft_prefix_len": 1,
        "emb_dim": 12,
        "gru_hidden_dim": 20,
        "shift_label": True,
    },
}
REMOVED = object()


def changed(**changes):
    """GOOD with fields replaced, or taken away; ``dflash__name`` reaches into dflash_config."""
    raw = copy.deepcopy(GOOD)
    for name, value in changes.items():
        place, key = (raw["dflash_config"], name[8:]) if name.startswith("dflash__") else (raw, name)
        if value is REMOVED:
            del place[key]
        else:
            place[key] = value
    return raw


def test_fields_and_symbols():
    config = DominoConfig.from_dict(GOOD)
    assert (config.H, config.V, config.G, config.R, config.K, config.S) == (64, 100, 20, 12, 3, 7)
    assert config.num_proposals == 7 and config.target_layer_ids == (0, 2, 4) and config.rms_norm_eps == 1e-5
    assert config.raw == GOOD and config.raw is not GOOD


@pytest.mark.parametrize("architectures", [["DominoDraftModel"], ["DFlashDraftModel"], ["Other", "DFlashDraftModel"]])
@pytest.mark.parametrize("projector", ["domino", "causal_v5"])
def test_both_architectures_and_the_alias(architectures, projector):
    assert DominoConfig.from_dict(changed(architectures=architectures, dflash__projector_type=projector)).S == 7


def test_first_row_follows_shift_label():
    assert DominoConfig.from_dict(changed(dflash__shift_label=True)).first_row == 0
    assert DominoConfig.from_dict(changed(dflash__shift_label=False)).first_row == 1


@pytest.mark.parametrize("length", range(8))
def test_every_pure_draft_prefix_len(length):
    assert DominoConfig.from_dict(changed(dflash__pure_draft_prefix_len=length)).pure_draft_prefix_len == length


def test_fields_at_top_level():
    raw = copy.deepcopy(GOOD)
    raw |= raw.pop("dflash_config")
    assert DominoConfig.from_dict(raw).R == 12
    assert DominoConfig.from_dict(changed(emb_dim=12)).R == 12
    assert DominoConfig.from_dict(changed(dflash__emb_dim=REMOVED, emb_dim=5)).R == 5


def test_defaults():
    raw = changed(num_key_value_heads=REMOVED, head_dim=REMOVED, rms_norm_eps=REMOVED)
    config = DominoConfig.from_dict(raw)
    assert (config.num_key_value_heads, config.head_dim, config.rms_norm_eps) == (4, 16, 1e-6)
    assert config.attention_bias is False


def test_specforges_defaults_for_what_a_domino_configuration_leaves_out():
    assert DominoConfig.from_dict(GOOD).assumed == ()
    raw = changed(dflash__projector_type=REMOVED, dflash__pure_draft_prefix_len=REMOVED, dflash__shift_label=REMOVED)
    config = DominoConfig.from_dict(raw)
    assert (config.pure_draft_prefix_len, config.shift_label) == (0, False)
    assert config.assumed == ("projector_type", "pure_draft_prefix_len", "shift_label")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"dflash__projector_type": "mlp"}, ["not a Domino drafter", "'mlp'", "'domino'", "DFLASH"]),
        ({"dflash__projector_type": REMOVED, "dflash__emb_dim": REMOVED}, ["not a Domino drafter", "None"]),
        ({"dflash_config": REMOVED}, ["not a Domino drafter"]),
        ({"architectures": ["Qwen3DSparkModel"]}, ["not a Domino drafter", "Qwen3DSparkModel", "algorithm DSPARK"]),
        ({"architectures": ["DFlash2BeamDraftModel"]}, ["not a Domino drafter", "algorithm DFLASH"]),
        ({"architectures": ["XPressDraftModel"]}, ["not a Domino drafter", "no algorithm here serves it"]),
        ({"dflash__lilicorr_rank": 4}, ["not a Domino drafter", "the field lilicorr_rank", "algorithm DFLASH"]),
        ({"dflash_config": [1]}, ["dflash_config is list", "JSON object"]),
        ({"architectures": ["LlamaForCausalLM"]}, ["architectures", "LlamaForCausalLM", "DominoDraftModel"]),
        ({"architectures": REMOVED}, ["architectures is []"]),
        ({"architectures": 5}, ["architectures is 5"]),
        ({"architectures": "DominoDraftModel"}, ["architectures is 'DominoDraftModel'"]),
        ({"architectures": [{}]}, ["architectures is [{}]"]),
        ({"block_size": 1}, ["block_size is 1", "at least 2"]),
        ({"block_size": 0}, ["block_size is 0"]),
        ({"block_size": "16"}, ["block_size is '16'", "integer"]),
        ({"block_size": REMOVED}, ["block_size is missing"]),
        ({"hidden_size": REMOVED}, ["hidden_size is missing"]),
        ({"hidden_size": True}, ["hidden_size is True"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers is 0", "at least 1"]),
        ({"num_target_layers": REMOVED}, ["num_target_layers is missing"]),
        ({"num_key_value_heads": 3}, ["num_attention_heads 4", "num_key_value_heads 3"]),
        ({"rms_norm_eps": "tiny"}, ["rms_norm_eps is 'tiny'", "positive number"]),
        ({"rms_norm_eps": 0}, ["rms_norm_eps is 0"]),
        ({"attention_bias": "no"}, ["attention_bias is 'no'", "true or false"]),
        ({"dflash__mask_token_id": 100}, ["mask_token_id is 100", "vocabulary of 100"]),
        ({"dflash__mask_token_id": -1}, ["mask_token_id is -1"]),
        ({"dflash__mask_token_id": REMOVED}, ["mask_token_id is missing", "dflash_config"]),
        ({"dflash__pure_draft_prefix_len": 8}, ["pure_draft_prefix_len is 8", "0 to 7"]),
        ({"dflash__emb_dim": REMOVED}, ["emb_dim is missing"]),
        ({"emb_dim": 13}, ["emb_dim is 13 at top level but 12 in dflash_config"]),
        ({"dflash__block_size": 16}, ["block_size is 8 at top level but 16"]),
        ({"dflash__gru_hidden_dim": 0}, ["gru_hidden_dim is 0"]),
        ({"dflash__shift_label": 1}, ["shift_label is 1", "true or false"]),
        ({"dflash__target_layer_ids": []}, ["target_layer_ids is []", "non-empty"]),
        ({"dflash__target_layer_ids": 3}, ["target_layer_ids is 3"]),
        ({"dflash__target_layer_ids": [0, "2"]}, ["target_layer_ids"]),
        ({"dflash__target_layer_ids": [0, 5]}, ["[5]", "0 to 4", "last layer cannot be captured"]),
        ({"dflash__target_layer_ids": [-1, 2]}, ["[-1]"]),
        ({"dflash__target_layer_ids": [2, 0]}, ["ascending"]),
        ({"dflash__target_layer_ids": [2, 2]}, ["without repeats"]),
    ],
)
def test_every_mistake_is_named(changes, words):
    with pytest.raises(CheckpointError) as error:
        DominoConfig.from_dict(changed(**changes), where="drafter/config.json")
    message = str(error.value)
    assert message.startswith("drafter/config.json") and "\n" not in message
    for word in words:
        assert word in message, message


def test_not_an_object():
    with pytest.raises(CheckpointError, match="holds list, expected a JSON object"):
        DominoConfig.from_dict([])


def test_from_pretrained(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json in .*--speculative-draft-model-path"):
        DominoConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON .*download"):
        DominoConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(GOOD))
    assert DominoConfig.from_pretrained(str(tmp_path)).H == 64
