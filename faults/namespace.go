//go:build linux

package faults

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Namespace is a network of its own for one node, with nothing in it but a loopback interface. Brokers advertise
// 127.0.0.1:‹port›; inside, that address is a listener of the harness, which passes the bytes on to the real broker
// outside. So every connection between the node and a broker, also those that the client opens by what the broker
// advertises, goes through a link that can be cut, and no packet filter is needed. Making one takes root.
//
// A namespace is a property of a thread. One goroutine stays on such a thread and runs whatever must happen inside:
// listening, dialling, starting the node. Sockets stay in the namespace wherever they are used afterwards.
type Namespace struct {
	work  chan func()
	links map[string]*Link // by broker address
}

// ErrNotRoot is returned where namespaces can't be made: cuts are left out then.
var ErrNotRoot = errors.New("network namespaces need root")

// NewNamespace makes a namespace with a link to each broker.
func NewNamespace(brokers []string) (*Namespace, error) {
	n := &Namespace{work: make(chan func()), links: map[string]*Link{}}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		err := syscall.Unshare(syscall.CLONE_NEWNET)
		if errors.Is(err, syscall.EPERM) {
			err = ErrNotRoot
		}
		if err == nil {
			var out []byte
			if out, err = exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
				err = fmt.Errorf("ip link set lo up: %w: %s", err, out)
			}
		}
		made <- err
		if err != nil {
			return
		}
		for f := range n.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		return nil, err
	}
	for _, b := range brokers {
		var l net.Listener
		err := n.Do(func() (err error) { l, err = net.Listen("tcp", b); return err })
		if err != nil {
			n.Close()
			return nil, fmt.Errorf("listen in place of broker %s: %w", b, err)
		}
		n.links[b] = newLink(l, b)
	}
	return n, nil
}

// Do runs f inside the namespace. f must not block for long: there is one thread.
func (n *Namespace) Do(f func() error) error {
	done := make(chan error)
	n.work <- func() { done <- f() }
	return <-done
}

// Dial connects to an address inside.
func (n *Namespace) Dial(address string) (c net.Conn, err error) {
	err = n.Do(func() (err error) { c, err = net.DialTimeout("tcp", address, time.Second); return err })
	return c, err
}

// Link returns the link to a broker.
func (n *Namespace) Link(broker string) *Link { return n.links[broker] }

// Close ends the links and the thread. Processes inside must have ended.
func (n *Namespace) Close() {
	for _, l := range n.links {
		l.Close()
	}
	close(n.work)
}

// Cut is a way in which a link fails.
type Cut string

// The ways. In Held nothing arrives until the link is whole again and then everything does, as when packets are sent
// again after a long while. In Deaf requests reach the broker and its answers get lost, which is what makes a write's
// fate unknown.
const (
	Whole  Cut = "whole"
	Closed Cut = "closed" // connections break and new ones are refused
	Held   Cut = "held"
	Deaf   Cut = "deaf"
)

// Link passes connections on to one broker.
type Link struct {
	listener net.Listener
	target   string

	mu      sync.Mutex
	changed *sync.Cond
	state   Cut
	conns   map[net.Conn]bool // both sides
	closed  bool
	working sync.WaitGroup
}

func newLink(l net.Listener, target string) *Link {
	k := &Link{listener: l, target: target, state: Whole, conns: map[net.Conn]bool{}}
	k.changed = sync.NewCond(&k.mu)
	k.working.Go(k.accept)
	return k
}

// Set changes the state. What was swallowed is gone, so connections that went deaf break when the link heals.
func (k *Link) Set(state Cut) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if state == Closed || k.state == Deaf {
		k.breakAll()
	}
	k.state = state
	k.changed.Broadcast()
}

func (k *Link) breakAll() {
	for c := range k.conns {
		c.Close()
	}
}

// Close breaks everything and waits for the link's goroutines.
func (k *Link) Close() {
	k.mu.Lock()
	k.closed = true
	k.breakAll()
	k.changed.Broadcast()
	k.mu.Unlock()
	k.listener.Close()
	k.working.Wait()
}

func (k *Link) accept() {
	for {
		c, err := k.listener.Accept()
		if err != nil {
			return
		}
		k.working.Go(func() { k.serve(c) })
	}
}

func (k *Link) serve(inside net.Conn) {
	defer inside.Close()
	if k.await() == Closed {
		return
	}
	outside, err := net.DialTimeout("tcp", k.target, 5*time.Second)
	if err != nil {
		return
	}
	defer outside.Close()
	k.mu.Lock()
	if k.closed || k.state == Closed {
		k.mu.Unlock()
		return
	}
	k.conns[inside], k.conns[outside] = true, true
	k.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { k.pass(outside, inside, false) })
	both.Go(func() { k.pass(inside, outside, true) })
	both.Wait()
	k.mu.Lock()
	delete(k.conns, inside)
	delete(k.conns, outside)
	k.mu.Unlock()
}

// await returns the state once it is not Held.
func (k *Link) await() Cut {
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.state == Held && !k.closed {
		k.changed.Wait()
	}
	if k.closed {
		return Closed
	}
	return k.state
}

func (k *Link) pass(to, from net.Conn, answers bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			switch state := k.await(); {
			case state == Closed:
				return
			case state == Deaf && answers:
			default:
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
		}
		if err != nil {
			if err != io.EOF {
				return
			}
			k.await() // the end, too, arrives only when the link lets it
			return
		}
	}
}
