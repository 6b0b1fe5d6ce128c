package egress

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

// client is an EventSource: it parses the stream as WHATWG says and remembers the last id.
type client struct {
	t      *testing.T
	cancel context.CancelFunc
	resp   *http.Response
	r      *bufio.Reader
	lastID string
	retry  string
	afterR bool // the last byte was CR: a LF now belongs to it
}

// block is what one blank line dispatches. name is "" for a block without data, which an EventSource doesn't show.
type block struct{ name, id, data string }

func (f *feed) connect(lastID, query string, header ...string) *client {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 30*time.Second)
	f.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", f.url+"/?"+query, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return f.do(cancel, r, http.DefaultClient, lastID)
}

func (f *feed) do(cancel context.CancelFunc, r *http.Request, with *http.Client, lastID string) *client {
	f.t.Helper()
	resp, err := with.Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { resp.Body.Close() })
	return &client{t: f.t, cancel: cancel, resp: resp, r: bufio.NewReader(resp.Body), lastID: lastID}
}

// line reads one line, however it ends. A line that the stream's end cuts off is not a line.
func (c *client) line() (string, error) {
	var line []byte
	for {
		b, err := c.r.ReadByte()
		if err != nil {
			return "", err
		}
		after := c.afterR
		c.afterR = b == '\r'
		switch {
		case b == '\n' && after:
		case b == '\n', b == '\r':
			return string(line), nil
		default:
			line = append(line, b)
		}
	}
}

// next returns the next block.
func (c *client) next() (block, error) {
	var data []string
	name, id := "", c.lastID
	for {
		line, err := c.line()
		if err != nil {
			return block{}, err
		}
		if line == "" {
			c.lastID = id
			if data == nil {
				return block{id: id}, nil
			}
			if name == "" {
				name = "message"
			}
			return block{name, id, strings.Join(data, "\n")}, nil
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "data":
			data = append(data, value)
		case "event":
			name = value
		case "id":
			if !strings.Contains(value, "\x00") {
				id = value
			}
		case "retry":
			if strings.Trim(value, "0123456789") == "" {
				c.retry = value
			}
		default:
			c.t.Errorf("a field that no client knows: %q", line)
		}
	}
}

// until returns the next block with the given name; blocks between are dropped.
func (c *client) until(name string) block {
	c.t.Helper()
	for {
		b, err := c.next()
		if err != nil {
			c.t.Fatalf("waiting for %s: %v", name, err)
		}
		if b.name == name {
			return b
		}
	}
}

// ids reads n messages and returns the ids of their events.
func (c *client) ids(n int) (ids []string) {
	c.t.Helper()
	for range n {
		var e struct{ ID string }
		if b := c.until("message"); json.Unmarshal([]byte(b.data), &e) != nil || e.ID == "" {
			c.t.Fatalf("not an event: %q", b.data)
		}
		ids = append(ids, e.ID)
	}
	return ids
}

// rest reads to penstock.caught-up and returns the messages before it.
func (c *client) rest() (messages []block) {
	c.t.Helper()
	for {
		b, err := c.next()
		switch {
		case err != nil:
			c.t.Fatalf("before penstock.caught-up: %v", err)
		case b.name == "message":
			messages = append(messages, b)
		case b.name == "penstock.caught-up":
			return messages
		}
	}
}

// close hangs up.
func (c *client) close() {
	c.cancel()
	c.resp.Body.Close()
}
