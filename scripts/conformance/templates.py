#!/usr/bin/env python3
"""Make the conformance rows of chat templates: what transformers renders and tokenizes.

    python scripts/conformance/templates.py tests/golden/conformance

Writes templates.json and the tokenizers that its rows name. A row has a template, messages and special tokens, and either
the text that transformers renders or that it refuses them; rows with a tokenizer also have the tokens of
`apply_chat_template`, and those with marks of `{% generation %}` its mask.
"""
import argparse
import json
import os
import pathlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import jinja2
import tokenizers
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

ASK = [{"role": "user", "content": "Who has the kite?"}]
TALK = [
    {"role": "user", "content": "What is a fox?\n"},
    {"role": "assistant", "content": "It is a small animal."},
    {"role": "user", "content": "Is it \"red\" & <quick>?"},
    {"role": "assistant", "content": " Yes, it's red.  "},
]
GUIDED = [{"role": "system", "content": " Answer in one word. "}, *TALK[:2]]
THINKING = [
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nFour."},
    {"role": "user", "content": "And 3?"},
    {"role": "assistant", "content": "<think>\nSeven?\n</think>\n\nSeven."},
]
UNICODE = [{"role": "user", "content": "Café 日本 👋🏽 \t\"q\" \\ \u2028 \x7f"}, {"role": "assistant", "content": "Ça va — naïve"}]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
HEADERS = (
    "{{- bos_token }}\n{%- for m in messages %}\n    {{- '<|start|>' + m['role'] + '<|stop|>\n\n' + m['content'] | trim + '<|turn|>' }}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|start|>assistant<|stop|>\n\n' }}\n{%- endif %}\n"
)
THINKER = (
    "{%- set ns = namespace(last=messages|length - 1) %}{%- for m in messages[::-1] %}{%- if m.role == 'user' and not ns.found %}"
    "{%- set ns.found = true %}{%- set ns.last = messages|length - 1 - loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}{%- set content = m.content %}{%- if m.role == 'assistant' and '</think>' in content and loop.index0 < ns.last %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>' ~ m.role ~ '\n' ~ content ~ '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

# name, template, messages, add_generation_prompt
RENDERED = [
    ("chatml", CHATML, TALK, False),
    ("chatml prompt", CHATML, ASK, True),
    ("inst", INST, TALK, False),
    ("headers", HEADERS, GUIDED, True),
    ("thoughts dropped", THINKER, THINKING, False),
    ("pad and unk", "{{ pad_token }}{{ unk_token }}{{ bos_token }}{{ eos_token }}", ASK, False),
    ("absent special token", "[{{ sep_token }}{{ cls_token }}]", ASK, False),
    ("tools are none", "{% if tools is not none %}T{% endif %}{% if tools %}U{% endif %}{{ tools is defined }}{{ documents is none }}", ASK, False),
    ("unknown names are undefined", "{{ enable_thinking is defined }}{{ custom_tools }}{% if not date_string is defined %}x{% endif %}", ASK, False),
    ("tojson of text", "{{ messages[0].content | tojson }}", [{"role": "user", "content": "It's a \"fox\" <b>&amp; x"}], False),
    ("tojson of messages", "{{ messages | tojson }}", UNICODE, False),
    ("tojson ensure_ascii", "{{ messages | tojson(ensure_ascii=True) }}", UNICODE, False),
    ("tojson ensure_ascii false", "{{ messages[0] | tojson(ensure_ascii=False) }}", UNICODE, False),
    ("tojson indent", "{{ messages | tojson(indent=4) }}", TALK, False),
    ("tojson indent and separators", "{{ messages[0] | tojson(indent=2, separators=(',', ':')) }}", TALK, False),
    ("tojson separators", "{{ messages[0] | tojson(separators=(',', ':')) }}", TALK, False),
    ("tojson sort_keys", "{{ {'b': 1, 'a': [true, none, 1.5, 1e20, 0.1, 1e-7], 'é': {}} | tojson(sort_keys=true) }}", ASK, False),
    ("tojson in place", "{{ {'b': 1, 'a': []} | tojson(true, 2, none, true) }}", ASK, False),
    ("tojson empty", "{{ [] | tojson(indent=2) }}{{ {} | tojson(indent=2) }}{{ [[]] | tojson(indent=1) }}", ASK, False),
    ("tojson keys", "{{ {1: 2, true: 3, none: 4, 1.5: 5} | tojson }}", ASK, False),
    ("percent", "{{ '%s: %s' % (messages[0].role, messages[0].content) }}", ASK, False),
    ("percent one", "{{ '<%s>' % messages[0].role }}{{ '%d%%' % 7 }}", ASK, False),
    ("percent widths", "{{ '[%5s|%-5s|%05d|%.2f|%+d|%x|%e]' % ('ab', 'cd', 42, 3.14159, 5, 255, 12345.678) }}", ASK, False),
    ("percent by name", "{{ '%(a)s-%(b)03d' % {'a': 'x', 'b': 7} }}", ASK, False),
    ("percent repr", "{{ '%r %s' % ('it', none) }}{{ '%s' % true }}", ASK, False),
    ("modulo", "{{ 7 % 3 }}{{ -7 % 3 }}{{ 7.5 % 2 }}", ASK, False),
    ("alternation", "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}{{ m.role[0] }}{% endfor %}", TALK, False),
    ("alternation broken", "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}{{ m.role[0] }}{% endfor %}", GUIDED, False),
    ("string methods", "{{ 'a-b-c'.split('-', 1) }}{{ 'a-b-c'.rsplit('-', 1)[0] }}{{ ' x '.strip() }}{{ 'xyx'.strip('x') }}{{ 'AbC'.lower() }}{{ 'abc'.upper() }}{{ 'ab cd'.title() }}{{ 'ab'.capitalize() }}", ASK, False),
    ("removeprefix", "{{ 'prefix-a'.removeprefix('prefix-') }}{{ 'a.txt'.removesuffix('.txt') }}", ASK, False),
    ("partition", "{{ 'k=v=w'.partition('=')[2] }}{{ 'k=v=w'.rpartition('=')[0] }}", ASK, False),
    ("adjusting", "{{ '7'.zfill(3) }}{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '.') }}|{{ 'a'.center(3, '*') }}", ASK, False),
    ("predicates", "{{ 'a1'.isalnum() }}{{ 'a'.isalpha() }}{{ '1'.isdigit() }}{{ 'A'.isupper() }}{{ ' '.isspace() }}{{ 'é'.isascii() }}{{ 'Ab'.istitle() }}", ASK, False),
    ("finding", "{{ 'banana'.find('n') }}{{ 'banana'.rfind('n') }}{{ 'banana'.count('an') }}{{ 'banana'.index('n') }}{{ 'banana'.replace('a', 'o', 2) }}", ASK, False),
    ("startswith", "{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith(('x', 'c')) }}{{ 'aBc'.swapcase() }}{{ 'a\nb'.splitlines() }}{{ '-'.join(['a', 'b']) }}", ASK, False),
    ("dict methods", "{% set d = {'a': 1, 'b': none} %}{{ d.get('a') }}{{ d.get('z', 'no') }}{{ d.keys() | list }}{{ d.values() | list }}{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", ASK, False),
    ("list methods", "{% set l = [3, 1, 2] %}{{ l.index(1) }}{{ l.count(3) }}{{ l | sort }}{{ l[::-1] }}{{ l[-1] }}{{ l + [4] }}", ASK, False),
    ("repr in output", "{{ ['a', 'it\\'s', 1, 1.0, true, none, {'k': 'v'}] }}", ASK, False),
    ("tuple in output", "{{ (1, 'a') }}{{ ('x',) }}", ASK, False),
    ("booleans and none", "{{ true }}{{ false }}{{ none }}{{ 1.0 }}{{ 1e20 }}{{ 2 ** 10 }}{{ 7 // 2 }}{{ 7 / 2 }}", ASK, False),
    ("concatenation", "{{ 1 ~ true ~ none ~ 'x' ~ 1.5 ~ [1] }}", ASK, False),
    ("escape in literals", "{{ 'a\\tb\\n\\'c\\' \\\\ \\u00e9' }}", ASK, False),
    ("filters", "{{ messages | map(attribute='role') | join(', ') }}{{ messages | length }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ (messages | last).role }}{{ messages | rejectattr('role', 'eq', 'user') | map(attribute='content') | first }}", TALK, False),
    ("more filters", "{{ 'abc' | upper | replace('B', 'x') }}{{ none | default('d') }}{{ missing | default('d') }}{{ '' | default('e', true) }}{{ ' a ' | trim }}{{ 'a b' | title }}{{ [1, 2, 3] | sum }}{{ [2, 1] | max }}{{ 'abc' | first }}{{ 'abc' | reverse }}{{ '3' | int + 1 }}{{ 2.567 | round(1) }}", ASK, False),
    ("dictsort and items", "{% for k, v in {'b': 2, 'a': 1} | dictsort %}{{ k }}{{ v }}{% endfor %}{% for k, v in {'b': 2, 'a': 1} | items %}{{ k }}{{ v }}{% endfor %}", ASK, False),
    ("groupby", "{% for role, ms in messages | groupby('role') %}{{ role }}:{{ ms | length }};{% endfor %}", TALK, False),
    ("indent filter", "{{ 'a\nb\n\nc' | indent(2) }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\nb' | indent }}", ASK, False),
    ("string filter", "{{ 5 | string + 'x' }}{{ true | string }}{{ none | string }}{{ [1, 'a'] | string }}", ASK, False),
    ("tests", "{{ messages is iterable }}{{ messages is sequence }}{{ messages[0] is mapping }}{{ 'a' is string }}{{ 1 is number }}{{ 1 is integer }}{{ 1.5 is float }}{{ true is boolean }}{{ none is none }}{{ x is undefined }}{{ 3 is odd }}{{ 4 is even }}{{ 'a' is in ['a'] }}{{ true is true }}", ASK, False),
    ("loop variables", "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem is defined }}{{ loop.nextitem is defined }};{% endfor %}", TALK, False),
    ("loop controls", "{% for m in messages %}{% if m.role == 'assistant' %}{% continue %}{% endif %}{% if loop.index > 3 %}{% break %}{% endif %}{{ m.content }}{% endfor %}", TALK, False),
    ("loop filter and else", "{% for m in messages if m.role == 'tool' %}{{ m }}{% else %}none{% endfor %}", TALK, False),
    ("loop cycle", "{% for m in messages %}{{ loop.cycle('a', 'b') }}{% endfor %}", TALK, False),
    ("macro", "{%- macro turn(role, content='', end=none) -%}<{{ role }}>{{ content }}{% if end is not none %}{{ end }}{% endif %}{%- endmacro -%}{% for m in messages %}{{ turn(m.role, m.content, end=eos_token) }}{% endfor %}", TALK, False),
    ("recursive macro", "{%- macro kind(v) -%}{%- if v is mapping -%}{ {%- for k, x in v.items() -%}{{ k }}: {{ kind(x) }}{%- if not loop.last %}, {% endif -%}{%- endfor -%} }{%- elif v is string -%}'{{ v }}'{%- else -%}{{ v }}{%- endif -%}{%- endmacro -%}{{ kind({'a': {'b': 'c'}, 'd': 1}) }}", ASK, False),
    ("set block", "{% set text %}  a{{ bos_token }}\nb{% endset %}[{{ text | trim }}]", ASK, False),
    ("set in a loop", "{% set x = 1 %}{% for m in messages %}{% set x = x + 1 %}{% endfor %}{{ x }}", TALK, False),
    ("namespace", "{% set ns = namespace(n=0, text='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.text = ns.text ~ m.role[0] %}{% endfor %}{{ ns.n }}{{ ns.text }}", TALK, False),
    ("unpacking", "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% for x, y in [(1, 2), (3, 4)] %}{{ x + y }}{% endfor %}", ASK, False),
    ("inline if", "{{ 'a' if messages | length > 1 else 'b' }}{{ 'c' if false }}", ASK, False),
    ("chained comparison", "{{ 1 < 2 < 3 }}", ASK, False),
    ("in and not in", "{{ 'fox' in messages[0].content }}{{ 'x' not in ['a'] }}{{ 'content' in messages[0] }}{{ 'tool_calls' in messages[0] }}", TALK, False),
    ("slices", "{{ messages[1:] | length }}{{ messages[:-1] | length }}{{ 'abcdef'[1:5:2] }}{{ 'abc'[::-1] }}", TALK, False),
    ("absent attribute", "{% if m is defined %}x{% endif %}{% for m in messages %}{% if m.tool_calls %}t{% elif m.tool_calls is defined %}d{% else %}n{% endif %}{% if m.name %}x{% endif %}{% endfor %}", TALK, False),
    ("attribute of nothing", "{{ nothing.at.all }}", ASK, False),
    ("index out of range", "[{{ messages[7] }}{{ messages[7] is defined }}]", ASK, False),
    ("whitespace control", "  {%- if true -%}  a  {%- endif %}  b\n   {% if true %}\n c\n   {% endif %}\nd {#- gone -#} e\n{{- 'f' -}}\n g", ASK, False),
    ("line statements kept", "# not a comment\n## neither\n{{ 'x' }}\n", ASK, False),
    ("last line break", "{{ 'x' }}\n\n", ASK, False),
    ("raw", "{% raw %}{{ not rendered }}{% endraw %}{{ '{{' }}", ASK, False),
    ("filter block", "{% filter upper %}a{{ messages[0].role }}{% endfilter %}", ASK, False),
    ("call block", "{% macro wrap(x) %}<{{ x }}>{{ caller() }}</{{ x }}>{% endmacro %}{% call wrap('t') %}in{% endcall %}", ASK, False),
    ("generation block", "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}", TALK, False),
    ("range", "{% for i in range(3) %}{{ i }}{% endfor %}{% for i in range(5, 1, -2) %}{{ i }}{% endfor %}{{ range(2) | list }}", ASK, False),
    ("dict call", "{{ dict(a=1, b='x') }}{{ dict(a=1).a }}", ASK, False),
    ("numbers", "{{ 10 | float }}{{ 3.0 * 2 }}{{ 1_000 }}{{ '5' * 3 }}{{ 5 | abs }}{{ -3 | abs }}{{ 1 == 1.0 }}", ASK, False),
    ("map with a filter", "{{ ['a', 'b'] | map('upper') | list }}{{ [' a '] | map('trim') | join }}", ASK, False),
    ("unique and batch", "{{ [1, 1, 2] | unique | list }}{{ [1, 2, 3] | batch(2) | list }}", ASK, False),
    ("nested quotes", "{{ \"it's\" }}{{ 'say \"x\"' }}", ASK, False),
    ("joiner", "{% set sep = joiner(', ') %}{% for m in messages %}{{ sep() }}{{ m.role }}{% endfor %}", TALK, False),
    ("wordcount and truncate", "{{ 'a b c' | wordcount }}{{ 'a long text here' | truncate(9) }}{{ 'x' | center(5) }}", ASK, False),
    ("attr and pprint", "{{ messages[0] | attr('nothing') is defined }}{{ 'a,b' .split(',') | join('|') }}", ASK, False),
    ("unicode", "{{ messages[0].content | length }}{{ messages[0].content[:5] }}{{ messages[1].content.upper() }}", UNICODE, False),
    ("deepest in wide", "{{ [[[[1]]]] | tojson }}{{ {'a': {'b': [{'c': none}]}} | tojson(indent=2) }}", ASK, False),
    ("tool calls in messages", "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.name }}{% endfor %}{{ m.content }}{% endfor %}", TALK, False),
    ("append is refused", "{% set l = [] %}{{ l.append(1) }}{{ l }}", ASK, False),
    ("do is unknown", "{% do messages.append(1) %}", ASK, False),
]

MARKED = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}[A] {% generation %}{{ m.content | trim }}{{ eos_token }}"
    "{% endgeneration %}{% else %}[U] {{ m.content }} {% endif %}{% endfor %}"
)

