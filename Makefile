# make demo        the whole loop, offline, on the bundled tiny model (about ten minutes, two cores)
# make demo-short  the same at a tenth of the size: does it run?
# make test        all tests
# make test-servers MODEL=FOLDER
#                  the commands against real servers: llama.cpp's and transformers' (slow to build)
# make coverage    all tests, with the lines they reach
# make check       format, lint, types
# make bare        every command in an environment without extras
# make venv        .venv with everything the tests need
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
OUT ?= demo-run
SERVERS := build/servers

.PHONY: demo demo-short test test-servers coverage check bare format venv clean

demo: $(VENV)/.demo
	$(BIN)/agenticlu demo --out $(OUT)

demo-short: $(VENV)/.demo
	rm -rf build/demo-short
	$(BIN)/agenticlu demo --out build/demo-short --documents 4 --items 4 --lengths 256,512

test: venv
	$(BIN)/python -m pytest -n 2 --dist worksteal

# MODEL: a small instruct model in Hugging Face layout with a GGUF file beside it.
test-servers: venv $(SERVERS)/.built
	@test -n "$(MODEL)" || { echo "which model? make test-servers MODEL=FOLDER"; exit 2; }
	AGENTICLU_SERVERS=$(SERVERS) AGENTICLU_SERVERS_MODEL='$(MODEL)' \
		$(BIN)/python -m pytest -m servers tests/servers

# Each server in an environment of its own; transformers' takes its packages from ours.
$(SERVERS)/.built: | $(VENV)/.dev
	$(BIN)/python -m venv $(SERVERS)/llama
	$(SERVERS)/llama/bin/pip install --quiet --disable-pip-version-check 'llama-cpp-python[server]'
	$(BIN)/python -m venv $(SERVERS)/transformers
	$(SERVERS)/transformers/bin/pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt fastapi
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$( \
		$(SERVERS)/transformers/bin/python -c \
		'import sysconfig; print(sysconfig.get_path("purelib"))')/agenticlu.pth"
	@touch $@

coverage: venv
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov=agenticlu --cov-report=term

bare: venv
	$(BIN)/python tests/bare_install.py

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

venv: $(VENV)/.dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "agenticlu needs Python 3.11 or newer; try: make PYTHON=python3.11 demo"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Each level installs once, and again when what it installs changes.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps --upgrade --target build/openrlhf openrlhf \
		|| echo "openrlhf was not downloaded: the test of runs/train_openrlhf.sh is skipped"
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) $(OUT) build dist .pytest_cache .mypy_cache .ruff_cache
