//go:build linux

package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// Run is one run of the harness: two nodes under a prefix of their own, load, faults, rest, and the checker.
type Run struct {
	Seed     uint64
	Brokers  *Brokers
	Program  string // path of the penstock binary
	Python   string // runs reader.py
	Dir      string // of this run; what is in it is the evidence
	Env      []string
	Schedule []Fault // drawn from the seed if nil
	Faults   int     // how many to draw; 0 is two to four
	Load     time.Duration
	// Namespaces says whether each node gets a network of its own, for cuts.
	Namespaces bool
	// Patience is how long the cluster may take after the faults until everything is acknowledged and handled.
	Patience time.Duration
	Log      func(format string, args ...any)
}

// Report is what came of a run.
type Report struct {
	Seed                        uint64
	Schedule                    []Fault
	Sent, Acknowledged, Unknown int64
	Inbox, Events               int
	Rest                        time.Duration // from the last fault's end until everything was handled
	Findings                    []Finding
}

// Row is the report as a row of the table in docs/faults.md.
func (r Report) Row() string {
	var all []string
	for _, f := range r.Schedule {
		all = append(all, f.String())
	}
	return fmt.Sprintf("| %d | %s | %d | %d | %d | %d | %d |", r.Seed, strings.Join(all, "; "), r.Sent, r.Acknowledged, r.Unknown, r.Events, len(r.Findings))
}

const nodes = 2

// Do runs it. An error is one of the harness or of a node that doesn't come back; broken promises are findings.
func (r *Run) Do() (report Report, err error) {
	random := rand.New(rand.NewPCG(r.Seed, 0))
	prefix := fmt.Sprintf("f%d-%d", r.Seed, time.Now().UnixNano()%1e9)
	report = Report{Seed: r.Seed, Schedule: r.Schedule}
	if r.Schedule == nil {
		n := r.Faults
		if n == 0 {
			n = 2 + random.IntN(3)
		}
		report.Schedule = Schedule(random, KindsFor(r.Brokers, r.Namespaces), n, nodes, len(r.Brokers.Addresses), r.Load)
	}
	for _, f := range report.Schedule {
		r.Log("seed %d: %s", r.Seed, f)
	}
	members, stop, err := r.start(prefix)
	defer func() { err = errors.Join(err, stop()) }()
	if err != nil {
		return report, err
	}
	journal, err := NewJournal(filepath.Join(r.Dir, "journal"))
	if err != nil {
		return report, err
	}
	patience, giveUp := context.WithCancel(context.Background())
	defer giveUp()
	load := &Load{Nodes: members, Journal: journal, Seed: r.Seed, Deliverers: 8, Commanders: 8, Pause: 20 * time.Millisecond}
	load.Start(patience)
	// Without traffic a fault tests nothing.
	for deadline := time.Now().Add(30 * time.Second); load.Acknowledged.Load() < 100 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if n := load.Acknowledged.Load(); n < 100 {
		giveUp()
		load.Stop()
		return report, errors.Join(fmt.Errorf("seed %d: %d deliveries and commands were acknowledged within 30 s, before any fault", r.Seed, n), journal.Close())
	}
	nemesis := &Nemesis{Brokers: r.Brokers, Nodes: members, Prefix: prefix, Log: r.Log}
	began := time.Now()
	trouble := nemesis.Run(began, report.Schedule)
	time.Sleep(time.Until(began.Add(r.Load)))
	healed := time.Now()
	timer := time.AfterFunc(r.Patience, giveUp)
	load.Stop()
	timer.Stop()
	r.Log("seed %d: the load has ended after %s: %d sent, %d acknowledged, %d unknown", r.Seed, round(time.Since(began)),
		load.Sent.Load(), load.Acknowledged.Load(), load.Unknown.Load())
	report.Sent, report.Acknowledged, report.Unknown = load.Sent.Load(), load.Acknowledged.Load(), load.Unknown.Load()
	if err := errors.Join(append(trouble, journal.Close())...); err != nil {
		return report, err
	}
	var dump Dump
	report.Findings, dump, err = r.verdict(prefix, members)
	report.Rest, report.Inbox, report.Events = time.Since(healed), len(dump.Inbox), len(dump.Events)
	return report, err
}

