package eventstore

import (
	"encoding/binary"

	"github.com/penstock-io/penstock/domain"
	"github.com/twmb/franz-go/pkg/kgo"
)

// AppendBinary appends the entry as it would stand in the inbox: key, headers and body, each with its length. It is for
// keeping an entry elsewhere until the inbox takes it, so it follows the inbox's format, which is only ever added to.
// Where the entry stood is not part of it. The error is always nil.
func (e Entry) AppendBinary(b []byte) ([]byte, error) {
	r := e.record("", 0)
	part := func(text []byte) { b = append(binary.AppendUvarint(b, uint64(len(text))), text...) }
	part(r.Key)
	b = binary.AppendUvarint(b, uint64(len(r.Headers)))
	for _, h := range r.Headers {
		part([]byte(h.Key))
		part(h.Value)
	}
	part(r.Value)
	return b, nil
}

// UnmarshalBinary reads what AppendBinary wrote. Anything else is an error of class Corrupt. The entry keeps b.
func (e *Entry) UnmarshalBinary(b []byte) error {
	whole := true
	number := func() uint64 {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			whole = false
			return 0
		}
		b = b[size:]
		return n
	}
	part := func() []byte {
		n := number()
		if !whole || n > uint64(len(b)) {
			whole = false
			return nil
		}
		text := b[:n:n]
		b = b[n:]
		return text
	}
	r := &kgo.Record{Key: part()}
	for n := number(); n > 0 && whole; n-- {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: string(part()), Value: part()})
	}
	if r.Value = part(); !whole || len(b) > 0 {
		return &domain.Error{Class: domain.Corrupt, Message: "these bytes are no entry"}
	}
	var err error
	*e, err = entryOf(r)
	return err
}
