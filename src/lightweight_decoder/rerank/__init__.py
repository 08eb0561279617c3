"""The learned parts: query adapter and listwise reranker."""
