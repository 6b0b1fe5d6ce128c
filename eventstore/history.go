package eventstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// StreamsFold is the projection "streams": for each stream its version and its events, for each delivery and command
// what became of it. It is the only state that writers decide on, which is why it stands here, below both of them and
// the engine that runs it like any other projection.
type StreamsFold struct{}

// StreamRow is a row of "streams", keyed by the stream.
type StreamRow struct {
	Stream    domain.Stream `json:"stream" doc:"category/key"`
	Version   uint64        `json:"version" doc:"version of the newest event"`
	Partition int32         `json:"partition"`
	First     time.Time     `json:"first" doc:"time of the first event"`
	Last      time.Time     `json:"last" doc:"time of the newest event"`
	LastType  string        `json:"last_type"`
	LastID    string        `json:"last_id"`
}

// The indexes of the table. Keys that join texts put a zero byte between; none of the texts can contain one.
const (
	indexLog        = "log"        // partition, offset → event: written in order, which bbolt does best
	indexEvents     = "events"     // stream, 0, version → partition, offset
	indexIDs        = "ids"        // event id → stream, 0, version
	indexCauses     = "causes"     // delivery or command → stream, 0, version of its first event
	indexOutcomes   = "outcomes"   // delivery or command → its first outcome
	indexHandled    = "handled"    // partition → inbox offset after the last handled entry
	indexParked     = "parked"     // partition, inbox offset → stream, 0, delivery or command
	indexViolations = "violations" // partition, offset → id of an event that broke its stream's order
)

// Name is "streams".
func (StreamsFold) Name() string { return "streams" }

// Version of the fold.
func (StreamsFold) Version() int { return 2 }

// FoldsEventsToo says that the table is a fold of both topics.
func (StreamsFold) FoldsEventsToo() {}

// Apply records e. An event that doesn't follow its stream's version was written by some other program: the first in
// log order wins, on every node, and the other is noted as a violation.
func (StreamsFold) Apply(tx *Tx, e domain.Event) error {
	var row StreamRow
	if b := tx.Get(string(e.Stream)); b != nil {
		var err error
		if row, err = decodeStreamRow(b); err != nil {
			return fmt.Errorf("row %s: %w", e.Stream, err)
		}
	} else {
		row = StreamRow{Stream: e.Stream, Partition: tx.Partition(), First: e.Time}
	}
	if e.Version != row.Version+1 || tx.Partition() != row.Partition {
		return put(tx, indexViolations, spotOf(tx), []byte(e.ID))
	}
	row.Version, row.Last, row.LastType, row.LastID = e.Version, e.Time, e.Type, e.ID
	b, err := appendStreamRow(make([]byte, 0, 256), row)
	if err != nil {
		return err
	}
	if err := tx.Put(string(e.Stream), b); err != nil {
		return err
	}
	place, spot := placeOf(e.Stream, e.Version), spotOf(tx)
	log, err := tx.Index(indexLog)
	if err != nil {
		return err
	}
	if err := log.Append(spot, encodeEvent(e)); err != nil {
		return fmt.Errorf("index %s: %w", indexLog, err)
	}
	if err := put(tx, indexEvents, place, spot); err != nil {
		return err
	}
	if err := put(tx, indexIDs, []byte(e.ID), place); err != nil {
		return err
	}
	cause := causeKey(KindCommand, "", e.Causation)
	if e.Delivery != "" {
		cause = causeKey(KindDelivery, strings.TrimPrefix(e.Source, "/sources/"), e.Delivery)
	}
	index, err := tx.Index(indexCauses)
	if err != nil || index.Get(cause) != nil {
		return err
	}
	return index.Put(cause, place)
}

