package egress

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// A compressed feed is a row of pieces that don't know of each other: a connection keeps no window and no table, and a
// piece that goes to many is made once. For zstd a piece is a frame (RFC 8878, section 3.1), for gzip some blocks that
// end at a byte (RFC 1951, section 3.2.4), because many readers stop at the end of a gzip member.

// coding is a content coding (RFC 9110, section 8.4.1). Its methods may be called at the same time.
type coding interface {
	name() string
	kind() int // of the pieces that a batch keeps
	head() []byte
	piece(dst, plain []byte) []byte
	tail(crc uint32, size uint32) []byte // of all that is plain
}

type gzipCoding struct{}

func (gzipCoding) name() string { return "gzip" }
func (gzipCoding) kind() int    { return 0 }

// head is a member's header (RFC 1952, section 2.3) without a name and a time.
func (gzipCoding) head() []byte { return []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255} }

var deflaters = sync.Pool{New: func() any {
	w, _ := flate.NewWriter(nil, flate.BestSpeed) // the level is one that exists
	return w
}}

func (gzipCoding) piece(dst, plain []byte) []byte {
	out := bytes.NewBuffer(dst)
	w := deflaters.Get().(*flate.Writer)
	w.Reset(out) // forgets what came before
	w.Write(plain)
	w.Flush() // to memory, which doesn't fail
	deflaters.Put(w)
	return out.Bytes()
}

// tail is an empty last block, the checksum and the size.
func (gzipCoding) tail(crc, size uint32) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32([]byte{0x03, 0x00}, crc), size)
}

type zstdCoding struct{}

func (zstdCoding) name() string               { return "zstd" }
func (zstdCoding) kind() int                  { return 1 }
func (zstdCoding) head() []byte               { return nil }
func (zstdCoding) tail(uint32, uint32) []byte { return nil }

// A window of 128 KiB is a quarter of what clients must take (RFC 9659) and enough for a piece.
var zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
	e, _ := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(128<<10), zstd.WithEncoderConcurrency(2))
	return e
})

func (zstdCoding) piece(dst, plain []byte) []byte { return zstdEncoder().EncodeAll(plain, dst) }

// codingFor picks what a client takes, of two that it likes alike the better one, or nil.
func codingFor(accept string) coding {
	var best coding
	var weight float64
	for part := range strings.SplitSeq(accept, ",") {
		name, params, _ := strings.Cut(part, ";")
		q := quality(params)
		var c coding
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "zstd":
			c, q = zstdCoding{}, q*1.0001
		case "gzip", "x-gzip":
			c = gzipCoding{}
		}
		if c != nil && q > weight {
			best, weight = c, q
		}
	}
	return best
}

// quality reads a weight (RFC 9110, section 12.4.2).
func quality(params string) float64 {
	for p := range strings.SplitSeq(params, ";") {
		if v, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(p)), "q="); ok {
			q, err := strconv.ParseFloat(v, 64)
			if err != nil || q < 0 || q > 1 {
				return 0
			}
			return q
		}
	}
	return 1
}

// smallestPage is how large a page must be to be worth compressing, in bytes.
const smallestPage = 1 << 10

// Compress returns the body in a coding that the client takes, by its Accept-Encoding, with the coding's name; or as it
// is and "".
func Compress(accept string, body []byte) ([]byte, string) {
	c := codingFor(accept)
	if c == nil || len(body) < smallestPage {
		return body, ""
	}
	out := c.piece(c.head(), body)
	return append(out, c.tail(crc32.ChecksumIEEE(body), uint32(len(body)))...), c.name()
}

// squeezed is a writer of compressed messages over a pipe.
type squeezed struct {
	coding
	pipe  *pipe
	begun bool
	plain []byte
	crc   uint32
	size  uint32
}

func squeezeFor(accept string) *squeezed {
	if c := codingFor(accept); c != nil {
		return &squeezed{coding: c}
	}
	return nil
}

func (s *squeezed) begin() error {
	if s.begun {
		return nil
	}
	s.begun = true
	return s.pipe.write(s.head())
}

func (s *squeezed) write(message []byte) error {
	s.count(message)
	s.plain = append(s.plain, message...)
	if len(s.plain) < unit {
		return nil
	}
	return s.squeeze()
}

func (s *squeezed) count(plain []byte) {
	s.crc = crc32.Update(s.crc, crc32.IEEETable, plain)
	s.size += uint32(len(plain))
}

// squeeze compresses what has gathered.
func (s *squeezed) squeeze() error {
	if err := s.begin(); err != nil {
		return err
	}
	if len(s.plain) == 0 {
		return nil
	}
	buf := buffers.Get().(*[]byte)
	out := s.piece((*buf)[:0], s.plain)
	err := s.pipe.write(out)
	buffers.Put(buf)
	if s.plain = s.plain[:0]; cap(s.plain) > 4<<10 {
		s.plain = nil // a connection that waits keeps nothing large
	}
	return err
}

func (s *squeezed) flush() error {
	if err := s.squeeze(); err != nil {
		return err
	}
	return s.pipe.flush()
}

// shared writes a piece that was made for all, of the given messages.
func (s *squeezed) shared(piece []byte, messages [][]byte) error {
	if err := s.squeeze(); err != nil {
		return err
	}
	for _, m := range messages {
		s.count(m)
	}
	return s.pipe.write(piece)
}

// close ends the body. The client may be gone.
func (s *squeezed) close() {
	if s.squeeze() == nil && s.pipe.write(s.tail(s.crc, s.size)) == nil {
		s.pipe.flush()
	}
}
