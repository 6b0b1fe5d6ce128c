package eventstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

func TestAppendAllKeepsTheOrder(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	const stream, tooLarge, count = "a/x", 7, 500
	var entries []eventstore.Entry
	for i := range count {
		e := eventstore.Entry{Kind: eventstore.KindDelivery, ID: fmt.Sprint(i), Source: "a", Type: "t.happened", Stream: stream, Received: time.Now()}
		if e.Body = []byte(e.ID); i == tooLarge {
			e.Body = make([]byte, eventstore.MaxRecordBytes+1)
		}
		entries = append(entries, e)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for i, err := range l.AppendAll(ctx, entries) {
		if i == tooLarge && domain.ClassOf(err) != domain.TooLarge || i != tooLarge && err != nil {
			t.Errorf("entry %d: %v", i, err)
		}
	}
	for i, offset := 0, int64(0); i < count; i++ {
		if i == tooLarge {
			continue
		}
		if i < 20 || i%50 == 0 {
			e, err := l.ReadInbox(ctx, l.PartitionOf(stream), offset)
			if err != nil || e.ID != fmt.Sprint(i) || string(e.Body) != e.ID {
				t.Fatalf("at offset %d stands %q, %v, want %d", offset, e.ID, err, i)
			}
		}
		offset++
	}
	over, end := context.WithCancel(ctx)
	end()
	for i, err := range l.AppendAll(over, entries[:3]) {
		if domain.ClassOf(err) != domain.Unavailable {
			t.Errorf("entry %d after the end: %v", i, err)
		}
	}
	if errs := l.AppendAll(ctx, nil); len(errs) != 0 {
		t.Errorf("of nothing: %v", errs)
	}
}
