"""The template's environment: what checkpoints' templates rely on, and its limits."""

import json
import time
from pathlib import Path

import pytest

import model
from model.errors import CheckpointError
from model.template import ChatTemplate, TemplateError, TemplateRefusal

DEMO = Path(model.__path__[0]) / "demo" / "checkpoint"


def _render(source, messages=(), *, thinking=True, preserve=False, opened=False, **options):
    template = ChatTemplate(source, **options)
    return template.render(
        messages,
        tools=None,
        add_generation_prompt=opened,
        enable_thinking=thinking,
        preserve_thinking=preserve,
    )


def test_json_keeps_order_and_characters():
    value = {"b": 'é<"', "a": [True, None, 1.0]}
    assert _render("{{ messages | tojson }}", value) == '{"b": "é<\\"", "a": [true, null, 1.0]}'


def test_flags_reach_the_template():
    source = "{{ add_generation_prompt }} {{ enable_thinking }} {{ preserve_thinking }}"
    assert _render(source, thinking=False, preserve=True) == "False False True"


def test_blocks_leave_no_lines_and_loops_can_break():
    source = (
        "{% for m in messages %}\n  {% if m == 2 %}{% break %}{% endif %}\n{{ m }}\n{% endfor %}"
    )
    assert _render(source, [1, 2, 3]) == "1\n"


def test_special_tokens_are_variables():
    assert _render("{{ eos_token }}", special_tokens={"eos_token": "<end>"}) == "<end>"


def test_the_templates_own_refusal_keeps_its_words():
    with pytest.raises(TemplateRefusal, match=r"^No messages provided\.$"):
        _render("{{ raise_exception('No messages provided.') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ missing.field }}",
        "{{ 1 + 'a' }}",
    ],
)
def test_failures_and_sandbox_escapes_are_template_errors(source):
    with pytest.raises(TemplateError, match="The chat template failed"):
        _render(source, [])


def test_output_is_bounded():
    source = "{% for i in range(1000) %}0123456789{% endfor %}"
    assert len(_render(source, max_characters=10_000)) == 10_000
    with pytest.raises(TemplateError, match="passes 9999 characters"):
        _render(source, max_characters=9_999)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in messages %}{% for b in messages %}{% for c in messages %}"
        "{% for d in messages %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for i in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    ],
)
def test_time_is_bounded(source):
    """The first two would take hours, the third ages."""
    with pytest.raises(TemplateError):
        _render(source, list(range(2000)), max_seconds=0.2)


def test_each_rendering_has_its_own_time():
    template = ChatTemplate("{% for i in range(3) %}{{ i }}{% endfor %}", max_seconds=0.1)
    flags = {"add_generation_prompt": False, "enable_thinking": True, "preserve_thinking": False}
    for _ in range(4):
        time.sleep(0.05)
        assert template.render([], tools=None, **flags) == "012"


@pytest.mark.parametrize("source", ["{{ 'a' * 10 ** 9 }}", "{{ [0] * 3 }}", "{{ 9 ** 9 ** 9 }}"])
def test_products_cannot_fill_the_memory(source):
    with pytest.raises(TemplateError, match="products of numbers"):
        _render(source)


def test_products_of_numbers_are_fine():
    assert _render("{{ 6 * 7 }}") == "42"


def test_a_broken_template_is_a_checkpoint_error():
    with pytest.raises(CheckpointError, match="line 1"):
        ChatTemplate("{% if %}")


@pytest.mark.parametrize("form", ["text", [{"name": "default", "template": "text"}]])
def test_template_inside_the_tokenizer_config(tmp_path, form):
    config = {"chat_template": form, "eos_token": {"content": "<end>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert ChatTemplate.from_folder(tmp_path).source == "text"


def test_the_template_file_wins(tmp_path):
    (tmp_path / "chat_template.jinja").write_text("{{ eos_token }}", encoding="utf-8")
    config = {"chat_template": "other", "eos_token": {"content": "<end>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    template = ChatTemplate.from_folder(tmp_path)
    text = template.render(
        [], tools=None, add_generation_prompt=True, enable_thinking=True, preserve_thinking=True
    )
    assert text == "<end>"


def test_no_template_at_all(tmp_path):
    with pytest.raises(CheckpointError, match="no chat template"):
        ChatTemplate.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("thinking", "opening"), [(True, "<think>\n"), (False, "<think>\n\n</think>\n\n")]
)
def test_the_demo_opens_the_answer_with_or_without_thinking(thinking, opening):
    text = ChatTemplate.from_folder(DEMO).render(
        [{"role": "user", "content": " hi "}],
        tools=None,
        add_generation_prompt=True,
        enable_thinking=thinking,
        preserve_thinking=True,
    )
    assert text == f"<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n{opening}"
