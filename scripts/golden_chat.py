#!/usr/bin/env python3
"""Make the golden cases of chat templates and Parquet records from the reference implementations.

    python scripts/golden_chat.py tests/golden

Writes
  chat-templates.json      chat templates as models are published with (and one with the corners of Jinja), dialogues, and
                           what Jinja2 makes of them, set up as transformers' apply_chat_template sets it up
  records/chat-*.parquet   the same three records in each of the usual compressions, in two row groups, by pyarrow

The recorded results were made with Python 3.11, Jinja2 3.1.6 and pyarrow 26.0.1.
"""
import argparse
import json
import pathlib

import jinja2
import pyarrow
import pyarrow.parquet
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATES = {
    "chatml": (
        "{% for message in messages %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "zephyr": (
        "{% for message in messages %}\n{% if message['role'] == 'user' %}"
        "\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}"
        "\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}"
        "\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}"
        "\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
    ),
    "llama2": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
        "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if loop.index0 == 0 and system_message != false %}"
        "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}{% else %}"
        "{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
        "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "llama3": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}"
        "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
        "{% set role = message['role'] %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
    ),
    "blocks": (
        "{%- for message in messages %}\n    {%- if message.role == 'system' -%}"
        "\n        {{ message.content.strip().upper() }}"
        "\n    {% elif not loop.first and loop.previtem.role == 'system' %}\n        first\n    {% endif %}"
        "\n  {% if message.content.startswith('x') and message.content.split(' ')[-1] is defined %}{% continue %}"
        "{% endif %}\n{% set ns = namespace(n=0) %}{% for k, v in message.items() %}"
        "{% set ns.n = ns.n + v|length %}{% endfor %}\n{{ loop.index0 }}:{{ message.role.title() }}/{{ ns.n }}"
        "\n{% endfor %}\n"
    ),
}
DIALOGUES = [
    [("user", "Hi"), ("assistant", "Hello.")],
    [("system", " Be brief. "), ("user", "x one\n"), ("assistant", " 1"),
     ("user", "two <|im_end|>"), ("assistant", "2\n\nend ")],
    [("user", "A"), ("assistant", "B"), ("user", "C")],
]
RECORDS = [
    {"messages": [("user", "Hi é"), ("assistant", "Hello.\nYou?")], "score": 1.5, "id": 7, "note": None},
    {"messages": [("system", "Be brief."), ("user", "2+2?"), ("assistant", "4")], "score": -2.0, "id": 8, "note": "x"},
    {"messages": [("user", "Go"), ("assistant", "Gone")], "score": 0.0, "id": -9, "note": ""},
]


def messages(pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def refuse(message):
    raise jinja2.exceptions.TemplateError(message)


def chat_templates():
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = refuse
    cases = []
    for name, source in TEMPLATES.items():
        for dialogue in DIALOGUES:
            for prompt in (False, True):
                case = {"template": name, "messages": messages(dialogue), "add_generation_prompt": prompt}
                try:
                    text = environment.from_string(source).render(
                        messages=messages(dialogue), add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>")
                    cases.append(case | {"text": text, "error": None})
                except jinja2.exceptions.TemplateError as error:
                    cases.append(case | {"text": None, "error": str(error)})
    return {"made_with": f"jinja2 {jinja2.__version__}", "templates": TEMPLATES, "cases": cases}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    text = json.dumps(chat_templates(), indent=1, ensure_ascii=False)
    (folder / "chat-templates.json").write_text(text + "\n")
    (folder / "records").mkdir(exist_ok=True)
    table = pyarrow.Table.from_pylist([record | {"messages": messages(record["messages"])} for record in RECORDS])
    for compression in ("none", "snappy", "zstd", "gzip"):
        path = folder / "records" / f"chat-{compression}.parquet"
        pyarrow.parquet.write_table(table, path, compression=compression, row_group_size=2)


if __name__ == "__main__":
    main()
