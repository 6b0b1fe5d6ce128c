package projections_test

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/projections"
)

func backup(t *testing.T, v *projections.View) []byte {
	t.Helper()
	b, err := v.Backup(time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	n, err := b.WriteTo(&out)
	if err := errors.Join(err, b.Close()); err != nil || n != int64(out.Len()) {
		t.Fatalf("%d of %d bytes: %v", n, out.Len(), err)
	}
	return out.Bytes()
}

// TestANewNodeStartsFromABackup copies tables while they change. Each copy, whenever it was made, goes on to the fold of
// the log, and what was folded by then is not folded again.
func TestANewNodeStartsFromABackup(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	g := newGenerator(t, l)
	g.write(t, 80)
	ps := []projections.Projection{eventstore.StreamsFold{}, projections.Deliveries{}, counts{version: 1}, totals{name: "a"}}
	e := openEngine(t, l, t.TempDir(), ps...)
	running(t, e)
	for _, v := range e.Views() {
		caughtUp(t, v)
	}
	if err := e.Rebuild(t.Context(), []string{"a"}, 0); err != nil { // a later generation is as good as the first
		t.Fatal(err)
	}
	a, _ := e.View("a")
	eventstoretest.Until(t, "a is rebuilt", func() bool { return a.Status().Generation == 2 })
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		g.write(t, 60)
	}()
	dir := t.TempDir()
	var cursor eventstore.Position
	for _, v := range e.Views() {
		if v == a {
			cursor = v.Position()
		}
		raw := backup(t, v)
		m, err := projections.CheckBackup(bytes.NewReader(raw))
		if err != nil || m.Name != v.Name() || m.Cluster != l.Cluster() || m.Made.Year() != 2026 || len(m.Topics) == 0 || m.Bytes == 0 {
			t.Fatalf("%+v, %v", m, err)
		}
		if restored, err := projections.Restore(dir, ps, bytes.NewReader(raw)); err != nil || restored.SHA256 != m.SHA256 {
			t.Fatalf("restore %s: %+v, %v", v.Name(), restored, err)
		}
		if _, err := projections.Restore(dir, ps, bytes.NewReader(raw)); ruleOf(err) != "already-there" {
			t.Errorf("restored over what was there: %v", err)
		}
	}
	<-writing

	fresh := openEngine(t, l, dir, ps...)
	for _, v := range fresh.Views() {
		if s := v.Status(); s.Build != nil || s.Rows == 0 || v.Name() == "a" && s.Generation != 2 {
			t.Errorf("it begins from the beginning: %+v", s)
		}
	}
	running(t, fresh)
	refold(t, l, fresh, ps...)
	for _, v := range fresh.Views() {
		old, _ := e.View(v.Name())
		caughtUp(t, old)
		if want, got := rows(t, old), rows(t, v); !maps.Equal(want, got) {
			t.Errorf("%s: %v on the new node, %v on the old one", v.Name(), got, want)
		}
	}
	moved, _ := fresh.View("a")
	if _, err := moved.Follow(t.Context(), cursor); err != nil {
		t.Errorf("a client of the old node can't go on at the new one: %v", err)
	}
	leftovers(t, dir, e)
}

// leftovers looks for files that nobody will ever delete.
func leftovers(t *testing.T, dir string, e *projections.Engine) {
	t.Helper()
	dirs := []string{dir}
	for _, v := range e.Views() {
		dirs = append(dirs, filepath.Dir(v.Table().Path()))
	}
	for _, d := range dirs {
		for _, pattern := range []string{"*.tmp", "*/*.tmp"} {
			if found, _ := filepath.Glob(filepath.Join(d, pattern)); len(found) > 0 {
				t.Errorf("left behind: %v", found)
			}
		}
	}
}

func ruleOf(err error) string {
	if e, ok := errors.AsType[*domain.Error](err); ok {
		return e.Rule
	}
	return ""
}

