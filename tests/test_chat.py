"""Chat templates, written here in the style of several families, beside `transformers`."""

import json
import re
from pathlib import Path

import pytest

from kvlab import Tokenizer, chat, load
from kvlab.chat import ChatTemplate
from kvlab.pocket import path

transformers = pytest.importorskip("transformers", reason="needs transformers")

TOKENS = {"bos_token": "<eos>", "eos_token": "<eos>", "unk_token": "<unk>"}
STYLES = {
    "marks": """\
{% if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}
{%- endif %}
{% for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
""",
    "headers": """\
{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = strftime_now("%Y") %}{% endif %}
{%- set opening = "Cutting: " + date_string -%}
{%- for m in messages -%}
    {% set text = '<|start|>' + m.role + '<|end|>\\n\\n' + m.content | trim + '<|eot|>' %}
    {%- if loop.index0 == 0 %}{{ opening }}{% endif %}
    {{- text }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant<|end|>\\n\\n' }}{% endif %}
""",
    "turns": """\
{%- if messages[0].role == "system" %}
    {%- set said = messages[0].content %}{% set rest = messages[1:] %}
{%- else %}{% set rest = messages %}{% endif %}
{{- bos_token }}
{%- for m in rest %}
    {%- if (m.role == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("Roles must alternate: user, assistant, user ...") }}
    {%- endif %}
    {%- if m.role == "user" %}
        {{- "[INST] " + (said + "\\n\\n" if said is defined and loop.last else "") }}
        {{- m.content + " [/INST]" }}
    {%- else %}{{ " " + m.content | trim + eos_token }}{% endif %}
{%- endfor %}
""",
    "thoughts": """\
{%- set ns = namespace(last=-1, found=false) %}
{%- for m in messages[::-1] %}
    {%- if not ns.found and m.role == "user" and m.content is string %}
        {%- set ns.found = true %}{% set ns.last = messages | length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- if tools %}
    {{- "# Tools\\n" }}{% for tool in tools %}{{ tool | tojson }}{{ "\\n" }}{% endfor %}
    {{- tools[0] | tojson(indent=2) }}
{%- endif %}
{%- for m in messages %}
    {%- set content = m.content.split('</think>')[-1].lstrip('\\n') if m.content else '' %}
    {{- '<|' + m.role + '|>' + content + ('!' if loop.index0 == ns.last else '') }}
    {%- for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think></think>' }}
    {%- endif %}
{%- endif %}
""",
    "renamed": """\
{{ bos_token }}{% macro turn(role, text) %}<turn>{{ role }}
{{ text }}</turn>
{% endmacro %}
{% for m in messages %}
    {% if m.role == 'system' %}{% continue %}{% endif %}
    {% set names = dict(assistant='model', user='user') %}
{{ turn(names.get(m.role, 'other'), m['content']) }}{% endfor %}
{% if add_generation_prompt %}<turn>model
{% endif %}
""",
    "marked": """\
{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{% set x = 'y' %}{{ m.role }}
{{ eos_token }}{% endgeneration %}{{ x }}{% else %}
{{ m.role | upper }}: {{ m.content | replace('a', 'e') }}
{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}""",
}
USER = {"role": "user", "content": "What is the capital of France?\n"}
TALKS = {
    "one": [USER],
    "system": [{"role": "system", "content": "Answer in <one> word & \"no\" more."}, USER],
    "several": [USER, {"role": "assistant", "content": "<think>Hm.</think>\n\nParis. "},
                {"role": "user", "content": "  你好, <|im_end|> naïve <eos> 🙂 "}],
    "none": [{**USER, "name": None}, {"role": "assistant", "content": "é", "tool_calls": None}],
}  # fmt: skip
TOOL = {"type": "function", "function": {"name": "añadir", "description": "<b>&'x'</b>"}}


@pytest.fixture(scope="module")
def pocket():
    return load("pocket")[1]


