"""``domino-sglang bench soak``: a server under mixed load for a long time."""
