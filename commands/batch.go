package commands

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// batch turns inbox entries into one Commit after the other. What it has decided but the fold hasn't applied yet it
// remembers itself; if a commit fails, the whole value is thrown away with its session. It belongs to one goroutine.
type batch struct {
	w         *Writers
	partition int32
	commit    eventstore.Commit
	// Offsets that the next event and the next parked entry of the commit will get.
	nextEvent, nextParked int64
	bytes                 int // of the bodies in the commit in hand
	// parked holds what is parked in the partition, by stream and in order, by Cause. Later entries of such a stream
	// are parked behind it.
	parked map[domain.Stream][]string

	heads  map[domain.Stream]uint64 // versions beyond the fold
	seen   map[string]seen          // outcomes beyond the fold, by Cause
	states map[domain.Stream]state  // cached, at the stream's newest version
	queue  []remembered             // oldest first: when to forget

	fresh   []remembered           // of the commit in hand
	changed map[domain.Stream]bool // by the commit in hand
	keep    map[domain.Stream]bool // states to make a snapshot of, once the commit is done
}

// state is an aggregate as of a version.
type state struct {
	value   any
	version uint64
	kept    uint64 // version of its newest snapshot
}

// seen is an outcome that the fold doesn't know yet.
type seen struct {
	outcome eventstore.EncodedOutcome
	inbox   int64
}

// remembered ties an entry of heads or seen to the offsets that the fold must pass before it may be forgotten.
type remembered struct {
	stream           domain.Stream
	version          uint64
	cause            string
	inbox            int64 // of the entry whose outcome seen holds
	events, outcomes int64
}

const (
	stateLimit = 10_000 // cached aggregates of a partition
	// What one transaction may hold before it takes no further entry: commands and items that follow, and bytes of bodies.
	followLimit = 10_000
	bytesLimit  = 16 << 20
)

func newBatch(w *Writers, p int32) (*batch, error) {
	b := &batch{w: w, partition: p, heads: map[domain.Stream]uint64{}, seen: map[string]seen{}, states: map[domain.Stream]state{},
		parked: map[domain.Stream][]string{}}
	parked, err := w.cfg.History.ParkedEntries(p)
	for _, e := range parked {
		b.parked[e.Stream] = append(b.parked[e.Stream], e.Cause)
	}
	return b, err
}

func (b *batch) begin(nextEvent, nextParked int64) {
	// The last commit is done with its lists; at 2,000 events a time, new ones would be much of what a backlog allocates.
	clear(b.commit.Events)
	clear(b.commit.Outcomes)
	b.commit = eventstore.Commit{Events: b.commit.Events[:0], Outcomes: b.commit.Outcomes[:0]}
	b.nextEvent, b.nextParked, b.fresh = nextEvent, nextParked, b.fresh[:0]
	b.bytes = 0
	b.changed, b.keep = map[domain.Stream]bool{}, map[domain.Stream]bool{}
}

// committed notes the ends after the commit: once the fold is there, it knows itself.
func (b *batch) committed(events, outcomes int64) {
	for _, f := range b.fresh {
		f.events, f.outcomes = events, outcomes
		b.queue = append(b.queue, f)
	}
	b.w.pending.Add(int64(len(b.fresh)))
	if err := b.snapshot(); err != nil { // a cache: without it the next load folds more events
		b.w.cfg.Logger.Warn("no snapshot was kept", "partition", b.partition, "error", err)
	}
}

// snapshot keeps the states that have moved far enough from their last snapshot. Only what is committed is kept.
func (b *batch) snapshot() error {
	var snaps []eventstore.Snapshot
	for s := range b.keep {
		st, d := b.states[s], b.w.deciders[s.Category()]
		if st.version == 0 { // evicted meanwhile
			continue
		}
		var encoded []byte
		if err := guard(func() (err error) { encoded, err = d.EncodeAny(st.value); return err }); err != nil {
			return fmt.Errorf("encode the state of %s: %w", s, err)
		}
		snaps = append(snaps, eventstore.Snapshot{Stream: string(s), Version: st.version, Codec: d.SnapshotVersion(), State: encoded})
		st.kept = st.version
		b.states[s] = st
	}
	if len(snaps) == 0 {
		return nil
	}
	return b.w.cfg.Snapshots.Put(snaps)
}

