"""The process in which chat templates are rendered: they come with models, and are programs.

Jinja's sandbox keeps a template from everything but the chat. It does not keep it from looping for a year or from
filling the memory; only limits on a process of its own do.
"""

import json
import resource
import signal
import sys
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MEMORY = 1 << 30  # bytes of addresses


def serve() -> None:
    """Answers requests, one a line, until there are no more; a template that takes too long ends the process."""
    for limit, value in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        with suppress(OSError, ValueError):  # not every system has every limit
            resource.setrlimit(limit, (value, value))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # Without a handler its signal ends the process, in the middle of a single long operation too.
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        answer = json.dumps(_answer(request))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


def _answer(request: dict[str, Any]) -> dict[str, str]:
    """The text, or why there is none."""
    try:
        text = _compile(request["template"]).render(request["values"])
        if len(text) > request["most"]:
            return {"failure": f"it gives {len(text):,} characters"}
        return {"text": text}
    # Whatever Python raises in somebody else's program.
    except Exception as error:
        return {"failure": (str(error) or type(error).__name__)[:2000]}


# Thousands of prompts of a benchmark have one template.
@lru_cache(maxsize=8)
def _compile(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, dict=_new_dict, namespace=_Namespace
    )
    return environment.from_string(template)


class _Generation(Extension):
    """`{% generation %}` encloses what the assistant says, for trainers that want to know the place: a mere scope."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Namespace(Namespace):
    """Jinja's `namespace` without names that have a meaning to Python, by which the sandbox could be left."""

    def __init__(*args, **values) -> None:
        self, *given = args
        values = dict(*given, **values)
        for name in values:
            _refuse_private(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: object) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot have a {name}")


def _new_dict(*args, **values) -> dict:
    # The type itself would offer methods that change the dictionaries that they are given.
    return dict(*args, **values)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
