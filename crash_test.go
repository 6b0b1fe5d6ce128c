package penstock_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/ingress"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestCrash kills a node again and again, at random moments and under load, and then reads what is left as another team
// would: everything that was acknowledged took effect exactly once, nothing else did, versions have no hole, and the
// balances are those of the acknowledged requests and of the log.
//
// What was acknowledged is never sent again by a sender that relies on it: only so a loss can show. What wasn't is
// sent again under the same id until it is.
//
// PENSTOCK_CRASH_ROUNDS sets the number of kills, PENSTOCK_CRASH_SEED repeats a run's requests, though not its timing.
func TestCrash(t *testing.T) {
	rounds, seed := envInt(t, "PENSTOCK_CRASH_ROUNDS", 5), envInt(t, "PENSTOCK_CRASH_SEED", time.Now().UnixNano())
	t.Logf("PENSTOCK_CRASH_ROUNDS=%d PENSTOCK_CRASH_SEED=%d", rounds, seed)
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	c := newCrash(t, uint64(seed))
	c.start()
	for round := range rounds {
		enough := c.acknowledged.Load() + 20 + random.Int64N(150)
		c.until("the load goes on", func() bool { return c.acknowledged.Load() >= enough })
		time.Sleep(time.Duration(random.Int64N(int64(30 * time.Millisecond)))) // the random moment
		c.kill()
		if random.IntN(3) == 0 { // once more, before it is up
			c.launch()
			time.Sleep(time.Duration(random.Int64N(int64(400 * time.Millisecond))))
			c.kill()
		}
		c.start()
		t.Logf("kill %d: %d acknowledged", round+1, c.acknowledged.Load())
	}
	c.finishLoad()
	c.kill() // what the last ones left is also picked up by a new process
	c.start()
	c.settle()
	c.verify()
}

// crash is one run of the crash test.
type crash struct {
	t       *testing.T
	seed    uint64
	config  string
	prefix  string
	brokers []string // those of Kafka, or of the present child's embedded broker
	child   *child

	url          atomic.Value // string
	acknowledged atomic.Int64
	retries      atomic.Int64
	stopping     atomic.Bool
	senders      sync.WaitGroup

	mu      sync.Mutex
	journal []receipt

	outcomes map[string][]string // by cause: what the log says became of a request, for a failure's message
}

// receipt is one request and what was acknowledged to it.
type receipt struct {
	source   string // of a delivery; "" for a command
	id       string
	customer string
	charge   string // charged or refunded
	moved    currencyRow
	refused  bool // 409: it must have no effect
	events   []eventRef
}

const crashSecret = "a secret of the crash test"

func newCrash(t *testing.T, seed uint64) *crash {
	c := &crash{t: t, seed: seed, prefix: eventstoretest.Prefix(), brokers: testBrokers()}
	dir := t.TempDir()
	c.config = filepath.Join(dir, "penstock.yaml")
	kafka := "embedded: 127.0.0.1:0"
	if c.brokers != nil {
		kafka = fmt.Sprintf("brokers: [%q]", strings.Join(c.brokers, `", "`))
	}
	writeFile(t, c.config, fmt.Sprintf(`
listen: 127.0.0.1:0
data: %s
kafka:
  %s
  prefix: %s
  partitions: 4
sources:
  stripe: {provider: stripe, secrets: ["env:CRASH_SECRET"]}
  github: {provider: github, secrets: ["env:CRASH_SECRET"]}
  meta: {provider: meta, secrets: ["env:CRASH_SECRET"]}
`, filepath.Join(dir, "data"), kafka, c.prefix))
	c.url.Store("http://127.0.0.1:1") // nobody
	for i := range 5 {
		c.senders.Go(func() { c.sendDeliveries(i) })
	}
	for i := range 3 {
		c.senders.Go(func() { c.sendCommands(i) })
	}
	for i := range 2 {
		c.senders.Go(func() { c.sendBatches(i) })
	}
	t.Cleanup(func() {
		c.stopping.Store(true)
		c.senders.Wait()
	})
	return c
}

func (c *crash) launch() {
	c.t.Helper()
	c.child = launch(c.t, []string{"CRASH_SECRET=" + crashSecret}, "serve", "-c", c.config)
}