// prune forgets what the fold knows by now.
func (b *batch) prune() {
	n := 0
	for n < len(b.queue) && b.w.cfg.History.Reached(b.partition, b.queue[n].events, b.queue[n].outcomes) {
		f := b.queue[n]
		if b.heads[f.stream] == f.version {
			delete(b.heads, f.stream)
		}
		if b.seen[f.cause].inbox == f.inbox { // and not that of a later release
			delete(b.seen, f.cause)
		}
		n++
	}
	b.queue = b.queue[n:]
	b.w.pending.Add(-int64(n))
}

// takeAll handles entries until the commit is full, and says how many. It handles one at least.
func (b *batch) takeAll(ctx context.Context, entries []eventstore.Entry) (taken int, err error) {
	// Whatever of this partition the fold may learn from here on is in seen until it is pruned, on this goroutine.
	folded, err := b.w.cfg.History.Outcomes(entries)
	if err != nil {
		return 0, err
	}
	for i, e := range entries {
		if i > 0 && b.full() {
			return i, nil
		}
		if err := b.take(ctx, e, folded); err != nil {
			return i, err
		}
	}
	return len(entries), nil
}

// full reports whether the commit in hand holds as much as one transaction should: an entry may follow up with thousands
// of others, and bodies may be large.
func (b *batch) full() bool {
	return len(b.commit.Commands) >= followLimit || b.bytes >= bytesLimit
}

// take handles one entry. folded is what the fold knows of entries that were handled before. An error means that the fold
// couldn't be read, or ctx ended: nothing about the entry.
func (b *batch) take(ctx context.Context, e eventstore.Entry, folded map[string]domain.Outcome) error {
	if e.Foreign != nil {
		b.park(e, domain.Outcome{}, e.Foreign.Error())
		return nil
	}
	o := domain.Outcome{
		Kind: e.Kind, ID: e.ID, Source: e.Source, Type: e.Type, Stream: e.Stream, Status: domain.Accepted,
		Verification: e.Verification, Received: e.Received, Size: len(e.Body), Digest: e.Digest(), Correlation: e.Correlation,
		Partition: b.partition, Inbox: e.Offset,
	}
	cause := e.Cause()
	version, err := b.head(e.Stream)
	if err != nil {
		return err
	}
	o.Version = version
	first, known := folded[cause]
	if earlier, ok := b.seen[cause]; ok {
		known = true
		if first, err = earlier.outcome.Decode(); err != nil {
			return err
		}
	}
	if eventstore.Broken("no-dedupe") {
		known = false
	}
	o.Release, o.By, o.Note, o.ReplayOf, o.Attempt = e.Release, e.By, e.Note, e.ReplayOf, e.Attempt
	waiting := b.parked[e.Stream]
	switch released := known && first.Status == domain.Parked && e.Release != "" && len(waiting) > 0; {
	case !known && e.Release == eventstore.Discard: // its outcome has left the log; it must not take effect now
		o.Status = domain.Discarded
		b.finish(o, cause)
		return nil
	case released && waiting[0] != cause:
		o = duplicate(o, first)
		o.Class, o.Rule, o.Message = domain.Conflict, "parked-behind", "another entry of the stream is parked before this one: release that one first"
		b.finish(o, cause)
		return nil
	case released && e.Release == eventstore.Discard:
		o.Status, o.Version = domain.Discarded, first.Version
		b.release(e.Stream)
		b.finish(o, cause)
		return nil
	case released:
		b.release(e.Stream) // parked again, at the front, if it fails again
	case known:
		b.finish(duplicate(o, first), cause)
		return nil
	case len(waiting) > 0:
		b.park(e, o, fmt.Sprintf("an earlier entry of stream %s is parked", e.Stream))
		return nil
	case b.w.cfg.Log.PartitionOf(e.Stream) != b.partition:
		b.park(e, o, fmt.Sprintf("stream %s belongs to partition %d", e.Stream, b.w.cfg.Log.PartitionOf(e.Stream)))
		return nil
	}
	before, had := b.states[e.Stream]
	events, reason, err := b.decide(ctx, e, version)
	if err != nil {
		return err
	}
	var defect error // of a policy: whatever its class, it is not the caller's
	if reason == nil {
		var follow, items []eventstore.Entry
		if follow, defect = b.react(events); defect == nil {
			items, defect = b.split(e, events)
		}
		if defect == nil {
			o.Items = len(items)
			b.accept(e, o, events, follow, items, cause)
			return nil
		}
	}
	if had { // deciding is pure, but a policy may have failed after the state had moved on
		b.states[e.Stream] = before
	} else {
		delete(b.states, e.Stream)
	}
	var refusal *domain.Error
	if e.Kind == eventstore.KindCommand && errors.As(reason, &refusal) {
		switch refusal.Class {
		case domain.Rejected, domain.Conflict, domain.Invalid, domain.NotFound:
			o.Status, o.Class, o.Rule, o.Field, o.Message, o.Actual = domain.Refused, refusal.Class, refusal.Rule, refusal.Field, refusal.Message, refusal.Actual
			b.w.metrics.refused.WithLabelValues(string(o.Class), o.Rule).Inc() // rules are literals of the business: few
			b.finish(o, cause)
			return nil
		}
	}
	b.park(e, o, errors.Join(reason, defect).Error())
	return nil
}

