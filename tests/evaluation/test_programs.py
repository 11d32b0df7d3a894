"""Generated programs: only those that run to their end pass, whatever they try, and nothing of them remains."""

import itertools
import os
import socket
import subprocess
import sys
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.sandbox import runner as programs
from mdm_lightning.evaluation.sandbox.runner import (
    Outcome,
    ProgramRunner,
    allowing,
    available_isolation,
    pass_at_k,
    run_programs,
)
from mdm_lightning.evaluation.sandbox.supervisor import Isolation
from tests.patience import SECONDS

LINUX = sys.platform == "linux"
IN_TIME = ProgramRunner(seconds=300, wall_seconds=SECONDS)
HASTY = ProgramRunner(seconds=1, wall_seconds=1, workers=8)


@pytest.fixture(params=["available", "none"])
def isolation(request, monkeypatch) -> Isolation:
    """All that the system allows, and what is left where it allows nothing."""
    if request.param == "none":
        monkeypatch.setattr(programs, "available_isolation", Isolation)
    return IN_TIME.isolation


def test_pass_at_k_is_the_share_of_draws_with_a_pass():
    for n in range(1, 7):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            draws = [any(sample < c for sample in draw) for draw in itertools.combinations(range(n), k)]
            assert pass_at_k(n, c, k) == sum(draws) / len(draws)


@pytest.mark.parametrize(("n", "c", "k"), [(1, 0, 2), (5, 6, 1), (5, -1, 1), (5, 1, 0), (0, 0, 1)])
def test_pass_at_k_needs_as_many_samples(n, c, k):
    with pytest.raises(ValueError, match="cannot be estimated"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize("name", ["seconds", "wall_seconds", "memory_mib", "processes", "workers"])
def test_bad_arguments(name):
    with pytest.raises(ValueError, match=f"ProgramRunner: {name} must be"):
        ProgramRunner(**{name: 0})


@pytest.mark.parametrize(
    "program",
    [
        "",
        "def add(a, b):\n    return a + b\nassert add(1, 2) == 3",
        "if __name__ == '__main__':\n    raise ValueError",
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: 'int'\nassert A(1).x == 1",
        "import numpy\nassert numpy.zeros((100, 100)).dot(numpy.ones(100)).sum() == 0",
        "'\ud800'",
    ],
)
def test_programs_pass(isolation, program):
    assert IN_TIME.run(program) == Outcome(True, "passed")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2", "AssertionError"),
        ("assert 1 == 2, 'one is\\nnot two'", "AssertionError: one is"),
        ("def f(:", "SyntaxError: "),
        ("x = '\0'", ""),  # of a kind that depends on the version
        ("class E(Exception):\n    def __str__(self): raise self\nraise E", "E"),
        ("raise ValueError('x' * 10**6 + '\\r\\0')", "ValueError: xxxx"),
        ("input()", "EOFError: "),
        ("f = lambda n: f(n + 1)\nf(0)", "RecursionError: "),
        ("import ctypes; ctypes.string_at(0)", "killed by SIGSEGV"),
        ("import os; os._exit(3)", "ended before its last line"),
    ],
)
def test_programs_fail(isolation, program, reason):
    passed, told = IN_TIME.run(program)
    assert not passed
    assert told.startswith(reason)
    assert len(told) <= 200
    assert told.isprintable()


EARLY = [
    "import sys; sys.exit(0)",
    "import sys; sys.exit()",
    "exit()",
    "raise SystemExit",
    "raise KeyboardInterrupt",
    "import os; os._exit(0)",
    "import os; os.abort()",
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "import os; os.kill(0, 9)",
    "import os; os.execv('/bin/true', ['true'])",
    "import atexit, os; atexit.register(os._exit, 0); raise SystemExit",
    "import os, threading, time; threading.Thread(target=os._exit, args=(0,)).start(); time.sleep(1000)",
    "import os\nif os.fork(): os._exit(0)",
    "import os\nif os.fork(): raise ValueError",
    "import os, sys\nsys.excepthook = lambda *_: os._exit(0)\nraise ValueError",
]


def test_early_exits_do_not_pass(isolation):
    programs = [f"{early}\nassert False" for early in EARLY]
    assert [outcome.passed for outcome in IN_TIME.run_all(programs)] == [False] * len(EARLY)


def test_a_copy_of_the_program_cannot_pass_for_it(isolation):
    """The copy gets to the end, the program does not."""
    for failing in ("os._exit(0)", "raise ValueError", "os.waitpid(-1, 0); os._exit(0)"):
        assert not IN_TIME.run(f"import os\nif os.fork(): {failing}").passed


FAKES = {
    "says that it has passed": "said = [b'passed', b'true', b'[true, \"passed\"]', b'\\n', b'']",
    "says what it can read": """
said = []
for number in range(3, 64):
    try:
        os.set_blocking(number, False)
        said.append(os.read(number, 1 << 16))
    except OSError:
        pass
""",
    "says what its callers know": """
import sys
frame, said = sys._getframe(), []
while frame:
    said += [value for value in frame.f_locals.values() if isinstance(value, bytes)]
    frame = frame.f_back
assert said
""",
    "says what was told to its interpreter": "import sys\nsaid = [word.encode() for word in sys.orig_argv]",
}