// start launches a node and waits until it serves.
func (c *crash) start() {
	c.t.Helper()
	c.launch()
	m := c.child.wait(c.t, &c.child.stderr, serving)
	c.url.Store(m[1])
	if testBrokers() == nil {
		c.brokers = []string{m[2]}
	}
}

// serving is the line that penstock serve logs once it answers.
var serving = regexp.MustCompile(`penstock serves" url=(\S+) kafka=\[([^]]+)\]`)

func (c *crash) kill() {
	c.t.Helper()
	c.child.signal(c.t, syscall.SIGKILL)
	<-c.child.exited
}

// until waits with the crash test's own patience: on a real Kafka the dead node's session must expire first.
func (c *crash) until(what string, condition func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("waited in vain: %s; the node says:\n%s", what, c.child.stderr.tail())
		}
	}
}

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

// finishLoad lets every sender finish what it has in hand.
func (c *crash) finishLoad() {
	c.t.Helper()
	c.stopping.Store(true)
	var done atomic.Bool
	go func() {
		c.senders.Wait()
		done.Store(true)
	}()
	c.until("the senders finish", done.Load)
}

// settle waits until every record of the inbox, those that policies wrote included, has been handled.
func (c *crash) settle() {
	c.t.Helper()
	type place struct {
		partition int32
		offset    int64
	}
	waiting := map[place]string{}
	defer func() {
		for at, what := range waiting { // none, unless it was in vain
			c.t.Errorf("inbox record %d/%d has no outcome: %s", at.partition, at.offset, what)
		}
	}()
	c.until("the inbox is handled", func() bool {
		clear(waiting)
		c.outcomes = map[string][]string{}
		for _, r := range readTopic(c.t, c.brokers, c.prefix+".inbox") {
			waiting[place{r.Partition, r.Offset}] = header(r, "ps_kind") + " " + header(r, "ps_id")
		}
		for _, r := range readTopic(c.t, c.brokers, c.prefix+".outcomes") {
			var o struct {
				Source, ID string
				Partition  int32
				Inbox      int64
				Status     string
			}
			if err := json.Unmarshal(r.Value, &o); err != nil {
				c.t.Fatal(err)
			}
			if o.Status == "parked" {
				c.t.Fatalf("parked: %s", r.Value)
			}
			delete(waiting, place{o.Partition, o.Inbox})
			if o.Source == "api" {
				o.Source = ""
			}
			c.outcomes[o.Source+"/"+o.ID] = append(c.outcomes[o.Source+"/"+o.ID], fmt.Sprintf("%d/%d %s", r.Partition, r.Offset, r.Value))
		}
		return len(waiting) == 0
	})
}

