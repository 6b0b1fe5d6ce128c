package projections

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// build is a generation on its way to serve.
type build struct {
	view   *View
	gen    *generation
	rate   int           // records a second over all that are built together; 0 for no limit
	since  time.Time     // when it was first begun
	here   time.Time     // and by this process
	cancel chan struct{} // closed by an operator
	once   sync.Once

	mu    sync.Mutex
	state string // "scanning", "catching-up"
	from  int64  // offsets applied when it began or was resumed
}

func (b *build) canceled() bool {
	select {
	case <-b.cancel:
		return true
	default:
		return false
	}
}

func (b *build) enter(state string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state = state
}

// building is what is being built for v, nil for nothing.
func (v *View) building() *build {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.build
}

// prepare opens the generation to build, or begins it. Without one that serves it takes that place, and isn't shown
// before it is complete.
func (e *Engine) prepare(v *View, generation, perSecond int) error {
	mark, begun, err := v.folder.begun(generation)
	if err != nil {
		return err
	}
	if !begun || mark.Rate != perSecond && perSecond > 0 {
		mark = building{Boot: boot(), Started: time.Now().UTC(), Rate: perSecond}
		if err := v.folder.begin(generation, mark); err != nil {
			return err
		}
	}
	g, err := e.openGeneration(v, v.projection, e.meta(v.projection, generation), false)
	if err != nil {
		return err
	}
	g.table.Bulk()
	b := &build{view: v, gen: g, rate: mark.Rate, since: mark.Started, here: time.Now(), cancel: make(chan struct{}), state: "scanning", from: g.done()}
	v.mu.Lock()
	v.build, v.past = b, ""
	v.mu.Unlock()
	if v.now() == nil {
		v.serving.Store(g)
	}
	return nil
}

// resume goes on with a build that the process died in.
func (e *Engine) resume(v *View, metas map[int]eventstore.TableMeta) error {
	for n, m := range metas {
		if _, begun, err := v.folder.begun(n); err != nil {
			return err
		} else if begun && n != v.files.Serving {
			if m == e.meta(v.projection, n) {
				return e.prepare(v, n, 0)
			}
			if err := v.folder.remove(n); err != nil { // begun for a definition that is gone again
				return err
			}
		}
	}
	return nil
}

// done is how many offsets it has applied, over all partitions and topics.
func (g *generation) done() (n int64) {
	for _, topic := range g.topics {
		if at, ok := g.table.Position(topic); ok {
			for _, next := range at.Next {
				n += next
			}
		}
	}
	return n
}

// Rebuild builds the next generation of each of the named projections, all of them in one scan of the log, of at most
// perSecond records a second (0 for no limit). It returns when that has begun. Readers see the old generations until
// each new one has everything that the old one has.
func (e *Engine) Rebuild(ctx context.Context, names []string, perSecond int) error {
	if err := e.takesBuilds(); err != nil {
		return err
	}
	e.preparing.Lock() // two requests for the same projection would begin the same generation
	defer e.preparing.Unlock()
	var set []*build
	var err error
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		v, ok := e.View(name)
		if !ok {
			err = &domain.Error{Class: domain.NotFound, Message: fmt.Sprintf("no projection %q", name)}
			break
		}
		if err = e.mayRebuild(v); err != nil {
			break
		}
		var last []int
		if last, err = v.folder.generations(); err != nil {
			break
		}
		if err = e.prepare(v, slices.Max(append(last, 0))+1, perSecond); err != nil {
			break
		}
		set = append(set, v.building())
	}
	if err == nil {
		select {
		case e.builds <- set:
			return nil
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	for _, b := range set { // all of them or none
		err = errors.Join(err, e.drop(b, ""))
	}
	return err
}

// asked reports whether somebody reads rows at the moment. A build leaves them a core then: it doesn't read the next batch
// while it applies one.
func (e *Engine) asked() bool {
	since := time.Now().Add(-time.Second).UnixNano()
	return slices.ContainsFunc(e.views, func(v *View) bool { return v.asked.Load() > since })
}

// pagesOf is how many bytes of pages the transactions of all of a set have changed so far.
func pagesOf(set []*build) (n int64) {
	for _, b := range set {
		n += b.gen.table.Changed()
	}
	return n
}

// takesBuilds reports an error unless the engine runs.
func (e *Engine) takesBuilds() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.running {
		return &domain.Error{Class: domain.Unavailable, Message: "the projections are not folded at the moment"}
	}
	return nil
}

