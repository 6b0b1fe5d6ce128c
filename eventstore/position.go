package eventstore

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"github.com/penstock-io/penstock/domain"
)

// Position says how far into a topic something is: for every partition, empty ones too, the offset of the next
// record to read. Its text is the one opaque token of the whole system: the id of an SSE event, a page's cursor, the
// Penstock-Position of an answer, the checkpoint of a table.
//
// Offsets have holes (transaction markers, aborted records), so differences between positions count nothing.
type Position struct {
	Topic [16]byte // Kafka's topic id: a recreated topic keeps its name but not this
	// Scope is 0 for a position in the log itself. A changes feed puts the fingerprint of its projection and
	// generation here, so that a cursor of one generation is recognised as foreign by another.
	Scope uint64
	Next  []int64
}

const (
	positionFormat = 1
	maxPositionLen = 4096 // bytes of text; 256 partitions with large offsets stay below
)

// ErrBadPosition is returned for a text that no node of ours has written.
var ErrBadPosition = &domain.Error{Class: domain.Invalid, Field: "cursor", Message: "not a cursor, or damaged on the way"}

// String returns the position's URL-safe text: a format byte, topic id, scope, partition count and next offsets as
// varints, and a CRC-32C over it all, in unpadded base64url.
func (p Position) String() string {
	b := make([]byte, 0, 64)
	b = append(b, positionFormat)
	b = append(b, p.Topic[:]...)
	b = binary.BigEndian.AppendUint64(b, p.Scope)
	b = binary.AppendUvarint(b, uint64(len(p.Next)))
	for _, n := range p.Next {
		b = binary.AppendUvarint(b, uint64(n))
	}
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return base64.RawURLEncoding.EncodeToString(b)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ParsePosition reads the text that String wrote. Anything else is ErrBadPosition.
func ParsePosition(s string) (Position, error) {
	var p Position
	if len(s) > maxPositionLen || strings.ContainsAny(s, "\r\n") { // line breaks are passed over in base64
		return p, ErrBadPosition
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) < 1+16+8+1+4 || b[0] != positionFormat {
		return p, ErrBadPosition
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return p, ErrBadPosition
	}
	copy(p.Topic[:], body[1:17])
	p.Scope = binary.BigEndian.Uint64(body[17:25])
	body = body[25:]
	n, w := binary.Uvarint(body)
	if w <= 0 || n == 0 || n > uint64(len(body)) {
		return p, ErrBadPosition
	}
	body = body[w:]
	p.Next = make([]int64, n)
	for i := range p.Next {
		v, w := binary.Uvarint(body)
		if w <= 0 || int64(v) < 0 {
			return Position{}, ErrBadPosition
		}
		p.Next[i], body = int64(v), body[w:]
	}
	if len(body) != 0 {
		return Position{}, ErrBadPosition
	}
	return p, nil
}

// Clone returns a copy that shares nothing with p.
func (p Position) Clone() Position {
	p.Next = slices.Clone(p.Next)
	return p
}

// Covers reports whether p is at or beyond q in every partition.
func (p Position) Covers(q Position) bool {
	if len(p.Next) != len(q.Next) {
		return false
	}
	for i, n := range q.Next {
		if p.Next[i] < n {
			return false
		}
	}
	return true
}

// SameLog reports an error of class Conflict unless q is a position in the topic that p is in.
func (p Position) SameLog(q Position) error {
	if p.Topic != q.Topic || len(p.Next) != len(q.Next) {
		return fmt.Errorf("%w: the cursor is for another topic", ErrReset)
	}
	return nil
}
