"""``domino-sglang doctor`` and ``inspect``: what keeps DOMINO from serving, and what a checkpoint is."""
