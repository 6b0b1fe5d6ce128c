package faults

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-io/penstock/domain"
)

// Promise is what a finding says was broken.
type Promise string

// The promises of the write side, as the README numbers them, and two that they rest on.
const (
	Durable  Promise = "1 durable"  // a 2xx stands in the log
	Once     Promise = "2 once"     // every delivery id and command id takes effect exactly once
	Versions Promise = "3 versions" // contiguous from 1; an expected version is honoured or refused
	Answers  Promise = "answers"    // a client hears the truth, or 503
	Recovery Promise = "recovery"   // once the faults are over, everything is handled
)

// Finding is one broken promise, with the ids and the places in the log that show it.
type Finding struct {
	Promise Promise
	What    string
}

func (f Finding) String() string { return fmt.Sprintf("[%s] %s", f.Promise, f.What) }

// Record is one committed record as deploy/kafka/reader.py prints it.
type Record struct {
	Partition int32             `json:"partition"`
	Offset    int64             `json:"offset"`
	Key       string            `json:"key"`
	Headers   map[string]string `json:"headers"`
	Value     Value             `json:"value"`
}

func (r Record) at() place { return place{r.Partition, r.Offset} }

// Value is a record's bytes: the reader prints a text, or an object where they are not UTF-8.
type Value []byte

// UnmarshalJSON reads both.
func (v *Value) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		var o struct{ Base64 string }
		if err := json.Unmarshal(b, &o); err != nil {
			return err
		}
		raw, err := base64.StdEncoding.DecodeString(o.Base64)
		*v = raw
		return err
	}
	var s string
	err := json.Unmarshal(b, &s)
	*v = Value(s)
	return err
}

// ReadRecords reads what reader.py printed of a topic, and sorts it by partition and offset.
func ReadRecords(r io.Reader) ([]Record, error) {
	var all []Record
	dec := json.NewDecoder(bufio.NewReader(r))
	for {
		var rec Record
		if err := dec.Decode(&rec); err == io.EOF {
			break
		} else if err != nil {
			return nil, fmt.Errorf("record %d of a dump: %w", len(all)+1, err)
		}
		all = append(all, rec)
	}
	slices.SortFunc(all, func(a, b Record) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
	})
	return all, nil
}

// Dump is the log as another program reads it, read_committed, each topic sorted by partition and offset.
type Dump struct{ Inbox, Events, Outcomes []Record }

// place is an offset of a partition.
type place struct {
	partition int32
	offset    int64
}

func (p place) String() string { return fmt.Sprintf("%d/%d", p.partition, p.offset) }

// Digest names a body.
func Digest(body []byte) string {
	h := sha256.Sum256(body)
	return hex.EncodeToString(h[:])
}

// Check compares what the clients know with what the log says and returns every broken promise. It is a pure function,
// and believes neither side: the journal is not asked what should be in the log beyond what was answered, and the log's
// own outcomes are replayed against its events.
func Check(attempts []Attempt, d Dump) []Finding {
	c := &check{
		attempts: attempts, dump: d, requests: map[string]Request{}, events: map[place]event{}, byID: map[string]event{},
		byCause: map[string][]event{}, outcomes: map[string]verdict{}, handled: map[place]bool{}, named: map[place]place{},
	}
	for _, a := range attempts {
		c.requests[causeOf(a.Kind, a.Source, a.ID)] = a.Request
	}
	c.readEvents()
	c.readOutcomes()
	c.checkInbox()
	c.checkAnswers()
	return c.findings
}

type check struct {
	attempts []Attempt
	dump     Dump
	findings []Finding

	requests map[string]Request // by cause
	events   map[place]event
	byID     map[string]event
	byCause  map[string][]event
	outcomes map[string]verdict // the first of a cause that is no duplicate
	handled  map[place]bool     // inbox records that have an outcome
	named    map[place]place    // events that an outcome tells of → the outcome
}

type event struct {
	place
	id, stream, cause string
	version           uint64
	value             []byte
}

type verdict struct {
	domain.Outcome
	place
}

func (c *check) find(p Promise, format string, args ...any) {
	c.findings = append(c.findings, Finding{p, fmt.Sprintf(format, args...)})
}

