"""The files beside the weights that a checkpoint folder needs: a byte tokenizer and a template.

One token per byte and the control tokens after them; parity is about logits, not about text.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ORDINARY_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)

TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
<think>
{% if enable_thinking is defined and enable_thinking is false %}
</think>

{% endif %}
{%- endif -%}
"""


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, generation_config.json and the template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(t, special=False) for t in ORDINARY_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))

    end, stop = (tokenizer.token_to_id(t) for t in ("<|endoftext|>", "<|im_end|>"))
    _write(folder / "tokenizer_config.json", {"eos_token": "<|im_end|>"})
    generation = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 20,
        "top_p": 0.95,
        "eos_token_id": [stop, end],
    }
    _write(folder / "generation_config.json", generation)
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
