//go:build linux

package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestSpoolKilled has the log go away and come back under load, and kills the node while it spools and while it
// drains. The broker is an embedded one in this process, so that it can be away for the node and outlive it.
func TestSpoolKilled(t *testing.T) {
	rounds, seed := int(envInt(t, "PENSTOCK_SPOOL_ROUNDS", 4)), envInt(t, "PENSTOCK_FAULT_SEED", time.Now().UnixNano()%1e6)
	t.Logf("PENSTOCK_SPOOL_ROUNDS=%d PENSTOCK_FAULT_SEED=%d", rounds, seed)
	s := newSpoolRun(t, build(t), uint64(seed))
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	for round := range rounds {
		s.away(20 + random.Int64N(150))
		pause(random, 30*time.Millisecond)
		whileSpooling := random.IntN(3) > 0
		if whileSpooling {
			s.check(s.node.Kill())
		}
		s.back()
		if whileSpooling {
			s.start()
		}
		for range random.IntN(3) { // while it drains
			pause(random, 300*time.Millisecond)
			s.check(s.node.Kill())
			s.start()
		}
		if random.IntN(2) == 0 { // the next round begins with streams of which nothing waits
			s.drained()
		}
		s.t.Logf("round %d: %d acknowledged, %d of them spooled", round+1, s.load.Acknowledged.Load(), s.load.Spooled.Load())
	}
	findings := s.verdict()
	for _, f := range findings {
		t.Errorf("seed %d: %s", seed, f)
	}
	if s.load.Spooled.Load() < int64(rounds)*20 {
		t.Errorf("only %d deliveries were spooled: the test did not test", s.load.Spooled.Load())
	}
}

// TestSpoolOrderBroken has the checker prove itself on a build that lets newer deliveries pass those that wait.
func TestSpoolOrderBroken(t *testing.T) {
	if testing.Short() {
		t.Skip("builds another program")
	}
	s := newSpoolRun(t, build(t, "-tags", "broken"), uint64(time.Now().UnixNano()), "PENSTOCK_BROKEN=spool-order")
	for try := range 5 {
		s.away(300)
		s.back()
		s.drained()
		if findings := s.found(); len(findings) > 0 {
			for _, f := range findings {
				if f.Promise != Order {
					t.Errorf("an unexpected finding: %s", f)
				}
			}
			t.Logf("caught in try %d: %d findings; first: %s", try+1, len(findings), findings[0])
			return
		}
	}
	t.Error("a build that lets newer deliveries pass those that wait isn't caught")
}

