"""Trains, tests and saves a decoder; ``python train.py --help`` lists everything to set."""

from lightweight_decoder.shell.composing import run_command

if __name__ == "__main__":
    run_command("train")
