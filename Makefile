# make demo   score the bundled dump and print the table
# make test   everything that CI runs on the releases of constraints.txt
# make test-latest   the tests on the newest Python found and the newest releases, as CI runs them after
# make test-writers   stores and files as other libraries write them, and real servers, in an environment of their own
# make docs-check   run what the pages of docs/ show
# make test-extra   jobs and workers of a real SLURM, where there is one
# make lock   write constraints.txt anew from the newest releases
#
# PYTHON=python3.12 chooses the interpreter (run `make clean` first), EXTRAS=a,b adds optional dependencies.

PYTHON ?= python3
EXTRAS ?=

VENV := .venv
PACKAGE_VENV := .venv-package
LATEST_VENV := .venv-latest
WRITERS_VENV := .venv-writers
LOCK_VENV := .venv-lock

comma := ,
suffix := $(if $(EXTRAS),-$(EXTRAS))
BASE_STAMP := $(VENV)/.installed-base$(suffix)
DEV_STAMP := $(VENV)/.installed-dev$(suffix)
WRITERS_STAMP := $(WRITERS_VENV)/.installed
LATEST_STAMP := $(LATEST_VENV)/.installed$(suffix)
PACKAGE_STAMP := $(PACKAGE_VENV)/.checked
PACKAGE_FILES := $(shell find rankme_stream -type f -not -path '*/__pycache__/*' 2>/dev/null)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Empty: the tests start the package hundreds of times, and compiling it each time is a fifth of each start.
export PYTHONDONTWRITEBYTECODE :=
# Both names: pip before 25.3 reads only the first for build requirements, later ones only the second.
CONSTRAINED := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
UNCONSTRAINED := PIP_CONSTRAINT= PIP_BUILD_CONSTRAINT=
INSTALL := -m pip install --quiet

python_is_new := $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo yes
python_has_venv := $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null && echo yes
# Expanded when a recipe that makes an environment runs, so that a ready environment never asks.
define check_python
$(if $(shell $(python_is_new)),,$(error '$(PYTHON)' is not Python 3.11 or later; install one and run `make PYTHON=python3.11 $(MAKECMDGOALS)`))$(if $(shell $(python_has_venv)),,$(error '$(PYTHON)' lacks venv or ensurepip; install them (Debian and Ubuntu: `apt install python3-venv`) or choose another with PYTHON=...))
endef

# The interpreter of the newest releases: the one asked for, else the newest found.
latest_python = $(if $(filter file,$(origin PYTHON)),$(shell bash .ci/newest-python),$(PYTHON))
define check_latest_python
$(if $(filter file,$(origin PYTHON)),$(if $(latest_python),,$(error no Python 3.12 or later runs here; install one, or choose another with PYTHON=...)),$(check_python))
endef

.PHONY: demo test docs-check test-extra test-writers lock test-latest clean
.DELETE_ON_ERROR:

demo: $(BASE_STAMP)
	@$(VENV)/bin/rankme demo

# One recipe, so that the checks run cheapest first whatever -j says.
test: $(DEV_STAMP)
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal
	@$(MAKE) --no-print-directory $(PACKAGE_STAMP)

$(VENV)/.created:
	$(check_python)@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(BASE_STAMP): pyproject.toml constraints.txt | $(VENV)/.created
	$(CONSTRAINED) $(VENV)/bin/python $(INSTALL) -e '.$(if $(EXTRAS),[$(EXTRAS)])'
	@touch $@

$(DEV_STAMP): pyproject.toml constraints.txt | $(VENV)/.created
	$(CONSTRAINED) $(VENV)/bin/python $(INSTALL) -e '.[dev$(if $(EXTRAS),$(comma)$(EXTRAS))]'
	@touch $(BASE_STAMP) $@

# What users install: the wheel into an empty environment, then the source archive over it.
$(PACKAGE_STAMP): pyproject.toml constraints.txt README.md LICENSE $(PACKAGE_FILES) | $(DEV_STAMP)
	rm -rf dist $(PACKAGE_VENV)
	$(VENV)/bin/python -m build --no-isolation --outdir dist . >/dev/null
	$(VENV)/bin/python -m venv $(PACKAGE_VENV)
	$(CONSTRAINED) $(PACKAGE_VENV)/bin/python $(INSTALL) dist/*.whl
	$(PACKAGE_VENV)/bin/rankme --version
	$(PACKAGE_VENV)/bin/rankme demo --quiet
	$(CONSTRAINED) $(PACKAGE_VENV)/bin/python $(INSTALL) --force-reinstall --no-deps dist/*.tar.gz
	$(PACKAGE_VENV)/bin/rankme --version
	$(PACKAGE_VENV)/bin/rankme demo --quiet
	@touch $@

# The commands and code on the pages of docs/ and in the README, run; a part of `make test` too.
docs-check: $(DEV_STAMP)
	$(VENV)/bin/python -m pytest tests/house/test_docs.py

# What needs more than Python: a real SLURM on this machine (as root, `apt install slurm-wlm munge`).
test-extra: $(DEV_STAMP)
	$(CONSTRAINED) $(VENV)/bin/python $(INSTALL) 'dask-jobqueue==0.9.0'
	$(VENV)/bin/python -m pytest -v -s --no-header tests/extra/slurm.py

# Stores and files that the libraries of .ci/writers.txt write, and servers of moto and of Python. The conftest of the
# other tests needs packages that are not there.
test-writers: $(WRITERS_STAMP)
	$(WRITERS_VENV)/bin/python -m pytest -W default --disable-warnings --confcutdir=tests/writers tests/writers/*.py

$(WRITERS_STAMP): pyproject.toml constraints.txt .ci/writers.txt
	$(check_python)@$(PYTHON) -m venv --clear $(WRITERS_VENV)
	$(CONSTRAINED) $(WRITERS_VENV)/bin/python $(INSTALL) -r .ci/writers.txt -e .
	@touch $@

lock:
	$(check_python)$(PYTHON) -m venv --clear $(LOCK_VENV)
	$(UNCONSTRAINED) $(LOCK_VENV)/bin/python $(INSTALL) '.[dev]'
	$(LOCK_VENV)/bin/python -m pip freeze --exclude-editable --exclude rankme-stream > constraints.txt.new
	mv constraints.txt.new constraints.txt
	rm -rf $(LOCK_VENV)

# The newest releases of everything: their deprecation warnings are shown, and fail nothing.
test-latest: $(LATEST_STAMP)
	$(LATEST_VENV)/bin/python -m pytest -n 2 --dist worksteal -W default

# Made anew as a whole, so that all of it is the newest of one day; `make clean` lets it be made again.
$(LATEST_STAMP): pyproject.toml
	$(check_latest_python)@$(latest_python) -m venv --clear $(LATEST_VENV)
	$(UNCONSTRAINED) $(LATEST_VENV)/bin/python $(INSTALL) -e '.[dev$(if $(EXTRAS),$(comma)$(EXTRAS))]'
	@touch $@

clean:
	rm -rf $(VENV) $(PACKAGE_VENV) $(LATEST_VENV) $(WRITERS_VENV) $(LOCK_VENV) dist build
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find rankme_stream tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
