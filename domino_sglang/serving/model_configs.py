"""The configurations of target and drafter as SGLang reads them: their files, and every flag that changes them."""

from __future__ import annotations

import json
from dataclasses import fields, replace

from sglang.srt.arg_groups.model_override_base import model_config_of
from sglang.srt.configs.model_config import ModelConfig
from sglang.srt.environ import envs
from sglang.utils import is_in_ci

from domino_sglang.checkpoint import CheckpointReport, check_checkpoint, local_folder
from domino_sglang.core.config import CheckpointError, DominoConfig


def read_target(args) -> ModelConfig:
    """As the target's worker will have it."""
    return model_config_of(args)


def longer_contexts_allowed() -> bool:
    """Whether SGLang widens a drafter that has fewer positions than the target's context."""
    return envs.SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN.get() or is_in_ci()


def read_drafter(args) -> CheckpointReport:
    """The drafter's checkpoint, its weights' headers checked, with the configuration its worker will have.

    Raises:
        CheckpointError: one line: value, expectation, fix.
    """
    path = args.speculative_draft_model_path
    if not path:
        raise CheckpointError(
            "--speculative-draft-model-path is missing, and DOMINO needs a Domino drafter trained for "
            f"{args.model_path!r}; pass its folder or its name on the Hugging Face Hub"
        )
    # Fetched to where SGLang's loader looks for it.
    folder = local_folder(
        path,
        what="--speculative-draft-model-path",
        revision=args.speculative_draft_model_revision,
        cache_dir=args.download_dir,
    )
    report = check_checkpoint(folder)
    served = _as_served(args, report)
    _check_same_drafter(report, served, args.json_model_override_args)
    return replace(report, config=served)


def _as_served(args, report: CheckpointReport) -> DominoConfig:
    try:
        model = ModelConfig.from_server_args(
            args,
            model_path=args.speculative_draft_model_path,
            model_revision=args.speculative_draft_model_revision,
            is_draft_model=True,
            context_length=1,  # the target's is not known yet, and no drafter has fewer positions
        )
        return DominoConfig.from_dict(model.hf_config.domino, where=f"{report.path} as SGLang reads it")
    except CheckpointError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise CheckpointError(
            f"SGLang cannot read the configuration of the drafter {str(report.path)!r} ({type(error).__name__}: "
            f"{reason}); correct its config.json, or the flag that changes it, or export the checkpoint again"
        ) from None


def _check_same_drafter(report: CheckpointReport, served: DominoConfig, overrides: str) -> None:
    """Refuse flags and defaults that make another drafter of the stored one."""
    for field in fields(DominoConfig):
        stored, read = getattr(report.config, field.name), getattr(served, field.name)
        # Positions may be more than the drafter was trained with, the rest is its shape.
        if field.name in ("raw", "max_position_embeddings") or stored == read:
            continue
        fix = f"write {field.name} into its config.json"
        if field.name in json.loads(overrides):
            fix = f"SGLang applies --json-model-override-args to it as well; drop {field.name} there"
        raise CheckpointError(
            f"the drafter {str(report.path)!r} has {field.name} {stored} and would be served with {read}; {fix}"
        )
