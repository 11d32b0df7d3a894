"""What the world does to a command, in words that a person can act on."""

import errno
import json
import re

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MAKE_ROOM = "free space, or choose another run_dir=, or another cache by the variable MDM_CACHE"
_MEMORY = re.compile(r"can't allocate memory|out of memory|tried to allocate (?P<size>\d+) bytes|bad allocation", re.I)
_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? [\d, ]+\) (exited|is killed|.*killed by signal)")


def cause(error: BaseException) -> str | None:
    """One line for an error that comes from outside of the program; None for others."""
    text = " ".join(str(error).split())
    if isinstance(error, BrokenPipeError):
        return "whoever read the output has left; what was measured so far is in the folder"
    if isinstance(error, OSError) and error.strerror is not None:
        return _system(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _MEMORY.search(text)):
        return "out of memory: lower training.batch_size= or evaluation.batch_size=, the length, or the model's sizes"
    if isinstance(error, RuntimeError) and _WORKER.search(text):
        return "a data loading process was killed (out of memory, perhaps): lower training.workers="
    if isinstance(error, RuntimeError) and _FULL_ARCHIVE.search(text):
        return f"a checkpoint could not be written (is the disk full?): {_MAKE_ROOM}"
    if isinstance(error, UnicodeDecodeError):
        return f"a file is not UTF-8 text (byte {error.start}): convert it"
    if isinstance(error, json.JSONDecodeError):
        return f"a file is not valid JSON ({text}): restore it"
    # By its name: importing Lightning to compare takes longer than all else that a mistyped command does.
    if any(kind.__name__ == "MisconfigurationException" for kind in type(error).__mro__):
        return text
    return None


# How torch says that a file could not be written.
_FULL_ARCHIVE = re.compile(r"PytorchStreamWriter|unexpected pos \d+ vs \d+|enforce fail at inline_container", re.I)


def _system(error: OSError) -> str:
    where = "" if error.filename is None else f": {error.filename}"
    if error.errno in _FULL:
        limit = "a file may not become as large" if error.errno == errno.EFBIG else "the disk is full"
        return f"{limit}{where}; {_MAKE_ROOM}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.strerror}{where}; make it accessible, or choose another folder"
    return f"{error.strerror}{where}"
