# Needs make and Python 3.11 or newer; everything else goes into .venv.
.DEFAULT_GOAL := help
.PHONY: help demo test slow sim crash fuzz jepsen jepsen-all jepsen-ci compose-test deploy-check deploy-files verify fix settings proto \
	clean

BIN := .venv/bin
INSTALLED := .venv/.installed

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## run a three-node cluster and show what it does (DEMO_ARGS="...")
	@$(BIN)/raftkv demo $(DEMO_ARGS)

test: $(INSTALLED) ## run all tests, one worker a core (PYTEST_ARGS="...")
	@$(BIN)/python -m raftkv.testing.toxiproxy_install
	@$(BIN)/python -m pytest -n auto $(PYTEST_ARGS)

slow: $(INSTALLED) ## run the tests that take too long for every run: rare seeds of the simulator's controls
	@$(BIN)/python -m pytest -n auto -m slow $(PYTEST_ARGS)

sim: $(INSTALLED) ## simulate fresh seeds (SEEDS=500) or replay one (SEED=n); LEVEL=l0|l1; docs/simulation.md
	@$(BIN)/python -m tests.sim $(if $(LEVEL),--level $(LEVEL)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FIRST),--first $(FIRST)) \
		$(if $(SEED),--seed $(SEED)) $(if $(KEEP),--keep $(KEEP))

crash: $(INSTALLED) ## kill a node at every step of its disk, under load (CRASH_ARGS="--seed 1 --minutes 30")
	@$(BIN)/python -m tests.crash $(CRASH_ARGS)

fuzz: $(INSTALLED) ## strike a data directory with single faults, each found or harmless (FLIPS=10000, FIRST=n)
	@$(BIN)/python -m tests.storage.flips $(if $(FLIPS),--flips $(FLIPS)) $(if $(FIRST),--first $(FIRST))

jepsen: $(INSTALLED) ## ten minutes of partitions, kills and bad clocks under checked clients (JEPSEN_ARGS="--minutes 10")
	@$(BIN)/python -m raftkv.testing.toxiproxy_install
	@$(BIN)/python -m raftkv.jepsen.matrix $(JEPSEN_ARGS)

jepsen-all: $(INSTALLED) ## the whole matrix of workloads and faults, an hour (JEPSEN_ARGS="--minutes 60"); docs/jepsen.md
	@$(BIN)/python -m raftkv.testing.toxiproxy_install
	@$(BIN)/python -m raftkv.jepsen.matrix --all $(if $(JEPSEN_ARGS),$(JEPSEN_ARGS),--minutes 60)

jepsen-ci: $(INSTALLED) ## what every commit passes of it, that it finds what is broken on purpose, and the longer of all other tests
	@$(BIN)/python -m raftkv.testing.toxiproxy_install
	@$(BIN)/python -m pytest -n auto -m jepsen $(PYTEST_ARGS) tests/jepsen tests/partition tests/cli tests/crash tests/integration tests/server

compose-test: $(INSTALLED) ## the image and docker-compose.yml on a Docker engine, minutes (SCENARIOS="three five chaos"); deploy/README.md
	@$(BIN)/python -m tests.deploy.compose $(SCENARIOS)

deploy-check: $(INSTALLED) ## render, lint and validate deploy/ with kustomize, helm and promtool, which Go builds once (CHECK_ARGS="--rewrite-golden")
	@$(BIN)/python -m tests.deploy.check $(CHECK_ARGS)

deploy-files: $(INSTALLED) ## make the dashboard, the alerts' unit tests and the copies of the alerts anew
	@$(BIN)/python -m tests.deploy.generate

verify: $(INSTALLED) ## check style, types, generated code and layers; changes nothing
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@scripts/check-generated
	@$(BIN)/python -m pytest -q tests/test_import_direction.py

fix: $(INSTALLED) ## apply ruff's fixes and format
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

settings: $(INSTALLED) ## make the table of docs/configuration.md anew
	@$(BIN)/python -m raftkv.server.settings_reference docs/configuration.md

proto: $(INSTALLED) ## generate raftkv/v1 from proto/
	@scripts/generate .

clean: ## remove .venv and all caches
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find raftkv tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt scripts/venv
	@PYTHON="$(PYTHON)" scripts/venv