// TestSpoolKafkaAway cuts a node from a real Kafka under load: PENSTOCK_SPOOL_AWAY is for how long, in three
// cuts together, 10 s if not set.
func TestSpoolKafkaAway(t *testing.T) {
	b := testBrokers(t)
	away := 10 * time.Second
	if v := os.Getenv("PENSTOCK_SPOOL_AWAY"); v != "" {
		var err error
		if away, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	network, err := NewNamespace(b.Addresses)
	if errors.Is(err, ErrNotRoot) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(network.Close)
	seed := uint64(envInt(t, "PENSTOCK_FAULT_SEED", time.Now().UnixNano()%1e6))
	t.Logf("PENSTOCK_FAULT_SEED=%d", seed)
	s := startSpoolRun(t, NodeConfig{Program: build(t), Brokers: b.Addresses, Namespace: network}, seed)
	t.Cleanup(func() {
		if err := b.Drop(s.prefix); err != nil {
			t.Log(err)
		}
	})
	for _, way := range []Cut{Held, Closed, Deaf} {
		before := s.load.Spooled.Load()
		for _, l := range network.links {
			l.Set(way)
		}
		s.until("deliveries are spooled", func() bool { return s.load.Spooled.Load() >= before+20 })
		time.Sleep(away / 3)
		for _, l := range network.links {
			l.Set(Whole)
		}
		s.drained()
		t.Logf("%s: %d spooled", way, s.load.Spooled.Load()-before)
	}
	for _, f := range s.verdict() {
		t.Errorf("seed %d: %s", seed, f)
	}
	t.Logf("%d acknowledged, %d of them spooled, %d refused", s.load.Acknowledged.Load(), s.load.Spooled.Load(), s.load.Refused.Load())
}

// A checker that finds nothing proves little.
func TestCheckSpool(t *testing.T) {
	body := Value(`{"x": 1}`)
	event := func(id, stream, version string, offset int64) Record {
		return Record{Offset: offset, Key: stream, Value: body, Headers: map[string]string{"ce_deliveryid": id, "ce_streamversion": version}}
	}
	sent := func(n int, id string) Sent {
		return Sent{Number: n, ID: id, Stream: "s/1", Digest: Digest(body), Acknowledged: true}
	}
	all := []Sent{sent(0, "a"), sent(1, "b")}
	for name, c := range map[string]struct {
		want   string
		sent   []Sent
		events []Record
	}{
		"well":           {"", all, []Record{event("a", "s/1", "1", 0), event("b", "s/1", "2", 2)}},
		"lost":           {"[1 durable]", all, []Record{event("a", "s/1", "1", 0)}},
		"twice":          {"[2 once]", all, []Record{event("a", "s/1", "1", 0), event("a", "s/1", "2", 1), event("b", "s/1", "3", 2)}},
		"unsent":         {"[2 once]", all[:1], []Record{event("a", "s/1", "1", 0), event("b", "s/1", "2", 2)}},
		"order":          {"[order]", all, []Record{event("b", "s/1", "1", 0), event("a", "s/1", "2", 2)}},
		"stream":         {"[1 durable]", all[:1], []Record{event("a", "s/2", "1", 0)}},
		"versions":       {"[3 versions]", all, []Record{event("a", "s/1", "1", 0), event("b", "s/1", "3", 2)}},
		"unacknowledged": {"", []Sent{{ID: "a", Stream: "s/1"}}, nil},
	} {
		found := CheckSpool(c.sent, c.events)
		if len(found) > 1 || (c.want == "") != (len(found) == 0) || len(found) == 1 && !strings.HasPrefix(found[0].String(), c.want) {
			t.Errorf("%s: found %v, want %q", name, found, c.want)
		}
	}
}

// spoolRun is a node under load.
type spoolRun struct {
	t       *testing.T
	prefix  string
	brokers []string
	node    *Node
	load    *SpoolLoad

	broker *eventstore.Embedded // nil while it is away, and when the broker isn't ours
	dir    string               // its data
	sent   []Sent
}

// newSpoolRun starts an embedded broker, a node and load.
func newSpoolRun(t *testing.T, program string, seed uint64, env ...string) *spoolRun {
	t.Helper()
	dir := t.TempDir()
	broker, err := eventstore.StartEmbedded("127.0.0.1:0", dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := &spoolRun{broker: broker, dir: dir}
	t.Cleanup(func() {
		if s.broker != nil {
			s.broker.Close()
		}
	})
	run := startSpoolRun(t, NodeConfig{Program: program, Brokers: []string{broker.Addr}, Env: append(env, "PENSTOCK_SPOOL_AFTER=200ms")}, seed)
	s.t, s.prefix, s.brokers, s.node, s.load = t, run.prefix, run.brokers, run.node, run.load
	return s
}

// startSpoolRun starts a node and load.
func startSpoolRun(t *testing.T, c NodeConfig, seed uint64) *spoolRun {
	t.Helper()
	s := &spoolRun{t: t, prefix: eventstoretest.Prefix(), brokers: c.Brokers}
	c.Dir, c.Prefix = filepath.Join(t.TempDir(), "node"), s.prefix
	var err error
	if s.node, err = NewNode(0, c); err != nil {
		t.Fatal(err)
	}
	s.check(s.node.Start())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the node's log ends with:\n%s", s.node.Tail(4000))
		}
		s.node.Kill()
	})
	s.serving()
	s.load = &SpoolLoad{Node: s.node, Seed: seed, Senders: 8, Pause: 5 * time.Millisecond}
	patience, giveUp := context.WithCancel(context.Background())
	s.load.Start(patience)
	t.Cleanup(func() {
		giveUp()
		s.load.Stop()
	})
	s.until("the load has begun", func() bool { return s.load.Acknowledged.Load() > 50 })
	return s
}

// away closes the broker and waits until deliveries are spooled. A node that is still starting needs it.
func (s *spoolRun) away(count int64) {
	s.t.Helper()
	s.until("the node is ready", s.node.Ready)
	before := s.load.Spooled.Load()
	s.broker.Close()
	s.broker = nil
	s.until("deliveries are spooled", func() bool { return s.load.Spooled.Load() >= before+count })
}