// duplicate is the outcome of an entry whose id was handled before: the same answer again, or, for other content under
// the same command id, a refusal.
func duplicate(o, first domain.Outcome) domain.Outcome {
	same := first.Digest == "" || first.Digest == o.Digest
	o.Status, o.Original = domain.Duplicate, first.Status
	if first.Original != "" {
		o.Original = first.Original
	}
	o.Version, o.Events, o.Commands = first.Version, first.Events, first.Commands
	o.Class, o.Rule, o.Field, o.Message, o.Actual = first.Class, first.Rule, first.Field, first.Message, first.Actual
	o.Stream = first.Stream
	if o.Kind == eventstore.KindCommand && !same {
		o.Class, o.Rule, o.Field = domain.Invalid, "idempotency-key-reused", "Idempotency-Key"
		o.Message, o.Version, o.Events, o.Commands = "this key was used for another command", 0, nil, nil
	}
	return o
}

// head is the version of a stream, counting what is committed or decided but not folded yet.
func (b *batch) head(s domain.Stream) (uint64, error) {
	if v, ok := b.heads[s]; ok {
		return v, nil
	}
	row, _, err := b.w.cfg.History.Head(s)
	return row.Version, err
}

// decide returns the events of an entry, complete but for what the position in the log gives. reason says why there
// are none: a refusal, or a defect of the business; err is trouble of ours.
func (b *batch) decide(ctx context.Context, e eventstore.Entry, version uint64) (events []domain.Event, reason, err error) {
	if e.Kind == eventstore.KindDelivery {
		events = []domain.Event{{Type: e.Type, ContentType: e.ContentType, Data: e.Body, Delivery: e.ID, Verification: e.Verification, ReplayOf: e.ReplayOf}}
		complete(e, events, "/sources/"+e.Source, version)
		return events, nil, nil
	}
	if e.Expected != nil && *e.Expected != version && !eventstore.Broken("version-ignored") {
		return nil, &domain.Error{Class: domain.Conflict, Rule: "expected-version", Actual: version,
			Message: fmt.Sprintf("the stream is at version %d, not %d", version, *e.Expected)}, nil
	}
	c := domain.Command{
		ID: e.ID, Type: e.Type, Data: e.Body, Time: e.Received, Expected: e.Expected,
		Correlation: e.Correlation, Causation: e.Causation, TraceParent: e.TraceParent,
	}
	if reason := b.w.cfg.Types.DecodeCommand(&c); reason != nil {
		return nil, reason, nil
	}
	if c.Stream != e.Stream {
		return nil, domain.Invalidf("stream", "the command is for %s but stands under %s", c.Stream, e.Stream), nil
	}
	d := b.w.deciders[e.Stream.Category()]
	if d == nil {
		return nil, &domain.Error{Class: domain.NotFound, Message: fmt.Sprintf("nothing decides for category %q", e.Stream.Category())}, nil
	}
	st, reason, err := b.load(ctx, d, e.Stream, version)
	if reason != nil || err != nil {
		return nil, reason, err
	}
	reason = guard(func() error {
		var err error
		events, err = d.DecideAny(st.value, c)
		return err
	})
	for i := 0; i < len(events) && reason == nil; i++ {
		reason = b.w.cfg.Types.Encode(&events[i])
	}
	if reason != nil {
		return nil, reason, nil
	}
	complete(e, events, "/commands/"+e.Type, version)
	// The state moves on with the events; if they don't get committed, this whole batch is forgotten.
	reason = guard(func() error {
		for _, ev := range events {
			st.value, st.version = d.EvolveAny(st.value, ev), ev.Version
		}
		return nil
	})
	if reason == nil {
		b.cache(e.Stream, st)
	}
	return events, reason, nil
}