// causeOf identifies what has an effect once: a delivery within its source, a command everywhere.
func causeOf(kind, source, id string) string {
	if kind == Command {
		return "command " + id
	}
	return "delivery " + source + "/" + id
}

// readEvents checks the events by themselves: ids, versions and that something asked for them.
func (c *check) readEvents() {
	type head struct {
		partition int32
		version   uint64
	}
	heads := map[string]head{}
	for _, r := range c.dump.Events {
		h := r.Headers
		e := event{place: r.at(), id: h["ce_id"], stream: h["ce_subject"], value: r.Value}
		e.cause = causeOf(Command, "", h["ce_causationid"])
		if h["ce_deliveryid"] != "" {
			e.cause = causeOf(Delivery, strings.TrimPrefix(h["ce_source"], "/sources/"), h["ce_deliveryid"])
		}
		var err error
		if e.version, err = strconv.ParseUint(h["ce_streamversion"], 10, 64); err != nil || e.id == "" || e.stream != r.Key {
			c.find(Versions, "events %s is no event: key %q, headers %v", e.place, r.Key, h)
			continue
		}
		if first, twice := c.byID[e.id]; twice {
			c.find(Once, "event %s of %s (%s) stands twice, at %s and %s", e.id, e.stream, e.cause, first.place, e.place)
		} else {
			c.byID[e.id] = e
		}
		before, known := heads[e.stream]
		switch {
		case known && before.partition != e.partition:
			c.find(Versions, "stream %s stands in partitions %d and %d (event %s at %s)", e.stream, before.partition, e.partition, e.id, e.place)
		case e.version <= before.version:
			c.find(Versions, "stream %s has version %d at %s again, after version %d (event %s, %s)", e.stream, e.version, e.place, before.version, e.id, e.cause)
		case e.version > before.version+1:
			c.find(Versions, "stream %s has a hole: version %d at %s follows version %d (event %s, %s)", e.stream, e.version, e.place, before.version, e.id, e.cause)
		}
		heads[e.stream] = head{e.partition, max(e.version, before.version)}
		c.events[e.place] = e
		c.byCause[e.cause] = append(c.byCause[e.cause], e)
		c.checkCause(e)
	}
}

// checkCause finds events that nobody asked for. A policy's command has the id of its event in front.
func (c *check) checkCause(e event) {
	if _, asked := c.requests[e.cause]; asked {
		return
	}
	if id, ok := strings.CutPrefix(e.cause, "command "); ok {
		if of, _, policy := strings.Cut(id, "/"); policy {
			if _, ok := c.byID[of]; !ok && !slices.ContainsFunc(c.dump.Events, func(r Record) bool { return r.Headers["ce_id"] == of }) {
				c.find(Once, "event %s at %s follows from event %s, which isn't there", e.id, e.place, of)
			}
			return
		}
	}
	c.find(Once, "event %s at %s has cause %s, which nobody sent", e.id, e.place, e.cause)
}