// verdict waits for rest and has the checker compare the journal with the log.
func (r *Run) verdict(prefix string, members []*Node) ([]Finding, Dump, error) {
	dump, findings, err := r.settle(prefix, members, time.Now().Add(r.Patience))
	if err != nil {
		return nil, dump, err
	}
	file, err := os.Open(filepath.Join(r.Dir, "journal"))
	if err != nil {
		return nil, dump, err
	}
	defer file.Close()
	attempts, err := ReadJournal(file)
	if err != nil {
		return nil, dump, err
	}
	return append(findings, Check(attempts, dump)...), dump, nil
}

// start starts the nodes and waits until they are ready. stop ends what was started, whatever state it is in, and
// removes what the run made in Kafka.
func (r *Run) start(prefix string) (members []*Node, stop func() error, err error) {
	var namespaces []*Namespace
	stop = func() error {
		var errs []error
		for _, n := range members {
			errs = append(errs, n.Kill())
			n.Client.CloseIdleConnections()
		}
		for _, n := range namespaces {
			n.Close()
		}
		return errors.Join(append(errs, r.Brokers.Drop(prefix))...)
	}
	for i := range nodes {
		c := NodeConfig{Program: r.Program, Dir: filepath.Join(r.Dir, fmt.Sprintf("node%d", i)), Prefix: prefix, Brokers: r.Brokers.Addresses, Env: r.Env}
		if r.Namespaces {
			if c.Namespace, err = NewNamespace(r.Brokers.Addresses); err != nil {
				return members, stop, err
			}
			namespaces = append(namespaces, c.Namespace)
		}
		n, err := NewNode(i, c)
		if err != nil {
			return members, stop, err
		}
		members = append(members, n)
		if err := n.Start(); err != nil {
			return members, stop, err
		}
	}
	return members, stop, allReady(members, time.Now().Add(60*time.Second))
}

func allReady(members []*Node, deadline time.Time) error {
	for _, n := range members {
		for !n.Ready() {
			if time.Now().After(deadline) {
				return fmt.Errorf("node %d doesn't become ready; its log ends with:\n%s", n.Index, n.Tail(1500))
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}

// settle waits until the nodes are ready and every inbox record has an outcome, and returns the log. What doesn't come
// to rest in time is a finding, and the log is returned as it stands.
func (r *Run) settle(prefix string, members []*Node, deadline time.Time) (d Dump, findings []Finding, err error) {
	for _, n := range members {
		for _, tail := range n.Deaths() {
			findings = append(findings, Finding{Recovery, fmt.Sprintf("node %d has ended by itself; its log ends with:\n%s", n.Index, tail)})
		}
	}
	if err := allReady(members, deadline); err != nil {
		findings = append(findings, Finding{Recovery, err.Error()})
	}
	for {
		// The inbox is read after the outcomes: then all of it has an outcome, or there is more to wait for.
		if d.Outcomes, err = r.Brokers.Read(r.Python, prefix+".outcomes"); err != nil {
			return d, nil, err
		}
		if d.Inbox, err = r.Brokers.Read(r.Python, prefix+".inbox"); err != nil {
			return d, nil, err
		}
		waiting := unhandled(d)
		if late := time.Now().After(deadline); waiting == 0 || late {
			if late && waiting > 0 {
				findings = append(findings, Finding{Recovery, fmt.Sprintf("%d inbox records still wait: what follows is seen in a log that is moving", waiting)})
			}
			d.Events, err = r.Brokers.Read(r.Python, prefix+".events")
			return d, findings, err
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// unhandled counts the inbox records without an outcome, and the commands that an outcome tells of and that have none: a
// reader doesn't see a command yet that stands behind an open transaction.
func unhandled(d Dump) int {
	waiting, asked := map[place]bool{}, map[string]bool{}
	for _, r := range d.Inbox {
		waiting[r.at()] = true
	}
	for _, r := range d.Outcomes {
		var o domain.Outcome
		if json.Unmarshal(r.Value, &o) == nil { // or it is the checker's finding
			delete(waiting, place{o.Partition, o.Inbox})
			for _, id := range o.Commands {
				asked[id] = true
			}
		}
	}
	for _, r := range d.Outcomes {
		var o domain.Outcome
		if json.Unmarshal(r.Value, &o) == nil && o.Kind == "command" {
			delete(asked, o.ID)
		}
	}
	return len(waiting) + len(asked)
}
