# Two commands matter: `make demo` and `make test`. Both prepare .venv by themselves and need no root.
.DEFAULT_GOAL := help
.PHONY: help demo test lint figures faults clean-clone bare-wheel debian-tools go-tools collector marked-tests \
	constraints hooks clean

VENV_BIN := .venv/bin
PREPARE := @sh scripts/bootstrap.sh
UV := UV_CACHE_DIR=.venv/.cache/uv $(VENV_BIN)/uv

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: ## run the main job and keep serving until Ctrl-C; ONCE=1 ends after the table, REAL=1 starts real servers
	$(PREPARE) $(if $(filter-out 0,$(REAL)),test,demo)
	@$(VENV_BIN)/$(if $(filter-out 0,$(REAL)),python scripts/real_demo.py,forge-otel demo) $(if $(filter-out 0,$(ONCE)),--once)

test: ## run the test suite with its own servers; ARGS="tests/unit -x" goes to pytest
	$(PREPARE) test
	@$(VENV_BIN)/python -m pytest $(ARGS)

lint: ## check style, format, spelling and types
	$(PREPARE) lint
	@$(VENV_BIN)/ruff check
	@$(VENV_BIN)/ruff format --check
	@$(VENV_BIN)/codespell
	@$(VENV_BIN)/python scripts/dialect.py
	@$(VENV_BIN)/mypy

figures: ## print how readable the source is, each figure beside its target
	$(PREPARE) test
	@$(VENV_BIN)/python scripts/figures.py

faults: ## run the fault matrix and outages under load; FORGE_TEST_UNTIMED=1 leaves out the limits of time
	$(PREPARE) test
	@$(VENV_BIN)/python -m pytest -m faults --quiet

clean-clone: ## run the demo and a first test in a clean clone with an empty home
	@scripts/checks/clean_clone.sh

bare-wheel: ## build the wheel and run it without any extra
	$(PREPARE) lint
	@scripts/checks/bare_wheel.sh

debian-tools: ## install Chromium and Prometheus, as root
	@scripts/checks/debian_tools.sh

go-tools: ## build a strict S3 server with Go
	@scripts/checks/go_tools.sh

collector: ## build the OpenTelemetry Collector of collector/ with Go, and validate its files
	$(PREPARE) test
	@$(VENV_BIN)/python scripts/collector.py --validate

marked-tests: ## run the tests that need what debian-tools, go-tools and collector bring
	$(PREPARE) test
	@scripts/checks/marked_tests.sh

constraints: ## write constraints.txt, keeping its pins; UPGRADE=1 moves them to the newest releases
	$(PREPARE) lint
	@$(UV) pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
		$(if $(filter-out 0,$(UPGRADE)),--upgrade) \
		--all-extras --group test --group lint --group setup pyproject.toml --output-file constraints.txt

hooks: ## let git run the quick checks before each commit
	$(PREPARE) lint
	@$(VENV_BIN)/pre-commit install

clean: ## remove .venv, caches and builds; your data in .forge stays
	@rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	@find . -type d -name __pycache__ -prune -exec rm -rf {} +
