package projections

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// generation is one file of a projection: the fold of the log under one definition. The newest one that is complete
// serves; another may be built beside it.
type generation struct {
	projection Projection
	log        *eventstore.Log
	topics     []string // the first one is that of the rows
	table      *eventstore.Table
	scope      uint64
	tail       *eventstore.Tail // of changes, at scoped positions
	frozen     bool             // of another definition than the program's: it is read, and not folded on

	mu      sync.Mutex
	built   bool
	live    map[string]bool // topics in which it has once reached the end
	halted  *Halt
	resumed chan struct{} // closed when an operator wants a halted one to go on
	skips   []Skip
	newest  map[string]time.Time // by topic: time of the newest record applied
	spent   time.Duration        // in transactions
	applied int64                // records
}

// Halt says why a projection stands still, and at which record.
type Halt struct {
	Record
	Error string    `json:"error"`
	Since time.Time `json:"since"`
}

// Record names a record of the log.
type Record struct {
	Topic     string        `json:"topic,omitempty"`
	Partition int32         `json:"partition"`
	Offset    int64         `json:"offset"`
	ID        string        `json:"id,omitempty" doc:"of the event, or of the delivery or command"`
	Type      string        `json:"type,omitempty"`
	Stream    domain.Stream `json:"stream,omitempty"`
}

// Skip is a record that an operator had a projection leave out.
type Skip struct {
	Record
	Error  string    `json:"error" doc:"why it could not be applied"`
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

const (
	noteSkips = "skips"
	maxSkips  = 1000 // of a generation; whoever needs more has another problem
)

// changesBytes bounds the changes that a generation keeps in memory for its feed.
const changesBytes = 16 << 20

func newGeneration(l *eventstore.Log, p Projection, table *eventstore.Table) (*generation, error) {
	g := &generation{
		projection: p, log: l, table: table, scope: fingerprint(table.Meta), live: map[string]bool{}, resumed: make(chan struct{}),
		newest: map[string]time.Time{}, topics: topicsOf(l, p),
	}
	for _, topic := range table.Topics() {
		err := error(eventstore.ErrReset) // topics of another prefix: it would be folded a second time, over what is there
		if have, _ := table.Position(topic); slices.Contains(g.topics, topic) {
			err = l.TailEnd(topic).SameLog(have)
		}
		if err != nil {
			return nil, fmt.Errorf("its file was built from another log (delete the folder of the projection to build it anew): %w", err)
		}
	}
	note, err := table.Note(noteSkips)
	if err == nil && note != nil {
		err = json.Unmarshal(note, &g.skips)
	}
	if err != nil {
		return nil, fmt.Errorf("read its skips: %w", err)
	}
	at, ok := table.Position(g.topic())
	if !ok {
		at = eventstore.Position{Topic: l.TailEnd(g.topic()).Topic, Next: make([]int64, l.Partitions())}
	}
	g.tail = eventstore.NewTail(g.scoped(at), changesBytes)
	return g, nil
}

func topicsOf(l *eventstore.Log, p Projection) []string {
	switch p.(type) {
	case bothTopics:
		return []string{l.Topics.Events, l.Topics.Outcomes}
	case OutcomeProjection:
		return []string{l.Topics.Outcomes}
	}
	return []string{l.Topics.Events}
}

// fingerprint makes a cursor of one generation foreign to another. It is the same on every node that has built the
// same generation of the same version.
func fingerprint(m eventstore.TableMeta) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%d/%d", m.Name, m.Version, m.Generation)
	if m.Definition != "" {
		fmt.Fprintf(h, "/%s", m.Definition)
	}
	return max(h.Sum64(), 1)
}

func (g *generation) topic() string { return g.topics[0] }

func (g *generation) scoped(p eventstore.Position) eventstore.Position {
	p = p.Clone()
	p.Scope = g.scope
	return p
}

