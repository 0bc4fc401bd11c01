"""A page that shows what every verify step committed, and a race of two servers."""
