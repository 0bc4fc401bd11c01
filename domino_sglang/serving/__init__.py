"""Everything that touches SGLang: the algorithm, its admission, and the worker of one decode step."""