// TestADamagedOrForeignBackupIsRefused changes single bytes, and cuts the file off, everywhere.
func TestADamagedOrForeignBackupIsRefused(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	g := newGenerator(t, l)
	g.write(t, 30)
	ps := []projections.Projection{counts{version: 1}, totals{name: "a"}}
	e := openEngine(t, l, t.TempDir(), ps...)
	stop := running(t, e)
	for _, v := range e.Views() {
		caughtUp(t, v)
	}
	v, _ := e.View("counts")
	good := backup(t, v)
	other, _ := e.View("a")
	raw := backup(t, other)
	stop()
	dir := t.TempDir()
	refused := func(what string, raw []byte, ps []projections.Projection, rules ...string) {
		t.Helper()
		m, err := projections.Restore(dir, ps, bytes.NewReader(raw))
		if !slices.Contains(rules, ruleOf(err)) {
			t.Errorf("%s: %+v, %v, want one of the rules %q", what, m, err, rules)
		}
		if found, _ := filepath.Glob(filepath.Join(dir, "counts", "*")); len(found) > 0 {
			t.Fatalf("%s: left behind: %v", what, found)
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range 60 {
		at := r.IntN(len(good) - 1024)
		if i < 20 { // the ends are rarely hit
			at = []int{i * 40, len(good) - 1025 - i*40}[i%2]
		}
		harmed := bytes.Clone(good)
		harmed[at] ^= 1 << r.IntN(8)
		if m, err := projections.CheckBackup(bytes.NewReader(harmed)); err == nil {
			// A tar's header has fields that say nothing about the content, its padding even less.
			if want, err := projections.CheckBackup(bytes.NewReader(good)); err != nil || want.SHA256 != m.SHA256 || want.Made != m.Made {
				t.Errorf("byte %d of %d: %+v", at, len(good), m)
			}
			continue
		}
		// In the manifest it may be the name or the version of the projection that is another.
		refused("a byte is another", harmed, ps, "bad-backup", "other-definition", "no-such-projection")
	}
	for _, n := range []int{0, 100, 511, 512, 1000, 2000, len(good) / 2, len(good) - 1536 - 1024, len(good) - 1024 - 513} {
		refused("it breaks off", good[:n], ps, "bad-backup")
	}
	refused("text", []byte(strings.Repeat("no backup ", 1000)), ps, "bad-backup")
	refused("another version", good, []projections.Projection{counts{version: 2}}, "other-definition")
	refused("another definition", raw, []projections.Projection{totals{name: "a", definition: "x"}}, "other-definition")
	refused("not of this program", good, []projections.Projection{totals{name: "a"}}, "no-such-projection")

	// The source fails, and not the backup.
	if _, err := projections.Restore(dir, ps, io.MultiReader(bytes.NewReader(good[:3000]), broken{})); !errors.Is(err, os.ErrDeadlineExceeded) && ruleOf(err) != "bad-backup" {
		t.Errorf("%v", err)
	}
	if _, err := projections.Restore(dir, ps, bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	// The same tables, and another log: refused at the start, with the reason.
	another := eventstoretest.Open(t, eventstoretest.Config(t))
	_, err := projections.New(projections.Config{Log: another, Dir: dir, Projections: ps, Logger: eventstoretest.Logger(t)})
	if err == nil || !strings.Contains(err.Error(), "another log") && !strings.Contains(err.Error(), "in cluster") {
		t.Errorf("a table of another log is served: %v", err)
	}
	// Tables of two clusters in one folder are refused before.
	mixed := t.TempDir()
	meta := eventstore.TableMeta{Name: "a", Version: 1, Generation: 1, Cluster: "elsewhere"}
	table, err := eventstore.OpenTable(filepath.Join(mixed, "a", "000001.db"), meta)
	if err != nil {
		t.Fatal(err)
	}
	table.Close()
	if _, err := projections.Restore(mixed, ps, bytes.NewReader(good)); ruleOf(err) != "other-cluster" {
		t.Errorf("%v", err)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }
