"""``domino-sglang bench sweep``: arms side by side over a range of concurrency."""
