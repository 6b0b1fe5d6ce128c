package projections_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/projections"
	"github.com/prometheus/client_golang/prometheus"
)

// hooks writes outcomes of deliveries, as the writers of the partitions would.
type hooks struct {
	l     *eventstore.Log
	ws    []*eventstore.Writer
	inbox []int64
	start time.Time
	rows  map[string]projections.Delivery // what the log should show
}

func newHooks(t *testing.T, l *eventstore.Log) *hooks {
	h := &hooks{l: l, inbox: make([]int64, l.Partitions()), start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), rows: map[string]projections.Delivery{}}
	for p := range l.Partitions() {
		w, err := l.OpenWriter(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Close)
		h.ws = append(h.ws, w)
	}
	return h
}

// put writes outcomes, filling in where their entries stand.
func (h *hooks) put(t *testing.T, outcomes ...domain.Outcome) {
	t.Helper()
	commits := make([]eventstore.Commit, len(h.ws))
	for _, o := range outcomes {
		o.Kind, o.Partition = eventstore.KindDelivery, h.l.PartitionOf(o.Stream)
		o.Inbox = h.inbox[o.Partition]
		h.inbox[o.Partition]++
		if o.Handled.IsZero() {
			o.Handled = o.Received.Add(2 * time.Millisecond)
		}
		commits[o.Partition].Outcomes = append(commits[o.Partition].Outcomes, eventstore.EncodeOutcome(o))
		key := o.Source + "/" + o.ID
		if d, known := h.rows[key]; known {
			if o.Release != "" {
				d.Status = o.Status
			} else {
				d.Repeats++
			}
			h.rows[key] = d
			continue
		}
		d := projections.Delivery{Source: o.Source, ID: o.ID, Type: o.Type, Stream: o.Stream, Status: o.Status, Received: o.Received, Partition: o.Partition, Inbox: o.Inbox}
		if o.ReplayOf != "" {
			d.Replay = &projections.DeliveryReplay{Of: o.ReplayOf, By: o.By, Reason: o.Note}
		}
		h.rows[key] = d
	}
	for p, c := range commits {
		if len(c.Outcomes) > 0 {
			if err := h.ws[p].Commit(c); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// folded waits until a view has everything that was put.
func (h *hooks) folded(t *testing.T, v *projections.View) {
	t.Helper()
	// The writers know what they have committed; a broker may say so a moment later.
	eventstoretest.Until(t, v.Name()+" has folded everything", func() bool {
		at, ok := v.Table().Position(h.l.Topics.Outcomes)
		for p, w := range h.ws {
			_, end := w.Ends()
			ok = ok && at.Next[p] >= end
		}
		return ok && v.Status().State == "live"
	})
}

func random(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// some writes n random outcomes: repeats, releases and replays among them, and many received in the same moment.
func (h *hooks) some(t *testing.T, r *rand.Rand, n int) {
	t.Helper()
	var batch []domain.Outcome
	for range n {
		source := []string{"a", "a-b", "a.b", "b"}[r.IntN(4)]
		o := domain.Outcome{
			Source: source, ID: fmt.Sprintf("%c/%d", 'x'+rune(r.IntN(3)), r.IntN(10*n)), Type: []string{"a.Push", "a.pull", "b"}[r.IntN(3)],
			Stream: domain.Stream(fmt.Sprintf("%s/k%d", source, r.IntN(7))), Status: domain.Accepted, Received: h.start.Add(time.Duration(r.IntN(50)) * time.Second),
		}
		switch r.IntN(8) {
		case 0:
			o.Status, o.Message = domain.Parked, "no\n\tstack"
		case 1:
			o.ReplayOf, o.By, o.Note = o.ID, "ann", "why"
			o.ID = projections.ReplayID(o.ID, "p1")
		}
		if d, known := h.rows[source+"/"+o.ID]; known {
			o.Stream, o.Status, o.Original = d.Stream, domain.Duplicate, d.Status
		}
		if slices.ContainsFunc(batch, func(other domain.Outcome) bool { return other.Source == o.Source && other.ID == o.ID }) {
			continue
		}
		batch = append(batch, o)
	}
	h.put(t, batch...)
	var released []domain.Outcome
	for _, d := range h.rows {
		if d.Status == domain.Parked && r.IntN(3) == 0 {
			o := domain.Outcome{Source: d.Source, ID: d.ID, Type: d.Type, Stream: d.Stream, Received: d.Received, Release: eventstore.Requeue, By: "ann", Note: "n", Status: domain.Accepted}
			if r.IntN(2) == 0 {
				o.Release, o.Status = eventstore.Discard, domain.Discarded
			}
			released = append(released, o)
		}
	}
	h.put(t, released...)
}

// want is what a list shows, newest first or by key.
func (h *hooks) want(f projections.DeliveryFilter) (keys []string) {
	var all []projections.Delivery
	for _, d := range h.rows {
		text := strings.ToLower(d.ID + "\n" + string(d.Stream) + "\n" + d.Type)
		if (f.Source == "" || d.Source == f.Source) && (f.Status == "" || d.Status == f.Status) && (f.Stream == "" || d.Stream == f.Stream) &&
			(f.Type == "" || domain.MatchType(f.Type, d.Type)) && strings.HasPrefix(d.ID, f.ID) && strings.Contains(text, strings.ToLower(f.Text)) &&
			(f.Since.IsZero() || !d.Received.Before(f.Since)) && (f.Until.IsZero() || d.Received.Before(f.Until)) &&
			(f.Replay == "" || d.Replay != nil && strings.HasSuffix(d.ID, "~replay-"+f.Replay)) {
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b projections.Delivery) int {
		if f.ID != "" {
			return strings.Compare(a.Source+"/"+a.ID, b.Source+"/"+b.ID)
		}
		if c := b.Received.Compare(a.Received); c != 0 {
			return c
		}
		if a.Partition != b.Partition {
			return int(b.Partition - a.Partition)
		}
		return int(b.Inbox - a.Inbox)
	})
	for _, d := range all {
		keys = append(keys, d.Source+"/"+d.ID)
	}
	return keys
}

func pages(t *testing.T, v *projections.View, f projections.DeliveryFilter, limit int, between func()) (keys []string) {
	t.Helper()
	for cursor := ""; ; {
		items, next, err := projections.DeliveryPage(t.Context(), v, f, cursor, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(items) > limit || next != "" && len(items) == 0 {
			t.Fatalf("%d items with limit %d, next %q", len(items), limit, next)
		}
		for _, d := range items {
			keys = append(keys, d.Source+"/"+d.ID)
		}
		if cursor = next; next == "" {
			return keys
		}
		between()
	}
}

func deliveryView(t *testing.T, l *eventstore.Log, p projections.Deliveries) (*projections.Engine, *projections.View) {
	t.Helper()
	e := openEngine(t, l, t.TempDir(), p, projections.Parked{})
	running(t, e)
	v, _ := e.View("deliveries")
	return e, v
}

// TestDeliveriesAreFoundByEveryFilter compares every page with a list that was made without an index.
func TestDeliveriesAreFoundByEveryFilter(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	h, r := newHooks(t, l), random(t)
	e, v := deliveryView(t, l, projections.Deliveries{})
	for range 4 {
		h.some(t, r, 80)
	}
	h.folded(t, v)
	at := func(s int) time.Time { return h.start.Add(time.Duration(s) * time.Second) }
	for _, f := range []projections.DeliveryFilter{
		{}, {Source: "a"}, {Source: "a.b", Type: "a.*"}, {Type: "a.P*"}, {Status: domain.Parked}, {Status: domain.Discarded, Source: "b"}, {Status: domain.Accepted},
		{Stream: "a/k3"}, {Stream: "nobody/x"}, {Since: at(10), Until: at(20)}, {Since: at(49)}, {Until: at(1)}, {Since: at(20), Until: at(10)},
		{Text: "PULL"}, {Text: "a-b/k"}, {Text: "x/1"}, {Replay: "p1"}, {Replay: "p2"}, {Replay: "p1", Source: "a", Since: at(25)},
		{ID: "x"}, {ID: "y/1", Source: "a"}, {ID: "z/", Status: domain.Parked}, {ID: "x/", Type: "b", Text: "k1"}, {ID: "none"},
	} {
		want := h.want(f)
		for _, limit := range []int{1, 7, 1000} {
			if got := pages(t, v, f, limit, func() {}); !slices.Equal(got, want) {
				t.Fatalf("%+v, limit %d:\n got %v\nwant %v", f, limit, got, want)
			}
		}
		if f.ID != "" {
			continue
		}
		var forwards []string
		err := projections.EachDelivery(t.Context(), v, f, func(d projections.Delivery) error {
			forwards = append(forwards, d.Source+"/"+d.ID)
			return nil
		})
		if slices.Reverse(forwards); err != nil || !slices.Equal(forwards, want) {
			t.Fatalf("%+v forwards, %v:\n got %v\nwant %v", f, err, forwards, want)
		}
	}
	refold(t, l, e, projections.Deliveries{}, projections.Parked{})
}

// TestPagesOfDeliveriesStandStillWhileTheLogGrows: what was there at the first page comes once.
func TestPagesOfDeliveriesStandStillWhileTheLogGrows(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	h, r := newHooks(t, l), random(t)
	_, v := deliveryView(t, l, projections.Deliveries{})
	for _, f := range []projections.DeliveryFilter{{}, {ID: "x"}} {
		h.some(t, r, 60)
		h.folded(t, v)
		want := h.want(f)
		got := pages(t, v, f, 9, func() {
			h.some(t, r, 5)
			h.folded(t, v)
		})
		seen := map[string]bool{}
		for _, key := range got {
			if seen[key] {
				t.Errorf("%s comes twice", key)
			}
			seen[key] = true
		}
		for _, key := range want {
			if !seen[key] {
				t.Errorf("%s is missing", key)
			}
		}
	}
}

func TestCursorsOfDeliveriesAreOfOneOrder(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	h, r := newHooks(t, l), random(t)
	_, v := deliveryView(t, l, projections.Deliveries{})
	h.some(t, r, 60)
	h.folded(t, v)
	_, byTime, err1 := projections.DeliveryPage(t.Context(), v, projections.DeliveryFilter{}, "", 1)
	_, byID, err2 := projections.DeliveryPage(t.Context(), v, projections.DeliveryFilter{ID: "x"}, "", 1)
	if err1 != nil || err2 != nil || byTime == "" || byID == "" {
		t.Fatal(byTime, byID, err1, err2)
	}
	for _, c := range []struct {
		f      projections.DeliveryFilter
		cursor string
	}{
		{projections.DeliveryFilter{ID: "x"}, byTime}, {projections.DeliveryFilter{}, byID}, {projections.DeliveryFilter{}, "%"},
		{projections.DeliveryFilter{}, byTime[:9]}, {projections.DeliveryFilter{ID: "x"}, base64.RawURLEncoding.EncodeToString([]byte("kx"))},
	} {
		if _, _, err := projections.DeliveryPage(t.Context(), v, c.f, c.cursor, 1); err != eventstore.ErrBadPosition {
			t.Errorf("%+v takes %q: %v", c.f, c.cursor, err)
		}
	}
}

// TestDeliveriesAreForgottenByTheLogsTime: by age and by number, the same rows whenever and however often they are
// folded.
func TestDeliveriesAreForgottenByTheLogsTime(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	h := newHooks(t, l)
	p := projections.Deliveries{Keep: time.Hour, Most: 200}
	e, v := deliveryView(t, l, p)
	put := func(prefix string, n int, at time.Time, status domain.Status) {
		var batch []domain.Outcome
		for i := range n {
			id := fmt.Sprintf("%s%d", prefix, i)
			batch = append(batch, domain.Outcome{Source: "s", ID: id, Type: "t", Stream: domain.Stream("s/" + id), Status: status, Received: at})
		}
		h.put(t, batch...)
	}
	left := func(prefix string) (n int) {
		h.folded(t, v)
		for key := range rows(t, v) {
			if strings.HasPrefix(key, "s/"+prefix) {
				n++
			}
		}
		return n
	}
	put("old", 150, h.start, domain.Parked)
	put("young", 300, h.start.Add(59*time.Minute), domain.Accepted)
	if left("old") != 150 || left("young") != 300 {
		t.Errorf("within the hour %d and %d are left", left("old"), left("young"))
	}
	put("later", 300, h.start.Add(61*time.Minute), domain.Accepted)
	if left("old") != 0 || left("young") != 300 {
		t.Errorf("after an hour %d and %d are left", left("old"), left("young"))
	}
	if parked := pages(t, v, projections.DeliveryFilter{Status: domain.Parked}, 100, func() {}); len(parked) != 0 {
		t.Errorf("forgotten, and still listed as parked: %v", parked)
	}
	put("many", 1500, h.start.Add(62*time.Minute), domain.Accepted)
	if n := left(""); n < 3*200-3*64 || n > 3*200+3*64 {
		t.Errorf("%d are left, each of three partitions should have about 200", n)
	}
	refold(t, l, e, p, projections.Parked{})
}

func TestARowTellsOfRepeatsReleasesAndReplays(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	h := newHooks(t, l)
	e, v := deliveryView(t, l, projections.Deliveries{})
	o := domain.Outcome{Source: "s", ID: "d", Type: "t", Stream: "s/x", Status: domain.Parked, Message: strings.Repeat("é", 400) + "\nsecond line", Received: h.start}
	again := o
	again.Status, again.Original, again.Attempt = domain.Duplicate, domain.Parked, 4
	release := o
	release.Release, release.By, release.Note, release.Status, release.Message = eventstore.Requeue, "ann", "mended", domain.Accepted, ""
	late := release
	late.By, late.Status, late.Original = "bob", domain.Duplicate, domain.Accepted
	replay := domain.Outcome{Source: "s", ID: projections.ReplayID("d", "p1"), ReplayOf: "d", By: "cy", Note: "lost", Type: "t", Stream: "s/x", Status: domain.Accepted, Received: h.start}
	twice := replay
	twice.Status, twice.Original = domain.Duplicate, domain.Accepted
	first := domain.Outcome{Source: "s", ID: "slack", Type: "t", Stream: "s/y", Status: domain.Accepted, Received: h.start, Attempt: 3}
	unknown := domain.Outcome{Source: "s", ID: "gone", Type: "t", Stream: "s/z", Status: domain.Duplicate, Original: domain.Accepted, Received: h.start}

	h.put(t, o)
	h.folded(t, v)
	if d, ok, err := projections.DeliveryGet(v, "s", "d"); !ok || err != nil || d.Status != domain.Parked || len([]rune(d.Message)) != 300 || strings.Contains(d.Message, "second") {
		t.Errorf("%+v %v", d, err)
	}
	h.put(t, again, release, late, replay, twice, first, unknown)
	h.folded(t, v)
	d, _, err := projections.DeliveryGet(v, "s", "d")
	if err != nil || d.Status != domain.Accepted || d.Repeats != 1 || d.Release == nil || *d.Release != (projections.DeliveryRelease{What: "requeue", By: "ann", Note: "mended"}) ||
		d.Replays != 1 || d.LastReplay != replay.ID || d.Replay != nil || d.Message != "" {
		t.Errorf("%+v %v", d, err)
	}
	d, _, err = projections.DeliveryGet(v, "s", replay.ID)
	if err != nil || d.Replay == nil || *d.Replay != (projections.DeliveryReplay{Of: "d", By: "cy", Reason: "lost"}) || d.Repeats != 1 {
		t.Errorf("%+v %v", d, err)
	}
	if d, _, err = projections.DeliveryGet(v, "s", "gone"); err != nil || d.Status != domain.Accepted || d.Repeats != 1 || d.LastRepeat == nil {
		t.Errorf("%+v %v", d, err)
	}
	refold(t, l, e, projections.Deliveries{}, projections.Parked{})

	// A repeat counts by how often the id came, or by what the provider says, if that is more; a release and the repeat
	// of a replay are none of the provider's.
	if got := metric(t, e, "webhook_retry_count"); got != "s/2=1 s/3=1 s/4=1 s/5+=0 t/2=0 t/3=0 t/4=0 t/5+=0" {
		t.Errorf("retries %s", got)
	}
}

func TestDepthIsWhatIsParkedNow(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	h := newHooks(t, l)
	e, v := deliveryView(t, l, projections.Deliveries{})
	parked, _ := e.View("parked")
	outcome := func(source, id string) domain.Outcome {
		return domain.Outcome{Source: source, ID: id, Type: "t", Stream: domain.Stream(source + "/x"), Status: domain.Parked, Received: h.start, ParkedAt: new(int64(1))}
	}
	depth := func() string {
		h.folded(t, v)
		h.folded(t, parked)
		return metric(t, e, "webhook_dlq_depth")
	}
	h.put(t, outcome("s", "1"), outcome("s", "2"), outcome("u", "1"))
	if got := depth(); got != "s=2 t=0 u=1" {
		t.Error(got)
	}
	again := outcome("s", "1")
	again.Release = eventstore.Requeue // and it fails again
	discard := outcome("u", "1")
	discard.Release, discard.Status = eventstore.Discard, domain.Discarded
	h.put(t, again, discard)
	if got := depth(); got != "s=2 t=0 u=0" {
		t.Error(got)
	}
	done := again
	done.Status = domain.Accepted
	h.put(t, done)
	if got := depth(); got != "s=1 t=0 u=0" {
		t.Error(got)
	}
	refold(t, l, e, projections.Deliveries{}, projections.Parked{})
}

// metric gathers one metric of the sources s and t, and whatever the views know besides.
func metric(t *testing.T, e *projections.Engine, name string) string {
	t.Helper()
	deliveries, _ := e.View("deliveries")
	parked, _ := e.View("parked")
	r := prometheus.NewPedanticRegistry()
	if err := projections.RegisterDeliveryMetrics(r, deliveries, parked, []string{"s", "t"}); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() != name {
				continue
			}
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			key := labels["source"]
			if a := labels["attempt"]; a != "" {
				key += "/" + a
			}
			all = append(all, fmt.Sprintf("%s=%v", key, m.GetGauge().GetValue()+m.GetCounter().GetValue()))
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// TestEachDeliveryComesOnce reads more than one step takes.
func TestEachDeliveryComesOnce(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	h, r := newHooks(t, l), random(t)
	_, v := deliveryView(t, l, projections.Deliveries{})
	h.some(t, r, 300)
	var burst []domain.Outcome // in one moment, one after the other
	for i := range 2500 {
		burst = append(burst, domain.Outcome{Source: "a", ID: fmt.Sprint("burst", i), Type: "b", Stream: "a/k1", Status: domain.Accepted, Received: h.start})
	}
	h.put(t, burst...)
	h.folded(t, v)
	for _, f := range []projections.DeliveryFilter{{}, {Source: "a"}} {
		var got []string
		err := projections.EachDelivery(t.Context(), v, f, func(d projections.Delivery) error {
			got = append(got, d.Source+"/"+d.ID)
			return nil
		})
		if slices.Reverse(got); err != nil || !slices.Equal(got, h.want(f)) {
			t.Errorf("%+v: %d deliveries in order, want %d (%v)", f, len(got), len(h.want(f)), err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := projections.EachDelivery(ctx, v, projections.DeliveryFilter{}, func(projections.Delivery) error { return nil }); err != context.Canceled {
		t.Error(err)
	}
	stop := fmt.Errorf("enough")
	if err := projections.EachDelivery(t.Context(), v, projections.DeliveryFilter{}, func(projections.Delivery) error { return stop }); err != stop {
		t.Error(err)
	}
}
