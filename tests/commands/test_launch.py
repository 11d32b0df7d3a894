"""Starting ranks."""

import socket

from mdm_lightning.commands import launch


class Started:
    """A rank that connects to where it should meet the others, and ends."""

    returncode = 0

    def __init__(self, command, env, **_) -> None:
        socket.create_connection((env["MASTER_ADDR"], int(env["MASTER_PORT"]))).close()

    def poll(self) -> int:
        return self.returncode


def test_the_port_is_taken_when_ranks_start(monkeypatch):
    """A number that was free a moment ago may be another program's by the time that the first rank uses it."""
    monkeypatch.setattr(launch.subprocess, "Popen", Started)
    launch.launch_ranks(2, [])
