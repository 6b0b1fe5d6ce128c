package projections

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// Config is what the engine needs.
type Config struct {
	Log         *eventstore.Log
	Dir         string // holds a folder for each projection, in it a file for each generation
	Projections []Projection
	Logger      *slog.Logger
	Metrics     prometheus.Registerer // nil for none
	// Replica has builds read the events from the table of streams, if that is among the projections, as far as it has
	// them; the rest, and everything once events broke the order of their streams, comes from the log.
	Replica bool
	// Yield reports whether something more urgent than folding needs the machine; nil for never. A projection then takes
	// a tenth of the time, with pauses of up to five seconds between its steps.
	Yield func() bool
}

// Engine keeps every projection's table equal to the fold of the log.
type Engine struct {
	cfg     Config
	views   []*View // by name
	metrics *engineMetrics
	builds  chan []*build
	closing sync.WaitGroup // tables that are closed behind the back of readers

	preparing sync.Mutex // held while a set of builds is begun

	mu      sync.Mutex
	running bool // builds are taken
}

var nameRule = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// New opens the tables. A projection that is new or whose definition changed gets another generation, built from the
// beginning of the log beside the one that serves; a damaged file is put aside and built anew. The caller runs Run and,
// at the end, calls Close.
func New(cfg Config) (*Engine, error) {
	e := &Engine{cfg: cfg, builds: make(chan []*build)}
	e.metrics = newEngineMetrics(e)
	names := map[string]bool{}
	for _, p := range cfg.Projections {
		if !nameRule.MatchString(p.Name()) {
			return nil, fmt.Errorf("projection %q: a name has lower-case letters, digits and '-'", p.Name())
		}
		if names[p.Name()] {
			return nil, fmt.Errorf("two projections are called %q", p.Name())
		}
		names[p.Name()] = true
	}
	// At once, because a file that wasn't closed is looked at from one end to the other to find its free pages: 0.65 s
	// for 850 MB.
	views := make([]*View, len(cfg.Projections))
	var opening errgroup.Group
	for i, p := range cfg.Projections {
		opening.Go(func() (err error) {
			if views[i], err = e.open(p); err != nil {
				return fmt.Errorf("projection %s: %w", p.Name(), err)
			}
			return nil
		})
	}
	err := opening.Wait()
	e.views = slices.DeleteFunc(views, func(v *View) bool { return v == nil })
	if err != nil {
		e.Close()
		return nil, err
	}
	slices.SortFunc(e.views, func(a, b *View) int { return strings.Compare(a.Name(), b.Name()) })
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(e.metrics)
	}
	return e, nil
}

// Described is a Projection with more to its definition than its version, for example the text that it was declared by.
type Described interface{ Definition() string }

// Indexed is a Projection whose rows can be found by other keys than their own. The indexes are a part of its definition:
// other ones are another Version.
type Indexed interface{ Indexes() []Index }

// Index finds rows by something in them.
type Index struct {
	Name string
	// Keys gives what a row is found under, in the order that it sorts in. No key holds a zero byte. Like Apply it must
	// be deterministic.
	Keys func(key string, row []byte) ([][]byte, error)
}

func (e *Engine) meta(p Projection, generation int) eventstore.TableMeta {
	m := eventstore.TableMeta{Name: p.Name(), Version: p.Version(), Generation: generation, Cluster: e.cfg.Log.Cluster()}
	if d, ok := p.(Described); ok {
		m.Definition = d.Definition()
	}
	return m
}

