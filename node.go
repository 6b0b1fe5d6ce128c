package penstock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/penstock-io/penstock/commands"
	"github.com/penstock-io/penstock/egress"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/ingress"
	"github.com/penstock-io/penstock/projections"
	"github.com/penstock-io/penstock/replays"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Node is one running process.
//
//	            ┌───────── HTTP ──────────┐
//	/hooks ──► ingress      api       feeds ◄── /v1/events, …/changes
//	              │        │   │        │
//	              ▼        ▼   └─────┐  │
//	            inbox   outcomes     │  │          each arrow down is an append,
//	              │        ▲         ▼  │          each arrow up a follower of a tail
//	              ▼        │       projections
//	           writers ────┴──► events ──┴──► tables (bbolt)
//	              └──── read "streams", which is one of them
type Node struct {
	cfg     Config
	app     App
	logger  *slog.Logger
	started chan struct{}
	metrics *prometheus.Registry

	url      string
	brokers  []string
	draining atomic.Bool

	log      *eventstore.Log
	engine   *projections.Engine
	history  *eventstore.History
	snaps    *eventstore.Snapshots
	writers  *commands.Writers
	outcomes *commands.Outcomes
	pressure *commands.Pressure
	replays  *replays.Replays
	spool    *ingress.Spool
	hooks    *ingress.Handler
	auth     atomic.Pointer[[][32]byte] // hashes of the bearer tokens; replaced by Reload
	feeds    *egress.Feeds
	since    time.Time

	unanswered time.Duration // see bounded

	reloading sync.Mutex
	reloads   *prometheus.CounterVec
	conns     *connections
	load      func() (Config, error) // reads the configuration file again; nil without one
}

// NewNode checks the configuration and the business, and starts nothing.
func NewNode(cfg Config, app App, logger *slog.Logger) (*Node, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	// The same checks as at the start, before anything is opened.
	if _, err := commands.New(commands.Config{Types: app.Types, Deciders: app.Deciders, Policies: app.Policies}); err != nil {
		return nil, err
	}
	if err := cfg.besides(app); err != nil {
		return nil, err
	}
	return &Node{
		cfg: cfg, app: app, logger: logger, started: make(chan struct{}), metrics: prometheus.NewRegistry(), reloads: newReloads(),
		conns:      newConnections(cfg.MaxConnections),
		unanswered: unanswered,
	}, nil
}

// Started is closed once the node answers requests. URL and Brokers are known then.
func (n *Node) Started() <-chan struct{} { return n.started }

// URL is the node's base URL, for example "http://127.0.0.1:8080".
func (n *Node) URL() string { return n.url }

// Brokers are the Kafka brokers in use: the configured ones, or the embedded one.
func (n *Node) Brokers() []string { return n.brokers }

