package egress

import (
	"fmt"
	"net"
	"net/http"
	"time"
)

// takesOver reports whether a feed can take its connection over from the HTTP server. Without the server's buffers and
// its goroutine's stack, which have served the request and only wait, a connection takes a third of the memory. It
// can't be done to one stream of HTTP/2, and HTTP/1.0 has no chunks.
func (f *Feeds) takesOver(w http.ResponseWriter, r *http.Request) bool {
	_, can := w.(http.Hijacker)
	return can && r.ProtoMajor == 1 && r.ProtoMinor == 1 && r.Method == http.MethodGet && r.TLS == nil
}

// serveHijacked answers with the header that w has, and serves the rest in goroutines of its own. It takes over the
// caller's duty to leave.
func (f *Feeds) serveHijacked(w http.ResponseWriter, c *connection, serve func(*pipe)) {
	conn, _, err := w.(http.Hijacker).Hijack() // what the client has sent already is nothing that a feed takes
	if err != nil {
		f.leave(c)
		f.cfg.Logger.Error("a feed can't take over its connection", "error", err)
		return
	}
	h := w.Header()
	h.Set("Transfer-Encoding", "chunked")
	h.Set("Connection", "close")
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	out := &hijacked{Conn: conn}
	p := &pipe{out: out, progress: f.cfg.Progress, lazy: true}
	conn.SetReadDeadline(time.Time{}) // the server's was for the request; an error comes back at once below
	fmt.Fprint(out, "HTTP/1.1 200 OK\r\n")
	h.Write(out)
	fmt.Fprint(out, "\r\n")
	if p.arm(time.Now()) == nil {
		out.Flush() // where this fails the feed's first words do
	}
	out.chunked = true
	c.cut.Store(&conn)
	attended := make(chan struct{})
	go func() {
		defer close(attended)
		attend(conn, c)
	}()
	go func() {
		defer f.leave(c)
		defer func() { conn.Close(); <-attended }()
		serve(p)
		if p.arm(time.Now()) == nil {
			conn.Write([]byte("0\r\n\r\n")) // the body is complete; if it can't be said, its end says the same
		}
	}()
}

// attend waits until the client is gone. A feed's client has nothing to say, and is not listened to for long.
func attend(conn net.Conn, c *connection) {
	var b [512]byte
	for heard := 0; heard < 16<<10; {
		n, err := conn.Read(b[:])
		if err != nil {
			break
		}
		heard += n
	}
	c.cancel(errGone)
}
