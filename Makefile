# Everything that this project does to itself. Needed beforehand: make, git and Python 3.11 or newer as `python3`
# (or PYTHON=…). `make help` lists the targets.

PYTHON ?= python3
BIN := .venv/bin
# What builds images: docker, or another program with its arguments.
DOCKER ?= docker
# Arguments for pytest, such as `make test TESTS=tests/server` or `make test PYTEST='-x -k drain'`.
TESTS ?= tests
PYTEST ?=

CODE := $(wildcard src tests typing_tests examples benchmarks scripts)

# Without bytecode every worker of `make test` would compile all tests anew, and every server that they start itself.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# ---- Use it -----------------------------------------------------------------------------------------------------------

.PHONY: run
run: install ## Start a server in a temporary directory and send orders through it.
	@$(BIN)/python -m examples.orders

.PHONY: test
test: install ## Run the test suite, on all cores, and list the slowest tests.
	$(BIN)/python -m pytest -n auto --dist worksteal --durations 15 $(PYTEST) $(TESTS)

.PHONY: bench
bench: install ## Measure publishing and consuming, beside a plain grpc.aio server and nats-py alone; or BEFORE=another checkout.
	$(BIN)/python -m benchmarks $(if $(BEFORE),--before "$(BEFORE)")

.PHONY: faststream
faststream: install .venv-faststream/.installed ## Measure a program on the Python library beside the same one on FastStream: rates, and losses in kills.
	$(BIN)/python -m benchmarks.side_by_side

.PHONY: faults
faults: install .venv-before/.installed ## Play the fault scenarios, or FAULTS='some of them'; SEEDS=200, SEED=17, EVENTS=100000, SHORT=1, REPORT=1.
	@$(BIN)/python -m tests.faults $(FAULTS) $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) \
	  $(if $(EVENTS),--events $(EVENTS)) $(if $(SHORT),--short) $(if $(REPORT),--report)

.PHONY: attack
attack: install ## Attack a server in all ways, and measure an honest client beside each; or ATTACKS='some'; SECONDS=3, RUNS=1, REPORT=1.
	@$(BIN)/python -m tests.attacks $(ATTACKS) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(RUNS),--runs $(RUNS)) $(if $(REPORT),--report --control)

.PHONY: fuzz
fuzz: install ## Send the server frames and requests of chance, and its NATS client bytes, new ones at each run; EXAMPLES=20000 of each kind.
	WINDSHIFT_TEST_FUZZ=$(or $(EXAMPLES),20000) $(BIN)/python -m pytest -n auto --timeout 0 -rP $(PYTEST) \
	  tests/rpc/test_server_fuzz.py tests/hardening/test_fuzz.py tests/nats/test_protocol_fuzz.py

.PHONY: conformance
conformance: install ## Run the gRPC interop client and h2spec against the rpc layer (needs Go).
	$(BIN)/python -m tests.conformance

.PHONY: languages
languages: install ## Run the examples in Go, Node, TypeScript, Java and C# whose tools are installed; or LANGUAGES='some of them'.
	@$(BIN)/python scripts/languages.py $(LANGUAGES)

.PHONY: images
images: ## Pin the images that the Dockerfile and compose.yaml pull by the digests that they have now (needs Docker and a network).
	$(PYTHON) scripts/images.py $(DOCKER)

.PHONY: engine
engine: .venv-engine/.installed ## Build ngh2 with the libnghttp2 of NGHTTP2=(directory or archive), and run all suites on it; or TESTS=some; or BUILD_ONLY=1.
	@test -n "$(NGHTTP2)" || { echo "Name a source of libnghttp2: make engine NGHTTP2=nghttp2-1.70.0.tar.xz"; exit 2; }
	@.venv-engine/bin/python scripts/engine.py $(if $(BUILD_ONLY),--build-only) "$(NGHTTP2)" $(TESTS)

.PHONY: chart
chart: .venv-chart/.installed ## Lint the Helm chart, and validate all its shapes against the schemas of Kubernetes.
	@.venv-chart/bin/python scripts/chart.py