// open finds the generation that serves, and begins the one that must be built.
func (e *Engine) open(p Projection) (*View, error) {
	v := &View{projection: p, log: e.cfg.Log, folder: folder(filepath.Join(e.cfg.Dir, p.Name())), reads: make(chan struct{}, journalReads), scans: make(chan struct{}, scansAtOnce), swaps: make(chan swap)}
	if err := os.MkdirAll(string(v.folder), 0o755); err != nil {
		return nil, err
	}
	if err := v.folder.sweep(); err != nil {
		return nil, err
	}
	metas, err := e.take(v)
	if err != nil {
		return nil, err
	}
	if v.files, err = v.folder.pointer(); err != nil {
		return nil, fmt.Errorf("which generation serves: %w", err)
	}
	if _, there := metas[v.files.Serving]; !there {
		v.files.Serving = 0
		for n := range metas { // the newest complete one, as before there was a pointer
			if _, begun, _ := v.folder.begun(n); !begun {
				v.files.Serving = max(v.files.Serving, n)
			}
		}
	}
	last := 0
	for n := range metas {
		last = max(last, n)
	}
	if _, there := metas[v.files.Previous]; !there || v.files.Previous == v.files.Serving {
		v.files.Previous = 0
	}
	if v.files.Serving > 0 {
		// The process may have died between pointing at a generation and taking its marker away.
		if err := v.folder.complete(v.files.Serving); err != nil {
			return nil, err
		}
		m := metas[v.files.Serving]
		want := e.meta(p, m.Generation)
		g, err := e.openGeneration(v, p, m, m != want)
		if err != nil {
			return nil, err
		}
		g.built = true
		v.serving.Store(g)
		away, err := e.away(g)
		if err != nil {
			return nil, errors.Join(err, g.table.Close())
		}
		if !g.frozen && !away {
			return v, e.resume(v, metas)
		}
		g.frozen = true
		if _, ok := p.(bothTopics); ok {
			// Writers decide on this one: they must not see a fold of another definition.
			g.table.Close()
			v.serving.Store(nil)
		} else {
			e.cfg.Logger.Info("a new generation is built beside the old one", "projection", p.Name(), "from", m.Version, "to", want.Version)
		}
		if away {
			e.cfg.Logger.Error("this node was away for longer than the outcomes are kept: a projection of them is built anew from what is left",
				"projection", p.Name())
			return v, e.prepare(v, last+1, 0)
		}
	}
	for n := range metas { // of the same definition: an unfinished build, or what served before a newer program came and went
		if n != v.files.Serving && metas[n] == e.meta(p, n) {
			return v, e.prepare(v, n, 0)
		}
	}
	return v, e.prepare(v, last+1, 0)
}

// away reports whether the outcomes that g needs next are gone from the log.
func (e *Engine) away(g *generation) (bool, error) {
	topic := e.cfg.Log.Topics.Outcomes
	at, ok := g.table.Position(topic)
	if !ok {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	oldest, err := patiently(ctx, func() (eventstore.Position, error) { return e.cfg.Log.Start(ctx, topic) })
	return err == nil && !at.Covers(oldest), err
}

// patiently asks the log again while nobody answers: a broker that restarts just now is no reason to end.
func patiently[T any](ctx context.Context, ask func() (T, error)) (T, error) {
	for try := 1; ; try++ {
		v, err := ask()
		if err == nil || domain.ClassOf(err) != domain.Unavailable || errors.Is(err, eventstore.ErrClosed) || ctx.Err() != nil {
			return v, err
		}
		if stop := pause(ctx, min(time.Duration(try)*50*time.Millisecond, time.Second)); stop != nil {
			return v, errors.Join(err, stop)
		}
	}
}

// take reads what the files are, and puts damaged ones aside.
func (e *Engine) take(v *View) (map[int]eventstore.TableMeta, error) {
	list, err := v.folder.generations()
	if err != nil {
		return nil, err
	}
	metas := map[int]eventstore.TableMeta{}
	for _, n := range list {
		b, unfinished, err := v.folder.begun(n)
		if err != nil {
			return nil, err
		}
		if unfinished && (b.Boot == "" || b.Boot != boot()) {
			e.cfg.Logger.Warn("a generation that was being built when the machine stopped is begun anew", "projection", v.Name(), "generation", n)
			if err := v.folder.remove(n); err != nil {
				return nil, err
			}
			continue
		}
		m, err := eventstore.ReadMeta(v.folder.file(n))
		if err == nil && !v.folder.isDamaged(n) {
			if m.Name == "" { // the process died before the first commit
				if err := v.folder.remove(n); err != nil {
					return nil, err
				}
				continue
			}
			if m.Name != v.Name() || m.Cluster != e.cfg.Log.Cluster() {
				return nil, fmt.Errorf("%s is a fold of %q in cluster %s, not of this one in %s: move it away, or restore the right one",
					v.folder.file(n), m.Name, m.Cluster, e.cfg.Log.Cluster())
			}
			m.Generation = n
			metas[n] = m
			continue
		}
		if err != nil && !errors.Is(err, eventstore.ErrDamaged) {
			return nil, err
		}
		aside, quarantine := v.folder.quarantine(n, time.Now())
		if quarantine != nil {
			return nil, fmt.Errorf("put a damaged file aside: %w", quarantine)
		}
		e.cfg.Logger.Error("a damaged file was put aside; the projection is built anew", "projection", v.Name(), "file", aside, "error", err)
	}
	return metas, nil
}

func (e *Engine) openGeneration(v *View, p Projection, m eventstore.TableMeta, frozen bool) (*generation, error) {
	table, err := eventstore.OpenTable(v.folder.file(m.Generation), m)
	if err != nil {
		return nil, err
	}
	if ix, ok := p.(Indexed); ok {
		for _, x := range ix.Indexes() {
			table.Keep(rowIndex+x.Name, x.Keys)
		}
	}
	g, err := newGeneration(e.cfg.Log, p, table)
	if err != nil {
		table.Close()
		return nil, err
	}
	g.frozen = frozen
	return g, nil
}

// rowIndex comes before the names of the indexes that tables keep by themselves.
const rowIndex = "row/"

// View returns the read model called name.
func (e *Engine) View(name string) (*View, bool) {
	for _, v := range e.views {
		if v.Name() == name {
			return v, true
		}
	}
	return nil, false
}

// Views returns all read models, by name.
func (e *Engine) Views() []*View { return e.views }

// Close releases the tables. Run must have returned.
func (e *Engine) Close() error {
	var errs []error
	for _, v := range e.views {
		if g := v.now(); g != nil {
			errs = append(errs, g.table.Close())
		}
		if b := v.building(); b != nil && b.gen != v.now() {
			errs = append(errs, b.gen.table.Close())
		}
	}
	e.closing.Wait()
	return errors.Join(errs...)
}

// Run folds until ctx ends. A projection that fails halts, visibly and alone; Run returns an error only when the log
// itself can't be followed.
func (e *Engine) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, v := range e.views {
		g.Go(func() error { return e.serve(ctx, v) })
	}
	g.Go(func() error {
		var begun []*build
		for _, v := range e.views {
			if b := v.building(); b != nil {
				begun = append(begun, b)
			}
		}
		g.Go(func() error { return e.build(ctx, begun) })
		e.accept(true)
		defer e.accept(false)
		for {
			select {
			case set := <-e.builds:
				g.Go(func() error { return e.build(ctx, set) })
			case <-ctx.Done():
				return nil
			}
		}
	})
	err := g.Wait()
	for _, v := range e.views {
		v.now().tail.Fail(errors.Join(eventstore.ErrClosed, err))
	}
	return err
}

