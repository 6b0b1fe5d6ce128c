package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Kind says what a message is.
type Kind string

// The kinds of messages.
const (
	KindEvent    Kind = "event"    // an event of the log: see Message.Event
	KindChange   Kind = "change"   // a row that has changed: see Message.Change
	KindRow      Kind = "row"      // a row as it is, of a snapshot: see Message.Change. It has no cursor
	KindSnapshot Kind = "snapshot" // all rows were given; what follows are changes
	KindCaughtUp Kind = "caught-up"
	KindProgress Kind = "progress" // nothing for you, but the cursor moves
	// KindReset: what came before may have a gap to what comes now, or, with the reason "interrupted", rows begin
	// again: forget those that came so far.
	KindReset Kind = "reset"
	// KindUnreadable: a record of some other program, at Reason (partition/offset), can't be sent and is passed over.
	KindUnreadable Kind = "unreadable"
)

// Interrupted is the reason of a reset that a lost connection made: rows without a cursor begin again.
const Interrupted = "interrupted"

// Message is one thing that a feed says. It belongs to the handler.
type Message struct {
	Kind Kind
	// Cursor is where to go on after this message. It is empty where there is no such place: within a page and
	// before all rows of a snapshot have come. Then the last one before holds on.
	Cursor string
	// Data is the JSON of an event, a change or a row, the same over every transport; else nil.
	Data []byte
	// Reason of a reset (expired, reset, future or interrupted), or place of an unreadable record.
	Reason string
	// Resumed is where a feed goes on after a reset: earliest or latest.
	Resumed string
}

// CloudEvent is an event as a feed sends it (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md).
type CloudEvent struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Type            string          `json:"type"`
	Source          string          `json:"source"`
	Subject         string          `json:"subject"` // the stream
	Time            time.Time       `json:"time"`
	DataContentType string          `json:"datacontenttype"`
	StreamVersion   uint64          `json:"streamversion"` // place in the stream, from 1
	CorrelationID   string          `json:"correlationid"`
	CausationID     string          `json:"causationid"`
	TraceParent     string          `json:"traceparent"` // https://www.w3.org/TR/trace-context/
	DeliveryID      string          `json:"deliveryid"`  // of the webhook that it came with
	Verification    string          `json:"verification"`
	ReplayOf        string          `json:"replayof"`
	Data            json.RawMessage `json:"data"`
	DataBase64      []byte          `json:"data_base64"`
}

// Body is the event's content, as exact as the event has it: JSON comes without insignificant white space.
func (e *CloudEvent) Body() []byte {
	if len(e.DataBase64) > 0 {
		return e.DataBase64
	}
	var text string
	if len(e.Data) > 0 && e.Data[0] == '"' && !isJSON(e.DataContentType) && json.Unmarshal(e.Data, &text) == nil {
		return []byte(text)
	}
	return e.Data
}

func isJSON(contentType string) bool {
	media, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	media = strings.TrimSpace(media)
	return media == "" || media == "application/json" || media == "text/json" || strings.HasSuffix(media, "+json")
}

// Change is a row that was written or deleted, or a row as it is.
type Change struct {
	Op        string          `json:"op"` // upsert or delete
	Key       string          `json:"key"`
	Row       json.RawMessage `json:"row"`        // nil when it is deleted
	RowBase64 []byte          `json:"row_base64"` // a row that is no JSON
	// Partition, Offset and Index are the change's identity, the same on every node. A row of a snapshot has none.
	Partition int32 `json:"partition"`
	Offset    int64 `json:"offset"`
	Index     int   `json:"index"`
	Snapshot  bool  `json:"snapshot"`
}

// Event decodes a message of KindEvent.
func (m *Message) Event() (e CloudEvent, err error) {
	if err = json.Unmarshal(m.Data, &e); err == nil && e.ID == "" {
		err = fmt.Errorf("no event: %.100q", m.Data)
	}
	return e, err
}

// Change decodes a message of KindChange or KindRow.
func (m *Message) Change() (c Change, err error) {
	if err = json.Unmarshal(m.Data, &c); err == nil && c.Op == "" {
		err = fmt.Errorf("no change of a row: %.100q", m.Data)
	}
	return c, err
}

// control is what a feed says about itself: an object of penstock.v1, or a block of Server-Sent Events.
type control struct {
	Name     string `json:"penstock"`
	Cursor   string `json:"cursor"`
	Reason   string `json:"reason"`
	Earliest string `json:"earliest"`
	Resumed  string `json:"resumed"`
	Retry    int64  `json:"retry"` // milliseconds
}

var (
	cursorMember  = []byte(`{"cursor":"`)
	controlMember = []byte(`{"penstock":"`)
	rowMark       = []byte(`,"snapshot":true}`)
)

// dataKind sorts the things that a feed is of.
func (f *follower) dataKind(data []byte) Kind {
	switch {
	case !f.changes:
		return KindEvent
	case bytes.HasSuffix(data, rowMark):
		return KindRow
	}
	return KindChange
}

// object takes a message of the subprotocol penstock.v1. A node writes cursor or penstock first, so that nothing has to be
// parsed to take the cursor out: the rest is what every other transport sends.
func (f *follower) object(b []byte) error {
	if bytes.HasPrefix(b, controlMember) {
		var c control
		if err := json.Unmarshal(b, &c); err != nil {
			return &unfit{fmt.Errorf("a message that is no JSON: %w", err)}
		}
		return f.control(c)
	}
	m := Message{Data: b}
	if rest, ok := bytes.CutPrefix(b, cursorMember); ok {
		cursor, _, _ := bytes.Cut(rest, []byte(`"`)) // base64url, which needs no escapes
		if after := len(cursorMember) + len(cursor) + len(`"`); after < len(b) && b[after] == ',' {
			m.Cursor, m.Data = string(cursor), b[after:]
			m.Data[0] = '{'
		}
	}
	if len(b) == 0 || b[0] != '{' {
		return &unfit{fmt.Errorf("a message that is no object: %.40q", b)}
	}
	m.Kind = f.dataKind(m.Data)
	return f.deliver(m)
}
