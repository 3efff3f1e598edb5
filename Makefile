# One line per thing there is to do. On a fresh machine Go and make are enough:
# the linters are built into .bin the first time somebody asks for them.

GOLANGCI_LINT := .bin/golangci-lint@v2.13.1/golangci-lint
BUF           := .bin/buf@v1.57.0/buf

# What the race detector is worth its time on: everything with goroutines on
# the way of an append or a replay, and wal, whose crashes are fewer there and whose
# bytes are not damaged one by one: that takes a minute of five, and one goroutine.
ENGINE := ./batcher ./segment ./replay ./internal/disk ./internal/server ./internal/docstore ./client

# What the wire must stay compatible with: the last release, and before there
# is one, the committed baseline.
RELEASE := $(shell git tag --list 'v*' --sort=-v:refname | head -n 1)
HASH    := \#
AGAINST := $(if $(RELEASE),.git$(HASH)tag=$(RELEASE),proto/baseline.binpb)

# How long each fuzz target runs.
FUZZTIME ?= 1h

.PHONY: build test race lint breaking gen gen-check proto-baseline fmt bench bench-goals bench-soak bench-open \
	bench-ladder bench-contract bench-scale bench-peers bench-sequencing bench-crossover bench-compare \
	fuzz demo crash powercut kill mutants clean

build:
	go build -o bin/ ./cmd/...

test:
	go test -v -count=1 -run '^TestMachine$$' ./internal/proofs
	go test $(TESTFLAGS) ./...
	cd prove && go test $(TESTFLAGS) ./...
	cd bench && go test $(TESTFLAGS) ./...
	$(MAKE) fuzz FUZZTIME=5s

race:
	go test -race $(TESTFLAGS) $(ENGINE)
	go test -race -timeout 15m -skip '^TestDamage(OfEveryBit)?$$' $(TESTFLAGS) ./wal -crash.states=300

lint: $(GOLANGCI_LINT) $(BUF) breaking gen-check
	$(GOLANGCI_LINT) run ./...
	cd prove && ../$(GOLANGCI_LINT) run ./...
	cd bench && ../$(GOLANGCI_LINT) run ./...
	$(GOLANGCI_LINT) fmt --diff ./...
	go mod tidy -diff
	cd prove && go mod tidy -diff
	cd bench && go mod tidy -diff
	$(BUF) lint
	$(BUF) format --diff --exit-code

breaking: $(BUF)
	$(BUF) breaking --against '$(AGAINST)'

gen: $(BUF)
	$(BUF) generate
	go test ./internal/lint -run '^(TestLimitsDoc|TestMade)$$' -count=1 -rewrite

gen-check: gen
	git diff --exit-code -- proto docs
	test -z "$$(git ls-files --others --exclude-standard -- proto docs)"

proto-baseline: $(BUF)
	$(BUF) build --exclude-source-info --output proto/baseline.binpb

fmt: $(GOLANGCI_LINT) $(BUF)
	$(GOLANGCI_LINT) fmt ./...
	$(BUF) format --write

bench:
	go run ./cmd/walctl bench all

bench-goals:
	go run ./cmd/walctl bench goals

bench-soak:
	go run ./cmd/walctl bench soak --svg docs/img/soak.svg

bench-open:
	go run ./cmd/walctl bench open

bench-contract:
	go run ./cmd/walctl bench contract --benchstat bin/contract

bench-scale:
	go run ./cmd/walctl bench scale

bench-ladder:
	go run ./cmd/walctl bench ladder --svg docs/img/ladder.svg

bench-peers: build
	cd bench && go run ./peers -walsvc ../bin/walsvc -out ../bin/peers $(PEERSFLAGS)

bench-sequencing:
	cd bench && go run ./sequencing $(SEQUENCINGFLAGS)

bench-crossover:
	cd bench && go run ./crossover -out ../bin/crossover $(CROSSOVERFLAGS)

bench-compare:
	cd bench && go run ./compare -base '$(BASE)' $(COMPAREFLAGS)

# Minimizing what is merely new would take most of a short run. An input that
# fails is kept in testdata/fuzz and fails again; what ends a run without one, as
# a worker that is late when its time is up, is the fuzzer's own affair, and no
# result of a test.
fuzz: SHELL := bash
fuzz:
	set -o pipefail; grep -ro '^func Fuzz[A-Za-z]*' --include='*_test.go' . | sort | sed 's|/[^/]*:func | |' | \
	while read -r pkg name; do \
	go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x "$$pkg" 2>&1 | sed -u 's/^\(--- \)\{0,1\}FAIL/fuzzer: &/' || \
	go test -count=1 -run "^$$name\$$" "$$pkg" || exit 1; done

crash:
	go test ./wal -run '^TestCrash$$' -crash.states=1000000 -timeout 60m -count=1 -v

kill:
	go test ./internal/e2e -run '^TestKill$$' -kill.rounds=1000 -timeout 30m -v

demo:
	go run ./cmd/walctl demo

powercut: build
	cd prove && go run ./powercut -walsvc ../bin/walsvc $(POWERCUTFLAGS)

mutants:
	go test ./internal/mutants -run '^TestMutants$$' -mutants -timeout 30m -count=1 -v

clean:
	rm -rf bin .bin

$(GOLANGCI_LINT):
	GOBIN=$(CURDIR)/$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.13.1

$(BUF):
	GOBIN=$(CURDIR)/$(@D) go install github.com/bufbuild/buf/cmd/buf@v1.57.0
