package penstock

import "syscall"

// unanswered is how long what was sent may stay without an acknowledgement. Without it a client that vanished without a
// word, while a feed sends it a heartbeat every 15 seconds, is believed in for a quarter of an hour: keep-alive probes
// are sent only where nothing else is on its way.
const unanswered = 45_000 // milliseconds

const tcpUserTimeout = 18 // TCP_USER_TIMEOUT of tcp(7), which package syscall leaves out

// vanish bounds how long connections to a vanished client last. Accepted connections inherit it from their listener.
func vanish(_, _ string, c syscall.RawConn) error {
	var err error
	if ctl := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, unanswered)
	}); ctl != nil {
		return ctl
	}
	return err
}