// verify compares the journal, the log and the read model.
func (c *crash) verify() {
	t := c.t
	t.Helper()
	events := readTopic(t, c.brokers, c.prefix+".events")
	t.Logf("%d requests acknowledged, %d sent again, %d events", c.acknowledged.Load(), c.retries.Load(), len(events))
	if c.retries.Load() == 0 {
		t.Error("no request was interrupted: the test did not test")
	}

	ids, versions := map[string]bool{}, map[string]uint64{}
	byCause := map[string][]*kgo.Record{} // delivery or command
	captures, links := map[string]int{}, map[string]int{}
	for _, r := range events {
		id, stream, kind := header(r, "ce_id"), header(r, "ce_subject"), header(r, "ce_type")
		if ids[id] {
			t.Errorf("event %s of %s stands twice", id, stream)
		}
		ids[id] = true
		if versions[stream]++; header(r, "ce_streamversion") != strconv.FormatUint(versions[stream], 10) {
			t.Errorf("%s has version %s at place %d", stream, header(r, "ce_streamversion"), versions[stream])
		}
		if r.Partition != javaPartition(stream, 4) || string(r.Key) != stream {
			t.Errorf("event %s of %s stands in partition %d under key %q", id, stream, r.Partition, r.Key)
		}
		source, delivered := strings.CutPrefix(header(r, "ce_source"), "/sources/")
		switch {
		case delivered:
			byCause[source+"/"+header(r, "ce_deliveryid")] = append(byCause[source+"/"+header(r, "ce_deliveryid")], r)
		case kind == "charge.linked":
			links[strings.TrimPrefix(stream, "charge/")]++
		case kind == "billing.charge.captured":
			var f struct{ Charge string }
			if err := json.Unmarshal(r.Value, &f); err != nil {
				t.Fatal(err)
			}
			captures[f.Charge]++
		case kind == "billing.refund.completed":
		default:
			byCause["/"+header(r, "ce_causationid")] = append(byCause["/"+header(r, "ce_causationid")], r)
		}
	}

	want := map[string]*balanceRow{} // what the journal says
	for _, r := range c.journal {
		cause := r.source + "/" + r.id
		stand := byCause[cause]
		delete(byCause, cause)
		if r.refused {
			if len(stand) != 0 {
				t.Errorf("%s was refused and stands %d times", cause, len(stand))
			}
			continue
		}
		if len(stand) != 1 {
			t.Errorf("%s was acknowledged and stands %d times; its outcomes are %q", cause, len(stand), c.outcomes[cause])
			continue
		}
		if r.source == "" && (header(stand[0], "ce_id") != r.events[0].ID || header(stand[0], "ce_type") != r.events[0].Type) {
			t.Errorf("%s was answered with %+v and stands as %s %s", cause, r.events, header(stand[0], "ce_type"), header(stand[0], "ce_id"))
		}
		if r.moved.Captured > 0 && (captures[r.charge] != 1 || links[r.charge] != 1) {
			t.Errorf("charge %s was captured %d times and linked %d times", r.charge, captures[r.charge], links[r.charge])
		}
		if r.customer == "" {
			continue
		}
		row := rowOf(want, r.customer)
		row.add("eur", r.moved)
		if r.moved.Captured > 0 {
			row.Charges++
		}
	}
	for cause, stand := range byCause {
		t.Errorf("%s stands %d times and was never acknowledged", cause, len(stand))
	}

	// The fold of the log gives the rest, and must not differ from the journal in what both know.
	folded := fold(t, events)
	for customer, row := range folded {
		if w := rowOf(want, customer); !reflect.DeepEqual(w.Balances, row.Balances) || w.Charges != row.Charges {
			t.Errorf("%s: the log makes it %+v, the journal %+v", customer, *row, *w)
		}
	}
	if len(want) != len(folded) {
		t.Errorf("the journal knows %d customers, the log %d", len(want), len(folded))
	}
	var rows map[string]*balanceRow
	equal := func() bool {
		rows = allRows(t, c.url.Load().(string))
		return reflect.DeepEqual(rows, folded)
	}
	for deadline := time.Now().Add(20 * time.Second); !equal(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			for _, customer := range slices.Sorted(maps.Keys(folded)) {
				if !reflect.DeepEqual(rows[customer], folded[customer]) {
					t.Errorf("balances has %+v, the fold of the log is %+v", rows[customer], *folded[customer])
				}
			}
			t.Fatalf("balances has %d rows and doesn't become the fold of the log, %d rows", len(rows), len(folded))
		}
	}
}

// allRows are all rows of the projection balances, page by page.
func allRows(t *testing.T, url string) map[string]*balanceRow {
	t.Helper()
	rows := map[string]*balanceRow{}
	for cursor := ""; ; {
		var page struct {
			Items []struct {
				Key string
				Row balanceRow
			}
			Next string
		}
		a := get(t, url+"/v1/projections/balances/rows?limit=5&cursor="+cursor)
		if a.status != 200 {
			t.Fatalf("rows: %s", a)
		}
		a.into(t, &page)
		for _, item := range page.Items {
			if rows[item.Key] != nil {
				t.Errorf("row %s came on two pages", item.Key)
			}
			rows[item.Key] = &item.Row
		}
		if cursor = page.Next; cursor == "" {
			return rows
		}
	}
}

func rowOf(rows map[string]*balanceRow, customer string) *balanceRow {
	if rows[customer] == nil {
		rows[customer] = &balanceRow{Customer: customer, Status: "open", Balances: map[string]currencyRow{}}
	}
	return rows[customer]
}

func (r *balanceRow) add(currency string, d currencyRow) {
	if d == (currencyRow{}) {
		return
	}
	s := r.Balances[currency]
	s.Credit += d.Credit
	s.Captured += d.Captured
	s.Refunded += d.Refunded
	s.Pending += d.Pending
	s.Disputed += d.Disputed
	s.Balance = s.Credit + s.Captured - s.Refunded - s.Disputed
	r.Balances[currency] = s
}

