"""Templates write turns as a model reads them, and know which characters answer."""

import json

import pytest

from mu_jax.datasets import language

CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yo"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Ciao"},
]
SOURCE = """{{ bos_token }}{% for message in messages %}
<|im_start|>{{ message['role'] }}
{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] | trim }}<|im_end|>
{% endgeneration %}{% else %}{{ message['content'] }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def parts(script, spans):
    return [script.text[a:b] for a, b in spans]


def test_plain_turns_end_with_the_end_token():
    found = language.PLAIN.script(CHAT)
    assert found.text == "Question: Hi\nAnswer: Yo\n\nQuestion: Bye\nAnswer: Ciao"
    assert parts(found, found.scored) == ["Yo", "Ciao"]
    assert parts(found, found.turns) == ["Hi", "Yo", "Bye", "Ciao"]
    assert [found.text[:end][-2:] for end in found.ends] == ["Yo", "ao"]


def test_markers_of_turns_are_scored_without_the_line_behind_them():
    found = language.CHATML.script(CHAT)
    assert found.text.startswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_")
    assert parts(found, found.scored) == ["Yo<|im_end|>", "Ciao<|im_end|>"]
    assert found.ends == ()


def test_roles_that_a_template_lacks_are_refused():
    with pytest.raises(ValueError, match="a role among system, user, assistant, found 'judge'"):
        language.PLAIN.script([{"role": "judge", "content": "?"}])


def test_a_chat_template_in_jinja_is_found_and_scores_what_it_writes_for_answers(folder):
    (folder / "chat_template.jinja").write_text(SOURCE)
    template = language.read_chat_template(folder)
    assert template.tokens == ("<s>", "</s>")
    found = template.script([*CHAT[:3], {"role": "assistant", "content": " Ciao "}])
    assert found.text.startswith("<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im")
    assert parts(found, found.scored) == ["Yo<|im_end|>", "Ciao<|im_end|>"]
    assert not found.begin, "the template writes it"
    assert found.turns[0] is found.turns[3] is None
    assert parts(found, [found.turns[1]]) == ["Yo"]


def test_the_template_in_the_tokenizer_config_is_the_same(folder):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    named = [{"name": "tool", "template": ""}, {"name": "default", "template": SOURCE}]
    for value in (SOURCE, named):
        path.write_text(json.dumps(config | {"chat_template": value}))
        assert language.read_chat_template(folder).source == SOURCE


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('user first') }}", "found its refusal 'user first'"),
        ("{{ messages[0].content.__class__.mro() }}", "refusal"),
        ("{{ strftime_now('%Y') }}", "'strftime_now' is undefined"),
        ("{{ messages[0].content + 1 }}", "found its refusal 'can only concatenate"),
        ("{{ messages | length }}", "found other text for message 1"),
    ],
)
def test_templates_that_refuse_or_rewrite_or_ask_for_more_are_refused(source, words):
    with pytest.raises(ValueError, match=words):
        language.JinjaTemplate(source).script(CHAT)


def test_templates_are_told_that_there_are_no_tools():
    source = "{% if tools is not none %}{{ tools }}{% endif %}{{ messages[0].content }}"
    assert language.JinjaTemplate(source).script(CHAT[:1]).text == "Hi"


def test_a_directory_without_a_readable_template_is_refused(folder):
    with pytest.raises(FileNotFoundError, match="found neither"):
        language.read_chat_template(folder)
    (folder / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(ValueError, match="found one that cannot be read"):
        language.read_chat_template(folder)
