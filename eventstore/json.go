package eventstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Outcomes and the rows of streams are JSON, so that others can read them, and they are read and written once or more
// for each delivery. By reflection that was a fourth of what a backlog costs, so here it is done field by field.

// EncodedOutcome is an outcome as it is stored. A writer remembers very many for a while: like this each is one piece of
// memory without a pointer in it.
type EncodedOutcome struct {
	stream    domain.Stream
	partition int32
	json      []byte
	err       error
}

// EncodeOutcome encodes o. One that can't be encoded fails the Commit that it is in.
func EncodeOutcome(o domain.Outcome) EncodedOutcome {
	e := EncodedOutcome{stream: o.Stream, partition: o.Partition}
	if e.json, e.err = appendOutcome(make([]byte, 0, 640), o); e.err != nil {
		e.err = fmt.Errorf("encode outcome %s: %w", o.ID, e.err)
	}
	return e
}

// Decode returns the outcome again.
func (e EncodedOutcome) Decode() (domain.Outcome, error) {
	o, err := decodeOutcome(e.json)
	return o, errors.Join(e.err, err)
}

func (e EncodedOutcome) record(topic string) (*kgo.Record, error) {
	return &kgo.Record{Topic: topic, Partition: e.partition, Key: []byte(e.stream), Value: e.json, Headers: isJSON}, e.err
}

var isJSON = []kgo.RecordHeader{{Key: "content-type", Value: []byte("application/json")}}

func outcomeOf(r *kgo.Record) (domain.Outcome, error) {
	o, err := decodeOutcome(r.Value)
	if err != nil {
		return o, &domain.Error{Class: domain.Corrupt, Message: fmt.Sprintf("outcomes record %d/%d", r.Partition, r.Offset), Err: err}
	}
	return o, nil
}

// decodeOutcome reads a stored outcome.
func decodeOutcome(b []byte) (domain.Outcome, error) {
	if o, ok := parseOutcome(b); ok {
		return o, nil
	}
	var o domain.Outcome
	err := json.Unmarshal(b, &o)
	return o, err
}

// appendOutcome appends what encoding/json makes of o.
func appendOutcome(b []byte, o domain.Outcome) ([]byte, error) {
	var err error
	text := func(key, value string) { b = domain.AppendJSONText(append(b, key...), value) }
	some := func(key, value string) {
		if value != "" {
			text(key, value)
		}
	}
	number := func(key string, n int64) { b = strconv.AppendInt(append(b, key...), n, 10) }
	at := func(key string, t time.Time) {
		var bad error
		b, bad = appendTime(append(b, key...), t)
		err = errors.Join(err, bad)
	}
	text(`{"kind":`, o.Kind)
	text(`,"id":`, o.ID)
	text(`,"source":`, o.Source)
	text(`,"type":`, o.Type)
	text(`,"stream":`, string(o.Stream))
	text(`,"status":`, string(o.Status))
	some(`,"original":`, string(o.Original))
	some(`,"class":`, string(o.Class))
	some(`,"rule":`, o.Rule)
	some(`,"field":`, o.Field)
	some(`,"message":`, o.Message)
	if o.Actual != 0 {
		b = strconv.AppendUint(append(b, `,"actual":`...), o.Actual, 10)
	}
	b = strconv.AppendUint(append(b, `,"version":`...), o.Version, 10)
	for i, e := range o.Events {
		if i == 0 {
			b = append(b, `,"events":[`...)
		} else {
			b = append(b, ',')
		}
		text(`{"id":`, e.ID)
		text(`,"type":`, e.Type)
		b = strconv.AppendUint(append(b, `,"version":`...), e.Version, 10)
		number(`,"offset":`, e.Offset)
		b = append(b, '}')
	}
	if len(o.Events) > 0 {
		b = append(b, ']')
	}
	for i, id := range o.Commands {
		if i == 0 {
			text(`,"commands":[`, id)
		} else {
			text(`,`, id)
		}
	}
	if len(o.Commands) > 0 {
		b = append(b, ']')
	}
	if o.Items != 0 {
		number(`,"items":`, int64(o.Items))
	}
	some(`,"verification":`, o.Verification)
	at(`,"received":`, o.Received)
	at(`,"handled":`, o.Handled)
	number(`,"size":`, int64(o.Size))
	some(`,"digest":`, o.Digest)
	some(`,"correlationid":`, o.Correlation)
	if o.ParkedAt != nil {
		number(`,"parked_at":`, *o.ParkedAt)
	}
	some(`,"release":`, o.Release)
	some(`,"by":`, o.By)
	some(`,"note":`, o.Note)
	some(`,"replay_of":`, o.ReplayOf)
	if o.Attempt != 0 {
		number(`,"attempt":`, int64(o.Attempt))
	}
	number(`,"partition":`, int64(o.Partition))
	number(`,"inbox":`, o.Inbox)
	return append(b, '}'), err
}

