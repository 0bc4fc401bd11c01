"""``domino-sglang bench``: concurrency sweeps, acceptance tables and a soak, against SGLang's real server.

Servers run as subprocesses; nothing here imports sglang.
"""
