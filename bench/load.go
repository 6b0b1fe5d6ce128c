package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	source = "github"           // name of the only source, and so in its URL
	secret = "a-secret-of-ours" // what deliveries are signed with

	// streams is how many streams the deliveries of a run belong to. Enough to reach every partition.
	streams = 64
	// patience bounds one request, and the wait for events that should have arrived.
	patience = 15 * time.Second
)

// delivery appends a whole request with a signed delivery of size bytes, as GitHub sends it. Number n of a run makes
// its id and its stream; sent stands in the body, for whoever receives the event.
func delivery(dst []byte, host, run string, n, size int, sent time.Time) []byte {
	body := make([]byte, 0, size+128)
	body = fmt.Appendf(body, `{"action":"opened","sent":%d,"issue":{"number":%d},"repository":{"full_name":"bench/load"},"fill":"`,
		sent.UnixNano(), n%streams+1)
	body = fill(body, size-len(`"}`))
	body = append(body, `"}`...)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	dst = fmt.Appendf(dst, "POST /hooks/%s HTTP/1.1\r\nHost: %s\r\nUser-Agent: GitHub-Hookshot/bench\r\nContent-Type: application/json\r\n"+
		"X-GitHub-Event: issues\r\nX-GitHub-Delivery: %s-%d\r\nX-Hub-Signature-256: sha256=%s\r\nContent-Length: %d\r\n\r\n",
		source, host, run, n, hex.EncodeToString(mac.Sum(nil)), len(body))
	return append(dst, body...)
}

// fill pads b to size with letters.
func fill(b []byte, size int) []byte {
	for len(b) < size {
		b = append(b, 'a'+byte(len(b)%26))
	}
	return b
}

// line is one connection that sends requests and waits for each answer. It parses no more than it must, so that the
// load takes little from the cores that it shares with the contestants.
type line struct {
	conn net.Conn
	r    *bufio.Reader
}

// dial opens n connections. The returned function closes them, and so does the end of ctx.
func dial(ctx context.Context, addr string, n int) (lines []*line, closer func(), err error) {
	closeAll := func() {
		for _, l := range lines {
			l.conn.Close()
		}
	}
	for range n {
		d := net.Dialer{Timeout: patience}
		c, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		lines = append(lines, &line{conn: c, r: bufio.NewReader(c)})
	}
	disarm := context.AfterFunc(ctx, closeAll)
	return lines, func() { disarm(); closeAll() }, nil
}

