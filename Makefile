# The usual tasks by name; script/ holds what they do. Without make: read the line under the target.
VENV := $(or $(IMAGESCOPE_VENV),.venv)
RESULTS := build/bench

.PHONY: setup test lint docs bench demo

setup: ## .venv with the pinned packages, the tools and this package
	bash -c 'source script/env.sh && ensure_env dev'

test: ## all tests but the slow ones; ARGS goes to pytest
	bash script/test.sh $(ARGS)

lint: ## style, spelling, types and the rooms' imports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/codespell
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

docs: ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

bench: ## the programs behind docs/performance.md: half an hour of a machine that does nothing else
	mkdir -p $(RESULTS)
	for name in retrieval scaling approximate end_to_end engine_feed contention image_db search_latency; do \
	  $(VENV)/bin/python script/bench/$$name.py --json $(RESULTS)/$$name.json || exit 1; \
	done

demo: ## the whole method on drawn scenes
	bash script/demo.sh $(ARGS)
