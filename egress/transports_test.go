package egress

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/klauspost/compress/zstd"
	"github.com/penstock-io/penstock/eventstore"
)

// page answers as the node does with a page of JSON.
func (f *feed) page(w http.ResponseWriter, r *http.Request, sub *Subscription) {
	wait, _ := time.ParseDuration(r.Header.Get("Wait")) // none without it
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil {
		limit = 100
	}
	p, refused, err := f.feeds.Poll(r, sub, limit, wait)
	switch {
	case refused != nil:
		w.WriteHeader(refused.Status)
	case err != nil:
		f.feeds.refuseError(w, err)
	default:
		fmt.Fprintf(w, `{"items":[%s],"next":"%s","end":%t,"closed":%t}`, bytes.Join(p.Items, []byte(",")), p.Position, p.End, p.Closed)
	}
}

// said is a message of a feed, whatever the transport.
type said struct {
	Penstock, Subscription, Reason, Resumed string
	Cursor                                  string
	ID, Type                                string // of an event
	Op, Key                                 string // of a change
	Snapshot                                bool
	Problem                                 struct{ Detail string }
}

// take is what a client got of a feed until it was caught up, complete, or had got as many messages as it wanted.
type take struct {
	messages []said
	cursor   string // to go on from
	end      bool   // the feed is complete
}

func (t take) ids() (ids []string) {
	for _, m := range t.messages {
		if m.ID != "" {
			ids = append(ids, m.ID)
		} else {
			ids = append(ids, m.Key)
		}
	}
	return ids
}

// over are the four transports, each as a client that takes at most n messages of a feed.
var over = map[string]func(f *feed, q url.Values, n int) take{
	"sse": func(f *feed, q url.Values, n int) (got take) {
		c := f.connect("", q.Encode())
		defer c.close()
		if c.resp.StatusCode == http.StatusNoContent {
			return take{end: true}
		}
		for len(got.messages) < n {
			b, err := c.next()
			if err != nil {
				f.t.Fatal(err)
			}
			if b.id != "" {
				got.cursor = b.id
			}
			var m said
			if b.data != "" {
				if err := json.Unmarshal([]byte(b.data), &m); err != nil {
					f.t.Fatal(err)
				}
			}
			switch b.name {
			case "message":
				got.messages = append(got.messages, m)
			case "penstock.caught-up":
				if q.Get("until") == "" {
					return got
				}
			case "penstock.closing":
				got.end = m.Reason == done
				return got
			}
		}
		return got
	},
	"websocket": func(f *feed, q url.Values, n int) (got take) {
		c := f.socket("/?"+q.Encode(), "penstock.v1")
		defer c.CloseNow()
		return got.from(f, q, n, func() ([]byte, error) {
			_, b, err := c.Read(f.t.Context())
			return b, err
		})
	},
	"ndjson": func(f *feed, q url.Values, n int) (got take) {
		body := f.lines(q, "")
		defer body.Close()
		r := bufio.NewReader(body)
		return got.from(f, q, n, func() ([]byte, error) { return r.ReadBytes('\n') })
	},
	"long-poll": func(f *feed, q url.Values, n int) (got take) {
		q = clone(q)
		for len(got.messages) < n {
			q.Set("limit", strconv.Itoa(min(3, n-len(got.messages))))
			p := f.poll(q, 0)
			got.messages, got.cursor, got.end = append(got.messages, p.Items...), p.Next, p.End
			if len(p.Items) == 0 || p.End {
				return got
			}
			q.Del("from")
			q.Set("cursor", p.Next)
		}
		return got
	},
}

// from reads messages of JSON.
func (got take) from(f *feed, q url.Values, n int, next func() ([]byte, error)) take {
	for len(got.messages) < n {
		b, err := next()
		if err != nil {
			f.t.Fatal(err)
		}
		var m said
		if err := json.Unmarshal(b, &m); err != nil {
			f.t.Fatalf("%q: %v", b, err)
		}
		if m.Cursor != "" {
			got.cursor = m.Cursor
		}
		switch m.Penstock {
		case "":
			got.messages = append(got.messages, m)
		case "caught-up":
			if q.Get("until") == "" {
				return got
			}
		case "closing":
			got.end = m.Reason == done
			return got
		}
	}
	return got
}

func clone(q url.Values) url.Values {
	c := url.Values{}
	for name, values := range q {
		c[name] = slices.Clone(values)
	}
	return c
}

func (f *feed) socket(path string, protocols ...string) *websocket.Conn {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 30*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, f.url+path, &websocket.DialOptions{Subprotocols: protocols})
	if err != nil {
		f.t.Fatal(err)
	}
	c.SetReadLimit(64 << 20)
	f.t.Cleanup(func() { c.CloseNow() })
	return c
}