# Our own, with the constructs of published families: name, template, messages. Those that ask for the day are compared on the
# day, and have no row.
FAMILIES = [
    ("checks roles, merges system", "{%- if messages[0]['role'] == 'system' -%}{%- set loop_messages = messages[1:] -%}{%- set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' -%}{%- else -%}{%- set loop_messages = messages -%}{%- set system = false -%}{%- endif -%}{%- for message in loop_messages -%}{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('turns must alternate') }}{%- endif -%}{%- if loop.index0 == 0 and system != false -%}{%- set content = system + message['content'] -%}{%- else -%}{%- set content = message['content'] -%}{%- endif -%}{%- if message['role'] == 'user' -%}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{%- elif message['role'] == 'assistant' -%}{{ ' ' + content.strip() + ' ' + eos_token }}{%- endif -%}{%- endfor -%}", GUIDED),
    ("headers with a cut-off date", "{{- bos_token }}\n{%- if custom_tools is defined %}\n    {%- set tools = custom_tools %}\n{%- endif %}\n{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = \"\" %}\n{%- endif %}\n{{- \"<|start|>system<|stop|>\\n\\n\" }}\n{%- if tools is not none %}\n    {{- \"Environment: ipython\\n\" }}\n{%- endif %}\n{{- \"Known until December 2023\\n\" }}\n{{- system_message }}\n{{- \"<|turn|>\" }}\n{%- for message in messages %}\n    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}\n        {{- '<|start|>' + message['role'] + '<|stop|>\\n\\n'+ message['content'] | trim + '<|turn|>' }}\n    {%- elif 'tool_calls' in message %}\n        {{- message.tool_calls | tojson }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|start|>assistant<|stop|>\\n\\n' }}\n{%- endif %}\n", GUIDED),
    ("says the day", "{{ bos_token }}{%- if strftime_now is defined %}{%- set day = strftime_now('%d %b %Y') %}{%- else %}{%- set day = '26 Jul 2024' %}{%- endif %}[SYSTEM]Today is {{ day }}, {{ strftime_now('%Y-%m-%d') }}.[/SYSTEM]{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}", TALK),
    ("default system message", "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}", TALK),
    ("tools or none", "{%- if tools %}\n    {{- '<|im_start|>system\\n' }}\n    {%- for tool in tools %}\n        {{- tool | tojson }}\n    {%- endfor %}\n{%- else %}\n    {%- if messages[0].role == 'system' %}\n        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}\n    {%- endif %}\n{%- endif %}\n{%- for message in messages %}\n    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) or (message.role == \"assistant\" and not message.tool_calls) %}\n        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n    {%- elif message.role == \"tool\" %}\n        {{- '<tool>' + message.content }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n", GUIDED),
    ("thoughts of the last turn", THINKER, THINKING),
    ("thinking switched off", "{% for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}", TALK),
    ("model for assistant", "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}", TALK),
    ("system before the first user", "{{ bos_token }}\n{%- if messages[0]['role'] == 'system' -%}\n    {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}\n    {%- set loop_messages = messages[1:] -%}\n{%- else -%}\n    {%- set first_user_prefix = \"\" -%}\n    {%- set loop_messages = messages -%}\n{%- endif -%}\n{%- for message in loop_messages -%}\n    {{ '<t>' + message['role'] + '\n' + (first_user_prefix if loop.first else \"\") }}\n    {%- if message['content'] is string -%}\n        {{ message['content'] | trim }}\n    {%- elif message['content'] is iterable -%}\n        {%- for item in message['content'] -%}\n            {%- if item['type'] == 'text' -%}\n                {{ item['text'] | trim }}\n            {%- endif -%}\n        {%- endfor -%}\n    {%- endif -%}\n    {{ '</t>\n' }}\n{%- endfor -%}\n", GUIDED),
    ("signs after roles", "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}", GUIDED),
    ("namespace of firsts", "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<U>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<A>' + content + eos_token}}{%- endif %}{%- endfor -%}{% if add_generation_prompt %}{{'<A>'}}{% endif %}", GUIDED),
    ("documents and tools", "{%- if documents -%}{{ documents | tojson(indent=2) }}{%- endif -%}{%- if tools is none and documents is none -%}plain {% endif -%}{%- for message in messages %}<|{{ message.role }}|>{{ message.content.strip('\n').rstrip() }}<|end|>\n{% endfor %}", TALK),
    ("macros", "{%- macro text(m) -%}{%- if m.content is string -%}{{ m.content }}{%- else -%}{{ m.content[0].text }}{%- endif -%}{%- endmacro -%}{%- macro turn(m, end='<|turn|>') -%}{{ '<|start|>' ~ m.role ~ '<|stop|>' ~ text(m) ~ end }}{%- endmacro -%}{{ bos_token }}{%- for m in messages -%}{{ turn(m) }}{%- endfor -%}", TALK),
    ("plain names", "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}{% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}{% else %}{{ 'ASSISTANT: ' + message['content'] + eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}", GUIDED),
    ("instructions and responses", "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content ~ '\n\n' }}{% elif m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n{% elif m.role == 'assistant' %}### Response:\n{{ m.content }}{{ eos_token }}\n\n{% endif %}{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}", GUIDED),
    ("capitals", "{% for m in messages %}{{ m.role | capitalize }}: {{ m.content | replace('\n', ' ') }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}", TALK),
    ("marked answers", MARKED, TALK),
    ("parts of content", "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}{{ part.get('text', '') }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}", UNICODE),
    ("reversed search", "{%- set last = namespace(i=-1) -%}{%- for m in messages[::-1] -%}{%- if m.role == 'user' and last.i < 0 -%}{%- set last.i = messages | length - 1 - loop.index0 -%}{%- endif -%}{%- endfor -%}{%- for m in messages -%}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}", TALK),
    ("percent and join", "{{ ['[', ']'] | join('|') }}{% for m in messages %}{{ '<%s>%s</%s>' % (m.role, m.content, m.role) }}{% endfor %}", TALK),
    ("ordered signs", "{%- set sign = {'user': '<|u|>', 'assistant': '<|a|>', 'system': '<|s|>'} -%}{% for m in messages %}{{ sign[m.role] }}{{ m.content }}{{ '<|e|>' if m.role == 'assistant' }}{% endfor %}{{ sign['assistant'] if add_generation_prompt }}", GUIDED),
]

