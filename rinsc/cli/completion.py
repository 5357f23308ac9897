"""``rinsc completion``: a script by which a shell completes commands and options."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from rinsc.cli.output import print_json, print_result


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(name="SHELL")],
    /,
    *,
    json: bool = False,
) -> None:
    """Print a script that completes rinsc's commands, options and choices in your shell.

    In bash: rinsc completion bash > ~/.local/share/bash-completion/completions/rinsc

    Parameters
    ----------
    json
        Print the shell and its script as JSON.
    """
    from rinsc.cli import app

    script = app().generate_completion(prog_name="rinsc", shell=shell)
    if json:
        print_json({"shell": shell, "script": script})
    else:
        print_result(script)
