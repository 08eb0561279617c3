"""The decoder: candidates to answers, with a confidence."""
