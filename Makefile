.PHONY: test check unit browser kafka bench crash faults faults-short switches soak fuzz
# What CI runs: static checks, every test under the race detector, the TypeScript client in a real Chromium, and the tests of
# the engines, of a whole node and of the browser once more against a real Kafka that is started for it. Without Node.js and
# Chromium, or without Java and Maven, that part is skipped, with a line that says so; with CI=true a skip is a failure.
test: check unit browser kafka

check: ## vet and staticcheck
	go vet ./...
	go tool staticcheck ./...

unit: ## all tests, on the embedded broker
	go test -race ./...

bin/penstock: FORCE
	go build -o $@ ./cmd/penstock
FORCE:

BROWSER_TESTS = cd client/ts && npm ci --no-audit --no-fund --silent && npm test
browser: bin/penstock ## client/ts, and what browsers do; needs Node.js 20, npm, openssl and Chromium
	@missing=$$(for c in node npm openssl $${CHROMIUM:-chromium}; do command -v $$c >/dev/null || printf '%s ' $$c; done); \
	if [ -z "$$missing" ]; then $(BROWSER_TESTS); \
	elif [ "$$CI" = true ]; then echo "missing: $$missing" >&2; exit 2; \
	else echo "skipped: tests in a browser (missing: $$missing)"; fi

KAFKA_TESTS = ./eventstore ./commands ./projections ./replays ./faults .
kafka: ## the same engine tests, and whole nodes, on a real Kafka
	@deploy/kafka/kafka run -- sh -c 'go test -race -count=1 -timeout 8m $(KAFKA_TESTS) && $(MAKE) --no-print-directory browser'; status=$$?; \
	if [ $$status -eq 3 ] && [ "$$CI" != true ]; then echo "skipped: tests against a real Kafka (see the line above for what is missing)"; \
	else exit $$status; fi

bench: ## ours beside bare baselines, as ratios; see bench/README.md
	go run ./bench all

crash: ## the crash test for many rounds
	PENSTOCK_CRASH_ROUNDS=$${PENSTOCK_CRASH_ROUNDS:-50} go test -race -count=1 -timeout 60m -run Crash .

faults: ## promises of the write side under faults: 50 runs, broken builds, 100,000 racing commands; about an hour alone
	PENSTOCK_FAULT_RUNS=$${PENSTOCK_FAULT_RUNS:-50} PENSTOCK_FAULT_RACE=$${PENSTOCK_FAULT_RACE:-100000} \
	deploy/kafka/kafka run --brokers 3 -- go test -race -tags faults -count=1 -timeout 4h -v ./faults

faults-short: ## two short runs and a small race on one broker; also part of kafka
	deploy/kafka/kafka run -- go test -race -count=1 -timeout 5m -v ./faults

switches: ## 10,000 connections that break, over every transport, between old events and new ones
	PENSTOCK_SWITCHES=$${PENSTOCK_SWITCHES:-10000} go test -race -count=1 -timeout 60m -v -run Switches .
	PENSTOCK_SWITCHES=$${PENSTOCK_SWITCHES:-10000} deploy/kafka/kafka run -- go test -race -count=1 -timeout 2h -v -run Switches .

soak: ## a node with small bounds, ten minutes of everything that may cost memory
	PENSTOCK_SOAK=$${PENSTOCK_SOAK:-10m} go test -count=1 -timeout 60m -v -run Soak . | grep -v level=

FUZZTIME ?= 60s
fuzz: ## every fuzz target for FUZZTIME
	@for p in $$(go list ./...); do for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz'); do \
	echo "$$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done
