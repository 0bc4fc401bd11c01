"""What the measurements share: rows, statistics, arms and their servers."""
