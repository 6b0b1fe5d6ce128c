package penstock_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/penstock-io/penstock/ingress"
)

// crashClient gives up early: a node that is killed may leave a connection that says nothing.
var crashClient = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}

// send sends a request until it is acknowledged, or refused by a rule. ok is false when the test ends before.
func (c *crash) send(request func(url string) (*http.Request, error)) (a answer, ok bool) {
	for try := 0; ; try++ {
		if c.stopping.Load() && try > 0 && c.t.Failed() {
			return a, false
		}
		r, err := request(c.url.Load().(string))
		if err != nil {
			c.t.Error(err)
			return a, false
		}
		if a, err = exchange(crashClient, r); err == nil {
			switch {
			case a.status == 200, a.status == 409, a.status == 202 && strings.HasPrefix(r.URL.Path, "/hooks/"):
				c.acknowledged.Add(1)
				return a, true
			case a.status == 202, a.status == 503: // not known yet
			default:
				c.t.Errorf("%s: %s", r.URL.Path, a)
				return a, false
			}
		}
		c.retries.Add(1)
		time.Sleep(20 * time.Millisecond) // nobody is there
	}
}

func (c *crash) note(r receipt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.journal = append(c.journal, r)
}

// sendDeliveries is one of the senders of webhooks. They share their customers, so that streams are contended.
func (c *crash) sendDeliveries(sender int) {
	random := rand.New(rand.NewPCG(c.seed, uint64(100+sender)))
	var charged []receipt // and not refunded
	for i := 0; !c.stopping.Load(); i++ {
		id := fmt.Sprintf("evt_%d_%d", sender, i)
		r := receipt{source: "stripe", id: id, customer: fmt.Sprintf("cus_%d", random.IntN(12)), charge: "ch_" + id}
		amount := 1000 + random.Int64N(9000)
		r.moved.Captured = amount
		kind := "stripe.charge.succeeded"
		facts := ingress.Facts{ID: id, Customer: r.customer, Charge: r.charge, Amount: amount}
		switch random.IntN(6) {
		case 0:
			kind, facts.Number = "github.pull_request.opened", random.Int64N(5)+1
			r = receipt{source: "github", id: id}
		case 1:
			if len(charged) == 0 {
				break
			}
			of := charged[len(charged)-1]
			charged = charged[:len(charged)-1]
			kind = "stripe.charge.refunded"
			r.customer, r.charge, r.moved = of.customer, of.charge, currencyRow{Refunded: 1 + random.Int64N(of.moved.Captured)}
			facts.Customer, facts.Charge, facts.Amount, facts.Refunded = of.customer, of.charge, of.moved.Captured, r.moved.Refunded
		}
		d, err := ingress.Sample(kind, facts)
		if err != nil {
			c.t.Error(err)
			return
		}
		request := func(url string) (*http.Request, error) {
			return d.Request(context.Background(), url, r.source, ingress.Secret(crashSecret), time.Now())
		}
		if _, ok := c.send(request); !ok {
			return
		}
		c.note(r)
		if kind == "stripe.charge.succeeded" {
			charged = append(charged, r)
		}
		if i%10 == 9 { // a provider that repeats what was acknowledged
			if _, ok := c.send(request); !ok {
				return
			}
		}
	}
}

// sendBatches is one of the senders of batches. Each batch has new items and some of those before it, so that an item that
// is split off twice, or not at all, shows like any other delivery.
func (c *crash) sendBatches(sender int) {
	random := rand.New(rand.NewPCG(c.seed, uint64(200+sender)))
	meta, ok := ingress.ProviderNamed("meta")
	if !ok {
		c.t.Error("no provider meta")
		return
	}
	item := func(n int) (id, text string) {
		id = fmt.Sprintf("wamid.%d.%d", sender, n)
		return id, fmt.Sprintf(`{"field":"messages","value":{"messages":[{"id":%q,"from":"%d"}]}}`, id, n%7)
	}
	for next := 0; !c.stopping.Load(); {
		var items []string
		var fresh []receipt
		for range 1 + random.IntN(20) {
			id, text := item(next)
			items, fresh = append(items, text), append(fresh, receipt{source: "meta", id: id})
			next++
		}
		for range random.IntN(3) {
			_, text := item(random.IntN(next))
			items = append(items, text)
		}
		random.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
		body := `{"object":"whatsapp_business_account","entry":[{"id":"W","changes":[` + strings.Join(items, ",") + `]}]}`
		d := ingress.Delivery{Provider: meta, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(body)}
		request := func(url string) (*http.Request, error) {
			return d.Request(context.Background(), url, "meta", ingress.Secret(crashSecret), time.Now())
		}
		a, ok := c.send(request)
		if !ok {
			return
		}
		var accepted struct{ ID string }
		if err := json.Unmarshal(a.body, &accepted); err != nil {
			c.t.Errorf("batch: %s: %v", a, err)
			return
		}
		c.note(receipt{source: "meta", id: accepted.ID})
		for _, r := range fresh {
			c.note(r)
		}
		if random.IntN(10) == 0 {
			if _, ok := c.send(request); !ok {
				return
			}
		}
	}
}

// sendCommands is one of the senders of commands. Each has a customer of its own and knows at every moment at which
// version the account is and whether it is suspended: so a command that takes effect twice, or not at all, is also
// seen in the answer to the next one.
func (c *crash) sendCommands(sender int) {
	customer := fmt.Sprintf("own_%d", sender)
	version := uint64(0)
	for i := 0; !c.stopping.Load(); i++ {
		id := fmt.Sprintf("cmd_%d_%d", sender, i)
		name, body := "GrantCredit", fmt.Sprintf(`{"customer":%q,"amount":%d,"currency":"eur"}`, customer, i+1)
		r := receipt{id: id, customer: customer, moved: currencyRow{Credit: int64(i + 1)}}
		switch i % 8 {
		case 5:
			name, body, r.moved = "SuspendAccount", fmt.Sprintf(`{"customer":%q}`, customer), currencyRow{}
		case 6: // refused
			r.moved = currencyRow{}
		case 7:
			name, body, r.moved = "ReopenAccount", fmt.Sprintf(`{"customer":%q}`, customer), currencyRow{}
		}
		a, ok := c.send(func(url string) (*http.Request, error) {
			req, err := http.NewRequest(http.MethodPost, url+"/v1/commands/"+name, strings.NewReader(body))
			if err != nil {
				return nil, err
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Idempotency-Key", id)
			req.Header.Set("If-Match", fmt.Sprintf(`"%d"`, version))
			return req, nil
		})
		if !ok {
			return
		}
		var result commandResult
		if err := json.Unmarshal(a.body, &result); err != nil {
			c.t.Errorf("command %s: %s: %v", id, a, err)
			return
		}
		r.events, r.refused = result.Events, a.status == 409
		if want := i%8 == 6; r.refused != want {
			c.t.Errorf("command %s, number %d: %s", id, i, a)
			return
		}
		if !r.refused {
			version++
			if result.Version != version || len(result.Events) != 1 || result.Events[0].Version != version {
				c.t.Errorf("command %s: %s, want version %d", id, a, version)
				return
			}
		}
		c.note(r)
	}
}
