"""Calibrates a decoder on queries whose right phrases are known."""

from lightweight_decoder.shell.composing import run_command

if __name__ == "__main__":
    run_command("calibrate")
