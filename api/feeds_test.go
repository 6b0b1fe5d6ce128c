package api

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

// counted is a context that knows how many wait for its end.
type counted struct {
	context.Context
	done    chan struct{}
	waiting atomic.Int64
}

func (c *counted) Done() <-chan struct{} { return c.done }

func (c *counted) AfterFunc(func()) (stop func() bool) {
	c.waiting.Add(1)
	return func() bool { c.waiting.Add(-1); return true }
}

// A connection that follows a stream waits for each of its events. None of these waits may stay behind, for a
// connection may live for days.
func TestWaitingForAStreamLeavesNothingWithTheConnection(t *testing.T) {
	n := newNode(t, true)
	streams, _ := n.cfg.Engine.View("streams")
	n.submit(`{"counter":"a","by":1}`).is(200)
	eventstoretest.Until(t, "the fold knows the stream", func() bool {
		_, ok, err := n.cfg.History.Head("counter/a")
		return ok && err == nil
	})
	d := Durable(n.cfg.History, streams, "counter/a")
	connection := &counted{Context: context.Background(), done: make(chan struct{})}
	for i := range 10 {
		waited := make(chan error, 1)
		version := uint64(1 + i)
		go func() { waited <- d.Wait(connection, version) }()
		eventstoretest.Until(t, "it waits", func() bool { return connection.waiting.Load() > 0 || len(waited) > 0 })
		n.submit(fmt.Sprintf(`{"counter":"a","by":%d}`, 1+i%3)).is(200)
		if err := <-waited; err != nil {
			t.Fatal(err)
		}
		if now := connection.waiting.Load(); now != 0 {
			t.Fatalf("%d waits stay behind after %d events", now, i+1)
		}
	}
}
