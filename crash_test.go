package penstock_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore/eventstoretest"
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
