"""The phrase bank on disk: build, open, verify."""
