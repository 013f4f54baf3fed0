# Cargo does the work. This installs what is missing, finds cargo under sudo, and adds root where needed.

PREFIX ?= /usr/local
# sockredir-bench is in the same directory.
BINARY := $(or $(CARGO_TARGET_DIR),target)/release/sockredir
COMPARE := $(or $(CARGO_TARGET_DIR),target)/compare
# The same version as the binary, but for this machine, with sockredir-bench beside it: both write the manual pages and the
# completions.
GENERATOR ?= $(BINARY)
BASH_COMPLETIONS := share/bash-completion/completions
ZSH_COMPLETIONS := share/zsh/site-functions
FISH_COMPLETIONS := share/fish/vendor_completions.d
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)

.PHONY: help
help: ## List the targets (this)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: build ## Build and run as root: make run ARGS="--cgroup /sys/fs/cgroup/some.slice"
	$(SUDO) $(BINARY) $(ARGS)

.PHONY: build
build: ## Build sockredir and sockredir-bench in target/release; CARGOFLAGS="--features static" goes to cargo
	@scripts/setup build
	scripts/cargo build --release --locked $(CARGOFLAGS)

.PHONY: test
test: ## Build the tests and run them as root; ARGS="name" runs those with that in their name
	@scripts/setup test
	scripts/test $(ARGS)

.PHONY: test-kernels
test-kernels: ## Run a choice of the tests under other kernels in QEMU (root); ARGS="6.12" takes one, KERNEL=bzImage your own
	@scripts/setup kernels
	$(SUDO) env KERNEL="$(KERNEL)" CHECKS="$(CHECKS)" MINUTES="$(MINUTES)" ACCEL="$(ACCEL)" tests/kernels/run $(ARGS)

.PHONY: soak
soak: ## Programs of every kind under the tool for MINUTES=10 (root); SEED=n repeats the random choices of an earlier run
	@scripts/setup test
	SOCKREDIR_SOAK_MINUTES=$(or $(MINUTES),10) SOCKREDIR_SOAK_SEED=$(SEED) scripts/test --nocapture pass_a_soak

.PHONY: compare
compare: ## Plain TCP, sockredir and an aya implementation side by side (root, 45 minutes); ARGS="--quick safety bench"
	@scripts/setup test
	aya=$$(compare/build) && \
	{ [ -e $(COMPARE)/builds.tsv ] || compare/measure-builds $(COMPARE)/builds.tsv; } && \
	compare/run --aya $$aya $(ARGS)

.PHONY: bench-programs
bench-programs: ## Redis, PostgreSQL, nginx and memcached over plain TCP, Unix sockets and the tool (root, 6 minutes)
	@scripts/setup test
	compare/run $(ARGS) programs

.PHONY: mutants
mutants: ## Take each law out of the datapath and check that its test notices (root, an hour); ARGS="order" takes one
	@scripts/setup test
	@scripts/setup kernels
	$(SUDO) tests/mutants $(ARGS)

.PHONY: lint
lint: ## Check format and lints of the Rust and the C sources, rustdoc, the mutants, and with cargo-deny the crates
	@scripts/setup lint
	scripts/cargo fmt --all --check
	scripts/cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" scripts/cargo doc --locked --workspace --no-deps --document-private-items
	clang-format --dry-run -Werror src/bpf/*.c src/bpf/*.h
	tests/mutants --check
	@if scripts/cargo deny --version >/dev/null 2>&1; then \
		scripts/cargo deny --locked check --hide-inclusion-graph bans licenses sources; \
	else \
		echo "cargo-deny is not installed, so the crates' licences and sources are left to CI"; \
	fi

.PHONY: format
format: ## Format the Rust and the C sources
	@scripts/setup lint
	scripts/cargo fmt --all
	clang-format -i src/bpf/*.c src/bpf/*.h

.PHONY: install
install: ## Install what `make build` has built: sudo make install PREFIX=/usr/local DESTDIR=
	@test -x $(BINARY) || { echo "$(BINARY) is missing: run 'make build' first" >&2; exit 1; }
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin $(BINARY) $(BINARY)-bench
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,$(BASH_COMPLETIONS) $(ZSH_COMPLETIONS) $(FISH_COMPLETIONS))
	set -e; for suffix in "" -bench; do \
		generate="$(GENERATOR)$$suffix generate"; name=sockredir$$suffix; \
		$$generate man $(DESTDIR)$(PREFIX)/share/man/man8; \
		$$generate completions bash >$(DESTDIR)$(PREFIX)/$(BASH_COMPLETIONS)/$$name; \
		$$generate completions zsh >$(DESTDIR)$(PREFIX)/$(ZSH_COMPLETIONS)/_$$name; \
		$$generate completions fish >$(DESTDIR)$(PREFIX)/$(FISH_COMPLETIONS)/$$name.fish; \
	done
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system dist/systemd/sockredir.service
	sed -i 's|=/usr/bin/|=$(PREFIX)/bin/|' $(DESTDIR)$(PREFIX)/lib/systemd/system/sockredir.service
	test -e $(DESTDIR)/etc/default/sockredir || \
		install -D -m 644 dist/systemd/sockredir.default $(DESTDIR)/etc/default/sockredir
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/sockredir README.md CHANGELOG.md LICENSE-GPL-2.0 LICENSE-BSD-2-Clause
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/sockredir/docs docs/*.md $(wildcard docs/*.svg)
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/sockredir/examples dist/grafana/* dist/prometheus/*

.PHONY: uninstall
uninstall: ## Remove what `make install` has put in place; stop the service first
	set -e; for name in sockredir sockredir-bench; do \
		rm -f $(DESTDIR)$(PREFIX)/bin/$$name $(DESTDIR)$(PREFIX)/$(BASH_COMPLETIONS)/$$name \
			$(DESTDIR)$(PREFIX)/$(ZSH_COMPLETIONS)/_$$name $(DESTDIR)$(PREFIX)/$(FISH_COMPLETIONS)/$$name.fish; \
	done
	rm -f $(DESTDIR)$(PREFIX)/share/man/man8/sockredir.8* $(DESTDIR)$(PREFIX)/share/man/man8/sockredir-*.8*
	rm -f $(DESTDIR)$(PREFIX)/lib/systemd/system/sockredir.service
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/sockredir

.PHONY: packages
packages: ## Build the packages into target/packages; ARGS="x86_64 aarch64" names the machines they are for
	@scripts/setup packages
	scripts/packages $(ARGS)

.PHONY: test-packages
test-packages: ## Install, run and remove what `make packages` has built, in a root of its own (root; apt)
	@scripts/setup packages
	$(SUDO) tests/packages/run $(ARGS)

.PHONY: deps
deps: ## Install what this machine lacks to build and to test (root; apt or dnf)
	@scripts/setup test

.PHONY: clean
clean: ## Remove what was built
	scripts/cargo clean