// readOutcomes replays the outcomes, which stand in the order in which the writers handled the inbox, against the
// events.
func (c *check) readOutcomes() {
	versions := map[domain.Stream]uint64{}
	for _, r := range c.dump.Outcomes {
		o := verdict{place: r.at()}
		if err := json.Unmarshal(r.Value, &o.Outcome); err != nil {
			c.find(Answers, "outcome %s can't be read: %v", o.place, err)
			continue
		}
		cause := causeOf(o.Kind, o.Source, o.ID)
		at := place{o.Partition, o.Inbox}
		if c.handled[at] {
			c.find(Once, "inbox record %s (%s) was handled again: outcome %s", at, cause, o.place)
		}
		c.handled[at] = true
		first, known := c.outcomes[cause]
		switch {
		case o.Status == domain.Duplicate && !known:
			c.find(Durable, "outcome %s calls %s a duplicate, and nothing came of it before", o.place, cause)
			continue
		case o.Status == domain.Duplicate:
			continue
		case known:
			c.find(Once, "%s was handled twice: outcomes %s (%s) and %s (%s)", cause, first.place, first.Status, o.place, o.Status)
		default:
			c.outcomes[cause] = o
		}
		head := versions[o.Stream]
		c.checkExpected(o, cause, head)
		if o.Status == domain.Parked {
			c.find(Recovery, "%s is parked (outcome %s): %s", cause, o.place, o.Message)
		}
		for _, ref := range o.Outcome.Events {
			at := place{o.place.partition, ref.Offset}
			e, there := c.events[at]
			switch {
			case !there || e.id != ref.ID || e.version != ref.Version:
				c.find(Durable, "outcome %s of %s says event %s, version %d, stands at %s; there is %q, version %d", o.place, cause, ref.ID, ref.Version, at, e.id, e.version)
			case e.cause != cause || e.stream != string(o.Stream):
				c.find(Once, "outcome %s of %s names event %s of %s, caused by %s", o.place, cause, e.id, e.stream, e.cause)
			}
			if ref.Version != head+1 {
				c.find(Versions, "outcome %s of %s: version %d of %s comes when the stream is at %d", o.place, cause, ref.Version, o.Stream, head)
			}
			head = max(head, ref.Version)
			if other, twice := c.named[at]; twice {
				c.find(Once, "event %s at %s is told of by outcomes %s and %s", ref.ID, at, other, o.place)
			}
			c.named[at] = o.place
		}
		versions[o.Stream] = head
	}
	for _, cause := range slices.Sorted(maps.Keys(c.byCause)) {
		for _, e := range c.byCause[cause] {
			if _, told := c.named[e.place]; !told {
				c.find(Once, "event %s at %s (%s) is told of by no outcome", e.id, e.place, e.cause)
			}
		}
	}
	for cause, o := range c.outcomes {
		for _, id := range o.Commands {
			if _, ok := c.outcomes[causeOf(Command, "", id)]; !ok {
				c.find(Durable, "%s asked for command %s (outcome %s), and nothing came of it", cause, id, o.place)
			}
		}
	}
}

// checkExpected compares a verdict with the version that the stream had when it was given.
func (c *check) checkExpected(o verdict, cause string, head uint64) {
	if o.Class == domain.Conflict && o.Actual != head {
		c.find(Versions, "outcome %s refuses %s because %s is at %d; it is at %d", o.place, cause, o.Stream, o.Actual, head)
	}
	r, ok := c.requests[cause]
	if !ok || r.Expected == nil {
		return
	}
	if o.Status == domain.Accepted && *r.Expected != head {
		c.find(Versions, "outcome %s accepts %s, which expected version %d of %s, at version %d", o.place, cause, *r.Expected, o.Stream, head)
	}
	if o.Class == domain.Conflict && *r.Expected == head {
		c.find(Versions, "outcome %s refuses %s, which expected version %d of %s, at that version", o.place, cause, *r.Expected, o.Stream)
	}
}

// checkInbox wants one outcome for each record of the inbox.
func (c *check) checkInbox() {
	there := map[place]bool{}
	for _, r := range c.dump.Inbox {
		there[r.at()] = true
		if !c.handled[r.at()] {
			c.find(Recovery, "inbox record %s (%s) was never handled", r.at(), causeOf(r.Headers["ps_kind"], r.Headers["ps_source"], r.Headers["ps_id"]))
		}
	}
	for at := range c.handled {
		if !there[at] {
			c.find(Once, "inbox record %s has an outcome and isn't there", at)
		}
	}
}

// answer is the part of a command's answer that can be held against the log.
type answer struct {
	ID      string
	Stream  string
	Version uint64
	Actual  *uint64
	Events  []struct {
		ID      string
		Version uint64
	}
}