// Run opens everything, serves until ctx ends, drains, and closes everything. It returns nil after a drain, and an
// error when it can't start or can't go on.
func (n *Node) Run(ctx context.Context) (err error) {
	n.since = time.Now().UTC()
	unlock, err := lock(n.cfg.Data)
	if err != nil {
		return err
	}
	defer unlock()
	listener, err := (&net.ListenConfig{Control: bounded(n.unanswered)}).Listen(ctx, "tcp", n.cfg.Listen)
	if err != nil {
		return &startError{flag: "--listen", err: fmt.Errorf("HTTP can't listen on %s: %w", n.cfg.Listen, cause(err))}
	}
	defer listener.Close() // again by the server; harmless
	n.url = n.cfg.scheme() + listener.Addr().String()

	if n.brokers = n.cfg.Kafka.Brokers; len(n.brokers) == 0 {
		broker, err := eventstore.StartEmbedded(n.cfg.Kafka.Embedded, filepath.Join(n.cfg.Data, "kafka"), n.logger)
		if err != nil {
			return &startError{flag: "--kafka-listen", err: fmt.Errorf("the embedded broker can't start on %s: %w", n.cfg.Kafka.Embedded, cause(err))}
		}
		defer broker.Close()
		n.brokers = []string{broker.Addr}
	}
	opening, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	n.log, err = eventstore.Open(opening, eventstore.Config{
		Brokers: n.brokers, Prefix: n.cfg.Kafka.Prefix, Partitions: n.cfg.Kafka.Partitions, Replication: n.cfg.Kafka.Replication,
		TailBytes: n.cfg.Feeds.Memory, MemberFile: filepath.Join(n.cfg.Data, "member"), Logger: n.logger, Metrics: n.metrics,
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("open the log on %v: %w", n.brokers, err)
	}
	defer n.log.Close()
	n.engine, err = projections.New(projections.Config{
		Log: n.log, Dir: filepath.Join(n.cfg.Data, "projections"), Logger: n.logger, Metrics: n.metrics,
		Projections: n.cfg.projections(n.app), Replica: true,
		Yield: func() bool { return n.writers.Pressed() || n.rush() }, // set before the engine runs
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.engine.Close()) }()
	if n.snaps, err = eventstore.OpenSnapshots(n.log, filepath.Join(n.cfg.Data, "snapshots.db")); err != nil {
		return err
	}
	defer n.snaps.Close()
	if err := n.compose(); err != nil {
		return err
	}
	defer n.spool.Close()
	server, err := n.server()
	if err != nil {
		return err
	}
	return runStages(ctx, n.logger, []stage{
		// Together less than the ten seconds that a stop may take.
		{"log", n.log.Run, time.Second},
		{"projections", n.engine.Run, time.Second},
		{"outcomes", n.outcomes.Run, 300 * time.Millisecond},
		{"pressure", n.pressure.Run, 300 * time.Millisecond},
		{"spool", n.spool.Run, 400 * time.Millisecond},
		{"writers", n.writers.Run, 3 * time.Second},
		{"replays", n.replays.Run, 400 * time.Millisecond},
		{"addresses", n.hooks.Run, 100 * time.Millisecond},
		{"http", func(ctx context.Context) error { return n.serve(ctx, server, listener) }, 3500 * time.Millisecond},
	})
}

// projections are all read models of a node: the built-in ones, those of the business and the declared ones.
func (c Config) projections(app App) []projections.Projection {
	return append(c.ofProgram(app), c.declared()...)
}

func (c Config) ofProgram(app App) []projections.Projection {
	return append([]projections.Projection{eventstore.StreamsFold{}, c.Deliveries.projection(), projections.Parked{}}, app.Projections...)
}

// compose builds the engines over the open log and tables.
func (n *Node) compose() (err error) {
	n.metrics.MustRegister(n.reloads, n.conns, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	streams, _ := n.engine.View(eventstore.StreamsFold{}.Name())
	n.history = eventstore.NewHistory(n.log, streams.Table())
	n.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "penstock_order_violations",
		Help: "Events of other programs that broke their stream's order and were left out."}, func() float64 {
		_, count, err := n.history.Violations(0)
		if err != nil {
			return math.NaN()
		}
		return float64(count)
	}))
	n.pressure = commands.NewPressure(n.log, n.history, commands.DefaultLagLimit, n.metrics)
	n.spool, err = ingress.OpenSpool(ingress.SpoolConfig{
		Dir: filepath.Join(n.cfg.Data, "spool"), MaxBytes: n.cfg.Spool.MaxBytes, After: n.cfg.Spool.After, Append: n.pressure.Append, AppendAll: n.pressure.AppendAll,
		Partitions: n.log.Partitions(), PartitionOf: n.log.PartitionOf, Logger: n.logger, Registerer: n.metrics,
	})
	if err != nil {
		return fmt.Errorf("open the spool: %w", err)
	}
	n.outcomes = commands.NewOutcomes(n.log, n.pressure.Append)
	if err := n.composeReplays(); err != nil {
		return err
	}
	n.writers, err = commands.New(commands.Config{
		Log: n.log, History: n.history, Types: n.app.Types, Deciders: n.app.Deciders, Policies: n.app.Policies,
		Split:     func(e eventstore.Entry) ([]eventstore.Entry, error) { return n.hooks.Split(e) }, // there before the writers run
		Snapshots: n.snaps, Commits: commitsFor(n.cfg), Busy: n.rush, Logger: n.logger, Metrics: n.metrics,
	})
	if err != nil {
		return err
	}
	sources, err := n.cfg.ingressSources()
	if err != nil {
		return err
	}
	proxies, err := n.cfg.proxies()
	if err != nil {
		return fmt.Errorf("trusted_proxies: %w", err)
	}
	if n.hooks, err = ingress.New(ingress.Config{
		Sources: sources, Append: n.spool.Append, SecretsDir: filepath.Join(n.cfg.Data, "secrets"), Proxies: proxies, KeepRefused: n.cfg.KeepRefused, MaxInFlight: n.cfg.MaxInFlight, Logger: n.logger, Registerer: n.metrics,
	}); err != nil {
		return err
	}
	n.feeds, err = n.newFeeds()
	return err
}