def both(inner, source):
    ours = Tokenizer(inner, ChatTemplate(source, TOKENS, Path("here")))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **TOKENS)
    theirs.chat_template = source
    return ours, theirs


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("style", STYLES)
def test_each_style_gives_the_tokens_that_transformers_gives(pocket, style, talk):
    ours, theirs = both(pocket.inner, STYLES[style])
    for opened in (True, False):
        more = [{}]
        if style == "thoughts":
            more = [{}, {"enable_thinking": False}, {"tools": [TOOL, TOOL]}]
        for names in more:
            how = {"add_generation_prompt": opened, **names}
            want = theirs.apply_chat_template(TALKS[talk], return_dict=False, **how)
            assert ours.chat(TALKS[talk], **how) == want
    assert ours.chat(TALKS[talk]) == ours.chat(TALKS[talk], add_generation_prompt=True)


def test_bos_is_written_once_and_only_where_the_template_has_it(pocket):
    for style, n in {"headers": 1, "turns": 1, "renamed": 1, "marks": 0, "thoughts": 0}.items():
        ids = both(pocket.inner, STYLES[style])[0].chat("Hi")
        assert ids.count(0) == n and (ids[0] == 0) == bool(n), style
    assert pocket.encode("Hi")[0] == 0  # which this tokenizer adds by itself


def test_the_pocket_models_own_form(pocket):
    said = "System: Be brief.\nUser: What is the capital of France?\nAssistant:"
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": said[24:54]}]
    assert pocket.chat(talk) == pocket.encode(said)
    assert pocket.chat(said[24:54]) == pocket.encode(said[18:])


def test_a_text_is_one_users_message(pocket):
    assert pocket.chat("Hi") == pocket.chat([{"role": "user", "content": "Hi"}])


FAILING = {
    "its own": ("{{ raise_exception('Only users may\nspeak') }}", r"Only users may speak\."),
    "syntax": ("{% if %}", r"broken, line 1: Expected an expression"),
    "an unknown tag": ("\n{% frobnicate %}", r"line 2: .*unknown tag 'frobnicate'"),
    "an unknown filter": ("{{ 1 | nothing_such }}", r"No filter named 'nothing_such'"),
    "nothing there": ("{{ messages[9].content.strip() }}", r"list object has no element 9"),
    "types": ("{{ messages + 1 }}", r"can only concatenate list"),
    "numbers": ("{{ 1 // (messages | length - 1) }}", r"by zero"),
    "an escape": ("{{ messages.__class__.__mro__ }}", r"'__class__' .* is unsafe"),
    "a change": ("{{ messages.append(1) }}", r"is not safely callable|unsafe"),
    "private names": ("{% set n = namespace(_x=1) %}{{ n }}", r"no place for '_x'"),
    "private too": ("{% set n = namespace() %}{% set n._x = 1 %}{{ n }}", r"no place for '_x'"),
    "the type": ("{{ dict.__subclasses__() }}", r"no attribute .__subclasses__"),
    "the end of the stack": (
        "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}", r"recursion depth"
    ),
    "a long word": ("{{ raise_exception('x' * 5000) }}", r"xxxx"),
}  # fmt: skip


@pytest.mark.parametrize("what", FAILING)
def test_a_template_that_fails_is_one_sentence(pocket, what):
    source, said = FAILING[what]
    tokenizer = Tokenizer(pocket.inner, ChatTemplate(source, TOKENS, Path("/models/here")))
    with pytest.raises(ValueError, match=said) as caught:
        tokenizer.chat("Hi")
    text = str(caught.value)
    assert text.startswith("The chat template of ") and "here" in text
    assert len(text) < 500 and "\n" not in text


@pytest.mark.parametrize(
    "messages",
    [None, 5, [], [3], {}, {"role": "user"}, [{"content": "Hi"}], [{"role": 3}], b"Hi",
     [{"role": "user", "content": b"Hi"}], [{"role": "user", "content": object()}]],
)  # fmt: skip
def test_what_are_no_messages_is_refused(pocket, messages):
    if messages == {"role": "user"}:
        assert chat._plain(messages) == [messages]  # one message alone
        return
    with pytest.raises(ValueError, match="A message is|was given") as caught:
        pocket.chat(messages)
    assert len(str(caught.value)) < 500


