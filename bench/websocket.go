package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// sockets opens n WebSockets to the events of a node.
func sockets(ctx context.Context, p *process, n int, to *receipts) (*listeners, error) {
	return listenOver(ctx, n, 64, to, func(ctx context.Context, i int) (net.Conn, func() error, error) {
		conn, r, err := upgrade(ctx, p.addr, "/v1/events", i)
		return conn, func() error { return to.frames(r, conn) }, err
	})
}

// upgrade opens WebSocket number i. It is written out because a client library for each of thousands of connections
// would cost more than what is measured.
func upgrade(ctx context.Context, addr, path string, i int) (net.Conn, *bufio.Reader, error) {
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+i/500))}}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: penstock.v1\r\n\r\n", path, addr)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // it only explains
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	conn.SetDeadline(time.Time{})
	return conn, r, nil
}

// frames counts the events among a server's frames (RFC 6455, section 5.2), and answers pings.
func (to *receipts) frames(r *bufio.Reader, w io.Writer) error {
	var payload []byte
	for {
		var head [2]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		size, more := uint64(head[1]&0x7f), 0
		switch size {
		case 126:
			more = 2
		case 127:
			more = 8
		}
		if more > 0 {
			var long [8]byte
			if _, err := io.ReadFull(r, long[8-more:]); err != nil {
				return err
			}
			size = binary.BigEndian.Uint64(long[:])
		}
		if size > 32<<20 {
			return fmt.Errorf("a frame of %d bytes", size)
		}
		if uint64(cap(payload)) < size {
			payload = make([]byte, size)
		}
		payload = payload[:size]
		if _, err := io.ReadFull(r, payload); err != nil {
			return err
		}
		switch head[0] & 0x0f {
		case 1:
			if ns, ok := sentAt(payload); ok {
				to.frame.Store(int64(2 + more + len(payload)))
				to.take(ns, time.Now())
			}
		case 8:
			return fmt.Errorf("closed: %x", payload)
		case 9: // a pong, masked with zeros
			if _, err := w.Write(append([]byte{0x8a, 0x80 | byte(size), 0, 0, 0, 0}, payload...)); err != nil {
				return err
			}
		}
	}
}
