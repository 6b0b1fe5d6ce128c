package ingress

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/prometheus/client_golang/prometheus"
)

// inbox is a log that answers, or doesn't. What it took is in order.
type inbox struct {
	mu     sync.Mutex
	taken  []eventstore.Entry
	answer func(eventstore.Entry) error // nil error: taken. Nil: everything is
}

func (l *inbox) append(ctx context.Context, e eventstore.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.answer != nil {
		if err := l.answer(e); err != nil {
			return err
		}
	}
	l.taken = append(l.taken, e)
	return nil
}

// appendAll stops at the first that isn't taken, as the log does.
func (l *inbox) appendAll(ctx context.Context, entries []eventstore.Entry) []error {
	errs := make([]error, len(entries))
	for i, e := range entries {
		if i > 0 && domain.ClassOf(errs[i-1]) == domain.Unavailable {
			errs[i] = errs[i-1]
			continue
		}
		errs[i] = l.append(ctx, e)
	}
	return errs
}

func (l *inbox) answers(f func(eventstore.Entry) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = f
}

// ids are what was taken, a repeat left out: it has no effect.
func (l *inbox) ids() (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.taken {
		if !slices.Contains(ids, e.ID) {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

var (
	errAway    = &domain.Error{Class: domain.Unavailable, Message: "nobody there"}
	errBacklog = &domain.Error{Class: domain.Unavailable, Rule: "backlog", Message: "too much waits"}
)

func gone(eventstore.Entry) error { return errAway }

const testPartitions = 4

func partitionOf(s domain.Stream) int32 {
	sum := int32(0)
	for _, b := range []byte(s) {
		sum += int32(b)
	}
	return sum % testPartitions
}

func spoolConfig(t *testing.T, l *inbox) SpoolConfig {
	return SpoolConfig{
		Dir: filepath.Join(t.TempDir(), "spool"), MaxBytes: 64 << 20, After: 50 * time.Millisecond, Append: l.append, AppendAll: l.appendAll,
		Partitions: testPartitions, PartitionOf: partitionOf, Logger: eventstoretest.Logger(t),
	}
}

// spool is an open spool with a way to end it as a process would that is told to stop.
type runningSpool struct {
	*Spool
	stop func()
}

func runSpool(t *testing.T, c SpoolConfig, d disk) *runningSpool {
	t.Helper()
	s, err := openSpool(c, d)
	if err != nil {
		t.Fatal(err)
	}
	return goSpool(t, s)
}

func goSpool(t *testing.T, s *Spool) *runningSpool {
	s.retry, s.pause = 20*time.Millisecond, 2*time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	stop := sync.OnceFunc(func() {
		cancel()
		<-done
		s.Close()
	})
	t.Cleanup(stop)
	return &runningSpool{s, stop}
}

func delivery(id string, stream domain.Stream) eventstore.Entry {
	return eventstore.Entry{
		Kind: eventstore.KindDelivery, ID: id, Source: stream.Category(), Type: "test.happened", Stream: stream,
		Received: time.Now().UTC().Truncate(time.Second), Headers: map[string]string{"user-agent": "test"}, Body: []byte("body of " + id),
	}
}

func (s *runningSpool) add(t *testing.T, id string, stream domain.Stream, want Durability) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if got, err := s.Append(ctx, delivery(id, stream)); got != want || err != nil {
		t.Fatalf("%s is %q, %v; want %q", id, got, err, want)
	}
}

func metric(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func (s *runningSpool) drained(t *testing.T) {
	t.Helper()
	eventstoretest.Until(t, "the spool is drained", func() bool { d := s.Depth(); return d.Records == 0 && d.Bytes == 0 })
	files, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !f.IsDir() {
			t.Errorf("%s is left behind", f.Name())
		}
	}
}

func TestSpoolTakesWhatTheLogDoesNot(t *testing.T) {
	l := &inbox{}
	reg := prometheus.NewRegistry()
	c := spoolConfig(t, l)
	c.Registerer = reg
	s := runSpool(t, c, realDisk)
	s.add(t, "1", "a/x", Logged)
	l.answers(gone)
	s.add(t, "2", "a/x", Spooled)
	s.add(t, "3", "a/x", Spooled)
	s.add(t, "4", "a/y", Spooled)
	if d := s.Depth(); d.Records != 3 || d.Bytes == 0 || time.Since(d.Oldest) > time.Minute || len(d.Problems) > 0 {
		t.Errorf("depth: %+v", d)
	}
	for name, want := range map[string]float64{"penstock_spool_records": 3, "penstock_spooled_total": 3, "penstock_spool_drained_total": 0} {
		if got := metric(t, reg, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	l.answers(nil)
	s.drained(t)
	got := l.taken
	slices.SortFunc(got, func(a, b eventstore.Entry) int { return strings.Compare(a.ID, b.ID) })
	if len(got) != 4 {
		t.Fatalf("the log has %d entries", len(got))
	}
	for i, e := range got {
		want := delivery(e.ID, e.Stream)
		if e.ID != fmt.Sprint(i+1) || string(e.Body) != string(want.Body) || !maps.Equal(e.Headers, want.Headers) || e.Type != want.Type ||
			time.Since(e.Received) > time.Minute {
			t.Errorf("entry %d came as %+v", i+1, e)
		}
	}
	s.add(t, "5", "a/x", Logged)
	if n := metric(t, reg, "penstock_spool_drained_total"); n != 3 {
		t.Errorf("%v were drained", n)
	}
}

// What the log refuses for a reason is refused, not hidden on a disk.
func TestSpoolPassesRefusalsOn(t *testing.T) {
	l := &inbox{}
	s := runSpool(t, spoolConfig(t, l), realDisk)
	for _, want := range []error{
		errBacklog,
		&domain.Error{Class: domain.Unavailable, Rule: "topics", Message: "deleted"},
		&domain.Error{Class: domain.TooLarge, Message: "too large"},
		errors.New("a defect"),
	} {
		l.answers(func(eventstore.Entry) error { return want })
		if got, err := s.Append(t.Context(), delivery("1", "a/x")); got != "" || !errors.Is(err, want) {
			t.Errorf("got %q, %v; want %v", got, err, want)
		}
	}
	// Also of a stream whose earlier deliveries wait: they wait for the same reason.
	l.answers(gone)
	s.add(t, "2", "a/x", Spooled)
	l.answers(func(eventstore.Entry) error { return errBacklog })
	eventstoretest.Until(t, "the refusal is known", func() bool {
		_, err := s.Append(t.Context(), delivery("3", "a/x"))
		return errors.Is(err, errBacklog)
	})
	l.answers(nil)
	s.drained(t)
}

// A partition that is away keeps only its own deliveries waiting; and of them only those of streams of which one waits,
// once the log answers again.
func TestSpoolHoldsUpWhatMustWait(t *testing.T) {
	l := &inbox{}
	s := runSpool(t, spoolConfig(t, l), realDisk)
	l.answers(func(e eventstore.Entry) error {
		if partitionOf(e.Stream) == partitionOf("a/x") {
			return errAway
		}
		return nil
	})
	s.add(t, "1", "a/x", Spooled)
	s.add(t, "2", "a/y", Logged)
	s.add(t, "3", "a/x\x04", Spooled) // the same partition
	// The log takes that stream again, but not yet a/x.
	l.answers(func(e eventstore.Entry) error {
		if e.Stream == "a/x" {
			return errAway
		}
		return nil
	})
	if partitionOf("a/x") != partitionOf("a/x\x04") || partitionOf("a/x") == partitionOf("a/y") {
		t.Fatal("the streams don't lie as the test needs them")
	}
	s.add(t, "4", "a/x", Spooled)
	if ids := l.ids(); slices.Contains(ids, "1") || slices.Contains(ids, "4") {
		t.Errorf("the log has %v", ids)
	}
	l.answers(nil)
	s.drained(t)
	if ids := l.ids(); slices.Index(ids, "1") > slices.Index(ids, "4") {
		t.Errorf("the order is %v", ids)
	}
}

// With nothing to drain nobody would notice that the log is back, but for a delivery that looks.
func TestSpoolLooksWhetherTheLogIsBack(t *testing.T) {
	l := &inbox{}
	broken := realDisk
	broken.write = func(*os.File, []byte, int64) (int, error) { return 0, syscall.ENOSPC }
	s := runSpool(t, spoolConfig(t, l), broken)
	l.answers(gone)
	if _, err := s.Append(t.Context(), delivery("1", "a/x")); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	if d := s.Depth(); len(d.Problems) != 1 || !strings.Contains(d.Problems[0], "disk") {
		t.Errorf("problems: %q", d.Problems)
	}
	l.answers(nil)
	eventstoretest.Until(t, "a delivery reaches the log", func() bool {
		got, _ := s.Append(t.Context(), delivery("2", "a/x"))
		return got == Logged
	})
}

func TestSpoolIsBounded(t *testing.T) {
	l := &inbox{}
	c := spoolConfig(t, l)
	c.MaxBytes = 1 << 20
	s := runSpool(t, c, realDisk)
	l.answers(gone)
	accepted := 0
	for i := range 100 {
		e := delivery(fmt.Sprint(i), "a/x")
		e.Body = make([]byte, 100<<10)
		got, err := s.Append(t.Context(), e)
		if got == Spooled {
			accepted++
			continue
		}
		if e, ok := errors.AsType[*domain.Error](err); !ok || e.Class != domain.Unavailable || e.Rule != SpoolFull {
			t.Fatalf("got %v", err)
		}
		break
	}
	size := int64(0)
	files, _ := filepath.Glob(filepath.Join(c.Dir, "*"+spoolSuffix))
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += st.Size()
	}
	d := s.Depth()
	if accepted != 10 || size > c.MaxBytes || size != d.Bytes || len(d.Problems) != 1 {
		t.Errorf("%d accepted, %d bytes, depth %+v", accepted, size, d)
	}
	l.answers(nil)
	s.drained(t)
	if len(l.ids()) != accepted || len(s.Depth().Problems) > 0 {
		t.Errorf("the log has %v; problems %q", l.ids(), s.Depth().Problems)
	}
	large := delivery("large", "a/x")
	large.Body = make([]byte, eventstore.MaxRecordBytes)
	l.answers(gone)
	if _, err := s.Append(t.Context(), large); domain.ClassOf(err) != domain.TooLarge {
		t.Errorf("what the log would never take: %v", err)
	}
}

func TestSpoolOff(t *testing.T) {
	l := &inbox{}
	c := spoolConfig(t, l)
	s := runSpool(t, c, realDisk)
	l.answers(gone)
	s.add(t, "1", "a/x", Spooled)
	s.stop()
	c.MaxBytes = 0
	s = runSpool(t, c, realDisk)
	if _, err := s.Append(t.Context(), delivery("2", "a/y")); !errors.Is(err, errAway) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Append(t.Context(), delivery("3", "a/x")); domain.ClassOf(err) != domain.Unavailable { // behind 1
		t.Errorf("got %v", err)
	}
	l.answers(nil)
	s.drained(t)
	s.add(t, "4", "a/x", Logged)
}

// A delivery that the log will never take doesn't hold up its stream, and isn't lost.
func TestSpoolSetsAside(t *testing.T) {
	l := &inbox{}
	c := spoolConfig(t, l)
	s := runSpool(t, c, realDisk)
	l.answers(gone)
	for _, id := range []string{"1", "2", "3"} {
		s.add(t, id, "a/x", Spooled)
	}
	l.answers(func(e eventstore.Entry) error {
		if e.ID == "2" {
			return &domain.Error{Class: domain.TooLarge, Message: "the topic takes less now"}
		}
		return nil
	})
	s.drained(t)
	if ids := l.ids(); !slices.Equal(ids, []string{"1", "3"}) {
		t.Errorf("the log has %v", ids)
	}
	if d := s.Depth(); d.Refused != 1 || len(d.Problems) > 0 {
		t.Errorf("depth: %+v", d)
	}
	s.stop()
	reasons, _ := filepath.Glob(filepath.Join(c.Dir, refusedDir, "*.txt"))
	kept, _ := filepath.Glob(filepath.Join(c.Dir, refusedDir, "*"+spoolSuffix))
	if len(reasons) != 1 || len(kept) != 1 {
		t.Fatalf("kept: %q, %q", reasons, kept)
	}
	if text, err := os.ReadFile(reasons[0]); err != nil || !strings.Contains(string(text), "the topic takes less now") {
		t.Errorf("the reason is %q, %v", text, err)
	}
	// Moved back, it is tried again.
	if err := os.Rename(kept[0], filepath.Join(c.Dir, filepath.Base(kept[0]))); err != nil {
		t.Fatal(err)
	}
	l.answers(nil)
	s = runSpool(t, c, realDisk)
	s.drained(t)
	if ids := l.ids(); !slices.Equal(ids, []string{"1", "3", "2"}) {
		t.Errorf("the log has %v", ids)
	}
}

// A broker says of a batch as a whole that it is too large. Only the one that is may be set aside.
func TestSpoolTriesALargeBatchOneByOne(t *testing.T) {
	l := &inbox{}
	c := spoolConfig(t, l)
	one := c.AppendAll
	c.AppendAll = func(ctx context.Context, entries []eventstore.Entry) []error {
		tooLarge := &domain.Error{Class: domain.TooLarge, Message: "too large"}
		if len(entries) > 1 {
			return slices.Repeat([]error{tooLarge}, len(entries))
		}
		if entries[0].ID == "3" {
			return []error{tooLarge}
		}
		return one(ctx, entries)
	}
	s := runSpool(t, c, realDisk)
	l.answers(gone)
	for _, id := range []string{"1", "2", "3", "4", "5"} {
		s.add(t, id, "a/x", Spooled)
	}
	l.answers(nil)
	s.drained(t)
	if ids := l.ids(); !slices.Equal(ids, []string{"1", "2", "4", "5"}) || s.Depth().Refused != 1 {
		t.Errorf("the log has %v, depth %+v", ids, s.Depth())
	}
}

// What waits survives the process, in order; what was sent is not sent again.
func TestSpoolOutlivesTheProcess(t *testing.T) {
	l := &inbox{}
	c := spoolConfig(t, l)
	var want []string
	for round := range 5 {
		s := runSpool(t, c, realDisk)
		l.answers(gone)
		for i := range 10 {
			want = append(want, fmt.Sprintf("%d-%d", round, i))
			s.add(t, want[len(want)-1], "a/x", Spooled)
		}
		s.stop()
	}
	half := 0
	l.answers(func(eventstore.Entry) error {
		if half++; half > 25 {
			return errAway
		}
		return nil
	})
	s := runSpool(t, c, realDisk)
	eventstoretest.Until(t, "the first half is drained", func() bool { return s.Depth().Records == 25 })
	s.stop()
	l.answers(nil)
	s = runSpool(t, c, realDisk)
	s.drained(t)
	if !slices.Equal(l.ids(), want) || len(l.taken) != len(want) {
		t.Errorf("the log has %v in %d entries", l.ids(), len(l.taken))
	}
}

// TestSpoolOrder has senders, each with streams of its own, that go on only once they are answered, while the log comes
// and goes, partition by partition, and the spool's process stops and starts. The log must have of each stream what was
// acknowledged, in that order.
func TestSpoolOrder(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	l := &inbox{}
	c := spoolConfig(t, l)
	c.After = time.Second
	random := rand.New(rand.NewPCG(seed, 0))
	flaky := rand.New(rand.NewPCG(seed, 1)) // one call at a time
	var away [testPartitions]atomic.Bool
	l.answers(func(e eventstore.Entry) error {
		if away[partitionOf(e.Stream)].Load() || flaky.IntN(100) == 0 {
			return errAway
		}
		return nil
	})
	var now atomic.Pointer[runningSpool]
	now.Store(runSpool(t, c, realDisk))
	const senders, steps = 8, 200
	var spooled, acknowledged atomic.Int64
	var stopping atomic.Bool
	var all sync.WaitGroup
	for sender := range senders {
		random := rand.New(rand.NewPCG(seed, uint64(sender)+2))
		all.Go(func() {
			for i := 0; !stopping.Load(); i++ {
				e := delivery(fmt.Sprintf("%d/%06d", sender, i), domain.Stream(fmt.Sprintf("s%d/%d", sender, random.IntN(2))))
				for {
					got, err := now.Load().Append(context.Background(), e)
					if got == Spooled {
						spooled.Add(1)
					}
					if err == nil {
						acknowledged.Add(1)
						break
					}
					time.Sleep(time.Millisecond) // it stops and starts
				}
				time.Sleep(time.Duration(random.Int64N(int64(2 * time.Millisecond))))
			}
		})
	}
	for range steps {
		away[random.IntN(testPartitions)].Store(random.IntN(2) == 0)
		if random.IntN(20) == 0 {
			now.Load().stop()
			now.Store(runSpool(t, c, realDisk))
		}
		time.Sleep(time.Duration(random.Int64N(int64(10 * time.Millisecond))))
	}
	for p := range away {
		away[p].Store(false)
	}
	stopping.Store(true)
	all.Wait()
	now.Load().drained(t)
	if spooled.Load() < 200 || acknowledged.Load() < spooled.Load()+200 {
		t.Errorf("only %d of %d were spooled: the test did not test", spooled.Load(), acknowledged.Load())
	}
	next := map[domain.Stream]string{}
	seen := map[string]bool{}
	for _, e := range l.taken {
		if seen[e.ID] {
			continue
		}
		if seen[e.ID] = true; e.ID < next[e.Stream] {
			t.Errorf("%s of %s comes after %s", e.ID, e.Stream, next[e.Stream])
		}
		next[e.Stream] = e.ID
	}
	if int64(len(seen)) != acknowledged.Load() {
		t.Errorf("%d of %d acknowledged deliveries reached the log", len(seen), acknowledged.Load())
	}
	t.Logf("%d of %d went over the spool, %d entries in the log", spooled.Load(), acknowledged.Load(), len(l.taken))
}
