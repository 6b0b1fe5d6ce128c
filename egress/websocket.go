package egress

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/penstock-io/penstock/domain"
)

// The subprotocols. The first one is also spoken where the client offers none.
const (
	protocolLines       = "penstock.v1"
	protocolCloudEvents = "cloudevents.json"
)

const (
	// pingEvery is how long a WebSocket is believed in without a pong; after two it is cut.
	pingEvery = 30 * time.Second
	// readLimit bounds a message of a client, in bytes.
	readLimit = 20 << 10
	// frameBuffer is what the library needs for headers. Payloads don't go through it.
	frameBuffer = 256
)

// closeCodes says how the end of a feed is told by a WebSocket (RFC 6455, section 7.4): 1xxx as registered, 44xx for
// what lasts, as HTTP's 4xx, 45xx for what passes.
var closeCodes = map[string]websocket.StatusCode{
	done:                websocket.StatusNormalClosure,
	shuttingDown.reason: websocket.StatusGoingAway,
	lifetime:            websocket.StatusGoingAway,
	protocol:            websocket.StatusPolicyViolation,
	unavailable:         websocket.StatusTryAgainLater,
	"expired":           4410,
	"reset":             4409,
	"future":            4409,
	filterCost:          4422,
	disconnected:        4503,
	slow:                4508,
}

// WebSocket runs one feed over a WebSocket (RFC 6455). Everything about the request is checked before the upgrade. The
// client says nothing; what it gets are messages as in NDJSON, or with the subprotocol cloudevents.json CloudEvents. w
// is its own from here on, and the feed goes on after WebSocket has returned.
func (f *Feeds) WebSocket(w http.ResponseWriter, r *http.Request, sub *Subscription) {
	protocols := []string{protocolLines}
	if sub.Source.Rows == nil { // rows are no CloudEvents
		protocols = append(protocols, protocolCloudEvents)
	}
	s := f.upgrade(w, r, protocols)
	if s == nil {
		return
	}
	var enc encoder = lineEncoder{}
	if s.ws.Subprotocol() == protocolCloudEvents {
		enc = &cloudEventEncoder{}
	}
	go func() {
		defer s.left(f)
		go s.listen(f)
		st := f.newStream(sub, s, enc, f.enter(s.c, sub, nil))
		st.alive = s.alive
		e := st.finish(s.c.ctx, st.run(s.c.ctx))
		f.exit(st.who)
		s.close(e)
	}()
}

// socket is a WebSocket as a feed's writer. Its messages may come from several goroutines, its flushes too.
type socket struct {
	ws   *websocket.Conn
	wire *wire
	c    *connection

	every   time.Duration // between pings
	pinged  time.Time
	pinging atomic.Bool
	missed  atomic.Int32
	helpers sync.WaitGroup
}

// upgrade makes a WebSocket of the request, or answers it.
func (f *Feeds) upgrade(w http.ResponseWriter, r *http.Request, protocols []string) *socket {
	if !AllowedOrigin(r, f.cfg.Origins) {
		f.refuse(w, r, overWebSocket, &wrongOrigin)
		return nil
	}
	if offered := r.Header.Values("Sec-WebSocket-Protocol"); len(offered) > 0 && !offers(offered, protocols) {
		f.refuseError(w, domain.Invalidf("Sec-WebSocket-Protocol", "here are spoken %s", strings.Join(protocols, " and ")))
		return nil
	}
	c, why := f.admit(context.Background(), r, overWebSocket) // the request's context ends when the handler returns
	if why != nil {
		f.refuse(w, r, overWebSocket, why)
		return nil
	}
	up := &upgrade{ResponseWriter: w, feeds: f}
	options := &websocket.AcceptOptions{Subprotocols: protocols, InsecureSkipVerify: true} // the origin was checked above
	if f.cfg.Deflate {
		options.CompressionMode = websocket.CompressionNoContextTakeover
	}
	ws, err := websocket.Accept(up, r, options)
	if err != nil { // the library has answered
		f.leave(c)
		return nil
	}
	ws.SetReadLimit(readLimit)
	c.cut.Store(&up.wire.Conn)
	up.wire.mu.Lock()
	up.wire.plain = !f.cfg.Deflate // what the library has written until here was the answer to the request
	up.wire.mu.Unlock()
	s := &socket{ws: ws, wire: up.wire, c: c, every: f.cfg.Ping, pinged: time.Now()}
	s.helpers.Add(1) // listen
	return s
}

// listen waits for the client to leave. It must not say anything.
func (s *socket) listen(f *Feeds) {
	defer s.helpers.Done()
	if _, _, err := s.ws.Reader(context.Background()); err != nil {
		s.c.cancel(errGone)
		return
	}
	f.metrics.of[overWebSocket].received.Inc()
	s.c.cancel(errProtocol)
}

func (s *socket) write(message []byte) error {
	if s.wire.plain {
		return s.wire.message(message)
	}
	s.wire.cork()
	if err := s.ws.Write(context.Background(), websocket.MessageText, message); err != nil {
		return &writeError{err}
	}
	return nil
}

func (s *socket) flush() error { return s.wire.uncork() }

