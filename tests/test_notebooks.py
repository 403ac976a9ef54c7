"""The chapters as they are committed: executed in order, text outputs, tags, exercises, citations, captions.

Each guard takes a notebook and returns a list of problems. Every guard is asked about every chapter, where the list must
be empty, and about deliberately broken copies of a small good notebook, where it must not be.
"""

import ast
import copy
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pybtex.database import parse_file, parse_string

from conftest import report

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
CHAPTERS = [path for path in NOTEBOOKS if path.name[0].isdigit()]  # the others are the story on one page
REFERENCES = parse_file(str(BOOK / "references.bib"))

CHECKED = "nbval-check-output"
GPU = {"gpu", "skip-execution", "nbval-skip"}  # both builders skip such a cell and show what was recorded
SHOWN = {f"{what}-{part}" for what in ("hide", "remove") for part in ("input", "output", "cell")}
FOLDED = {"hide-input", "hide-cell", "remove-input"}  # a reader sees what the cell made, and its code on demand
PATH = re.compile(r"(?<![\w.~/:<-])/(?:home|root|Users|tmp|var|mnt|private|content)/|[A-Z]:\\\\?\w|ipykernel_\d|~/\w")
DRAWS = re.compile(r"\bplt\.\w+\(|\bplot_\w+\(|\.render\(")


def tags(cell):
    return set(cell.metadata.get("tags", []))


def code(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def prose(nb):
    return "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")


def name(cell):
    return f"the cell that begins {cell.source.strip().splitlines()[0]!r}" if cell.source.strip() else "an empty cell"


def printed(cell):
    return "\n".join(out.get("text") or out.get("data", {}).get("text/plain", "") for out in cell.outputs)


# --- What was executed, and what is stored ---------------------------------------------------------------------------


def is_executed_in_order(nb):
    """Counts 1..n, with nothing empty in between: nbval passes a cell without a count in silence."""
    return [
        f"{name(cell)}: count {cell.execution_count}, not {count}"
        for count, cell in enumerate(code(nb), start=1)
        if cell.execution_count != count or not cell.source.strip()
    ]


def stores_text_only(nb):
    outputs = [(cell, out) for cell in code(nb) if "gpu" not in tags(cell) for out in cell.outputs]
    kinds = [(cell, kind) for cell, out in outputs for kind in out.get("data", {})]
    return [f"{name(cell)}: stores {kind}" for cell, kind in kinds if not kind.startswith("text/")]


def raises_and_warns_nowhere(nb):
    outputs = [(cell, out) for cell in code(nb) for out in cell.outputs]
    bad = [(cell, out) for cell, out in outputs if out.output_type == "error" or out.get("name") == "stderr"]
    return [f"{name(cell)}: {out.get('ename', 'stderr')}" for cell, out in bad]


def prints_no_leftover_repr(nb):
    repr_ = re.compile(r"<(Figure|Axes|IPython|matplotlib|function|module)\b|\bat 0x[0-9a-f]+|^\[<", re.M)
    return [f"{name(cell)}: prints {found[0]!r}" for cell in code(nb) if (found := repr_.search(printed(cell)))]


def has_no_control_characters(nb):
    """Where Python read a formula as an ordinary string, it ate a backslash: of \\frac a form feed and rac are left."""
    shown = [(cell, text) for cell in nb.cells for text in [cell.source, *words(cell.metadata.get("mystnb", {}))]]
    found = [(cell, text, m) for cell, text in shown for m in re.finditer(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)]
    return [f"{name(cell)}: {m[0]!r} before {text[m.end() : m.end() + 12]!r}" for cell, text, m in found]


def words(metadata):
    """Every text within nested metadata: captions, alt texts."""
    if isinstance(metadata, dict):
        return [text for value in metadata.values() for text in words(value)]
    return [metadata] if isinstance(metadata, str) else []


