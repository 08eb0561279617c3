"""The command ``lightweight-decoder NAME …``: says which commands there are, and starts one.

It is at home here so that the list of commands costs neither torch nor Hydra.
"""

from __future__ import annotations

import difflib
import os
import sys

from lightweight_decoder import __version__

PROGRAM = "lightweight-decoder"
COMMANDS = {
    "train": "train, test and save a decoder, or sweep through settings with -m",
    "build-bank": "build a phrase bank from texts, or from texts with vectors of their own",
    "decode": "decode embeddings, or a sentence, into phrases of a bank",
    "evaluate": "evaluate a finished run on its own test split",
    "calibrate": "teach a decoder how sure it may be of its answers",
    "verify-bank": "read a whole bank and say everything that is wrong with it",
    "doctor": "say which accelerators work on this machine, and why the others do not",
}
_COMPLETION = ("-sc", "--shell-completion")


def main() -> None:
    """Run what was typed after the program's name.

    Raises:
        SystemExit: With status 2 where there is no such command, else with that of the command.
    """
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in _COMPLETION:
        name, arguments = _completed_command(), sys.argv[1:]
    if name in ("-h", "--help"):
        print(_overview())  # noqa: T201 - what was asked for
    elif name == "--version":
        print(PROGRAM, __version__)  # noqa: T201 - what was asked for
    elif (typed := name.replace("_", "-")) in COMMANDS:
        from lightweight_decoder.shell.composing import run_command  # noqa: PLC0415 - slow

        sys.argv[0] = PROGRAM
        run_command(typed.replace("-", "_"), arguments)
    else:
        sys.stderr.write(_no_such_command(name))
        raise SystemExit(2)


def _overview() -> str:
    """Return what ``--help`` says."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    return (
        f"usage: {PROGRAM} COMMAND [key=value …]\n\n{listed}\n\n"
        f"{PROGRAM} COMMAND --help lists all that can be set. Paths are meant from the current"
        f' folder.\nCompletion in bash and zsh: eval "$({PROGRAM} -sc install=bash)"'
    )


def _no_such_command(name: str) -> str:
    """Return the message that names what was meant, where that can be guessed."""
    nearest = difflib.get_close_matches(name.replace("_", "-"), COMMANDS, n=1)
    guess = "".join(f" Did you mean {each}?" for each in nearest)
    return f"{PROGRAM}: there is no command {name!r}.{guess} There are: {', '.join(COMMANDS)}\n"


def _completed_command() -> str:
    """Return the command whose arguments a shell wants completed.

    A shell that wants the name of a command is answered here. Hydra, which knows programs of one
    command only, is shown the line without the program's name.
    """
    line = os.environ.get("COMP_LINE")
    if line is None:  # the completion itself is installed or removed, the same for all commands
        return next(iter(COMMANDS))
    name, blank, rest = line.lstrip().partition(" ")[2].lstrip().partition(" ")
    if not blank or name.replace("_", "-") not in COMMANDS:
        print(*(each for each in COMMANDS if each.startswith(name)), sep="\n")  # noqa: T201
        raise SystemExit
    os.environ["COMP_LINE"] = f"{name} {rest}"
    return name


if __name__ == "__main__":
    main()
