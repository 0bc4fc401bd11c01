"""``domino-sglang bench accept``: acceptance length without a server."""
