package penstock

import (
	"errors"
	"syscall"
	"time"
)

// Options of tcp(7) that package syscall leaves out.
const (
	tcpUserTimeout  = 18
	tcpNotSentLimit = 25 // TCP_NOTSENT_LOWAT
)

// unsent bounds what waits in the kernel for a client that doesn't read, in bytes, besides what is on its way. Without it
// that is up to 4 MiB for each, and a feed finds out that its client has stalled only after having read so much for it.
const unsent = 128 << 10

// bounded bounds how long what was sent may stay without an acknowledgement, and how much may wait to be sent. Accepted
// connections inherit that from their listener. Without the first a client that vanished without a word, while a feed sends
// it a heartbeat every 15 seconds, is believed in for a quarter of an hour: keep-alive probes are sent only where nothing
// else is on its way.
func bounded(unanswered time.Duration) func(_, _ string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if ctl := c.Control(func(fd uintptr) {
			err = errors.Join(
				syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(unanswered.Milliseconds())),
				syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLimit, unsent),
			)
		}); ctl != nil {
			return ctl
		}
		return err
	}
}
