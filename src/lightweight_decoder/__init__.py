"""Turn embedding vectors back into text."""