func (s *spoolRun) back() {
	s.t.Helper()
	var err error
	s.broker, err = eventstore.StartEmbedded(s.brokers[0], s.dir, slog.New(slog.DiscardHandler))
	s.check(err)
}

func (s *spoolRun) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *spoolRun) until(what string, condition func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// start starts a node that was killed. A broker would let go of its membership once the session has expired; the
// embedded one, which is made for a single process, has been seen to keep it for ever.
func (s *spoolRun) start() {
	s.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...))
	s.check(err)
	defer client.Close()
	group := s.prefix + ".writers"
	described, err := kadm.NewClient(client).DescribeGroups(s.t.Context(), group)
	s.check(err)
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Group = group
	for _, m := range described[group].Members {
		member := kmsg.NewLeaveGroupRequestMember()
		member.MemberID = m.MemberID
		leave.Members = append(leave.Members, member)
	}
	if len(leave.Members) > 0 {
		_, err = leave.RequestWith(s.t.Context(), client)
		s.check(err)
	}
	s.check(s.node.Start())
	s.serving()
}

// serving waits until the node answers; it may not be ready yet.
func (s *spoolRun) serving() {
	s.t.Helper()
	s.until("the node serves", func() bool {
		r, err := s.node.Client.Get(s.node.URL() + "/healthz")
		if err != nil {
			return false
		}
		r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
}

// drained waits until nothing waits in the spool.
func (s *spoolRun) drained() {
	s.t.Helper()
	var last string
	defer func() {
		if s.t.Failed() {
			s.t.Logf("the status was %s", last)
		}
	}()
	s.until("the spool is drained", func() bool {
		r, err := s.node.Client.Get(s.node.URL() + "/v1/status")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		var st struct{ Spool struct{ Records int } }
		st.Spool.Records = -1
		err = json.NewDecoder(r.Body).Decode(&st)
		last = fmt.Sprint(st, err)
		return err == nil && st.Spool.Records == 0
	})
}

// verdict ends the load, waits until everything is in the events, and compares.
func (s *spoolRun) verdict() []Finding {
	s.t.Helper()
	s.sent = s.load.Stop()
	s.drained()
	var findings []Finding
	s.until("the inbox is handled", func() bool {
		inbox, outcomes := s.read("inbox"), s.read("outcomes")
		return unhandled(Dump{Inbox: inbox, Outcomes: outcomes}) == 0
	})
	findings = CheckSpool(s.sent, s.read("events"))
	for _, death := range s.node.Deaths() {
		findings = append(findings, Finding{Recovery, "the node has ended by itself: " + death})
	}
	return findings
}

// found compares while the load goes on: only what can't change any more is a finding.
func (s *spoolRun) found() (findings []Finding) {
	s.load.mu.Lock()
	sent := append([]Sent(nil), s.load.sent...)
	s.load.mu.Unlock()
	for _, f := range CheckSpool(sent, s.read("events")) {
		if f.Promise == Order {
			findings = append(findings, f)
		}
	}
	return findings
}

// read reads what is committed of a topic.
func (s *spoolRun) read(topic string) (all []Record) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 60*time.Second)
	defer cancel()
	topic = s.prefix + "." + topic
	client, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	s.check(err)
	defer client.Close()
	ends, err := kadm.NewClient(client).ListCommittedOffsets(ctx, topic)
	s.check(errors.Join(err, ends.Error()))
	left, from := map[int32]int64{}, map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition], from[o.Partition] = o.Offset, kgo.NewOffset().AtStart()
		}
	})
	client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: from})
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		s.check(fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset < left[r.Partition] && !r.Attrs.IsControl() {
				headers := map[string]string{}
				for _, h := range r.Headers {
					headers[h.Key] = string(h.Value)
				}
				all = append(all, Record{r.Partition, r.Offset, string(r.Key), headers, r.Value})
			}
			if end, ok := left[r.Partition]; ok && r.Offset+1 >= end {
				delete(left, r.Partition)
			}
		})
	}
	return all
}

func pause(random *rand.Rand, most time.Duration) {
	time.Sleep(time.Duration(random.Int64N(int64(most))))
}