// fold makes the balances anew, by other code than the projection's. Events of a stream must be in order.
func fold(t *testing.T, events []*kgo.Record) map[string]*balanceRow {
	rows := map[string]*balanceRow{}
	for _, e := range events {
		customer, ok := strings.CutPrefix(string(e.Key), "billing/")
		if !ok {
			continue
		}
		var f struct {
			Amount, Captured, Released int64
			Currency                   string
		}
		if err := json.Unmarshal(e.Value, &f); err != nil {
			t.Fatal(err)
		}
		row := rowOf(rows, customer)
		row.Version++
		switch header(e, "ce_type") {
		case "billing.credit.granted":
			row.add(f.Currency, currencyRow{Credit: f.Amount})
		case "billing.charge.captured":
			row.add(f.Currency, currencyRow{Captured: f.Amount})
			if f.Amount == f.Captured {
				row.Charges++
			}
		case "billing.refund.completed":
			row.add(f.Currency, currencyRow{Refunded: f.Amount, Pending: -f.Released})
		case "billing.account.suspended":
			row.Status = "suspended"
		case "billing.account.reopened":
			row.Status = "open"
		default:
			t.Fatalf("an event of type %s", header(e, "ce_type"))
		}
	}
	return rows
}

// program is ./cmd/penstock, built once for all tests. TestMain removes it.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "penstock-test-")
	if err != nil {
		return "", err
	}
	programDir = dir
	path := filepath.Join(dir, "penstock")
	if out, err := exec.Command("go", "build", "-o", path, "./cmd/penstock").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return path, nil
})

var programDir string

func TestMain(m *testing.M) {
	code := m.Run()
	if programDir != "" {
		os.RemoveAll(programDir)
	}
	os.Exit(code)
}

// child is the program as a process of its own.
type child struct {
	cmd            *exec.Cmd
	stdout, stderr output
	exited         chan struct{} // closed when code is known
	code           int           // -1 when killed
}

// launch starts the program with nothing of this process's PENSTOCK_ settings. It is killed at the end of the test if it
// still runs.
func launch(t *testing.T, env []string, args ...string) *child {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: exec.Command(path, args...), exited: make(chan struct{})}
	c.cmd.Dir = t.TempDir()
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PENSTOCK_") {
			c.cmd.Env = append(c.cmd.Env, v)
		}
	}
	c.cmd.Env = append(c.cmd.Env, env...)
	c.cmd.Stdout, c.cmd.Stderr = &c.stdout, &c.stderr
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		c.cmd.Wait() // the code says it all
		c.code = c.cmd.ProcessState.ExitCode()
		close(c.exited)
	}()
	t.Cleanup(func() {
		c.cmd.Process.Kill() // it may have ended
		<-c.exited
	})
	return c
}

func (c *child) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

// wait waits for a line of the output, and fails when the process ends without it.
func (c *child) wait(t *testing.T, o *output, line *regexp.Regexp) []string {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		ended := false
		select {
		case <-c.exited:
			ended = true
		default:
		}
		if m := line.FindStringSubmatch(o.String()); m != nil {
			return m
		}
		if ended || time.Now().After(deadline) {
			t.Fatalf("no line %s (ended: %t); stdout:\n%s\nstderr:\n%s", line, ended, c.stdout.tail(), c.stderr.tail())
		}
	}
}

// end waits until the process ends, at most as long as it may take.
func (c *child) end(t *testing.T, within time.Duration) (code int) {
	t.Helper()
	select {
	case <-c.exited:
	case <-time.After(within):
		t.Fatalf("it still runs after %s; stderr:\n%s", within, c.stderr.tail())
	}
	return c.code
}

// output keeps what a process writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// tail is the end of it, for a failure's message.
func (o *output) tail() string {
	s := o.String()
	return s[max(0, len(s)-4000):]
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func envInt(t *testing.T, name string, otherwise int64) int64 {
	n, err := strconv.ParseInt(cmp.Or(os.Getenv(name), strconv.FormatInt(otherwise, 10)), 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