func appendTime(b []byte, t time.Time) ([]byte, error) {
	if y := t.Year(); y < 0 || y > 9999 {
		return b, fmt.Errorf("the year %d has no RFC 3339 form", y)
	}
	return append(t.AppendFormat(append(b, '"'), time.RFC3339Nano), '"'), nil
}

// parseOutcome reads JSON as appendOutcome writes it: no white space, known keys, each once. ok is false for anything
// else, which isn't an error: encoding/json shall judge it. All texts share one copy of b.
func parseOutcome(value []byte) (o domain.Outcome, ok bool) {
	p := plainJSON{rest: string(value), ok: true}
	p.object(func(key string) {
		switch key {
		case "kind":
			o.Kind = p.text()
		case "id":
			o.ID = p.text()
		case "source":
			o.Source = p.text()
		case "type":
			o.Type = p.text()
		case "stream":
			o.Stream = domain.Stream(p.text())
		case "status":
			o.Status = domain.Status(p.text())
		case "original":
			o.Original = domain.Status(p.text())
		case "class":
			o.Class = domain.Class(p.text())
		case "rule":
			o.Rule = p.text()
		case "field":
			o.Field = p.text()
		case "message":
			o.Message = p.text()
		case "actual":
			o.Actual = p.unsigned()
		case "version":
			o.Version = p.unsigned()
		case "events":
			o.Events = p.events()
		case "commands":
			o.Commands = nil
			p.list(func() { o.Commands = append(o.Commands, p.text()) })
		case "items":
			o.Items = int(p.signed(strconv.IntSize))
		case "verification":
			o.Verification = p.text()
		case "received":
			o.Received = p.time()
		case "handled":
			o.Handled = p.time()
		case "size":
			o.Size = int(p.signed(strconv.IntSize))
		case "digest":
			o.Digest = p.text()
		case "correlationid":
			o.Correlation = p.text()
		case "parked_at":
			n := p.signed(64)
			o.ParkedAt = &n
		case "release":
			o.Release = p.text()
		case "by":
			o.By = p.text()
		case "note":
			o.Note = p.text()
		case "replay_of":
			o.ReplayOf = p.text()
		case "attempt":
			o.Attempt = int(p.signed(strconv.IntSize))
		case "partition":
			o.Partition = int32(p.signed(32))
		case "inbox":
			o.Inbox = p.signed(64)
		default:
			p.ok = false
		}
	})
	return o, p.ok && p.rest == ""
}

// appendStreamRow appends what encoding/json makes of r.
func appendStreamRow(b []byte, r StreamRow) ([]byte, error) {
	b = domain.AppendJSONText(append(b, `{"stream":`...), string(r.Stream))
	b = strconv.AppendUint(append(b, `,"version":`...), r.Version, 10)
	b = strconv.AppendInt(append(b, `,"partition":`...), int64(r.Partition), 10)
	b, err1 := appendTime(append(b, `,"first":`...), r.First)
	b, err2 := appendTime(append(b, `,"last":`...), r.Last)
	b = domain.AppendJSONText(append(b, `,"last_type":`...), r.LastType)
	b = domain.AppendJSONText(append(b, `,"last_id":`...), r.LastID)
	return append(b, '}'), errors.Join(err1, err2)
}