.PHONY: alerts
alerts: ## Check the alert rules, and play when they fire (needs promtool, which is part of Prometheus).
	promtool check rules deploy/prometheus/alerts.yaml
	promtool test rules deploy/prometheus/alerts.test.yaml

.PHONY: image
image: ## Build the container image `windshift` (needs Docker; or DOCKER=podman).
	$(DOCKER) build --tag windshift \
	  --build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
	  --build-arg REVISION=$$(git rev-parse HEAD) --build-arg CREATED=$$(date -u +%Y-%m-%dT%H:%M:%SZ) .

# ---- Keep it in order -------------------------------------------------------------------------------------------------

.PHONY: check
check: install .venv-generate/.installed .venv-release/.installed ## Run every check but the tests: format, lint, types, layers, protos, generated code, tables, locks, tree.
	@$(BIN)/python scripts/check.py

.PHONY: format
format: install ## Format code and protos, and fix what the linter can.
	$(BIN)/ruff check --fix-only --quiet $(CODE)
	$(BIN)/ruff format $(CODE)
	$(BIN)/buf format --write

.PHONY: generate
generate: install .venv-generate/.installed ## Write the protobuf code from the .proto files, and the types of the synchronous client.
	.venv-generate/bin/python scripts/generate.py
	$(BIN)/python scripts/sync.py

.PHONY: environment
environment: install ## Write the tables of environment variables in docs/, and .envrc.example.
	$(BIN)/python scripts/environment.py

.PHONY: metrics
metrics: install ## Write the tables of metrics and alerts in docs/.
	$(BIN)/python scripts/metrics.py

.PHONY: cli
cli: install ## Write the reference of the command line, docs/cli.md.
	$(BIN)/python scripts/cli.py

.PHONY: docs
docs: install .venv-docs/.installed ## Build the documentation site into build/site, and check its links and that all is documented.
	rm -rf build/reference
	$(BIN)/python scripts/reference.py build/reference
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet
	.venv-docs/bin/python scripts/links.py

.PHONY: lock
lock: .venv-lock/.installed ## Resolve requirements.lock and requirements/*.lock anew; `make lock LOCK=--upgrade` moves versions up.
	.venv-lock/bin/python scripts/lock.py .venv-lock/bin/uv $(LOCK)

.PHONY: audit
audit: .venv-audit/.installed ## Look for known vulnerabilities in what requirements.lock names (asks a public database; AUDIT=--if-possible).
	@.venv-audit/bin/python scripts/audit.py $(AUDIT)

.PHONY: hooks
hooks: install ## Install the git hooks: checks before a commit, and the form of its message.
	$(BIN)/pre-commit install

.PHONY: release
release: export WINDSHIFT_TEST_IMAGE := 1
release: check test ## Set the version from the commits since the last release (or VERSION=…), write the changelog, commit and tag.
	$(BIN)/python scripts/release.py $(VERSION)
	@$(MAKE) artifacts

.PHONY: artifacts
artifacts: install docs .venv-build/.installed .venv-chart/.installed .venv-release/.installed ## Build the packages of this commit into dist/release, try them on the lowest and the highest Python (or PYTHONS=…), and write chart, docs, image context, bill of materials, provenance and digests.
	rm -rf dist/release
	.venv-build/bin/hatchling build --directory dist/release
	$(BIN)/python scripts/pythons.py dist/release/*.whl $(PYTHONS)
	.venv-release/bin/python scripts/artifacts.py

.PHONY: clean
clean: ## Remove what the other targets made, environments included.
	rm -rf .venv .venv-*/ .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist bin
	find src tests $(wildcard examples benchmarks scripts) -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- Environments -----------------------------------------------------------------------------------------------------

.PHONY: install
install: .venv/.installed ## Make .venv with everything at the versions of requirements.lock. The other targets do it when needed.

.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Windshift needs Python 3.11 or newer; this is %d.%d. Name another with PYTHON=…" % sys.version_info[:2])'
	@echo "Installing into .venv, which takes some minutes"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

.venv-%/.installed: requirements/%.lock
	@echo "Installing into $(@D)"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --disable-pip-version-check --quiet --require-hashes -r $<
	@touch $@