// lines opens a feed as NDJSON and undoes its coding.
func (f *feed) lines(q url.Values, coding string) io.ReadCloser {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), "GET", f.url+"/?"+q.Encode(), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header.Set("Accept", "application/x-ndjson")
	r.Header.Set("Accept-Encoding", coding)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { resp.Body.Close() })
	if got := resp.Header.Get("Content-Encoding"); resp.StatusCode != 200 || got != coding || resp.Header.Get("Content-Type") != "application/x-ndjson" {
		f.t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	return resp.Body
}

type polled struct {
	Items       []said
	Next        string
	End, Closed bool
}

func (f *feed) poll(q url.Values, wait time.Duration) (p polled) {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), "GET", f.url+"/page?"+q.Encode(), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header.Set("Wait", wait.String())
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 || json.NewDecoder(resp.Body).Decode(&p) != nil {
		f.t.Fatalf("a page: %s", resp.Status)
	}
	return p
}

// The same history over every transport is the same events in the same order of each partition; and whoever goes on with
// the cursor of one over another, on another node, misses nothing and gets nothing twice.
func TestSameEventsOverEveryTransport(t *testing.T) {
	rng := newRand(t)
	records := history(rng, 60)
	half := tailOf(rng, records[:30]).End()
	here := serve(t, tailOf(rng, records), Config{}, nil)
	there := serve(t, tailOf(rng, shuffled(rng, records)), Config{}, nil)
	all := idsOf(records)
	var typed, before []string
	for i, r := range records {
		if r.Event.Type == "b" {
			typed = append(typed, r.Event.ID)
		}
		if i < 30 {
			before = append(before, r.Event.ID)
		}
	}
	for _, c := range []struct {
		name, query string
		want        []string
		end         bool
	}{
		{"everything", "from=earliest", all, false},
		{"nothing", "from=latest", nil, false},
		{"by type", "from=earliest&type=b", typed, false},
		{"by predicate", "from=earliest&filter=" + url.QueryEscape(`type == "b" && data.n < 2`), typed, false},
		{"by a predicate on what isn't there", "from=earliest&filter=" + url.QueryEscape(`data.m.x == 1`), nil, false},
		{"from a cursor", "cursor=" + half.String(), all[30:], false},
		{"until a cursor", "from=earliest&until=" + half.String(), before, true},
		{"until now", "from=earliest&until=now", all, true},
		{"nothing until now", "from=latest&until=now", nil, true},
	} {
		q, err := url.ParseQuery(c.query)
		if err != nil {
			t.Fatal(err)
		}
		for name, follow := range over {
			got := follow(here, clone(q), 1000)
			if err := inOrder(got.ids()); err != nil || !sameSet(got.ids(), c.want) || got.end != c.end {
				t.Errorf("%s over %s: %v, complete %v; want %v, %v (%v)", c.name, name, got.ids(), got.end, c.want, c.end, err)
			}
		}
	}
	names := []string{"sse", "websocket", "ndjson", "long-poll"}
	for cut := range len(all) {
		one, two, three := names[rng.IntN(4)], names[rng.IntN(4)], names[rng.IntN(4)]
		q := url.Values{"from": {"earliest"}}
		first := over[one](here, q, cut+1)
		second := over[two](there, url.Values{"cursor": {first.cursor}}, rng.IntN(len(all)-cut)+1)
		third := over[three](here, url.Values{"cursor": {or(second.cursor, first.cursor)}}, 1000)
		got := slices.Concat(first.ids(), second.ids(), third.ids())
		if err := inOrder(got); err != nil || !sameSet(got, all) {
			t.Fatalf("%d over %s, then %s, then %s: %v (%v)", cut+1, one, two, three, got, err)
		}
	}
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

func sameSet(got, want []string) bool {
	got, want = slices.Clone(got), slices.Clone(want)
	slices.Sort(got)
	slices.Sort(want)
	return slices.Equal(got, want)
}

// A finite feed's cursor goes on exactly where it ended, also where the log was read beyond that.
func TestFiniteFeedsEndExactly(t *testing.T) {
	rng := newRand(t)
	records := history(rng, 40)
	f := serve(t, tailOf(rng, records), Config{}, nil)
	for range 40 {
		until := at(0, 0, 0)
		var want []string
		for p := range until.Next {
			until.Next[p] = int64(rng.IntN(30))
		}
		end := f.tail.End()
		for p := range until.Next {
			until.Next[p] = min(until.Next[p], end.Next[p])
		}
		for _, r := range records {
			if r.Offset < until.Next[r.Partition] {
				want = append(want, r.Event.ID)
			}
		}
		for name, follow := range over {
			got := follow(f, url.Values{"from": {"earliest"}, "until": {until.String()}}, 1000)
			if !sameSet(got.ids(), want) || !got.end {
				t.Fatalf("%s until %v: %v, want %v", name, until.Next, got.ids(), want)
			}
			if got.cursor == "" { // 204
				continue
			}
			rest := follow(f, url.Values{"cursor": {got.cursor}}, 1000)
			if !sameSet(append(got.ids(), rest.ids()...), idsOf(records)) {
				t.Fatalf("%s until %v, and then on: %v and %v", name, until.Next, got.ids(), rest.ids())
			}
		}
	}
}

// A reconnecting EventSource learns by 204 that its feed is complete.
func TestFiniteFeedEndsAnEventSource(t *testing.T) {
	rng := newRand(t)
	f := serve(t, tailOf(rng, history(rng, 5)), Config{}, nil)
	until := f.tail.End().String()
	c := f.connect("", "from=earliest&until="+until)
	if b := c.until("penstock.closing"); b.data != `{"reason":"done"}` {
		t.Errorf("%+v", b)
	}
	if _, err := c.next(); err != io.EOF {
		t.Errorf("it goes on: %v", err)
	}
	again := f.connect(c.lastID, "from=earliest&until="+until)
	if again.resp.StatusCode != http.StatusNoContent {
		t.Errorf("%s", again.resp.Status)
	}
}

// A page of a closed range has the same bytes however the log was read.
func TestClosedRangesAreRepeatable(t *testing.T) {
	rng := newRand(t)
	records := history(rng, 40)
	for i, r := range records {
		r.Event.Time = noon.Add(time.Duration(i) * time.Second)
	}
	here := serve(t, tailOf(rng, records), Config{}, nil)
	there := serve(t, tailOf(rng, shuffled(rng, records)), Config{}, nil)
	half := tailOf(rng, records[:20]).End().String()
	q := url.Values{"cursor": {at(0, 0, 0).String()}, "until": {half}}
	a, b := here.poll(q, 0), there.poll(q, 0)
	if !a.Closed || !b.Closed || a.Next != half || !slices.Equal(a.Items, b.Items) || len(a.Items) != 20 {
		t.Errorf("%+v\n%+v", a, b)
	}
	q.Set("limit", "7")
	if p := here.poll(q, 0); p.Closed || p.End {
		t.Errorf("a part of a range: %+v", p)
	}
}

// A page that waits answers with the first event, and with nothing when there is none.
func TestLongPollWaits(t *testing.T) {
	tail := eventstore.NewTail(at(0, 0, 0), 1<<20)
	f := serve(t, tail, Config{}, nil)
	if p := f.poll(url.Values{}, 20*time.Millisecond); len(p.Items) != 0 || p.Next != at(0, 0, 0).String() {
		t.Errorf("nothing came: %+v", p)
	}
	got := make(chan polled)
	go func() { got <- f.poll(url.Values{"type": {"a"}}, 20*time.Second) }()
	until(t, "the client to wait", func() bool {
		list, _ := f.feeds.Open("", 10)
		return len(list) == 1 && list[0].Transport == "long-poll"
	})
	rng := rand.New(rand.NewPCG(1, 1))
	records := history(rng, 10)
	tailOn(tail, records)
	p := <-got
	if len(p.Items) == 0 || p.Items[0].Type != "a" {
		t.Errorf("%+v", p)
	}
	// And one that waits while the node stops gets an empty page instead of an error.
	go func() { got <- f.poll(url.Values{}, 20*time.Second) }()
	until(t, "the client to wait", func() bool { list, _ := f.feeds.Open("", 10); return len(list) == 1 })
	f.stop()
	if p := <-got; len(p.Items) != 0 || p.Next == "" {
		t.Errorf("%+v", p)
	}
}

// Compressed feeds are the same lines, for those who get what was made for all and for those who get their own.
func TestCompressedLines(t *testing.T) {
	rng := newRand(t)
	records := history(rng, 200)
	f := serve(t, tailOf(rng, records), Config{}, nil)
	for _, q := range []string{"from=earliest&until=now", "from=earliest&until=now&type=a", "from=earliest&limit=17"} {
		values, _ := url.ParseQuery(q)
		want, err := io.ReadAll(f.lines(values, ""))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			for coding, undo := range map[string]func(io.Reader) (io.Reader, error){
				"gzip": func(r io.Reader) (io.Reader, error) {
					z, err := gzip.NewReader(r)
					if z != nil {
						z.Multistream(false) // as those read that take the first member for all
					}
					return z, err
				},
				"zstd": func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r) },
			} {
				r, err := undo(f.lines(values, coding))
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(r)
				if err != nil || !bytes.Equal(withoutTimes(got), withoutTimes(want)) {
					t.Fatalf("%s, %s: %v\n%s\nwant\n%s", q, coding, err, got, want)
				}
			}
		}
	}
	made := 0
	for _, r := range records {
		r.Frame(frameLine, func() []byte { made++; return []byte("{}\n") })
	}
	if made > 0 {
		t.Errorf("%d lines were not kept for all", made)
	}
}

