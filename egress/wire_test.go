package egress

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// recorded is a connection that keeps what is written.
type recorded struct {
	net.Conn
	bytes.Buffer
}

func (r *recorded) Write(b []byte) (int, error)      { return r.Buffer.Write(b) }
func (r *recorded) Read([]byte) (int, error)         { return 0, io.EOF }
func (r *recorded) SetWriteDeadline(time.Time) error { return nil }

// TestFramesOfAWire: headers by RFC 6455, section 5.2, at the lengths where they change, and nothing after a close frame
// (section 5.5.1).
func TestFramesOfAWire(t *testing.T) {
	conn := &recorded{}
	w := &wire{Conn: conn, plain: true}
	w.out.Conn = conn
	w.pipe = pipe{out: &w.out, progress: time.Minute, lazy: true}
	for _, c := range []struct {
		size int
		head string
	}{
		{0, "\x81\x00"}, {125, "\x81\x7d"}, {126, "\x81\x7e\x00\x7e"}, {65535, "\x81\x7e\xff\xff"},
		{65536, "\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"}, {200_000, "\x81\x7f\x00\x00\x00\x00\x00\x03\x0d\x40"},
	} {
		conn.Reset()
		text := strings.Repeat("x", c.size)
		if err := w.message([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := w.uncork(); err != nil {
			t.Fatal(err)
		}
		if got := conn.String(); got != c.head+text {
			t.Errorf("%d bytes: %d bytes, beginning with %x", c.size, len(got), got[:min(12, len(got))])
		}
	}
	conn.Reset()
	if _, err := w.Write([]byte("\x8a\x00")); err != nil { // a pong
		t.Fatal(err)
	}
	if err := w.message([]byte("more")); err != nil {
		t.Errorf("after a pong: %v", err)
	}
	const goodbye = "\x88\x02\x03\xe8"
	w.Write([]byte(goodbye))
	if err := w.message([]byte("more")); err == nil {
		t.Error("a message after a close frame")
	}
	w.uncork()
	if got := conn.String(); got != "\x8a\x00\x81\x04more"+goodbye {
		t.Errorf("%x", got)
	}
}
