package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"golang.org/x/sync/errgroup"
)

// rebuild measures how fast read models are built from the log, beside a bare consumer that counts; what ten of them cost
// together; what a rebuild costs those who read meanwhile; and how long a node with a large view takes to come back.
func (b *bench) rebuild(ctx context.Context) error {
	for _, k := range brokers() {
		if err := b.rebuildOn(ctx, k); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	return nil
}

func (b *bench) rebuildOn(ctx context.Context, k broker) (err error) {
	defer func() { err = errors.Join(err, k.drop(b.id)) }()
	events := or(b.events, 2_000_000)
	fmt.Fprintf(b.out, "\nrebuild from %d events of %d customers; %s\n", events, events/100, k.name)
	log := b.id + "-few"
	dir, err := b.fillBilling(ctx, k, log, events, events/100)
	if err != nil {
		return err
	}
	if err := b.builds(ctx, k, dir, log, events); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "\na node with a view of %d rows; %s\n", events/2, k.name)
	log = b.id + "-many"
	if dir, err = b.fillBilling(ctx, k, log, events/2, events/2); err != nil {
		return err
	}
	return b.largeView(ctx, k, dir, log, events/2)
}

// fillBilling writes what billing would: captured charges of customers in turn. With the embedded broker they stand in
// the returned folder, as a node would leave them.
func (b *bench) fillBilling(ctx context.Context, k broker, prefix string, events, customers int) (dir string, err error) {
	if dir, err = os.MkdirTemp(b.dir, "rebuild-"); err != nil {
		return "", err
	}
	addrs, closer, err := k.open(dir)
	if err != nil {
		return "", err
	}
	defer closer()
	l, err := eventstore.Open(ctx, eventstore.Config{Brokers: addrs, Prefix: prefix, Replication: int16(k.replication), Logger: logger()})
	if err != nil {
		return "", err
	}
	defer l.Close()
	of := make([][]int, l.Partitions())
	stream := func(c int) domain.Stream { return domain.Stream("billing/cus_" + strconv.Itoa(c)) }
	for c := range customers {
		p := l.PartitionOf(stream(c))
		of[p] = append(of[p], c)
	}
	each := events / customers
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for p := range l.Partitions() {
		g.Go(func() error {
			w, err := l.OpenWriter(ctx, p)
			if err != nil {
				return err
			}
			defer w.Close()
			var c eventstore.Commit
			flush := func(most int) error {
				if len(c.Events) < most {
					return nil
				}
				err := w.Commit(c)
				c.Events = c.Events[:0]
				return err
			}
			for round := range each {
				for _, n := range of[p] {
					amount := 100 + (n+round)%900
					c.Events = append(c.Events, domain.Event{
						ID: fmt.Sprintf("%d-%d", n, round), Type: "billing.charge.captured", Source: "/sources/stripe", Stream: stream(n), Version: uint64(round + 1),
						Time: time.Unix(int64(1.7e9)+int64(round), 0), ContentType: "application/json", Delivery: fmt.Sprintf("evt_%d_%d", n, round),
						Data: fmt.Appendf(nil, `{"charge":"ch_%d_%d","customer":"cus_%d","amount":%d,"captured":%d,"currency":"eur"}`, n, round, n, amount, amount),
					})
					if err := flush(2000); err != nil {
						return err
					}
				}
			}
			return flush(1)
		})
	}
	return dir, g.Wait()
}

// open gives the brokers: the cluster's, or those of the embedded one in a node's folder.
func (k broker) open(dir string) (addrs []string, closer func(), err error) {
	if len(k.addrs) > 0 {
		return k.addrs, func() {}, nil
	}
	e, err := eventstore.StartEmbedded("127.0.0.1:0", filepath.Join(dir, "data", "kafka"), logger())
	if err != nil {
		return nil, nil, err
	}
	return []string{e.Addr}, e.Close, nil
}

// builds has children build from the same log, in turns.
func (b *bench) builds(ctx context.Context, k broker, dir, log string, events int) error {
	addrs, closer, err := k.open(dir)
	if err != nil {
		return err
	}
	defer closer()
	names := []string{"bare-fold", "balances", "declared", "ten-declared"}
	took, cpu, memory := map[string][]float64{}, map[string][]float64{}, map[string]int64{}
	for range or(b.rounds, 3) {
		for _, name := range names {
			f, most, err := b.folding(ctx, name, addrs, log, events)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if f.Rows != int64(events/100) {
				return fmt.Errorf("%s: %d rows, not %d", name, f.Rows, events/100)
			}
			took[name] = append(took[name], f.Took.Seconds())
			cpu[name] = append(cpu[name], f.cpu.Seconds()/float64(events))
			memory[name] = max(memory[name], most)
		}
	}
	t := newTable(b.out, "what is built", "events/s", "of the bare loop", "over the rounds", "CPU each", "resident at most")
	for _, name := range names {
		var ratios []float64
		for i, s := range took[name] {
			ratios = append(ratios, took["bare-fold"][i]/s)
		}
		t.row(name, fmt.Sprintf("%.0f", float64(events)/median(took[name])), times(median(ratios)), extent(ratios), micros(median(cpu[name])), fmt.Sprintf("%d MiB", memory[name]>>20))
	}
	t.end()
	f, _, err := b.folding(ctx, "sources", addrs, log, events)
	if err != nil {
		return fmt.Errorf("sources: %w", err)
	}
	fmt.Fprintf(b.out, "  balances beside streams: %.0f/s from the log, %.0f/s from the table of streams\n",
		float64(events)/f.Took.Seconds(), float64(events)/f.Copy.Seconds())
	fmt.Fprintf(b.out, "  ten declared projections take %.2f× the time of one\n", median(took["ten-declared"])/median(took["declared"]))
	return nil
}

