"""rpc_client's typed functions and results, as Python."""

from __future__ import annotations

import textwrap

from rpc_client.description import Description, Method, Object, Type

_MADE = "Made by `python -m virtiod.rpc.describe`; what is changed here is lost."
_SIMPLE = {
    "": "Any",
    "boolean": "bool",
    "integer": "int",
    "number": "float",
    "object": "dict[str, Any]",
    "string": "str",
}
_WIDTH = 120

_RESULTS = f'''"""What methods answer. A member that is absent is None; those that only a newer daemon has are left out.

{_MADE}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
'''

_METHODS = f'''"""A function for each method. What is not given is not sent: defaults are the daemon's.

{_MADE}
"""

from __future__ import annotations

from typing import Any, Literal

from rpc_client import results
from rpc_client.typed import {{caller}}


class {{name}}({{caller}}):
    """The methods of a virtiod. Each raises ClientError; a MethodError has the code and message of the daemon."""
'''


def results(description: Description) -> str:
    """rpc_client/results.py."""
    return "\n\n".join([_RESULTS, *(_class(one) for one in description.objects.values())])


def methods(description: Description) -> str:
    """rpc_client/methods.py."""
    head = _METHODS.format(name="Methods", caller="Caller")
    return "\n".join([head, *(_function(method, "def", "return") for method in description.methods)])


def async_methods(description: Description) -> str:
    """rpc_client/async_methods.py."""
    head = _METHODS.format(name="AsyncMethods", caller="AsyncCaller")
    return "\n".join([head, *(_function(method, "async def", "return await") for method in description.methods)])


def _class(described: Object) -> str:
    lines = ["@dataclass(frozen=True, kw_only=True)", f"class {described.name}:", *_docstring(4, described.summary), ""]
    for member in described.members:
        kind = _python(member.type)
        lines.append(f"    {member.name}: {kind}" if member.required else f"    {member.name}: {kind} | None = None")
        lines += _docstring(4, _sentence(member.type))
    return "\n".join(lines) + "\n"


def _function(method: Method, define: str, answer: str) -> str:
    lines = [f"    {define} {method.name.replace('.', '_')}(", "        self,", "        *,"]
    for param in method.parameters:
        kind = _python(param.type, literal=True)
        lines.append(f"        {param.name}: {kind}{'' if param.required else ' | None = None'},")
    result = _python(method.result, "results.")
    lines += ["        timeout_s: float | None = None,", f"    ) -> {result}:"]
    about = [f"{param.name}: {param.help}" for param in method.parameters]
    returns = f"Returns: {method.result.help}" if method.result.help else ""
    errors = [f"MethodError {code}: {meaning}" for code, meaning in sorted(method.errors.items(), reverse=True)]
    lines += _docstring(8, method.summary, method.text, "\n".join(about), returns, "\n".join(errors))
    if method.parameters:
        sent = [f'            "{param.name}": {param.name},' for param in method.parameters]
        lines += ["        params = {", *sent, "        }"]
    asked = "params" if method.parameters else "{}"
    return "\n".join([*lines, f'        {answer} self._ask({result}, "{method.name}", {asked}, timeout_s)', ""])


def _python(kind: Type, module: str = "", literal: bool = False) -> str:
    """The type as Python has it. What may be answered for a choice is not limited: a newer daemon may know more."""
    if kind.kind == "array" and kind.items:
        return f"list[{_python(kind.items, module)}]"
    if kind.items:
        return f"dict[str, {_python(kind.items, module)}]"
    if kind.object:
        return module + kind.object
    if kind.choices and literal:
        return f"Literal[{', '.join(f'{chr(34)}{choice}{chr(34)}' for choice in kind.choices)}]"
    return _SIMPLE[kind.kind]


def _sentence(kind: Type) -> str:
    """What a member means."""
    choices = f": {', '.join(kind.choices)}" if kind.choices else ""
    unit = f" ({kind.unit})" if kind.unit else ""
    return f"{kind.help[0].upper()}{kind.help[1:]}{choices}{unit}."


def _docstring(indent: int, first: str, *more: str) -> list[str]:
    """A docstring of paragraphs, of which those that are empty are left out."""
    paragraphs = [first, *(one for one in more if one)]
    lines = [""]
    for paragraph in paragraphs:
        for line in paragraph.splitlines():
            lines += textwrap.wrap(line, _WIDTH - indent - 3, subsequent_indent="    " if paragraph != first else "")
        lines.append("")
    margin = " " * indent
    text = [f"{margin}{line}".rstrip() for line in lines[1:-1]]
    text[0] = f'{margin}"""{text[0].lstrip()}'
    if len(text) == 1 and len(text[0]) + 3 <= _WIDTH:
        return [f'{text[0]}"""']
    return [*text, f'{margin}"""']