// decodeStreamRow reads a row of streams.
func decodeStreamRow(b []byte) (r StreamRow, err error) {
	p := plainJSON{rest: string(b), ok: true}
	p.object(func(key string) {
		switch key {
		case "stream":
			r.Stream = domain.Stream(p.text())
		case "version":
			r.Version = p.unsigned()
		case "partition":
			r.Partition = int32(p.signed(32))
		case "first":
			r.First = p.time()
		case "last":
			r.Last = p.time()
		case "last_type":
			r.LastType = p.text()
		case "last_id":
			r.LastID = p.text()
		default:
			p.ok = false
		}
	})
	if p.ok && p.rest == "" {
		return r, nil
	}
	r = StreamRow{}
	err = json.Unmarshal(b, &r)
	return r, err
}

// plainJSON reads JSON without white space. ok turns false at anything else, and stays so.
type plainJSON struct {
	rest string
	ok   bool
}

func (p *plainJSON) events() (events []domain.EventRef) {
	p.list(func() {
		var e domain.EventRef
		p.object(func(key string) {
			switch key {
			case "id":
				e.ID = p.text()
			case "type":
				e.Type = p.text()
			case "version":
				e.Version = p.unsigned()
			case "offset":
				e.Offset = p.signed(64)
			default:
				p.ok = false
			}
		})
		events = append(events, e)
	})
	return events
}

// eat takes c if it comes next.
func (p *plainJSON) eat(c byte) bool {
	if p.rest == "" || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

func (p *plainJSON) need(c byte) { p.ok = p.eat(c) && p.ok }

func (p *plainJSON) object(field func(key string)) {
	p.need('{')
	for p.ok {
		key := p.text()
		p.need(':')
		if field(key); !p.eat(',') {
			break
		}
	}
	p.need('}')
}

func (p *plainJSON) list(item func()) {
	p.need('[')
	for p.ok {
		if item(); !p.eat(',') {
			break
		}
	}
	p.need(']')
}

// text reads a string. One with an escape, or that isn't plain ASCII, is left to encoding/json.
func (p *plainJSON) text() string {
	p.need('"')
	end := strings.IndexByte(p.rest, '"')
	if end < 0 || !p.ok {
		p.ok = false
		return ""
	}
	s := p.rest[:end]
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '\\' {
			return p.escaped()
		}
	}
	p.rest = p.rest[end+1:]
	return s
}

func (p *plainJSON) escaped() (s string) {
	end := 0
	for end < len(p.rest) && p.rest[end] != '"' {
		if p.rest[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(p.rest) || json.Unmarshal([]byte(`"`+p.rest[:end+1]), &s) != nil {
		p.ok = false
		return ""
	}
	p.rest = p.rest[end+1:]
	return s
}

func (p *plainJSON) digits() string {
	n := 0
	for n < len(p.rest) && (p.rest[n] >= '0' && p.rest[n] <= '9' || p.rest[n] == '-') {
		n++
	}
	s := p.rest[:n]
	p.rest = p.rest[n:]
	if trimmed := strings.TrimPrefix(s, "-"); len(trimmed) > 1 && trimmed[0] == '0' {
		p.ok = false // not a number of JSON
	}
	return s
}

func (p *plainJSON) signed(bits int) int64 {
	n, err := strconv.ParseInt(p.digits(), 10, bits)
	p.ok = p.ok && err == nil
	return n
}

func (p *plainJSON) unsigned() uint64 {
	n, err := strconv.ParseUint(p.digits(), 10, 64)
	p.ok = p.ok && err == nil
	return n
}

func (p *plainJSON) time() time.Time {
	t, err := time.Parse(time.RFC3339, p.text())
	p.ok = p.ok && err == nil
	return t
}
