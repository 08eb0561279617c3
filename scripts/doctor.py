"""Say which accelerators work on this machine and why the others do not."""

from lightweight_decoder.shell.composing import run_command

if __name__ == "__main__":
    run_command("doctor")