// send sends a request and returns the status of the answer, or what a refusal says.
func (l *line) send(request []byte) (refusal string, err error) {
	if err := l.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := l.conn.Write(request); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(l.r, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err == nil && resp.StatusCode/100 != 2 {
		refusal = fmt.Sprintf("%s: %s", resp.Status, text)
	}
	return refusal, err
}

// tally is what came of a load.
type tally struct {
	took      time.Duration
	latencies []time.Duration // of what was accepted, sorted
	refused   int
	refusal   string        // the first one
	late      time.Duration // the longest that a request waited for a free connection
}

func (t *tally) add(latency time.Duration, refusal string) {
	if refusal == "" {
		t.latencies = append(t.latencies, latency)
		return
	}
	t.refused++
	t.refusal = or(t.refusal, refusal)
}

func (t *tally) join(o tally) {
	t.latencies = append(t.latencies, o.latencies...)
	t.refused += o.refused
	t.refusal = or(t.refusal, o.refusal)
	t.late = max(t.late, o.late)
}

func (t *tally) accepted() int { return len(t.latencies) }

// rate is what was accepted per second.
func (t *tally) rate() float64 { return float64(t.accepted()) / t.took.Seconds() }

// press keeps every connection busy for d. request makes the n-th request.
func press(ctx context.Context, addr string, connections int, d time.Duration, request func(dst []byte, n int) []byte) (tally, error) {
	lines, closer, err := dial(ctx, addr, connections)
	if err != nil {
		return tally{}, err
	}
	defer closer()
	var total tally
	var mu sync.Mutex
	var next atomic.Int64
	var g errgroup.Group
	began := time.Now()
	for _, l := range lines {
		g.Go(func() error {
			var own tally
			var buf []byte
			for time.Since(began) < d {
				buf = request(buf[:0], int(next.Add(1)))
				t := time.Now()
				refusal, err := l.send(buf)
				if err != nil {
					return err
				}
				own.add(time.Since(t), refusal)
			}
			mu.Lock()
			defer mu.Unlock()
			total.join(own)
			return nil
		})
	}
	err = g.Wait()
	total.took = time.Since(began)
	slices.Sort(total.latencies)
	return total, err
}

// pace sends rate requests a second for d, whether answers come or not, over as many connections as that may need.
func pace(ctx context.Context, addr string, rate int, d time.Duration, request func(dst []byte, n int) []byte) (tally, error) {
	lines, closer, err := dial(ctx, addr, max(1, min(64, rate))) // each in use every second: a node closes one that says nothing for five
	if err != nil {
		return tally{}, err
	}
	defer closer()
	type turn struct {
		n   int
		due time.Time
	}
	var total tally
	var mu sync.Mutex
	turns := make(chan turn)
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range lines {
		g.Go(func() error {
			var own tally
			var buf []byte
			for turn := range turns {
				own.late = max(own.late, time.Since(turn.due))
				t := time.Now()
				buf = request(buf[:0], turn.n)
				refusal, err := l.send(buf)
				if err != nil {
					return err
				}
				own.add(time.Since(t), refusal)
			}
			mu.Lock()
			defer mu.Unlock()
			total.join(own)
			return nil
		})
	}
	began := time.Now()
	g.Go(func() error {
		defer close(turns)
		for n := range int(d.Seconds() * float64(rate)) {
			due := began.Add(time.Duration(n) * time.Second / time.Duration(rate))
			if err := sleep(ctx, time.Until(due)); err != nil {
				return err
			}
			select {
			case turns <- turn{n, due}:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	err = g.Wait()
	total.took = time.Since(began)
	slices.Sort(total.latencies)
	return total, err
}

// receipts are the arrivals of events that say when they were sent.
type receipts struct {
	every    int64 // keep the latency of one in so many
	count    atomic.Int64
	frame    atomic.Int64 // length of the last SSE block
	caughtUp atomic.Int64 // SSE connections that were told so

	mu        sync.Mutex
	latencies []time.Duration
}

var sentMember = []byte(`"sent":`)

// sentAt finds the time in a payload.
func sentAt(payload []byte) (int64, bool) {
	i := bytes.Index(payload, sentMember)
	if i < 0 {
		return 0, false
	}
	digits := payload[i+len(sentMember):]
	end := 0
	for end < len(digits) && digits[end] >= '0' && digits[end] <= '9' {
		end++
	}
	ns, err := strconv.ParseInt(string(digits[:end]), 10, 64)
	return ns, err == nil
}

// take counts the arrival of an event sent at ns, in Unix nanoseconds.
func (r *receipts) take(ns int64, now time.Time) {
	if r.count.Add(1)%r.every == 0 {
		r.mu.Lock()
		r.latencies = append(r.latencies, time.Duration(now.UnixNano()-ns))
		r.mu.Unlock()
	}
}

// await waits until want events have arrived. More of them is as wrong as fewer.
func (r *receipts) await(ctx context.Context, want int) error {
	for until := time.Now().Add(patience); r.count.Load() < int64(want) && time.Now().Before(until); {
		if err := sleep(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
	if got := r.count.Load(); got != int64(want) {
		return fmt.Errorf("%d events arrived, not %d", got, want)
	}
	return nil
}

// forget drops the latencies of a warm-up. The count goes on.
func (r *receipts) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.latencies = nil
}

// sorted returns the latencies that were kept.
func (r *receipts) sorted() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(slices.Values(r.latencies))
}

// listeners are connections that follow a feed.
type listeners struct {
	to     *receipts
	cancel context.CancelFunc
	wait   func() error
}

// listen opens n SSE connections and returns when all of them are established. Each reads until close.
func listen(ctx context.Context, addr, path string, n int, to *receipts) (*listeners, error) {
	return listenOver(ctx, n, 64, to, func(ctx context.Context, i int) (net.Conn, func() error, error) {
		conn, body, err := subscribe(ctx, addr, path, i)
		return conn, func() error { return to.blocks(body) }, err
	})
}

// listenOver opens n connections, so many at a time, each with what reads it until it ends.
func listenOver(
	ctx context.Context, n, atOnce int, to *receipts, open func(ctx context.Context, i int) (net.Conn, func() error, error),
) (*listeners, error) {
	ctx, cancel := context.WithCancel(ctx)
	reading, ctx := errgroup.WithContext(ctx)
	ls := &listeners{to: to, cancel: cancel, wait: reading.Wait}
	opening, dialing := errgroup.WithContext(ctx)
	opening.SetLimit(atOnce)
	for i := range n {
		opening.Go(func() error {
			conn, read, err := open(dialing, i)
			if err != nil {
				return err
			}
			reading.Go(func() error {
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				defer conn.Close()
				if err := read(); ctx.Err() == nil {
					return fmt.Errorf("a connection ended: %w", err)
				}
				return nil
			})
			return nil
		})
	}
	if err := opening.Wait(); err != nil {
		ls.close()
		return nil, fmt.Errorf("open connections: %w", err)
	}
	return ls, nil
}

// subscribe opens connection number i.
func subscribe(ctx context.Context, addr, path string, i int) (net.Conn, io.Reader, error) {
	// A node takes 1,000 feeds from one address. All of 127.0.0.0/8 is this machine.
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+i/500))}}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\n\r\n", path, addr)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // it only explains
		conn.Close()
		return nil, nil, fmt.Errorf("%s: %s", resp.Status, text)
	}
	conn.SetDeadline(time.Time{})
	return conn, resp.Body, nil
}

var caughtUpLine = []byte("event: penstock.caught-up\n")

// blocks counts the events of a stream: blocks with a line of data that says when it was sent.
func (to *receipts) blocks(body io.Reader) error {
	r := bufio.NewReader(body)
	block, whole, event := 0, true, false
	for {
		part, err := r.ReadSlice('\n')
		if err != nil && err != bufio.ErrBufferFull {
			return err
		}
		block += len(part)
		if whole && len(part) == 1 {
			if event {
				to.frame.Store(int64(block))
			}
			block, event = 0, false
		}
		if whole && bytes.Equal(part, caughtUpLine) {
			to.caughtUp.Add(1)
		}
		if whole && bytes.HasPrefix(part, []byte("data:")) {
			if ns, ok := sentAt(part); ok {
				event = true
				to.take(ns, time.Now())
			}
		}
		whole = err == nil
	}
}

// close ends all connections and waits for their readers. It returns the first failure before that.
func (ls *listeners) close() error {
	ls.cancel()
	return ls.wait()
}