// rush reports whether so many deliveries come in that taking them needs the machine more than handling them does, and
// nobody waits for the outcome of a command.
func (n *Node) rush() bool { return n.hooks.Rush() && n.outcomes.Waiting() == 0 }

// serve answers requests until ctx ends: then the feeds are told and end, and requests in hand are finished.
func (n *Node) serve(ctx context.Context, server *http.Server, listener net.Listener) error {
	failed := make(chan error, 1)
	go func() { failed <- n.accept(server, listener) }()
	close(n.started)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	n.draining.Store(true)
	patience, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := n.feeds.Drain(patience); err != nil {
		n.logger.Warn("feeds are cut", "error", err)
		n.feeds.Close()
	}
	if err := server.Shutdown(patience); err != nil {
		n.logger.Warn("requests are cut", "error", err)
		server.Close()
	}
	return nil
}

// notReady lists what keeps the node from serving everything.
func (n *Node) notReady() (reasons []string) {
	if n.draining.Load() {
		reasons = append(reasons, "the node stops")
	}
	for _, p := range n.log.Problems() {
		reasons = append(reasons, p.Text)
	}
	reasons = append(reasons, n.spool.Depth().Problems...)
	owned := n.writers.Owned()
	if !n.log.Joined() {
		reasons = append(reasons, "the partitions are being divided among the nodes")
	}
	if len(n.cfg.Kafka.Brokers) == 0 && len(owned) < int(n.log.Partitions()) {
		reasons = append(reasons, fmt.Sprintf("%d of %d partitions have a writer", len(owned), n.log.Partitions()))
	}
	for p, ready := range owned {
		if !ready {
			reasons = append(reasons, fmt.Sprintf("the writer of partition %d has not read to the end yet", p))
		}
	}
	for _, v := range n.engine.Views() {
		if s := v.Status(); s.State == "building" || s.State == "halted" && s.Name == "streams" {
			reasons = append(reasons, fmt.Sprintf("projection %s is %s %s", s.Name, s.State, s.Error))
		}
	}
	slices.Sort(reasons)
	return reasons
}

// lock takes the data folder for this process alone.
func lock(dir string) (unlock func(), err error) {
	fail := func(err error) (func(), error) {
		return nil, &startError{flag: "--data", err: fmt.Errorf("the data folder %s can't be used: %w", dir, cause(err))}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fail(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return fail(errors.New("another process works in it"))
	}
	return func() { f.Close() }, nil // closing releases the lock, and so does dying
}

// startError is a start that failed because of what a flag says.
type startError struct {
	flag string
	err  error
}

func (e *startError) Error() string { return fmt.Sprintf("%v (%s)", e.err, e.flag) }
func (e *startError) Unwrap() error { return e.err }

// cause strips the addresses and paths that the message already names.
func cause(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e
	}
	return err
}

// commitsFor bounds the transactions open at once: with fewer and larger ones both brokers and clients do less. The
// embedded broker works on one request at a time and syncs about ten files in a transaction; bench/README.md has the
// figures.
func commitsFor(c Config) int {
	if len(c.Kafka.Brokers) == 0 {
		return 2
	}
	return 4
}
