"""Chat templates of known families, for model files that carry none.

They add no beginning-of-sequence token: tokenising does.
"""

from __future__ import annotations

GEMMA = r"""{%- set held = namespace(system='') -%}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}
        {%- set held.system = held.system + message.content | trim + '\n\n' -%}
    {%- else -%}
        {%- set role = 'model' if message.role == 'assistant' else message.role -%}
        {{- '<start_of_turn>' + role + '\n' -}}
        {%- if role == 'user' -%}
            {{- held.system -}}
            {%- set held.system = '' -%}
        {%- endif -%}
        {{- message.content | trim + '<end_of_turn>\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if held.system -%}
    {{- '<start_of_turn>user\n' + held.system | trim + '<end_of_turn>\n' -}}
{%- endif -%}
{%- if add_generation_prompt -%}
    {{- '<start_of_turn>model\n' -}}
{%- endif -%}
"""
"""Gemma has no system role: its text goes before that of the next user turn."""

LLAMA3 = r"""{%- for message in messages -%}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' -}}
    {{- message.content | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
{%- endif -%}
"""

CHATML = r"""{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\n' -}}
{%- endif -%}
"""
