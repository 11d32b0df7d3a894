"""Chats as text: a tokenizer's chat template, rendered as `transformers` renders it."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from mdm_lightning.data.tokenizer import Tokenizer
from mdm_lightning.errors import UserError


def render_chat(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True
) -> str:
    """The text of a chat; `tokenizer.encode(text, special=True)` gives the ids that a model was trained on.

    The template came with a model and is not trusted: it runs in Jinja's sandbox and sees nothing but the messages,
    `add_generation_prompt` and the names of the tokenizer's special tokens.

    Args:
        messages: each with its "role" (system, user, assistant) and "content", oldest first.
        add_generation_prompt: end with what opens the assistant's next message.

    Raises:
        UserError: the tokenizer has no template, or its template is faulty or refuses these messages.
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
    try:
        return _compile(tokenizer.chat_template).render(
            messages=plain,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **tokenizer.special_names,
        )
    # Whatever Python raises in somebody else's program.
    except Exception as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, 300, placeholder=" ...")
        raise UserError(f"the tokenizer's chat template fails on this chat ({reason}); correct one of them") from error


# Also because of the thousands of prompts of a benchmark.
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