def test_a_variable_that_the_template_does_not_have_is_named(pocket):
    with pytest.raises(ValueError, match=r"'enable_thinkin'.* takes .*bos_token, .*tools"):
        pocket.chat("Hi", enable_thinkin=False)
    with pytest.raises(ValueError, match="was given"):
        pocket.chat("Hi", tools=[object()])


def test_messages_stay_as_they_were(pocket):
    talk = [{"role": "user", "content": "Hi", "more": {"a": [1]}}]
    source = "{% set _ = messages[0].more.update(b=2) %}{{ messages[0].more.b }}"
    with pytest.raises(ValueError, match="safely callable|unsafe"):
        Tokenizer(pocket.inner, ChatTemplate(source, {}, Path("x"))).chat(talk)
    assert talk == [{"role": "user", "content": "Hi", "more": {"a": [1]}}]


def test_a_model_without_a_template_says_so(pocket):
    with pytest.raises(ValueError, match=r"has no chat template.*tokenizer\.encode\(text\)"):
        Tokenizer(pocket.inner).chat("Hi")


HELD = {
    "in the config": ({"chat_template": "config"}, None, "config"),
    "in a file": ({}, "file", "file"),
    "in both": ({"chat_template": "config"}, "file", "file"),
    "in neither": ({}, None, None),
    "null": ({"chat_template": None}, None, None),
    "with names": (
        {"chat_template": [{"name": "tool_use", "template": "t"},
                           {"name": "default", "template": "d"}]}, None, "d"
    ),
    "as an object": ({"chat_template": {"default": "d", "rag": "r"}}, None, "d"),
    "without a default": ({"chat_template": {"rag": "r"}}, None, None),
}  # fmt: skip


@pytest.mark.parametrize("where", HELD)
def test_where_a_template_is_kept(tmp_path, where):
    config, alone, want = HELD[where]
    tokens = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": None, "pad_token": "p"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | tokens | {"x_token": 3}))
    older = {"bos_token": "<b>", "eos_token": "<e>", "unk_token": "<u>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(older))
    if alone:
        (tmp_path / "chat_template.jinja").write_text(alone)
    found = chat.read(tmp_path)
    assert (found and found.source) == want
    if found:
        assert found.tokens == {"bos_token": "<s>", "unk_token": "<u>", "pad_token": "p"}


def test_a_folder_without_any_of_the_files_has_none(tmp_path):
    assert chat.read(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "held", "said"),
    [
        ("tokenizer_config.json", b"{", "not readable JSON"),
        ("tokenizer_config.json", b"[]", "holds a list"),
        ("special_tokens_map.json", b"\xff", "not readable JSON"),
        ("chat_template.jinja", b"\xff\xfe", "not readable text"),
        ("tokenizer_config.json", b'{"chat_template": 5}', "chat_template of 5; expected a text"),
        ("tokenizer_config.json", b'{"chat_template": {"default": []}}', "expected a text"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, held, said):
    (tmp_path / name).write_bytes(held)
    with pytest.raises(ValueError, match=f"{re.escape(name)}.*{said}"):
        chat.read(tmp_path)


def test_the_pocket_model_speaks_in_transformers_as_here(pocket):
    theirs = transformers.AutoTokenizer.from_pretrained(path())
    for talk in ([USER], [{"role": "system", "content": "Be brief."}, USER]):
        want = theirs.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
        assert pocket.chat(talk) == want


@pytest.mark.parametrize("source", ["{{ '%09999999d' % 1 }}", "{{ 'x' * 10**7 }}"])
def test_a_text_beyond_all_proportion_is_refused_before_it_is_read(pocket, source):
    spoken = Tokenizer(pocket.inner, ChatTemplate(source, {}, Path("folder")))
    with pytest.raises(ValueError, match="folder refuses these messages or is broken: it makes "):
        spoken.chat("hi")
    long = "word " * 10**6
    assert spoken.template.__class__("{{ messages[0].content }}", {}, Path("f"))(long) == long
