package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

// Each of these is a way in which some other server of feeds loses events, repeats them or misleads. The names say
// which: KafkaSSE 0.4.3 (wikimedia/KafkaSSE), Mercure and Centrifugo by their issues, Jetstream by that of its first
// version.

func event(p int32, o int64, id string) *eventstore.Record {
	return &eventstore.Record{Partition: p, Offset: o, Event: &domain.Event{ID: id, Type: "a", Stream: "s/1"}}
}

// "Latest" is remembered for a partition that is quiet, and means another place after a reconnect.
func TestKafkaSSE1QuietPartitions(t *testing.T) {
	tail := eventstore.NewTail(at(5, 5, 5), 1<<20)
	f := serve(t, tail, Config{}, nil)
	c := f.connect("", "")
	c.until("penstock.caught-up") // no partition has had an event
	c.close()
	tailOn(tail, []*eventstore.Record{event(2, 5, "while away")})
	if got := f.connect(c.lastID, "").ids(1); got[0] != "while away" {
		t.Error(got)
	}
}

// A time as a position skips what has the same one.
func TestKafkaSSE2SameMillisecond(t *testing.T) {
	var records []*eventstore.Record
	for i := range 9 {
		r := event(int32(i%3), int64(i/3), fmt.Sprintf("%d/%d", i%3, i/3))
		r.Event.Time = noon
		records = append(records, r)
	}
	f := serve(t, tailOf(newRand(t), records), Config{}, nil)
	for cut := range 9 {
		c := f.connect("", "from=earliest")
		got := c.ids(cut)
		if cut == 0 {
			c.next()
		}
		c.close()
		rest := messageIDs(t, f.connect(c.lastID, "").rest())
		if !sameSet(append(got, rest...), idsOf(records)) {
			t.Errorf("cut after %d: %v and %v", cut, got, rest)
		}
	}
}

// Partitions that were added since are never read by who resumes.
func TestKafkaSSE3PartitionGrowth(t *testing.T) {
	log := eventstoretest.Open(t, eventstoretest.Config(t))
	now := log.TailEnd(log.Topics.Events)
	old := eventstore.Position{Topic: now.Topic, Next: []int64{0, 0}}
	got, err := (Start{kind: fromCursor, cursor: old}).In(t.Context(), log, log.Topics.Events, Filter{})
	if err != nil || len(got.Next) != 3 || got.Next[2] != 0 {
		t.Errorf("a cursor from before begins at %v, %v", got.Next, err)
	}
	// Of another topic nothing can be said.
	old.Topic[0]++
	if sub, err := openOn(t.Context(), log, url.Values{"cursor": {old.String()}}); !errors.Is(err, eventstore.ErrReset) {
		t.Errorf("%+v, %v", sub, err)
	}
}

func openOn(ctx context.Context, log *eventstore.Log, q url.Values) (*Subscription, error) {
	req, err := ParseRequest(http.Header{}, q, OfEvents)
	if err != nil {
		return nil, err
	}
	return Open(ctx, Events(log, log.Topics.Events), req)
}

