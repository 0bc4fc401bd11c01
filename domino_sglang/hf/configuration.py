"""The drafter's configuration as Transformers sees it: a Qwen3 configuration with ``dflash_config``."""

from __future__ import annotations

from typing import Any

from transformers import Qwen3Config

from domino_sglang.core.config import DominoConfig


class DominoDraftConfig(Qwen3Config):
    """Public checkpoints say ``model_type: qwen3`` and keep Domino's own fields in ``dflash_config``.

    :attr:`domino` is the same content, parsed and validated by :class:`~domino_sglang.core.config.DominoConfig`.
    """

    model_type = "qwen3"

    @property
    def domino(self) -> DominoConfig:
        """The validated view.

        Raises:
            CheckpointError: this is not the configuration of a Domino drafter.
        """
        return DominoConfig.from_dict(self.to_dict(), where=self.name_or_path or "config")

    def to_dict(self) -> dict[str, Any]:
        raw = super().to_dict()
        rope = raw.get("rope_parameters") or {}
        # SGLang and SpecForge of the Transformers 4 age read the flat field; both readers agree on the value.
        if "rope_theta" in rope:
            raw["rope_theta"] = rope["rope_theta"]
        return raw
