package eventstore

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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
	Body    []byte // exact bytes

	// Partition and Offset say where the entry stands; filled in when it is read.
	Partition int32
	Offset    int64
	// Foreign is set on a record that is not one of ours: why it can't be read.
	Foreign error
}

// Cause identifies what the entry may do once: a delivery within its source, a command everywhere.
func (e Entry) Cause() string { return string(causeKey(e.Kind, e.Source, e.ID)) }

// Digest identifies what an entry asks for, so that the same id with another content can be told apart.
func (e Entry) Digest() string {
	h := sha256.New()
	fmt.Fprintf(h, "%d:%s%d:%s", len(e.Type), e.Type, len(e.Body), e.Body)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// record encodes an entry. The header names are frozen by golden files.
func (e Entry) record(topic string, partition int32) *kgo.Record {
	h := headers{}
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
	if len(e.Headers) > 0 {
		b, _ := json.Marshal(e.Headers) // a map of strings always encodes, with sorted keys
		h.add("ps_headers", string(b))
	}
	return &kgo.Record{Topic: topic, Partition: partition, Key: []byte(e.Stream), Value: e.Body, Headers: h.list}
}

func entryOf(r *kgo.Record) (Entry, error) {
	h := readHeaders(r)
	e := Entry{
		Kind: h["ps_kind"], ID: h["ps_id"], Source: h["ps_source"], Type: h["ps_type"],
		Stream: domain.Stream(r.Key), ContentType: h["content-type"], Verification: h["ps_verification"],
		Correlation: h["ps_correlationid"], Causation: h["ps_causationid"], TraceParent: h["ps_traceparent"],
		Release: h["ps_release"], By: h["ps_by"], Note: h["ps_note"],
		Body: r.Value, Partition: r.Partition, Offset: r.Offset,
	}
	var errs []error
	var err error
	if e.Received, err = time.Parse(time.RFC3339Nano, h["ps_received"]); err != nil {
		errs = append(errs, err)
	}
	if v, ok := h["ps_expected"]; ok {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			errs = append(errs, err)
		}
		e.Expected = &n
	}
	if v, ok := h["ps_headers"]; ok {
		if err := json.Unmarshal([]byte(v), &e.Headers); err != nil {
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
func eventRecord(topic string, partition int32, e domain.Event) *kgo.Record {
	h := headers{}
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
	if e.Schema > 1 {
		h.add("ce_schemaversion", strconv.Itoa(e.Schema))
	}
	return &kgo.Record{Topic: topic, Partition: partition, Key: []byte(e.Stream), Value: e.Data, Headers: h.list}
}

func eventOf(r *kgo.Record) (domain.Event, error) {
	h := readHeaders(r)
	e := domain.Event{
		ID: h["ce_id"], Type: h["ce_type"], Source: h["ce_source"], Stream: domain.Stream(h["ce_subject"]),
		ContentType: h["content-type"], Data: r.Value, Correlation: h["ce_correlationid"], Causation: h["ce_causationid"],
		TraceParent: h["ce_traceparent"], Delivery: h["ce_deliveryid"], Verification: h["ce_verification"],
	}
	t, err1 := time.Parse(time.RFC3339Nano, h["ce_time"])
	v, err2 := strconv.ParseUint(h["ce_streamversion"], 10, 64)
	e.Time, e.Version = t, v
	var err3 error
	if sv, ok := h["ce_schemaversion"]; ok {
		e.Schema, err3 = strconv.Atoi(sv)
	}
	if err := errors.Join(err1, err2, err3); err != nil || e.ID == "" || e.Type == "" || string(r.Key) != h["ce_subject"] {
		return e, &domain.Error{Class: domain.Corrupt, Message: fmt.Sprintf("events record %d/%d is not an event of ours", r.Partition, r.Offset), Err: err}
	}
	return e, nil
}

func outcomeRecord(topic string, o domain.Outcome) (*kgo.Record, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode outcome %s: %w", o.ID, err)
	}
	return &kgo.Record{Topic: topic, Partition: o.Partition, Key: []byte(o.Stream), Value: b,
		Headers: []kgo.RecordHeader{{Key: "content-type", Value: []byte("application/json")}}}, nil
}

func outcomeOf(r *kgo.Record) (domain.Outcome, error) {
	var o domain.Outcome
	if err := json.Unmarshal(r.Value, &o); err != nil {
		return o, &domain.Error{Class: domain.Corrupt, Message: fmt.Sprintf("outcomes record %d/%d", r.Partition, r.Offset), Err: err}
	}
	return o, nil
}

// headers collects record headers and leaves out empty ones, so that absent and empty stay the same thing.
type headers struct{ list []kgo.RecordHeader }

func (h *headers) add(key, value string) {
	if value != "" {
		h.list = append(h.list, kgo.RecordHeader{Key: key, Value: []byte(value)})
	}
}

func readHeaders(r *kgo.Record) map[string]string {
	m := make(map[string]string, len(r.Headers))
	for _, h := range r.Headers {
		m[strings.ToLower(h.Key)] = string(h.Value)
	}
	return m
}
