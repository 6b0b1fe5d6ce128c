//go:build linux

package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-io/penstock/ingress"
)

// Load sends deliveries and commands to the nodes until it is stopped. What isn't acknowledged is sent again under the
// same id, to any node, until it is; some requests are never sent again, and some again although they were acknowledged.
type Load struct {
	Nodes   []*Node
	Journal *Journal
	Seed    uint64
	// Senders of deliveries and of commands. Pause is what each of them waits on average between two requests.
	Deliverers, Commanders int
	Pause                  time.Duration

	Sent         atomic.Int64 // attempts
	Acknowledged atomic.Int64
	Unknown      atomic.Int64 // attempts without an answer, or with 503

	stopping atomic.Bool
	patience context.Context // when it ends, requests that are not acknowledged are given up
	senders  sync.WaitGroup
	versions [streams]atomic.Uint64 // what the commanders believe
}

// streams is how many accounts the commanders race for; few, so that they collide.
const streams = 6

// Start begins. Nothing is sent again once patience has ended.
func (l *Load) Start(patience context.Context) {
	l.patience = patience
	for i := range l.Deliverers {
		l.senders.Go(func() { l.deliver(i, rand.New(rand.NewPCG(l.Seed, uint64(100+i)))) })
	}
	for i := range l.Commanders {
		l.senders.Go(func() { l.command(i, rand.New(rand.NewPCG(l.Seed, uint64(200+i)))) })
	}
}

// Stop lets every sender finish what it has in hand.
func (l *Load) Stop() {
	l.stopping.Store(true)
	l.senders.Wait()
}

func (l *Load) pause(random *rand.Rand) {
	if l.Pause > 0 {
		time.Sleep(time.Duration(random.Int64N(int64(2 * l.Pause))))
	}
}

func (l *Load) deliver(sender int, random *rand.Rand) {
	for i := 0; !l.stopping.Load(); i++ {
		r := Request{Kind: Delivery, Source: "stripe", ID: fmt.Sprintf("evt_%d_%d", sender, i), Once: random.IntN(12) == 0}
		facts := ingress.Facts{ID: r.ID, Customer: fmt.Sprintf("cus_%d", random.IntN(10)), Charge: "ch_" + r.ID, Amount: 1000 + random.Int64N(9000)}
		kind, key := "stripe.charge.succeeded", ingress.Secret(secret)
		r.Stream = "stripe/" + facts.Customer
		switch random.IntN(4) {
		case 0:
			facts.Number = 1 + random.Int64N(4)
			kind, r.Source, r.Stream = "github.pull_request.opened", "github", fmt.Sprintf("github/octo/hello#%d", facts.Number)
		case 1:
			kind, r.Source, r.Stream, key = "standard.invoice.paid", "standard", "standard/"+facts.Customer, ingress.Secret(whsec)
		}
		d, err := ingress.Sample(kind, facts)
		if err != nil {
			panic(err) // the names above are ours
		}
		r.Digest = Digest(d.Body)
		request := func(ctx context.Context, url string) (*http.Request, error) {
			return d.Request(ctx, url, r.Source, key, time.Now())
		}
		if l.send(random, r, request); random.IntN(8) == 0 {
			l.pause(random)
			l.send(random, r, request) // a provider that repeats what was acknowledged
		}
		l.pause(random)
	}
}

func (l *Load) command(sender int, random *rand.Rand) {
	for i := 0; !l.stopping.Load(); i++ {
		n := random.IntN(streams)
		customer, name, more := fmt.Sprintf("cus_%d", n), "GrantCredit", fmt.Sprintf(`,"amount":%d,"currency":"eur"`, 1+i)
		r := Request{Kind: Command, ID: fmt.Sprintf("cmd_%d_%d", sender, i), Once: random.IntN(12) == 0}
		switch random.IntN(8) {
		case 0: // no expectation
		case 1: // an account that is now open and now suspended, so that rules refuse
			customer, name, more = "cus_moody", []string{"SuspendAccount", "ReopenAccount"}[random.IntN(2)], ""
		case 2:
			customer = "cus_moody"
		default:
			expected := l.versions[n].Load()
			r.Expected = &expected
		}
		r.Stream = "billing/" + customer
		body := fmt.Sprintf(`{"customer":%q%s}`, customer, more)
		request := func(ctx context.Context, url string) (*http.Request, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/commands/"+name, strings.NewReader(body))
			if err != nil {
				return nil, err
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Idempotency-Key", r.ID)
			if r.Expected != nil {
				req.Header.Set("If-Match", fmt.Sprintf(`"%d"`, *r.Expected))
			}
			return req, nil
		}
		status, answer := l.send(random, r, request)
		if r.Expected != nil {
			l.learn(n, status, answer)
		}
		if random.IntN(8) == 0 {
			l.pause(random)
			l.send(random, r, request)
		}
		l.pause(random)
	}
}

// learn takes the version of an account out of an answer.
func (l *Load) learn(n, status int, body []byte) {
	var a answer
	if json.Unmarshal(body, &a) != nil {
		return
	}
	version := a.Version
	if status == 412 && a.Actual != nil {
		version = *a.Actual
	}
	for {
		before := l.versions[n].Load()
		if version <= before || l.versions[n].CompareAndSwap(before, version) {
			return
		}
	}
}

// send sends a request until it is acknowledged, to any of the nodes.
func (l *Load) send(random *rand.Rand, r Request, request func(ctx context.Context, url string) (*http.Request, error)) (status int, body []byte) {
	for {
		node := l.Nodes[random.IntN(len(l.Nodes))]
		req, err := request(context.Background(), node.URL())
		if err != nil {
			panic(err) // a URL of ours
		}
		number := l.Journal.Send(r, node.Index)
		l.Sent.Add(1)
		status, body, err = exchange(node.Client, req)
		l.Journal.Answer(number, status, body, err)
		switch {
		case err != nil, status == 503:
			l.Unknown.Add(1)
		case status == 202 && r.Kind == Command: // in the log; what comes of it is asked for again
			l.Acknowledged.Add(1)
		default:
			l.Acknowledged.Add(1)
			return status, body
		}
		if r.Once || l.patience.Err() != nil {
			return status, body
		}
		time.Sleep(20*time.Millisecond + time.Duration(random.Int64N(int64(80*time.Millisecond))))
	}
}

// exchange returns the whole answer. An answer that breaks off is none.
func exchange(c *http.Client, r *http.Request) (status int, body []byte, err error) {
	resp, err := c.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20)); err != nil {
		return 0, nil, err
	}
	return resp.StatusCode, body, nil
}
