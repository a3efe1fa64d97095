# `make demo` tells the whole story in the terminal, `make test` runs every check; both build .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
UV      = UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --compile-bytecode -c constraints.txt
TORCH  := $(shell sed -n 's/^torch==//p' constraints.txt)
NB     := nbs
# JupyterLab refuses to run as root unless told
ROOT   := $(if $(filter 0,$(shell id -u)),--allow-root)
ARGS   ?=
export HF_HUB_OFFLINE ?= 1

.PHONY: demo lab app test lint types sync notebooks unit browser docs bench fuzz readme pictures outputs suite study clean

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt uv

# a tier is a set of extras; its stamp is as new as what it was installed from
# PyTorch's CPU build: from a folder of wheels if one is configured, else from PyTorch's own index, else what the registry has
$(VENV)/.ready: $(BIN)/uv constraints.txt settings.ini setup.py
	$(UV) 'torch==$(TORCH)+cpu' 2>/dev/null || $(UV) --torch-backend cpu 'torch==$(TORCH)' || $(UV) 'torch==$(TORCH)'
	$(UV) -e '.[models,lab]' nbclient nbconvert
	@touch $@
$(VENV)/.dev: $(VENV)/.ready
	$(UV) -e '.[models,lab,dev]' setuptools wheel
	@touch $@
$(VENV)/.bench: $(VENV)/.dev
	$(UV) -e '.[models,lab,dev,bench]'
	@touch $@
$(VENV)/.fuzz: $(VENV)/.dev
	$(UV) -e '.[models,lab,dev,fuzz]'
	@touch $@
$(VENV)/.docs: $(VENV)/.dev
	$(UV) -e '.[models,lab,dev,docs]'
	@touch $@

demo: $(VENV)/.ready
	$(BIN)/python docs/demo.py
lab: $(VENV)/.ready
	$(BIN)/jupyter lab $(ROOT) --ServerApp.ip=127.0.0.1 $(ARGS) $(NB)/tutorials/tour.ipynb
# the explorer as a page of its own, for this machine alone
app: $(VENV)/.ready
	$(BIN)/voila docs/app.ipynb --Voila.ip=127.0.0.1 --strip_sources=True $(ARGS)

test: lint types sync notebooks unit browser
lint: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
types: $(VENV)/.dev
	$(BIN)/mypy
sync: $(VENV)/.dev
	$(BIN)/pytest -q tests/test_house.py
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python docs/readme.py --check
notebooks: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python docs/run.py --check
unit: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 tests --ignore=tests/browser --ignore=tests/bench --ignore=tests/test_house.py
browser: $(VENV)/.dev tests/browser/vendor/axe.min.js
	$(BIN)/pytest -q tests/browser -m "not site"
# without npm the accessibility tests are skipped, but not where CI is set
tests/browser/vendor/axe.min.js: docs/assets.py
	-$(PYTHON) docs/assets.py --tests

# the site needs node's npm for two script packages
docs: $(VENV)/.docs docs/_static/vendor/embed-amd.js
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/sphinx-build -j 2 -W --keep-going -q -b html -c docs $(NB) build/site
	$(BIN)/pytest -q tests/browser -m site
docs/_static/vendor/embed-amd.js: $(VENV)/.docs docs/assets.py
	$(BIN)/python docs/assets.py

# speed beside the peers, as ratios of medians; not part of the tests, because it wants a quiet machine
bench: $(VENV)/.bench
	$(BIN)/pytest -q -s tests/bench

# an hour: three targets, two engines, ten minutes each; crashing inputs are kept in build/fuzz
SECONDS_EACH ?= 600
fuzz: $(VENV)/.fuzz
	for target in text loaders importers; do for engine in atheris hypothesis; do \
	$(BIN)/python tests/fuzz/fuzz.py $$target --engine $$engine --seconds $(SECONDS_EACH); done; done
	! find build/fuzz -type f -not -path '*/corpus-*' | grep .

# what is committed and made from something else
readme: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python docs/readme.py
# the README's picture is what a browser test sees
pictures: browser
	cp build/shots/readme-explorer.png nbs/images/explorer.png
outputs: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python docs/run.py
# trains and scores the shipped models and their further seeds in build/suite, about half an hour on two cores, goes on where it was stopped,
# and compares accuracies with the shipped ones; ARGS=--ship puts the result in their place
suite: $(VENV)/.ready
	$(BIN)/python -m toksuite_nb.ablations build/suite $(ARGS)
# about half an hour on two cores; goes on where it was stopped
study: $(VENV)/.ready
	$(BIN)/python -c "from toksuite_nb.study import remake_study; remake_study('data/study')"
clean:
	rm -rf $(VENV) build dist _proc _docs *.egg-info docs/_static/vendor
