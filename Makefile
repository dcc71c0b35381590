# Two commands matter: `make demo` and `make test`. Each sets everything up by itself.

PYTHON ?= python3
# What the tests install: `demo` is enough for every part that runs on a device, `all` adds the
# frameworks that models may come from. Tests of a framework that is absent skip with a reason.
EXTRAS ?= demo
GROUPS := --group test --group lint $(if $(filter all,$(EXTRAS)),--group servers)
BIN := .venv/bin

.PHONY: help demo test lint bench bench-scale bench-peers bench-outbox bench-swap bench-push bench-convert bench-tiny bench-growth plots conformance crash crash-model soak test-small test-arm64 coverage-matrix clean broker servers
.DELETE_ON_ERROR:

help:
	@echo "make demo             train, convert, run, push, cut the broker off, push again: two minutes"
	@echo "make test             every test, against real brokers (EXTRAS=all: every framework)"
	@echo "make lint             ruff, mypy and the import arrows"
	@echo "make bench            latency of a reading's way, kept in benchmarks/results/"
	@echo "make bench-scale      a thousand sensors on one model: batches against one run each"
	@echo "make bench-peers      readings over MQTT on one core, against what people use"
	@echo "make bench-push       an update: to one device, to a group of 300, and with kills in the middle"
	@echo "make bench-outbox     how fast, small and gentle the outbox is, a week alone included"
	@echo "make bench-swap       a thousand models taken over under a thousand readings a second"
	@echo "make bench-growth     memory after a million readings, and after ten"
	@echo "make bench-convert    converted models against plain exports, and which form wins"
	@echo "make bench-tiny       small networks, or MODEL=any.onnx: the bound call against plain run()"
	@echo "make plots            draw what is kept in benchmarks/results/ again"
	@echo "make conformance SUITE=FOLDER   the public TUF suite, every byte over MQTT"
	@echo "make crash            a thousand agents killed at random moments of a push"
	@echo "make crash-model      every power cut at every moment of an update, a trust check, a record"
	@echo "make soak             an hour of full and broken disks, set clocks, floods, flapping brokers"
	@echo "make test-small       the agent in 512 MB and a quarter of a core"
	@echo "make test-arm64       unit tests, replay and verify on emulated 64-bit ARM"
	@echo "make coverage-matrix  every estimator of scikit-learn, to benchmarks/COVERAGE.md"
	@echo "make clean            remove what these made"

demo: .venv/.demo broker
	$(BIN)/python benchmarks/keep.py demo $(BIN)/edge-agent demo

test: .venv/.dev-$(EXTRAS) broker
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: .venv/.dev-$(EXTRAS)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.demo broker
	$(BIN)/python benchmarks/keep.py bench $(BIN)/python benchmarks/hot_path.py

bench-scale: .venv/.demo
	$(BIN)/python benchmarks/keep.py bench-scale $(BIN)/python benchmarks/scale.py

bench-peers: .venv/.demo broker
	$(BIN)/python benchmarks/keep.py bench-peers $(BIN)/python -m benchmarks.peers

bench-push: .venv/.demo broker
	$(BIN)/python benchmarks/keep.py bench-push $(BIN)/python -m benchmarks.push

bench-outbox: .venv/.demo
	$(BIN)/python benchmarks/keep.py bench-outbox $(BIN)/python benchmarks/outbox.py

bench-swap: .venv/.demo
	$(BIN)/python benchmarks/keep.py bench-swap $(BIN)/python benchmarks/swap.py

bench-growth: .venv/.demo
	$(BIN)/python benchmarks/keep.py bench-growth $(BIN)/python benchmarks/growth.py

bench-convert: .venv/.demo
	$(BIN)/python benchmarks/keep.py bench-convert $(BIN)/python benchmarks/convert.py

# A file of one's own is measured the same way; its figures are printed and not kept.
bench-tiny: .venv/.demo
	$(if $(MODEL),,$(BIN)/python benchmarks/keep.py bench-tiny) $(BIN)/python benchmarks/tiny.py $(MODEL)

plots: .venv/.demo
	$(BIN)/python benchmarks/plots.py

coverage-matrix: .venv/.demo
	$(BIN)/python benchmarks/keep.py coverage_matrix $(BIN)/python benchmarks/coverage_matrix.py

# Every byte over MQTT; SUITE is a checkout of tuf-conformance. Needs Debian's faketime.
conformance: .venv/.demo broker
	$(BIN)/python benchmarks/keep.py conformance $(BIN)/python -m benchmarks.conformance $(SUITE)

# Agents killed at random moments of a push: half an hour.
crash: .venv/.demo broker
	$(BIN)/python benchmarks/keep.py crash $(BIN)/python benchmarks/crash.py

# Every state that a power cut may leave; the tests run it too.
crash-model: .venv/.dev-$(EXTRAS)
	$(BIN)/python benchmarks/keep.py crash_model $(BIN)/python tests/crash_model.py

# An agent through everything that goes wrong on a device. As root its disk fills up and breaks too.
SECONDS ?= 3600
soak: .venv/.demo broker
	$(BIN)/python benchmarks/keep.py soak $(BIN)/python benchmarks/soak.py --seconds $(SECONDS)

# As root, in control groups of version 1 and 2, as far as this machine has them.
test-small: .venv/.demo broker
	$(BIN)/python benchmarks/keep.py small $(BIN)/python benchmarks/small.py

# As root, on Debian: an emulated machine in build/arm64, kept for the next time.
test-arm64: .venv/.demo
	$(BIN)/python benchmarks/keep.py arm64 $(BIN)/python benchmarks/arm64.py

clean:
	rm -rf .venv build dist demo-out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) or sys.maxsize < 2**32)' || \
	  { echo "A 64-bit Python 3.11 or newer is needed; name it with 'make PYTHON=python3.12'."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing: sudo apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	touch $@

.venv/.demo: .venv/.made pyproject.toml
	$(BIN)/pip install --quiet --editable '.[demo]'
	touch $@

.venv/.dev-$(EXTRAS): .venv/.demo
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS)]' $(GROUPS)
	touch $@

# $(call debian,PROGRAM,PACKAGE,HOW): install a package of Debian that has a program, or go on HOW.
debian = @PATH=$$PATH:/usr/sbin:$$(echo /usr/lib/postgresql/*/bin); command -v $(1) >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ]; then SUDO=; elif sudo -n true 2>/dev/null; then SUDO=sudo; else \
	  echo "$(2) is not installed and cannot be without root: going on $(3)"; exit 0; fi; \
	command -v apt-get >/dev/null || { echo "no apt-get: going on $(3)"; exit 0; }; \
	echo "installing $(2)"; \
	$$SUDO apt-get update -qq && \
	$$SUDO env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(2) >/dev/null || \
	echo "$(2) could not be installed: going on $(3)"

# The tests and the demo start a broker of their own: mosquitto where it is or may be installed,
# else nats-server, which comes with the Python packages.
broker:
	$(call debian,mosquitto,mosquitto,with nats-server)

# What some tests start or call besides, and skip with a reason where it is not installed: the
# database of a larger team's rollouts, and the recorder of sounds.
servers: broker
	$(call debian,initdb,postgresql,without PostgreSQL)
	$(call debian,arecord,alsa-utils,without ALSA)