// What retention took is not missed.
func TestKafkaSSE4RetentionPassed(t *testing.T) {
	tail := eventstore.NewTail(at(0, 0, 0), 1)
	for o := range int64(5) { // the tail keeps the newest batch only
		tailOn(tail, []*eventstore.Record{event(0, o, fmt.Sprintf("0/%d", o))})
	}
	f := serve(t, tail, Config{}, nil)
	old := at(1, 0, 0).String()
	if c := f.connect("", "cursor="+old); c.resp.StatusCode == 200 {
		t.Error("an expired cursor is taken")
	}
	// Who prefers to go on is told what happened, and gets what there is.
	for gap, want := range map[string][]string{"earliest": {"0/4"}, "latest": nil} {
		c := f.connect("", "cursor="+old+"&on_gap="+gap)
		b := c.until("penstock.reset")
		begin, end := tail.Reach()
		cursor := map[string]string{"earliest": begin.String(), "latest": end.String()}[gap]
		if b.id != cursor || b.data != fmt.Sprintf(`{"cursor":"%s","reason":"expired","resumed":"%s"}`, cursor, gap) {
			t.Errorf("%s: %+v", gap, b)
		}
		if got := messageIDs(t, c.rest()); !sameSet(got, want) {
			t.Errorf("%s: %v", gap, got)
		}
	}
	// And so on a feed that is under way.
	r := &scripted{tail: tail, errs: []error{eventstore.ErrExpired}}
	sub := &Subscription{Source: f.source(), Reader: r, request: Request{onGap: "earliest"}}
	out := &slowOutlet{}
	s := f.feeds.newStream(sub, &pipe{out: out, progress: time.Hour}, sseEncoder{}, &presence{conn: &connection{transport: overSSE}})
	ctx, cancel := context.WithCancelCause(t.Context())
	out.on("penstock.caught-up", func() { cancel(errShutdown) })
	if err := s.run(ctx); err != errShutdown || !strings.Contains(string(out.got), `"resumed":"earliest"`) || !strings.Contains(string(out.got), `"id":"0/4"`) {
		t.Errorf("%v: %s", err, out.got)
	}
}

// scripted fails before it gives anything.
type scripted struct {
	tail *eventstore.Tail
	errs []error
}

func (s *scripted) Position() eventstore.Position { return s.tail.End() }
func (s *scripted) CaughtUp() bool                { return false }
func (s *scripted) Next(context.Context) (*eventstore.Batch, error) {
	err := s.errs[0]
	s.errs = s.errs[1:]
	return nil, err
}

// A selective client's position stays where its last event was.
func TestKafkaSSE5FilteredEventsMoveTheCursor(t *testing.T) {
	var records []*eventstore.Record
	for o := range int64(1000) {
		records = append(records, event(0, o, "dropped"))
	}
	tail := eventstore.NewTail(at(0, 0, 0), 1<<20)
	tailOn(tail, records)
	f := serve(t, tail, Config{}, nil)
	c := f.connect("", "from=earliest&type=b")
	if b := c.until("penstock.caught-up"); b.id != at(1000, 0, 0).String() {
		t.Errorf("%+v", b)
	}
}

// A record that can't be read is left out, and nobody knows.
func TestKafkaSSE6UndecodableRecordsAreTold(t *testing.T) {
	for name, follow := range map[string]string{"sse": "text/event-stream", "ndjson": "application/x-ndjson"} {
		tail := eventstore.NewTail(at(0, 0, 0), 1<<20)
		tailOn(tail, []*eventstore.Record{event(0, 0, "a"), {Partition: 0, Offset: 1, Err: errors.New("not ours")}, event(0, 2, "b")})
		f := serve(t, tail, Config{}, nil)
		for _, coding := range []string{"", "zstd"} {
			r, _ := http.NewRequestWithContext(t.Context(), "GET", f.url+"/?from=earliest&until=now", nil)
			r.Header.Set("Accept", follow)
			r.Header.Set("Accept-Encoding", coding)
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if coding == "zstd" && name == "ndjson" {
				text, err = zstdReader().DecodeAll(text, nil)
			}
			if err != nil || !strings.Contains(string(text), "unreadable") || !strings.Contains(string(text), `"reason":"0/1"`) || !strings.Contains(string(text), `"id":"b"`) {
				t.Errorf("%s %s: %s, %v", name, coding, text, err)
			}
		}
	}
}

// A feed that is silent looks dead, and all clients come back at the same moment.
func TestKafkaSSE7HeartbeatAndRetry(t *testing.T) {
	tail := eventstore.NewTail(at(1, 2, 3), 1<<20)
	f := serve(t, tail, Config{Heartbeat: time.Nanosecond}, nil)
	waits := map[string]bool{}
	for range 20 {
		c := f.connect("", "")
		c.until("penstock.caught-up")
		waits[c.retry] = true
		if len(waits) == 1 {
			tick(t, tail)
		}
		if b, err := c.next(); err != nil || b != (block{id: at(1, 2, 3).String()}) {
			t.Errorf("a heartbeat: %+v, %v", b, err)
		}
		c.close()
	}
	if len(waits) < 10 {
		t.Errorf("%d clients come back at %d moments", 20, len(waits))
	}
}

