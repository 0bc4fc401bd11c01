"""What an operator sees: counters and the time of a step's parts."""
