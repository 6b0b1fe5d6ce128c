package client

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// overSSE follows the feed as Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html).
func (f *follower) overSSE(c *connection) error {
	// The cursor goes in the query: a node takes who sends Last-Event-ID for a browser's EventSource, which only
	// understands 200, and hides from it why a feed can't be opened.
	r, err := f.request(c.ctx, "text/event-stream", nil)
	if err != nil {
		return err
	}
	c.dead.Reset(f.answer)
	resp, err := f.HTTP.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := sorted(SSE, resp, "text/event-stream"); err != nil {
		return err
	}
	c.dead.Reset(f.preamble)
	begun := false
	body := heard{resp.Body, func() {
		if begun {
			c.dead.Reset(c.quiet)
		}
	}}
	return readBlocks(body, f.message, func(b block) error {
		begun = true
		// Handling takes as long as it takes; meanwhile nobody reads, and nothing is heard.
		c.dead.Stop()
		defer c.dead.Reset(c.quiet)
		return f.block(b)
	})
}

// block takes a block of an event stream.
func (f *follower) block(b block) error {
	if name, ours := bytes.CutPrefix([]byte(b.event), []byte("penstock.")); ours {
		c := control{}
		if len(b.data) > 0 {
			if err := json.Unmarshal(b.data, &c); err != nil {
				return &unfit{fmt.Errorf("a block that is no JSON: %w", err)}
			}
		}
		c.Name, c.Cursor, c.Retry = string(name), b.id, b.retry
		return f.control(c)
	}
	switch {
	case len(b.data) == 0 || b.event != "":
		return f.control(control{Name: "progress", Cursor: b.id, Retry: b.retry})
	case b.data[0] != '{':
		return &unfit{fmt.Errorf("a block that is no object: %.40q", b.data)}
	}
	return f.deliver(Message{Kind: f.dataKind(b.data), Cursor: b.id, Data: b.data})
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

// block is one block of an event stream.
type block struct {
	id    string // its own; empty when it has none: what is after it is not said
	event string
	data  []byte
	retry int64 // milliseconds to stay away the next time; 0 if it doesn't say
}

// errEnd is the end of a body that should have none.
var errEnd = errors.New("the connection ends")

// readBlocks parses an event stream and hands out each complete block that says anything. What comes before the end
// without an empty line is dropped, as the standard wants it.
func readBlocks(r io.Reader, limit int, handle func(block) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var b block
	some := false // the block has data
	for first := true; ; first = false {
		line, err := readLine(in, limit-len(b.data))
		if err != nil {
			if errors.Is(err, io.EOF) {
				return errEnd
			}
			return err
		}
		if first {
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		if len(line) == 0 {
			if some {
				b.data = b.data[:len(b.data)-1] // without the last line's end
			}
			if some || b.id != "" || b.event != "" || b.retry > 0 {
				if err := handle(b); err != nil {
					return err
				}
			}
			b, some = block{}, false
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				b.id = string(value)
			}
		case "event":
			b.event = string(value)
		case "data":
			b.data, some = append(append(b.data, value...), '\n'), true
		case "retry":
			if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil {
				b.retry = int64(ms)
			}
		}
	}
}

// readLine reads a line of at most limit bytes, without its LF or CRLF. A lone CR ends a line by the standard; a node sends
// none.
func readLine(in *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > limit:
			return nil, tooLarge()
		case err == nil:
			return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

func tooLarge() error {
	return &Refused{Type: "/problems/too-large", Title: "A message of the feed is larger than all bounds"}
}
