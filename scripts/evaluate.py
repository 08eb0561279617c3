"""Evaluates a finished run: metrics, predictions, and a report to browse."""

from lightweight_decoder.shell.composing import run_command

if __name__ == "__main__":
    run_command("evaluate")
