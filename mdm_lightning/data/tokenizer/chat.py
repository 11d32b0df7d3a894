"""Chats as text: a tokenizer's chat template, rendered as `transformers` renders it."""

import atexit
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.errors import UserError

SECONDS = 10.0
"""Processor time that a template may take for a chat; a good one takes a thousandth of a second."""

MOST = 100_000
"""Characters that a template may add to a chat, besides repeating it ten times."""

_PROGRAM = (
    "import json, sys; sys.path = json.loads(sys.argv[1]); "
    "from mdm_lightning.data.tokenizer.chat_template import serve; serve()"
)


def render_chat(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True
) -> str:
    """The text of a chat; `tokenizer.encode(text, special=True)` gives the ids that a model was trained on.

    The template came with a model and is not trusted: it runs in Jinja's sandbox, in a process of its own with limits
    on time and memory (`chat_template.py`), and sees nothing but the messages, `add_generation_prompt` and the names of
    the tokenizer's special tokens.

    Args:
        messages: each with its "role" (system, user, assistant) and "content", oldest first.
        add_generation_prompt: end with what opens the assistant's next message.

    Raises:
        UserError: the tokenizer has no template, or its template is faulty, refuses these messages or does not end.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            "the tokenizer has no chat template: put a chat_template.jinja beside its tokenizer.json, or use a prompt "
            "without roles"
        )
    # Copies, of which the template cannot reach anything else.
    plain = [{str(key): value for key, value in message.items()} for message in messages]
    for number, message in enumerate(plain, start=1):
        if not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise UserError(f"message {number} of the chat lacks a role or a content that is text; give it both")
    values = {
        "messages": plain,
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        **tokenizer.special_names,
    }
    most = MOST + 10 * sum(len(str(value)) for message in plain for value in message.values())
    request = {"template": tokenizer.chat_template, "values": values, "seconds": SECONDS, "most": most}
    answer = _ask(json.dumps(request))
    if "text" in answer:
        return answer["text"]
    reason = textwrap.shorten(answer["failure"], 300, placeholder=" ...")
    raise UserError(f"the tokenizer's chat template fails on this chat ({reason}); correct one of them")


class _Renderer:
    """A process that renders, for as long as this one lives."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-c", _PROGRAM, json.dumps(sys.path)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=-1
        )

    def ask(self, request: bytes) -> bytes:
        """The answer; empty if the process has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(request)
            self.process.stdin.flush()
        except BrokenPipeError:
            return b""
        return self.process.stdout.readline()

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


_renderer: _Renderer | None = None
_lock = Lock()


def _ask(request: str) -> dict[str, Any]:
    """One request at a time, by whichever thread."""
    global _renderer
    with _lock:
        if _renderer is None:
            _renderer = _Renderer()
        answer = _renderer.ask(request.encode() + b"\n")
        if not answer.endswith(b"\n"):
            _renderer.stop()
            _renderer = None
            return {"failure": f"it takes more than {SECONDS:g} s, or more memory than there is"}
    return json.loads(answer)


def _forget() -> None:
    """In a process that was forked: the renderer is the other one's."""
    global _renderer, _lock
    _renderer, _lock = None, Lock()


def _stop() -> None:
    if _renderer is not None:
        _renderer.stop()


os.register_at_fork(after_in_child=_forget)
atexit.register(_stop)
