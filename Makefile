.PHONY: test check unit kafka bench crash faults faults-short switches fuzz
# What CI runs: static checks, every test under the race detector, and the tests of the engines and of a whole node
# once more against a real Kafka that is started for it. Without Java and Maven the last part is skipped, with a line
# that says so; with CI=true a skip is a failure.
test: check unit kafka

check: ## vet and staticcheck
	go vet ./...
	go tool staticcheck ./...

unit: ## all tests, on the embedded broker
	go test -race ./...

KAFKA_TESTS = ./eventstore ./commands ./projections ./replays ./faults .
kafka: ## the same engine tests, and whole nodes, on a real Kafka
	@deploy/kafka/kafka run -- go test -race -count=1 -timeout 8m $(KAFKA_TESTS); status=$$?; \
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
	PENSTOCK_SWITCHES=$${PENSTOCK_SWITCHES:-10000} deploy/kafka/kafka run -- go test -race -count=1 -timeout 60m -v -run Switches .

FUZZTIME ?= 60s
fuzz: ## every fuzz target for FUZZTIME
	@for p in $$(go list ./...); do for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz'); do \
	echo "$$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done
