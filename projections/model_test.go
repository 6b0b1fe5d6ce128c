package projections_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/projections"
)

// ledger is the read model of the property test: a row for each stream that comes and goes, and rows that sum over
// streams of all partitions. Each row has the indexes "size" and "tags".
type ledger struct{}

func (ledger) Name() string { return "ledger" }
func (ledger) Version() int { return 1 }

func (ledger) Indexes() []projections.Index {
	return []projections.Index{
		{Name: "size", Keys: func(_ string, row []byte) ([][]byte, error) { return [][]byte{fmt.Append(nil, len(row))}, nil }},
		{Name: "tags", Keys: func(_ string, row []byte) ([][]byte, error) { return tagsOf(string(row)), nil }},
	}
}

func tagsOf(row string) (tags [][]byte) {
	for _, tag := range []string{"1", "3", "5", "-"} {
		if strings.Contains(row, tag) {
			tags = append(tags, []byte("has"+tag), []byte("has"+tag)) // named twice, to be found once
		}
	}
	return tags
}

// step is what an event of the test says: an amount to add, or a row to delete.
func (ledger) Apply(tx *eventstore.Tx, e domain.Event) error {
	add := func(key string, amount int, gone func(int) bool) error {
		n := 0
		if b := tx.Get(key); b != nil {
			var err error
			if n, err = strconv.Atoi(string(b)); err != nil {
				return err
			}
		}
		if n += amount; gone(n) {
			return tx.Delete(key)
		}
		return tx.Put(key, strconv.AppendInt(nil, int64(n), 10))
	}
	amount, err := strconv.Atoi(string(e.Data))
	if err != nil {
		return err
	}
	if err := add(string(e.Stream), amount, func(int) bool { return amount%5 == 0 }); err != nil {
		return err
	}
	return add("sum/"+e.Type, amount, func(n int) bool { return n == 0 })
}

// model is the same without tables, batches, kills or rebuilds: what the rows must be after events in any order that
// keeps that of each stream.
type model struct {
	rows   map[string]int
	events int
}

func (m *model) apply(e domain.Event) {
	amount, _ := strconv.Atoi(string(e.Data))
	m.events++
	if m.rows[string(e.Stream)] += amount; amount%5 == 0 {
		delete(m.rows, string(e.Stream))
	}
	if m.rows["sum/"+e.Type] += amount; m.rows["sum/"+e.Type] == 0 {
		delete(m.rows, "sum/"+e.Type)
	}
}

func (m *model) text() map[string]string {
	text := map[string]string{}
	for k, n := range m.rows {
		text[k] = strconv.Itoa(n)
	}
	return text
}

// modelChild is the variable that makes TestModelChild run an engine until it is killed: brokers, prefix and folder.
const modelChild = "PENSTOCK_TEST_MODEL_CHILD"

func TestModelChild(t *testing.T) {
	at := strings.Split(os.Getenv(modelChild), " ")
	if len(at) != 3 {
		t.Skip("for TestTablesEqualANaiveModel alone")
	}
	l := eventstoretest.Open(t, eventstore.Config{Brokers: strings.Split(at[0], ","), Prefix: at[1], Partitions: 3, Logger: eventstoretest.Logger(t)})
	e := openEngine(t, l, at[2], ledger{})
	running(t, e)
	v, _ := e.View("ledger")
	rebuild, err := strconv.ParseBool(os.Getenv(modelChild + "_REBUILD"))
	if err == nil && rebuild {
		eventstoretest.Until(t, "the engine takes builds", func() bool {
			err := e.Rebuild(t.Context(), []string{"ledger"}, 0)
			return err == nil || domain.ClassOf(err) == domain.Rejected
		})
	}
	fmt.Println("runs")
	for {
		fmt.Println("at", v.Position())
		time.Sleep(time.Millisecond)
	}
}

// TestTablesEqualANaiveModel writes random events in random transactions to random partitions, while engines fold them,
// are stopped, are killed with kill -9, rebuild and go back. After each round rows, counts, indexes and what a client
// has that followed the changes are those of the model.
func TestTablesEqualANaiveModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("PENSTOCK_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("PENSTOCK_TEST_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	cfg := eventstoretest.Config(t)
	l := eventstoretest.Open(t, cfg)
	g := newGenerator(t, l)
	m := &model{rows: map[string]int{}}
	dir := t.TempDir()
	client := &copyOf{}
	rounds := 8
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		writing, wrote := r.IntN(400), make(chan error, 1)
		seed := r.Uint64()
		go func() { wrote <- g.random(m, rand.New(rand.NewPCG(seed, 3)), writing) }()
		same := round%4 == 2 // the generation stays, so that cursors are honoured
		kill, rebuild := round%2 == 1, !same && r.IntN(2) == 0
		pause := time.Duration(r.IntN(150)) * time.Millisecond
		t.Logf("round %d: %d events, kill %v after %s, rebuild %v", round, writing, kill, pause, rebuild)
		if kill {
			killed(t, cfg, dir, pause, rebuild)
		} else {
			e := openEngine(t, l, dir, ledger{})
			stop := running(t, e)
			v, _ := e.View("ledger")
			if rebuild {
				for v.Status().Build == nil {
					err := e.Rebuild(t.Context(), []string{"ledger"}, r.IntN(2)*1000)
					if c := domain.ClassOf(err); err != nil && c != domain.Unavailable && c != domain.Rejected {
						t.Fatal(err)
					}
					if err == nil {
						break
					}
				}
			} else if !same && v.Status().Previous > 0 {
				if err := e.Rollback(t.Context(), v); err != nil && domain.ClassOf(err) != domain.Rejected && domain.ClassOf(err) != domain.Unavailable {
					t.Fatal(err)
				}
			}
			time.Sleep(pause) // where it is stopped shall be anywhere
			stop()
		}
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
		e := openEngine(t, l, dir, ledger{})
		stop := running(t, e)
		v, _ := e.View("ledger")
		eventstoretest.Until(t, "no build is left over", func() bool { return v.Status().Build == nil })
		modelled(t, v, m)
		client.follow(t, v)
		if want := m.text(); !maps.Equal(client.rows, want) {
			t.Errorf("a client that followed has %v, want %v", client.rows, want)
		}
		stop()
		if t.Failed() {
			return
		}
	}
	if client.resumed == 0 {
		t.Error("no cursor was ever honoured")
	}
}

