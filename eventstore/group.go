package eventstore

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// groups sends appends to the brokers in groups when they come fast: while some are on their way, the next ones wait
// for the acknowledgement and then leave together, as in a database's group commit. A broker does much less for thirty
// records in one request than in ten. The client's own linger can't do this: it waits also when nothing is on its way.
type groups struct {
	produce func(context.Context, *kgo.Record, func(*kgo.Record, error)) // kgo.Client.TryProduce, which bounds what is on its way

	mu       sync.Mutex
	inFlight int
	grouping bool
	waiting  []appending
	bytes    int // of waiting
	timer    *time.Timer
}

func newGroups(produce func(context.Context, *kgo.Record, func(*kgo.Record, error))) *groups {
	g := &groups{produce: produce}
	g.timer = time.AfterFunc(groupWait, func() {
		g.mu.Lock()
		g.release()
	})
	return g
}

type appending struct {
	record *kgo.Record
	done   func(error)
}

const (
	// groupFrom is how many appends leave one by one before the next ones wait: those who write now and then never wait.
	groupFrom = 4
	// groupWait is how long an append waits at most. A broker that doesn't answer holds up nobody else.
	groupWait = 5 * time.Millisecond
	// A group of groupRecords or groupBytes has nothing to win by waiting, and this bounds what waits.
	groupRecords = 256
	groupBytes   = 512 << 10
)

// append sends the record or has it wait, and calls done once, on another goroutine as a rule.
func (g *groups) append(r *kgo.Record, done func(error)) {
	a := appending{r, done}
	g.mu.Lock()
	if g.inFlight == 0 {
		g.grouping = false
	}
	if !g.grouping && g.inFlight < groupFrom {
		g.inFlight++
		g.mu.Unlock()
		g.send(a)
		return
	}
	g.grouping = true
	g.waiting = append(g.waiting, a)
	g.bytes += len(r.Value)
	if len(g.waiting) >= groupRecords || g.bytes >= groupBytes {
		g.release()
		return
	}
	if len(g.waiting) == 1 {
		g.timer.Reset(groupWait)
	}
	g.mu.Unlock()
}

// release sends everything that waits, in the order in which it came. The caller holds mu, and no longer afterwards.
func (g *groups) release() {
	group := g.waiting
	if len(group) > 0 {
		g.waiting, g.bytes = make([]appending, 0, len(group)), 0
		g.inFlight += len(group)
		g.grouping = len(group) >= groupFrom
	}
	g.mu.Unlock()
	for _, a := range group {
		g.send(a)
	}
}

func (g *groups) send(a appending) {
	g.produce(context.Background(), a.record, func(_ *kgo.Record, err error) {
		a.done(err)
		g.mu.Lock()
		g.inFlight--
		if g.inFlight > 0 {
			g.mu.Unlock()
			return
		}
		g.release()
	})
}
