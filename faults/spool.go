//go:build linux

package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-io/penstock/ingress"
)

// Order is the promise that deliveries of one stream, each sent after the one before was acknowledged by the same node,
// stand in that order.
const Order Promise = "order"

// Sent is one delivery of a sender, which sends the next one only when this one is acknowledged.
type Sent struct {
	Sender, Number int
	ID, Stream     string
	Digest         string
	Acknowledged   bool
	Spooled        bool // the last answer said so
}

// SpoolLoad sends deliveries to one node, whatever happens to it, and remembers what was answered. The spool belongs to
// its node, and so does the order across it.
type SpoolLoad struct {
	Node    *Node
	Seed    uint64
	Senders int
	Pause   time.Duration

	Acknowledged, Spooled, Refused atomic.Int64 // answers

	stopping atomic.Bool
	patience context.Context
	senders  sync.WaitGroup
	mu       sync.Mutex
	sent     []Sent
}

// Start begins. What isn't acknowledged when patience ends stays so.
func (l *SpoolLoad) Start(patience context.Context) {
	l.patience = patience
	for i := range l.Senders {
		l.senders.Go(func() { l.send(i, rand.New(rand.NewPCG(l.Seed, uint64(300+i)))) })
	}
}

// Stop lets every sender finish what it has in hand, and returns what they sent.
func (l *SpoolLoad) Stop() []Sent {
	l.stopping.Store(true)
	l.senders.Wait()
	return l.sent
}

func (l *SpoolLoad) send(sender int, random *rand.Rand) {
	for i := 0; !l.stopping.Load(); i++ {
		s := Sent{Sender: sender, Number: i, ID: fmt.Sprintf("spool_%d_%d", sender, i)}
		facts := ingress.Facts{ID: s.ID, Customer: fmt.Sprintf("cus_%d", random.IntN(6)), Amount: 1 + random.Int64N(9000)}
		s.Stream = "standard/" + facts.Customer
		d, err := ingress.Sample("standard.invoice.paid", facts)
		if err != nil {
			panic(err) // the names above are ours
		}
		s.Digest = Digest(d.Body)
		s.Acknowledged, s.Spooled = l.deliver(d)
		l.mu.Lock()
		l.sent = append(l.sent, s)
		l.mu.Unlock()
		time.Sleep(time.Duration(random.Int64N(int64(2*l.Pause + 1))))
	}
}

// deliver sends d until it is acknowledged, or patience has ended.
func (l *SpoolLoad) deliver(d ingress.Delivery) (acknowledged, spooled bool) {
	for l.patience.Err() == nil {
		r, err := d.Request(context.Background(), l.Node.URL(), "standard", ingress.Secret(whsec), time.Now())
		if err != nil {
			panic(err) // a URL of ours
		}
		if resp, err := l.Node.Client.Do(r); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusAccepted {
				l.Acknowledged.Add(1)
				if spooled = resp.Header.Get("Penstock-Durability") == string(ingress.Spooled); spooled {
					l.Spooled.Add(1)
				}
				return true, spooled
			}
			l.Refused.Add(1)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false, false
}

// CheckSpool compares what was acknowledged with the events: each once, byte for byte, in its stream, without a hole in
// the versions, and those of one sender in the order in which they were acknowledged.
func CheckSpool(sent []Sent, events []Record) (findings []Finding) {
	find := func(p Promise, format string, args ...any) {
		findings = append(findings, Finding{p, fmt.Sprintf(format, args...)})
	}
	stand := map[string][]Record{}
	heads := map[string]uint64{}
	for _, e := range events {
		heads[e.Key]++
		if e.Headers["ce_streamversion"] != strconv.FormatUint(heads[e.Key], 10) {
			find(Versions, "%s has version %s at place %d", e.Key, e.Headers["ce_streamversion"], heads[e.Key])
		}
		id := e.Headers["ce_deliveryid"]
		stand[id] = append(stand[id], e)
	}
	type line struct {
		sender int
		stream string
	}
	type stood struct {
		Sent
		at place
	}
	before := map[line]stood{}
	for _, s := range sent { // of each sender in its order
		there := stand[s.ID]
		delete(stand, s.ID)
		if len(there) > 1 {
			find(Once, "%s stands %d times", s.ID, len(there))
		}
		if len(there) == 0 {
			if s.Acknowledged {
				find(Durable, "%s was acknowledged (spooled: %t) and isn't there", s.ID, s.Spooled)
			}
			continue
		}
		at := there[0].at()
		if got := Digest(there[0].Value); got != s.Digest || there[0].Key != s.Stream {
			find(Durable, "%s stands in %s with digest %s; it was sent to %s with %s", s.ID, there[0].Key, got, s.Stream, s.Digest)
		}
		l := line{s.Sender, s.Stream}
		if b, ok := before[l]; ok && (b.at.partition != at.partition || b.at.offset > at.offset) {
			find(Order, "%s (spooled: %t) stands at %s, and %s (spooled: %t), which was acknowledged before it was sent, at %s",
				s.ID, s.Spooled, at, b.ID, b.Spooled, b.at)
		}
		if s.Acknowledged {
			before[l] = stood{s, at}
		}
	}
	for id, there := range stand {
		find(Once, "%s stands %d times and was never sent", id, len(there))
	}
	return findings
}
