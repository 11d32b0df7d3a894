"""How this command was called, and how another one is typed so that it works when pasted."""

import re
import shlex
import sys
from pathlib import Path


def program() -> list[str]:
    """What the interpreter was given to run, without the arguments of the command line."""
    if Path(sys.argv[0]).name == "__main__.py":  # python -m mdm_lightning COMMAND
        return sys.orig_argv[sys.orig_argv.index("-m") : sys.orig_argv.index("mdm_lightning") + 2]
    return [sys.argv[0]]


def typed(command: str) -> str:
    """How a command (train, evaluate, sweep) is typed where this one was typed as it was."""
    called = Path(sys.argv[0]).name
    if called == "__main__.py":
        return f"python -m mdm_lightning {command}"
    return f"mdm-{command}" if called.startswith("mdm-") else f"python {command}.py"


def typed_path(key: str, path: Path) -> str:
    """An override as it can be typed: a path that is more than a plain word is quoted for Hydra and for the shell."""
    if re.fullmatch(r"[\w./-]+", str(path)):
        return f"{key}={path}"
    from mdm_lightning.commands.options.command_line import override  # with Hydra, which help does without

    quoted = override(key, str(path))
    return shlex.quote(quoted) if re.search(r'["$`\\!]', quoted) else f'"{quoted}"'
