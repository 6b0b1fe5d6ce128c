package projections

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// together is a batch that several declared projections fold at the same time, each in a transaction of its own. Parsing
// a body costs more than what is made of it, so it is parsed once for all of them. A parsed body takes about sixteen times
// the memory of its text: therefore they go through the batch in steps, all of them in the same one.
type together struct {
	records []*eventstore.Record
	ends    []int // of the steps
	members []*member

	mu      sync.Mutex
	changed *sync.Cond // a member has gone on or left, or the bodies of a step are parsed
	now     *step
}

// step is a run of records.
type step struct {
	number, first int
	bodies        []parsed
	next, done    atomic.Int64 // bodies given to a member to parse, and those that were
}

// member is one projection. Its methods are for the goroutine that folds it.
type member struct {
	all        *together
	projection *Declared
	number     int // of the step that it is in; math.MaxInt after it has left. Under all.mu
	step       *step
}

// Bounds of a step.
const (
	stepRecords = 512
	stepBytes   = 1 << 20
)

// foldTogether begins a batch for those of the projections that share something in it; the others get nil.
func foldTogether(ps []Projection, records []*eventstore.Record) []*member {
	t := &together{records: records}
	t.changed = sync.NewCond(&t.mu)
	out := make([]*member, len(ps))
	for i, p := range ps {
		if d, ok := p.(*Declared); ok && d.readsData {
			out[i] = &member{all: t, projection: d, number: -1}
			t.members = append(t.members, out[i])
		}
	}
	if len(t.members) < 2 || len(records) == 0 {
		return make([]*member, len(ps))
	}
	size := 0
	for i, r := range records {
		if n := len(t.ends); size >= stepBytes || n == 0 && i == stepRecords || n > 0 && i == t.ends[n-1]+stepRecords {
			t.ends, size = append(t.ends, i), 0
		}
		if r.Event != nil {
			size += len(r.Event.Data)
		}
	}
	t.ends = append(t.ends, len(records))
	return out
}

// body is that of the record at i. Records are asked for in their order, and none is left out.
func (m *member) body(i int) *parsed {
	if m.step == nil || i == m.all.ends[m.step.number] {
		m.enter(i)
	}
	return &m.step.bodies[i-m.step.first]
}

// enter begins the step of the record at first, once all the others have come that far, and takes part in parsing it.
func (m *member) enter(first int) {
	t := m.all
	t.mu.Lock()
	m.number++
	t.changed.Broadcast()
	for slices.ContainsFunc(t.members, func(other *member) bool { return other.number < m.number }) {
		t.changed.Wait()
	}
	if t.now == nil || t.now.number < m.number {
		t.now = &step{number: m.number, first: first, bodies: make([]parsed, t.ends[m.number]-first)}
	}
	m.step = t.now
	t.mu.Unlock()

	all := int64(len(m.step.bodies))
	for i := m.step.next.Add(1) - 1; i < all; i = m.step.next.Add(1) - 1 {
		if e := t.records[first+int(i)].Event; e != nil && t.wanted(e) {
			m.step.bodies[i].parse(e)
		}
		if m.step.done.Add(1) == all {
			t.mu.Lock()
			t.changed.Broadcast()
			t.mu.Unlock()
		}
	}
	t.mu.Lock()
	for m.step.done.Load() < all {
		t.changed.Wait()
	}
	t.mu.Unlock()
}

func (t *together) wanted(e *domain.Event) bool {
	return slices.ContainsFunc(t.members, func(m *member) bool { return m.projection.wants(e) })
}

// leave has the others go on without m, which is nil for a projection that is alone. It may be called again.
func (m *member) leave() {
	if m == nil {
		return
	}
	m.all.mu.Lock()
	defer m.all.mu.Unlock()
	m.number = math.MaxInt
	m.all.changed.Broadcast()
}
