"""Builds a phrase bank from texts, or from texts with vectors of their own."""

from lightweight_decoder.shell.composing import run_command

if __name__ == "__main__":
    run_command("build_bank")
