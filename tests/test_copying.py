"""A reader may paste any public function: under an ordinary header, with what its entry says it needs, one check deleted."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import FunctionType

import pytest

import vae_tutorial

needs = importlib.import_module("needs")

MODULES = [m.name for m in pkgutil.iter_modules(vae_tutorial.__path__) if not m.name.startswith("_")]
FUNCTIONS = {
    f"{name}.{function}": found
    for name in MODULES
    for function, found in needs.public_functions(importlib.import_module(f"vae_tutorial.{name}")).items()
}


def pasted(function: FunctionType) -> FunctionType:
    """The function as a reader has it: its source without the line that checks, under the header, with what it needs."""
    source, _ = needs.source_without_checks(function)
    namespace: dict[str, object] = {}
    exec(needs.HEADER, namespace)
    namespace |= {name: inspect.unwrap(function).__globals__[name] for name in needs.needed(function)}
    exec(compile("from __future__ import annotations\n" + source, "pasted", "exec"), namespace)
    return namespace[function.__name__]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_pasted_function_runs_its_example_after_one_line_is_deleted(name: str) -> None:
    function = FUNCTIONS[name]
    assert needs.source_without_checks(function)[1] <= 1
    module = inspect.getmodule(function)
    (test,) = doctest.DocTestFinder(recurse=False).find(function, name, module, vars(module).copy())
    test.globs[function.__name__] = pasted(function)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert report == []


def test_what_a_function_needs_is_read_off_its_body() -> None:
    gaussian, bounds = (importlib.import_module(f"vae_tutorial.{name}") for name in ("gaussian", "bounds"))
    assert needs.needed(bounds.elbo) == []
    assert needs.sentence(bounds.elbo) == "Needs: torch alone."
    assert needs.needed(gaussian.log_prob) == ["LOG_2PI", "precision"]
    assert needs.sentence(gaussian.log_prob) == "Needs: ``LOG_2PI``, ``precision``."
    variational = importlib.import_module("vae_tutorial.linear_gaussian")
    assert ":mod:`vae_tutorial.gaussian`" in needs.sentence(variational.elbo)


def test_a_need_that_is_not_named_is_noticed() -> None:
    """Without the constant that its entry names, the pasted density raises."""
    gaussian = importlib.import_module("vae_tutorial.gaussian")
    function = pasted(gaussian.log_prob)
    function.__globals__.pop("LOG_2PI")
    with pytest.raises(NameError, match="LOG_2PI"):
        function(*[__import__("torch").zeros(2)] * 3)


def imports_of_siblings(module: str) -> list[str]:
    """The lines that import another module of the package, the checks left out: they can be deleted."""
    folder = Path(vae_tutorial.__file__).parent
    files = [folder / f"{module}.py", *(folder / module).glob("*.py")]
    lines = [line for file in files if file.exists() for line in file.read_text(encoding="utf-8").splitlines()]
    found = [line for line in lines if re.match(r"(from|import) vae_tutorial", line)]
    return [
        line for line in found if f"vae_tutorial.{module}" not in line and line != "from vae_tutorial import _checks"
    ]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_needs_no_sibling_says_so_in_its_first_lines(name: str) -> None:
    first = (importlib.import_module(f"vae_tutorial.{name}").__doc__ or "").splitlines()[:6]
    sentence = "It needs no other module of the package"
    says, needs = sentence in " ".join(line.strip() for line in first), imports_of_siblings(name)
    assert says or needs, f"say at the top of the docstring of vae_tutorial.{name}: {sentence}."
    assert not (says and needs), f"the docstring of vae_tutorial.{name} says {sentence!r}, but: {needs}"