// complete fills in what an event has from its entry, so that Evolve sees it just as a later replay will.
func complete(e eventstore.Entry, events []domain.Event, source string, version uint64) {
	for i := range events {
		ev := &events[i]
		ev.ID, ev.Source, ev.Stream, ev.Version = eventID(e, i), source, e.Stream, version+1+uint64(i)
		ev.Time, ev.Causation, ev.TraceParent = e.Received, e.ID, e.TraceParent
		if e.Kind == eventstore.KindDelivery && e.Causation != "" { // an item of a batch
			ev.Causation = e.Causation
		}
		if ev.Correlation = e.Correlation; ev.Correlation == "" {
			ev.Correlation = e.ID
		}
	}
}

// load returns the state of a stream at version: from the cache, or by folding its events.
func (b *batch) load(ctx context.Context, d domain.AnyDecider, s domain.Stream, version uint64) (st state, reason, err error) {
	if st, ok := b.states[s]; ok && st.version == version {
		return st, nil, nil
	}
	if _, ahead := b.heads[s]; ahead {
		// Evicted, and the fold isn't there yet. Only what is committed can be waited for.
		if b.changed[s] {
			return st, fmt.Errorf("the state of %s was evicted within one batch", s), nil
		}
		events, outcomes := b.needed(s)
		if err := b.w.readToEnd(ctx, b.partition, events, outcomes); err != nil {
			return st, nil, err
		}
	}
	if st, err = b.begun(d, s, version); err != nil {
		return st, nil, err
	}
	if st.version == 0 {
		if reason := guard(func() error { st.value = d.NewState(); return nil }); reason != nil {
			return st, reason, nil
		}
	}
	for st.version < version {
		events, err := b.w.cfg.History.Events(s, st.version+1, 1000)
		if err != nil {
			return st, nil, err
		}
		if len(events) == 0 {
			return st, nil, &domain.Error{Class: domain.Corrupt, Message: fmt.Sprintf("stream %s has version %d but no event %d", s, version, st.version+1)}
		}
		for _, ev := range events[:min(uint64(len(events)), version-st.version)] {
			if reason := b.w.cfg.Types.Decode(&ev); reason != nil {
				return st, reason, nil
			}
			if reason := guard(func() error { st.value = d.EvolveAny(st.value, ev); return nil }); reason != nil {
				return st, reason, nil
			}
			st.version = ev.Version
		}
	}
	b.cache(s, st)
	return st, nil, nil
}

