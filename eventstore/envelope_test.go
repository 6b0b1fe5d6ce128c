package eventstore

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/twmb/franz-go/pkg/kgo"
)

var update = flag.Bool("update", false, "write golden files that are missing; existing ones are never changed")

// golden is a record as other programs see it.
type golden struct {
	Key     string     `json:"key"`
	Headers [][]string `json:"headers"`
	Value   string     `json:"value"`
}

// TestWireFormatIsFrozen compares with files that are only ever added to: other teams' consumers, and our own later
// versions, read what we wrote.
func TestWireFormatIsFrozen(t *testing.T) {
	at := time.Date(2026, 11, 24, 21, 0, 0, 123456789, time.UTC)
	event := domain.Event{
		ID: "6f1d", Type: "github.pull_request.opened", Source: "/sources/github", Stream: "github/octo/hello#12", Version: 3,
		Time: at, ContentType: "application/json", Data: []byte("{\"a\": 1}\n"), Correlation: "d1", Causation: "d1",
		TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Delivery: "d1", Verification: "github; body",
	}
	command := Entry{
		Kind: KindCommand, ID: "c1", Source: "api", Type: "GrantCredit", Stream: "billing/cus_9", Received: at, ContentType: "application/json",
		Expected: new(uint64(0)), Correlation: "c1", Causation: "x", Body: []byte(`{"customer":"cus_9"}`),
	}
	delivery := Entry{
		Kind: KindDelivery, ID: "d1", Source: "github", Type: "github.ping", Stream: "github/octo/hello", Received: at,
		ContentType: "application/json", Verification: "github; body", Headers: map[string]string{"user-agent": "GitHub-Hookshot/1", "a": "b"}, Body: []byte{0, 255, '\n'},
	}
	replayed, replay := event, delivery
	replayed.ReplayOf, replay.ReplayOf, replay.Attempt = "d0", "d0", 2
	lifted := event
	lifted.Schema = 2
	records := map[string]*kgo.Record{
		"v1/event.json": eventRecord("e", 0, event, newHeaders(1, eventTexts)), "v1/event-schema-2.json": eventRecord("e", 0, lifted, newHeaders(1, eventTexts)),
		"v1/command.json": command.record("i", 0), "v1/delivery.json": delivery.record("i", 0),
		"v1/event-replay.json": eventRecord("e", 0, replayed, newHeaders(1, eventTexts)), "v1/delivery-replay.json": replay.record("i", 0),
	}
	for name, r := range records {
		g := golden{Key: string(r.Key), Value: string(r.Value)}
		for _, h := range r.Headers {
			g.Headers = append(g.Headers, []string{h.Key, string(h.Value)})
		}
		got, err := json.MarshalIndent(g, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name)
		want, err := os.ReadFile(path)
		if os.IsNotExist(err) && *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err != nil || string(want) != string(got)+"\n" {
			t.Errorf("%s: %v\nnow written as\n%s", name, err, got)
		}
	}
	for name, want := range map[string]domain.Event{"v1/event.json": event, "v1/event-schema-2.json": lifted, "v1/event-replay.json": replayed} {
		if back, err := eventOf(records[name]); err != nil || !reflect.DeepEqual(back, want) {
			t.Errorf("%+v, %v", back, err)
		}
	}
	for name, want := range map[string]Entry{"v1/command.json": command, "v1/delivery.json": delivery, "v1/delivery-replay.json": replay} {
		if back, err := entryOf(records[name]); err != nil || !reflect.DeepEqual(back, want) {
			t.Errorf("%+v, %v", back, err)
		}
	}
	for _, want := range []domain.Event{lifted, replayed} {
		if stored, err := decodeEvent(encodeEvent(want)); err != nil || !reflect.DeepEqual(stored, want) {
			t.Errorf("%+v, %v", stored, err)
		}
	}
}

func TestForeignRecordsAreErrorsNotPanics(t *testing.T) {
	for _, r := range []*kgo.Record{{}, {Key: []byte("a/b")}, {Key: []byte("a/b"), Headers: []kgo.RecordHeader{{Key: "ce_id", Value: []byte("x")}}}} {
		if _, err := eventOf(r); domain.ClassOf(err) != domain.Corrupt {
			t.Errorf("event: %v", err)
		}
		if _, err := entryOf(r); domain.ClassOf(err) != domain.Corrupt {
			t.Errorf("entry: %v", err)
		}
	}
	if _, err := outcomeOf(&kgo.Record{Value: []byte("{")}); domain.ClassOf(err) != domain.Corrupt {
		t.Errorf("outcome: %v", err)
	}
}
