"""What a function of the package needs when somebody copies it: read off its source, never typed.

Under an ordinary header, :data:`HEADER`, some functions run as they are. Others use a constant, another function or a
module beside them. A call of a check, on a line of its own, can be deleted.
"""

import ast
import builtins
import inspect
import re
import textwrap
from collections.abc import Callable
from types import FunctionType, ModuleType

HEADER = """
from __future__ import annotations
import math
import numpy as np
import torch
import torch.nn.functional as F
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from torch import Tensor, nn
"""
CHECK = re.compile(r"^\s+(?:_checks\.\w+|_check\w*)\(.*\)\n", re.M)  # a line that only checks


def public_functions(module: ModuleType) -> dict[str, FunctionType]:
    """The functions that a module, or a package of rooms, defines and shows."""
    shown = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    own = {name: vars(module)[name] for name in shown}
    return {n: f for n, f in own.items() if inspect.isfunction(f) and f.__module__.startswith(module.__name__)}


def source_without_checks(function: Callable[..., object]) -> tuple[str, int]:
    """What a reader pastes, without the lines that only check, and how many these were."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    return CHECK.subn("", source)


def needed(function: FunctionType) -> list[str]:
    """The names of its module that the function's body uses, the header's, its own and Python's left out."""
    tree = ast.parse(source_without_checks(function)[0]).body[0]
    for node in ast.walk(tree):  # annotations are text under the header's first line
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in [*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs]:
                argument.annotation = None
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    given: dict[str, object] = {}
    exec(HEADER, given)
    names -= {*given, *dir(builtins), function.__name__}
    return sorted(name for name in names if name in inspect.unwrap(function).__globals__)


def sentence(function: FunctionType) -> str:
    """For the API page: what has to be copied or imported along."""
    modules, others = [], []
    for name in needed(function):
        value = inspect.unwrap(function).__globals__[name]
        if isinstance(value, ModuleType):
            modules.append(value.__name__)
        else:
            others.append(name)
    if not modules and not others:
        return "Needs: torch alone."
    linked = [f":mod:`{m}`" if re.match(r"vae_tutorial\.[a-z]", m) else f"``{m}``" for m in modules]
    parts = [", ".join(f"``{name}``" for name in others), ", ".join(linked)]
    return f"Needs: {'; '.join(filter(None, parts))}."
