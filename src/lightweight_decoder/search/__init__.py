"""Queries and a bank in, candidates out."""
