package eventstore

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The kinds of inbox record.
const (
	KindDelivery = "delivery"
	KindCommand  = "command"
	// KindForeign is the kind of an outcome for an inbox record that none of ours wrote. It belongs to no stream.
	KindForeign = "foreign"
)

// What an operator can want of a parked entry.
const (
	Requeue = "requeue"
	Discard = "discard"
)

// Entry is one inbox record: a verified delivery or a command, as received.
type Entry struct {
	Kind         string
	ID           string // delivery id of the provider, or command id
	Source       string // name of the source, "api", or "policy/‹name›"
	Type         string // event type of the delivery, or command type
	Stream       domain.Stream
	Received     time.Time
	ContentType  string
	Verification string
	Expected     *uint64 // commands: expected version
	Correlation  string
	Causation    string
	TraceParent  string
	Headers      map[string]string // deliveries: the allow-listed request headers
	// Release, By and Note are set on an entry that was parked before: an operator wants it handled again ("requeue")
	// or dropped ("discard"), and says who and why.
	Release string
	By      string
	Note    string
	// ReplayOf is the id of the delivery that this one repeats on an operator's behalf; By and Note say whose and why.
	ReplayOf string
	Attempt  int    // deliveries: which try of the provider it is, from 1; 0 when it doesn't say
	Body     []byte // exact bytes

	// Partition and Offset say where the entry stands; filled in when it is read.
	Partition int32
	Offset    int64
	// Foreign is set on a record that is not one of ours: why it can't be read.
	Foreign error
}

// Cause identifies what the entry may do once: a delivery within its source, a command everywhere.
func (e Entry) Cause() string { return string(causeKey(e.Kind, e.Source, e.ID)) }

// Digest identifies what a command asks for, so that the same id with another content can be told apart. Deliveries have
// none: whoever sends another content under the same id is told that it is a duplicate all the same.
func (e Entry) Digest() string {
	if e.Kind != KindCommand {
		return ""
	}
	h := sha256.New()
	fmt.Fprintf(h, "%d:%s%d:", len(e.Type), e.Type, len(e.Body))
	h.Write(e.Body)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// record encodes an entry. The header names are frozen by golden files.
func (e Entry) record(topic string, partition int32) *kgo.Record {
	h := newHeaders(1, e.texts())
	h.add("ps_kind", e.Kind)
	h.add("ps_id", e.ID)
	h.add("ps_source", e.Source)
	h.add("ps_type", e.Type)
	h.add("ps_received", e.Received.UTC().Format(time.RFC3339Nano))
	h.add("content-type", e.ContentType)
	h.add("ps_verification", e.Verification)
	if e.Expected != nil {
		h.add("ps_expected", strconv.FormatUint(*e.Expected, 10))
	}
	h.add("ps_correlationid", e.Correlation)
	h.add("ps_causationid", e.Causation)
	h.add("ps_traceparent", e.TraceParent)
	h.add("ps_release", e.Release)
	h.add("ps_by", e.By)
	h.add("ps_note", e.Note)
	h.add("ps_replayof", e.ReplayOf)
	if e.Attempt > 0 {
		h.add("ps_attempt", strconv.Itoa(e.Attempt))
	}
	if len(e.Headers) > 0 {
		h.addObject("ps_headers", e.Headers)
	}
	return &kgo.Record{Topic: topic, Partition: partition, Key: []byte(e.Stream), Value: e.Body, Headers: h.take()}
}

// texts is about how many bytes its header values take.
func (e Entry) texts() int {
	n := 160 + len(e.ID) + len(e.Source) + len(e.Type) + len(e.ContentType) + len(e.Verification) + len(e.Correlation) +
		len(e.Causation) + len(e.TraceParent) + len(e.By) + len(e.Note) + len(e.ReplayOf)
	for key, value := range e.Headers {
		n += len(key) + len(value) + 6
	}
	return n
}

func entryOf(r *kgo.Record) (Entry, error) {
	h := readHeaders(r)
	e := Entry{
		Kind: h.get("ps_kind"), ID: h.get("ps_id"), Source: h.get("ps_source"), Type: h.get("ps_type"),
		Stream: domain.Stream(r.Key), ContentType: h.get("content-type"), Verification: h.get("ps_verification"),
		Correlation: h.get("ps_correlationid"), Causation: h.get("ps_causationid"), TraceParent: h.get("ps_traceparent"),
		Release: h.get("ps_release"), By: h.get("ps_by"), Note: h.get("ps_note"), ReplayOf: h.get("ps_replayof"),
		Body: r.Value, Partition: r.Partition, Offset: r.Offset,
	}
	var errs []error
	var err error
	if e.Received, err = time.Parse(time.RFC3339Nano, h.get("ps_received")); err != nil {
		errs = append(errs, err)
	}
	if v, ok := h.find("ps_expected"); ok {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			errs = append(errs, err)
		}
		e.Expected = &n
	}
	if v, ok := h.find("ps_attempt"); ok {
		if e.Attempt, err = strconv.Atoi(v); err != nil {
			errs = append(errs, err)
		}
	}
	if v, ok := h.find("ps_headers"); ok {
		if e.Headers, err = readObject(v); err != nil {
			errs = append(errs, err)
		}
	}
	if (e.Kind != KindDelivery && e.Kind != KindCommand) || e.ID == "" {
		errs = append(errs, fmt.Errorf("kind %q, id %q", e.Kind, e.ID))
	}
	if _, err := domain.ParseStream(string(e.Stream)); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return e, &domain.Error{Class: domain.Corrupt, Message: fmt.Sprintf("inbox record %d/%d", r.Partition, r.Offset), Err: errors.Join(errs...)}
	}
	return e, nil
}

