package eventstore

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/twmb/franz-go/pkg/kgo"
)

// fuzzedRecord makes a record of arbitrary bytes: a header for each line, its name before the first colon.
func fuzzedRecord(key, headers, value []byte) *kgo.Record {
	r := &kgo.Record{Key: key, Value: value}
	for line := range bytes.SplitSeq(headers, []byte("\n")) {
		name, text, _ := bytes.Cut(line, []byte(":"))
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: string(name), Value: text})
	}
	return r
}

// headerLines is what fuzzedRecord reads.
func headerLines(r *kgo.Record) []byte {
	var lines [][]byte
	for _, h := range r.Headers {
		lines = append(lines, append([]byte(h.Key+":"), h.Value...))
	}
	return bytes.Join(lines, []byte("\n"))
}

// FuzzEventRecord reads records of anybody who can write to the topic. What is taken for an event means the same when it
// is written again; all else is corrupt, and says so.
func FuzzEventRecord(f *testing.F) {
	full := domain.Event{
		ID: "6f1d", Type: "github.pull_request.opened", Source: "/sources/github", Stream: "github/octo/hello#12", Version: 3, Schema: 2,
		Time: time.Unix(1, 2).UTC(), ContentType: "application/json", Data: []byte("{}"), Correlation: "d1", Causation: "d1",
		TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Delivery: "d1", Verification: "github; body", ReplayOf: "d0",
	}
	r := eventRecord("e", 0, full, newHeaders(1, eventTexts))
	f.Add(r.Key, headerLines(r), r.Value)
	f.Add([]byte("a/b"), []byte("CE_ID:1\nce_id:2\nce_type:t\nce_subject:a/b\nce_time:2026-01-01T00:00:00+24:00\nce_streamversion:-1"), []byte{0, 255})
	f.Add([]byte{}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, key, headers, value []byte) {
		e, err := eventOf(fuzzedRecord(key, headers, value))
		if err != nil {
			if domain.ClassOf(err) != domain.Corrupt {
				t.Fatalf("an error of class %v: %v", domain.ClassOf(err), err)
			}
			return
		}
		again, err := eventOf(eventRecord("e", 0, e, newHeaders(1, eventTexts)))
		e.Time = e.Time.UTC()
		if e.Schema <= 1 {
			e.Schema, again.Schema = 0, 0 // 1 is the schema of who says none
		}
		if err != nil || !again.Time.Equal(e.Time) {
			t.Fatalf("%+v becomes %+v, %v", e, again, err)
		}
		again.Time = e.Time
		if !reflect.DeepEqual(e, again) {
			t.Fatalf("%+v becomes %+v", e, again)
		}
	})
}

// FuzzEntryRecord does the same with the inbox.
func FuzzEntryRecord(f *testing.F) {
	r := Entry{
		Kind: KindCommand, ID: "c1", Source: "api", Type: "GrantCredit", Stream: "billing/cus_9", Received: time.Unix(1, 2).UTC(), ContentType: "application/json",
		Verification: "v", Expected: new(uint64(7)), Correlation: "c", Causation: "x", TraceParent: "t", Headers: map[string]string{"a": "b"},
		Release: Requeue, By: "b", Note: "n", ReplayOf: "o", Attempt: 2, Body: []byte("{}"),
	}.record("i", 0)
	f.Add(r.Key, headerLines(r), r.Value)
	f.Add([]byte("a/b"), []byte("ps_kind:delivery\nps_id:1\nps_received:2026-01-01T00:00:00.5Z\nps_headers:{\"a\":\"b\",\"a\":\"c\"}\nps_expected:+1\nps_attempt:-0"), []byte{0, 255})
	f.Add([]byte{}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, key, headers, value []byte) {
		e, err := entryOf(fuzzedRecord(key, headers, value))
		if err != nil {
			if domain.ClassOf(err) != domain.Corrupt {
				t.Fatalf("an error of class %v: %v", domain.ClassOf(err), err)
			}
			return
		}
		again, err := entryOf(e.record("i", 0))
		if err != nil || !again.Received.Equal(e.Received) {
			t.Fatalf("%+v becomes %+v, %v", e, again, err)
		}
		again.Received = e.Received
		if e.Attempt <= 0 {
			e.Attempt, again.Attempt = 0, 0 // as good as unsaid
		}
		if len(e.Headers) == 0 {
			e.Headers, again.Headers = nil, nil
		}
		if !reflect.DeepEqual(e, again) {
			t.Fatalf("%+v becomes %+v", e, again)
		}
	})
}

// FuzzStreamRow reads what may stand in a table after all kinds of accidents.
func FuzzStreamRow(f *testing.F) {
	b, err := appendStreamRow(nil, StreamRow{Stream: "a/b", Version: 3, First: time.Unix(1, 0).UTC(), Last: time.Unix(2, 0).UTC(), LastType: "t", LastID: "i"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{ "stream":"é\u00e9","version":1e3}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		row, err := decodeStreamRow(b)
		if err != nil {
			return
		}
		text, err := appendStreamRow(nil, row)
		if err != nil {
			return // a time without an RFC 3339 form
		}
		if again, err := decodeStreamRow(text); err != nil || again.Version != row.Version || !again.First.Equal(row.First) || !again.Last.Equal(row.Last) {
			t.Fatalf("%+v becomes %+v, %v", row, again, err)
		}
	})
}