func (e *Engine) accept(yes bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running = yes
}

// swap asks for another generation to serve.
type swap struct {
	to *generation
	// stop ends the folds of to. Before that it has everything that the old one has.
	stop func()
	done chan error
}

// serve folds the generation that serves, and changes to another when that is ready.
func (e *Engine) serve(ctx context.Context, v *View) error {
	for {
		g := v.now()
		folding, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() {
			if g.frozen || !g.isBuilt() {
				<-folding.Done()
				ended <- nil
				return
			}
			ended <- e.fold(folding, g)
		}()
		select {
		case err := <-ended:
			cancel()
			return err
		case s := <-v.swaps:
			cancel()
			failed := <-ended
			err := failed
			if err == nil {
				err = e.swap(ctx, v, g, s)
			}
			s.done <- err
			switch {
			case failed != nil:
				return failed
			case err != nil && g == s.to && ctx.Err() == nil:
				return err // nothing else is there to serve
			case err != nil && ctx.Err() == nil:
				e.cfg.Logger.Error("the new generation can't serve; the old one goes on", "projection", v.Name(), "error", err)
			}
		}
	}
}

// fold applies all topics of a generation until ctx ends.
func (e *Engine) fold(ctx context.Context, g *generation) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, topic := range g.topics {
		group.Go(func() error {
			for {
				if err := e.foldTopic(ctx, g, topic); !errors.Is(err, errResumed) {
					return err
				}
			}
		})
	}
	return group.Wait()
}

var errResumed = errors.New("an operator wants it to go on")

// Bounds of one transaction of a table, in records and in bytes of bodies. Batches grow with lag up to them.
const (
	foldRecords = 20_000
	foldBytes   = 32 << 20
)

// begin is where a generation goes on in topic: its position, or the beginning of the log.
func (e *Engine) begin(ctx context.Context, g *generation, topic string) (from eventstore.Position, err error) {
	from, ok := g.table.Position(topic)
	if ok {
		return from, nil
	}
	from, err = patiently(ctx, func() (eventstore.Position, error) { return e.cfg.Log.Start(ctx, topic) })
	if err != nil {
		return from, err
	}
	if topic == e.cfg.Log.Topics.Events {
		for p, n := range from.Next {
			if n > 0 {
				return from, &domain.Error{Class: domain.Conflict, Rule: "history-lost",
					Message: fmt.Sprintf("the events of partition %d begin at offset %d: history before it is lost", p, n)}
			}
		}
	}
	// An empty log has nothing to apply, and is applied wholly all the same.
	_, err = g.table.Update(topic, from, func(*eventstore.Tx) error { return nil })
	return from, err
}

