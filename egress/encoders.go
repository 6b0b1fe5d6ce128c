package egress

import (
	"strconv"
	"time"

	"github.com/penstock-io/penstock/eventstore"
)

// encoder writes what a feed has to say in the form of a transport. Every method appends to dst.
type encoder interface {
	// kind is the form in which a framer makes records.
	kind() int
	// message is a record's frame as it is sent.
	message(dst, frame []byte) []byte
	// row is a row as it is, before there is a cursor.
	row(dst, payload []byte) []byte
	// control says something about the feed itself; what a transport has no use for is empty.
	control(dst []byte, c control) []byte
}

// control is what a feed says about itself.
type control struct {
	name     string // opened, caught-up, snapshot, progress, closing, reset; of several feeds on one socket also others
	cursor   string // where the feed is; empty where it can't be said
	reason   string
	earliest string        // a cursor
	resumed  string        // earliest or latest
	wait     time.Duration // before the client comes again

	heartbeat, lifetime time.Duration
}

// fields appends what of c is set, as members of a JSON object with a comma before each.
func (c control) fields(dst []byte) []byte {
	text := func(name, value string) {
		if value != "" {
			dst = appendString(append(dst, name...), value)
		}
	}
	number := func(name string, value int64) {
		if value > 0 {
			dst = strconv.AppendInt(append(dst, name...), value, 10)
		}
	}
	text(`,"reason":`, c.reason)
	text(`,"earliest":`, c.earliest)
	text(`,"resumed":`, c.resumed)
	number(`,"heartbeat":`, int64(c.heartbeat/time.Second))
	number(`,"lifetime":`, int64(c.lifetime/time.Second))
	return dst
}

// sseEncoder writes Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html).
type sseEncoder struct{}

func (sseEncoder) kind() int                      { return frameSSE }
func (sseEncoder) message(_, frame []byte) []byte { return frame }
func (sseEncoder) row(dst, payload []byte) []byte { return appendBlock(dst, "", "", payload) }
func (sseEncoder) control(dst []byte, c control) []byte {
	if c.wait > 0 {
		dst = append(dst, "retry: "...)
		dst = strconv.AppendInt(dst, c.wait.Milliseconds(), 10)
		dst = append(dst, '\n')
	}
	if c.name == "progress" {
		if c.cursor == "" {
			return append(dst, ":\n\n"...) // rows are being read; it is alive
		}
		dst = append(dst, "id: "...)
		dst = append(dst, c.cursor...)
		return append(dst, "\n\n"...)
	}
	var data []byte
	if c.name == "caught-up" || c.name == "snapshot" || c.resumed != "" {
		data = appendString(append(data, `,"cursor":`...), c.cursor)
	}
	data = append(c.fields(data), '}')
	data[0] = '{'
	return appendBlock(dst, c.cursor, "penstock."+c.name, data)
}

// lineEncoder writes JSON objects: events and changes as everywhere, with "cursor" as a further member, and what is said
// about the feed with a member "penstock". It is the form of NDJSON, where every object is a line, and of the
// WebSocket subprotocol penstock.v1, where every object is a message.
type lineEncoder struct {
	end    string // "\n", or nothing
	prefix string // members that name the subscription, with a comma after them
}

func (lineEncoder) kind() int { return frameLine }

func (e lineEncoder) message(dst, frame []byte) []byte {
	if e.prefix == "" {
		return frame[:len(frame)-1+len(e.end)] // as it is, with or without the line's end
	}
	dst = append(append(dst, '{'), e.prefix...)
	return append(dst, frame[1:len(frame)-1]...)
}

func (e lineEncoder) row(dst, payload []byte) []byte {
	dst = append(append(dst, '{'), e.prefix...)
	return append(append(dst, payload[1:]...), e.end...)
}

func (e lineEncoder) control(dst []byte, c control) []byte {
	dst = append(append(dst, '{'), e.prefix...)
	dst = append(append(append(dst, `"penstock":"`...), c.name...), '"')
	if c.cursor != "" {
		dst = appendString(append(dst, `,"cursor":`...), c.cursor)
	}
	dst = c.fields(dst)
	if c.wait > 0 {
		dst = strconv.AppendInt(append(dst, `,"retry":`...), c.wait.Milliseconds(), 10)
	}
	return append(append(dst, '}'), e.end...)
}

// cloudEventEncoder is the form of the WebSocket subprotocol cloudevents.json
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/websockets-protocol-binding.md): every message
// is an event, what is said about the feed too.
type cloudEventEncoder struct{ said int }

func (*cloudEventEncoder) kind() int                      { return frameLine }
func (*cloudEventEncoder) message(_, frame []byte) []byte { return frame[:len(frame)-1] }
func (*cloudEventEncoder) row(dst, payload []byte) []byte { return append(dst, payload...) } // events have no rows

func (e *cloudEventEncoder) control(dst []byte, c control) []byte {
	e.said++
	dst = append(dst, `{"specversion":"1.0","id":"`...)
	dst = strconv.AppendInt(dst, int64(e.said), 10)
	dst = append(append(append(dst, `","source":"/feeds","type":"penstock.`...), c.name...), '"')
	if c.cursor != "" {
		dst = appendString(append(dst, `,"cursor":`...), c.cursor)
	}
	data := c.fields(nil)
	if c.wait > 0 {
		data = strconv.AppendInt(append(data, `,"retry":`...), c.wait.Milliseconds(), 10)
	}
	if len(data) > 0 {
		data[0] = '{'
		dst = append(append(dst, `,"datacontenttype":"application/json","data":`...), data...)
		dst = append(dst, '}')
	}
	return append(dst, '}')
}

func cursorOf(p eventstore.Position) string {
	if len(p.Next) == 0 {
		return ""
	}
	return p.String()
}
