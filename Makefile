# Each of these does its own set-up: a Rust toolchain is all that must be there.

SHELL := /bin/bash
.DEFAULT_GOAL := help
# A login shell that is not set up for them lacks these.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin
CARGO ?= cargo
ARGS ?=
FUZZ_SECONDS ?= 30
SCRIPTS := .ci/run deploy/bootstrap.sh deploy/haproxy-versions.sh deploy/moto-versions.sh fuzz/run.sh

.PHONY: help
help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: demo
demo: bootstrap-demo ## Play it all on this machine; ARGS=--check plays it without hands
	$(CARGO) build --locked
	@$(CARGO) run --locked --quiet -- demo $(ARGS)

.PHONY: test
test: bootstrap-test ## Run every test, those on real servers too; ARGS picks some by name
	LBCTL_TEST_REQUIRE=1 $(CARGO) test --locked --doc -- $(ARGS)
	LBCTL_TEST_REQUIRE=1 $(CARGO) test --locked --tests -- $(ARGS)

.PHONY: soak
soak: bootstrap-test ## Run the tests with far more rounds; ARGS picks some by name
	LBCTL_TEST_REQUIRE=1 LBCTL_TEST_SOAK=1 $(CARGO) test --locked --test it -- $(ARGS)

.PHONY: bench
bench: bootstrap-test ## Measure lbctl beside the barest peers; ARGS picks sections by name, or --json
	LBCTL_TEST_REQUIRE=1 $(CARGO) bench --locked --bench limits -- $(ARGS)

.PHONY: fuzz
fuzz: bootstrap-fuzz ## Fuzz every parser, each FUZZ_SECONDS long; ARGS picks some by name
	fuzz/run.sh $(FUZZ_SECONDS) $(ARGS)

.PHONY: check
check: bootstrap-test ## Check format, lints, documentation, scripts and dependencies
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items
	shellcheck $(SCRIPTS)
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny --locked check bans licenses sources; \
	else \
		echo 'skipped: cargo-deny is not installed (cargo install cargo-deny)'; \
	fi

.PHONY: build
build: bootstrap-build ## Build target/debug/lbctl
	$(CARGO) build --locked

.PHONY: release
release: bootstrap-build ## Build target/release/lbctl
	$(CARGO) build --locked --release

.PHONY: bootstrap-build bootstrap-demo bootstrap-fuzz bootstrap-test
bootstrap-build bootstrap-demo bootstrap-fuzz bootstrap-test: bootstrap-%:
	@deploy/bootstrap.sh $*