// A server's error is an event named error, which EventSource has another meaning for.
func TestKafkaSSE8NoEventIsNamedError(t *testing.T) {
	tail := eventstore.NewTail(at(0, 0, 0), 1<<20)
	f := serve(t, tail, Config{}, nil)
	c := f.connect("", "")
	c.until("penstock.caught-up")
	tail.Fail(errors.New("broken"))
	for {
		b, err := c.next()
		if err != nil {
			break
		}
		if b.name == "error" || b.name == "open" {
			t.Errorf("%+v", b)
		}
	}
	for _, name := range []string{"opened", "caught-up", "snapshot", "progress", "closing", "reset", "unreadable"} {
		if block := string(sseEncoder{}.control(nil, control{name: name, cursor: "x", reason: "y"})); strings.Contains(block, "event: error\n") || strings.Contains(block, "event: open\n") {
			t.Errorf("%q", block)
		}
	}
}

// A browser's first connection can't say where to begin.
func TestKafkaSSE9FirstConnectionResumes(t *testing.T) {
	rng := newRand(t)
	records := history(rng, 10)
	f := serve(t, tailOf(rng, records), Config{}, nil)
	c := f.connect("", "from=earliest")
	first := c.ids(4)
	c.close()
	for _, name := range []string{"cursor", "lastEventId"} {
		if got := messageIDs(t, f.connect("", name+"="+c.lastID).rest()); !sameSet(append(first, got...), idsOf(records)) {
			t.Errorf("%s: %v, then %v", name, first, got)
		}
	}
}

// A part of a position is dropped, and the rest is taken.
func TestKafkaSSE10NoHalfACursor(t *testing.T) {
	good := at(7, 8, 9).String()
	for i := range good {
		for _, c := range "Ab9_" {
			bad := good[:i] + string(c) + good[i+1:]
			if _, err := startAt(bad); err == nil && bad != good {
				t.Errorf("%q is taken for %q", bad, good)
			}
		}
		if _, err := startAt(good[:i]); err == nil {
			t.Errorf("a beginning of %d bytes is taken", i)
		}
	}
}

// The cursor decides what may be read.
func TestKafkaSSE11CursorWidensNothing(t *testing.T) {
	rng := newRand(t)
	records := history(rng, 20)
	f := serve(t, tailOf(rng, records), Config{}, nil)
	var want []string
	for _, r := range records {
		if r.Event.Type == "b" {
			want = append(want, r.Event.ID)
		}
	}
	c := f.connect("", "from=earliest") // a feed of everything
	c.next()
	c.close()
	if got := messageIDs(t, f.connect(c.lastID, "type=b").rest()); !sameSet(got, want) {
		t.Errorf("with a cursor of everything: %v, want %v", got, want)
	}
	outcomes := at(0, 0, 0)
	outcomes.Topic[0]++
	if c := f.connect(outcomes.String(), ""); c.resp.StatusCode == 200 {
		t.Error("a cursor of another topic is taken")
	}
}

// Eighty bytes for every partition in every event and in the request header.
func TestKafkaSSE12CursorsAreShort(t *testing.T) {
	for partitions, most := range map[int]int{8: 110, 12: 140, 100: 800, 256: 2000} {
		p := at(make([]int64, partitions)...)
		for i := range p.Next {
			p.Next[i] = 1 << 34 // 17 billion
		}
		if n := len(p.String()); n > most {
			t.Errorf("%d partitions: %d bytes", partitions, n)
		}
	}
}

