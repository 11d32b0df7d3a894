import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from mdm_lightning.data.tokenizer import chat
from mdm_lightning.data.tokenizer.chat import render_chat
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer, from_characters
from mdm_lightning.errors import UserError

HEADERS = ["<|startoftext|>", "<|endoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
LLADA = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN2 = """{%- if tools %}
    {{- '<|im_start|>system\\n# Tools' }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or message.role == "assistant" %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
# What else templates do: loop controls, JSON, namespaces, generation blocks, lines that vanish with their indentation.
EVERYTHING = """{{ bos_token }}
  {% set ns = namespace(n=0) %}
{% for message in messages %}
    {% if message.role == 'system' %}{% continue %}{% endif %}
    {% set ns.n = ns.n + 1 %}
{{ message | tojson }}{{ dict(a=[1, {'é': '<&>'}]) | tojson(indent=2) }}
  {% generation %}
{{ message.content }}{{ nothing }}
  {% endgeneration %}
{% if ns.n > 2 %}{% break %}{% endif %}
{% endfor %}
{{ eos_token }}{{ pad_token }}{{ tools is none }}{{ documents }}{{ add_generation_prompt }}
"""
CHAT = [
    {"role": "system", "content": 'Short <answers> & "quotes"'},
    {"role": "user", "content": "  What is\n1 + 1?  "},
    {"role": "assistant", "content": "2 <|eot_id|> é東"},
    {"role": "user", "content": ""},
    {"role": "user", "content": "more"},
]


def speaking(template: str | None) -> Tokenizer:
    content = from_characters(map(chr, range(32, 127)), special=[*HEADERS, "<|im_start|>", "<|im_end|>"])
    return Tokenizer(
        content, bos_token=HEADERS[0], eos_token=HEADERS[1], pad_token="<|im_end|>", chat_template=template
    )


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("chat", [CHAT, CHAT[1:2], CHAT[:2]], ids=["long", "short", "system"])
@pytest.mark.parametrize("template", [LLADA, QWEN2, EVERYTHING], ids=["llada", "qwen2", "everything"])
def test_same_text_as_transformers(template, chat, prompt, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = speaking(template)
    tokenizer.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), chat_template=template, **tokenizer.special_names
    )
    expected = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
    assert render_chat(tokenizer, chat, add_generation_prompt=prompt) == expected
    ids = theirs.apply_chat_template(chat, tokenize=True, add_generation_prompt=prompt, return_dict=False)
    assert tokenizer.encode(expected, special=True) == ids


def test_llada_instruct():
    tokenizer = speaking(LLADA)
    text = render_chat(tokenizer, [{"role": "user", "content": "hi"}])
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    assert text == f"<|startoftext|>{header.format('user')}hi<|eot_id|>{header.format('assistant')}"
    ids = tokenizer.encode(text, special=True)
    assert ids[0] == tokenizer.bos_id
    assert tokenizer.decode(ids[-4:], skip_special=False) == "t<|end_header_id|>��"
    assert len(tokenizer.encode("<|eot_id|>", special=True)) == 1
    assert set(tokenizer.encode("<|eot_id|>", special=True)) < tokenizer.end_ids


def test_date():
    assert render_chat(speaking("{{ strftime_now('%Y') }}"), CHAT) in {str(datetime.now().year + i) for i in (-1, 0)}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "chat_template.jinja"),
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ raise_exception('roles must\n alternate') }}", "roles must alternate"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ render.__globals__ }}{{ cycler.__init__.__globals__.os }}", "unsafe|undefined"),
        ("{{ '{0.__class__.__mro__}'.format(messages) | length or raise_exception('no') }}", "unsafe|no"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages[0].update(role='x') }}", "unsafe"),
        ("{{ dict.update(messages[0], role='x') }}", "no attribute"),
        ("{% set ns = namespace() %}{% set ns.__html__ = raise_exception %}{{ ns | escape }}", "namespace cannot have"),
        ("{{ namespace(_x=1) }}", "namespace cannot have"),
        ("{{ range(10 ** 9) | list | length }}", "too big"),
        ("{{ 1 // 0 }}", "division"),
        ("{{ messages[0]['content'] + 1 }}", "str"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{% include '/etc/passwd' %}", "loader"),
        ("{{ undefined_name.x }}", "undefined"),
        ("{{ raise_exception('x' * 100000) }}", r"fails on this chat \("),
    ],
)
def test_bad_templates_are_told_in_one_line(template, message):
    messages = [dict(entry) for entry in CHAT]
    with pytest.raises(UserError, match=message) as caught:
        render_chat(speaking(template), messages)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert messages == CHAT


@pytest.mark.parametrize("bad", [{"role": "user"}, {"content": "x"}, {"role": "user", "content": None}, {}])
def test_bad_messages(bad):
    with pytest.raises(UserError, match="message 2 "):
        render_chat(speaking(LLADA), [CHAT[1], bad])


def with_template(folder: Path, template: object) -> Path:
    (folder / "tokenizer.json").write_text(from_characters("ab", special=["<|endoftext|>"]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


@pytest.mark.parametrize(
    ("declared", "beside", "found"),
    [
        (None, None, None),
        (EVERYTHING, None, EVERYTHING),
        (None, EVERYTHING, EVERYTHING),
        ("other", EVERYTHING, EVERYTHING),
        ([{"name": "tool_use", "template": "x"}, {"name": "default", "template": EVERYTHING}], None, EVERYTHING),
        ([{"name": "tool_use", "template": "x"}], None, None),
    ],
)
def test_where_the_chat_template_is(declared, beside, found, tmp_path):
    with_template(tmp_path, declared)
    if beside is not None:
        (tmp_path / "chat_template.jinja").write_bytes(beside.encode())
    assert Tokenizer.load(tmp_path).chat_template == found


@pytest.mark.parametrize("beside", [True, False])
def test_published_template_does_not_survive_saving(beside, tmp_path):
    folder = with_template(tmp_path, EVERYTHING)
    if beside:
        (folder / "chat_template.jinja").write_text(EVERYTHING)
    state = Tokenizer.load(folder).state()
    del state["chat_template"]
    Tokenizer.from_state(state).save(folder)
    assert Tokenizer.load(folder).chat_template is None


ENDLESS = {
    "loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
        "{% endfor %}{% endfor %}{% endfor %}"
    ),
    "a number": "{{ 10 ** (10 ** 10) }}",
    "a long text": "{{ 'x' * 10 ** 12 }}",
    "a text that grows": (
        "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}"
    ),
    "a list that grows": (
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}"
    ),
    "a macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "a filter": "{{ 'x' | center(10 ** 11) }}",
    "a format": "{{ '%999999999999d' % 1 }}{{ '{:999999999999}'.format(1) }}",
    "a method": "{{ 'x'.ljust(10 ** 11) }}",
    "replacements": (
        "{% set ns = namespace(x='xx') %}{% for i in range(99) %}{% set ns.x = ns.x.replace('x', ns.x) %}{% endfor %}"
    ),
    "much text": "{% for i in range(99999) %}{{ 'xxxxxxxxxx' }}{% endfor %}",
    "much text in an error": "{{ raise_exception('x' * 10 ** 8) }}",
}  # fmt: skip


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_templates_end(template, monkeypatch):
    """Within limits on processor time, memory and output; the next chat is rendered as if nothing had been."""
    monkeypatch.setattr(chat, "SECONDS", 0.5)
    with pytest.raises(UserError, match="the tokenizer's chat template fails on this chat") as caught:
        render_chat(speaking(template), CHAT)
    assert len(str(caught.value)) < 500
    assert render_chat(speaking("{{ messages[0].role }}"), CHAT) == "system"


def test_long_chats_have_room():
    long = [{"role": "user", "content": "x" * 10**6}]
    assert len(render_chat(speaking("{{ messages[0].content * 5 }}"), long)) == 5 * 10**6


def test_threads_and_forked_processes_render(monkeypatch):
    """One renderer for the threads of a process, another for a process that is forked from it."""
    tokenizer = speaking("{{ messages[0].content }}")

    def rendered(number: int) -> str:
        return render_chat(tokenizer, [{"role": "user", "content": str(number)}])

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(rendered, range(40))) == [str(number) for number in range(40)]
    with multiprocessing.get_context("fork").Pool(2) as processes:
        found = processes.map(_process_and_text, [(tokenizer, number) for number in range(8)])
    assert [text for _, text in found] == [str(number) for number in range(8)]
    assert chat._renderer is not None
    assert chat._renderer.process.pid not in {renderer for renderer, _ in found}


def _process_and_text(work: tuple[Tokenizer, int]) -> tuple[int, str]:
    tokenizer, number = work
    text = render_chat(tokenizer, [{"role": "user", "content": str(number)}])
    assert chat._renderer is not None
    return chat._renderer.process.pid, text