@pytest.mark.parametrize("fake", FAKES.values(), ids=FAKES)
def test_fakes_do_not_pass(isolation, fake):
    tell = """
for number in range(64):
    for each in said:
        try:
            os.write(number, each)
        except OSError:
            pass
"""
    for end in ("os._exit(0)", "raise SystemExit(0)", "assert False"):
        assert not IN_TIME.run(f"import os\n{fake}{tell}{end}").passed


@pytest.mark.parametrize(
    "program",
    [
        "import os\nos._exit = os.write = os.getpid = None",
        "import builtins\nvars(builtins).clear()",
        "import sys\nsys.modules.clear()",
        "import sys\nsys.stdout.close(); sys.stderr.close(); sys.stdin.close()",
        "import signal\nfor s in (signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD): signal.signal(s, signal.SIG_IGN)",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()",
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])",
        "import os, sys\nfor i in range(300): print('x' * 1000); os.write(2, b'x' * 1000)",
    ],
)
def test_programs_may_do_as_they_like_until_their_end(isolation, program):
    assert IN_TIME.run(program) == Outcome(True, "passed")


def test_time_is_limited(isolation):
    endless = [
        "while True: pass",
        "import time; time.sleep(1000)",
        "while True: print('x' * 1000)",
        "import signal\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "import subprocess; subprocess.run(['sleep', '1000'])",
        "import os\nwhile True:\n    pid = os.fork()\n    if pid: os.waitpid(pid, 0)\n    else: os._exit(0)",
    ]
    assert HASTY.run_all(endless) == [Outcome(False, "timed out")] * len(endless)


def test_time_that_is_not_computed_is_not_counted():
    """Else a busy machine would decide what passes; and what computes for ever is ended long before the clock does."""
    endless = "while True: pass"
    asked = ["import time; time.sleep(1.5)", endless, f"import signal; signal.signal(24, signal.SIG_IGN)\n{endless}"]
    slept, *others = replace(IN_TIME, seconds=1, workers=3).run_all(asked)
    assert slept.passed
    assert others == [Outcome(False, "timed out")] * 2


@pytest.mark.skipif(not LINUX, reason="limits of other systems differ")
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("x = bytearray(1 << 31)", "MemoryError"),
        ("x = []\nwhile True: x.append(bytes(1 << 20))", "MemoryError"),
        ("x = [open('/dev/null') for _ in range(1000)]", "OSError: [Errno 24] Too many open files: '/dev/null'"),
        ("open('x', 'wb').write(bytes(1 << 27))", "OSError: [Errno 27] File too large"),
    ],
)
def test_resources_are_limited(isolation, program, reason):
    assert IN_TIME.run(program) == Outcome(False, reason)


@pytest.mark.skipif(not LINUX, reason="needs /proc")
def test_what_a_program_writes_fits_into_its_folder():
    program = "for i in range(100): open(str(i), 'wb').write(bytes(1 << 20))"
    expected = "OSError: [Errno 28] No space left on device" if available_isolation().files else "passed"
    assert IN_TIME.run(program).reason == expected


def test_processes_are_limited():
    """A fork bomb comes to nothing: the first that cannot fork tells how many there are."""
    if os.getuid() == 0 and not available_isolation().user:
        pytest.skip("the system does not limit root")
    program = """
import os, time
copies = 0
try:
    while copies < 200:
        if os.fork() == 0:
            time.sleep(1000)
        copies += 1
except OSError:
    pass
assert copies < {}, copies
"""
    present = sum(1 for _ in Path("/proc").glob("[0-9]*/task/*")) if os.getuid() else 0
    assert IN_TIME.run(program.format(16 + present)).passed
    assert HASTY.run("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass").reason == "timed out"


def alive(marker: str) -> bool:
    """Whether any process has the word on its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes():
                return True
        except OSError:  # gone meanwhile
            continue
    return False


@pytest.mark.skipif(not LINUX, reason="needs /proc")
@pytest.mark.parametrize("end", ["pass", "raise ValueError", "os._exit(0)", "time.sleep(1000)"])
def test_daemons_die_with_the_program(isolation, end):
    marker = uuid.uuid4().hex
    program = f"""
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 64)
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(1000)", "{marker}"])
    os._exit(0)
os.wait()
{end}
"""
    runner = HASTY if "sleep" in end else IN_TIME
    assert runner.run(program).passed == (end == "pass")
    assert not alive(marker)


def test_the_folder_is_empty_and_goes(isolation):
    program = """
