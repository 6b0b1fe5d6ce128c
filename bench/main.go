// Command bench compares a node with the least that could do the same work: both in one run, on one machine, against
// the same kind of broker, in turns. It prints ratios, because they travel between machines better than rates do.
//
//	go run ./bench ingress     verified deliveries per second
//	go run ./bench latency     from a delivery to whoever waits for the event
//	go run ./bench fanout      one event to a thousand connections, SSE and WebSocket
//	go run ./bench idle        ten thousand connections that get heartbeats
//	go run ./bench storm       ten thousand clients that come back at once
//	go run ./bench stalled     what one client that doesn't read costs the others
//	go run ./bench backlog     deliveries that wait in the inbox, worked off
//	go run ./bench catchup     a subscriber that has missed a million events
//	go run ./bench commands    commands with an expected version
//	go run ./bench timing      refusals of signatures that are wrong early or late
//	go run ./bench forged      a flood of deliveries with a wrong signature
//	go run ./bench rebuild     read models built anew from the log
//	go run ./bench all         one after the other
//
// The README beside it says how each figure is made. Linux only: CPU time and memory are read from /proc.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// comparisons are what a user can ask for.
var comparisons = []struct {
	name string
	run  func(*bench, context.Context) error
}{
	{"ingress", (*bench).ingress},
	{"latency", (*bench).latency},
	{"fanout", (*bench).fanout},
	{"idle", (*bench).idle},
	{"storm", (*bench).storm},
	{"stalled", (*bench).stalled},
	{"backlog", (*bench).backlog},
	{"catchup", (*bench).catchup},
	{"commands", (*bench).commands},
	{"timing", (*bench).timing},
	{"forged", (*bench).forged},
	{"rebuild", (*bench).rebuild},
	{"query", (*bench).query},
}

// roles are what this program does as a child of itself: a baseline in a process of its own can be measured from
// outside exactly as the node is.
var roles = []struct {
	name string
	run  func(context.Context, role) error
}{
	{"bare-ingress", bareIngress},
	{"lone-ingress", loneIngress},
	{"bare-fanout", bareFanout},
	{"bare-fold", bareFold},
	{"balances", foldBalances},
	{"declared", foldDeclared},
	{"ten-declared", foldTenDeclared},
	{"sources", foldSources},
	{"readers", readRows},
}

// settings are the flags. Zero means the default of each comparison.
type settings struct {
	rounds      int
	window      time.Duration
	body        int
	rate        int
	connections int
	listeners   int
	events      int
	dir         string
	node        string
	limit       time.Duration
}

// bench is one run of the program.
type bench struct {
	settings
	out io.Writer
	id  string // unique, so that runs on one cluster don't meet
}

func main() {
	// Children are killed when the thread that started them ends (process.go). This one lasts.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	for _, r := range roles {
		if r.name == name {
			return play(ctx, r.run, args[1:])
		}
	}
	var s settings
	fs := flag.NewFlagSet("bench ingress|latency|fanout|all", flag.ContinueOnError)
	fs.IntVar(&s.rounds, "rounds", 0, "rounds of each contestant (ingress and stalled 5, fanout 3, storm 1)")
	fs.DurationVar(&s.window, "for", 0, "how long each measurement lasts (ingress 4s, latency and fanout 10s, idle 30s, stalled 8s)")
	fs.IntVar(&s.body, "body", 0, "bytes of a delivery (ingress and latency 2048, fanout 512)")
	fs.IntVar(&s.rate, "rate", 0, "deliveries a second (latency 200, fanout 50 and with many listeners less, stalled 20, storm 5)")
	fs.IntVar(&s.connections, "connections", 64, "ingress: connections that send, each waiting for its answer")
	fs.IntVar(&s.listeners, "listeners", 0, "connections that follow (fanout and stalled 1000, idle and storm 10000)")
	fs.IntVar(&s.events, "events", 0, "rebuild: events in the log (2000000); query: rows of the large table (1000000)")
	fs.StringVar(&s.dir, "dir", "", "where temporary folders go; its file system decides what fsync costs (default $TMPDIR or /tmp)")
	fs.StringVar(&s.node, "node", "", "a built cmd/penstock to measure (default: build it)")
	fs.DurationVar(&s.limit, "limit", 30*time.Minute, "give up after")
	var wanted []func(*bench, context.Context) error
	for _, c := range comparisons {
		if name == c.name || name == "all" {
			wanted = append(wanted, c.run)
		}
	}
	if len(wanted) == 0 {
		fs.Usage()
		return flag.ErrHelp
	}
	if err := fs.Parse(args[1:]); err != nil {
		return flag.ErrHelp // the flag set has said why
	}
	if err := s.check(fs.Args()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	dir, err := os.MkdirTemp(s.dir, "penstock-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{settings: s, out: out, id: "bench-" + strings.ToLower(rand.Text()[:8])}
	b.dir = dir
	if b.node == "" {
		if b.node, err = buildNode(ctx, dir); err != nil {
			return err
		}
	}
	fmt.Fprintln(out, machine(dir))
	for _, compare := range wanted {
		if err := compare(b, ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s settings) check(rest []string) error {
	var errs []error
	within := func(name string, v, low, high int) {
		if v < low || v > high {
			errs = append(errs, fmt.Errorf("-%s: between %d and %d, not %d", name, low, high, v))
		}
	}
	if len(rest) > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q", rest[0]))
	}
	if s.window != 0 && (s.window < time.Second || s.window > 10*time.Minute) {
		errs = append(errs, fmt.Errorf("-for: between 1s and 10m, not %s", s.window))
	}
	if s.limit <= 0 {
		errs = append(errs, errors.New("-limit: more than nothing"))
	}
	within("rounds", or(s.rounds, 1), 1, 100)
	within("body", or(s.body, 256), 256, 1<<20)
	within("rate", or(s.rate, 1), 1, 10_000)
	within("connections", s.connections, 1, 1024)
	within("listeners", or(s.listeners, 1), 1, 10_000)
	within("events", or(s.events, 10_000), 10_000, 1_000_000_000)
	return errors.Join(errs...)
}

// or returns v, or the comparison's default where the user gave none.
func or[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// buildNode builds cmd/penstock as users do.
func buildNode(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "penstock")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/penstock-io/penstock/cmd/penstock")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build cmd/penstock: %w\n%s", err, out)
	}
	return path, nil
}

// sleep waits for d, or less when ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
