"""Decodes embeddings, or a sentence, into phrases of a bank."""

from lightweight_decoder.shell.composing import run_command

if __name__ == "__main__":
    run_command("decode")
