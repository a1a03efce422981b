"""Entry point of `metarlgym`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from metarlgym.cli import (
    bench,
    check,
    eval,
    generate,
    list_envs,
    new_model,
    play,
    plot,
    pretrain,
    read,
    selflearn,
    serve,
    train,
    yardsticks,
)
from metarlgym.datatypes import MetaRLGymError
from metarlgym.runtime.faults import describe_fault
from metarlgym.runtime.interrupt import INTERRUPTED, Interrupted
from metarlgym.runtime.terminal import finish_output, prepare_output
from metarlgym.version import __version__

app = typer.Typer(
    name="metarlgym",
    help="Meta-reinforcement learning with language models: a gym of trials with known optima, and a trainer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.command("list")(list_envs.command)
app.command("play")(play.command)
app.command("check")(check.command)
app.command("train", context_settings=train.PASS_THROUGH)(train.command)
app.command("pretrain", context_settings=train.PASS_THROUGH)(pretrain.command)
app.command("selflearn", context_settings=train.PASS_THROUGH)(selflearn.command)
app.command("serve", context_settings=serve.PASS_THROUGH)(serve.command)
app.command("eval")(eval.command)
app.command("read")(read.command)
app.command("new-model")(new_model.command)
app.add_typer(bench.app, name="bench")
app.add_typer(generate.app, name="generate")
app.add_typer(plot.app, name="plot")
app.add_typer(yardsticks.app, name="yardsticks")


STOPPED = {
    "eval": "the evaluation is not done, and nothing is written; start the same command again.",
    "read": "the reading is not done, and nothing is written; start the same command again.",
}
"""What Ctrl-C leaves, of commands that write at their end."""


def _version(value: bool) -> None:
    if value:
        print(f"metarlgym {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit status. Errors a user can mend are one line."""
    prepare_output()
    status = _run(arguments)
    error = finish_output()
    return status if error is None or status else _complain(f"standard output: {describe_fault(error)}", 2)


def _run(arguments: Sequence[str] | None) -> int:
    command = typer.main.get_command(app)
    try:
        result: Any = command.main(
            list(sys.argv[1:] if arguments is None else arguments), prog_name="metarlgym", standalone_mode=False
        )
    except Interrupted as error:
        return _complain(str(error), error.status, "stopped: ", "bold yellow")
    except MetaRLGymError as error:
        return _complain(str(error), 2)
    except KeyboardInterrupt:
        name = next(iter(sys.argv[1:] if arguments is None else arguments), "")
        return _complain(STOPPED.get(name, "interrupted."), INTERRUPTED, "stopped: ", "bold yellow")
    except typer.Abort:
        return _complain("input ended", 1)
    except Exception as error:
        fault = describe_fault(error)
        if fault is not None:
            return _complain(fault, 2)
        # typer's own errors (unknown options and so on) know how to put themselves in words.
        if not hasattr(error, "format_message"):
            raise
        status = getattr(error, "exit_code", 2)
        if type(error).__name__ == "NoArgsIsHelpError":  # its help is on the screen already
            return status
        path = getattr(getattr(error, "ctx", None), "command_path", "metarlgym")
        return _complain(f"{error.format_message().rstrip('.')}. See {path} --help.", status)
    return result if isinstance(result, int) else 0


def _complain(message: str, status: int, mark: str = "error: ", style: str = "bold red") -> int:
    line = Text.assemble((mark, style), " ".join(message.split()))
    Console(stderr=True).print(line, soft_wrap=True, highlight=False)
    return status


if __name__ == "__main__":
    sys.exit(main())