// killed runs an engine in a process of its own and kills it somewhere.
func killed(t *testing.T, cfg eventstore.Config, dir string, after time.Duration, rebuild bool) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run", "^TestModelChild$", "-test.v")
	cmd.Env = append(os.Environ(), modelChild+"="+strings.Join([]string{strings.Join(cfg.Brokers, ","), cfg.Prefix, dir}, " "), fmt.Sprintf("%s_REBUILD=%v", modelChild, rebuild))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines, said := bufio.NewScanner(out), ""
	for lines.Scan() && lines.Text() != "runs" {
		said += lines.Text() + "\n"
	}
	if lines.Text() != "runs" {
		t.Fatalf("the child doesn't run: %v\n%s", cmd.Wait(), said)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		io.Copy(io.Discard, out)
	}()
	time.Sleep(after)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-drained
	cmd.Wait() // it was killed
}

// random commits n events in transactions of any size.
func (g *generator) random(m *model, r *rand.Rand, n int) error {
	for n > 0 {
		batches := make([]eventstore.Commit, len(g.ws))
		for range min(n, 1+r.IntN(30)) {
			n--
			s := domain.Stream(fmt.Sprintf("s/%d", r.IntN(40)))
			g.versions[s]++
			g.total++
			e := domain.Event{ID: fmt.Sprint("e", g.total), Type: fmt.Sprint("type", r.IntN(5)), Source: "/sources/test", Stream: s, Version: g.versions[s],
				Time: time.Unix(int64(g.total), 0).UTC(), Delivery: fmt.Sprint("e", g.total), Data: strconv.AppendInt(nil, int64(r.IntN(41)-20), 10)}
			m.apply(e)
			p := g.l.PartitionOf(s)
			batches[p].Events = append(batches[p].Events, e)
		}
		for p, c := range batches {
			if len(c.Events) > 0 {
				if err := g.ws[p].Commit(c); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// modelled compares everything that can be read.
func modelled(t *testing.T, v *projections.View, m *model) {
	t.Helper()
	want := m.text()
	eventstoretest.Until(t, "the log's end is applied", func() bool {
		s := v.Status()
		return s.State == "live" && s.Lag == 0 && (m.events == 0 || s.Rows == int64(len(want)) && maps.Equal(rows(t, v), want))
	})
	index := func(name string, keys func(row string) [][]byte) {
		var entries []string
		for key, row := range want {
			for _, k := range keys(row) {
				entries = append(entries, fmt.Sprintf("%q %s", eventstore.RowIndexEntry(k, []byte(key)), key))
			}
		}
		slices.Sort(entries)
		entries = slices.Compact(entries)
		var got []string
		err := v.Table().View(func(tx *eventstore.Tx) error {
			index, err := tx.Index("row/" + name)
			if err != nil {
				return err
			}
			index.Scan(nil, func(k, v []byte) bool { got = append(got, fmt.Sprintf("%q %s", k, v)); return true })
			return nil
		})
		slices.Sort(got)
		if err != nil || !slices.Equal(got, entries) {
			t.Errorf("index %s: %v, want %v (%v)", name, got, entries, err)
		}
	}
	index("size", func(row string) [][]byte { return [][]byte{fmt.Append(nil, len(row))} })
	index("tags", tagsOf)
}

// copyOf is a client's own copy of the rows, kept by following the changes from where it was.
type copyOf struct {
	rows    map[string]string
	at      eventstore.Position
	resumed int
}

func (c *copyOf) follow(t *testing.T, v *projections.View) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	f, err := v.Follow(ctx, c.at)
	if errors.Is(err, eventstore.ErrReset) || errors.Is(err, eventstore.ErrExpired) { // another generation: begin again
		c.rows = rows(t, v)
		c.at = v.Position()
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	c.resumed++
	for !f.CaughtUp() {
		b, err := f.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range b.Records {
			if r.Change.Row == nil {
				delete(c.rows, r.Change.Key)
			} else {
				c.rows[r.Change.Key] = string(r.Change.Row)
			}
		}
		b.Done()
	}
	c.at = f.Position().Clone()
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(v.Table().Path()), "*.tmp")); len(left) > 0 {
		t.Logf("left behind by a kill: %v", left)
	}
}