import os, tempfile
assert os.listdir() == []
assert os.path.samefile(os.path.expanduser("~"), ".") and os.path.samefile(tempfile.gettempdir(), ".")
open("file", "w").write("text")
os.makedirs("a/b")
os.chmod("a", 0)
raise Exception(os.getcwd())
"""
    kind, folder = IN_TIME.run(program).reason.split(": ")
    assert kind == "Exception"
    assert not Path(folder).exists()


def test_nothing_of_ours_is_handed_over(isolation, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    program = """
import os, sys
assert not any("TOKEN" in name for name in os.environ)
assert not any(name.startswith(("mdm_lightning", "torch")) for name in sys.modules)
assert not any(path.endswith("evaluation") for path in sys.path)
assert sys.stdin.read() == ""
"""
    assert IN_TIME.run(program).reason == "passed"
    read, write = os.pipe()
    os.dup2(read, 60, inheritable=True)
    try:
        assert IN_TIME.run("import os; os.fstat(60)").reason == "OSError: [Errno 9] Bad file descriptor"
    finally:
        for descriptor in (read, write, 60):
            os.close(descriptor)


def test_the_network_is_as_reported(isolation):
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 10)"
        assert IN_TIME.run(program).passed == (not isolation.network)


def test_other_processes_are_as_reported(isolation):
    """Who may not be signalled is still known to exist."""
    program = f"import os\ntry: os.kill({os.getpid()}, 0)\nexcept PermissionError: pass"
    assert IN_TIME.run(program).passed == (not isolation.processes)


def test_files_are_as_reported(isolation):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        Path(folder, "there").touch()
        for program in (f"open('{folder}/new', 'w')", f"open('{folder}/there')"):
            assert IN_TIME.run(program).passed == (not isolation.files)


def test_the_user_is_as_reported(isolation, tmp_path):
    own = tmp_path / "own"
    own.write_text("secret")
    own.chmod(0o600)
    assert IN_TIME.run(f"import os; assert os.getuid() == {os.getuid()}").passed == (not isolation.user)
    assert IN_TIME.run(f"open('{own}')").passed == (not isolation.user and not isolation.files)
    if isolation.user:
        assert IN_TIME.run("import os; os.setuid(0)").reason.startswith("PermissionError")


def test_isolation_in_words():
    assert str(Isolation()) == "none"
    assert str(Isolation(network=True, files=True)) == "network, files"


def test_where_nothing_runs(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="cannot run Python programs here"):
        available_isolation.__wrapped__()


def test_isolation_is_tried_again(monkeypatch):
    """The system may be out of something for a moment; what stays wrong is no program's failure."""
    answers: list[Outcome | Exception] = []

    def answer(*_):
        result = answers.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(programs, "available_isolation", Isolation)
    monkeypatch.setattr(programs, "_run", answer)
    monkeypatch.setattr(programs.time, "sleep", lambda seconds: None)
    answers += [RuntimeError("full"), OSError("full"), Outcome(True, "passed")]
    assert IN_TIME.run("").passed
    answers += [RuntimeError("full")] * 3
    with pytest.raises(RuntimeError, match="full"):
        IN_TIME.run("")


def test_outcomes_come_in_order():
    asked = [f"import time; time.sleep({(7 - i) % 5 / 20}); assert {i} % 3, {i}" for i in range(12)]
    outcomes = replace(IN_TIME, workers=5).run_all(asked)
    assert outcomes == [Outcome(i % 3 > 0, "passed" if i % 3 else f"AssertionError: {i}") for i in range(12)]
    assert ProgramRunner().run_all([]) == []


def test_programs_run_side_by_side(monkeypatch, tmp_path):
    """Each waits until all are there."""
    monkeypatch.setattr(programs, "available_isolation", Isolation)  # so that they can see each other's files
    asked = [
        f"import os, time\nopen('{tmp_path}/{i}', 'w')\nwhile len(os.listdir('{tmp_path}')) < 8: time.sleep(0.05)"
        for i in range(8)
    ]
    assert all(outcome.passed for outcome in replace(IN_TIME, workers=8).run_all(asked))


def test_the_order_of_sets_is_settled():
    asked = ["raise Exception({'one', 'two', 'three', 'four', 'five'})"] * 3
    assert len(set(IN_TIME.run_all(asked))) == 1


def test_programs_need_a_confirmation():
    asked = ["assert True", "assert False"]
    with pytest.raises(UserError, match=r"evaluation\.allow_code_execution=true") as caught:
        run_programs(asked)
    assert "\n" not in str(caught.value)
    with allowing(IN_TIME.run_all):
        assert [outcome.passed for outcome in run_programs(asked)] == [True, False]
        with allowing(lambda some: [Outcome(False, "not run")] * len(some)):
            assert run_programs(asked) == [Outcome(False, "not run")] * 2
        assert run_programs(asked)[0].passed
    with pytest.raises(UserError):
        run_programs(asked)


def test_without_the_harness():
    code = "import sys, mdm_lightning.evaluation.sandbox.runner; assert 'lm_eval' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=SECONDS)
