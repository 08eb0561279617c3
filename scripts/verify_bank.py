"""Reads a whole bank and says everything that is wrong with it."""

from lightweight_decoder.shell.composing import run_command

if __name__ == "__main__":
    run_command("verify_bank")
