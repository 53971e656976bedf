"""How a command ends: from an exception to an exit code and one line on stderr."""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from flows.terminal import tell, write
from mmgen.errors import GateError, MmgenError

INTERRUPTED, FAULT, MISTAKE = 130, 3, 2
# click's UsageError, wherever this version of typer keeps its click
_UsageError: Any = typer.BadParameter.__bases__[0]


class SaidNo(GateError):
    """A gate or a check said no, and the command has given its answer already."""


class _InterruptedError(Exception):
    """Ctrl-C, as something that typer does not answer by itself."""


class _UnreadError(Exception):
    """Whoever read the output went away; likewise."""


class Group(TyperGroup):
    """A group of commands whose interruptions come to `ending`."""

    def invoke(self, ctx: Any) -> Any:
        try:
            answer = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt as error:
            raise _InterruptedError from error
        except BrokenPipeError as error:
            raise _UnreadError from error
        return answer


def ending(app: typer.Typer, arguments: list[str]) -> int:
    """Run a command line of `app` (its help, if empty) and return its exit code; a mistake is a line on stderr."""
    try:
        code = app(args=arguments or ["--help"], prog_name="mmgen", standalone_mode=False)
        return int(code or 0)
    except _UsageError as error:
        return _said(arguments, MISTAKE, " ".join(error.format_message().split()))
    except MmgenError as error:
        return _said(arguments, error.exit_code, " ".join(str(error).split()), isinstance(error, SaidNo))
    except _InterruptedError:
        # every finished step and shard is kept, so the same command goes on from there
        return _said(arguments, INTERRUPTED, f"interrupted; to continue: {shlex.join(['mmgen', *arguments])}")
    except _UnreadError:
        # nothing may be written at exit, where it would fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        # the last resort: a traceback is for the log, which a note names
        if os.environ.get("MMGEN_TRACEBACK"):
            raise
        what = f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:500]}"
        where = "; ".join(getattr(error, "__notes__", [])) or "MMGEN_TRACEBACK=1 shows where"
        return _said(arguments, FAULT, f"{what}; {where}")


def _said(arguments: list[str], code: int, line: str, answered: bool = False) -> int:
    tell(f"mmgen: {line}")
    if "--json" in arguments and not answered:
        write(json.dumps({"error": line, "exit_code": code}, ensure_ascii=False))
    return code