def names_no_local_path(nb):
    texts = [(cell, text) for cell in nb.cells for text in [cell.source, *map(str, cell.get("outputs", []))]]
    return [f"{name(cell)}: {found[0]!r}" for cell, text in texts if (found := PATH.search(text))]


def has_minimal_metadata(nb):
    allowed = {"kernelspec": {"display_name", "language", "name"}, "language_info": {"name"}}
    problems = [f"notebook metadata: {key}" for key in nb.metadata if key not in allowed]
    problems += [f"{key}: {sub}" for key in allowed for sub in set(nb.metadata.get(key, {})) ^ allowed[key]]
    problems += [f"{name(c)}: metadata {key}" for c in nb.cells for key in set(c.metadata) - {"tags", "mystnb"}]
    return problems + ["the kernel is not python3"] * (nb.metadata.get("kernelspec", {}).get("name") != "python3")


# --- Tags ------------------------------------------------------------------------------------------------------------


def has_known_tags(nb):
    known = {CHECKED} | GPU | SHOWN
    return [f"{name(cell)}: unknown tag {tag}" for cell in nb.cells for tag in tags(cell) - known]


def says_where_gpu_cells_ran(nb):
    """All three tags or none; outputs with the date and the version of torch; passed by where RERUN is False."""
    problems = []
    for cell in (cell for cell in nb.cells if tags(cell) & GPU):
        if not tags(cell) >= GPU or CHECKED in tags(cell):
            problems.append(f"{name(cell)}: has the tags {sorted(tags(cell))}")
        if not re.search(r"\b20\d\d-\d\d-\d\d\b", printed(cell)) or "torch" not in printed(cell):
            problems.append(f"{name(cell)}: no recorded output with its date and torch's version")
        if not cell.source.startswith("if RERUN:") or not re.search(r"^RERUN = False\b", code(nb)[0].source, re.M):
            problems.append(
                f"{name(cell)}: 'Run all' would run it; RERUN = False in the first cell, and if RERUN: here"
            )
    return problems


def has_four_checked_cells(nb):
    checked = [cell for cell in code(nb) if CHECKED in tags(cell)]
    problems = [f"{len(checked)} cells have the tag {CHECKED}, where four are due"] * (len(checked) < 4)
    return problems + [f"{name(cell)}: checked, but prints nothing" for cell in checked if not printed(cell).strip()]


def checks_what_every_machine_prints(nb):
    """At most 3 decimals in a checked output, and no digits of a rounding error: the 10^-15 of one machine is its own."""
    digits = re.compile(r"\d\.\d{4,}(?!\d*e[+-])|\d\.\d+e[+-]?\d+")
    checked = [cell for cell in code(nb) if CHECKED in tags(cell)]
    return [f"{name(cell)}: prints {found[0]}" for cell in checked if (found := digits.search(printed(cell)))]


# --- Code ------------------------------------------------------------------------------------------------------------


def has_plain_python(nb):
    problems = []
    for cell in code(nb):
        try:
            ast.parse(cell.source)
        except SyntaxError as error:
            problems.append(f"{name(cell)}: {error.msg}")
    return problems


def says_what_it_needs(nb):
    """A notebook that was downloaded alone stops at its first cell: what is missing stands there."""
    first = code(nb)[0].source.splitlines()
    problem = "the first cell of code does not begin with a comment on what the notebook needs, as its neighbours do"
    return [problem] * ("needs" not in " ".join(first[:3]).lower())


def has_short_cells(nb):
    lines = [(cell, [line for line in cell.source.splitlines() if line.strip(" \t)]}")]) for cell in code(nb)]
    sizes = [(cell, sum(not line.lstrip().startswith("#") for line in of)) for cell, of in lines]
    limits = [(cell, size, 20 if FOLDED & tags(cell) else 12) for cell, size in sizes]
    return [f"{name(cell)}: {size} lines of code" for cell, size, limit in limits if size > limit]


