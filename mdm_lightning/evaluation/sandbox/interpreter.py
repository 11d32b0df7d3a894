"""The interpreter of one untrusted program: what supervisor.py becomes, limited and isolated already.

The token that proves that a program ran to its end lies in the memory of the program's own interpreter, where there is
no other place for it. A program that ends early, however it does, proves nothing; one that is written against this very
file could look for the token and give it away.
"""

import os
import sys
from types import ModuleType


def run(secret: int, prove: int) -> None:
    """Executes the standard input and writes how it went to ``prove``: the proof of the token read from ``secret``, or
    what was raised. Does not return."""
    token = os.read(secret, 64)
    os.close(secret)
    with open(0, "rb") as file:
        source = file.read()
    os.open(os.devnull, os.O_RDONLY)  # takes the place of the standard input
    # The program may change what these names stand for.
    process, current, write, leave = os.getpid(), os.getpid, os.write, os._exit
    module = ModuleType("program")  # not __main__, as in other harnesses: what a script would do is not wanted
    sys.modules["__main__"] = sys.modules["program"] = module
    sys.argv = ["program.py"]
    try:
        exec(compile(source, "program.py", "exec", dont_inherit=True), module.__dict__)
        said = token[::-1]  # not as it is: who copies all there is to every descriptor proves nothing
    except BaseException as error:
        said = _describe(error.with_traceback(None))
    if current() == process:  # a copy that the program made of itself proves nothing
        write(prove, said)
    leave(0)


def _describe(error: BaseException) -> bytes:
    try:
        message = str(error).strip().split("\n")[0]
    except BaseException:  # of the program's own making
        message = ""
    return f"{type(error).__name__}: {message}"[:200].removesuffix(": ").encode(errors="replace")


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]))