// ApplyOutcome records what became of an inbox entry.
func (StreamsFold) ApplyOutcome(tx *Tx, o domain.Outcome) error {
	if err := put(tx, indexHandled, be64(uint64(o.Partition)), be64(uint64(o.Inbox+1))); err != nil {
		return err
	}
	index, err := tx.Index(indexOutcomes)
	if err != nil {
		return err
	}
	key := causeKey(o.Kind, o.Source, o.ID)
	if b := index.Get(key); b != nil {
		first, err := decodeOutcome(b)
		if err != nil {
			return err
		}
		if first.Status != domain.Parked || o.Status == domain.Duplicate {
			return nil // the first one is the answer; later ones say "duplicate"
		}
		// A parked one was released: its new outcome is the answer, in the old one's place.
		o.Inbox = first.Inbox
	}
	place := append(be64(uint64(o.Partition)), be64(uint64(o.Inbox))...)
	parked, err := tx.Index(indexParked)
	if err != nil {
		return err
	}
	if o.Status == domain.Parked && o.Kind != KindForeign {
		err = parked.Put(place, append([]byte(string(o.Stream)+"\x00"), key...))
	} else if parked.Get(place) != nil {
		err = parked.Delete(place)
	}
	if err != nil {
		return err
	}
	b, err := appendOutcome(make([]byte, 0, 640), o)
	if err != nil {
		return err
	}
	return index.Put(key, b)
}

func put(tx *Tx, index string, key, value []byte) error {
	i, err := tx.Index(index)
	if err != nil {
		return err
	}
	if err := i.Put(key, value); err != nil {
		return fmt.Errorf("index %s: %w", index, err)
	}
	return nil
}

// causeKey identifies what has an effect once: a delivery within its source, a command everywhere.
func causeKey(kind, source, id string) []byte {
	if kind == KindCommand {
		return []byte("c\x00" + id)
	}
	return []byte("d\x00" + source + "\x00" + id)
}

func placeOf(s domain.Stream, version uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(s), 0), version)
}

// spotOf is where the record being applied stands in the log.
func spotOf(tx *Tx) []byte {
	return append(be64(uint64(tx.Partition())), be64(uint64(tx.Offset()))...)
}

// eventAt reads the event at a spot.
func eventAt(log Index, spot []byte) (domain.Event, error) { return decodeEvent(log.Get(spot)) }

func splitPlace(place []byte) (domain.Stream, uint64) {
	n := len(place) - 9
	return domain.Stream(place[:n]), binary.BigEndian.Uint64(place[n+1:])
}

// History reads the table of StreamsFold. Safe for concurrent use.
type History struct {
	table  *Table
	topics Topics
}

// NewHistory reads the fold in table, which must be StreamsFold's.
func NewHistory(l *Log, table *Table) *History { return &History{table: table, topics: l.Topics} }

// Head returns the row of a stream; ok is false for a stream without events.
func (h *History) Head(s domain.Stream) (row StreamRow, ok bool, err error) {
	err = h.table.View(func(tx *Tx) error {
		b := tx.Get(string(s))
		if b == nil {
			return nil
		}
		ok = true
		row, err = decodeStreamRow(b)
		return err
	})
	return row, ok, err
}

// Events returns at most limit events of a stream, from version from on.
func (h *History) Events(s domain.Stream, from uint64, limit int) (events []domain.Event, err error) {
	err = h.table.View(func(tx *Tx) error {
		index, err := tx.Index(indexEvents)
		if err != nil {
			return err
		}
		log, err := tx.Index(indexLog)
		if err != nil {
			return err
		}
		prefix := string(s) + "\x00"
		index.Scan(placeOf(s, from), func(k, v []byte) bool {
			if len(events) == limit || len(k) != len(prefix)+8 || string(k[:len(prefix)]) != prefix {
				return false
			}
			var e domain.Event
			if e, err = eventAt(log, v); err != nil {
				return false
			}
			events = append(events, e)
			return true
		})
		return err
	})
	return events, err
}

