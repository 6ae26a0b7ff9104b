# Two commands matter: `make demo` and `make test`. Both prepare .venv by themselves and need no root.
.DEFAULT_GOAL := help
.PHONY: help demo test lint figures collector constraints clean

VENV_BIN := .venv/bin
PREPARE := @sh scripts/bootstrap.sh
UV := UV_CACHE_DIR=.venv/.cache/uv $(VENV_BIN)/uv

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: ## run the main job and keep serving until Ctrl-C; ONCE=1 ends after the table, REAL=1 brings real servers
	$(PREPARE) $(if $(filter-out 0,$(REAL)),test,demo)
	@$(VENV_BIN)/$(if $(filter-out 0,$(REAL)),python scripts/real_demo.py,forge-otel demo) $(if $(filter-out 0,$(ONCE)),--once)

test: ## run the test suite with its own servers; ARGS="tests/unit -x" goes to pytest
	$(PREPARE) test
	@$(VENV_BIN)/python -m pytest $(ARGS)

lint: ## check style, format and types
	$(PREPARE) lint
	@$(VENV_BIN)/ruff check
	@$(VENV_BIN)/ruff format --check
	@$(VENV_BIN)/mypy

figures: ## print how easy the source is to find one's way in, beside the targets
	$(PREPARE) test
	@$(VENV_BIN)/python scripts/figures.py

collector: ## build the OpenTelemetry Collector of collector/ with Go, and validate its files
	$(PREPARE) test
	@$(VENV_BIN)/python scripts/collector.py --validate

constraints: ## write constraints.txt anew, keeping its pins; UPGRADE=1 moves them to the newest releases
	$(PREPARE) lint
	@$(UV) pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
		$(if $(filter-out 0,$(UPGRADE)),--upgrade) \
		--all-extras --group test --group lint --group setup pyproject.toml --output-file constraints.txt

clean: ## remove .venv, caches and builds; your data in .forge stays
	@rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	@find . -type d -name __pycache__ -prune -exec rm -rf {} +
