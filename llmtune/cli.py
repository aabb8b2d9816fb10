"""The words of `llmtune`: find the command, run it, turn a user's mistake into a message and an exit code."""

from __future__ import annotations

import errno
import os
import sys

WORDS = {
    "train": "fine-tune a model: llmtune train task=sentiment",
    "check": "everything that train looks at first, and nothing else",
    "evaluate": "score a run's model on a file or split: llmtune evaluate DIR",
    "predict": "label new texts with a run's model: llmtune predict DIR in.csv -o out.csv",
    "ls": "what can be chosen: llmtune ls, llmtune ls tasks",
    "show": "what a key means, its value and who set it: llmtune show optimizer.lr",
    "smoke": "run every shipped task, tiny and offline",
}
FROM_SETTINGS = ("train", "check")
"""words that take settings: their help is the same page"""
STOPPED = 75
DISK_SAYS_NO = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0 done, 1 failed while running, 2 the user's mistake, 3 diverged, 75 stopped by a signal."""
    argv = sys.argv[1:] if argv is None else list(argv)
    word, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    try:
        return _run(word, rest)
    except KeyboardInterrupt:
        print("llmtune: stopped", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:  # `llmtune ls | head`: the reader left, and Python must not complain of it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _told(word, error)


def _run(word: str, rest: list[str]) -> int:
    import importlib

    if word in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if word in ("-V", "--version"):
        print(f"llmtune {_version()}")
        return 0
    if word in ("--completion", "--complete"):
        from llmtune.config import completion

        return completion.main(word, rest, WORDS, FROM_SETTINGS)
    if word not in WORDS:
        from llmtune.core.errors import Fault, UserError, did_you_mean

        raise UserError(Fault(word, "is no word of llmtune", f"allowed: {', '.join(WORDS)}", did_you_mean(word, WORDS)))
    if word in FROM_SETTINGS and {"-h", "--help"} & set(rest):
        from llmtune.config.helping import page

        print(page(word, WORDS[word]))
        return 0
    result = importlib.import_module(f"llmtune.commands.{word}").main(rest) or 0
    sys.stdout.flush()
    return result


def _told(word: str, error: Exception) -> int:
    """Print an LlmtuneError as one message; anything else is a bug and keeps its traceback."""
    from llmtune.core.errors import Fault, LlmtuneError

    if isinstance(error, OSError) and error.errno in DISK_SAYS_NO:
        place = str(error.filename or "the run folder")
        fault = Fault(place, f"can't be written: {error.strerror}", "", "make room, then the same with resume=auto")
        error = LlmtuneError(fault).with_traceback(error.__traceback__)
    if not isinstance(error, LlmtuneError):
        raise error
    if os.environ.get("LLMTUNE_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    faults = [str(fault) for fault in error.faults]
    head = f"llmtune {word}:" if word in WORDS else "llmtune:"
    several = "".join(f"\n  {fault}" for fault in faults)
    print(head, faults[0] if len(faults) == 1 else f"{len(faults)} faults{several}", file=sys.stderr)
    return error.exit_code


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("llmtune")
    except PackageNotFoundError:  # a checkout on the path, as in `python -m llmtune`
        return "(not installed)"


def _usage() -> str:
    width = max(map(len, WORDS)) + 2
    words = "\n".join(f"  {word:<{width}}{line}" for word, line in WORDS.items())
    return f"""Fine-tune transformer language models from the command line.

usage: llmtune WORD [key=value ...]

{words}

  llmtune WORD --help    more about a word
  llmtune --version
  llmtune --completion bash|zsh|fish    tab completion: eval "$(llmtune --completion bash)"

LLMTUNE_DEBUG=1 adds the traceback to a message."""
