//go:build linux

package faults

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Kind is a kind of fault.
type Kind string

// The faults. A pause of a node is longer than the session timeout of the ownership group, 6 s, so that its partitions
// are taken over while it sleeps; a long one is longer than the transaction timeout, 10 s, too.
const (
	KillNode          Kind = "kill node"   // SIGKILL, and started again
	RestartNode       Kind = "restart all" // SIGTERM and start, one node after the other
	PauseNode         Kind = "pause node"  // SIGSTOP, SIGCONT
	KillBroker        Kind = "kill broker" // SIGKILL, and started again
	PauseBroker       Kind = "pause broker"
	KillTransactions  Kind = "kill transaction coordinator" // the broker that decides the commits of one partition
	PauseTransactions Kind = "pause transaction coordinator"
	KillGroup         Kind = "kill group coordinator" // the broker that divides the partitions
	CutOne            Kind = "cut node from one broker"
	CutAll            Kind = "cut node from all brokers"
	CutTransactions   Kind = "cut all nodes from a transaction coordinator"
)

// Fault is one fault of a schedule.
type Fault struct {
	At     time.Duration // after the load has begun
	For    time.Duration // until it heals
	Kind   Kind
	Node   int
	Broker int // counted from 1
	Cut    Cut
}

func (f Fault) String() string {
	s := fmt.Sprintf("%s +%s %s", round(f.At), round(f.For), f.Kind)
	switch f.Kind {
	case KillNode, PauseNode, CutAll:
		s += fmt.Sprintf(" %d", f.Node)
	case KillBroker, PauseBroker:
		s += fmt.Sprintf(" %d", f.Broker)
	case CutOne:
		s += fmt.Sprintf(" (%d, %d)", f.Node, f.Broker)
	}
	if f.Cut != "" {
		s += fmt.Sprintf(", %s", f.Cut)
	}
	return s
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }

// Schedule draws n faults of the given kinds, spread over the time of the load. They may overlap.
func Schedule(random *rand.Rand, kinds []Kind, n, nodes, brokers int, over time.Duration) []Fault {
	var all []Fault
	step := over / time.Duration(n)
	for i := range n {
		f := Fault{
			At: time.Duration(i)*step + time.Duration(random.Int64N(int64(step*3/4))), Kind: kinds[random.IntN(len(kinds))],
			Node: random.IntN(nodes), Broker: 1 + random.IntN(brokers), For: between(random, 200*time.Millisecond, 3*time.Second),
		}
		switch f.Kind {
		case PauseNode:
			f.For = between(random, 6500*time.Millisecond, 13*time.Second)
		case PauseBroker, PauseTransactions, KillBroker, KillGroup, KillTransactions:
			f.For = between(random, time.Second, 11*time.Second)
		case CutOne, CutAll, CutTransactions:
			f.Cut, f.For = []Cut{Closed, Held, Deaf}[random.IntN(3)], between(random, time.Second, 18*time.Second)
		}
		all = append(all, f)
	}
	return all
}

func between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(most-least)))
}

// Nemesis does to a cluster what a schedule says.
type Nemesis struct {
	Brokers *Brokers
	Nodes   []*Node
	Prefix  string
	Log     func(format string, args ...any)

	broker sync.Mutex // one broker at a time is away, so that the others can go on
	links  sync.Mutex // one cut at a time, or the end of one would heal another
	nodes  []sync.Mutex

	mu     sync.Mutex
	failed []error
}

// Run returns when the last fault has healed. An error is one of the harness: a fault that could not be made.
func (m *Nemesis) Run(began time.Time, schedule []Fault) []error {
	m.nodes = make([]sync.Mutex, len(m.Nodes))
	var all sync.WaitGroup
	for _, f := range schedule {
		all.Go(func() {
			time.Sleep(time.Until(began.Add(f.At)))
			if err := m.inflict(f, began); err != nil {
				m.mu.Lock()
				m.failed = append(m.failed, fmt.Errorf("%s: %w", f, err))
				m.mu.Unlock()
			}
		})
	}
	all.Wait()
	return m.failed
}

