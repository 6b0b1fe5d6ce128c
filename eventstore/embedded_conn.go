package eventstore

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// maxRequest is the most bytes of one request to the embedded broker, as Kafka's own socket.request.max.bytes.
const maxRequest = 100 << 20

// strictListener hands out connections on which only requests of Kafka's protocol come through. kfake believes a
// request's size and kind: what a browser sends when a page asks for http://127.0.0.1:9092 is a request of 1.2 GB to it,
// and one of an unknown kind ends the process.
type strictListener struct {
	net.Listener
	logger *slog.Logger
}

func (l strictListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &strictConn{Conn: c, logger: l.logger}, nil
}

// strictConn follows the frames of what is read: four bytes of size, then the request, which begins with its kind, its
// version and a correlation id (https://kafka.apache.org/protocol#protocol_messages).
type strictConn struct {
	net.Conn
	logger *slog.Logger
	buf    [requestHead]byte
	head   []byte // what of buf has not been given out
	left   int    // bytes of the request after its head
}

const requestHead = 4 + 2 + 2 + 4

// Read gives out no byte of a request before its head was looked at.
func (c *strictConn) Read(b []byte) (int, error) {
	if len(c.head) == 0 && c.left == 0 {
		if err := c.begin(); err != nil {
			return 0, err
		}
	}
	if len(c.head) > 0 {
		n := copy(b, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

func (c *strictConn) begin() error {
	if _, err := io.ReadFull(c.Conn, c.buf[:]); err != nil {
		return err
	}
	size, kind := binary.BigEndian.Uint32(c.buf[:]), int16(binary.BigEndian.Uint16(c.buf[4:]))
	if size < requestHead-4 || size > maxRequest || kmsg.NameForKey(kind) == "Unknown" {
		c.logger.Warn("a connection to the embedded broker that doesn't speak Kafka's protocol was closed", "remote", c.RemoteAddr().String())
		return fmt.Errorf("a request of %d bytes of kind %d", size, kind)
	}
	c.head, c.left = c.buf[:], int(size)-(requestHead-4)
	return nil
}
