"""Small chat templates of our own, one for each thing that real templates do to a token stream.

Each is named by what it does. The control tokens are those of the families that do it, because their shapes are part
of the difficulty: how they look decides what merges, what strips and what has to be told apart from text.
"""

from __future__ import annotations

from typing import Final

_GP = "{% if add_generation_prompt %}"

ARCHETYPES: Final[dict[str, str]] = {
    "every turn is closed": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        + _GP
        + "<|im_start|>assistant\n{% endif %}"
    ),
    "a default system prompt, results of tools in one user turn": """\
{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are Test, made by us.<|im_end|>\\n' }}{% endif %}
{%- if tools %}{{ '<|im_start|>system\\n<tools>\\n' }}{% for t in tools %}{{ t | tojson }}{{ '\\n' }}{% endfor %}{{ '</tools><|im_end|>\\n' }}{% endif %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}
        {%- if loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
        {{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}
    {%- else %}
        {{- '<|im_start|>' + m.role }}
        {%- if m.content %}{{ '\\n' + m.content }}{% endif %}
        {%- for c in m.tool_calls or [] %}
            {{- '\\n<tool_call>\\n{"name": "' + c.function.name + '", "arguments": ' + (c.function.arguments | tojson) + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "a date, trimmed texts, one call a turn, calls closed by another token": """\
{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set messages = messages[1:] %}{% endif %}
{%- if tools %}{% for t in tools %}{{ t | tojson(indent=4) }}{% endfor %}{% endif %}
{{- '<|eot_id|>' }}
{%- for m in messages %}
    {%- if m.tool_calls %}
        {%- if m.tool_calls | length != 1 %}{{ raise_exception('This model only takes single tool calls at once!') }}{% endif %}
        {%- set f = m.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + f.name + '", "parameters": ' + (f.arguments | tojson) + '}<|eom_id|>' }}
    {%- elif m.role == 'tool' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + (m.content | tojson) + '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + (m.content | trim) + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}""",
    "system text in the first user turn, spaces at the boundaries": """\
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}
{%- for m in rest %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}{% endif %}
    {%- if m.role == 'user' %}
        {{- bos_token + '[INST] ' + ('<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' if loop.first and system is defined else '') + m.content.strip() + ' [/INST]' }}
    {%- else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}
{%- endfor %}""",
    "system text and tools in the last user turn, strict ids": """\
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}
{%- set users = rest | selectattr('role', 'equalto', 'user') | list %}
{%- set ns = namespace(index=0) %}
{%- for m in rest %}
    {%- if m.role in ('user', 'assistant') and not m.tool_calls %}
        {%- if (m.role == 'user') != (ns.index % 2 == 0) %}{{ raise_exception('roles must alternate user/assistant') }}{% endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for m in rest %}
    {%- if m.role == 'user' %}
        {%- if tools and m == users[-1] %}{{ '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}
        {{- '[INST] ' + (system + '\\n\\n' if loop.last and system is defined else '') + m.content + '[/INST]' }}
    {%- elif m.tool_calls %}
        {{- '[TOOL_CALLS] [' }}
        {%- for c in m.tool_calls %}
            {%- if c.id is not defined or c.id | length != 9 %}{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}
            {{- (c.function | tojson)[:-1] + ', "id": "' + c.id + '"}' + (']' + eos_token if loop.last else ', ') }}
        {%- endfor %}
    {%- elif m.role == 'assistant' %}{{ ' ' + m.content | trim + eos_token }}
    {%- elif m.role == 'tool' %}{{ '[TOOL_RESULTS] {"content": ' + m.content | string + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}{{ raise_exception('Only user and assistant roles are supported, with the exception of an initial optional system message!') }}
    {%- endif %}
{%- endfor %}""",
    "nothing between the turns and their markers": """\
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}
    {%- elif m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}
    {%- elif m.role == 'tool' %}{{ '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}
    {%- else %}
        {{- m.content }}
        {%- for c in m.tool_calls or [] %}{{ '[TOOL_CALLS]' + c.function.name + '[ARGS]' + (c.function.arguments if c.function.arguments is string else c.function.arguments | tojson) }}{% endfor %}
        {{- eos_token }}
    {%- endif %}
{%- endfor %}""",
    "thoughts in square brackets, a default system prompt": """\
{{- bos_token + '[SYSTEM_PROMPT]' + (messages[0].content if messages[0].role == 'system' else 'First draft your thinking.\\n\\n[THINK]Your thoughts.[/THINK]') + '[/SYSTEM_PROMPT]' }}
{%- for m in messages %}
    {%- if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}
    {%- elif m.role == 'assistant' %}
        {{- ('[THINK]' + m.reasoning_content + '[/THINK]' if m.reasoning_content else '') + m.content }}
        {%- for c in m.tool_calls or [] %}{{ '[TOOL_CALLS]' + c.function.name + '[ARGS]' + (c.function.arguments if c.function.arguments is string else c.function.arguments | tojson) }}{% endfor %}
        {{- eos_token }}
    {%- elif m.role == 'tool' %}{{ '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}""",
    "the assistant has another name, no system role": """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
    {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}""",
    "system text before the first user's": """\
{{- bos_token }}
{%- set prefix = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' %}
{%- for m in (messages[1:] if prefix else messages) %}
    {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + (prefix if loop.first else '') + m.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}""",
    "roles are plain text": """\
{%- if messages[0].role == 'system' %}{{ messages[0].content + ' ' }}{% set rest = messages[1:] %}{% else %}{{ 'A chat between a user and an assistant. ' }}{% set rest = messages %}{% endif %}
{%- for m in rest %}
    {%- if m.role == 'assistant' %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% else %}{{ m.role | upper + ': ' + m.content + ' ' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}""",
    "no control token at all": (
        "{% for m in messages %}{{ m.role | capitalize + ': ' + m.content + '\\n\\n' }}{% endfor %}"
        + _GP
        + "Assistant:{% endif %}"
    ),
    "instruction and response": (
        "{% for m in messages %}{{ {'user': '### Instruction:', 'assistant': '### Response:'}.get(m.role, '### ' + m.role | capitalize + ':') + '\\n' + m.content + '\\n\\n' }}"
        "{% endfor %}" + _GP + "### Response:\n{% endif %}"
    ),
    "named tokens close every turn": (
        "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}{% endfor %}"
        + _GP
        + "<|assistant|>\n{% endif %}"
    ),
    "turns end where the next role begins": """\
{{- '[gMASK]<sop>' }}
{%- if tools %}{{ '<|system|>\\n<tools>' }}{% for t in tools %}{{ t | tojson }}{% endfor %}{{ '</tools>' }}{% endif %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}{{ '<|observation|>' }}{% endif %}
        {{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
    {%- else %}
        {{- '<|' + m.role + '|>\\n' + m.content }}
        {%- for c in m.tool_calls or [] %}
            {{- '\\n<tool_call>' + c.function.name + '\\n' }}
            {%- for k, v in c.function.arguments.items() %}{{ '<arg_key>' + k + '</arg_key>\\n<arg_value>' + (v if v is string else v | tojson) + '</arg_value>\\n' }}{% endfor %}
            {{- '</tool_call>' }}
        {%- endfor %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}""",
    "roles share one token, turns end where the next begins": (
        "{% for m in messages %}{{ '<SPECIAL_10>' if m.role == 'system' else '<SPECIAL_11>' }}{{ m.role | capitalize + '\\n' + m.content + '\\n' }}{% endfor %}"
        + _GP
        + "<SPECIAL_11>Assistant\n{% endif %}"
    ),
    "thoughts are stripped once a user has spoken": """\
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set content = m.content %}{% set thought = m.reasoning_content or '' %}
        {%- if not thought and '</think>' in content %}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}{% set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}{{ '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}
        {{- content }}
        {%- for c in m.tool_calls or [] %}{{ ('\\n' if content or not loop.first else '') + '<tool_call>\\n{"name": "' + c.function.name + '", "arguments": ' + (c.function.arguments | tojson) + '}\\n</tool_call>' }}{% endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif m.role == 'tool' %}{{ '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}""",
    "every turn has to think, no thought is kept": """\
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'system' %}{{ m.content }}
    {%- elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}
    {%- elif m.role == 'assistant' %}{{ '<｜Assistant｜>' + (m.content.split('</think>') | last) + '<｜end▁of▁sentence｜>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}""",
    "a closed thought stands before every answer": """\
{{- bos_token }}{% if thinking is not defined %}{% set thinking = false %}{% endif %}
{%- set ns = namespace(tool=false) %}
{%- for m in messages %}
    {%- if m.role == 'system' %}{{ m.content }}
    {%- elif m.role == 'user' %}{% set ns.tool = false %}{{ '<｜User｜>' + m.content }}
    {%- elif m.role == 'assistant' %}
        {{- '' if ns.tool else '<｜Assistant｜></think>' }}{% set ns.tool = false %}{{ m.content.split('</think>', 1) | last }}
        {%- for c in m.tool_calls or [] %}{{ ('<｜tool▁calls▁begin｜>' if loop.first else '') + '<｜tool▁call▁begin｜>' + c.function.name + '<｜tool▁sep｜>' + (c.function.arguments if c.function.arguments is string else c.function.arguments | tojson) + '<｜tool▁call▁end｜>' + ('<｜tool▁calls▁end｜>' if loop.last else '') }}{% endfor %}
        {{- '<｜end▁of▁sentence｜>' }}
    {%- elif m.role == 'tool' %}{% set ns.tool = true %}{{ '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt and not ns.tool %}{{ '<｜Assistant｜>' + ('<think>' if thinking else '</think>') }}{% endif %}""",
    "tool state is carried from message to message": """\
{{- bos_token }}
{%- set ns = namespace(tool=false, first=true, outputs=true) %}
{%- for m in messages %}
    {%- if m.role == 'system' %}{{ m.content }}
    {%- elif m.role == 'user' %}{% set ns.tool = false %}{{ '<｜User｜>' + m.content }}
    {%- elif m.tool_calls %}
        {%- set ns.tool = false %}{% set ns.first = true %}
        {{- '<｜Assistant｜>' + m.content }}
        {%- for c in m.tool_calls %}
            {{- '<｜tool▁calls▁begin｜>' if loop.first else '\\n' }}
            {{- '<｜tool▁call▁begin｜>' + c.type + '<｜tool▁sep｜>' + c.function.name + '\\n```json\\n' + c.function.arguments + '\\n```<｜tool▁call▁end｜>' }}
        {%- endfor %}
        {{- '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' }}
    {%- elif m.role == 'assistant' %}
        {%- if ns.tool %}{{ '<｜tool▁outputs▁end｜>' + m.content + '<｜end▁of▁sentence｜>' }}{% set ns.tool = false %}
        {%- else %}{{ '<｜Assistant｜>' + m.content + '<｜end▁of▁sentence｜>' }}{% endif %}
    {%- elif m.role == 'tool' %}
        {%- set ns.tool = true %}
        {{- '<｜tool▁outputs▁begin｜>' if ns.first else '\\n' }}{% set ns.first = false %}
        {{- '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}
    {%- endif %}
{%- endfor %}
{%- if ns.tool %}{{ '<｜tool▁outputs▁end｜>' }}{% endif %}
{%- if add_generation_prompt and not ns.tool %}{{ '<｜Assistant｜>' }}{% endif %}""",
    "channels, and another token at the very end": """\
{{- '<|start|>system<|message|>You are Test.\\nCurrent date: ' + strftime_now('%Y-%m-%d') + '<|end|>' }}
{%- if messages[0].role in ('system', 'developer') %}{{ '<|start|>developer<|message|># Instructions\\n\\n' + messages[0].content + '<|end|>' }}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}
{%- set ns = namespace(tool=none, final=-1) %}
{%- for m in rest %}{% if m.role == 'assistant' and not m.tool_calls %}{% set ns.final = loop.index0 %}{% endif %}{% endfor %}
{%- for m in rest %}
    {%- if m.role == 'user' %}{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}
    {%- elif m.role == 'tool' %}{{ '<|start|>functions.' + ns.tool + ' to=assistant<|channel|>commentary<|message|>' + m.content | tojson + '<|end|>' }}
    {%- elif m.tool_calls %}
        {%- if (m.reasoning_content or m.content) and loop.index0 > ns.final %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + (m.reasoning_content or m.content) + '<|end|>' }}{% endif %}
        {%- set c = m.tool_calls[0].function %}{% set ns.tool = c.name %}
        {{- '<|start|>assistant to=functions.' + c.name + '<|channel|>commentary json<|message|>' + c.arguments | tojson + '<|call|>' }}
    {%- elif m.role == 'assistant' %}
        {%- if loop.last and not add_generation_prompt %}
            {%- if m.reasoning_content %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.reasoning_content + '<|end|>' }}{% endif %}
            {{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}
        {%- else %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}{% endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}""",
    "the end of a text is written where nobody is asked": (
        "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}"
        + _GP
        + "<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
    ),
    "control tokens are put together from roles": (
        "{% for m in messages %}{% if m.role == 'system' and m.tools is defined %}{{ '<|system|>' + m.content + '<|tool|>' + m.tools + '<|/tool|><|end|>' }}"
        "{% else %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
        + _GP
        + "<|assistant|>{% else %}{{ eos_token }}{% endif %}"
    ),
    "a separator token in every header": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
        + _GP
        + "<|im_start|>assistant<|im_sep|>{% endif %}"
    ),
    "stripped texts between two tokens a role": """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}{% else %}{% set system = 'You are a helpful model made by us.' %}{% set rest = messages %}{% endif %}
{{- '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system + '<|END_OF_TURN_TOKEN|>' }}
{%- for m in rest %}
    {%- if m.role == 'user' %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}
    {%- elif m.role == 'assistant' %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + m.content.strip() }}{% if m.tool_calls %}{{ 'Action: ```json\\n' + (m.tool_calls | map(attribute='function') | list | tojson) + '\\n```' }}{% endif %}{{ '<|END_OF_TURN_TOKEN|>' }}
    {%- elif m.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><results>\\n' }}{% set counter = namespace(n=0) %}{% endif %}
        {{- 'Document: ' + (loop.index0 | string) + '\\n' + m.content }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{ '</results><|END_OF_TURN_TOKEN|>' }}{% endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}""",
    "a default prompt with the date, tools in a role of their own": """\
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}{% else %}{% set system = "Knowledge Cutoff Date: April 2024.\\nToday's Date: " + strftime_now('%B %d, %Y') + ".\\nYou are Test." %}{% set rest = messages %}{% endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\\n' }}
{%- if tools %}{{ '<|start_of_role|>tools<|end_of_role|>' + (tools | tojson(indent=4)) + '<|end_of_text|>\\n' }}{% endif %}
{%- for m in rest %}
    {{- '<|start_of_role|>' + ('tool_response' if m.role == 'tool' else m.role) + '<|end_of_role|>' + m.content }}
    {%- for c in m.tool_calls or [] %}{{ ('<|tool_call|>' if loop.first else '') + (c.function | tojson) }}{% endfor %}
    {{- '<|end_of_text|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}""",
    "an empty thought is put before the answer": """\
{%- for m in messages %}
    {%- if m.role == 'assistant' %}{{ '<|im_start|>assistant\\n' + ('<think>\\n' + m.reasoning_content + '\\n</think>\\n' if m.reasoning_content else '') + m.content.lstrip('\\n') + '<|im_end|>\\n' }}
    {%- else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n' }}{% endif %}""",
    "a flag in an earlier text decides whether to think": """\
{%- set ns = namespace(think=true) %}
{%- for m in messages %}
    {%- if m.role in ('user', 'system') %}
        {%- if '/no_think' in m.content %}{% set ns.think = false %}{% elif '/think' in m.content %}{% set ns.think = true %}{% endif %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' + ('<think>\\n' if ns.think else '<think></think>') }}{% endif %}""",
    "the end of a turn has a newline unless it is the last": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>\\n' + m.content + eos_token }}{% if not loop.last %}{{ '\\n' }}{% endif %}"
        "{% else %}{{ '<|' + m.role + '|>\\n' + m.content + '\\n' }}{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"
    ),
    "brackets of an unusual shape": (
        "{{ ']~!b[' }}{% for m in messages %}{{ ']~b]' + ('ai' if m.role == 'assistant' else m.role) + '\\n' }}"
        "{% if m.role == 'assistant' and m.reasoning_content and loop.last %}{{ '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}"
        "{{ m.content + '[e~[\\n' }}{% endfor %}" + _GP + "]~b]ai\n<think>\n{% endif %}"
    ),
    "colons in the tokens": (
        "{% for m in messages %}{{ '<seed:bos>' + m.role + '\\n' }}{% if m.role == 'assistant' and m.reasoning_content %}{{ '<seed:think>' + m.reasoning_content | trim + '</seed:think>' }}{% endif %}"
        "{{ m.content | trim + '<seed:eos>' }}{% endfor %}" + _GP + "<seed:bos>assistant\n{% endif %}"
    ),
    "two tokens and a name open a turn": """\
{%- for m in messages %}
    {{- '<|im_' + (m.role if m.role in ('user', 'assistant') else 'system') + '|>' + (m.name or m.role) + '<|im_middle|>' }}
    {%- if m.role == 'tool' %}{{ '## Return of ' + m.tool_call_id + '\\n' }}{% endif %}
    {{- m.content }}
    {%- if m.tool_calls %}{{ '<|tool_calls_section_begin|>' }}{% for c in m.tool_calls %}{{ '<|tool_call_begin|>' + c.id + '<|tool_call_argument_begin|>' + (c.function.arguments if c.function.arguments is string else c.function.arguments | tojson) + '<|tool_call_end|>' }}{% endfor %}{{ '<|tool_calls_section_end|>' }}{% endif %}
    {{- '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}""",
    "text roles, and a token behind the answer": (
        "{{ '<|begin_of_sentence|>' }}{% for m in messages %}{% if m.role == 'user' %}{{ 'User: ' + m.content + '\\n' }}{% elif m.role == 'assistant' %}{{ 'Assistant: ' + m.content + '<|end_of_sentence|>' }}"
        "{% else %}{{ m.content + '\\n' }}{% endif %}{% endfor %}" + _GP + "Assistant: {% endif %}"
    ),
    "names in the text, tokens behind it": (
        "{{ bos_token }}{% for m in messages %}{{ 'GPT4 Correct ' + m.role.title() + ': ' + m.content + '<|end_of_turn|>' }}{% endfor %}"
        + _GP
        + "GPT4 Correct Assistant:{% endif %}"
    ),
    "content has to be a list of parts": (
        "{% for m in messages %}{{ m.role | capitalize + (':' if m.content[0]['type'] == 'image' else ': ') }}"
        "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{{ '<end_of_utterance>\\n' }}{% endfor %}"
        + _GP
        + "Assistant:{% endif %}"
    ),
    "rounds are numbered": """\
{%- set ns = namespace(round=0) %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{% set ns.round = ns.round + 1 %}{{ '[Round ' + (ns.round | string) + ']\\n\\nQ: ' + m.content + '\\n\\nA:' }}
    {%- elif m.role == 'assistant' %}{{ ' ' + m.content + '</s>\\n\\n' }}
    {%- endif %}
{%- endfor %}""",
    "the last user is reminded": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}{% if loop.last and m.role == 'user' %}{{ '\\n\\nReminder: be brief.' }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
        + _GP
        + "<|im_start|>assistant\n{% endif %}"
    ),
    "the number of messages is told": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
        + _GP
        + "{{ '<|im_start|>assistant (' + (messages | length | string) + ')\\n' }}{% endif %}"
    ),
    "the prompt is written unasked": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}{% if messages[-1].role != 'assistant' %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "the prompt has a newline that history has not": (
        "{% for m in messages %}{{ '<|' + m.role + '|>' + ('\\n' if m.role != 'assistant' else '') + m.content + '<|end|>\\n' }}{% endfor %}"
        + _GP
        + "<|assistant|>\n{% endif %}"
    ),
    "tools answer inside the assistant's turn": """\
{%- set ns = namespace(open=false) %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}{{ '<|tool_response>' + m.content + '<tool_response|>' }}
    {%- elif m.role == 'assistant' %}
        {%- if not ns.open %}{{ '<|turn>model\\n' }}{% endif %}
        {{- m.content | trim }}
        {%- for c in m.tool_calls or [] %}{{ '<tool_call>\\n{"name": "' + c.function.name + '", "arguments": ' + (c.function.arguments | tojson) + '}\\n</tool_call>' }}{% endfor %}
        {%- if m.tool_calls %}{% set ns.open = true %}{{ '<|tool_response>' if loop.last }}{% else %}{% set ns.open = false %}{{ '<turn|>\\n' }}{% endif %}
    {%- else %}{% set ns.open = false %}{{ '<|turn>' + m.role + '\\n' + m.content | trim + '<turn|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt and not ns.open %}{{ '<|turn>model\\n' }}{% endif %}""",
    "the assistant's content comes behind the results of its calls": """\
{%- for m in messages %}
    {%- if m.role == 'assistant' and m.tool_calls %}
        {{- '<|im_start|>assistant\\n' }}{% for c in m.tool_calls %}{{ '<tool_call>' + c.function.name + ' ' + (c.function.arguments | tojson) + '</tool_call>' }}{% endfor %}{{ '<|im_end|>\\n' }}
    {%- elif m.role == 'tool' %}{{ '<|im_start|>tool\\n' + m.content + '<|im_end|>\\n' }}
    {%- else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "the thought of an answer is kept until the next answer": """\
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{% if m.role == 'assistant' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.role == 'assistant' and m.reasoning_content and loop.index0 == ns.last %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}
    {{- m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "the assistant speaks upper case": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + (m.content | upper if m.role == 'user' else m.content) + '<|im_end|>\\n' }}{% endfor %}"
        + _GP
        + "<|im_start|>assistant\n{% endif %}"
    ),
    "only the last rounds are written": (
        "{% for m in messages[-4:] %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
        + _GP
        + "<|im_start|>assistant\n{% endif %}"
    ),
}
"""Template sources by what they do."""

UNUSUAL_TOKENS: Final = ("]~!b[", "]~b]", "[e~[", "<seed:bos>", "<seed:eos>")
"""Control tokens whose shape nothing in a template gives away."""
