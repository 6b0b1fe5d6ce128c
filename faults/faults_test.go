//go:build linux

package faults

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestShort is the short version: one or more brokers that somebody else has started and that are left alone, and nodes
// that are killed and paused.
func TestShort(t *testing.T) {
	b := testBrokers(t)
	program := build(t)
	for i, kind := range []Kind{KillNode, PauseNode} {
		seed := uint64(envInt(t, "PENSTOCK_FAULT_SEED", time.Now().UnixNano()%1e6)) + uint64(i)
		f := Fault{At: 2 * time.Second, For: 500 * time.Millisecond, Kind: kind, Node: i}
		if kind == PauseNode {
			f.For = 7 * time.Second
		}
		r := newRun(t, b, program, seed)
		r.Schedule, r.Load = []Fault{f}, f.At+f.For+2*time.Second
		do(t, r)
	}
}

// do runs r and fails on findings.
func do(t *testing.T, r *Run) Report {
	t.Helper()
	t.Logf("PENSTOCK_FAULT_SEEDS=%d", r.Seed)
	report, err := r.Do()
	t.Logf("%s\n(%d inbox records; at rest %s after the load)", report.Row(), report.Inbox, round(report.Rest))
	if err != nil {
		t.Errorf("seed %d: %v", r.Seed, err)
		keep(t, r)
		return report
	}
	if report.Acknowledged < 150 {
		t.Errorf("seed %d: only %d requests were acknowledged: the run did not test", r.Seed, report.Acknowledged)
	}
	for i, f := range report.Findings {
		if i == 20 {
			t.Errorf("and %d more findings", len(report.Findings)-i)
			break
		}
		t.Errorf("seed %d: %s", r.Seed, f)
	}
	if len(report.Findings) > 0 {
		keep(t, r)
	}
	return report
}

// keep copies the journal and the nodes' logs to where they outlive the test.
func keep(t *testing.T, r *Run) {
	dir, err := os.MkdirTemp("", fmt.Sprintf("penstock-faults-%d-", r.Seed))
	if err != nil {
		t.Error(err)
		return
	}
	if err := os.CopyFS(dir, os.DirFS(r.Dir)); err != nil {
		t.Error(err)
	}
	t.Logf("evidence: %s", dir)
}

func newRun(t *testing.T, b *Brokers, program string, seed uint64) *Run {
	t.Helper()
	return &Run{
		Seed: seed, Brokers: b, Program: program, Python: python(t, b), Dir: t.TempDir(), Load: 20 * time.Second,
		Patience: 90 * time.Second, Log: t.Logf,
	}
}

// testBrokers are the brokers that PENSTOCK_TEST_BROKERS names.
func testBrokers(t *testing.T) *Brokers {
	t.Helper()
	addresses := os.Getenv("PENSTOCK_TEST_BROKERS")
	if addresses == "" {
		t.Skip("needs a real Kafka: deploy/kafka/kafka run -- go test ./faults")
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return &Brokers{Addresses: strings.Split(addresses, ","), Root: root}
}

func python(t *testing.T, b *Brokers) string {
	t.Helper()
	path, err := b.Python()
	if err != nil {
		t.Fatalf("no client of another language: %v", err)
	}
	return path
}

// build builds the program, as it is shipped unless more arguments say otherwise.
func build(t *testing.T, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "penstock")
	cmd := exec.Command("go", append(append([]string{"build"}, args...), "-o", path, "./cmd/penstock")...)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %v: %v: %s", args, err, out)
	}
	return path
}

func envInt(t *testing.T, name string, otherwise int64) int64 {
	t.Helper()
	n, err := strconv.ParseInt(cmp.Or(os.Getenv(name), strconv.FormatInt(otherwise, 10)), 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
