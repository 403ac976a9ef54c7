"""The rules of the house: what imports what, what is documented, what is pinned, what never gets into a file.

Each guard is a function that returns a list of problems. It is asked twice: about this project, where the list must be
empty, and about a small broken example, where it must not be.
"""

import ast
import doctest
import importlib
import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest
import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from conftest import report

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vae_tutorial"

# The house, from the bottom to the top: a module imports only what stands before it. Private modules hold what several
# need. `likelihoods` stands low because the pass/fail model is one of them.
FLOORS = [
    *["_checks", "_recipe", "gaussian", "full_gaussian", "likelihoods"],  # densities
    *["quadrature", "bounds", "checks"],
    *["linear_gaussian", "item_response"],  # exact models
    *["gradients"],  # estimators
    *["flows", "families", "priors", "divergences", "networks"],  # parts of a model
    *["models", "objectives"],  # the whole
    *[
        "variational",
        "records",
        "_data_check",
        "_device",
        "_checkpoint",
        "_processes",
        "_capture",
        "training",
    ],  # its life
    *["aggregated", "annealing", "evaluation"],
]
COMMAND = ["_command", "data", "datafiles", "_sources", "train", "cli", "__main__"]  # each may import those before it
OUTSIDE = {  # no floor imports these
    "figures": [],
    "audit": FLOORS,
    **{name: [] for name in ("data", "datafiles", "_command")},
    **{name: [*FLOORS, *COMMAND[: COMMAND.index(name)]] for name in COMMAND[3:]},
}
ALL_MODULES = sorted(
    {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
)
MODULES = [name for name in ALL_MODULES if not name.startswith("_")]
PRIVATE = [name for name in ALL_MODULES if name.startswith("_") and name != "__init__"]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def imported(source: str) -> set[str]:
    """Every module that a source imports, wherever the statement stands, by its dotted name."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            stem = ".".join(filter(None, ["vae_tutorial" if node.level else "", node.module]))
            names |= {f"{stem}.{alias.name}" for alias in node.names} if stem == "vae_tutorial" else {stem}
    return names


# --- Imports ---------------------------------------------------------------------------------------------------------


def sources(module: str) -> dict[str, str]:
    """The files of a module, one, or of a package, one for each room."""
    files = [PACKAGE / f"{module}.py", *(PACKAGE / module).glob("*.py")]
    return {path.name: path.read_text(encoding="utf-8") for path in files if path.exists()}


def import_direction(module: str, source: str) -> list[str]:
    if module not in [*FLOORS, *OUTSIDE]:
        return [f"{module} has no place in the house: give it one in FLOORS, in tests/test_house.py"]
    allowed = {module, *(OUTSIDE[module] if module in OUTSIDE else FLOORS[: FLOORS.index(module)])}
    siblings = {name.split(".")[1] for name in imported(source) if name.startswith("vae_tutorial.")}
    return [f"{module} may not import {sibling}" for sibling in sorted(siblings - allowed)]


@pytest.mark.parametrize("module", [*MODULES, *PRIVATE])
def test_a_module_imports_only_modules_below_it(module):
    report([problem for source in sources(module).values() for problem in import_direction(module, source)])


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gaussian", "from vae_tutorial import likelihoods"),
        ("likelihoods", "from . import bounds"),
        ("bounds", "from .models import VAE"),
        ("models", "def f():\n    import vae_tutorial.training"),
        ("training", "from vae_tutorial.figures import plot_line"),
        ("families", "from vae_tutorial.models import VAE"),
        ("evaluation", "from vae_tutorial.audit.fitting import fit"),
        ("data", "from vae_tutorial import gaussian, bounds"),
        ("datafiles", "from vae_tutorial import data"),
        ("train", "from vae_tutorial import cli"),
        ("newcomer", "import torch"),
    ],
)
def test_the_import_guard_fails_on(module, source):
    assert import_direction(module, source)


def private_crossings(source: str) -> list[str]:
    """Names with an underscore that are taken from another module; a private module as a whole may be imported."""
    problems, siblings = [], set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("vae_tutorial")):
            whole = (node.module or "vae_tutorial") == "vae_tutorial"
            siblings |= {alias.asname or alias.name for alias in node.names} if whole else set()
            problems += [
                f"imports {a.name} from {node.module}" for a in node.names if a.name.startswith("_") and not whole
            ]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in siblings:
            problems += [f"uses {node.value.id}.{node.attr}"] * (node.attr.startswith("_"))
    return problems


@pytest.mark.parametrize("module", [*MODULES, *PRIVATE])
def test_no_private_name_crosses_a_border(module):
    report([problem for source in sources(module).values() for problem in private_crossings(source)])


def test_the_private_name_guard_fails_on():
    assert private_crossings("from vae_tutorial import gaussian\ngaussian._check(1)")
    assert private_crossings("from vae_tutorial.gaussian import _check")
    assert private_crossings("from .fitting import _fit")
    assert not private_crossings("from vae_tutorial import _checks\n_checks.whole(n=1)\nself._x = 1")


def foreign_imports(module: str, source: str) -> list[str]:
    """Of third parties, a module imports what pyproject.toml declares; only `figures` draws."""
    allowed = {Requirement(line).name for line in PYPROJECT["project"]["dependencies"]} | {"vae_tutorial"}
    allowed |= {"PIL"} if "pillow" in allowed else set()  # the one whose module has another name
    allowed |= {"matplotlib"} if module == "figures" else set()
    tops = {name.split(".")[0] for name in imported(source)} - set(sys.stdlib_module_names)
    return [f"{module} imports {name}" for name in sorted(tops - allowed)]


@pytest.mark.parametrize("module", ["__init__", *MODULES, *PRIVATE])
def test_a_module_needs_only_what_the_package_declares(module):
    report([problem for source in sources(module).values() for problem in foreign_imports(module, source)])


@pytest.mark.parametrize("source", ["import scipy.stats", "def f():\n    import matplotlib.pyplot as plt"])
def test_the_dependency_guard_fails_on(source):
    assert foreign_imports("evaluation", source)


def loaded_by(*statements: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after these statements."""
    code = "; ".join([*statements, "import sys", "print(*{name.split('.')[0] for name in sys.modules})"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.anchor)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_beyond_torch():
    new = loaded_by("import torch, vae_tutorial") - loaded_by("import torch") - set(sys.stdlib_module_names)
    assert new <= {"vae_tutorial"}


def test_only_figures_loads_matplotlib():
    assert "matplotlib" not in loaded_by(
        *(f"import vae_tutorial.{module}" for module in MODULES if module != "figures")
    )
    assert "matplotlib" in loaded_by("import vae_tutorial.figures")


def import_seconds(module: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, cwd=PACKAGE.anchor)
    return time.perf_counter() - start


def is_slow(seconds: Callable[[str], float]) -> bool:
    """A wide bound: it sees a heavy import that crept in, on a busy machine too. The exact ratio is a benchmark."""
    runs = [(seconds("vae_tutorial"), seconds("torch")) for _ in range(3)]
    package, torch = (min(times) for times in zip(*runs, strict=True))
    return package > 1.3 * torch + 0.3


def test_importing_the_package_takes_no_longer_than_importing_torch():
    assert not is_slow(import_seconds)


def test_the_import_time_guard_fails_on_a_slow_package():
    assert not is_slow({"vae_tutorial": 1.6, "torch": 1.5}.get)
    assert is_slow({"vae_tutorial": 3.0, "torch": 1.5}.get)


# --- Names and documentation -----------------------------------------------------------------------------------------


def naming(module: str, source: str) -> list[str]:
    """No `compute_...`, `get_...` or `utils`, and no `assert` where a ValueError should speak."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    bad = [f"{module}.{name}: a name is a verb or a quantity" for name in names if re.match(r"_*(compute|get)_", name)]
    bad += [f"{module}: a module has one subject"] * bool(re.search(r"util|helper|misc|common", module))
    return bad + [f"{module}, line {node.lineno}: assert" for node in nodes if isinstance(node, ast.Assert)]


@pytest.mark.parametrize("module", [*MODULES, *PRIVATE])
def test_names_say_what_they_are(module):
    report([problem for source in sources(module).values() for problem in naming(module, source)])


@pytest.mark.parametrize(
    ("module", "source"),
    [("m", "def compute_kl(): ..."), ("m", "class A:\n    def get_x(self): ..."), ("utils", ""), ("m", "assert x > 0")],
)
def test_the_naming_guard_fails_on(module, source):
    assert naming(module, source)


def public(module: str) -> dict[str, object]:
    """The functions and classes that a module defines and shows, by their dotted names."""
    found = importlib.import_module(f"vae_tutorial.{module}")
    kinds, home = (inspect.isfunction, inspect.isclass), re.compile(rf"vae_tutorial\.{module}(\.|$)")
    own = {n: v for n, v in vars(found).items() if not n.startswith("_") and any(kind(v) for kind in kinds)}
    shown = {n: v for n, v in own.items() if home.match(v.__module__)}
    if hasattr(found, "__all__"):
        shown = {n: v for n, v in shown.items() if n in found.__all__}
    return {f"{module}.{n}": v for n, v in shown.items()}


def methods(cls: type) -> dict[str, object]:
    return {n: v for n, v in vars(cls).items() if inspect.isfunction(v) and not n.startswith("_")}


PUBLIC = {name: thing for module in MODULES for name, thing in public(module).items()}
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)}
CALLABLES = FUNCTIONS | {
    f"{name}.{method}": function
    for name, cls in PUBLIC.items()
    if inspect.isclass(cls)
    for method, function in methods(cls).items()
}
INHERITED = {  # what a base class says of a method that a subclass only fills in
    f"{name}.{method}": "\n".join(
        inspect.getdoc(vars(base)[method]) or "" for base in cls.__mro__[1:] if method in vars(base)
    )
    for name, cls in PUBLIC.items()
    if inspect.isclass(cls)
    for method in methods(cls)
}
SHAPE = re.compile(r"\((?:\.\.\.|…|\*D|[A-Z]|\d+)(?:\s*,[^()]*)?\)|any shape")  # (B, J), (K, ...), (...), (B, *D), (N,)


def documentation(function, inherited: str = "") -> list[str]:
    """A docstring names every argument, in more than a letter; it gives a shape where a tensor goes in or comes out."""
    text, signature = inspect.getdoc(function) or "", inspect.signature(function)
    if not text:
        return ["no docstring"]
    text = f"{text}\n{inherited}"
    arguments = [name for name in signature.parameters if name != "self"]
    problems = [
        f"the argument {n} is not described" for n in arguments if not re.search(rf"^\s*\*?{n}\b.*:", text, re.M)
    ]
    letters = re.findall(r"^\s*(\w+): \(?\w[.)]$", text, re.M)
    problems += [
        f"the argument {n} is a letter and a full stop, which a page shows as item A of a list" for n in letters
    ]
    annotations = [signature.return_annotation, *(signature.parameters[name].annotation for name in arguments)]
    tensors = any("Tensor" in str(a) or a is inspect.Signature.empty for a in annotations)
    return problems + ["no shape: say one, such as (B, J) or (...), in Args or Returns"] * (
        tensors and not SHAPE.search(text)
    )


@pytest.mark.parametrize("name", CALLABLES)
def test_every_public_function_is_documented_with_its_shapes(name):
    report(documentation(CALLABLES[name], INHERITED.get(name, "")))


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - set(FUNCTIONS)))
def test_every_public_class_is_documented(name):
    assert PUBLIC[name].__doc__
    assert not PUBLIC[name].__doc__.startswith(name.split(".")[1] + "(")  # what NamedTuple writes by itself


def examples(function) -> list[str]:
    """A doctest that is not skipped, promises an output and keeps the promise."""
    module = inspect.getmodule(function)
    (test,) = doctest.DocTestFinder(recurse=False).find(function, "f", module, vars(module).copy()) or [None]
    ran = [e for e in test.examples if doctest.SKIP not in e.options] if test else []
    if not any(example.want for example in ran):
        return ["no doctest with an output: end the docstring with an example, >>> and what it prints"]
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    return report


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_has_a_doctest_that_runs(name):
    report(examples(FUNCTIONS[name]))


def test_the_documentation_guards_fail_on():
    def bare(x): ...

    def shapeless(x):
        """Doubles.

        Args:
            x: what to double.
        """

    def silent(x, y):
        """Doubles x, (B,).

        >>> 1 + 1  # doctest: +SKIP
        2
        """

    def lettered(x):
        """Doubles.

        Args:
            x: B.
        """

    def wrong(x):
        """Doubles.

        >>> 1 + 1
        3
        """

    assert documentation(bare) == ["no docstring"]
    assert documentation(shapeless)[0].startswith("no shape")
    assert documentation(silent) == ["the argument x is not described", "the argument y is not described"]
    assert any("item A of a list" in problem for problem in documentation(lettered))
    assert examples(bare)
    assert examples(silent)
    assert examples(wrong)


def neglected(module: str, root: Path, contents: str) -> list[str]:
    """A module has a test file that imports it, a line in three tables, the package's, README's and the API's,
    and a page of the API."""
    tests, page = root / "tests" / f"test_{module}.py", root / "book" / "api" / f"{module}.md"
    shown = page.exists() and f":: vae_tutorial.{module}\n" in page.read_text(encoding="utf-8")
    table = (root / "book" / "api.md").read_text(encoding="utf-8")
    tested = tests.exists() and f"vae_tutorial.{module}" in imported(tests.read_text(encoding="utf-8"))
    problems = [f"tests/test_{module}.py does not test it"] * (not tested)
    problems += ["the docstring of vae_tutorial does not list it"] * (f"``{module}``" not in contents)
    problems += [f"book/api/{module}.md does not show it: copy a neighbour"] * (not shown)
    problems += ["the table of README.md does not list it"] * (
        f"`{module}`" not in (root / "README.md").read_text("utf-8")
    )
    return problems + ["the table of book/api.md does not link it"] * (f"(api/{module}.md)" not in table)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_tested_and_listed(module):
    report(neglected(module, ROOT, importlib.import_module("vae_tutorial").__doc__ or ""))


def test_the_listing_guard_fails_on(tmp_path):
    for folder in ("tests", "book/api"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "README.md").write_text("| `bounds` |", encoding="utf-8")
    (tmp_path / "book" / "api.md").write_text("[`bounds`](api/bounds.md)", encoding="utf-8")
    (tmp_path / "book" / "api" / "bounds.md").write_text(".. automodule:: vae_tutorial.bounds\n", encoding="utf-8")
    (tmp_path / "book" / "api" / "models.md").write_text(".. automodule:: vae_tutorial.bounds\n", encoding="utf-8")
    assert len(neglected("bounds", tmp_path, "``gaussian``")) == 2
    (tmp_path / "tests" / "test_bounds.py").write_text("import torch", encoding="utf-8")
    assert len(neglected("bounds", tmp_path, "``gaussian`` ``bounds``")) == 1
    (tmp_path / "tests" / "test_bounds.py").write_text("from vae_tutorial import bounds", encoding="utf-8")
    assert neglected("bounds", tmp_path, "``gaussian`` ``bounds``") == []
    assert len(neglected("models", tmp_path, "``gaussian``")) == 5


# --- What is pinned, and what agrees ---------------------------------------------------------------------------------


def unpinned(text: str) -> list[str]:
    """Every line of a requirements file names one exact version; options and comments aside."""
    problems = []
    for line in (line.split(" #")[0].strip() for line in text.splitlines()):
        if not line or line.startswith(("#", "-c ", "-r ")):
            continue
        try:
            versions = list(Requirement(line).specifier)
        except InvalidRequirement:
            problems.append(f"{line}: not a requirement")
            continue
        if [v.operator for v in versions] != ["=="] or versions[0].version.endswith(".*"):
            problems.append(f"{line}: not pinned exactly")
    return problems


@pytest.mark.parametrize("name", ["requirements.txt", "constraints.txt"])
def test_versions_are_pinned_exactly(name):
    report(unpinned((ROOT / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "line", ["torch", "torch>=2", "torch==2.*", "torch~=2.1", "--index-url https://a.b", "torch @ file:///x"]
)
def test_the_pin_guard_fails_on(line):
    assert unpinned(line)


def pins(name: str) -> dict[str, str]:
    lines = (line.split(" #")[0] for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if "==" in line)
    return {r.name.lower(): next(iter(r.specifier)).version for r in map(Requirement, lines)}


def declared() -> list[Requirement]:
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [r for r in map(Requirement, lines) if r.name != project["name"]]


def out_of_range(requirement: Requirement, pinned: dict[str, str]) -> bool:
    return not requirement.specifier.contains(pinned.get(requirement.name.lower(), "0"))


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_every_declared_dependency_is_pinned_within_its_range(requirement):
    assert requirement.name.lower() in pins("requirements.txt")
    assert not out_of_range(requirement, pins("requirements.txt"))


def test_the_range_guard_fails_on():
    assert out_of_range(Requirement("torch>=2.7"), {"torch": "2.6.0"})
    assert out_of_range(Requirement("torch>=2.7"), {})


def test_no_version_is_pinned_twice():
    assert not set(pins("requirements.txt")) & set(pins("constraints.txt"))


def used_unpinned(sources: list[str], pinned: set[str]) -> set[str]:
    """What the sources import and no line of requirements.txt installs by name."""
    distributions = importlib.metadata.packages_distributions()
    own = {"vae_tutorial", *(path.stem for folder in ("tests", "tools") for path in (ROOT / folder).glob("*.py"))}
    tops = {name.split(".")[0] for source in sources for name in imported(source)} - set(sys.stdlib_module_names) - own
    return {top for top in tops if not {name.lower() for name in distributions.get(top, [])} & pinned}


def test_what_tests_and_chapters_import_is_pinned():
    sources = [p.read_text(encoding="utf-8") for f in ("tests", "benchmarks") for p in (ROOT / f).glob("*.py")]
    notebooks = [nbformat.read(path, as_version=4) for path in (ROOT / "book").glob("*.ipynb")]
    sources += [cell.source for nb in notebooks for cell in nb.cells if cell.cell_type == "code"]
    assert used_unpinned(sources, set(pins("requirements.txt"))) == set()


def test_the_dependency_pin_guard_fails_on():
    assert used_unpinned(["import torch", "from yaml import load"], {"torch"}) == {"yaml"}


def versions(pyproject: str, citation: str, changelog: str) -> set[str]:
    """The version that each of the three files gives; the changelog's is that of its first entry."""
    first = re.search(r"^## .*?(\d+\.\d+\S*)", changelog, re.M)
    assert first, "CHANGELOG.md has no entry with a version"
    found = tomllib.loads(pyproject)["project"]["version"], yaml.safe_load(citation)["version"], first[1].strip("[](),")
    return {str(Version(str(version))) for version in found}


def test_the_files_agree_on_the_version():
    names = ("pyproject.toml", "CITATION.cff", "CHANGELOG.md")
    assert len(versions(*((ROOT / name).read_text(encoding="utf-8") for name in names))) == 1


def test_the_package_says_its_version():
    assert importlib.import_module("vae_tutorial").__version__ == PYPROJECT["project"]["version"]


def test_the_version_guard_fails_on():
    good = '[project]\nversion = "1.2.0"', "version: 1.2.0", "# Changelog\n\n## 1.2.0 (2024-05-01)\n\n## 1.1.0"
    assert len(versions(*good)) == 1
    assert len(versions(good[0], "version: 1.1.0", good[2])) == 2
    assert len(versions(*good[:2], "## 1.3.0")) == 2


# --- What never gets into a file -------------------------------------------------------------------------------------


def private_words() -> dict[str, re.Pattern]:
    """What only this machine knows: its folders, and the hosts that its package installer asks."""
    folders = {ROOT, Path.home(), Path(sys.prefix), Path(tempfile.gettempdir())} | set(ROOT.parents)
    folders = {str(folder) for folder in folders if folder != Path(folder.anchor)} - {"/usr", "/opt", "/home"}
    words = {folder: re.compile(rf"(?<![\w.~-]){re.escape(folder)}(?![\w-])") for folder in folders}
    words["a home folder"] = re.compile(r"(?<![\w.~-])(?:/home/|/Users/|[A-Z]:\\Users\\)\w+")
    pip = [sys.executable, "-m", "pip", "config", "list"]
    settings = subprocess.run(pip, capture_output=True, text=True, check=False).stdout + " ".join(
        value for name, value in os.environ.items() if re.match(r"(PIP|UV)_.*(INDEX|FIND_LINKS)", name)
    )
    hosts = {urlsplit(url).hostname for url in re.findall(r"https?://[^\s'\"]+", settings)} - {None, "pypi.org"}
    return words | {host: re.compile(re.escape(host)) for host in hosts - {"download.pytorch.org"}}


def leaks(text: str, words: dict[str, re.Pattern]) -> list[str]:
    return [f"line {text.count(chr(10), 0, m.start()) + 1}: {m[0]}" for w in words.values() for m in w.finditer(text)]


def tracked() -> list[Path]:
    """The files under version control, or, in an unpacked archive, all that are not hidden or generated."""
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if git.returncode == 0:
        return [ROOT / name for name in git.stdout.split("\0") if name and (ROOT / name).exists()]
    generated = {"_build", "build", "dist", "__pycache__"}
    paths = [p for p in ROOT.rglob("*") if p.is_file() and not generated & set(p.parts)]
    return [p for p in paths if not any(part.startswith(".") for part in p.relative_to(ROOT).parts)]


def test_no_file_names_this_machine():
    words, found = private_words(), {}
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data and (problems := leaks(data.decode("utf-8", "replace"), words)):
            found[str(path.relative_to(ROOT))] = problems
    assert found == {}


@pytest.mark.parametrize(
    "line", [f"open('{ROOT}/x')", f"see {Path.home()}/y", f"{tempfile.gettempdir()}/z", sys.prefix]
)
def test_the_machine_guard_fails_on(line):
    assert leaks(line, private_words())


def test_the_machine_guard_knows_the_installers_host(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://user@mirror.example/simple")
    assert leaks("get it at mirror.example", private_words())


def test_the_machine_guard_passes_what_is_public():
    assert (
        leaks("https://pypi.org/simple and https://a.org/home/x, /usr/share/datasets, a/tmp/b", private_words()) == []
    )


# --- Beside other work -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_sleep_unless_the_reader_says_otherwise(given, expected):
    """In what make starts, in pytest, and in the book built by hand: the kernels inherit it."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    asked = "import os; print(os.environ['OMP_WAIT_POLICY'])"
    app = "types.SimpleNamespace(connect=lambda *a, **k: 0, setup_extension=print, add_search_language=print)"
    book = f"import book_extension, types; book_extension.setup({app})"
    for command in (
        ["make", "-f", "-", "-s", "shown"],
        [sys.executable, "-c", f"import conftest; {asked}"],
        [sys.executable, "-c", f"import sys; sys.path.insert(0, 'tools'); {book}; {asked}"],
    ):
        rule = f"include {ROOT / 'Makefile'}\nshown:\n\t@echo $$OMP_WAIT_POLICY\n"
        done = subprocess.run(
            command, input=rule, capture_output=True, text=True, cwd=ROOT, env=environment, check=True
        )
        assert done.stdout.split()[-1] == expected, command
