# Everything that a person or CI runs. Needs Python >= 3.10 and make; the rest is installed on first use.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# On Linux only a "+cpu" build is taken: the plain wheel brings several GB of GPU packages along.
TORCH  ?= torch==2.13.0$(if $(filter Linux,$(shell uname -s)),+cpu)

GENERATE   := .venv-generate
GENERATORS := grpcio-tools==1.71.2 mypy-protobuf==3.7.0
STUBS      := chatenv_client/_generated

# Trainers, in an environment for each file of requirements, on top of $(VENV): not all get along with each other.
# TRAINERS=newest takes the newest versions in place of those that the adapters were written for.
TRAINERS     ?= stated
TRAINER      := .venv-trainers$(if $(filter newest,$(TRAINERS)),-newest)
wanted        = $(if $(filter newest,$(TRAINERS)),$$(sed 's/\#.*//; s/==/>=/' $1),--requirement $1)
TRAINER_ENVS := $(patsubst tests/trainers/environments/%.txt,$(TRAINER)-%,$(wildcard tests/trainers/environments/*.txt))

SERVE := $(VENV)/.serve
ASK   := $(VENV)/.ask
DEV   := $(VENV)/.dev
PLOT  := $(VENV)/.plot
BENCH := $(VENV)/.bench

# Tests run side by side, one process a core.
SPREAD := -n auto --dist worksteal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo guessing-game calculator word-game serve train-demo train-proof test test-deep test-container \
        test-trainers soak bench bench-quick verify verify-lint verify-types verify-proto verify-stubs fix fix-lint \
        fix-proto stubs docs pictures wheel clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##-- use it

demo: $(SERVE) ## play a short episode over gRPC (TOKENIZER=name-or-folder for a real tokenizer)
	$(BIN)/python examples/demo.py $(if $(TOKENIZER),--tokenizer '$(TOKENIZER)') $(ARGS)

guessing-game: $(SERVE) ## play a task: the model guesses a number
	$(BIN)/python examples/guessing_game.py

calculator: $(SERVE) ## play a task: the model calls a tool
	$(BIN)/python examples/calculator.py

word-game: $(ASK) ## play a task: the model talks with a user whom another model plays
	$(BIN)/python examples/word_game.py

serve: $(SERVE) ## serve on localhost (TOKENIZER=name-or-folder, ARGS='--flag value' for the rest)
	$(BIN)/chatenv-server $(if $(TOKENIZER),--tokenizer '$(TOKENIZER)') $(ARGS)

train-demo: $(PLOT) ## train a tiny model from scratch on the guessing game, in minutes (ARGS='--seed 1')
	$(BIN)/python examples/train_demo.py $(ARGS)

train-proof: $(PLOT) ## train with exact tokens and with the usual bookkeeping, and draw the plots of docs/train-demo.md
	$(BIN)/python examples/train_proof.py $(ARGS)

##-- test it

test: $(DEV) ## run all tests (ARGS='-k words' to choose)
	$(BIN)/python -m pytest $(SPREAD) $(ARGS)

test-deep: $(DEV) ## run all tests with 10,000 examples for every property
	HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest --timeout=0 $(ARGS)

test-container: $(DEV) ## build the image and run it, where a Docker engine answers
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -m container tests/deploy $(ARGS)

test-trainers: $(addsuffix /.ready,$(TRAINER_ENVS)) ## run the adapters in the trainers that they are for (TRAINERS=newest, ARGS='-k words')
	@for each in $(TRAINER_ENVS); do echo "$$each:" && \
	$$each/bin/python -m pytest $(SPREAD) -W default --disable-warnings tests/trainers $(ARGS) || exit 1; done

soak: $(DEV) ## kill 64 clients and their servers at random, 4 times five minutes (ARGS='--clients 8 --seconds 30 --kinds redis')
	$(BIN)/python -m tests.server.soak $(ARGS)

bench: $(BENCH) ## measure: a table, JSON and a plot (ARGS='--only templates' for a part)
	$(BIN)/python -m benchmarks $(ARGS)

bench-quick: $(DEV) ## see in under a minute that the benchmark works
	$(BIN)/python -m benchmarks --quick $(ARGS)

##-- check it

verify: verify-lint verify-types verify-proto verify-stubs ## run every check below

verify-lint: $(DEV) ## ruff: rules and format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

verify-types: $(DEV) ## mypy --strict
	$(BIN)/mypy

verify-proto: $(DEV) ## buf: lint and format
	$(BIN)/buf lint && $(BIN)/buf format --diff --exit-code

verify-stubs: $(GENERATE)/.ready ## regenerating the stubs gives no diff
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(GENERATE)/bin/python tools/generate_stubs.py "$$fresh" && \
	diff -r --exclude=__init__.py --exclude=__pycache__ $(STUBS) "$$fresh/$(STUBS)" && echo "stubs match the schema"

fix: fix-lint fix-proto stubs ## mend what the checks can mend

fix-lint: $(DEV) ## let ruff mend and format
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

fix-proto: $(DEV) ## let buf format the schema
	$(BIN)/buf format --write

##-- make it

stubs: $(GENERATE)/.ready ## write the stubs from the schema
	$(GENERATE)/bin/python tools/generate_stubs.py .

docs: $(DEV) ## write the tables of settings and errors into the documents
	$(BIN)/python tools/write_docs.py

pictures: $(DEV) ## photograph pages of episodes for the documents (needs chromium and chromium-driver)
	$(BIN)/python -m tools.make_pictures

wheel: $(SERVE) ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## remove all that was made, environments included
	rm -rf $(VENV) .venv-trainers-* $(GENERATE) dist build .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(SERVE): pyproject.toml chatenv_client/_version.py | $(BIN)/python
	$(PIP) --editable '.[server]'
	@touch $@

$(ASK): $(SERVE)
	$(PIP) --editable '.[server,endpoint]'
	@touch $@

$(DEV): pyproject.toml chatenv_client/_version.py | $(BIN)/python
	$(PIP) 'pip>=25.1' # the first that installs dependency groups
	$(PIP) --editable '.[server,metrics,tracing]' --group dev
	@$(PIP) '$(TORCH)' || echo "No '$(TORCH)' for this Python: tests that need torch will skip (TORCH=... chooses another)."
	@touch $(SERVE) $@

$(PLOT): $(DEV)
	$(PIP) --group plot
	@touch $@

$(BENCH): $(DEV)
	$(PIP) --group bench
	@touch $@

$(TRAINER)-%/.ready: tests/trainers/environments/%.txt $(DEV)
	$(PYTHON) -m venv --clear --without-pip $(@D)
	@$(BIN)/python tools/share_packages.py $(@D)
	$(BIN)/python -m pip --python $(@D)/bin/python install --quiet --disable-pip-version-check --no-compile \
	  $(call wanted,$<)
	@! test -f $(<:.txt=.alone) || $(BIN)/python -m pip --python $(@D)/bin/python install --quiet --no-compile \
	  --disable-pip-version-check --no-deps --ignore-requires-python $(call wanted,$(<:.txt=.alone))
	@touch $@

$(GENERATE)/.ready: Makefile
	$(PYTHON) -m venv --clear $(GENERATE)
	$(GENERATE)/bin/python -m pip install --quiet --disable-pip-version-check $(GENERATORS)
	@touch $@
