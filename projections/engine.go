package projections

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
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
}

// Engine keeps every projection's table equal to the fold of the log.
type Engine struct {
	cfg     Config
	views   []*View // by name
	applied *prometheus.CounterVec
}

var nameRule = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// New opens the tables. A projection whose version changed, or that is new, gets the next generation, built from the
// beginning of the log beside the files of the old ones. The caller runs Run and, at the end, calls Close.
func New(cfg Config) (*Engine, error) {
	e := &Engine{cfg: cfg, applied: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "penstock_projection_records_total",
		Help: "Records applied, by projection."}, []string{"projection"})}
	for _, p := range cfg.Projections {
		if !nameRule.MatchString(p.Name()) {
			e.Close()
			return nil, fmt.Errorf("projection %q: a name has lower-case letters, digits and '-'", p.Name())
		}
		if _, twice := e.View(p.Name()); twice {
			e.Close()
			return nil, fmt.Errorf("two projections are called %q", p.Name())
		}
		v, err := e.open(p)
		if err != nil {
			e.Close()
			return nil, fmt.Errorf("projection %s: %w", p.Name(), err)
		}
		e.views = append(e.views, v)
		sort.Slice(e.views, func(i, j int) bool { return e.views[i].Name() < e.views[j].Name() })
	}
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(e.applied)
	}
	return e, nil
}

func (e *Engine) open(p Projection) (*View, error) {
	dir := filepath.Join(e.cfg.Dir, p.Name())
	generation, err := newest(dir)
	if err != nil {
		return nil, err
	}
	meta := eventstore.TableMeta{Name: p.Name(), Version: p.Version(), Generation: max(generation, 1), Cluster: e.cfg.Log.Cluster()}
	if generation > 0 {
		have, err := eventstore.ReadMeta(file(dir, generation))
		if err != nil {
			return nil, err
		}
		if have.Version != 0 && have.Version != p.Version() {
			meta.Generation++
			e.cfg.Logger.Info("projection changed: building a new generation", "projection", p.Name(), "from", have.Version, "to", p.Version(), "generation", meta.Generation)
		}
	}
	table, err := eventstore.OpenTable(file(dir, meta.Generation), meta)
	if err != nil {
		return nil, err
	}
	v, err := newView(e.cfg.Log, p, table)
	if err != nil {
		table.Close()
		return nil, err
	}
	return v, nil
}

func file(dir string, generation int) string {
	return filepath.Join(dir, fmt.Sprintf("%06d.db", generation))
}

// newest returns the highest generation in dir, 0 for none.
func newest(dir string) (int, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	top := 0
	for _, f := range entries {
		if n, err := strconv.Atoi(strings.TrimSuffix(f.Name(), ".db")); err == nil {
			top = max(top, n)
		}
	}
	return top, err
}

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
		errs = append(errs, v.table.Close())
	}
	return errors.Join(errs...)
}

// Run folds until ctx ends. A projection that fails halts, visibly and alone; Run returns an error only when the log
// itself can't be followed.
func (e *Engine) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, v := range e.views {
		for _, topic := range v.topics {
			g.Go(func() error { return e.fold(ctx, v, topic) })
		}
	}
	err := g.Wait()
	for _, v := range e.views {
		v.tail.Fail(errors.Join(eventstore.ErrClosed, err))
	}
	return err
}

// Bounds of one transaction of a table, in records and in bytes of bodies. Batches grow with lag up to them.
const (
	foldRecords = 20_000
	foldBytes   = 32 << 20
)

// fold applies one topic to one view, batch after batch.
func (e *Engine) fold(ctx context.Context, v *View, topic string) error {
	from, ok := v.table.Position(topic)
	if !ok {
		start, err := e.cfg.Log.Start(ctx, topic)
		if err != nil {
			return e.stopped(ctx, v, topic, err)
		}
		from = start
		if topic == e.cfg.Log.Topics.Events {
			for p, n := range start.Next {
				if n > 0 {
					return v.halt(e.cfg.Logger, fmt.Errorf("the events of partition %d begin at offset %d: history before it is lost", p, n))
				}
			}
		}
		// An empty log has nothing to apply, and is applied wholly all the same.
		if _, err := v.table.Update(topic, from, func(*eventstore.Tx) error { return nil }); err != nil {
			return v.halt(e.cfg.Logger, err)
		}
	}
	f, err := e.cfg.Log.Follow(ctx, topic, from)
	if err != nil {
		return e.stopped(ctx, v, topic, err)
	}
	if f.CaughtUp() {
		v.caughtUp(topic)
	}
	for {
		records, err := gather(ctx, f)
		if err != nil {
			return e.stopped(ctx, v, topic, err)
		}
		if have, ok := v.table.Position(topic); ok && have.Covers(f.Position()) {
			if topic == v.topic() {
				v.tail.Tick()
			}
			if f.CaughtUp() {
				v.caughtUp(topic)
			}
			continue
		}
		began := time.Now()
		changes, err := v.table.Update(topic, f.Position(), func(tx *eventstore.Tx) error { return v.apply(tx, records) })
		if err != nil {
			return v.halt(e.cfg.Logger, err)
		}
		e.applied.WithLabelValues(v.Name()).Add(float64(len(records)))
		if topic == v.topic() {
			v.publish(changes, f.Position())
		}
		if f.CaughtUp() {
			v.caughtUp(topic)
		}
		// Every commit syncs the disk, which the log needs more. A pause after it lets the next batch grow; whoever
		// waits for a position waits that much longer, feeds of events don't.
		if err := pause(ctx, min(4*time.Since(began), maxPause)); err != nil {
			return nil
		}
	}
}

const maxPause = 20 * time.Millisecond

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

// gather takes what is there, and no more than a transaction should hold.
func gather(ctx context.Context, f *eventstore.Follower) ([]*eventstore.Record, error) {
	b, err := f.Next(ctx)
	if err != nil {
		return nil, err
	}
	records, size := b.Records, b.Bytes()
	for !f.CaughtUp() && len(records) < foldRecords && size < foldBytes && ctx.Err() == nil {
		if b, err = f.Next(ctx); err != nil {
			return nil, err
		}
		records = append(records[:len(records):len(records)], b.Records...)
		size += b.Bytes()
	}
	return records, nil
}

// stopped sorts the ends of following: ctx is over, the log can't serve this view's position (the view halts), or the
// log as a whole failed.
func (e *Engine) stopped(ctx context.Context, v *View, topic string, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	if domain.ClassOf(err) == domain.Conflict {
		return v.halt(e.cfg.Logger, fmt.Errorf("follow %s: %w", topic, err))
	}
	return fmt.Errorf("projection %s: %w", v.Name(), err)
}
