//go:build faults && linux

package faults

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// cluster is three brokers that are ours to break: run under deploy/kafka/kafka run --brokers 3.
func cluster(t *testing.T) *Brokers {
	t.Helper()
	b := testBrokers(t)
	if b.Dir = os.Getenv("PENSTOCK_KAFKA_DIR"); b.Dir == "" || len(b.Addresses) != 3 {
		t.Fatal("needs three brokers that may be broken: make faults")
	}
	return b
}

// namespaces reports whether the links between nodes and brokers can be cut here.
func namespaces(t *testing.T) bool {
	t.Helper()
	n, err := NewNamespace(nil)
	switch {
	case errors.Is(err, ErrNotRoot):
		t.Log("cuts are left out: ", err)
		return false
	case err != nil:
		t.Fatal(err)
	}
	n.Close()
	return true
}

// TestFaults runs the harness many times: PENSTOCK_FAULT_RUNS times (3 if not set) with new seeds, or once for each of
// PENSTOCK_FAULT_SEEDS=1,2,3. The first run with a finding does not end the test.
func TestFaults(t *testing.T) {
	b, program, cuts := cluster(t), build(t), namespaces(t)
	var seeds []uint64
	for _, s := range strings.FieldsFunc(os.Getenv("PENSTOCK_FAULT_SEEDS"), func(r rune) bool { return r == ',' }) {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("PENSTOCK_FAULT_SEEDS: %v", err)
		}
		seeds = append(seeds, seed)
	}
	if seeds == nil {
		first := uint64(time.Now().UnixNano() / 1e6 % 1e7)
		for i := range envInt(t, "PENSTOCK_FAULT_RUNS", 3) {
			seeds = append(seeds, first+uint64(i))
		}
	}
	var rows []string
	for _, seed := range seeds {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			r := newRun(t, b, program, seed)
			r.Namespaces = cuts
			report := do(t, r)
			rows = append(rows, report.Row())
		})
		up(t, b)
	}
	t.Logf("%d runs\n| seed | faults | sent | acknowledged | unknown | events | findings |\n|---|---|---|---|---|---|---|\n%s", len(rows), strings.Join(rows, "\n"))
}

// up makes sure that a run that went wrong leaves no broker down for the next one.
func up(t *testing.T, b *Brokers) {
	t.Helper()
	for n := range b.Addresses {
		if err := b.Start(n + 1); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBroken has the checker prove itself: a build that is broken in a known way, under a schedule that should bring
// it out, must lead to findings within a few runs.
func TestBroken(t *testing.T) {
	b, cuts := cluster(t), namespaces(t)
	if !cuts {
		t.Skip("needs cuts")
	}
	program := build(t, "-tags", "broken")
	second := time.Second
	ways := []struct {
		way      string
		schedule []Fault
		load     time.Duration
	}{
		{"no-dedupe", []Fault{}, 5 * second},
		{"version-ignored", []Fault{}, 5 * second},
		{"inbox-from-end", []Fault{{At: 3 * second, For: 2 * second, Kind: KillNode, Node: 0}}, 14 * second},
		{"ack-before-durable", []Fault{
			{At: 3 * second, For: 4 * second, Kind: CutAll, Node: 0, Cut: Held},
			{At: 5 * second, For: second, Kind: KillNode, Node: 0},
		}, 8 * second},
		// The end of a transaction arrives only after the broker has given it up (10 s), and after the node has (15 s).
		{"commit-assumed-done", []Fault{{At: 3 * second, For: 20 * second, Kind: CutTransactions, Cut: Held}}, 24 * second},
		// The predicted offsets of each commit are a fence of their own, so the ways that follow have to break both.
		{"no-fence,no-verify", pauses(9*second, 8*second), 30 * second},
		{"read-before-fence,no-verify", pauses(5500*time.Millisecond, 6*second, 6500*time.Millisecond, 7*second), 40 * second},
	}
	tries := int(envInt(t, "PENSTOCK_FAULT_TRIES", 10))
	for _, w := range ways {
		t.Run(w.way, func(t *testing.T) {
			for try := range tries {
				r := newRun(t, b, program, uint64(time.Now().UnixNano()/1e6%1e7))
				r.Schedule, r.Load, r.Namespaces, r.Patience = w.schedule, w.load, true, 40*time.Second
				r.Env = []string{"PENSTOCK_BROKEN=" + w.way}
				report, err := r.Do()
				if err != nil {
					t.Fatalf("run %d: %v", try+1, err)
				}
				if n := len(report.Findings); n > 0 {
					t.Logf("%s is caught in run %d: %d findings, %s", w.way, try+1, n, summary(report.Findings))
					return
				}
			}
			t.Errorf("%s isn't caught in %d runs", w.way, tries)
		})
		up(t, b)
	}
}

// pauses stops the nodes in turn.
func pauses(each ...time.Duration) (schedule []Fault) {
	at := 3 * time.Second
	for i, d := range each {
		schedule = append(schedule, Fault{At: at, For: d, Kind: PauseNode, Node: i % nodes})
		at += d + 4*time.Second
	}
	return schedule
}

// summary counts findings by promise and shows the first.
func summary(findings []Finding) string {
	counts := map[Promise]int{}
	for _, f := range findings {
		counts[f.Promise]++
	}
	return fmt.Sprintf("%v; first: %s", counts, findings[0])
}
