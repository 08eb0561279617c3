"""Training data: sources of queries and the phrases they should decode to."""
