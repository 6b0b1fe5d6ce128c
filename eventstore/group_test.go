package eventstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// heldBroker keeps what it is given until it is told to acknowledge.
type heldBroker struct {
	mu   sync.Mutex // the timer sends too
	got  []string
	acks []func(error)
}

func (b *heldBroker) produce(_ context.Context, r *kgo.Record, done func(*kgo.Record, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, string(r.Value))
	b.acks = append(b.acks, func(err error) { done(r, err) })
}

// acknowledge answers the n oldest that wait for it.
func (b *heldBroker) acknowledge(n int, err error) {
	b.mu.Lock()
	acks := b.acks[:n]
	b.acks = b.acks[n:]
	b.mu.Unlock()
	for _, ack := range acks {
		ack(err)
	}
}

// grouped is a groups before a held broker, and what was answered to each append.
type grouped struct {
	*groups
	broker  heldBroker
	answers map[string][]error
}

func newGrouped() *grouped {
	g := &grouped{answers: map[string][]error{}}
	g.groups = newGroups(g.broker.produce)
	return g
}

func (g *grouped) put(from, until int) {
	for i := from; i < until; i++ {
		name := fmt.Sprint(i)
		g.append(&kgo.Record{Value: []byte(name)}, func(err error) { g.answers[name] = append(g.answers[name], err) })
	}
}

func (g *grouped) sent(t *testing.T, want int) {
	t.Helper()
	g.broker.mu.Lock()
	defer g.broker.mu.Unlock()
	if len(g.broker.got) != want {
		t.Fatalf("the broker has %d records, want %d: %v", len(g.broker.got), want, g.broker.got)
	}
	for i, name := range g.broker.got {
		if name != fmt.Sprint(i) {
			t.Fatalf("record %d is %s: %v", i, name, g.broker.got)
		}
	}
}

func TestFastAppendsLeaveInGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGrouped()
		g.put(0, 30)
		g.sent(t, groupFrom)
		g.broker.acknowledge(groupFrom-1, nil)
		g.sent(t, groupFrom)
		g.broker.acknowledge(1, nil)
		g.sent(t, 30)
		g.broker.acknowledge(30-groupFrom-1, nil)
		g.put(30, 33) // one of a group is still on its way
		g.sent(t, 30)
		lost := errors.New("lost")
		g.broker.acknowledge(1, lost)
		g.sent(t, 33)
		g.put(33, 34) // that group was small: the hurry is over
		g.sent(t, 34)
		g.put(34, 60)
		g.broker.acknowledge(4, nil)
		g.sent(t, 60)
		g.broker.acknowledge(26, nil)
		g.put(60, 61) // nothing is on its way
		g.sent(t, 61)
		g.broker.acknowledge(1, nil)
		for i := range 61 {
			want := []error{nil}
			if i == 29 {
				want = []error{lost}
			}
			if got := g.answers[fmt.Sprint(i)]; !slices.Equal(got, want) {
				t.Errorf("append %d was answered with %v, want %v", i, got, want)
			}
		}
	})
}

func TestAnAppendWaitsForItsGroupOnlyAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGrouped()
		g.put(0, groupFrom+1)
		time.Sleep(groupWait - time.Nanosecond)
		synctest.Wait()
		g.put(groupFrom+1, groupFrom+3)
		g.sent(t, groupFrom)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		g.sent(t, groupFrom+3)
		// The broker still says nothing: whoever comes now waits as long, not shorter and not longer.
		g.put(groupFrom+3, groupFrom+4)
		time.Sleep(groupWait - time.Nanosecond)
		synctest.Wait()
		g.sent(t, groupFrom+3)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		g.sent(t, groupFrom+4)
	})
}

func TestAFullGroupDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGrouped()
		g.put(0, groupFrom+groupRecords-1)
		g.sent(t, groupFrom)
		g.put(groupFrom+groupRecords-1, groupFrom+groupRecords)
		g.sent(t, groupFrom+groupRecords)
		g.append(&kgo.Record{Value: make([]byte, groupBytes)}, func(error) {})
		if n := len(g.broker.got); n != groupFrom+groupRecords+1 {
			t.Fatalf("the broker has %d records: one as large as a group waits for one", n)
		}
	})
}

func TestEveryAppendOfManyIsAnsweredOnce(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var brokers sync.WaitGroup
	queue := make(chan func(), 10_000)
	for n := range uint64(3) {
		rng := rand.New(rand.NewPCG(seed, n))
		brokers.Go(func() {
			for ack := range queue {
				if rng.IntN(50) == 0 {
					time.Sleep(time.Duration(rng.IntN(int(2 * groupWait))))
				}
				ack()
			}
		})
	}
	g := newGroups(func(_ context.Context, r *kgo.Record, done func(*kgo.Record, error)) {
		queue <- func() { done(r, nil) }
	})
	var writers sync.WaitGroup
	var answers atomic.Int64
	for range 32 {
		writers.Go(func() {
			for range 500 {
				answered := make(chan error, 2)
				g.append(&kgo.Record{}, func(err error) { answers.Add(1); answered <- err })
				select {
				case <-answered:
				case <-time.After(time.Minute):
					t.Error("an append was not answered within a minute")
					return
				}
				if len(answered) > 0 {
					t.Error("an append was answered twice")
				}
			}
		})
	}
	writers.Wait()
	close(queue)
	brokers.Wait()
	if n := answers.Load(); n != 32*500 {
		t.Errorf("%d answers to %d appends", n, 32*500)
	}
	if g.inFlight != 0 || len(g.waiting) != 0 {
		t.Errorf("%d on their way and %d waiting after everything was answered", g.inFlight, len(g.waiting))
	}
}