// folding runs a child to its end, and looks at its memory meanwhile.
func (b *bench) folding(ctx context.Context, name string, addrs []string, log string, events int) (f folded, most int64, err error) {
	self, err := os.Executable()
	if err != nil {
		return f, 0, err
	}
	dir, err := os.MkdirTemp(b.dir, name+"-")
	if err != nil {
		return f, 0, err
	}
	defer os.RemoveAll(dir)
	list := ""
	for i, a := range addrs {
		list += map[bool]string{true: ","}[i > 0] + a
	}
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, self, name, "-dir", dir, "-brokers", list, "-topic", log, "-events", strconv.Itoa(events))
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return f, 0, err
	}
	p, ended := &process{name: name, cmd: cmd, journal: &journal{}}, make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			if err != nil {
				return f, 0, fmt.Errorf("%w\n%s", err, said.Bytes())
			}
			f.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			return f, most, json.Unmarshal(out.Bytes(), &f)
		case <-time.After(50 * time.Millisecond):
			if n, err := p.memory(); err == nil { // or it is just ending
				most = max(most, n)
			}
		}
	}
}

// largeView measures readers of a node with many rows, without and with a rebuild, and its return after a kill -9.
func (b *bench) largeView(ctx context.Context, k broker, dir, log string, rows int) error {
	p, err := b.startNodeOn(ctx, k, dir, log)
	if err != nil {
		return err
	}
	defer func() { p.stop() }()
	if err := p.until(ctx, 10*time.Minute, func(v view) bool { return v.State == "live" && v.Lag == 0 && v.Rows == int64(rows) }); err != nil {
		return err
	}
	if err := p.quiet(ctx); err != nil {
		return err
	}
	t := newTable(b.out, "readers, 200/s", "alone", "p50", "p99", "in a rebuild", "p50", "p99", "p99 over alone")
	var over []float64
	most := int64(0)
	for round := range or(b.rounds, 3) {
		alone, err := p.readers(ctx, rows, or(b.window, 10*time.Second), func() bool { return false })
		if err != nil {
			return err
		}
		if err := p.post(ctx, "/v1/projections/balances/rebuild"); err != nil {
			return err
		}
		beside, err := p.readers(ctx, rows, 10*time.Minute, func() bool {
			if n, err := p.memory(); err == nil {
				most = max(most, n)
			}
			var v view
			return p.get(ctx, "/v1/projections/balances", &v) == nil && v.Build == nil
		})
		if err := errors.Join(err, p.quiet(ctx)); err != nil {
			return err
		}
		over = append(over, float64(percentile(beside, 0.99))/float64(percentile(alone, 0.99)))
		t.row(fmt.Sprintf("round %d", round+1), fmt.Sprint(len(alone)), ms(percentile(alone, 0.5)), ms(percentile(alone, 0.99)),
			fmt.Sprint(len(beside)), ms(percentile(beside, 0.5)), ms(percentile(beside, 0.99)), times(over[round]))
	}
	t.end()
	fmt.Fprintf(b.out, "  readers' p99 in a rebuild: %.2f × (%s)\n", median(over), extent(over))
	fmt.Fprintf(b.out, "  resident in it at most %d MiB, with %s\n", most>>20, k.name)

	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	<-p.done
	began := time.Now()
	if p, err = b.startNodeOn(ctx, k, dir, log); err != nil {
		return err
	}
	ready := time.Since(began)
	var v view
	if err := p.get(ctx, "/v1/projections/balances", &v); err != nil {
		return err
	}
	if v.State != "live" || v.Rows != int64(rows) || v.Build != nil {
		return fmt.Errorf("after a kill -9: %+v", v)
	}
	fmt.Fprintf(b.out, "  after a kill -9 the node is ready in %s, with its %d rows\n", ready.Round(time.Millisecond), v.Rows)
	return nil
}

// view is what is read of a projection's status.
type view struct {
	State string
	Rows  int64
	Lag   int64
	Build *struct{ Done, Total int64 }
}

// until waits for a state of balances.
func (p *process) until(ctx context.Context, patience time.Duration, state func(view) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		var v view
		if err := p.get(ctx, "/v1/projections/balances", &v); err != nil {
			return err
		}
		if state(v) {
			return nil
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("balances is %+v: %w", v, err)
		}
	}
}