// foldTopic applies one topic to one generation, batch after batch.
func (e *Engine) foldTopic(ctx context.Context, g *generation, topic string) error {
	from, err := e.begin(ctx, g, topic)
	if err != nil {
		return e.stopped(ctx, g, topic, err)
	}
	f, err := patiently(ctx, func() (*eventstore.Follower, error) { return e.cfg.Log.Follow(ctx, topic, from) })
	if err != nil {
		return e.stopped(ctx, g, topic, err)
	}
	if f.CaughtUp() {
		g.caughtUp(topic)
	}
	meal := newAppetite(foldRecords)
	for {
		records, err := gather(ctx, f, meal.next())
		if err != nil {
			return e.stopped(ctx, g, topic, err)
		}
		if have, ok := g.table.Position(topic); ok && have.Covers(f.Position()) {
			if topic == g.topic() {
				g.tail.Tick()
			}
			if f.CaughtUp() {
				g.caughtUp(topic)
			}
			continue
		}
		began, count := time.Now(), len(records)
		for more := true; more; {
			part, next := records, f.Position()
			if n := meal.next(); len(part) > n {
				part = part[:n]
				next = g.after(topic, part)
			}
			changed := g.table.Changed()
			if !e.step(ctx, g, topic, part, next) {
				return nil
			}
			meal.ate(len(part), g.table.Changed()-changed)
			records = records[len(part):]
			more = len(records) > 0
		}
		e.metrics.applied.WithLabelValues(g.projection.Name()).Add(float64(count))
		e.metrics.took.WithLabelValues(g.projection.Name()).Observe(time.Since(began).Seconds())
		if f.CaughtUp() {
			g.caughtUp(topic)
		}
		// Every commit syncs the disk, which the log needs more. A pause after it lets the next batch grow; whoever
		// waits for a position waits that much longer, feeds of events don't.
		took := time.Since(began)
		if err := pause(ctx, min(4*took, maxPause)); err != nil {
			return nil
		}
		for rested := maxPause; e.cfg.Yield != nil && rested < min(10*took, maxYield) && e.cfg.Yield(); rested += maxPause {
			if err := pause(ctx, maxPause); err != nil {
				return nil
			}
		}
	}
}

// step applies a batch of topic that ends at next. When a record can't be applied, what comes before it is kept, and the
// generation halts until an operator has it go on. It reports false when ctx ended first.
func (e *Engine) step(ctx context.Context, g *generation, topic string, records []*eventstore.Record, next eventstore.Position) bool {
	for {
		err := g.commit(topic, records, next)
		if err == nil {
			return true
		}
		var bad *failure
		if errors.As(err, &bad) && bad.index > 0 {
			// The same records went well just now.
			if again := g.commit(topic, records[:bad.index], g.after(topic, records[:bad.index])); again != nil {
				bad, err = nil, again
			}
		}
		if bad != nil {
			records = records[bad.index:]
		}
		resumed := g.halt(e.cfg.Logger, topic, bad, err)
		if errors.Is(err, eventstore.ErrDamaged) {
			e.damaged(ctx, g)
		}
		select {
		case <-resumed:
		case <-ctx.Done():
			return false
		}
	}
}

// damaged has a generation whose file was found damaged replaced: at once by one that is built beside it, and in any
// case at the next start.
func (e *Engine) damaged(ctx context.Context, g *generation) {
	v, ok := e.View(g.projection.Name())
	if !ok {
		return
	}
	if err := v.folder.markDamaged(g.table.Meta.Generation); err != nil {
		e.cfg.Logger.Error("a damaged file can't be marked", "projection", v.Name(), "error", err)
	}
	if v.now() != g {
		return
	}
	if err := e.Rebuild(ctx, []string{v.Name()}, 0); err != nil {
		e.cfg.Logger.Error("a damaged projection is built anew at the next start", "projection", v.Name(), "error", err)
	}
}

const (
	maxPause = 20 * time.Millisecond
	maxYield = 5 * time.Second
)

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// gather takes what is there, and not much more than most.
func gather(ctx context.Context, f *eventstore.Follower, most int) ([]*eventstore.Record, error) {
	b, err := f.Next(ctx)
	if err != nil {
		return nil, err
	}
	records, size := b.Records, b.Bytes()
	for !f.CaughtUp() && len(records) < most && size < foldBytes && ctx.Err() == nil {
		if b, err = f.Next(ctx); err != nil {
			return nil, err
		}
		records = append(records[:len(records):len(records)], b.Records...)
		size += b.Bytes()
	}
	return records, nil
}

// stopped sorts the ends of following: ctx is over, the log can't serve this generation's position (it halts), or the
// log as a whole failed.
func (e *Engine) stopped(ctx context.Context, g *generation, topic string, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	if domain.ClassOf(err) == domain.Conflict || errors.Is(err, eventstore.ErrDamaged) {
		resumed := g.halt(e.cfg.Logger, topic, nil, fmt.Errorf("follow %s: %w", topic, err))
		if errors.Is(err, eventstore.ErrDamaged) {
			e.damaged(ctx, g)
		}
		select {
		case <-resumed:
			return errResumed
		case <-ctx.Done():
			return nil
		}
	}
	return fmt.Errorf("projection %s: %w", g.projection.Name(), err)
}