def leaves_definitions_to_the_package(nb):
    """No class, and no function beyond a toy target of a few lines."""
    nodes = [
        (cell, node) for cell in code(nb) if not has_plain_python(new_notebook(cells=[cell])) for node in walk(cell)
    ]
    problems = [f"{name(cell)}: class {node.name}" for cell, node in nodes if isinstance(node, ast.ClassDef)]
    functions = [(cell, node) for cell, node in nodes if isinstance(node, ast.FunctionDef)]
    return problems + [f"{name(cell)}: def {f.name}" for cell, f in functions if f.end_lineno - f.lineno > 4]


def walk(cell):
    return ast.walk(ast.parse(cell.source))


# --- What a chapter owes its reader ----------------------------------------------------------------------------------


FENCE = re.compile(r"^[ \t]*(`{3,}|:{3,})\{([\w:-]+)\}([^\n]*)\n(.*?)^[ \t]*\1[ \t]*$", re.M | re.S)
OPTIONS = re.compile(r"---\n(?:(?!---).*\n)*---\n|(?:[ \t]*:[\w-]+:.*\n)*")  # as YAML, or a line each


def blocks(text):
    """The directives of a MyST text, those inside others too: (name, argument, options, body)."""
    found = []
    for _, directive, argument, inside in FENCE.findall(text):
        head = OPTIONS.match(inside)
        options = dict(re.findall(r"^[ \t]*:?([\w-]+):[ \t]*(.*?)[ \t]*$", head[0], re.M))
        body = inside[head.end() :]
        found += [(directive, argument.strip(), options, body), *blocks(body)]
    return found


def directives(kind, nb):
    """The blocks of one kind in a notebook, also those that a pair of -start and -end makes."""
    texts = [cell.source for cell in nb.cells if cell.cell_type == "markdown"]
    return [block for text in texts for block in blocks(text) if block[0] in (kind, f"{kind}-start")]


def box(nb, look):
    """The text of the first admonition of a class, or nothing."""
    found = (body for _, _, options, body in directives("admonition", nb) if look in options.get("class", "").split())
    return next(found, "")


def has_exercises_with_solutions(nb):
    exercises = [(options.get("label", ""), title) for _, title, options, _ in directives("exercise", nb)]
    solutions = [(label, options.get("class", "")) for _, label, options, _ in directives("solution", nb)]
    solved = [label for label, _ in solutions]
    problems = [f"{len(exercises)} exercises, where three to eight are due"] * (not 3 <= len(exercises) <= 8)
    problems += [f"the exercise {title!r} has no :label:" for label, title in exercises if not label]
    problems += [
        f"{label}: {solved.count(label)} solutions, where one is due" for label, _ in exercises if label not in solved
    ]
    problems += [
        f"{label}: {solved.count(label)} solutions" for label in sorted(set(solved)) if solved.count(label) > 1
    ]
    problems += [f"{label}: a solution without :class: dropdown" for label, look in solutions if "dropdown" not in look]
    return problems + [
        f"{label}: a solution to nothing" for label in sorted(set(solved) - {label for label, _ in exercises})
    ]