// begun returns the newest snapshot of a stream as a state, or version 0. One that can't be read is ignored: the log
// has everything.
func (b *batch) begun(d domain.AnyDecider, s domain.Stream, version uint64) (st state, err error) {
	if b.w.cfg.Snapshots == nil || d.SnapshotVersion() == 0 {
		return st, nil
	}
	snap, ok, err := b.w.cfg.Snapshots.Get(string(s), d.SnapshotVersion(), version)
	if err != nil || !ok {
		return st, err
	}
	if reason := guard(func() (err error) { st.value, err = d.DecodeState(snap.State); return err }); reason != nil {
		b.w.cfg.Logger.Warn("a snapshot is ignored", "stream", s, "version", snap.Version, "error", reason)
		return state{}, nil
	}
	st.version, st.kept = snap.Version, snap.Version
	return st, nil
}

func (b *batch) cache(s domain.Stream, st state) {
	if d := b.w.deciders[s.Category()]; b.w.cfg.Snapshots != nil && d.SnapshotVersion() > 0 && st.version-st.kept >= b.w.cfg.SnapshotEvery {
		b.keep[s] = true
	}
	if len(b.states) >= stateLimit {
		for other := range b.states {
			if !b.changed[other] { // what this commit changed can't be read from the fold yet
				delete(b.states, other)
				break
			}
		}
	}
	b.states[s] = st
}

// needed returns the ends that the fold must reach to know everything committed on s.
func (b *batch) needed(s domain.Stream) (events, outcomes int64) {
	for _, f := range b.queue {
		if f.stream == s {
			events, outcomes = f.events, f.outcomes
		}
	}
	return events, outcomes
}

// react asks the policies what follows from the events.
func (b *batch) react(events []domain.Event) (follow []eventstore.Entry, reason error) {
	for i := range events {
		ev := &events[i]
		for _, p := range b.w.cfg.Policies {
			if !p.Wants(ev.Type) {
				continue
			}
			var wanted []domain.Command
			reason := guard(func() error {
				if err := b.w.cfg.Types.Decode(ev); err != nil {
					return err
				}
				var err error
				wanted, err = p.React(*ev)
				return err
			})
			for n := 0; n < len(wanted) && reason == nil; n++ {
				c := &wanted[n]
				if reason = b.w.cfg.Types.EncodeCommand(c); reason == nil {
					follow = append(follow, eventstore.Entry{
						Kind: eventstore.KindCommand, ID: ev.ID + "/" + p.Name + "/" + strconv.Itoa(n), Source: "policy/" + p.Name,
						Type: c.Type, Stream: c.Stream, Received: ev.Time, ContentType: "application/json",
						Correlation: ev.Correlation, Causation: ev.ID, TraceParent: ev.TraceParent, Body: c.Data,
					})
				}
			}
			if reason != nil {
				return nil, fmt.Errorf("policy %s on %s: %w", p.Name, ev.Type, reason)
			}
		}
	}
	return follow, nil
}

// split takes a batch apart. Its items go into the inbox in the batch's own transaction, each to the partition of its
// stream, caused by the event of the batch.
func (b *batch) split(e eventstore.Entry, events []domain.Event) (items []eventstore.Entry, reason error) {
	if b.w.cfg.Split == nil || e.Kind != eventstore.KindDelivery || len(events) == 0 {
		return nil, nil
	}
	reason = guard(func() (err error) { items, err = b.w.cfg.Split(e); return err })
	if reason != nil {
		return nil, fmt.Errorf("split the batch: %w", reason)
	}
	for i := range items {
		item := &items[i]
		item.Causation = events[0].ID
		if e.ReplayOf != "" { // its items take effect once more as well, each under an identity of its own
			item.ReplayOf, item.By, item.Note = item.ID, e.By, e.Note
			item.ID += strings.TrimPrefix(e.ID, e.ReplayOf)
		}
	}
	return items, nil
}

