# Everything runs in .venv, which the first command makes. `make help` lists the commands.
#
#   PYTHON=python3.12          the Python that .venv is made with (3.11 or newer)
#   PIP_FLAGS="..."            passed to pip, for example the index that serves CPU builds of torch
#   OMP_WAIT_POLICY=ACTIVE     threads that wait keep their cores; without it they sleep, and a busy machine stays usable
#   OMP_NUM_THREADS=4          threads for torch; 2 by default, so that every machine adds in the same order. Of several
#                              notebooks that the build runs at once, each has one

PYTHON    ?= python3
PIP_FLAGS ?=
BIN       := .venv/bin
PAGE      := $(CURDIR)/_build/html/index.html

OMP_NUM_THREADS ?= 2
OMP_WAIT_POLICY ?= PASSIVE
export OMP_NUM_THREADS OMP_WAIT_POLICY
export TQDM_DISABLE := 1
export PYTHONHASHSEED := 0
export JUPYTER_PLATFORM_DIRS := 1

INSTALLED := .venv/.installed
EXECUTED  := _build/.execution
BUILT     := _build/.built

PACKAGE := $(wildcard vae_tutorial/*.py vae_tutorial/*/*)
RESULTS := $(wildcard book/results/*)
PAGES   := $(shell find book -type f -not -path '*/.*' -not -path 'book/results/*')

.PHONY: help book test lint format notebooks portable clean
.DELETE_ON_ERROR:

help:
	@echo 'make book         build the book; prints the path of the page to open'
	@echo 'make test         build what is stale, then lint, types, unit tests, notebooks, pages'
	@echo 'make lint         ruff and mypy alone'
	@echo 'make format       mend what ruff can mend'
	@echo 'make notebooks    run every notebook in place and record its text outputs; NOTEBOOKS="book/04_elbo.ipynb" for one'
	@echo 'make portable     run the notebooks as other processors would; list the checked outputs that differ (25 minutes)'
	@echo 'make clean        remove what the commands above made, except .venv'

# ---- the environment -------------------------------------------------------------------------------------------------

$(INSTALLED): requirements.txt constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "There is no '$(PYTHON)' here. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "The book needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "This Python has no venv module. On Debian or Ubuntu install it with: apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo 'Installing into .venv: a minute or more the first time'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) -r requirements.txt -e .
	@touch $@

# ---- the book --------------------------------------------------------------------------------------------------------

book: $(BUILT)
	@echo 'Open $(PAGE)'

# jupyter-book runs the notebooks whose code changed, side by side (tools/execute_notebooks.py). Its cache looks at the
# notebooks alone, so what they import and load drops it.
$(EXECUTED): $(INSTALLED) $(PACKAGE) $(RESULTS)
	@mkdir -p _build
	@rm -rf _build/.jupyter_cache _build/.doctrees
	@touch $@

# A page that was read is not read again, and its warnings would be gone: after a build that did not finish, read all.
# The stamp carries the time of the start, so that an edit made meanwhile is seen by the next build.
$(BUILT): $(EXECUTED) _config.yml _toc.yml tools/book_extension.py tools/execute_notebooks.py $(PAGES)
	@test -e $@ || rm -rf _build/.doctrees
	@test -e $@ && ! find book/_static -newer $@ | grep -q . || rm -rf _build/html  # Sphinx copies styles only with a page
	@rm -f $@ && touch _build/.started
	$(BIN)/jupyter-book build . -W -n --keep-going
	@mv _build/.started $@

# ---- tests -----------------------------------------------------------------------------------------------------------

lint: $(INSTALLED)
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

test: lint book
	$(BIN)/python -m pytest

# ---- the notebooks' recorded outputs ---------------------------------------------------------------------------------

notebooks: $(INSTALLED)
	$(BIN)/python tools/record_notebooks.py $(NOTEBOOKS)

portable: $(INSTALLED)
	$(BIN)/python tools/portable.py $(NOTEBOOKS)

clean:
	rm -rf _build .pytest_cache .ruff_cache .mypy_cache
	find vae_tutorial tests tools -name __pycache__ -type d -exec rm -rf {} +