// alive sends a ping when one is due, and says when two were missed.
func (s *socket) alive(now time.Time) error {
	if s.missed.Load() >= 2 {
		return &writeError{fmt.Errorf("two pings without a pong: %w", errStalled)}
	}
	if now.Sub(s.pinged) < s.every || s.pinging.Swap(true) {
		return nil
	}
	s.pinged = now
	s.helpers.Go(func() {
		defer s.pinging.Store(false)
		ctx, cancel := context.WithTimeout(s.c.ctx, s.every)
		defer cancel()
		if err := s.ws.Ping(ctx); err == nil {
			s.missed.Store(0)
		} else {
			s.missed.Add(1)
		}
	})
	return nil
}

// close ends the socket in the way that suits the end of its feed.
func (s *socket) close(e ending) {
	reason := e.reason
	if e.control.name == "reset" {
		reason = e.control.reason
	}
	code, known := closeCodes[reason]
	if !known || !e.told {
		s.ws.CloseNow()
		return
	}
	s.wire.uncork()
	s.ws.Close(code, reason) // waits up to five seconds for the client's own
}

// left gives everything back.
func (s *socket) left(f *Feeds) {
	s.c.cancel(errGone)
	s.ws.CloseNow()
	s.helpers.Wait()
	f.leave(s.c)
}

// wire is the connection under a WebSocket. While it is corked, messages gather for one write; what the library sends by
// itself in between, a pong, goes with them.
type wire struct {
	net.Conn
	before bytes.Reader // what the HTTP server had read already

	mu     sync.Mutex
	out    hijacked
	pipe   pipe
	corked bool
	slow   bool
	plain  bool // nothing is compressed; the library writes control frames alone
	closed bool // a close frame was sent: nothing may follow
}

func (w *wire) Read(b []byte) (int, error) {
	if w.before.Len() > 0 {
		return w.before.Read(b)
	}
	return w.Conn.Read(b)
}

// message writes a text message as one frame, and corks. The library takes a sixth of the time that delivering an event
// takes for its locks and its state, which are not needed here: what it sends besides are control frames, and each of them
// comes as one Write.
func (w *wire) message(text []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return &writeError{net.ErrClosed}
	}
	w.corked = true
	var space [10]byte
	head := append(space[:0], 0x80|1) // the final fragment of a text (RFC 6455, section 5.2)
	switch n := len(text); {
	case n < 126:
		head = append(head, byte(n))
	case n < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, 126), uint16(n))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 127), uint64(n))
	}
	for _, part := range [][]byte{head, text} {
		if err := w.pipe.write(part); err == errSlow {
			w.slow = true // what is begun is finished first
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(b) > 0 && b[0]&0x0f == 8 && w.plain {
		w.closed = true
	}
	err := w.pipe.write(b)
	if err == nil && !w.corked {
		err = w.pipe.flush()
	}
	if err == errSlow { // for the feed to find, not for the library to stumble over
		w.slow, err = true, nil
	}
	return len(b), err
}

func (w *wire) cork() {
	w.mu.Lock()
	w.corked = true
	w.mu.Unlock()
}

func (w *wire) uncork() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.corked = false
	err := w.pipe.flush()
	if err == nil && w.slow {
		err = errSlow
	}
	w.slow = false
	return err
}

// upgrade puts a wire between the library and the connection.
type upgrade struct {
	http.ResponseWriter
	feeds *Feeds
	wire  *wire
}

func (u *upgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(u.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	conn.SetDeadline(time.Time{}) // the server's were for the request; an error comes back with the first write
	w := &wire{Conn: conn}
	if n := brw.Reader.Buffered(); n > 0 {
		early, _ := brw.Reader.Peek(n) // all of it is there
		w.before.Reset(bytes.Clone(early))
	}
	w.out.Conn = conn
	w.pipe = pipe{out: &w.out, progress: u.feeds.cfg.Progress, lazy: true}
	u.wire = w
	return w, bufio.NewReadWriter(bufio.NewReaderSize(w, frameBuffer), bufio.NewWriterSize(w, frameBuffer)), nil
}

func offers(offered, spoken []string) bool {
	for _, list := range offered {
		for name := range strings.SplitSeq(list, ",") {
			for _, s := range spoken {
				if strings.EqualFold(strings.TrimSpace(name), s) {
					return true
				}
			}
		}
	}
	return false
}

// AllowedOrigin reports whether the page that asks may: one of this host, or of one of origins, which are as in Config.
// Programs send no origin; a browser always does, and would send the user's credentials from any page (RFC 6455, section
// 10.2).
func AllowedOrigin(r *http.Request, origins []string) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	if strings.EqualFold(u.Host, r.Host) {
		return true
	}
	for _, o := range origins {
		target := u.Host
		if strings.Contains(o, "://") {
			target = u.Scheme + "://" + u.Host
		}
		if ok, _ := path.Match(strings.ToLower(o), strings.ToLower(target)); ok { // checked by New
			return true
		}
	}
	return false
}

func checkOrigins(origins []string) error {
	for _, o := range origins {
		if _, err := path.Match(o, ""); err != nil || o == "" || o == "*" {
			return fmt.Errorf("origin %q: a host as in example.com or https://*.example.com; allowing every page would let any of them use a visitor's access", o)
		}
	}
	return nil
}

// errStalled ends a connection whose client doesn't answer.
var errStalled = errors.New("the client doesn't answer")
