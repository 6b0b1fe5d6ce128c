package penstock

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"time"
)

// feedClient follows one feed of a node as Server-Sent Events
// (https://html.spec.whatwg.org/multipage/server-sent-events.html), over any number of connections. It belongs to the
// goroutine that calls follow.
type feedClient struct {
	url    string      // without a cursor
	header http.Header // of every request
	cursor string      // after the last block that was handled; sent as Last-Event-ID
	client *http.Client
	// lost is told of each connection that ended, and when the next one is tried.
	lost func(why error, wait time.Duration)

	quiet time.Duration // without a byte, after which a connection counts as dead; feedQuiet by default
	wait  time.Duration // as the server asks for, until the next connection
}

// feedBlock is one block of a feed.
type feedBlock struct {
	id    string // cursor after it
	event string // empty for an event or a change
	data  []byte // empty for a block that only moves the cursor. The reader's until the handler returns
}

const (
	maxFeedBlock = 64 << 20         // bytes; an event's body has up to 25 MB, a third more in base64
	feedQuiet    = 50 * time.Second // a node speaks every 15 s
	feedAnswer   = 30 * time.Second // for the headers of the answer
	feedPatience = 15 * time.Second // longest wait between connections
)

// feedRefused is an answer that asking again would not change.
type feedRefused struct{ error }

func (e *feedRefused) Unwrap() error { return e.error }

// errFeedDone is the end of a feed that has one.
var errFeedDone = errors.New("the feed is complete")

// follow hands each block to handle until ctx ends, handle fails, the node refuses for good, or the feed is complete. A
// connection that breaks, also because the node restarts, is made anew from the last handled block on, for as long as
// it takes.
func (f *feedClient) follow(ctx context.Context, handle func(feedBlock) error) error {
	for failures := 0; ; {
		handled, err := f.connection(ctx, handle)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, refused := errors.AsType[*feedRefused](err); refused || errors.Is(err, errFeedDone) {
			return err
		}
		if e, ok := errors.AsType[*handlerError](err); ok {
			return e.error
		}
		if failures++; handled {
			failures = 0
		}
		wait := f.backoff(failures)
		if f.lost != nil {
			f.lost(err, wait)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// backoff is what the server asked for, doubled with each connection that brought nothing, and spread so that clients
// don't come back in step.
func (f *feedClient) backoff(failures int) time.Duration {
	wait := max(f.wait, 250*time.Millisecond) << min(failures, 6)
	wait = min(wait, feedPatience)
	return wait/2 + rand.N(wait/2)
}

// handlerError is a failure of who handles the blocks, not of the connection.
type handlerError struct{ error }

// connection follows one connection to its end.
func (f *feedClient) connection(ctx context.Context, handle func(feedBlock) error) (handled bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return false, &feedRefused{err}
	}
	r.Header = f.header.Clone()
	r.Header.Set("Accept", "text/event-stream")
	if f.cursor != "" {
		r.Header.Set("Last-Event-ID", f.cursor)
	}
	// A connection whose other end has vanished, as after a laptop's sleep, gives no error by itself.
	dead := time.AfterFunc(feedAnswer, func() { cancel(errors.New("nothing is heard any more")) })
	defer dead.Stop()
	resp, err := f.client.Do(r)
	if err != nil {
		return false, because(ctx, err)
	}
	defer resp.Body.Close()
	if err := feedAnswered(resp); err != nil {
		return false, err
	}
	quiet := cmp.Or(f.quiet, feedQuiet)
	dead.Reset(quiet)
	body := heard{resp.Body, func() { dead.Reset(quiet) }}
	err = readFeed(body, f.cursor, func(b feedBlock, wait time.Duration) error {
		if wait > 0 {
			f.wait = wait
		}
		// Handling takes as long as it takes; meanwhile nobody reads, and nothing is heard.
		dead.Stop()
		defer dead.Reset(quiet)
		if err := handle(b); err != nil {
			return &handlerError{err}
		}
		f.cursor, handled = b.id, true
		return nil
	})
	return handled, because(ctx, err)
}

// because is why a connection ended.
func because(ctx context.Context, err error) error {
	if _, ours := errors.AsType[*handlerError](err); ours {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// feedAnswered sorts the answers to a request for a feed.
func feedAnswered(resp *http.Response) error {
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case resp.StatusCode == http.StatusNoContent:
		return errFeedDone
	case resp.StatusCode == http.StatusOK && media == "text/event-stream":
		return nil
	case resp.StatusCode == http.StatusOK:
		return &feedRefused{fmt.Errorf("%s does not answer with a feed but with %q", resp.Request.URL.Redacted(), media)}
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return err
	}
	err = refusal(resp, answer)
	switch resp.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return err
	}
	if resp.StatusCode >= 500 { // a node that starts, or a proxy whose node is away
		return err
	}
	return &feedRefused{err}
}

// heard calls on for everything that is read.
type heard struct {
	io.Reader
	on func()
}

func (h heard) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	if n > 0 {
		h.on()
	}
	return n, err
}

// readFeed parses an event stream and hands out each complete block that has data or moves the cursor. wait is what the
// server asks clients to wait before they come back, 0 unless the block says so. What comes before the end without an
// empty line is dropped, as the standard wants it.
func readFeed(r io.Reader, cursor string, handle func(b feedBlock, wait time.Duration) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var block feedBlock
	var wait time.Duration
	block.id = cursor
	var data []byte
	some := false // the block has data
	for first := true; ; first = false {
		line, err := feedLine(in, maxFeedBlock-len(data))
		if err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("the node has closed the feed")
			}
			return err
		}
		if first {
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		if len(line) == 0 {
			if some {
				block.data = data[:len(data)-1] // without the last line's end
			}
			if some || block.id != cursor {
				if err := handle(block, wait); err != nil {
					return err
				}
				cursor = block.id
			}
			block.event, block.data, data, wait, some = "", nil, data[:0], 0, false
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				block.id = string(value)
			}
		case "event":
			block.event = string(value)
		case "data":
			data, some = append(append(data, value...), '\n'), true
		case "retry":
			if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil {
				wait = time.Duration(ms) * time.Millisecond
			}
		}
	}
}

// feedLine reads a line of at most limit bytes, without its LF or CRLF. A lone CR ends a line by the standard; a node
// sends none.
func feedLine(in *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > limit:
			return nil, &feedRefused{fmt.Errorf("a block of the feed is larger than %d bytes", maxFeedBlock)}
		case err == nil:
			return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}
