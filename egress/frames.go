package egress

import (
	"bytes"
	"math"
	"slices"
	"sync"

	"github.com/penstock-io/penstock/eventstore"
)

// The representations that a Record keeps.
const (
	frameSSE  = 0 // a block
	frameLine = 1 // a line of JSON with a cursor in it, LF included
)

// framer encodes records of one batch, in their order. It keeps the position after each record, which is the same for
// everybody who has the batch after the same position.
type framer struct {
	records []*eventstore.Record
	at      eventstore.Position // after records[:next]
	next    int
	after   []int64 // for each record, where its partition stands after it
	to      []int64 // scratch: for each partition, the smallest offset still to come
	payload []byte  // scratch
	out     []byte  // scratch
}

// framers are shared because a connection needs one only for moments.
var framers = sync.Pool{New: func() any { return new(framer) }}

// maxScratch bounds the bytes that a framer keeps for its next user.
const maxScratch = 256 << 10

func newFramer(before eventstore.Position, records []*eventstore.Record) *framer {
	fr := framers.Get().(*framer)
	fr.records, fr.next = records, 0
	fr.at = eventstore.Position{Topic: before.Topic, Scope: before.Scope, Next: append(fr.at.Next[:0], before.Next...)}
	fr.to = fr.to[:0]
	for range before.Next {
		fr.to = append(fr.to, math.MaxInt64)
	}
	// The cursor after a record never passes another one that is still to come. In a log that is the next offset;
	// but several changes of rows come from one event and so share its offset.
	fr.after = slices.Grow(fr.after[:0], len(records))[:len(records)]
	for i, r := range slices.Backward(records) {
		fr.after[i] = min(r.Offset+1, fr.to[r.Partition])
		fr.to[r.Partition] = min(r.Offset, fr.to[r.Partition])
	}
	return fr
}

func (fr *framer) release() {
	fr.records = nil
	if cap(fr.payload)+cap(fr.out) > maxScratch {
		fr.payload, fr.out = nil, nil
	}
	framers.Put(fr)
}

// cursor returns the text of the position after record number i, which grows from call to call.
func (fr *framer) cursor(i int) string {
	for ; fr.next <= i; fr.next++ {
		fr.at.Next[fr.records[fr.next].Partition] = fr.after[fr.next]
	}
	return fr.at.String()
}

// frame returns record number i in the form of a kind. It is valid until the next call.
func (fr *framer) frame(kind, i int) []byte {
	cursor := fr.cursor(i)
	rec := fr.records[i]
	if rec.Event != nil {
		fr.payload = AppendCloudEvent(fr.payload[:0], rec.Event)
	} else {
		fr.payload = AppendChange(fr.payload[:0], rec.Change)
	}
	if kind == frameSSE {
		fr.out = appendBlock(fr.out[:0], cursor, "", fr.payload)
		return fr.out
	}
	fr.out = append(append(fr.out[:0], `{"cursor":"`...), cursor...)
	fr.out = append(append(fr.out, `",`...), fr.payload[1:]...)
	fr.out = append(fr.out, '\n')
	return fr.out
}

// appendBlock appends an event of a stream. A payload of several lines becomes several lines of data, however its lines
// end; the client joins them with LF. id is the text of a position, or empty; event is a name, or empty for message.
func appendBlock(dst []byte, id, event string, payload []byte) []byte {
	if id != "" {
		dst = append(append(append(dst, "id: "...), id...), '\n')
	}
	if event != "" {
		dst = append(append(append(dst, "event: "...), event...), '\n')
	}
	for {
		line, rest, again := cutLine(payload)
		dst = append(append(append(dst, "data: "...), line...), '\n')
		if !again {
			return append(dst, '\n')
		}
		payload = rest
	}
}

// cutLine splits at the first CR LF, CR or LF.
func cutLine(b []byte) (line, rest []byte, found bool) {
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		end = len(b)
	}
	if cr := bytes.IndexByte(b[:end], '\r'); cr >= 0 {
		if cr+1 < len(b) && b[cr+1] == '\n' {
			return b[:cr], b[cr+2:], true
		}
		return b[:cr], b[cr+1:], true
	}
	if end == len(b) {
		return b, nil, false
	}
	return b[:end], b[end+1:], true
}