// at is the position of a read. A generation that has applied nothing is at the beginning.
func (g *generation) at(tx *eventstore.Tx) (eventstore.Position, error) {
	p, err := tx.Position(g.topic())
	if domain.ClassOf(err) == domain.Unavailable {
		p, err = eventstore.Position{Topic: g.tail.End().Topic, Next: make([]int64, g.log.Partitions())}, nil
	}
	p.Scope = g.scope
	return p, err
}

// yieldEvery is after how many records others get a turn: a build keeps all cores busy.
const yieldEvery = 64

// failure is a record that can't be applied.
type failure struct {
	index  int // in the batch
	record *eventstore.Record
	err    error
}

func (f *failure) Error() string {
	return fmt.Sprintf("record %d/%d: %v", f.record.Partition, f.record.Offset, f.err)
}
func (f *failure) Unwrap() error { return f.err }

// apply folds records into tx. A panic of the projection is an error like any other. shared is nil for a projection that
// folds them alone.
func (g *generation) apply(tx *eventstore.Tx, records []*eventstore.Record, shared *member) (err error) {
	at := 0
	defer func() {
		shared.leave()
		if p := recover(); p != nil {
			err = eventstore.PanicError(g.table.Path(), p)
		}
		if err != nil && at < len(records) && !errors.Is(err, eventstore.ErrDamaged) {
			err = &failure{at, records[at], err}
		}
	}()
	skips := g.skipped()
	declared, _ := g.projection.(*Declared)
	rows := recentRows{}
	for at = range records {
		r := records[at]
		if at%yieldEvery == yieldEvery-1 {
			runtime.Gosched() // a reader who asks now waits for this much, and not for the ten milliseconds of a turn
		}
		tx.At(r.Partition, r.Offset)
		body := &parsed{}
		if shared != nil {
			body = shared.body(at)
		}
		if len(skips) > 0 && skips[spot{r.Outcome != nil, r.Partition, r.Offset}] {
			continue
		}
		switch {
		case r.Event != nil && declared != nil:
			err = declared.apply(tx, r.Event, body, rows)
		case r.Event != nil:
			err = g.projection.Apply(tx, *r.Event)
		case r.Outcome != nil:
			err = g.projection.(OutcomeProjection).ApplyOutcome(tx, *r.Outcome)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// spot is the place of a record in one of the two topics.
type spot struct {
	outcome   bool
	partition int32
	offset    int64
}

func (g *generation) skipped() map[spot]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.skips) == 0 {
		return nil
	}
	m := make(map[spot]bool, len(g.skips))
	for _, s := range g.skips {
		m[spot{s.Topic == g.log.Topics.Outcomes, s.Partition, s.Offset}] = true
	}
	return m
}

// after is the position after records, the next ones of topic.
func (g *generation) after(topic string, records []*eventstore.Record) eventstore.Position {
	p, _ := g.table.Position(topic)
	p = p.Clone()
	for _, r := range records {
		p.Next[r.Partition] = max(p.Next[r.Partition], r.Offset+1)
	}
	return p
}

// commit applies a batch in one transaction and gives its changes to the feed.
func (g *generation) commit(topic string, records []*eventstore.Record, next eventstore.Position) error {
	return g.commitShared(topic, records, next, nil)
}

// commitShared is commit for a batch that other generations apply at the same time.
func (g *generation) commitShared(topic string, records []*eventstore.Record, next eventstore.Position, shared *member) error {
	defer shared.leave() // also when it doesn't come to apply
	began := time.Now()
	changes, err := g.table.Update(topic, next, func(tx *eventstore.Tx) error { return g.apply(tx, records, shared) })
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.spent += time.Since(began)
	g.applied += int64(len(records))
	if n := len(records); n > 0 {
		g.newest[topic] = timeOf(records[n-1])
	}
	g.mu.Unlock()
	if topic == g.topic() {
		g.publish(changes, next)
	}
	return nil
}

func timeOf(r *eventstore.Record) time.Time {
	switch {
	case r.Event != nil:
		return r.Event.Time
	case r.Outcome != nil:
		return r.Outcome.Received
	}
	return time.Time{}
}

// publish gives a committed batch to the feed.
func (g *generation) publish(changes []eventstore.Change, next eventstore.Position) {
	b := &eventstore.Batch{Next: g.scoped(next), Shared: true}
	size := int64(0)
	for i := range changes {
		c := &changes[i]
		b.Records = append(b.Records, &eventstore.Record{Partition: c.Partition, Offset: c.Offset, Change: c})
		size += int64(len(c.Key)+len(c.Row)) + 256
	}
	g.tail.Append(b, size)
}

// halt stops this generation, and nothing else, until an operator acts. bad is nil when no record is to blame.
func (g *generation) halt(log *slog.Logger, topic string, bad *failure, err error) (resumed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	h := &Halt{Error: err.Error(), Since: time.Now().UTC(), Record: Record{Topic: topic}}
	if bad != nil {
		h.Record, h.Error = recordOf(topic, bad.record), bad.err.Error()
	}
	g.halted = h
	log.Error("projection halted", "projection", g.projection.Name(), "generation", g.table.Meta.Generation, "topic", topic,
		"partition", h.Partition, "offset", h.Offset, "id", h.ID, "error", err)
	return g.resumed
}

func recordOf(topic string, r *eventstore.Record) Record {
	out := Record{Topic: topic, Partition: r.Partition, Offset: r.Offset}
	switch {
	case r.Event != nil:
		out.ID, out.Type, out.Stream = r.Event.ID, r.Event.Type, r.Event.Stream
	case r.Outcome != nil:
		out.ID, out.Type, out.Stream = r.Outcome.ID, r.Outcome.Type, r.Outcome.Stream
	}
	return out
}

// resume has a halted generation try again, without the record that it halted at if skip says so.
func (g *generation) resume(skip bool, by, reason string, now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.halted == nil:
		return &domain.Error{Class: domain.Rejected, Rule: "not-halted", Message: "the projection is not halted"}
	case skip && g.halted.ID == "":
		return &domain.Error{Class: domain.Rejected, Rule: "no-record", Message: "no record is to blame: " + g.halted.Error}
	case skip && len(g.skips) >= maxSkips:
		return &domain.Error{Class: domain.Rejected, Rule: "too-many-skips", Message: fmt.Sprintf("%d records are skipped already; rebuild the projection", maxSkips)}
	}
	if skip {
		skips := append(g.skips[:len(g.skips):len(g.skips)], Skip{g.halted.Record, g.halted.Error, by, reason, now.UTC()})
		b, err := json.Marshal(skips)
		if err != nil {
			return err
		}
		if err := g.table.PutNote(noteSkips, b); err != nil {
			return fmt.Errorf("record the skip: %w", err)
		}
		g.skips = skips
	}
	g.halted = nil
	close(g.resumed)
	g.resumed = make(chan struct{})
	return nil
}

func (g *generation) caughtUp(topic string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.live[topic] = true
}

// isLive reports whether it has once reached the end of all its topics, and is not halted.
func (g *generation) isLive() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.live) == len(g.topics) && g.halted == nil
}

func (g *generation) isBuilt() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.built
}

func (g *generation) markBuilt() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.built = true
}

// lag is how many offsets are still to apply, and how old the oldest of them is at most.
func (g *generation) lag(now time.Time) (offsets int64, age time.Duration) {
	for _, topic := range g.topics {
		end := g.log.TailEnd(topic)
		at, ok := g.table.Position(topic)
		behind := int64(0)
		for p, n := range end.Next {
			if ok {
				n -= at.Next[p]
			}
			behind += max(0, n)
		}
		offsets += behind
		g.mu.Lock()
		if newest := g.newest[topic]; behind > 0 && !newest.IsZero() {
			age = max(age, now.Sub(newest))
		}
		g.mu.Unlock()
	}
	return offsets, age
}