// checkAnswers compares each answer that a client got with the log, and each client's answers with one another.
func (c *check) checkAnswers() {
	acknowledged := map[string]Attempt{} // the first definite answer
	var order []string
	for _, a := range c.attempts {
		cause := causeOf(a.Kind, a.Source, a.ID)
		if _, known := acknowledged[cause]; !known {
			acknowledged[cause] = Attempt{}
			order = append(order, cause)
		}
		switch {
		case a.Acknowledged():
		case a.Status == 0, a.Status == 503:
			continue
		default:
			c.find(Answers, "attempt %d of %s (node %d, after %s) was answered %d: %s", a.Number, cause, a.Node, a.Answered, a.Status, excerpt(a.Body))
			continue
		}
		if a.Kind == Command && a.Status != 202 {
			c.checkCommand(a, cause)
		}
		first := acknowledged[cause]
		if a.Kind == Command && first.Status != 0 && first.Status != 202 && a.Status != 202 && first.Status != a.Status {
			c.find(Answers, "%s was answered %d in attempt %d and %d in attempt %d", cause, first.Status, first.Number, a.Status, a.Number)
		}
		if first.Status == 0 || first.Status == 202 {
			acknowledged[cause] = a
		}
	}
	winners := map[string]string{} // stream and expected version → command
	for _, cause := range order {
		a, r := acknowledged[cause], c.requests[cause]
		events := c.byCause[cause]
		if r.Kind == Delivery && len(events) > 1 {
			c.find(Once, "%s stands %d times in events, at %s", cause, len(events), places(events))
		}
		if r.Expected != nil && len(events) > 0 {
			key := fmt.Sprintf("version %d of %s", *r.Expected, r.Stream)
			if other, taken := winners[key]; taken {
				c.find(Versions, "%s and %s both won %s", other, cause, key)
			}
			winners[key] = cause
		}
		switch {
		case a.Status == 0 && !r.Once:
			c.find(Recovery, "%s was never acknowledged", cause)
		case a.Status == 0:
		case r.Kind == Delivery:
			c.checkDelivery(a, cause, events)
		default:
			if _, ok := c.outcomes[cause]; !ok {
				c.find(Durable, "%s was answered %d (attempt %d, node %d, after %s), and nothing came of it", cause, a.Status, a.Number, a.Node, a.Answered)
			}
		}
	}
}

func (c *check) checkDelivery(a Attempt, cause string, events []event) {
	if len(events) == 0 {
		c.find(Durable, "%s was acknowledged with %d (attempt %d, node %d, after %s) and doesn't stand in events", cause, a.Status, a.Number, a.Node, a.Answered)
		return
	}
	if got := Digest(events[0].value); got != a.Digest {
		c.find(Durable, "%s stands at %s with other bytes: digest %s, sent %s", cause, events[0].place, got, a.Digest)
	}
	if events[0].stream != a.Stream {
		c.find(Durable, "%s stands in stream %s, not %s", cause, events[0].stream, a.Stream)
	}
}

// checkCommand holds a definite answer against the log.
func (c *check) checkCommand(a Attempt, cause string) {
	var got answer
	if err := json.Unmarshal(a.Body, &got); err != nil {
		c.find(Answers, "attempt %d of %s: %d with %s", a.Number, cause, a.Status, excerpt(a.Body))
		return
	}
	events := c.byCause[cause]
	switch a.Status {
	case 200:
		if len(events) != len(got.Events) {
			c.find(Durable, "%s was answered with %d events (attempt %d, node %d) and has %d in the log, at %s", cause, len(got.Events), a.Number, a.Node, len(events), places(events))
		}
		for _, e := range got.Events {
			if stands := c.byID[e.ID]; stands.version != e.Version || stands.stream != got.Stream || stands.cause != cause {
				c.find(Durable, "%s was answered with event %s, version %d of %s; in the log it is version %d of %q, at %s", cause, e.ID, e.Version, got.Stream, stands.version, stands.stream, stands.place)
			}
		}
		if a.Expected != nil && got.Version != *a.Expected+uint64(len(got.Events)) {
			c.find(Versions, "%s expected version %d and was answered 200 with version %d", cause, *a.Expected, got.Version)
		}
	case 412:
		if a.Expected == nil || got.Actual == nil || *got.Actual == *a.Expected {
			c.find(Versions, "%s was refused for its version: %s", cause, excerpt(a.Body))
		}
		fallthrough
	default:
		if len(events) > 0 {
			c.find(Once, "%s was refused with %d (attempt %d, node %d) and has events at %s", cause, a.Status, a.Number, a.Node, places(events))
		}
	}
}

func places(events []event) string {
	var all []string
	for _, e := range events {
		all = append(all, e.place.String())
	}
	return "[" + strings.Join(all, " ") + "]"
}

func excerpt(b []byte) string { return string(bytes.TrimSpace(b[:min(len(b), 300)])) }