// Event returns the event with the given id.
func (h *History) Event(id string) (e domain.Event, ok bool, err error) {
	err = h.table.View(func(tx *Tx) error {
		ids, err := tx.Index(indexIDs)
		if err != nil {
			return err
		}
		place := ids.Get([]byte(id))
		if place == nil {
			return nil
		}
		events, err := tx.Index(indexEvents)
		if err != nil {
			return err
		}
		log, err := tx.Index(indexLog)
		if err != nil {
			return err
		}
		e, err = eventAt(log, events.Get(place))
		ok = err == nil
		return err
	})
	return e, ok, err
}

// Outcome returns what became of a delivery or command. If its outcome record is gone from a table that was built anew
// (outcomes are kept for 30 days), the events still tell that it was accepted.
func (h *History) Outcome(kind, source, id string) (o domain.Outcome, ok bool, err error) {
	err = h.table.View(func(tx *Tx) error {
		f, err := openFirsts(tx)
		if err == nil {
			o, ok, err = f.outcome(kind, source, id)
		}
		return err
	})
	return o, ok, err
}

// Outcomes is Outcome for many entries in one transaction: those of them that were handled before, by their Cause.
func (h *History) Outcomes(entries []Entry) (first map[string]domain.Outcome, err error) {
	err = h.table.View(func(tx *Tx) error {
		f, err := openFirsts(tx)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Foreign != nil {
				continue
			}
			o, ok, err := f.outcome(e.Kind, e.Source, e.ID)
			if err != nil {
				return err
			}
			if ok && first == nil {
				first = map[string]domain.Outcome{}
			}
			if ok {
				first[e.Cause()] = o
			}
		}
		return nil
	})
	return first, err
}

// firsts are the indexes that tell what became of an entry.
type firsts struct{ outcomes, causes, events, log Index }

func openFirsts(tx *Tx) (f firsts, err error) {
	for _, i := range []struct {
		name string
		to   *Index
	}{{indexOutcomes, &f.outcomes}, {indexCauses, &f.causes}, {indexEvents, &f.events}, {indexLog, &f.log}} {
		if *i.to, err = tx.Index(i.name); err != nil {
			return firsts{}, err
		}
	}
	return f, nil
}

func (f firsts) outcome(kind, source, id string) (o domain.Outcome, ok bool, err error) {
	key := causeKey(kind, source, id)
	if b := f.outcomes.Get(key); b != nil {
		o, err = decodeOutcome(b)
		return o, true, err
	}
	place := f.causes.Get(key)
	if place == nil {
		return o, false, nil
	}
	o = domain.Outcome{Kind: kind, ID: id, Source: source, Status: domain.Accepted}
	o.Stream, _ = splitPlace(place)
	prefix := place[:len(place)-8]
	f.events.Scan(place, func(k, v []byte) bool {
		if len(k) != len(place) || !bytes.HasPrefix(k, prefix) {
			return false
		}
		var e domain.Event
		if e, err = eventAt(f.log, v); err != nil || e.Causation != id {
			return false
		}
		o.Version, o.Received, o.Type = e.Version, e.Time, e.Type
		if kind == KindCommand {
			o.Type = strings.TrimPrefix(e.Source, "/commands/")
		}
		o.Events = append(o.Events, domain.EventRef{ID: e.ID, Type: e.Type, Version: e.Version, Offset: int64(binary.BigEndian.Uint64(v[8:]))})
		return true
	})
	return o, true, err
}

// Handled returns the inbox offset after the last entry of the partition that was handled, 0 if none is known.
func (h *History) Handled(partition int32) (next int64, err error) {
	err = h.table.View(func(tx *Tx) error {
		index, err := tx.Index(indexHandled)
		if err != nil {
			return err
		}
		if b := index.Get(be64(uint64(partition))); b != nil {
			next = int64(binary.BigEndian.Uint64(b))
		}
		return nil
	})
	return next, err
}