func (e *Engine) mayRebuild(v *View) error {
	if _, ok := v.projection.(bothTopics); ok {
		return &domain.Error{Class: domain.Rejected, Rule: "not-while-running",
			Message: "the writers decide on " + v.Name() + "; it is built anew when the node starts without its folder"}
	}
	if v.building() != nil {
		return &domain.Error{Class: domain.Rejected, Rule: "building", Message: "the projection " + v.Name() + " is being built already"}
	}
	return nil
}

// CancelBuild ends the build of a projection and deletes what it has made. One that is built for the first time can't be
// cancelled.
func (e *Engine) CancelBuild(v *View) error {
	b := v.building()
	switch {
	case b == nil:
		return &domain.Error{Class: domain.Rejected, Rule: "not-building", Message: "nothing is being built"}
	case b.gen == v.now() || v.now().frozen:
		return &domain.Error{Class: domain.Rejected, Rule: "nothing-else-serves", Message: "no other generation folds the log on: this one is needed"}
	}
	b.once.Do(func() { close(b.cancel) })
	return nil
}

// Rollback has the generation serve again that served before, once it has caught up with the log. It must be of the
// definition that the running program has.
func (e *Engine) Rollback(ctx context.Context, v *View) error {
	if err := e.takesBuilds(); err != nil {
		return err
	}
	e.preparing.Lock()
	defer e.preparing.Unlock()
	if err := e.mayRebuild(v); err != nil {
		return err
	}
	v.mu.Lock()
	previous := v.files.Previous
	v.mu.Unlock()
	if previous == 0 {
		return &domain.Error{Class: domain.Rejected, Rule: "no-previous", Message: "no earlier generation is kept"}
	}
	meta, err := eventstore.ReadMeta(v.folder.file(previous))
	if err != nil {
		return fmt.Errorf("generation %d: %w", previous, err)
	}
	if want := e.meta(v.projection, previous); meta != want {
		return &domain.Error{Class: domain.Rejected, Rule: "other-definition",
			Message: fmt.Sprintf("generation %d is of version %d %s; this program folds version %d: run the program of that version", previous, meta.Version, meta.Definition, want.Version)}
	}
	g, err := e.openGeneration(v, v.projection, meta, false)
	if err != nil {
		return err
	}
	g.markBuilt()
	b := &build{view: v, gen: g, since: time.Now().UTC(), here: time.Now(), cancel: make(chan struct{}), state: "catching-up", from: g.done()}
	v.mu.Lock()
	v.build, v.past = b, ""
	v.mu.Unlock()
	select {
	case e.builds <- []*build{b}:
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), e.drop(b, ""))
	}
}

