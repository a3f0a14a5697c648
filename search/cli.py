"""The program `loss-search`: its commands, and the one place where errors become messages and exit codes.

    0  complete        2  bad input                       4  damaged or foreign run directory
    1  the run failed  3  stopped, `resume` continues it

Commands import what they need when they are called: `--help` must not wait for torch and Ray.
"""

from __future__ import annotations

import atexit
import errno
import gc
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from search import (
    commands_about,
    commands_cluster,
    commands_compare,
    commands_confirm,
    commands_data,
    commands_explain,
    commands_read,
    commands_report,
    commands_run,
)
from search.console import complain, say, shown_path
from search.errors import LossSearchError
from search.session import Session
from trainables.errors import BadCheckpoint, BadData

__all__ = ["main"]

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENAMETOOLONG)
OBJECTS = 50_000  # new ones before Python looks for garbage; with its own 700, imports take a quarter longer

# Python would look through all objects of torch, Ray and Matplotlib before it ends: a second.
atexit.register(gc.freeze)

app = typer.Typer(
    name="loss-search",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for command in (
    commands_run.run,
    commands_run.resume,
    commands_confirm.confirm,
    commands_run.validate,
    commands_run.train,
    commands_read.show,
    commands_explain.explain,
    commands_report.report,
    commands_compare.compare,
    commands_read.check,
    commands_read.export,
    commands_read.tensorboard,
    commands_about.families,
    commands_about.spaces,
    commands_about.doctor,
    commands_cluster.submit,
    commands_cluster.status,
    commands_cluster.logs,
    commands_cluster.stop,
    commands_cluster.fetch,
):
    app.command()(command)
app.add_typer(commands_data.data, name="data")
app.add_typer(commands_cluster.cluster, name="cluster")


def _print_version(wanted: bool) -> None:
    if wanted:
        from search.run_directory import version

        say(f"loss-search {version()}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    with_traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error came from, too.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find the loss design of a model: term weights, focal gamma, class weights, schedules.

    \b
    Begin with:
      loss-search run beta_vae --quick-test
    """
    context.obj.traceback = with_traceback


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (by default that of the command line) and return its exit code."""
    gc.set_threshold(OBJECTS, *gc.get_threshold()[1:])
    session = Session()
    try:
        typer.main.get_command(app)(args=arguments, prog_name="loss-search", obj=session)
    except SystemExit as end:  # how a command ends, with bad usage (2) too
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except LossSearchError as error:
        return _tell(error, str(error), error.exit_code, session)
    except BadData as error:
        return _tell(error, str(error), 2, session)
    except BadCheckpoint as error:
        return _tell(error, str(error), 4, session)
    except OSError as error:
        if error.errno in FULL_DISK:
            return _full_disk(error, session)
        if error.errno in REFUSED and error.filename is not None:
            return _refused(error, session)
        return _bug(error, session)
    except Exception as error:
        # The rim of the program: what was not foreseen becomes one line, and its traceback goes to run.log.
        return _bug(error, session)
    return 0


def _tell(error: Exception, message: str, code: int, session: Session) -> int:
    if session.traceback:
        complain("".join(traceback.format_exception(error)).rstrip())
    complain(message)
    return code


def _full_disk(error: OSError, session: Session) -> int:
    where = error.filename or session.run or "the disk"
    message = f"{where}: no space left ({error.strerror}); free some"
    if session.run is None:
        return _tell(error, message, 1, session)
    return _tell(
        error, f"{message}, then continue with: loss-search resume {shown_path(session.run)}", 3, session
    )


def _refused(error: OSError, session: Session) -> int:
    """The file system does not let us: bad input before a search has begun, a stop afterwards."""
    message = f"{error.filename}: cannot be used ({error.strerror}); make it writable, or use another place"
    if session.run is None:
        return _tell(error, message, 2, session)
    return _tell(
        error, f"{message}; then continue with: loss-search resume {shown_path(session.run)}", 3, session
    )


def _bug(error: Exception, session: Session) -> int:
    whole = "".join(traceback.format_exception(error)).rstrip()
    first = (str(error).splitlines() or ["no message"])[0]
    where = "run it again with --traceback before the command to see more"
    if session.log is not None and session.log.parent.is_dir():
        try:
            with session.log.open("a", encoding="utf-8") as file:
                file.write(f"{whole}\n")
            where = f"the traceback is in {shown_path(session.log)}"
        except OSError as other:
            where += f" ({session.log} cannot be written: {other.strerror})"
    message = f"{type(error).__name__}: {first}\nthis is a bug in loss-search or in the family; {where}"
    return _tell(error, message, 1, session)


if __name__ == "__main__":
    sys.exit(main())