// ParkedEntries lists what is parked in a partition, in the order of the inbox: for each entry its stream and its
// Cause.
func (h *History) ParkedEntries(partition int32) (parked []ParkedRef, err error) {
	err = h.table.View(func(tx *Tx) error {
		index, err := tx.Index(indexParked)
		if err != nil {
			return err
		}
		prefix := be64(uint64(partition))
		index.Scan(prefix, func(k, v []byte) bool {
			if string(k[:8]) != string(prefix) {
				return false
			}
			s, cause, _ := strings.Cut(string(v), "\x00")
			parked = append(parked, ParkedRef{domain.Stream(s), cause})
			return true
		})
		return nil
	})
	return parked, err
}

// ParkedRef names one parked entry.
type ParkedRef struct {
	Stream domain.Stream
	Cause  string
}

// Violation is an event of another program that broke its stream's order. It is left out of the fold, on every node.
type Violation struct {
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset" doc:"in the events topic"`
	Event     string `json:"event" doc:"its id"`
}

// Violations counts the events that were left out, and returns the first ones of each partition, at most limit of all.
func (h *History) Violations(limit int) (first []Violation, count int, err error) {
	err = h.table.View(func(tx *Tx) error {
		index, err := tx.Index(indexViolations)
		if err != nil {
			return err
		}
		index.Scan(nil, func(k, v []byte) bool {
			if count++; count <= limit {
				first = append(first, Violation{int32(binary.BigEndian.Uint64(k)), int64(binary.BigEndian.Uint64(k[8:])), string(v)})
			}
			return true
		})
		return nil
	})
	return first, count, err
}

// Reached reports whether the fold of the partition has passed the given offsets of events and outcomes.
func (h *History) Reached(partition int32, events, outcomes int64) bool {
	e, ok1 := h.table.Position(h.topics.Events)
	o, ok2 := h.table.Position(h.topics.Outcomes)
	return ok1 && ok2 && e.Next[partition] >= events && o.Next[partition] >= outcomes
}

// Wait returns once the fold of the partition has passed the given offsets.
func (h *History) Wait(ctx context.Context, partition int32, events, outcomes int64) error {
	if err := h.table.WaitPartition(ctx, h.topics.Events, partition, events); err != nil {
		return err
	}
	return h.table.WaitPartition(ctx, h.topics.Outcomes, partition, outcomes)
}

// encodeEvent writes the fields one after the other, texts with their length before them; the body comes last.
func encodeEvent(e domain.Event) []byte {
	b := make([]byte, 0, len(e.Data)+320)
	fields := []string{string(e.Stream), e.ID, e.Type, e.Source, e.ContentType, e.Correlation, e.Causation, e.TraceParent, e.Delivery, e.Verification}
	format := byte(1)
	if e.ReplayOf != "" {
		format, fields = 2, append(fields, e.ReplayOf)
	}
	b = append(b, format)
	b = binary.AppendUvarint(b, uint64(e.Schema))
	b = binary.AppendUvarint(b, e.Version)
	b = binary.AppendVarint(b, e.Time.UnixNano())
	for _, s := range fields {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return append(b, e.Data...)
}

func decodeEvent(b []byte) (e domain.Event, err error) {
	bad := &domain.Error{Class: domain.Corrupt, Message: "a stored event can't be read"}
	var stream string
	fields := []*string{&stream, &e.ID, &e.Type, &e.Source, &e.ContentType, &e.Correlation, &e.Causation, &e.TraceParent, &e.Delivery, &e.Verification}
	switch {
	case len(b) > 0 && b[0] == 1:
	case len(b) > 0 && b[0] == 2:
		fields = append(fields, &e.ReplayOf)
	default:
		return e, bad
	}
	b = b[1:]
	number := func() uint64 {
		n, w := binary.Uvarint(b)
		b = b[max(w, 0):]
		return n
	}
	e.Schema = int(number())
	e.Version = number()
	ns, w := binary.Varint(b)
	b = b[max(w, 0):]
	e.Time = time.Unix(0, ns).UTC()
	for _, s := range fields {
		n := number()
		if n > uint64(len(b)) {
			return e, bad
		}
		*s, b = string(b[:n]), b[n:]
	}
	e.Stream = domain.Stream(stream)
	e.Data = append([]byte(nil), b...)
	return e, nil
}