def cites_what_exists(nb):
    keys = [key.strip() for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", prose(nb)) for key in keys.split(",")]
    problems = ["cites nothing, where {cite:t}`key` or {cite:p}`key` is due"] * (not keys)
    return problems + [f"cites {key}, which is not in references.bib" for key in keys if key not in REFERENCES.entries]


def describes_its_figures(nb):
    """A caption and a name, and for those who do not see the figure a sentence that says what it shows."""
    problems = []
    for cell in (cell for cell in code(nb) if DRAWS.search(cell.source)):
        shown = cell.metadata.get("mystnb", {})
        alt, figure = shown.get("image", {}).get("alt", ""), shown.get("figure", {})
        for key in ("caption", "name"):
            problems += [f"{name(cell)}: no {key} in its metadata, mystnb, figure"] * (not figure.get(key, "").strip())
        if len(alt) < 30 or re.search(r"[$\\]", alt):
            problems += [f"{name(cell)}: its metadata, mystnb, image, alt says {alt!r}: a sentence without TeX is due"]
        problems += [f"{name(cell)}: the alt text is the caption"] * (alt == figure.get("caption"))
    return problems


def has_the_sections_of_a_chapter(nb):
    headings = "\n".join(re.findall(r"^#+ .*$", prose(nb), re.M)).lower()
    due = ("Common mistakes", "What to remember", "Exercises", "What to read next")
    problems = [f"no section ## {heading}" for heading in due if heading.lower() not in headings]
    problems += ["does not say what the reader will be 'able to' do"] * ("able to" not in prose(nb))
    problems += ["does not begin with its title, # in the first cell"] * (not nb.cells[0].source.startswith("# "))
    numbered = re.search(r"\$\$ *\([\w:-]+\)[ \t]*$|\\label\{", prose(nb), re.M)
    numbered = numbered or any("label" in options for _, _, options, _ in directives("math", nb))
    return problems + ["no numbered equation: $$ (label) at the end of one"] * (not numbered)


def has_its_two_boxes(nb):
    """At the top the idea, one equation and the minutes; at the end what to remember. Exercises of each difficulty."""
    opening, closing = box(new_notebook(cells=nb.cells[:1]), "in-short"), box(nb, "remember")
    problems = [
        f"no admonition with :class: {look}"
        for look, text in {"in-short": opening, "remember": closing}.items()
        if not text
    ]
    due = ["**Time**", "**Before**", "**Skip**", "$$"]
    problems += [f"no {mark} in the box at the top of the first cell" for mark in due if mark not in opening]
    lines = re.findall(r"^(?:[-*+]|\d+[.)]) ", closing, re.M)
    problems += [f"{len(lines)} lines to remember, where five are due"] * (len(lines) != 5)
    titles = [title for _, title, _, _ in directives("exercise", nb)]
    marks = [title.split(maxsplit=1)[0] if title else "" for title in titles]
    unmarked = [title for title, mark in zip(titles, marks, strict=True) if mark not in ("★", "★★", "★★★")]
    problems += [f"the exercise {title!r} does not begin with ★, ★★ or ★★★" for title in unmarked]
    return problems + [f"no exercise is marked {mark}" for mark in ("★", "★★", "★★★") if mark not in marks]


ASIDE = re.compile(r"^(`{3,}|:{3,})\{(?:dropdown|solution|prf:proof)\}.*?^\1[ \t]*$", re.M | re.S)


def main_line(nb):
    """The cells that a first reading needs, what is folded in the text left out."""
    cells = []
    for cell in nb.cells:
        text = cell.source if cell.cell_type == "code" else ASIDE.sub("", cell.source)
        end = re.search(r"^## (Fine print|Exercises|What to read next)", text, re.M)
        cells.append((cell, text[: end.start()] if end else text))
        if end and cell.cell_type == "markdown":
            break
    return cells


def minutes(nb):
    """About what the main line takes: 130 words a minute, equations among them, and half a minute for a cell of code."""
    words = sum(len(text.split()) for cell, text in main_line(nb) if cell.cell_type == "markdown")
    return words / 130 + sum(cell.cell_type == "code" and not FOLDED & tags(cell) for cell, _ in main_line(nb)) / 2


def has_a_short_main_line(nb):
    """45 minutes at most, as the box at the top says; a picture early; between two cells of code a word."""
    line, words = main_line(nb), 0
    takes = f"the main line takes about {minutes(nb):.0f} minutes"
    problems = [f"{takes}, where 45 are allowed: fold what a first reading does not need"] * (minutes(nb) > 47)
    said = re.search(r"\*\*Time\*\* (\d+) minutes", nb.cells[0].source)
    if not said or abs(int(said[1]) - minutes(nb)) > 7:
        problems += [f"{takes}, and the first cell says {said[0] if said else 'no **Time** N minutes'}"]
    for cell, text in line:
        if "mystnb" in cell.metadata:
            break
        words += len(text.split()) if cell.cell_type == "markdown" else 0
    problems += [f"{words} words before the first picture"] * (words > 650)
    pairs = zip(nb.cells, nb.cells[1:], strict=False)
    stacked = [second for first, second in pairs if first.cell_type == second.cell_type == "code"]
    return problems + [f"{name(cell)}: no word before it" for cell in stacked]


GUARDS = [
    is_executed_in_order,
    stores_text_only,
    raises_and_warns_nowhere,
    prints_no_leftover_repr,
    has_no_control_characters,
    names_no_local_path,
    has_minimal_metadata,
    has_known_tags,
    says_where_gpu_cells_ran,
    has_four_checked_cells,
    checks_what_every_machine_prints,
    has_plain_python,
    says_what_it_needs,
    has_short_cells,
    leaves_definitions_to_the_package,
    has_exercises_with_solutions,
    cites_what_exists,
    describes_its_figures,
    has_the_sections_of_a_chapter,
    has_its_two_boxes,
    has_a_short_main_line,
]
OF_CHAPTERS = {
    has_four_checked_cells,
    has_short_cells,
    leaves_definitions_to_the_package,
    has_exercises_with_solutions,
    has_the_sections_of_a_chapter,
    has_its_two_boxes,
    has_a_short_main_line,
}
BOUND = [(guard, path) for guard in GUARDS for path in (CHAPTERS if guard in OF_CHAPTERS else NOTEBOOKS)]


@pytest.mark.parametrize(("guard", "path"), BOUND, ids=lambda x: getattr(x, "stem", None) or x.__name__)
def test_a_chapter(guard, path):
    report(guard(nbformat.read(path, as_version=4)))


def test_the_story_on_one_page_is_short_and_the_same_in_both_languages():
    english, chinese = (nbformat.read(BOOK / f"one_page{end}.ipynb", as_version=4) for end in ("", "_zh"))
    assert len(prose(english).split()) <= 1500
    same = [[c.source for c in code(nb) if CHECKED not in tags(c)] for nb in (english, chinese)]  # all but what prints
    assert same[0] == same[1]
    training = same[0][0]
    assert "vae_tutorial import" not in training
    assert "import vae_tutorial" not in training
    assert len([line for line in training.splitlines() if line.strip()]) <= 45
    count = [len(re.findall(r"^#+ ", prose(nb), re.M)) for nb in (english, chinese)]
    assert count[0] == count[1]
    links = [re.findall(r"\]\((\d\d_\w+\.ipynb)\)", prose(nb)) for nb in (english, chinese)]
    assert set(links[0]) == set(links[1]) == {path.name for path in CHAPTERS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_is_a_valid_notebook(path):
    nb = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(nb)
    assert (nb.nbformat, nb.nbformat_minor) >= (4, 5)


# --- The guards themselves -------------------------------------------------------------------------------------------

GPU_OUTPUT = "bound -240.1\nNVIDIA A100, torch 2.13.0, 2024-05-01\n"
FIGURE = {"image": {"alt": "A line that rises from the origin to one."}, "figure": {"caption": "A line.", "name": "f"}}


OPENING = """# A chapter

:::{admonition} In short
:class: in-short
The idea.

$$ a = b $$

**Time** 5 minutes · **Before** nothing · **Skip** nothing
:::

You will be able to do it.

$$
a = b
$$ (a-b)

See {cite:t}`key`."""
REMEMBER = ":::{admonition} What to remember\n:class: remember\n" + 5 * "- a line\n" + ":::"


def good():
    """A small notebook that satisfies every guard."""
    cells = [new_markdown_cell(OPENING)]
    key = next(iter(REFERENCES.entries))
    cells[0].source = cells[0].source.replace("key", key)
    for count in range(1, 5):
        output = new_output("stream", name="stdout", text="2.718\n")
        checked = {"tags": [CHECKED]}
        text = "print(2.718)" if count > 1 else "# Needs nothing.\nRERUN = False\nprint(2.718)"
        cells += [new_code_cell(text, execution_count=count, outputs=[output], metadata=checked)]
        cells += [new_markdown_cell("A word.")]
    drawn = {"mystnb": copy.deepcopy(FIGURE)}
    cells += [new_code_cell("_ = plt.plot(x)\nplt.show()", execution_count=5, metadata=drawn)]
    cells += [new_markdown_cell("A word.")]
    output = new_output("stream", name="stdout", text=GPU_OUTPUT)
    recorded = {"tags": sorted(GPU)}
    cells.append(new_code_cell("if RERUN:\n    fit()", execution_count=6, outputs=[output], metadata=recorded))
    cells.append(
        new_markdown_cell(
            f"## Common mistakes\n\n## What to remember\n\n{REMEMBER}\n\n## Exercises\n\n## What to read next"
        )
    )
    for label, stars in {"a": "★", "b": "★★", "c": "★★★"}.items():
        cells.append(new_markdown_cell(f"```{{exercise}} {stars} A title\n:label: {label}\n\nProve it.\n```"))
        cells.append(new_markdown_cell(f"```{{solution-start}} {label}\n:class: dropdown\n```\n\nDone."))
        cells.append(new_markdown_cell("```{solution-end}\n```"))
    metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return new_notebook(cells=cells, metadata=metadata | {"language_info": {"name": "python"}})


def source(text, cell=1):
    return lambda nb: nb.cells[cell].update(source=text)


def prints(text, cell=1):
    return lambda nb: nb.cells[cell].outputs[0].update(text=text)


def stores(output, cell=1):
    return lambda nb: nb.cells[cell].update(outputs=[output])


def tagged(*names, cell=1):
    return lambda nb: nb.cells[cell].metadata.update(tags=list(names))


def replaced(old, new):
    def change(nb):
        for cell in nb.cells:
            cell.source = cell.source.replace(old, new)

    return change


def shown(part, **keys):
    def change(nb):
        nb.cells[9].metadata["mystnb"][part].update(keys)

    return change


PICTURE = new_output("display_data", {"image/png": "iVBORw0KGgo=", "text/plain": "2"})
BREAKS = {
    is_executed_in_order: [
        lambda nb: nb.cells[3].update(execution_count=7),
        lambda nb: nb.cells[11].update(execution_count=None),
        lambda nb: nb.cells.pop(3),
        source(" "),
    ],
    stores_text_only: [stores(PICTURE)],
    raises_and_warns_nowhere: [
        stores(new_output("error", ename="ValueError", evalue="", traceback=[])),
        lambda nb: nb.cells[1].outputs[0].update(name="stderr"),
        lambda nb: nb.cells[11].outputs[0].update(name="stderr"),
    ],
    prints_no_leftover_repr: [
        prints("<Figure size 640x480 with 1 Axes>"),
        prints("[<matplotlib.lines.Line2D at 0x7f]"),
        stores(new_output("execute_result", {"text/plain": "<Axes: >"})),
    ],
    has_no_control_characters: [
        replaced("able to", "able to \frac"),
        replaced("able to", "able to \theta"),
        replaced("able to", "able to \right"),
        replaced("A word.", "\beta \alpha \vec"),
        shown("figure", caption="A line \frac."),
        source("print('\x1b[31m')"),
    ],
    names_no_local_path: [
        source(f"open('{Path.home()}/x')"),
        prints("File ipykernel_1/2.py"),
        prints("C:\\Users\\ann"),
        source("See `~/book`.", cell=0),
    ],
    has_minimal_metadata: [
        lambda nb: nb.metadata.update(widgets={}),
        lambda nb: nb.metadata.language_info.update(version="3.11.7"),
        lambda nb: nb.metadata.kernelspec.update(name="my-env"),
        lambda nb: nb.cells[1].metadata.update(collapsed=True),
        lambda nb: nb.metadata.pop("kernelspec"),
    ],
    has_known_tags: [tagged("nbval-check-outputs"), tagged("raises-exception"), tagged("hidden", cell=0)],
    says_where_gpu_cells_ran: [
        tagged("gpu"),
        tagged("gpu", "skip-execution", cell=11),
        tagged("nbval-skip", cell=1),
        tagged(*GPU, CHECKED, cell=11),
        prints("bound -240.1", cell=11),
        lambda nb: nb.cells[11].update(outputs=[]),
        source("fit()", cell=11),
        source("RERUN = True"),
    ],
    has_four_checked_cells: [tagged(), lambda nb: nb.cells[1].update(outputs=[]), prints("\n")],
    checks_what_every_machine_prints: [prints("error 2.84e-14"), prints("bound -240.12345")],
    has_plain_python: [source("%matplotlib inline"), source("!pip install x"), source("print(")],
    says_what_it_needs: [source("print(2.718)")],
    has_short_cells: [source("\n".join(f"x = {n}" for n in range(13)))],
    leaves_definitions_to_the_package: [
        source("class A:\n    pass"),
        source("if True:\n    def f(x):\n" + "        x += 1\n" * 5),
    ],
    has_exercises_with_solutions: [
        replaced(":label: a\n", ":label: d\n"),
        replaced("{solution-start} b", "{note}"),
        replaced("{exercise}", "{tip}"),
        replaced(":label: c\n", ""),
        replaced(":class: dropdown\n", ""),
        lambda nb: nb.cells.append(new_markdown_cell("```{solution} a\n```")),
        lambda nb: nb.cells.extend(4 * [new_markdown_cell("```{exercise}\n:label: z\n```")]),
    ],
    cites_what_exists: [replaced("{cite:t}", ""), lambda nb: nb.cells.append(new_markdown_cell("{cite}`nobody1900`"))],
    describes_its_figures: [
        shown("image", alt=""),
        shown("image", alt="The value of $x$ against time, a line."),
        shown("figure", caption=FIGURE["image"]["alt"]),
        shown("figure", caption=" "),
        shown("figure", name=""),
        lambda nb: nb.cells[9].metadata.pop("mystnb"),
        source("figures.plot_curve(x)"),
    ],
    has_the_sections_of_a_chapter: [
        replaced("## Common mistakes", ""),
        replaced("# A chapter", "A chapter"),
        replaced(" (a-b)", ""),
        replaced("read next", "do"),
        replaced("## What to remember", ""),
        replaced("able to", "asked to"),
    ],
    has_its_two_boxes: [
        replaced(":class: in-short", ":class: note"),
        *(replaced(mark, "") for mark in ("**Time**", "**Before**", "**Skip**", "$$ a = b $$")),
        replaced(REMEMBER, REMEMBER.replace("- a line\n", "", 1)),
        replaced("{exercise} ★★ ", "{exercise} "),
        replaced("{exercise} ★★ ", "{exercise} ★ "),
    ],
    has_a_short_main_line: [
        replaced("The idea.", "word " * 6000),
        replaced("A word.", "word " * 200),
        replaced("**Time** 5", "**Time** 30"),
        replaced("**Time** 5 minutes", "**Time** short"),
        lambda nb: nb.cells.pop(2),
    ],
}


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_the_good_notebook_passes(guard):
    assert guard(good()) == []


@pytest.mark.parametrize(
    ("guard", "change"), [(g, c) for g in GUARDS for c in BREAKS[g]], ids=lambda x: getattr(x, "__name__", "")
)
def test_the_guard_fails_on_a_broken_notebook(guard, change):
    nb = good()
    change(nb)
    assert guard(nb)


@pytest.mark.parametrize("equation", ["$$\na = b\n$$ (a-b)", "$$ a = b $$ (a-b)", "```{math}\n:label: a-b\na = b\n```"])
def test_a_numbered_equation_may_be_written_in_every_way_that_sphinx_accepts(equation):
    nb = good()
    replaced("$$\na = b\n$$ (a-b)", equation)(nb)
    assert has_the_sections_of_a_chapter(nb) == []


@pytest.mark.parametrize(
    "change",
    [
        replaced(":::", "::::"),
        replaced(":::", "```"),
        replaced(":class: in-short", ":class: tip in-short"),
        replaced(":class: remember\n", "---\nclass: remember\n---\n"),
        replaced("- a line", "1. a line"),
        replaced("{exercise} ★ A title", "{exercise-start} ★"),
        replaced(REMEMBER, f"::::{{dropdown}} Five lines\n{REMEMBER}\n::::"),
    ],
)
def test_a_block_may_be_written_in_every_way_that_sphinx_accepts(change):
    nb = good()
    change(nb)
    assert has_its_two_boxes(nb) == has_exercises_with_solutions(nb) == []


def test_code_up_to_the_limits_passes():
    nb = good()
    nb.cells[1].source = "def target(z):\n    '''A toy.'''\n    return -(z**2)\n\n\n# why\n" + "x = 1\n" * 9
    assert has_short_cells(nb) == leaves_definitions_to_the_package(nb) == []


# --- The pages around the chapters -----------------------------------------------------------------------------------


def listed(toc):
    """The documents of a table of contents, in its order, those of a pattern by their names."""
    entries = [toc] if isinstance(toc, dict) else toc
    below = [
        entry.get(key, []) for entry in entries for key in ("chapters", "parts", "sections", "entries", "subtrees")
    ]
    own = [entry[key] for entry in entries for key in ("root", "file") if key in entry]
    own += [path for entry in entries if "glob" in entry for path in matching(entry["glob"])]
    return own + [document for part in below for document in (listed(part) if part else [])]


def matching(pattern):
    return sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.glob(f"{pattern}.md"))


def test_the_table_of_contents_lists_every_page():
    found = listed(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
    paths = [*NOTEBOOKS, *BOOK.glob("*.md"), *BOOK.glob("api/*.md")]
    pages = {path.relative_to(ROOT).with_suffix("").as_posix() for path in paths}
    problems = [f"_toc.yml does not list {page}" for page in sorted(pages - set(found))]
    problems += [f"_toc.yml lists {page}, which is not there" for page in sorted(set(found) - pages)]
    report(problems + [f"_toc.yml lists {page} twice" for page in sorted(set(found)) if found.count(page) > 1])


def incomplete(references):
    """A work is found by its author, title, year and the place where it appeared."""
    places = {"journal", "booktitle", "publisher", "school", "institution", "eprint", "howpublished", "url"}
    due = [(key, e, [f for f in ("title", "year") if f not in e.fields]) for key, e in references.entries.items()]
    due = [
        (key, miss + ["author"] * (not e.persons) + ["place"] * (not places & set(e.fields))) for key, e, miss in due
    ]
    return [f"{key}: no {', '.join(missing)}" for key, missing in due if missing]


def test_every_reference_is_complete():
    assert incomplete(REFERENCES) == []


@pytest.mark.parametrize("missing", ["author", "title", "year", "journal"])
def test_the_reference_guard_fails_without(missing):
    fields = {"author": "A. Author", "title": "T", "year": "2000", "journal": "J"}
    del fields[missing]
    entry = ", ".join(f"{field} = {{{value}}}" for field, value in fields.items())
    assert incomplete(parse_string(f"@article{{key, {entry}}}", "bibtex"))
