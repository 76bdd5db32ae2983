SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
STAMP := .venv/.stamp
DOCS := .venv/.docs-stamp
QUICK := $(wildcard tests/unit tests/properties tests/contracts tests/house)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup check test fix cover wheel bench compare fuzz conformance docs demo serve local-llm clean lint programs

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv with everything the other targets need

# A version manager's shim may be found and still not run, and an interpreter may lack sqlite3:
# hence the trial. Debian ships venv apart from python3, as pythonX.Y-venv.
$(STAMP): pyproject.toml constraints.txt
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    rm -rf .venv; \
	    trial() { "$$1" -c "import sys, sqlite3, ssl$$2; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1; }; \
	    pick() { for p in python3.13 python3.12 python3.11 python3; do trial $$p "$$1" && echo $$p && return; done; true; }; \
	    python="$$(pick ', ensurepip')"; \
	    if [ -z "$$python" ]; then \
	        python="$$(pick '')"; \
	        [ -n "$$python" ] || { echo "setup: needs Python 3.11 or newer; none was found." >&2; exit 1; }; \
	        package="$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"; \
	        if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	            echo "setup: installing $$package"; \
	            apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$$package" >/dev/null; \
	        else \
	            echo "setup: $$python cannot create environments. Run: sudo apt-get install $$package" >&2; \
	            exit 1; \
	        fi; \
	    fi; \
	    "$$python" -m venv .venv; \
	fi
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[dev]'
	@touch $@

check: lint ## format, lint, types, floors, quick tests: two minutes
	@$(BIN)/pytest $(QUICK) -m 'not slow' -n 2 -q

# Where documentation that cannot be built is a failure, its generator must be there.
test: lint programs $(if $(CI),$(DOCS)) ## the same linters and every test
	@$(BIN)/pytest -n 2 -q

# Without them some tests say that they are skipped, and in CI they fail.
programs:
	@missing=; \
	command -v Rscript >/dev/null || missing="$$missing r-base-core"; \
	for program in curl chromium nginx slowhttptest; do \
	    command -v $$program >/dev/null || missing="$$missing $$program"; \
	done; \
	if [ -n "$$missing" ] && [ -n "$${CI:-}" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "test: installing$$missing"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

# lint-imports draws a page even when all is well.
lint: $(STAMP)
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@said="$$($(BIN)/lint-imports --no-logo 2>&1)" || { echo "$$said"; exit 1; }

fix: $(STAMP) ## format, and mend what ruff can mend
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check .

cover: $(STAMP) ## branch coverage; protocol/ must have all of it
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest $(QUICK) -n 2 -q
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report
	@$(BIN)/coverage report --include='*/tailrace/protocol/*' --fail-under=100

wheel: $(STAMP) ## build the wheel and run the unit tests against it, without src
	@rm -rf dist
	@said="$$($(BIN)/python -m build --wheel --outdir dist . 2>&1)" || { echo "$$said"; exit 1; }
	@away="$$(mktemp -d)"; trap 'rm -rf "$$away"' EXIT; \
	$(BIN)/python -m venv "$$away/venv"; \
	"$$away/venv/bin/python" -m pip install -qq -c constraints.txt "$$(echo dist/*.whl)[dev]"; \
	git ls-files -z pyproject.toml tests bench examples | xargs -0 cp --parents -t "$$away"; \
	cd "$$away"; \
	venv/bin/python -c 'import pathlib, sys, tailrace; assert pathlib.Path(tailrace.__file__).is_relative_to(sys.prefix)'; \
	venv/bin/pytest tests/unit -n 2 -q
	@ls dist/*.whl

bench: $(STAMP) ## Tailrace beside its peers, and its goals: a table, about half an hour
	@$(BIN)/python -m bench --install

compare: $(STAMP) ## EventSourceResponse beside its peers, by questions: docs/compared.md, two minutes
	@$(BIN)/python -m tests.compare

fuzz: $(STAMP) ## 10,000 requests made up from the OpenAPI document
	@TAILRACE_TEST_CASES=10000 $(BIN)/pytest -q -s tests/faults/test_schemathesis.py

conformance: $(STAMP) ## the official MCP suite and chat clients, with the Node they need
	@$(BIN)/python -m tests.conformance.mcp.run
	@$(BIN)/python -m tests.conformance.agents.run

# Apart from the rest: only who builds the documentation needs its generator.
$(DOCS): $(STAMP)
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[docs]'
	@touch $@

docs: $(DOCS) ## the documentation, strictly, into site/
	@$(BIN)/python docs/build.py

demo: $(STAMP) ## a tour, in this terminal
	@$(BIN)/python examples/demo.py

serve: $(STAMP) ## the server, with the example scripts
	@$(BIN)/tailrace serve --allow-root examples/scripts

local-llm: $(STAMP) ## a real model for the chat, on this machine: 1.7 GB, ten minutes the first time
	@exec $(BIN)/python examples/local_llm/run.py

# The local model lies in the user's cache, and `examples/local_llm/run.py --remove` removes it: it
# took minutes to get.
clean: ## remove whatever make has made, but not the local model
	@rm -rf .venv build dist site htmlcov .coverage .coverage.*
	@rm -rf tests/conformance/.node tests/conformance/*/.node tests/conformance/*/node_modules
	@rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find src tests examples bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
