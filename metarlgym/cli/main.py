"""Entry point of the `metarlgym` command."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from metarlgym.author_errors import error_text
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
from metarlgym.runtime.faults import describe_exit, describe_fault
from metarlgym.runtime.interrupt import Interrupted, status_of, stoppable
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
    "yardsticks": "the table is not done, and nothing is written; start the same command again.",
    "play": "the trial is not done, and nothing is written.",
    "plot": "the picture is not done, and nothing is written; start the same command again.",
    "new-model": "the model is not done; start the same command again.",
    "check": "not all contracts are checked; start the same command again.",
    "serve": "the server is stopped.",
}
"""State left behind by Ctrl-C and SIGTERM, by command."""


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
    """Run; returns the exit status. Errors that the user can fix are printed as one line."""
    prepare_output()
    status = _run(arguments)
    error = finish_output()
    return status if error is None or status else _complain(f"standard output: {describe_fault(error)}", 2)


def _run(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = typer.main.get_command(app)
    try:
        # Not `command.main`, which silently ends a command at Ctrl-C. Commands receive Ctrl-C as Python's own
        # exception: `serve` still has to end its server when a second one arrives.
        with stoppable(signal.SIGTERM), command.make_context("metarlgym", words) as context:
            result: Any = command.invoke(context)
    except typer.Exit as error:
        return error.exit_code
    except Interrupted as error:
        return _complain(str(error), error.status, "stopped: ", "bold yellow")
    except MetaRLGymError as error:
        return _complain(error_text(error), 2)
    except KeyboardInterrupt as error:
        text = STOPPED.get(next(iter(words), ""), "nothing more is done.")
        return _complain(text, status_of(type(error)), "stopped: ", "bold yellow")
    except (typer.Abort, EOFError):
        return _complain("input ended", 1)
    except SystemExit as error:
        return _complain(describe_exit(error), 2)
    except Exception as error:
        fault = describe_fault(error)
        if fault is not None:
            return _complain(fault, 2)
        # typer's own errors (unknown options and so on) format themselves.
        if not hasattr(error, "format_message"):
            raise
        status = getattr(error, "exit_code", 2)
        if type(error).__name__ == "NoArgsIsHelpError":  # its help has already been printed
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
