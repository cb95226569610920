# What a developer and CI do here. CI runs exactly `make test`.
SHELL := /bin/bash
export PATH := $(PATH):$(HOME)/.cargo/bin
PROFILE ?= release

.DEFAULT_GOAL := help
.PHONY: help setup build demo lint fmt test test-kubernetes images cluster-up cluster-down bench-logs bench-environments bench-usage bench-shell bench-rsync fuzz-manifest fuzz-rsync

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##  */\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-16s %s\n' "$$name" "$$text"; done

setup:  ## install what a build needs and is missing here: Debian packages, Rust
	@scripts/setup build

build: setup  ## build the three programs (PROFILE=release|dev)
	cargo build --locked --profile $(PROFILE) --workspace --bins

demo:  ## build, start everything on this machine with an example site, show it, stop it again
	@scripts/setup build demo
	cargo build --locked --workspace --bins
	@scripts/demo.sh

fmt:  ## format the code
	cargo fmt --all

lint: setup  ## format check, clippy, licences and bans
	@scripts/setup lint
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo deny --locked --log-level error check bans licenses sources

test:  ## everything that CI runs, with a summary of what ran and what was left out
	@scripts/test

test-kubernetes: setup  ## only the tests on Kubernetes: on $KUBECONFIG, or as root on a cluster made for them
	@scripts/test-kubernetes

images: setup  ## target/images/*.tar: the programs as container images, without Docker (PROFILE=release|dev)
	@PROFILE=$(PROFILE) scripts/images

cluster-up:  ## start a Kubernetes of two nodes on this machine, as root; prints its kubeconfig
	@scripts/setup cluster
	@tests/cluster/cluster up 2

cluster-down:  ## stop it and remove what it left
	@tests/cluster/cluster down

bench-logs: setup  ## speed and memory of the log path, measured here: a table, and target/bench/logs.json
	@scripts/setup bench
	cargo build --locked --release --workspace --bins
	"$${CARGO_TARGET_DIR:-target}/release/bench-logs"

bench-environments: setup  ## 2,000 environments and 10,000 pods on a real API server, as root: a table, and target/bench/environments.json
	@scripts/setup cluster
	cargo build --locked --release --workspace --bins
	@scripts/bench-environments

bench-usage: setup  ## what samples of CPU and memory cost, measured here, as root: a table, and target/bench/usage.json
	@scripts/setup bench-usage
	cargo build --locked --release --workspace --bins
	"$${CARGO_TARGET_DIR:-target}/release/bench-usage"

bench-shell: setup  ## sessions beside OpenSSH's sshd and kubectl exec, on $KUBECONFIG or as root: a table, and target/bench/shell.json (PROFILE=release|dev)
	@scripts/setup bench-shell
	cargo build --locked --profile $(PROFILE) --workspace --bins
	@PROFILE=$(PROFILE) scripts/bench-shell

bench-rsync: setup  ## transfers of files beside stock rsync over OpenSSH's sshd, on $KUBECONFIG or as root: a table, and target/bench/rsync.json (PROFILE=release|dev)
	@scripts/setup bench-shell bench-rsync
	cargo build --locked --profile $(PROFILE) --workspace --bins
	@PROFILE=$(PROFILE) scripts/bench-rsync

fuzz-manifest: setup  ## give the parser of .skpr.yml what nobody would write (FUZZ_SECONDS=60)
	@scripts/fuzz-manifest

fuzz-rsync: setup  ## tell both ends of a transfer what no other end would say (FUZZ_SECONDS=60)
	@scripts/fuzz-rsync