// eventRecord encodes an event in the Kafka binary mode of CloudEvents 1.0.2
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md).
// Its headers are taken from h.
func eventRecord(topic string, partition int32, e domain.Event, h *headers) *kgo.Record {
	h.add("ce_specversion", "1.0")
	h.add("ce_id", e.ID)
	h.add("ce_type", e.Type)
	h.add("ce_source", e.Source)
	h.add("ce_subject", string(e.Stream))
	h.add("ce_time", e.Time.UTC().Format(time.RFC3339Nano))
	h.add("content-type", e.ContentType)
	h.add("ce_streamversion", strconv.FormatUint(e.Version, 10))
	h.add("ce_correlationid", e.Correlation)
	h.add("ce_causationid", e.Causation)
	h.add("ce_traceparent", e.TraceParent)
	h.add("ce_deliveryid", e.Delivery)
	h.add("ce_verification", e.Verification)
	h.add("ce_replayof", e.ReplayOf)
	if e.Schema > 1 {
		h.add("ce_schemaversion", strconv.Itoa(e.Schema))
	}
	return &kgo.Record{Topic: topic, Partition: partition, Key: []byte(e.Stream), Value: e.Data, Headers: h.take()}
}

func eventOf(r *kgo.Record) (domain.Event, error) {
	h := readHeaders(r)
	e := domain.Event{
		ID: h.get("ce_id"), Type: h.get("ce_type"), Source: h.get("ce_source"), Stream: domain.Stream(h.get("ce_subject")),
		ContentType: h.get("content-type"), Data: r.Value, Correlation: h.get("ce_correlationid"), Causation: h.get("ce_causationid"),
		TraceParent: h.get("ce_traceparent"), Delivery: h.get("ce_deliveryid"), Verification: h.get("ce_verification"),
		ReplayOf: h.get("ce_replayof"),
	}
	t, err1 := time.Parse(time.RFC3339Nano, h.get("ce_time"))
	v, err2 := strconv.ParseUint(h.get("ce_streamversion"), 10, 64)
	e.Time, e.Version = t, v
	var err3 error
	if sv, ok := h.find("ce_schemaversion"); ok {
		e.Schema, err3 = strconv.Atoi(sv)
	}
	if err := errors.Join(err1, err2, err3); err != nil || e.ID == "" || e.Type == "" || string(r.Key) != h.get("ce_subject") {
		return e, &domain.Error{Class: domain.Corrupt, Message: fmt.Sprintf("events record %d/%d is not an event of ours", r.Partition, r.Offset), Err: err}
	}
	return e, nil
}

// headers collects record headers and leaves out empty ones, so that absent and empty stay the same thing. The values
// share one buffer, and the records of one commit both.
type headers struct {
	list  []kgo.RecordHeader
	text  []byte
	taken int
}

// eventTexts is about how many bytes the header values of an event take.
const eventTexts = 384

// newHeaders makes room for those of so many records, and so many bytes of values. More are no mistake.
func newHeaders(records, texts int) *headers {
	return &headers{list: make([]kgo.RecordHeader, 0, 12*records), text: make([]byte, 0, texts)}
}

// take returns the headers that were added since it was called last.
func (h *headers) take() []kgo.RecordHeader {
	from := h.taken
	h.taken = len(h.list)
	return h.list[from:h.taken:h.taken]
}

func (h *headers) add(key, value string) {
	if value != "" {
		from := len(h.text)
		h.text = append(h.text, value...)
		h.list = append(h.list, kgo.RecordHeader{Key: key, Value: h.text[from:len(h.text):len(h.text)]})
	}
}

func (h *headers) addObject(key string, object map[string]string) {
	from := len(h.text)
	h.text = appendObject(h.text, object)
	h.list = append(h.list, kgo.RecordHeader{Key: key, Value: h.text[from:len(h.text):len(h.text)]})
}

// texts are the header values of a record, as parts of one string.
type texts struct {
	list []kgo.RecordHeader
	all  string
}

func readHeaders(r *kgo.Record) texts {
	n := 0
	for _, h := range r.Headers {
		n += len(h.Value)
	}
	all := make([]byte, 0, n)
	for _, h := range r.Headers {
		all = append(all, h.Value...)
	}
	return texts{r.Headers, string(all)}
}

// find returns the last value of a header, whatever the case of its name.
func (t texts) find(name string) (value string, ok bool) {
	at := 0
	for _, h := range t.list {
		if len(h.Key) == len(name) && strings.EqualFold(h.Key, name) {
			value, ok = t.all[at:at+len(h.Value)], true
		}
		at += len(h.Value)
	}
	return value, ok
}

func (t texts) get(name string) string {
	value, _ := t.find(name)
	return value
}
