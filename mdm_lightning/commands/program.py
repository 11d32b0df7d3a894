"""How this command was called, and how another one is typed so that it works when pasted."""

import re
import shlex
import shutil
import sys
from pathlib import Path


def program() -> list[str]:
    """What the interpreter was given to run, without the arguments of the command line."""
    if _as_module():
        return sys.orig_argv[sys.orig_argv.index("-m") : sys.orig_argv.index("mdm_lightning") + 2]
    return [sys.argv[0]]


def typed(command: str, *arguments: str) -> str:
    """How a command (train, evaluate, sweep) is typed in the folder and shell where this one was typed as it was.

    Args:
        command: its name.
        arguments: as they are to be typed, quotes included.
    """
    called = Path(sys.argv[0])
    if called.name.startswith("mdm-"):
        program = [_known(f"mdm-{command}", called.with_name(f"mdm-{command}"))]
    elif _as_module():
        program = [_known("python", Path(sys.executable)), "-m", "mdm_lightning", command]
    else:
        program = [_known("python", Path(sys.executable)), shlex.quote(str(called.with_name(f"{command}.py")))]
    return " ".join((*program, *arguments))


def typed_again(*names: str) -> list[str]:
    """Those options of this command line that another one is to have as well, with all that is below them."""
    keys = ((argument.partition("=")[0].lstrip("+"), argument) for argument in sys.argv[1:] if "=" in argument)
    return [shlex.quote(argument) for key, argument in keys if any(f"{key}.".startswith(f"{name}.") for name in names)]


def _as_module() -> bool:
    """Whether it was called as ``python -m mdm_lightning COMMAND``."""
    return Path(sys.argv[0]).parts[-2:] == ("mdm_lightning", "__main__.py")


def _known(name: str, program: Path) -> str:
    """The name of a program where a shell finds that very program by it, else its path."""
    found = shutil.which(name)
    if found is not None:
        place, wanted = Path(found).absolute(), program.absolute()
        # python and python3 of one environment are the same; two environments may have links to one interpreter.
        twins = place.parent == wanted.parent and place.exists() and wanted.exists() and place.samefile(wanted)
        if place == wanted or twins:
            return name
    return shlex.quote(str(program))


def typed_path(key: str, path: Path) -> str:
    """An override as it can be typed: a path that is more than a plain word is quoted for Hydra and for the shell."""
    if re.fullmatch(r"[\w./-]+", str(path)):
        return f"{key}={path}"
    from mdm_lightning.commands.options.command_line import override  # with Hydra, which help does without

    quoted = override(key, str(path))
    return shlex.quote(quoted) if re.search(r'["$`\\!]', quoted) else f'"{quoted}"'