// drop ends a build that will not serve. A generation that was complete is kept.
func (e *Engine) drop(b *build, why string) error {
	v := b.view
	err := b.gen.table.Close()
	if !b.gen.isBuilt() {
		err = errors.Join(err, v.folder.remove(b.gen.table.Meta.Generation), v.folder.sync())
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.build, v.past = nil, why
	return err
}

// build brings a set of generations to serve: in one scan of each topic, then each by itself.
func (e *Engine) build(ctx context.Context, set []*build) error {
	if len(set) == 0 {
		return nil
	}
	for _, topic := range []string{e.cfg.Log.Topics.Events, e.cfg.Log.Topics.Outcomes} {
		var want []*build
		for _, b := range set {
			if slices.Contains(b.gen.topics, topic) && !b.gen.isBuilt() {
				want = append(want, b)
			}
		}
		if err := e.scan(ctx, topic, want); err != nil || ctx.Err() != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, b := range set {
		g.Go(func() error { return e.finish(ctx, b) })
	}
	return g.Wait()
}

// finish has a generation that was scanned catch up, and then serve.
func (e *Engine) finish(ctx context.Context, b *build) error {
	v, g := b.view, b.gen
	if b.canceled() {
		return e.drop(b, "canceled")
	}
	b.enter("catching-up")
	if !g.isBuilt() {
		if err := g.table.Built(g.topic()); err != nil {
			e.cfg.Logger.Error("a generation could not be completed", "projection", v.Name(), "error", err)
			if g == v.now() {
				return fmt.Errorf("projection %s: %w", v.Name(), err)
			}
			return e.drop(b, err.Error())
		}
		g.rebase()
	}
	folding, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- e.fold(folding, g) }()
	stop := sync.OnceFunc(func() { cancel(); <-ended }) // by the swap, and here when that fails
	old := v.now()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for !g.isLive() || old != g && !g.covers(old) {
		select {
		case err := <-ended:
			cancel()
			return err
		case <-b.cancel:
			stop()
			return e.drop(b, "canceled")
		case <-look.C:
		}
	}
	s := swap{to: g, stop: stop, done: make(chan error, 1)}
	select {
	case v.swaps <- s:
	case <-ctx.Done():
		stop()
		return nil
	}
	if err := <-s.done; err != nil {
		stop()
		if ctx.Err() != nil {
			return nil
		}
		return e.drop(b, err.Error())
	}
	return nil
}

// covers reports whether g has applied everything that old has.
func (g *generation) covers(old *generation) bool {
	for _, topic := range old.topics {
		have, ok1 := g.table.Position(topic)
		want, ok2 := old.table.Position(topic)
		if ok2 && (!ok1 || !have.Covers(want)) {
			return false
		}
	}
	return true
}

// rebase has the feed begin where the build ended.
func (g *generation) rebase() {
	if at, ok := g.table.Position(g.topic()); ok {
		g.tail.Reset(g.scoped(at))
	}
}

// swap has another generation serve. The folds of the old one have stopped. The old file is kept to go back to, and the
// one before it deleted.
func (e *Engine) swap(ctx context.Context, v *View, old *generation, s swap) error {
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, topic := range old.topics {
		if at, ok := old.table.Position(topic); ok {
			if err := s.to.table.Wait(wait, topic, at); err != nil {
				return &domain.Error{Class: domain.Unavailable, Message: "the new generation does not keep up", Err: err}
			}
		}
	}
	s.stop()
	number := s.to.table.Meta.Generation
	files := serving{Serving: number}
	if n := old.table.Meta.Generation; old != s.to && !v.folder.isDamaged(n) {
		files.Previous = n
	}
	if err := errors.Join(v.folder.point(files), v.folder.complete(number)); err != nil {
		return fmt.Errorf("projection %s: %w", v.Name(), err)
	}
	s.to.markBuilt()
	v.serving.Store(s.to)
	v.mu.Lock()
	v.files, v.build = files, nil
	v.mu.Unlock()
	e.cfg.Logger.Info("a generation serves", "projection", v.Name(), "generation", number, "before", files.Previous)
	if old == s.to {
		return nil
	}
	old.tail.Fail(eventstore.ErrRetired)
	e.closing.Go(func() { old.table.Close() }) // waits for readers, backups among them
	list, err := v.folder.generations()
	for _, n := range list {
		if n != files.Serving && n != files.Previous {
			err = errors.Join(err, v.folder.remove(n))
		}
	}
	if err != nil {
		e.cfg.Logger.Warn("an old generation can't be deleted", "projection", v.Name(), "error", err)
	}
	return nil
}

// Bounds of one batch of a scan: large, because every batch writes each page that it touches once.
const (
	scanRecords = 50_000
	scanBytes   = 32 << 20
	// askedRecords are the most in a transaction while somebody reads: while the pages of a larger one were ordered and
	// written, the slowest reads took a quarter longer; the build was no faster.
	askedRecords = 2000
	// scanRest is how many offsets are left to the ordinary folds.
	scanRest = 2000
)

// batch is what a scan hands on.
type batch struct {
	records []*eventstore.Record
	from    eventstore.Position
	next    eventstore.Position
	applied chan struct{} // closed when it is
}

// scan reads topic once and applies it to every generation of the set, reading ahead by a batch. A generation that fails
// is left to its own fold, which halts at the record and lets an operator decide.
func (e *Engine) scan(ctx context.Context, topic string, set []*build) error {
	if len(set) == 0 {
		return nil
	}
	log := e.cfg.Log
	var from eventstore.Position
	var open []*build
	perSecond := 0
	for _, b := range set {
		at, err := e.begin(ctx, b.gen, topic)
		switch {
		case ctx.Err() != nil:
			return nil
		case domain.ClassOf(err) == domain.Conflict, errors.Is(err, eventstore.ErrDamaged):
			continue // its own fold says so again, and halts
		case err != nil:
			return fmt.Errorf("projection %s: %w", b.view.Name(), err)
		}
		if from.Next == nil {
			from = at.Clone()
		}
		for p, n := range at.Next {
			from.Next[p] = min(from.Next[p], n)
		}
		perSecond = max(perSecond, b.rate)
		open = append(open, b)
	}
	if len(open) == 0 {
		return nil
	}
	replica, err := e.replica(topic, from)
	if err != nil {
		return fmt.Errorf("scan %s: %w", topic, err)
	}
	// Also with a replica, to hear now that the log doesn't reach back.
	follower, err := patiently(ctx, func() (*eventstore.Follower, error) { return log.Follow(ctx, topic, from) })
	if domain.ClassOf(err) == domain.Conflict {
		return nil
	} else if err != nil {
		return fmt.Errorf("scan %s: %w", topic, err)
	}
	limit, meal, left := rate.NewLimiter(rate.Inf, 0), newAppetite(scanRecords), int64(scanRest)
	if perSecond > 0 { // a step a second, so that it can be seen to go on
		limit = rate.NewLimiter(rate.Limit(perSecond), perSecond)
		meal, left = newAppetite(min(scanRecords, perSecond)), min(left, int64(perSecond))
	}
	most := func() int {
		if e.asked() {
			return min(meal.next(), askedRecords)
		}
		return meal.next()
	}
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	batches := make(chan batch)
	g, reading := errgroup.WithContext(reading)
	g.Go(func() error {
		defer close(batches)
		give := func(b batch) error {
			for n := len(b.records); n > 0 && perSecond > 0; n -= perSecond {
				if err := limit.WaitN(reading, min(n, perSecond)); err != nil {
					return err
				}
			}
			select {
			case batches <- b:
			case <-reading.Done():
				return reading.Err()
			}
			if !e.asked() {
				return nil // and read the next while this one is applied
			}
			select {
			case <-b.applied:
				return nil
			case <-reading.Done():
				return reading.Err()
			}
		}
		if replica != nil {
			for !replica.CaughtUp() {
				b, err := ahead(reading, replica, most())
				if err == nil {
					err = give(b)
				}
				if err != nil {
					return err
				}
			}
			var err error
			if follower, err = patiently(reading, func() (*eventstore.Follower, error) { return log.Follow(reading, topic, replica.Position()) }); err != nil {
				return err
			}
		}
		for rest(log.TailEnd(topic), follower.Position()) > left {
			b, err := ahead(reading, follower, most())
			if err == nil {
				err = give(b)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for more := true; more && len(open) > 0; {
		select {
		case b, ok := <-batches:
			if more = ok; ok {
				for part := range b.parts(meal) {
					changed := pagesOf(open)
					going := e.applyAll(topic, open, part)
					meal.ate(len(part.records), pagesOf(open)-changed)
					open = going
				}
				close(b.applied)
			}
		case <-look.C:
			open = slices.DeleteFunc(open, (*build).canceled)
		}
	}
	if len(open) == 0 {
		cancel()
	}
	err = g.Wait()
	if ctx.Err() != nil || len(open) == 0 || domain.ClassOf(err) == domain.Conflict {
		return nil
	}
	if err != nil {
		return fmt.Errorf("scan %s: %w", topic, err)
	}
	return nil
}

func rest(end, at eventstore.Position) (n int64) {
	for p := range end.Next {
		n += max(0, end.Next[p]-at.Next[p])
	}
	return n
}

// source is what a scan reads: the log, or the copy of its events in the table of streams.
type source interface {
	Next(context.Context) (*eventstore.Batch, error)
	Position() eventstore.Position
	CaughtUp() bool
}

// replica is the copy of the events to read instead of the log, nil when there is none that will do.
func (e *Engine) replica(topic string, from eventstore.Position) (*eventstore.Replica, error) {
	if topic != e.cfg.Log.Topics.Events || !e.cfg.Replica {
		return nil, nil
	}
	for _, v := range e.views {
		g := v.now()
		if _, ok := v.projection.(eventstore.StreamsFold); !ok || !g.isBuilt() {
			continue
		}
		if len(g.skipped()) > 0 {
			return nil, nil // it isn't whole
		}
		r, ok, err := eventstore.NewHistory(e.cfg.Log, g.table).Replica(from)
		if !ok {
			return nil, err
		}
		return r, nil
	}
	return nil, nil
}

// ahead gathers a batch of about most records.
func ahead(ctx context.Context, f source, most int) (out batch, err error) {
	size, from := int64(0), f.Position().Clone()
	for {
		b, err := f.Next(ctx)
		if err != nil {
			return out, err
		}
		out.records = append(out.records, b.Records...)
		size += b.Bytes()
		if f.CaughtUp() || len(out.records) >= most || size >= scanBytes {
			out.from, out.next, out.applied = from, f.Position().Clone(), make(chan struct{})
			return out, nil
		}
	}
}

// applyAll applies a batch to each generation, and returns those that go on.
func (e *Engine) applyAll(topic string, set []*build, b batch) (open []*build) {
	ok, whole := make([]bool, len(set)), make([]bool, len(set))
	sharing := make([]Projection, len(set))
	for i, t := range set {
		at, _ := t.gen.table.Position(topic)
		ok[i] = !t.canceled()
		if whole[i] = at.Next == nil || b.covered(at); ok[i] && whole[i] {
			sharing[i] = t.gen.projection
		}
	}
	members := foldTogether(sharing, b.records)
	var wait sync.WaitGroup
	for i, t := range set {
		if !ok[i] {
			continue
		}
		ok[i] = false
		wait.Go(func() {
			records, next := b.records, b.next
			if !whole[i] {
				at, _ := t.gen.table.Position(topic)
				// It was further than others when it was resumed.
				records = slices.DeleteFunc(slices.Clone(records), func(r *eventstore.Record) bool { return r.Offset < at.Next[r.Partition] })
				next = b.next.Clone()
				for p, n := range at.Next {
					next.Next[p] = max(next.Next[p], n)
				}
			}
			if err := t.gen.commitShared(topic, records, next, members[i]); err != nil {
				e.cfg.Logger.Warn("a generation goes on alone", "projection", t.view.Name(), "generation", t.gen.table.Meta.Generation, "error", err)
				return
			}
			e.metrics.applied.WithLabelValues(t.view.Name()).Add(float64(len(records)))
			ok[i] = true
		})
	}
	wait.Wait()
	for i, t := range set {
		if ok[i] {
			open = append(open, t)
		}
	}
	return open
}

// parts are a batch in pieces that a transaction may take. A fetch brings more at once than that.
func (b batch) parts(meal *appetite) iter.Seq[batch] {
	return func(yield func(batch) bool) {
		for n := meal.next(); len(b.records) > n; n = meal.next() {
			part := batch{records: b.records[:n], next: b.from.Clone()}
			for _, r := range part.records {
				part.next.Next[r.Partition] = r.Offset + 1
			}
			if !yield(part) {
				return
			}
			b.records, b.from = b.records[n:], part.next
		}
		yield(b)
	}
}

// covered reports whether all records of b come after at.
func (b batch) covered(at eventstore.Position) bool {
	for _, r := range b.records {
		if r.Offset < at.Next[r.Partition] {
			return false
		}
	}
	return true
}