// A time or an id of one message is no position where partitions interleave.
func TestKafkaSSE13TimeIsOnlyABeginning(t *testing.T) {
	log := eventstoretest.Open(t, eventstoretest.Config(t))
	ctx := t.Context()
	var want []string
	var begin time.Time
	var writers []*eventstore.Writer
	for p := range 3 {
		w, err := log.OpenWriter(ctx, int32(p))
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		writers = append(writers, w)
	}
	for v := range 6 {
		if v == 3 {
			time.Sleep(2 * time.Millisecond) // Kafka's times are whole milliseconds
			begin = time.Now()
		}
		for p, w := range writers {
			id := fmt.Sprintf("%d/%d", p, v)
			e := domain.Event{ID: id, Type: "t", Source: "/s", Stream: domain.Stream(fmt.Sprintf("a/%d", p)), Version: uint64(v + 1), Time: time.Now()}
			if err := w.Commit(eventstore.Commit{Events: []domain.Event{e}}); err != nil {
				t.Fatal(err)
			}
			if v >= 3 {
				want = append(want, id)
			}
		}
	}
	sub, err := openOn(ctx, log, url.Values{"from": {begin.UTC().Format(time.RFC3339Nano)}, "until": {"now"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	cursor := ""
	for n := 1; ; n++ { // one event at a time, each from the last one's cursor
		p, err := ReadPage(ctx, sub, 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range p.Items {
			got = append(got, idOf(t, item))
		}
		if cursor = p.Position.String(); p.End || n > 40 {
			break
		}
		if sub, err = openOn(ctx, log, url.Values{"cursor": {cursor}, "until": {"now"}}); err != nil {
			t.Fatal(err)
		}
	}
	if !sameSet(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// What lies more than 10,000 events back can't be resumed.
func TestMercure1382LongHistory(t *testing.T) {
	var records []*eventstore.Record
	for o := range int64(25_000) {
		records = append(records, event(int32(o%3), o/3, fmt.Sprintf("%d/%d", o%3, o/3)))
	}
	tail := eventstore.NewTail(at(0, 0, 0), 64<<20)
	for batch := records; len(batch) > 0; batch = batch[min(500, len(batch)):] {
		tailOn(tail, batch[:min(500, len(batch))])
	}
	f := serve(t, tail, Config{}, nil)
	c := f.connect("", "from=earliest")
	first := c.ids(1)
	c.close()
	for name, follow := range over {
		if name == "long-poll" {
			continue // a page at a time; the others must not stop in between
		}
		got := follow(f, url.Values{"cursor": {c.lastID}}, len(records))
		if err := inOrder(got.ids()); err != nil || len(got.messages) != len(records)-1 {
			t.Errorf("%s: %d events after %v, %v", name, len(got.messages), first, err)
		}
	}
}

// An id that the server never saw leaves the client waiting for ever, without an error.
func TestMercure704UnknownCursor(t *testing.T) {
	f := serve(t, eventstore.NewTail(at(0, 0, 0), 1<<20), Config{}, nil)
	for _, id := range []string{"urn:uuid:5e94c686-2c0b-4f9b-958c-92ccc3bbb4eb", "42", at(0, 0).String(), at(0, 0, 0, 0).String()} {
		if c := f.connect(id, ""); c.resp.StatusCode == 200 || c.resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %s", id, c.resp.Status)
		}
	}
}

// A client of Server-Sent Events loses what comes while it reconnects, wherever its connection broke.
func TestCentrifugo510LossAtReconnect(t *testing.T) {
	rng := newRand(t)
	records := history(rng, 30)
	tail := eventstore.NewTail(at(0, 0, 0), 1<<20)
	f := serve(t, tail, Config{}, nil)
	var whole []byte
	lastID, got := at(0, 0, 0).String(), []string{}
	for i := 0; i < len(records); {
		n := min(1+rng.IntN(4), len(records)-i)
		tailOn(tail, records[i:i+n])
		i += n
		// Cut after some bytes: in the middle of a line, of a block, of a chunk.
		conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nLast-Event-ID: %s\r\n\r\n", lastID)
		some := make([]byte, 400+rng.IntN(1500))
		conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		read, _ := io.ReadFull(conn, some)
		conn.Close()
		whole = some[:read]
		lastID, got = blocksIn(whole, lastID, got)
	}
	rest := messageIDs(t, f.connect(lastID, "").rest())
	if got = append(got, rest...); !sameSet(got, idsOf(records)) || inOrder(got) != nil {
		t.Errorf("got %v, want %v", got, idsOf(records))
	}
}

// blocksIn finds the whole blocks in the raw bytes of a response, as a client would before its connection broke.
func blocksIn(raw []byte, lastID string, got []string) (string, []string) {
	_, body, _ := strings.Cut(string(raw), "\r\n\r\n")
	var text strings.Builder
	for body != "" { // chunks
		var size int
		line, rest, ok := strings.Cut(body, "\r\n")
		if _, err := fmt.Sscanf(line, "%x", &size); err != nil || !ok {
			break
		}
		text.WriteString(rest[:min(size, len(rest))])
		if len(rest) < size+2 {
			break
		}
		body = rest[size+2:]
	}
	blocks := strings.Split(text.String(), "\n\n")
	for _, b := range blocks[:len(blocks)-1] {
		for line := range strings.SplitSeq(b, "\n") {
			if id, ok := strings.CutPrefix(line, "id: "); ok {
				lastID = id
			}
			if data, ok := strings.CutPrefix(line, `data: {"specversion":"1.0","id":"`); ok {
				id, _, _ := strings.Cut(data, `"`)
				got = append(got, id)
			}
		}
	}
	return lastID, got
}

// Events are dropped and change places where the replay of old ones goes over into new ones.
func TestJetstreamLegacy42ReplayToLive(t *testing.T) {
	cfg := eventstoretest.Config(t)
	cfg.TailBytes = 32 << 10 // so that the switch happens again and again
	log := eventstoretest.Open(t, cfg)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	const rounds, each = 40, 10
	written := make([]int, 3)
	var writing sync.WaitGroup
	ctx := t.Context()
	for p := range 3 {
		w, err := log.OpenWriter(ctx, int32(p))
		if err != nil {
			t.Fatal(err)
		}
		sizes := rand.New(rand.NewPCG(seed, uint64(p)))
		writing.Go(func() {
			defer w.Close()
			for range rounds {
				var c eventstore.Commit
				for range 1 + sizes.IntN(each) {
					written[p]++
					c.Events = append(c.Events, domain.Event{ID: fmt.Sprintf("%d/%d", p, written[p]), Type: "t", Source: "/s",
						Stream: domain.Stream(fmt.Sprintf("a/%d", p)), Version: uint64(written[p]), Time: noon, Data: make([]byte, 100+sizes.IntN(900))})
				}
				if err := w.Commit(c); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { writing.Wait(); close(done) }()
	cursor, switches := "", 0
	var got []string
	for over := false; ; {
		q := url.Values{"from": {"earliest"}}
		if cursor != "" {
			q.Set("cursor", cursor)
		}
		sub, err := openOn(ctx, log, q)
		if err != nil {
			t.Fatal(err)
		}
		switches++
		p, err := ReadPage(ctx, sub, 1+rng.IntN(60), time.Duration(rng.IntN(3))*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range p.Items {
			got = append(got, idOf(t, item))
		}
		cursor = p.Position.String()
		if over && len(p.Items) == 0 {
			break
		}
		select {
		case <-done:
			over = sub.Source.End().Covers(p.Position) && p.Position.Covers(mustEnd(t, log))
		default:
		}
	}
	want := written[0] + written[1] + written[2]
	if err := inOrder(got); err != nil || len(got) != want || switches < 10 {
		t.Errorf("%d events of %d over %d connections, %v", len(got), want, switches, err)
	}
}

func mustEnd(t *testing.T, log *eventstore.Log) eventstore.Position {
	t.Helper()
	end, err := log.End(t.Context(), log.Topics.Events)
	if err != nil {
		t.Fatal(err)
	}
	return end
}

func idOf(t *testing.T, item []byte) string {
	t.Helper()
	return messageIDs(t, []block{{data: string(item)}})[0]
}
