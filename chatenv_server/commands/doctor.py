"""`chatenv-rl doctor`: audits a tokenizer and its chat template, or a task on it, before a training run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from chatenv_client.distribution import DISTRIBUTION, needing
from chatenv_server.commands.connection import reporting
from chatenv_server.commands.opening import object_in
from chatenv_server.commands.output import print_json, progress_line

NAME: Final = "doctor"
HELP: Final = "audit a tokenizer and its chat template, or a task on it, before a training run"

EXIT_INEXACT: Final = 1
"""Something is inexact without a report, or a task fails."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Say what a chat template does, and play conversations against full-history apply_chat_template. "
        "With --task, play that task for some turns instead. "
        "Exit code 0: every step is exact or says why not. 1: something is inexact without a report, "
        "or the task fails. 2: usage."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "tokenizer", nargs="?", metavar="TOKENIZER", help="a folder, a Hugging Face name, or 'bytes', the embedded one"
    )
    what.add_argument(
        "--all", metavar="FOLDER", type=Path, help="everything in FOLDER/tokenizers and FOLDER/templates, a row each"
    )
    parser.add_argument("--template", metavar="FILE", help="a Jinja chat template in place of the tokenizer's own")
    parser.add_argument("--task", metavar="MODULE:CLASS", help="a task to play with a scripted model, on TOKENIZER")
    parser.add_argument("--task-args", metavar="JSON", help="an object with keywords for the task's constructor")
    parser.add_argument("--rows", metavar="FILE", help="JSONL or Parquet; the task is played on the first row")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Examine and report; the exit code."""
    with needing("server", f"{DISTRIBUTION} {NAME}"):
        from chatenv_server.tokenizer_files.loading import TokenizerError, torch_hidden

    def work() -> int:
        try:
            with torch_hidden():
                if arguments.task is not None:
                    return _run_task(arguments)
                return _run_all(arguments) if arguments.all is not None else _run_one(arguments)
        except TokenizerError as error:
            raise ValueError(str(error)) from error

    return reporting(NAME, work)


def _run_one(arguments: argparse.Namespace) -> int:
    from chatenv_server.doctor import check
    from chatenv_server.doctor.report import as_json, as_text
    from chatenv_server.tokenizer_files.loading import load_tokenizer, read_chat_template

    template = None if arguments.template is None else read_chat_template(arguments.template)
    with progress_line() as show:
        show(f"loading {arguments.tokenizer}")
        tokenizer = load_tokenizer(arguments.tokenizer)
        show("playing conversations")
        checkup = check(arguments.tokenizer, tokenizer, template)
    _print(as_json(checkup) if arguments.json else as_text(checkup))
    return 0 if checkup.sound else EXIT_INEXACT


def _run_task(arguments: argparse.Namespace) -> int:
    from chatenv_server.doctor import check_task_on
    from chatenv_server.doctor.task_report import task_as_json, task_as_text
    from chatenv_server.tasks.loading import load_rows, load_tasks
    from chatenv_server.tokenizer_files.loading import load_tokenizer, read_chat_template

    if arguments.all is not None:
        raise ValueError("--task goes with one TOKENIZER, not with --all")
    tasks = load_tasks([arguments.task], load_rows([arguments.rows] if arguments.rows else []))
    task_args = object_in(arguments.task_args) or {}
    template = None if arguments.template is None else read_chat_template(arguments.template)
    with progress_line() as show:
        show(f"loading {arguments.tokenizer}")
        tokenizer = load_tokenizer(arguments.tokenizer)
        show(f"playing {arguments.task}")
        checkup = check_task_on(arguments.tokenizer, tokenizer, tasks, task_args, template)
    _print(task_as_json(checkup) if arguments.json else task_as_text(checkup))
    return 0 if checkup.sound else EXIT_INEXACT


def _run_all(arguments: argparse.Namespace) -> int:
    from chatenv_server.doctor import check_folder
    from chatenv_server.doctor.report import as_json, as_rows
    from chatenv_server.tokenizer_files.loading import TokenizerError

    if arguments.template is not None:
        raise TokenizerError("--template goes with one TOKENIZER, not with --all")
    with progress_line() as show:
        checkups = list(check_folder(arguments.all, lambda number, count, name: show(f"{number}/{count} {name}")))
    _print({"checkups": [as_json(one) for one in checkups]} if arguments.json else as_rows(checkups))
    return 0 if all(one.sound for one in checkups) else EXIT_INEXACT


def _print(report: object) -> None:
    if isinstance(report, str):
        sys.stdout.write(report)
    else:
        print_json(report)