// withoutTimes leaves out what differs from connection to connection.
func withoutTimes(lines []byte) []byte {
	var out [][]byte
	for line := range bytes.Lines(lines) {
		if !bytes.Contains(line, []byte(`"penstock":"opened"`)) {
			out = append(out, line)
		}
	}
	return bytes.Join(out, nil)
}

func zstdReader() *zstd.Decoder {
	r, _ := zstd.NewReader(nil)
	return r
}

func TestCodings(t *testing.T) {
	for accept, want := range map[string]string{
		"": "", "identity": "", "gzip": "gzip", "gzip, deflate, br, zstd": "zstd", "zstd;q=0.5, gzip": "gzip", "gzip;q=0": "",
		"gzip;q=x": "", "GZIP ; Q=0.3": "gzip", "br": "", "zstd;q=2": "",
	} {
		got := ""
		if c := codingFor(accept); c != nil {
			got = c.name()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", accept, got, want)
		}
	}
	body := bytes.Repeat([]byte(`{"a":1},`), 1000)
	z, coding := Compress("gzip", body)
	r, err := gzip.NewReader(bytes.NewReader(z))
	if err != nil || coding != "gzip" {
		t.Fatal(coding, err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, body) || len(z) > len(body)/10 {
		t.Errorf("%d bytes from %d, %v", len(got), len(z), err)
	}
	if _, coding := Compress("gzip", body[:100]); coding != "" {
		t.Error("a short page is compressed")
	}
}

// A filter that takes too long on an event ends the feed and says so: leaving the event out would be a guess.
func TestCostlyFilter(t *testing.T) {
	tail := eventstore.NewTail(at(0, 0, 0), 64<<20)
	f := serve(t, tail, Config{}, nil)
	rng := newRand(t)
	records := history(rng, 3)
	big := []byte(`{"a":[` + strings.TrimSuffix(strings.Repeat("1,", 100_000), ",") + `]}`)
	records[2].Event.Data = big
	tailOn(tail, records)
	q := url.Values{"from": {"earliest"}, "filter": {`!has(data.a) || data.a.exists(x, data.a.exists(y, y == x + 2))`}}
	c := f.connect("", q.Encode())
	if got := len(c.ids(2)); got != 2 {
		t.Fatal(got)
	}
	if b := c.until("penstock.reset"); b.data != `{"reason":"filter-cost"}` {
		t.Errorf("%+v", b)
	}
	ws := f.socket("/?" + q.Encode())
	for {
		if _, _, err := ws.Read(t.Context()); err != nil {
			if code := websocket.CloseStatus(err); code != 4422 {
				t.Errorf("closed with %d: %v", code, err)
			}
			break
		}
	}
	for field, bad := range map[string]string{"filter": `data.a +`, "no such name": `op == "x"`, "type": `"text"`, "long": strings.Repeat(" ", 3000) + "true"} {
		if _, err := ParseRequest(http.Header{}, url.Values{"filter": {bad}}, OfEvents); err == nil || !strings.Contains(fmt.Sprintf("%#v", errField(err)), "filter") {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := ParseRequest(http.Header{}, url.Values{"filter": {`op == "delete" || row.balance > 5`}}, OfChanges); err != nil {
		t.Error(err)
	}
}

func TestRequestRefuses(t *testing.T) {
	for _, c := range []struct {
		query, field string
		kind         Kind
	}{
		{"form=earliest", "form", OfEvents}, {"until=", "until", OfEvents}, {"until=earliest", "until", OfEvents}, {"until=x", "until", OfEvents},
		{"until=now&until=now", "until", OfEvents}, {"on_gap=", "on_gap", OfEvents}, {"on_gap=skip", "on_gap", OfEvents},
		{"every=1s", "every", OfEvents}, {"snapshot=true", "snapshot", OfEvents}, {"type=a", "type", OfChanges},
		{"snapshot=perhaps", "snapshot", OfChanges}, {"every=1", "every", OfChanges}, {"every=1ms", "every", OfChanges}, {"every=1h", "every", OfChanges},
		{"limit=0", "limit", OfEvents}, {"limit=x", "limit", OfEvents}, {"filter=true&filter=true", "filter", OfEvents},
	} {
		q, _ := url.ParseQuery(c.query)
		if _, err := ParseRequest(http.Header{}, q, c.kind); errField(err) != c.field {
			t.Errorf("%s: %v", c.query, err)
		}
	}
}