// accept adds the events and what follows from them to the commit.
func (b *batch) accept(e eventstore.Entry, o domain.Outcome, events []domain.Event, follow, items []eventstore.Entry, cause string) {
	for _, ev := range events {
		b.bytes += len(ev.Data)
		o.Version = ev.Version
		o.Events = append(o.Events, domain.EventRef{ID: ev.ID, Type: ev.Type, Version: ev.Version, Offset: b.nextEvent})
		b.nextEvent++
		b.commit.Events = append(b.commit.Events, ev)
	}
	for _, f := range follow {
		o.Commands = append(o.Commands, f.ID)
	}
	for _, more := range [][]eventstore.Entry{follow, items} {
		b.commit.Commands = append(b.commit.Commands, more...)
		for _, f := range more {
			b.bytes += len(f.Body)
		}
	}
	if len(events) > 0 {
		b.heads[e.Stream], b.changed[e.Stream] = o.Version, true
	}
	b.finish(o, cause)
}

// park sets an entry aside with the reason; an operator decides.
func (b *batch) park(e eventstore.Entry, o domain.Outcome, reason string) {
	if e.Foreign != nil {
		o = domain.Outcome{Kind: eventstore.KindForeign, ID: fmt.Sprintf("%d-%d", b.partition, e.Offset), Stream: e.Stream, Partition: b.partition, Inbox: e.Offset, Size: len(e.Body)}
	}
	o.Status, o.Message, o.ParkedAt = domain.Parked, reason, new(b.nextParked)
	b.nextParked++
	if e.Foreign == nil { // a foreign record belongs to no stream
		if e.Release == eventstore.Requeue {
			b.parked[e.Stream] = append([]string{e.Cause()}, b.parked[e.Stream]...)
		} else {
			b.parked[e.Stream] = append(b.parked[e.Stream], e.Cause())
		}
	}
	b.bytes += len(e.Body)
	b.commit.Parked = append(b.commit.Parked, eventstore.ParkedEntry{Entry: e, Reason: reason})
	b.w.cfg.Logger.Error("parked", "partition", b.partition, "offset", e.Offset, "kind", e.Kind, "id", e.ID, "type", e.Type, "stream", e.Stream, "reason", reason)
	b.finish(o, e.Cause())
}

// release takes the first parked entry of a stream off the list.
func (b *batch) release(s domain.Stream) {
	if b.parked[s] = b.parked[s][1:]; len(b.parked[s]) == 0 {
		delete(b.parked, s)
	}
}

func (b *batch) finish(o domain.Outcome, cause string) {
	o.Handled = time.Now().UTC()
	encoded := eventstore.EncodeOutcome(o)
	b.commit.Outcomes = append(b.commit.Outcomes, encoded)
	b.w.metrics.outcomes.WithLabelValues(o.Kind, string(o.Status)).Inc()
	f := remembered{cause: cause, inbox: o.Inbox}
	if len(o.Events) > 0 && o.Status == domain.Accepted {
		f.stream, f.version = o.Stream, o.Version
	}
	if o.Status != domain.Duplicate { // the first one is the answer
		b.seen[cause] = seen{encoded, o.Inbox}
	}
	b.fresh = append(b.fresh, f)
}

// eventID derives an event's id from its cause, so that handling an entry again gives the same id.
func eventID(e eventstore.Entry, i int) string {
	h := sha256.Sum256(fmt.Appendf(nil, "%d:%s%d:%s%d:%s%d", len(e.Kind), e.Kind, len(e.Source), e.Source, len(e.ID), e.ID, i))
	return hex.EncodeToString(h[:16])
}

// guard turns a panic of the business into an error with its stack.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}
