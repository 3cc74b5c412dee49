# Everything that a developer runs. The two to begin with: make demo, make test.
#
# PYTHON is the Python (3.10 or later) that the environment .venv is made with, and made anew with when it is another
# one than before: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where the demo makes its site, and leaves it; without it in a temporary folder that goes.
DEMO_DIR ?=
BENCH ?=
# Processes that run tests side by side.
PROCESSES ?= 2

# Named after PYTHON, so that another one makes a new environment.
MADE := $(VENV)/made-with-$(subst /,-,$(PYTHON))

.PHONY: help
help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

.PHONY: demo
demo: packages-of-demo $(MADE) ## back up a real site, destroy it, restore it, compare everything (DEMO_DIR keeps it)
	@$(BIN)/python tools/demo.py $(if $(DEMO_DIR),--folder "$(DEMO_DIR)")

.PHONY: test
test: packages-of-test $(MADE) ## run all tests but the long ones, which faults, interop and integration run
	$(BIN)/python -m pytest -n $(PROCESSES) -m "not slow and not interop_full and not integration and not smoke"

.PHONY: coverage
coverage: packages-of-test $(MADE) ## run the same tests, and say which lines and branches of src none of them reaches
	$(BIN)/python -m pytest -n $(PROCESSES) -m "not slow and not interop_full and not integration and not smoke" --cov --cov-report=term

# Goes on where the last run stopped. FAULTS_AGAIN=1 begins anew, FAULTS_SHARD=2/5 does one of five parts.
.PHONY: faults
faults: packages-of-test $(MADE) ## kills, errors, power cuts, damage and races at every place (an hour or two)
	@$(BIN)/python -m tests.faults.results begin
	$(BIN)/python -m pytest -n $(PROCESSES) -m slow; \
	  code=$$?; $(BIN)/python -m tests.faults.results; exit $$code

.PHONY: search
search: packages-of-test $(MADE) ## look for faults by chance: the tests with random examples, with 5000 each (hours)
	$(BIN)/python -m pytest -n $(PROCESSES) -m hypothesis --hypothesis-profile=search

# MODULE=repository/dat: that one alone. Goes on where the last run stopped; MUTATION_AGAIN=1 begins anew.
MODULE ?=

.PHONY: mutation
mutation: packages-of-test $(MADE) ## change what decides, place by place, and see whether a test notices (long; MODULE=repository/dat is one module)
	$(BIN)/python -m pip install --quiet --quiet --editable ".[test,mutation]"
	@$(BIN)/python tools/mutation.py $(MODULE) --processes $(PROCESSES) $(if $(MUTATION_AGAIN),--again)

.PHONY: interop
interop: packages-of-test $(MADE) ## back up and restore by turns with collective.recipe.backup, in all layouts (a quarter of an hour)
	$(BIN)/python -m pytest -n $(PROCESSES) tests/interop

# Which of the real sites: INTEGRATION=short leaves Plone out.
INTEGRATION ?= all

.PHONY: integration
integration: packages-of-test $(MADE) ## back up and restore real Zope and Plone sites in real buildouts (fetches them)
	$(BIN)/python -m pytest -m "integration$(if $(filter short,$(INTEGRATION)), and not plone)" tests/integration

.PHONY: lint
lint: $(MADE) ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: $(MADE) ## format the code, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: types
types: $(MADE) ## check the types of src and tools
	$(BIN)/mypy
	$(BIN)/mypy tools/*.py

.PHONY: imports
imports: $(MADE) ## check that imports go one way
	$(BIN)/lint-imports --no-cache --no-logo

.PHONY: dead-code
dead-code: $(MADE) ## look for code that nobody uses, and for code of src that only tests use
	$(BIN)/vulture
	$(BIN)/vulture src tools

.PHONY: spelling
spelling: packages-of-test $(MADE) ## check the spelling of all pages; what is right all the same stands in tools/spelling/words.txt
	$(BIN)/python -m sphinx -b spelling --fail-on-warning --keep-going --fresh-env --quiet -c tools/spelling . build/spelling

.PHONY: docs
docs: generated-docs ## write the generated pages anew, and make docs/_build/html of all pages; warnings are errors
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --fresh-env --quiet -j auto docs docs/_build/html
	@echo "The documentation is docs/_build/html/index.html."

.PHONY: generated-docs
generated-docs: $(MADE) ## write docs/options.rst, docs/commands.rst and man/ anew from the options and the parser
	$(BIN)/python tools/write_options.py
	$(BIN)/python tools/write_commands.py

.PHONY: docs-check
docs-check: $(MADE) ## check the pages: their markup, the commands in them, the table of options
	$(BIN)/python -m pytest tests/test_docs.py

.PHONY: corners
corners: $(MADE) ## run the smoke suite in corners of the matrix: those whose Python is here
	$(BIN)/python tools/matrix.py --corners

# MATRIX="py312 zodb6" runs those cells only.
MATRIX ?=

.PHONY: matrix
matrix: $(MADE) ## run it with every Python, zc.buildout and ZODB, with isal and without; .tox/matrix.txt is the table (hours)
	$(BIN)/python tools/matrix.py --table .tox/matrix.txt $(MATRIX)

.PHONY: release-check
release-check: $(MADE) ## build what would be published, check it, use it in an empty environment; publishes nothing
	$(BIN)/python -m pip install --quiet --quiet --editable ".[release]"
	$(BIN)/python tools/release_check.py

.PHONY: bench
bench: packages-of-test $(MADE) ## measure side by side with collective.recipe.backup (BENCH="--size small" for a first look)
	$(BIN)/python -m benchmarks.run $(BENCH)

.PHONY: environment
environment: $(MADE) ## make .venv with zodbvault and all that develops it

# `--clear`: what an interrupted run or an earlier list of packages left is not built on.
$(MADE): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("zodbvault needs Python 3.10 or later: make ... PYTHON=python3.12, say" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --quiet --editable ".[test]"
	@touch $@

.PHONY: packages-of-demo packages-of-test
packages-of-demo packages-of-test: packages-of-%:
	@PYTHON="$(PYTHON)" tools/install-system-packages $*

.PHONY: clean
clean: ## remove all that make and the tests made, the environment too
	rm -rf docs/_build
	rm -rf $(VENV) .coverage* .faults .hypothesis .mutation .mypy_cache .pytest_cache .ruff_cache htmlcov .tox build dist
	rm -rf .installed.cfg bin develop-eggs eggs parts src/*.egg-info
	find src tests tools benchmarks docs -name __pycache__ -prune -exec rm -rf {} +
