//go:build linux

package faults

import (
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"testing"
	"time"
)

// echo is a link to a server that answers each byte with itself, and a connection through it.
func echo(t *testing.T) (*Link, func() net.Conn) {
	t.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	server, front := listen(), listen()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	k := newLink(front, server.Addr().String())
	t.Cleanup(k.Close)
	return k, func() net.Conn {
		c, err := net.Dial("tcp", front.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
}

func read(c net.Conn, n int, within time.Duration) (string, error) {
	c.SetReadDeadline(time.Now().Add(within))
	b := make([]byte, n)
	n, err := io.ReadFull(c, b)
	return string(b[:n]), err
}

const silence = 50 * time.Millisecond // what must not come is awaited this long; what must come, 10 s

func TestLink(t *testing.T) {
	t.Run("whole", func(t *testing.T) {
		_, dial := echo(t)
		c := dial()
		write(t, c, "one")
		if got, err := read(c, 3, 10*time.Second); got != "one" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("what is held arrives afterwards", func(t *testing.T) {
		k, dial := echo(t)
		c := dial()
		write(t, c, "a")
		if got, err := read(c, 1, 10*time.Second); got != "a" {
			t.Fatalf("%q, %v", got, err)
		}
		k.Set(Held)
		write(t, c, "b")
		if got, err := read(c, 1, silence); err == nil {
			t.Errorf("%q came through", got)
		}
		k.Set(Whole)
		if got, err := read(c, 1, 10*time.Second); got != "b" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("a deaf connection hears nothing more, ever", func(t *testing.T) {
		k, dial := echo(t)
		c := dial()
		k.Set(Deaf)
		write(t, c, "a")
		if got, err := read(c, 1, silence); err == nil {
			t.Errorf("%q came back", got)
		}
		k.Set(Whole)
		if got, err := read(c, 1, 10*time.Second); err == nil {
			t.Errorf("%q came back", got)
		} else if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Error("the connection is still open")
		}
		write(t, dial(), "new connections work")
	})
	t.Run("closed", func(t *testing.T) {
		k, dial := echo(t)
		c := dial()
		write(t, c, "a")
		if got, err := read(c, 1, 10*time.Second); got != "a" {
			t.Fatalf("%q, %v", got, err)
		}
		k.Set(Closed)
		for _, c := range []net.Conn{c, dial()} {
			if _, err := read(c, 1, 10*time.Second); err == nil {
				t.Error("something came")
			} else if e, ok := err.(net.Error); ok && e.Timeout() {
				t.Error("the connection is still open")
			}
		}
	})
}

// TestSchedule repeats a seed, and keeps its faults in their bounds.
func TestSchedule(t *testing.T) {
	kinds := []Kind{KillNode, RestartNode, PauseNode, KillBroker, CutAll}
	for seed := range uint64(200) {
		draw := func() []Fault { return Schedule(rand.New(rand.NewPCG(seed, 0)), kinds, 4, nodes, 3, 20*time.Second) }
		all := draw()
		if !reflect.DeepEqual(all, draw()) {
			t.Fatalf("seed %d gives two schedules", seed)
		}
		for _, f := range all {
			if f.At < 0 || f.At >= 20*time.Second || f.For <= 0 || f.Node < 0 || f.Node >= nodes || f.Broker < 1 || f.Broker > 3 ||
				f.Kind == PauseNode && f.For <= 6*time.Second || (f.Cut != "") != (f.Kind == CutAll) {
				t.Errorf("seed %d: %+v", seed, f)
			}
		}
	}
}
