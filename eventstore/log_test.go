package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

func event(stream string, version uint64, size int) domain.Event {
	return domain.Event{
		ID: fmt.Sprintf("%s-%d", stream, version), Type: "t.happened", Source: "/test", Stream: domain.Stream(stream), Version: version,
		Time: time.Now().UTC(), ContentType: "text/plain", Data: []byte(strings.Repeat("x", size)),
	}
}

func writer(t *testing.T, l *eventstore.Log, p int32) *eventstore.Writer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	w, err := l.OpenWriter(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// write commits n events in transactions of a few, over all partitions, and returns how many went where.
func write(t *testing.T, l *eventstore.Log, ws []*eventstore.Writer, versions []uint64, n, size int) {
	t.Helper()
	for n > 0 {
		p := rand.IntN(len(ws))
		var c eventstore.Commit
		for range min(n, 1+rand.IntN(20)) {
			versions[p]++
			c.Events = append(c.Events, event(fmt.Sprintf("s/%d", p), versions[p], size))
			n--
		}
		if err := ws[p].Commit(c); err != nil {
			t.Fatal(err)
		}
	}
}

// collect follows from a position until want records came, and demands each once and in its partition's order.
func collect(t *testing.T, f *eventstore.Follower, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	last, first, got := map[int32]uint64{}, map[int32]bool{}, 0
	for got < want {
		b, err := f.Next(ctx)
		if err != nil {
			t.Fatalf("after %d of %d: %v", got, want, err)
		}
		for _, r := range b.Records {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
			if v := r.Event.Version; first[r.Partition] && v != last[r.Partition]+1 {
				t.Fatalf("partition %d: version %d after %d", r.Partition, v, last[r.Partition])
			}
			first[r.Partition], last[r.Partition] = true, r.Event.Version
			if r.Offset >= b.Next.Next[r.Partition] {
				t.Fatalf("record %d/%d lies beyond its batch's position %v", r.Partition, r.Offset, b.Next.Next)
			}
			got++
		}
	}
	if got != want {
		t.Fatalf("%d records, want %d", got, want)
	}
}

func TestFollowingFromAnyPositionIsCompleteAcrossTheTailsEdge(t *testing.T) {
	cfg := eventstoretest.Config(t)
	cfg.TailBytes = 64 << 10 // far less than what is written
	l := eventstoretest.Open(t, cfg)
	topic := l.Topics.Events
	ws, versions := make([]*eventstore.Writer, l.Partitions()), make([]uint64, l.Partitions())
	for p := range ws {
		ws[p] = writer(t, l, int32(p))
	}
	start, err := l.Start(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	early, err := l.Follow(t.Context(), topic, start)
	if err != nil {
		t.Fatal(err)
	}
	write(t, l, ws, versions, 1500, 200)
	done := make(chan bool)
	go func() { // more arrives while the reader catches up
		defer close(done)
		write(t, l, ws, versions, 500, 200)
	}()
	collect(t, early, 2000)
	<-done
	eventstoretest.Until(t, "the tail has everything, markers included", func() bool {
		end, err := l.End(t.Context(), topic)
		return err == nil && l.TailEnd(topic).Covers(end)
	})
	late, err := l.Follow(t.Context(), topic, start)
	if err != nil {
		t.Fatal(err)
	}
	collect(t, late, 2000)
	end := l.TailEnd(topic)
	eventstoretest.Until(t, "the follower's position passes the last marker", func() bool {
		if late.CaughtUp() {
			return true
		}
		_, err := late.Next(t.Context())
		return err != nil
	})
	if !late.Position().Covers(end) {
		t.Errorf("at %v, the end is %v", late.Position().Next, end.Next)
	}
}

func TestPositionsThatCantBeHonouredAreRefused(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	topic := l.Topics.Events
	end, err := l.End(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	future := end.Clone()
	future.Next[1] += 5
	if _, err := l.Follow(t.Context(), topic, future); !errors.Is(err, eventstore.ErrFuture) {
		t.Errorf("future: %v", err)
	}
	foreign := end.Clone()
	foreign.Topic[3]++
	if _, err := l.Follow(t.Context(), topic, foreign); !errors.Is(err, eventstore.ErrReset) {
		t.Errorf("foreign: %v", err)
	}
	short := end.Clone()
	short.Next = short.Next[:1]
	if _, err := l.Follow(t.Context(), topic, short); !errors.Is(err, eventstore.ErrReset) {
		t.Errorf("another partition count: %v", err)
	}
}

func TestANewWriterFencesTheOldOne(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	old := writer(t, l, 1)
	if err := old.Commit(eventstore.Commit{Events: []domain.Event{event("s/a", 1, 1)}}); err != nil {
		t.Fatal(err)
	}
	next := writer(t, l, 1)
	events, _ := next.Ends()
	if err := old.Commit(eventstore.Commit{Events: []domain.Event{event("s/a", 2, 1)}}); !errors.Is(err, eventstore.ErrFenced) {
		t.Fatalf("the old writer: %v", err)
	}
	if err := next.Commit(eventstore.Commit{Events: []domain.Event{event("s/a", 2, 1)}}); err != nil {
		t.Fatal(err)
	}
	start, err := l.Start(t.Context(), l.Topics.Events)
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.Follow(t.Context(), l.Topics.Events, start)
	if err != nil {
		t.Fatal(err)
	}
	collect(t, f, 2)
	if events < 2 { // one event and its marker
		t.Errorf("the new writer saw the end at %d", events)
	}
}

func TestLargeRecordsGoThroughAndLargerOnesAreRefused(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	e := eventstore.Entry{Kind: eventstore.KindDelivery, ID: "big", Source: "s", Type: "t", Stream: "s/k", Received: time.Now(), Body: make([]byte, 25<<20)}
	for i := range e.Body { // not compressible
		e.Body[i] = byte(rand.Uint32())
	}
	if err := l.Append(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	e.Body = append(e.Body, e.Body[:4<<20]...)
	if err := l.Append(t.Context(), e); domain.ClassOf(err) != domain.TooLarge {
		t.Errorf("29 MiB: %v", err)
	}
}

func TestTopicsOfAnotherShapeAreRefused(t *testing.T) {
	cfg := eventstoretest.Config(t)
	eventstoretest.Open(t, cfg)
	cfg.Partitions = 5 // those that exist keep theirs
	if l := eventstoretest.Open(t, cfg); l.Partitions() != 3 {
		t.Errorf("%d partitions", l.Partitions())
	}
}

func TestTheEmbeddedBrokerStaysOnLoopback(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "nonsense"} {
		if e, err := eventstore.StartEmbedded(addr, t.TempDir(), eventstoretest.Logger(t)); err == nil {
			e.Close()
			t.Errorf("%q was accepted", addr)
		}
	}
}
