//go:build linux

package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// TestRace has 64 clients at two nodes race for the same versions of the same few streams. For each version exactly one
// wins, all others are told which version the stream really had, and each stream's answers are those that one register
// could have given in some order that agrees with real time.
//
// PENSTOCK_FAULT_RACE sets the number of tries; make faults takes 100,000.
func TestRace(t *testing.T) {
	const clients, perStream = 64, 2000
	tries := envInt(t, "PENSTOCK_FAULT_RACE", 2000)
	r := newRun(t, testBrokers(t), build(t), uint64(time.Now().UnixNano()/1e6%1e7))
	prefix := fmt.Sprintf("r%d", r.Seed)
	members, stop, err := r.start(prefix)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	journal, err := NewJournal(filepath.Join(r.Dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	var (
		next     atomic.Int64
		mu       sync.Mutex
		history  []porcupine.Operation
		versions sync.Map // stream → *atomic.Uint64: what a client may believe
		racers   sync.WaitGroup
	)
	began := time.Now()
	for client := range clients {
		racers.Go(func() {
			for n := next.Add(1); n <= tries; n = next.Add(1) {
				// Four streams at a time, and others after a while: checking an order takes the longer the more there is.
				customer := fmt.Sprintf("race_%d_%d", n/(4*perStream), n%4)
				known, _ := versions.LoadOrStore(customer, new(atomic.Uint64))
				expected := known.(*atomic.Uint64).Load()
				op := porcupine.Operation{ClientId: client, Input: try{customer, expected}, Call: int64(time.Since(began))}
				a, err := grant(journal, members[(client+int(n))%nodes], customer, fmt.Sprintf("race-%d", n), expected)
				if err != nil {
					t.Error(err)
					return
				}
				op.Return, op.Output = int64(time.Since(began)), a
				mu.Lock()
				history = append(history, op)
				mu.Unlock()
				for before := expected; a.version > before && !known.(*atomic.Uint64).CompareAndSwap(before, a.version); {
					before = known.(*atomic.Uint64).Load()
				}
			}
		})
	}
	racers.Wait()
	if t.Failed() {
		keep(t, r)
		return
	}
	won, heads := 0, map[string]uint64{}
	winners := map[try]int{}
	for _, op := range history {
		if a := op.Output.(tried); a.won {
			won++
			winners[op.Input.(try)]++
			in := op.Input.(try)
			heads[in.customer] = max(heads[in.customer], a.version)
		}
	}
	for in, n := range winners {
		if n != 1 {
			t.Errorf("%d clients won version %d of %s", n, in.expected, in.customer)
		}
	}
	for customer, head := range heads {
		for v := range head {
			if winners[try{customer, v}] != 1 {
				t.Errorf("%s has version %d, and nobody won version %d", customer, head, v+1)
			}
		}
	}
	if won == len(history) {
		t.Error("nobody lost: the test did not test")
	}
	switch porcupine.CheckOperationsTimeout(register, history, 5*time.Minute) {
	case porcupine.Illegal:
		t.Error("the answers are not those of one register per stream")
	case porcupine.Unknown:
		t.Error("no order was found in five minutes, and none excluded")
	}
	if err := journal.Close(); err != nil {
		t.Error(err)
	}
	findings, _, err := r.verdict(prefix, members)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings[:min(len(findings), 20)] {
		t.Error(f)
	}
	if t.Failed() {
		keep(t, r)
	}
	t.Logf("%d tries over %d streams in %s: %d won, %d lost", len(history), len(heads), round(time.Since(began)), won, len(history)-won)
}

// try is a client's claim to the version after the expected one.
type try struct {
	customer string
	expected uint64
}

// tried is the answer: won, with the new version, or lost, with the version that the stream has.
type tried struct {
	won     bool
	version uint64
}

// register is a stream as its clients see it: a version that a try moves on when it expects the right one.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		at := map[string]int{}
		for _, op := range history {
			customer := op.Input.(try).customer
			i, known := at[customer]
			if !known {
				i = len(parts)
				at[customer] = i
				parts = append(parts, nil)
			}
			parts[i] = append(parts[i], op)
		}
		return parts
	},
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		version, in, out := state.(uint64), input.(try), output.(tried)
		if out.won {
			return in.expected == version && out.version == version+1, out.version
		}
		return in.expected != version && out.version == version, version
	},
}

// grant sends one command until its fate is known.
func grant(journal *Journal, node *Node, customer, id string, expected uint64) (a tried, err error) {
	r := Request{Kind: Command, ID: id, Stream: "billing/" + customer, Expected: &expected}
	for range 50 {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, node.URL()+"/v1/commands/GrantCredit",
			strings.NewReader(fmt.Sprintf(`{"customer":%q,"amount":1,"currency":"eur"}`, customer)))
		if err != nil {
			return a, err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", id)
		req.Header.Set("If-Match", fmt.Sprintf(`"%d"`, expected))
		number := journal.Send(r, node.Index)
		status, body, err := exchange(node.Client, req)
		journal.Answer(number, status, body, err)
		var got answer
		switch {
		case err != nil, status == 503, status == 202:
			time.Sleep(50 * time.Millisecond)
			continue
		case status != 200 && status != 412:
			return a, fmt.Errorf("%s: %d %s", id, status, excerpt(body))
		}
		if err := json.Unmarshal(body, &got); err != nil {
			return a, fmt.Errorf("%s: %d %s: %w", id, status, excerpt(body), err)
		}
		if status == 200 {
			return tried{true, got.Version}, nil
		}
		if got.Actual == nil {
			return a, fmt.Errorf("%s: 412 without the actual version: %s", id, excerpt(body))
		}
		return tried{false, *got.Actual}, nil
	}
	return a, fmt.Errorf("%s is not answered after 50 attempts", id)
}

// TestRegister has the model refuse what no register could answer.
func TestRegister(t *testing.T) {
	op := func(client int, expected uint64, a tried, call, ret int64) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Input: try{"c", expected}, Output: a, Call: call, Return: ret}
	}
	good := []porcupine.Operation{
		op(0, 0, tried{true, 1}, 0, 10), op(1, 0, tried{false, 1}, 0, 10), op(0, 1, tried{true, 2}, 11, 12), op(1, 0, tried{false, 2}, 13, 14),
	}
	if !porcupine.CheckOperations(register, good) {
		t.Error("a good history is refused")
	}
	for what, bad := range map[string]porcupine.Operation{
		"two winners":                    op(2, 0, tried{true, 1}, 0, 10),
		"a stale version":                op(2, 0, tried{false, 1}, 13, 14),
		"a version before it was given":  op(2, 0, tried{false, 2}, 0, 10),
		"refused at the right version":   op(2, 2, tried{false, 2}, 13, 14),
		"accepted with another version":  op(2, 2, tried{true, 4}, 15, 16),
		"accepted at the wrong expected": op(2, 1, tried{true, 3}, 15, 16),
	} {
		if porcupine.CheckOperations(register, append(slices.Clone(good), bad)) {
			t.Errorf("%s passes", what)
		}
	}
}
