"""Names that a server and those around it agree on: the project's environment variables, and the parts of a step.

``docs/operators.md`` has the same variables in a table; a test holds the two together.
"""

from __future__ import annotations

# Folder for prepared models; default: the user's cache folder.
CACHE = "DOMINO_SGLANG_CACHE"
# "1" makes a server time the parts of its decode steps (``domino:step_seconds_total`` on /metrics).
STEP_TIMER = "DOMINO_STEP_TIMER"
# API key that the playground sends to the servers it shows.
PLAYGROUND_API_KEY = "DOMINO_PLAYGROUND_API_KEY"
# Seconds after which a benchmark's request counts as lost; default 900.
BENCH_REQUEST_TIMEOUT = "DOMINO_BENCH_REQUEST_TIMEOUT_S"

ENVIRONMENT_VARIABLES = (CACHE, STEP_TIMER, PLAYGROUND_API_KEY, BENCH_REQUEST_TIMEOUT)

# Where a decode step's time goes (``serving.observe.step_timer`` says what each means).
STEP_PARTS = ("draft", "head", "verify", "accept", "commit", "scheduler")
