package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
	"github.com/penstock-io/penstock/projections/balances"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
)

// folded is what a child that folds says of itself.
type folded struct {
	Took time.Duration
	Copy time.Duration // sources: the same from the table of streams
	Rows int64
	cpu  time.Duration // of the whole child, as its parent sees it
}

func (f folded) print() error { return json.NewEncoder(os.Stdout).Encode(f) }

// bareFold is the least that could keep a read model: a consumer of committed records that counts them by key in a
// bbolt file, in large transactions that wait for the disk once, at the end.
func bareFold(ctx context.Context, r role) error {
	topic := r.topic + ".events"
	began := time.Now()
	from := map[int32]kgo.Offset{}
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.brokers...), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return err
	}
	defer cl.Close()
	topics, err := kadm.NewClient(cl).ListTopics(ctx, topic)
	if err != nil {
		return err
	}
	for p := range topics[topic].Partitions {
		from[p] = kgo.NewOffset().AtStart()
	}
	cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: from})
	db, err := bolt.Open(filepath.Join(r.dir, "bare.db"), 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true, FreelistType: bolt.FreelistMapType, InitialMmapSize: 64 << 20})
	if err != nil {
		return err
	}
	defer db.Close()
	rows := int64(0)
	for left := r.events; left > 0; {
		fetches := cl.PollRecords(ctx, scanLike)
		if err := fetches.Err(); err != nil {
			return err
		}
		err := db.Update(func(tx *bolt.Tx) error {
			counts, err := tx.CreateBucketIfNotExists([]byte("counts"))
			if err != nil {
				return err
			}
			offsets, err := tx.CreateBucketIfNotExists([]byte("offsets"))
			if err != nil {
				return err
			}
			for _, record := range fetches.Records() {
				n := uint64(0)
				if b := counts.Get(record.Key); b != nil {
					n = binary.BigEndian.Uint64(b)
				} else {
					rows++
				}
				if err := counts.Put(record.Key, binary.BigEndian.AppendUint64(nil, n+1)); err != nil {
					return err
				}
				left--
			}
			return offsets.Put([]byte("left"), binary.BigEndian.AppendUint64(nil, uint64(left)))
		})
		if err != nil {
			return err
		}
	}
	if err := db.Sync(); err != nil {
		return err
	}
	return folded{Took: time.Since(began), Rows: rows}.print()
}

// scanLike is how many records the bare loop takes at once, as a rebuild does.
const scanLike = 50_000

func foldBalances(ctx context.Context, r role) error { return fold(ctx, r, balances.New()) }

func foldDeclared(ctx context.Context, r role) error {
	ps, err := declared(1)
	if err != nil {
		return err
	}
	return fold(ctx, r, ps...)
}

func foldTenDeclared(ctx context.Context, r role) error {
	ps, err := declared(10)
	if err != nil {
		return err
	}
	return fold(ctx, r, ps...)
}

// declared are projections as an operator writes them: a row for each customer, with sums and a count.
func declared(n int) (ps []projections.Projection, err error) {
	for i := range n {
		p, problems := projections.Declare(projections.Declaration{
			Name: fmt.Sprint("declared-", i), Types: []string{"billing.*"}, Key: "data.customer",
			Set: map[string]string{"customer": "data.customer"}, Count: []string{"charges"},
			Sum: map[string]string{"captured": "data.amount"}, Max: map[string]string{"largest": "data.amount"},
			Sample: json.RawMessage(`{"customer":"cus_1","charge":"ch_1","amount":100,"captured":100,"currency":"eur"}`),
		})
		for _, problem := range problems {
			err = errors.Join(err, problem)
		}
		ps = append(ps, p)
	}
	return ps, err
}

// fold builds projections from the beginning of the log in an engine of a node, until they serve and have everything.
func fold(ctx context.Context, r role, ps ...projections.Projection) error {
	var out folded
	began := time.Now()
	err := engine(ctx, r, projections.Config{Projections: ps}, func(ctx context.Context, e *projections.Engine) (err error) {
		out.Rows, err = settled(ctx, e, 1)
		out.Took = time.Since(began)
		return err
	})
	if err != nil {
		return err
	}
	return out.print()
}

// foldSources rebuilds balances beside streams: from the log, and from the table of streams.
func foldSources(ctx context.Context, r role) error {
	var out folded
	cfg := projections.Config{Projections: []projections.Projection{eventstore.StreamsFold{}, balances.New()}}
	again := func(generation int, took *time.Duration) func(context.Context, *projections.Engine) error {
		return func(ctx context.Context, e *projections.Engine) (err error) {
			if _, err = settled(ctx, e, 1); err != nil {
				return err
			}
			began := time.Now()
			if err = e.Rebuild(ctx, []string{"balances"}, 0); err != nil {
				return err
			}
			out.Rows, err = settled(ctx, e, generation)
			*took = time.Since(began)
			return err
		}
	}
	if err := engine(ctx, r, cfg, again(2, &out.Took)); err != nil {
		return err
	}
	cfg.Replica = true
	if err := engine(ctx, r, cfg, again(3, &out.Copy)); err != nil {
		return err
	}
	return out.print()
}

// engine runs an engine until do has returned.
func engine(ctx context.Context, r role, cfg projections.Config, do func(context.Context, *projections.Engine) error) error {
	l, err := eventstore.Open(ctx, eventstore.Config{Brokers: r.brokers, Prefix: r.topic})
	if err != nil {
		return err
	}
	defer l.Close()
	cfg.Log, cfg.Dir, cfg.Logger = l, r.dir, logger()
	e, err := projections.New(cfg)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	g, running := errgroup.WithContext(running)
	g.Go(func() error { return l.Run(running) })
	g.Go(func() error { return e.Run(running) })
	g.Go(func() error { defer stop(); return do(running, e) })
	return errors.Join(g.Wait(), e.Close())
}

// settled waits until all views serve everything, balances and the declared ones in the given generation or a later one,
// and returns the rows of one of them.
func settled(ctx context.Context, e *projections.Engine, generation int) (rows int64, err error) {
	for _, v := range e.Views() {
		for {
			s := v.Status()
			if s.Halted != nil {
				return 0, fmt.Errorf("%s halted: %s", s.Name, s.Error)
			}
			if s.State == "live" && s.Lag == 0 && s.Build == nil && (s.Generation >= generation || s.Name == "streams") {
				if s.Name != "streams" {
					rows = s.Rows
				}
				break
			}
			if err := sleep(ctx, 5*time.Millisecond); err != nil {
				return 0, err
			}
		}
	}
	return rows, nil
}
