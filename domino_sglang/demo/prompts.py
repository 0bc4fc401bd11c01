"""What the demo asks."""

CHAT_PROMPTS = (
    "Explain in three sentences why the sky is blue.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Tom has 3 boxes with 12 pencils each and gives away 9 pencils. How many are left? Think step by step.",
    "List five things to pack for a weekend hike.",
    "Translate into French: The library opens at nine in the morning.",
    "Write a short poem about the sea.",
)