func (m *Nemesis) inflict(f Fault, began time.Time) error {
	what := f.String()
	say := func(verb, detail string) {
		m.Log("%6.1fs %s %s%s", time.Since(began).Seconds(), verb, strings.SplitN(what, " ", 3)[2], detail)
	}
	switch f.Kind {
	case KillNode, PauseNode:
		m.nodes[f.Node].Lock()
		defer m.nodes[f.Node].Unlock()
	case RestartNode:
		for i := range m.nodes {
			m.nodes[i].Lock()
			defer m.nodes[i].Unlock()
		}
	case CutOne, CutAll, CutTransactions:
		m.links.Lock()
		defer m.links.Unlock()
	}
	switch f.Kind {
	case KillBroker, PauseBroker, KillTransactions, PauseTransactions, KillGroup, CutTransactions:
		m.broker.Lock()
		defer m.broker.Unlock()
	}
	var err error
	switch f.Kind {
	case KillTransactions, PauseTransactions, CutTransactions:
		f.Broker, err = m.transactions()
	case KillGroup:
		f.Broker, err = m.Brokers.Coordinator(m.Prefix, -1)
	}
	if err != nil {
		return fmt.Errorf("find the coordinator: %w", err)
	}
	say("begin", fmt.Sprintf(" [node %d, broker %d]", f.Node, f.Broker))
	begin, heal := m.actions(f)
	if err := begin(); err != nil {
		return err
	}
	time.Sleep(f.For)
	err = heal()
	say("end", "")
	return err
}

// transactions finds a broker that decides commits and, if there is one, doesn't divide the partitions as well.
func (m *Nemesis) transactions() (n int, err error) {
	group, err := m.Brokers.Coordinator(m.Prefix, -1)
	if err != nil {
		return 0, err
	}
	for p := range partition {
		if n, err = m.Brokers.Coordinator(m.Prefix, p); err != nil || n != group {
			return n, err
		}
	}
	return n, nil
}

func (m *Nemesis) actions(f Fault) (begin, heal func() error) {
	nothing := func() error { return nil }
	switch f.Kind {
	case KillNode:
		return m.Nodes[f.Node].Kill, m.Nodes[f.Node].Start
	case PauseNode:
		return func() error { return m.Nodes[f.Node].Signal(syscall.SIGSTOP) },
			func() error { return m.Nodes[f.Node].Signal(syscall.SIGCONT) }
	case RestartNode:
		return func() error {
			for i, n := range m.Nodes {
				if i > 0 {
					time.Sleep(f.For)
				}
				if err := n.Stop(); err != nil {
					return err
				}
				if err := n.Start(); err != nil {
					return err
				}
			}
			return nil
		}, nothing
	case KillBroker, KillTransactions, KillGroup:
		return func() error { return m.Brokers.Kill(f.Broker) }, func() error { return m.Brokers.Start(f.Broker) }
	case PauseBroker, PauseTransactions:
		return func() error { return m.Brokers.Signal(f.Broker, syscall.SIGSTOP) },
			func() error { return m.Brokers.Signal(f.Broker, syscall.SIGCONT) }
	case CutOne, CutAll, CutTransactions:
		set := func(state Cut) func() error {
			return func() error {
				for i, n := range m.Nodes {
					if f.Kind != CutTransactions && i != f.Node {
						continue
					}
					for b, address := range m.Brokers.Addresses {
						if f.Kind == CutAll || b+1 == f.Broker {
							n.namespace.Link(address).Set(state)
						}
					}
				}
				return nil
			}
		}
		return set(f.Cut), set(Whole)
	}
	return func() error { return fmt.Errorf("no fault of kind %q", f.Kind) }, nothing
}

// KindsFor returns the faults that can be made: those of nodes always, those of brokers in a cluster of three that is
// ours, cuts in namespaces.
func KindsFor(b *Brokers, namespaces bool) []Kind {
	kinds := []Kind{KillNode, RestartNode, PauseNode}
	if b.Dir != "" && len(b.Addresses) >= 3 {
		kinds = append(kinds, KillBroker, PauseBroker, KillTransactions, PauseTransactions, KillGroup)
	}
	if namespaces {
		kinds = append(kinds, CutOne, CutAll, CutTransactions)
	}
	return slices.Clip(kinds)
}