TRAINING = [
    "What is a fox? It is a small animal. Yes, it's red. Who has the kite? Ben has it.",
    "<|im_start|>user\nassistant\nsystem [INST] [/INST] Answer in one word. Is it quick? The miller and the lost kite.",
    "Café naïve — Ça va, 日本. Two and two. Four. Seven?",
] * 4
SPECIAL = ["<s>", "</s>", "<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|stop|>", "<|turn|>"]


def byte_level(split=False):
    tokenizer = Tokenizer(models.BPE())
    if split:
        pattern = Regex(r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    return tokenizer


def metaspace():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=520, special_tokens=SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)], show_progress=False,
        limit_alphabet=60, max_token_length=8,
    )
    tokenizer.train_from_iterator([" ".join(TRAINING)], trainer)
    return tokenizer


def words():
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(TRAINING, trainer)
    return tokenizer


# name, template, messages
TOKENIZED = [
    ("chatml", CHATML, TALK),
    ("inst", INST, TALK),
    ("headers", HEADERS, GUIDED),
    ("thinker", THINKER, THINKING),
    ("unicode", INST, UNICODE),
    ("marked", MARKED, TALK),
]


def is_dated(template):
    return "strftime_now" in template


def rendered_rows():
    rows = []
    for name, template, messages, prompt in RENDERED:
        row = {"name": name, "template": template, "messages": messages, "add_generation_prompt": prompt, "tokens": TOKENS}
        try:
            text, _ = render_jinja_template(
                conversations=[messages], chat_template=template, add_generation_prompt=prompt, **TOKENS
            )
            row["text"] = text[0]
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"
        rows.append(row)
    return rows


