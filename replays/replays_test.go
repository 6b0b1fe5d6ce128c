package replays_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-io/penstock/commands"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/projections"
	"github.com/penstock-io/penstock/replays"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// site is a node as far as replays need one.
type site struct {
	t       *testing.T
	cfg     eventstore.Config
	log     *eventstore.Log
	engine  *projections.Engine
	history *eventstore.History
	view    *projections.View
	dir     string
	append  func(context.Context, eventstore.Entry) error
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, cfg: eventstoretest.Config(t), dir: t.TempDir()}
	s.log = eventstoretest.Open(t, s.cfg)
	s.append = s.log.Append
	var err error
	s.engine, err = projections.New(projections.Config{
		Log: s.log, Dir: t.TempDir(), Logger: eventstoretest.Logger(t),
		Projections: []projections.Projection{eventstore.StreamsFold{}, projections.Deliveries{}, projections.Parked{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.engine.Close() })
	streams, _ := s.engine.View("streams")
	s.view, _ = s.engine.View("deliveries")
	s.history = eventstore.NewHistory(s.log, streams.Table())
	// The policy fails on what is called broken, so that it is parked.
	w, err := commands.New(commands.Config{Log: s.log, History: s.history, Logger: eventstoretest.Logger(t), Policies: []domain.Policy{{
		Name: "strict", From: []string{"*"}, React: func(e domain.Event) ([]domain.Command, error) {
			if strings.HasPrefix(string(e.Data), "broken") {
				return nil, errors.New("it is broken")
			}
			return nil, nil
		}}}})
	if err != nil {
		t.Fatal(err)
	}
	eventstoretest.Run(t, "projections", s.engine.Run)
	eventstoretest.Run(t, "writers", w.Run)
	s.until("the delivery log is built", func() bool { return s.view.Status().State == "live" })
	return s
}

// deliver puts a delivery into the inbox.
func (s *site) deliver(id, stream, body string) {
	s.t.Helper()
	err := s.log.Append(s.t.Context(), eventstore.Entry{
		Kind: eventstore.KindDelivery, ID: id, Source: "s", Type: "s.sent", Stream: domain.Stream("s/" + stream), Received: time.Now().UTC(),
		ContentType: "text/plain", Verification: "test; body", Correlation: id, Headers: map[string]string{"x-test": id}, Body: []byte(body),
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// several delivers n, over five streams, and waits until the delivery log has them.
func (s *site) several(n int) {
	s.t.Helper()
	for i := range n {
		s.deliver(fmt.Sprintf("d%03d", i), fmt.Sprintf("k%d", i%5), fmt.Sprintf("body %d", i))
	}
	s.until("the delivery log has them", func() bool {
		there := 0
		for _, d := range s.rows() {
			if strings.HasPrefix(d.ID, "d") {
				there++
			}
		}
		return there >= n
	})
}

func (s *site) rows() (all []projections.Delivery) {
	s.t.Helper()
	err := projections.EachDelivery(s.t.Context(), s.view, projections.DeliveryFilter{}, func(d projections.Delivery) error {
		all = append(all, d)
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

func (s *site) replayed() (ids []string) {
	for _, d := range s.rows() {
		if d.Replay != nil {
			ids = append(ids, d.Replay.Of)
		}
	}
	slices.Sort(ids)
	return ids
}

func (s *site) until(what string, condition func() bool) {
	s.t.Helper()
	eventstoretest.Until(s.t, what, condition)
}

// open opens the replays of the folder and runs them until stop.
func (s *site) open() (r *replays.Replays, stop func()) {
	s.t.Helper()
	r, err := replays.New(replays.Config{
		Log: s.log, History: s.history, Deliveries: s.view, Dir: s.dir, Logger: eventstoretest.Logger(s.t),
		Append: func(ctx context.Context, e eventstore.Entry) error { return s.append(ctx, e) },
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				s.t.Error(err)
			}
		}
	}
	s.t.Cleanup(stop)
	return r, stop
}

func (s *site) plan(r *replays.Replays, req replays.Request) replays.Plan {
	s.t.Helper()
	req.By, req.Reason = "ann", "a test"
	p, err := r.Plan(s.t.Context(), req)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

func (s *site) start(r *replays.Replays, id string) {
	s.t.Helper()
	if _, err := r.Start(id); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) ended(r *replays.Replays, id string) (p replays.Plan) {
	s.t.Helper()
	s.until("the replay ends", func() bool {
		var err error
		if p, err = r.Get(id); err != nil {
			s.t.Fatal(err)
		}
		return p.Ended()
	})
	return p
}

// events reads a stream, once it has n of them.
func (s *site) events(stream domain.Stream, n int) (events []domain.Event) {
	s.t.Helper()
	s.until(fmt.Sprintf("%s has %d events", stream, n), func() bool {
		var err error
		if events, err = s.history.Events(stream, 1, 1000); err != nil {
			s.t.Fatal(err)
		}
		return len(events) >= n
	})
	return events
}

func TestAPlanIsReplayedOnceInOrderAndSaysSo(t *testing.T) {
	s := newSite(t)
	s.several(60)
	r, _ := s.open()
	p := s.plan(r, replays.Request{Filter: replays.Filter{Source: "s"}, Rate: 1000})
	rows := s.rows()
	if p.State != replays.Planned || p.Planned.Count != 60 || !p.Planned.First.Equal(rows[0].Received) || !p.Planned.Last.Equal(rows[59].Received) || p.Planned.Bytes != 410 {
		t.Errorf("%+v", p)
	}
	if len(s.replayed()) != 0 {
		t.Error("a plan alone replays something")
	}
	s.deliver("late", "k1", "late")
	s.until("it is there", func() bool { return len(s.rows()) == 61 })
	s.start(r, p.ID)
	if p = s.ended(r, p.ID); p.State != replays.Done || p.Replayed != 60 || p.Left() != 0 || p.Failed+p.Expired+p.Skipped != 0 || p.Started == nil || p.Finished == nil {
		t.Errorf("%+v", p)
	}
	s.until("all are handled", func() bool { return len(s.rows()) == 121 })
	if ids := s.replayed(); len(slices.Compact(slices.Clone(ids))) != 60 || slices.Contains(ids, "late") {
		t.Errorf("replayed: %v", ids)
	}
	for k := range 5 {
		var originals, again []string
		n := 24
		if k == 1 {
			n++ // the late one
		}
		for _, e := range s.events(domain.Stream(fmt.Sprintf("s/k%d", k)), n) {
			if e.Delivery == "late" {
				continue
			}
			if e.ReplayOf == "" {
				originals = append(originals, e.Delivery+" "+string(e.Data))
				continue
			}
			again = append(again, e.ReplayOf+" "+string(e.Data))
			if e.Delivery != e.ReplayOf+"~replay-"+p.ID || e.Verification != "test; body" || e.ContentType != "text/plain" || e.Correlation != e.ReplayOf {
				t.Errorf("%+v", e)
			}
		}
		if len(originals) != 12 || !slices.Equal(originals, again) {
			t.Errorf("stream %d:\n%v\n%v", k, originals, again)
		}
	}
	// Replaying the same again leaves out what are replays already.
	if q := s.plan(r, replays.Request{Filter: replays.Filter{Source: "s"}}); q.Planned.Count != 61 || q.Planned.Replays != 60 {
		t.Errorf("%+v", q.Planned)
	}
}

// TestAnInterruptedReplayGoesOn stops the node in the middle, also so that it forgets what it did last.
func TestAnInterruptedReplayGoesOn(t *testing.T) {
	s := newSite(t)
	s.several(40)
	r, stop := s.open()
	p := s.plan(r, replays.Request{Filter: replays.Filter{ID: "d"}, Rate: 100})
	file := filepath.Join(s.dir, p.ID+".json")
	s.start(r, p.ID)
	before, err := os.ReadFile(file) // as a crash at once would leave it
	if err != nil {
		t.Fatal(err)
	}
	s.until("some are replayed", func() bool { q, _ := r.Get(p.ID); return q.Replayed >= 10 })
	stop()
	if q, _ := r.Get(p.ID); q.State != replays.Interrupted || q.Error == "" || q.Replayed >= 40 {
		t.Fatalf("%+v", q)
	}
	if _, err := r.Start(p.ID); domain.ClassOf(err) != domain.Unavailable {
		t.Errorf("started on a node that stops: %v", err)
	}

	r, stop = s.open()
	q, err := r.Get(p.ID)
	if err != nil || q.State != replays.Interrupted || q.Replayed < 10 {
		t.Fatalf("after the stop %+v %v", q, err)
	}
	stop()
	if err := os.WriteFile(file, before, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+".new", before[:20], 0o600); err != nil { // and half of the next
		t.Fatal(err)
	}
	r, _ = s.open()
	if q, err = r.Get(p.ID); err != nil || q.State != replays.Interrupted || q.Replayed != 0 {
		t.Fatalf("after a crash %+v %v", q, err)
	}
	s.start(r, p.ID)
	if q = s.ended(r, p.ID); q.State != replays.Done || q.Replayed != 40 {
		t.Errorf("%+v", q)
	}
	s.until("all are handled", func() bool { return len(s.rows()) == 80 })
	total := 0
	for k := range 5 {
		total += len(s.events(domain.Stream(fmt.Sprintf("s/k%d", k)), 16))
	}
	if ids := s.replayed(); len(slices.Compact(slices.Clone(ids))) != 40 || len(ids) != 40 || total != 80 {
		t.Errorf("%d replays of %d deliveries, %d events", len(ids), len(slices.Compact(ids)), total)
	}
}

func TestACancelledReplayEnds(t *testing.T) {
	s := newSite(t)
	s.several(30)
	r, _ := s.open()
	p := s.plan(r, replays.Request{Filter: replays.Filter{ID: "d"}, Rate: 20})
	other := s.plan(r, replays.Request{Filter: replays.Filter{ID: "d00"}})
	s.start(r, p.ID)
	s.start(r, p.ID) // harmless
	if _, err := r.Start(other.ID); ruleOf(err) != "replay-running" || !strings.Contains(err.Error(), p.ID) {
		t.Errorf("two at once: %v", err)
	}
	s.until("some are replayed", func() bool { q, _ := r.Get(p.ID); return q.Replayed >= 3 })
	if q, err := r.Cancel(p.ID); err != nil || q.State != replays.Cancelled {
		t.Fatalf("%+v %v", q, err)
	}
	s.until("another one can run", func() bool { _, err := r.Start(other.ID); return err == nil })
	if q := s.ended(r, other.ID); q.State != replays.Done || q.Replayed != 10 {
		t.Errorf("%+v", q)
	}
	q, _ := r.Get(p.ID)
	if q.State != replays.Cancelled || q.Replayed < 3 || q.Replayed >= 30 || q.Finished == nil {
		t.Errorf("%+v", q)
	}
	if _, err := r.Start(p.ID); ruleOf(err) != "replay-ended" {
		t.Errorf("started again: %v", err)
	}
	if _, err := r.Cancel(other.ID); ruleOf(err) != "replay-ended" {
		t.Errorf("cancelled after its end: %v", err)
	}
	planned := s.plan(r, replays.Request{Filter: replays.Filter{ID: "d"}})
	if q, err := r.Cancel(planned.ID); err != nil || q.State != replays.Cancelled {
		t.Errorf("%+v %v", q, err)
	}
	if _, err := r.Start(planned.ID); ruleOf(err) != "replay-ended" {
		t.Errorf("started after it was cancelled: %v", err)
	}
	if list := r.List(); len(list) != 3 || list[0].ID != planned.ID || list[2].ID != p.ID {
		t.Errorf("%+v", list)
	}
	if _, err := r.Get("nobody"); domain.ClassOf(err) != domain.NotFound {
		t.Error(err)
	}
}

func ruleOf(err error) string {
	if e, ok := errors.AsType[*domain.Error](err); ok {
		return e.Rule
	}
	return fmt.Sprint(err)
}

func TestPlansAreBounded(t *testing.T) {
	s := newSite(t)
	s.several(12)
	r, _ := s.open()
	for field, req := range map[string]replays.Request{
		"filter":        {},
		"rate":          {Filter: replays.Filter{Source: "s"}, Rate: 1001},
		"max":           {Filter: replays.Filter{Source: "s"}, Most: 11},
		"filter.status": {Filter: replays.Filter{Status: domain.Parked}},
	} {
		_, err := r.Plan(t.Context(), req)
		if e, ok := errors.AsType[*domain.Error](err); !ok || e.Class != domain.Invalid || e.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if p := s.plan(r, replays.Request{Filter: replays.Filter{Source: "s"}, Most: 12}); p.Planned.Count != 12 {
		t.Errorf("%+v", p)
	}
	one := s.plan(r, replays.Request{ID: "k1", Filter: replays.Filter{Source: "s"}})
	if again := s.plan(r, replays.Request{ID: "k1", Filter: replays.Filter{Source: "s"}}); !again.Created.Equal(one.Created) {
		t.Error("the same id was planned twice")
	}
	if _, err := r.Plan(t.Context(), replays.Request{ID: "k1", Filter: replays.Filter{Source: "t"}}); ruleOf(err) != "idempotency-key-reused" {
		t.Error(err)
	}
	for range 105 {
		s.plan(r, replays.Request{Filter: replays.Filter{Source: "nobody"}})
	}
	files, err := os.ReadDir(s.dir)
	if len(r.List()) != 100 || len(files) != 100 || err != nil {
		t.Errorf("%d plans, %d files", len(r.List()), len(files))
	}
	if _, err := r.Get("k1"); domain.ClassOf(err) != domain.NotFound {
		t.Error("the oldest plan is still there")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	if _, err := r.Plan(ctx, replays.Request{Filter: replays.Filter{Source: "s"}}); domain.ClassOf(err) != domain.Unavailable {
		t.Errorf("without time: %v", err)
	}
}

func TestWhatIsParkedIsLeftOut(t *testing.T) {
	s := newSite(t)
	s.deliver("bad", "p", "broken")
	s.deliver("behind", "p", "fine")
	s.several(5)
	s.until("all are handled", func() bool { return len(s.rows()) == 7 })
	r, _ := s.open()
	p := s.plan(r, replays.Request{Filter: replays.Filter{Source: "s"}})
	if p.Planned.Count != 5 || p.Planned.Parked != 2 {
		t.Errorf("%+v", p.Planned)
	}
	s.start(r, p.ID)
	if p = s.ended(r, p.ID); p.Replayed != 5 {
		t.Errorf("%+v", p)
	}
}

// TestALogThatIsAwayIsWaitedFor: what passes is tried again, what doesn't is counted.
func TestALogThatIsAwayIsWaitedFor(t *testing.T) {
	s := newSite(t)
	s.several(6)
	var tries atomic.Int64
	s.append = func(ctx context.Context, e eventstore.Entry) error {
		switch n := tries.Add(1); {
		case e.ReplayOf == "d003":
			return &domain.Error{Class: domain.TooLarge, Message: "too large"}
		case n <= 3:
			return &domain.Error{Class: domain.Unavailable, Message: "away"}
		}
		return s.log.Append(ctx, e)
	}
	r, _ := s.open()
	p := s.plan(r, replays.Request{Filter: replays.Filter{Source: "s"}, Rate: 1000})
	s.start(r, p.ID)
	if p = s.ended(r, p.ID); p.State != replays.Done || p.Replayed != 5 || p.Failed != 1 || len(p.Failures) != 1 || p.Failures[0].ID != "d003" {
		t.Errorf("%+v", p)
	}
	s.until("the others are handled", func() bool { return len(s.replayed()) == 5 })
}

// TestOldRequestsAreTakenFromTheEvents loses the inbox to its retention, and the events of one that never became one.
func TestOldRequestsAreTakenFromTheEvents(t *testing.T) {
	s := newSite(t)
	s.deliver("bad", "p", "broken")
	s.until("it is parked", func() bool { rows := s.rows(); return len(rows) == 1 && rows[0].Status == domain.Parked })
	err := s.log.Append(t.Context(), eventstore.Entry{
		Kind: eventstore.KindDelivery, ID: "bad", Source: "s", Type: "s.sent", Stream: "s/p", Received: time.Now().UTC(), Body: []byte("broken"), Release: eventstore.Discard, By: "ann", Note: "n",
	})
	if err != nil {
		t.Fatal(err)
	}
	s.several(4)
	s.until("it is dropped", func() bool {
		d, _, _ := projections.DeliveryGet(s.view, "s", "bad")
		return d.Status == domain.Discarded
	})
	r, _ := s.open()
	d, _, err := projections.DeliveryGet(s.view, "s", "d002")
	if err != nil {
		t.Fatal(err)
	}
	if e, err := r.Request(t.Context(), d); err != nil || string(e.Body) != "body 2" || e.Headers["x-test"] != "d002" || e.ID != "d002" || !e.Received.Equal(d.Received) {
		t.Errorf("%+v %v", e, err)
	}
	moved := d
	moved.ID = "d003"
	if _, err := r.Request(t.Context(), moved); !errors.Is(err, replays.ErrRequestExpired) {
		t.Errorf("another entry's place: %v", err)
	}

	s.forget(s.log.Topics.Inbox)
	if _, err := r.Request(t.Context(), d); !errors.Is(err, replays.ErrRequestExpired) {
		t.Errorf("after its retention: %v", err)
	}
	p := s.plan(r, replays.Request{Filter: replays.Filter{Source: "s"}})
	s.start(r, p.ID)
	if p = s.ended(r, p.ID); p.State != replays.Done || p.Replayed != 4 || p.Expired != 1 || len(p.Failures) != 1 || p.Failures[0].ID != "bad" {
		t.Errorf("%+v", p)
	}
	s.until("the others are handled", func() bool { return len(s.replayed()) == 4 })
	for _, e := range s.events("s/k2", 2) {
		if string(e.Data) != "body 2" || e.Type != "s.sent" || e.ContentType != "text/plain" || e.Correlation != "d002" {
			t.Errorf("%+v", e)
		}
	}
	// A replay of a replay repeats the original.
	again, _, err := projections.DeliveryGet(s.view, "s", projections.ReplayID("d002", p.ID))
	if err != nil {
		t.Fatal(err)
	}
	if e, err := r.Entry(t.Context(), again, "p2", "ann", "n"); err != nil || e.ID != "d002~replay-p2" || e.ReplayOf != "d002" || string(e.Body) != "body 2" {
		t.Errorf("%+v %v", e, err)
	}
}

// forget removes everything from a topic, as its retention does.
func (s *site) forget(topic string) {
	s.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.cfg.Brokers...))
	if err != nil {
		s.t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	ends, err := adm.ListEndOffsets(s.t.Context(), topic)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := adm.DeleteRecords(s.t.Context(), ends.Offsets()); err != nil {
		s.t.Fatal(err)
	}
}