def tokenized_rows(folder):
    rows = []
    made = {"byte-level": byte_level(), "split": byte_level(split=True), "metaspace": metaspace(), "words": words()}
    for kind, tokenizer in made.items():
        path = folder / "templates" / kind
        path.mkdir(parents=True, exist_ok=True)
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **TOKENS)
        fast.save_pretrained(path)
        families = [row for row in FAMILIES if kind == "split" and not is_dated(row[1])]
        for name, template, messages in TOKENIZED + families:
            fast.chat_template = template
            marked = "generation %}" in template
            made_of = fast.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=marked)
            row = {"name": f"{kind}: {name}", "tokenizer": kind, "template": template, "messages": messages}
            row["ids"] = list(made_of["input_ids"])
            if (name, template, messages) in TOKENIZED:
                prompt = fast.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)
                row["prompt_ids"] = list(prompt["input_ids"])
            if marked:
                row["mask"] = made_of["assistant_masks"]
            rows.append(row)
    return rows


def check(gptkit, report):
    """Compares the tokens that `gptkit inspect` shows of dialogues, in templates of the usual families, with transformers'."""
    import tempfile
    import time

    import tiny

    os.environ["SOURCE_DATE_EPOCH"] = str(int(time.time()))  # the day that transformers sees
    fast = PreTrainedTokenizerFast(tokenizer_object=byte_level(split=True), **TOKENS)
    model = tiny.gpt2(vocab_size=len(fast), n_positions=512, bos_token_id=0, eos_token_id=1)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, template, messages in FAMILIES:
            fast.chat_template = template
            model.save_pretrained(folder / "model")
            fast.save_pretrained(folder / "model")
            record = json.dumps({"messages": messages}, ensure_ascii=False)
            (folder / "in.jsonl").write_text(f"{record}\n" * 3, encoding="utf-8")
            expected = list(fast.apply_chat_template(messages, return_dict=True)["input_ids"])
            try:
                shown = gptkit.run("inspect", "--config", "sft-small", "--init", folder / "model", "--data",
                                   folder / "in.jsonl", "--set", "pretraining.share=0", "--set", "data.val_fraction=0", "--rows", 1,
                                   "--json")
                ids = json.loads(shown.decode().splitlines()[0])["ids"][: len(expected)]
                report.line(ids == expected, "template", name if ids == expected else f"{name}: {ids}, not {expected}")
            except RuntimeError as error:
                report.line(False, "template", f"{name}: {error}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    versions = {
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "jinja2": jinja2.__version__,
    }
    rows = rendered_rows() + tokenized_rows(folder)
    text = json.dumps({"made_with": versions, "rows": rows}, indent=1, ensure_ascii=False)
    (folder / "templates.json").write_text(text + "\n", encoding="utf-8")
    print(f"{len(rows)} rows")


if __name__ == "__main__":
    main()
