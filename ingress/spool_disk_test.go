package ingress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

// failingDisk fails one call, and remembers what would be left after a power cut: of each file what was synced last, of
// each folder the entries that stood in it when it was synced.
type failingDisk struct {
	mu      sync.Mutex
	fail    func(call int) error // nil for a call that works
	reads   map[string]error     // what opening a file to read it says, "open", and reading, "read"; not counted as calls
	partial bool                 // a write that fails writes half of it
	calls   int
	lost    map[string]bool // files of which a sync has failed: later ones succeed and save nothing
	content map[string][]byte
	entries map[string][]string
}

func (d *failingDisk) next() error {
	d.calls++
	if d.fail == nil {
		return nil
	}
	return d.fail(d.calls)
}

func (d *failingDisk) disk() disk {
	d.content, d.entries, d.lost = map[string][]byte{}, map[string][]string{}, map[string]bool{}
	return disk{
		open: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			var err error
			if flag&os.O_CREATE != 0 {
				err = d.next()
			} else if strings.HasSuffix(name, spoolSuffix) {
				err = d.reads["open"]
			}
			if err != nil {
				return nil, &os.PathError{Op: "open", Path: name, Err: err}
			}
			if flag&os.O_TRUNC != 0 { // everything is written anew
				delete(d.lost, name)
			}
			return os.OpenFile(name, flag, perm)
		},
		read: func(f *os.File, b []byte, at int64) (int, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			if err := d.reads["read"]; err != nil {
				return 0, &os.PathError{Op: "read", Path: f.Name(), Err: err}
			}
			return f.ReadAt(b, at)
		},
		write: func(f *os.File, b []byte, at int64) (int, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			if err := d.next(); err != nil {
				n := 0
				if d.partial {
					n, _ = f.WriteAt(b[:len(b)/2], at)
				}
				return n, &os.PathError{Op: "write", Path: f.Name(), Err: err}
			}
			return f.WriteAt(b, at)
		},
		sync: func(f *os.File) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			if err := d.next(); err != nil {
				d.lost[f.Name()] = true
				return &os.PathError{Op: "sync", Path: f.Name(), Err: err}
			}
			st, err := f.Stat()
			if err != nil {
				return err
			}
			if st.IsDir() {
				d.entries[f.Name()] = names(f.Name())
				return nil
			}
			if d.lost[f.Name()] {
				return nil
			}
			d.content[f.Name()], err = os.ReadFile(f.Name())
			return err
		},
		remove: func(name string) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			if err := d.next(); err != nil {
				return &os.PathError{Op: "remove", Path: name, Err: err}
			}
			return os.Remove(name)
		},
	}
}

// set changes how the disk fails while it is in use.
func (d *failingDisk) set(reads map[string]error, fail error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reads, d.fail = reads, func(int) error { return fail }
}

func names(dir string) (all []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// powerCut leaves of the spool what was synced.
func (d *failingDisk) powerCut(t *testing.T, dir string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"", damagedDir, refusedDir} {
		folder = filepath.Join(dir, folder)
		for _, name := range d.entries[folder] {
			path := filepath.Join(folder, name)
			if name == damagedDir || name == refusedDir {
				continue
			}
			if err := os.MkdirAll(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, d.content[path], 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestSpoolDiskFails has the n-th call of the file system fail, for every n and in every way, while deliveries are
// spooled and drained, then cuts the power, and wants everything that was acknowledged in the log after all, in order.
func TestSpoolDiskFails(t *testing.T) {
	for _, way := range []struct {
		name    string
		err     error
		partial bool
		every   bool // from the n-th on, until the disk is mended
	}{
		{"once", syscall.EIO, false, false}, {"partial", syscall.ENOSPC, true, false}, {"full", syscall.ENOSPC, true, true},
	} {
		for _, cut := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, power cut %t", way.name, cut), func(t *testing.T) {
				for n := 1; ; n++ {
					d := &failingDisk{partial: way.partial, fail: func(call int) error {
						if call == n || way.every && call > n && call < n+6 {
							return way.err
						}
						return nil
					}}
					if reached := spoolOnDisk(t, d, n, cut); !reached {
						t.Logf("%d calls", n-1)
						return
					}
				}
			})
		}
	}
}

// spoolOnDisk goes through the life of a spool on d and reports whether it came to call n.
func spoolOnDisk(t *testing.T, d *failingDisk, n int, cut bool) bool {
	l := &inbox{}
	l.answers(gone)
	c := spoolConfig(t, l)
	c.Logger = nil
	files := d.disk()
	s, err := openSpool(c, files)
	for try := 0; err != nil && try < 10; try++ { // a supervisor starts the process again
		s, err = openSpool(c, files)
	}
	if err != nil {
		t.Fatalf("call %d: %v", n, err)
	}
	s.retry, s.pause = time.Millisecond, time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	var acknowledged []string
	for i := 0; i < 8; {
		e := delivery(fmt.Sprint(i), "a/x")
		got, err := s.Append(t.Context(), e)
		switch {
		case got == Spooled:
			acknowledged = append(acknowledged, e.ID)
			i++
		case domain.ClassOf(err) != domain.Unavailable:
			t.Fatalf("call %d: %q, %v", n, got, err)
		}
		if i == 4 { // half of them are drained before the rest comes, and one is set aside
			l.answers(func(e eventstore.Entry) error {
				if e.ID == "1" {
					return &domain.Error{Class: domain.TooLarge, Message: "too large"}
				}
				return nil
			})
			eventstoretest.Until(t, "half is drained", func() bool { return s.Depth().Records == 0 })
			l.answers(gone)
		}
	}
	cancel()
	<-done
	s.Close()
	if cut {
		d.powerCut(t, c.Dir)
	}
	l.answers(nil)
	d.mu.Lock()
	reached := d.calls >= n
	d.mu.Unlock()
	r := runSpool(t, c, realDisk)
	r.drained(t)
	r.stop()
	if got := r.Depth(); len(got.Problems) > 0 {
		t.Errorf("call %d: problems %q", n, got.Problems)
	}
	// The one set aside must have lasted, or come again; or both, because its mark could not be written or didn't last.
	got := l.ids()
	if kept, _ := filepath.Glob(filepath.Join(c.Dir, refusedDir, "*"+spoolSuffix)); len(kept) > 0 {
		at := slices.Index(acknowledged, "1")
		if again := slices.Index(got, "1"); again >= 0 {
			got = slices.Delete(got, again, again+1)
		}
		acknowledged = slices.Delete(acknowledged, at, at+1)
	} else if i := slices.Index(got, "1"); i < 0 {
		t.Errorf("call %d: what was set aside is gone", n)
	} else {
		got = slices.Insert(slices.Delete(got, i, i+1), 1, "1") // it came after the others
	}
	if !slices.Equal(got, acknowledged) {
		t.Errorf("call %d: acknowledged %v, the log has %v", n, acknowledged, got)
	}
	return reached
}

// waitingSegment spools deliveries and returns the segment's bytes, its nonce and where its frames begin, the end last.
func waitingSegment(t *testing.T, l *inbox, c SpoolConfig, ids ...string) (path string, data []byte, n segmentNonce, frames []int64) {
	t.Helper()
	l.answers(gone)
	s := runSpool(t, c, realDisk)
	for _, id := range ids {
		s.add(t, id, "a/x", Spooled)
	}
	s.stop()
	files, _ := filepath.Glob(filepath.Join(c.Dir, "*"+spoolSuffix))
	if len(files) != 1 {
		t.Fatalf("segments: %q", files)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	_, n, ok := readSegmentHeader(data)
	if !ok {
		t.Fatal("no header")
	}
	damaged, end := scanFrames(data, n, func(at int64, _ []byte) { frames = append(frames, at) })
	if len(damaged) > 0 || end != int64(len(data)) || len(frames) != len(ids) {
		t.Fatalf("frames at %v, damaged %v, end %d of %d", frames, damaged, end, len(data))
	}
	return files[0], data, n, append(frames, end)
}

// What a process was writing when it died was never acknowledged; it is cut off without a word.
func TestSpoolCutsATornTail(t *testing.T) {
	l := &inbox{}
	c := spoolConfig(t, l)
	c.Logger = nil
	path, data, n, frames := waitingSegment(t, l, c, "1", "2")
	next, err := appendFrame(nil, n, frames[2], delivery("3", "a/x"))
	if err != nil {
		t.Fatal(err)
	}
	tails := [][]byte{make([]byte, 4096)} // what a file system may leave after a power cut
	for size := 1; size < len(next); size += 7 {
		tails = append(tails, next[:size])
	}
	for _, tail := range tails {
		if err := os.WriteFile(path, append(slices.Clip(data), tail...), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := OpenSpool(c)
		if err != nil {
			t.Fatal(err)
		}
		after, err := os.ReadFile(path)
		if d := s.Depth(); d.Records != 2 || len(d.Problems) > 0 || err != nil || !bytes.Equal(after, data) {
			t.Errorf("a tail of %d bytes: %+v, %v, %d of %d bytes are left", len(tail), d, err, len(after), len(data))
		}
		s.Close()
	}
	// Whole, but never acknowledged: it is sent, and its sender's retry is a repeat.
	if err := os.WriteFile(path, append(slices.Clip(data), next...), 0o600); err != nil {
		t.Fatal(err)
	}
	l.answers(nil)
	runSpool(t, c, realDisk).drained(t)
	if ids := l.ids(); !slices.Equal(ids, []string{"1", "2", "3"}) {
		t.Errorf("the log has %v", ids)
	}
}

// A byte that changes anywhere in a segment costs at most the delivery that it stands in, and that is said and kept.
func TestSpoolSaysDamage(t *testing.T) {
	l := &inbox{}
	c := spoolConfig(t, l)
	c.Logger = nil
	path, data, _, frames := waitingSegment(t, l, c, "1", "2", "3")
	marks, err := os.ReadFile(strings.TrimSuffix(path, spoolSuffix) + marksSuffix)
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(0); at < int64(len(data)); at += 3 {
		l := &inbox{}
		c := c
		c.Dir, c.Append, c.AppendAll = filepath.Join(t.TempDir(), "spool"), l.append, l.appendAll
		if err := os.MkdirAll(c.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		here := filepath.Join(c.Dir, filepath.Base(path))
		spoiled := slices.Clone(data)
		spoiled[at] ^= 0x40
		for name, b := range map[string][]byte{here: spoiled, strings.TrimSuffix(here, spoolSuffix) + marksSuffix: marks} {
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var want []string
		for i := range 3 {
			if at >= headerSize && (at < frames[i] || at >= frames[i+1]) || at >= 28 && at < headerSize {
				want = append(want, fmt.Sprint(i+1))
			}
		}
		s := runSpool(t, c, realDisk)
		s.drained(t)
		if ids := l.ids(); !slices.Equal(ids, want) {
			t.Errorf("byte %d: the log has %v, not %v", at, ids, want)
		}
		if d := s.Depth(); (len(d.Problems) == 1) != (len(want) < 3) {
			t.Errorf("byte %d: problems %q", at, d.Problems)
		}
		kept, _ := filepath.Glob(filepath.Join(c.Dir, damagedDir, "*"))
		if len(want) < 3 && len(kept) != 1 && at >= headerSize {
			t.Errorf("byte %d: kept %q", at, kept)
		}
		s.stop()
		// It is said until somebody has looked.
		s = runSpool(t, c, realDisk)
		if d := s.Depth(); (len(d.Problems) == 1) != (len(want) < 3) {
			t.Errorf("byte %d, after a start: problems %q", at, d.Problems)
		}
		s.stop()
	}
}

// What goes bad while the process runs is found before it is sent.
func TestSpoolSaysDamageAtTheDrain(t *testing.T) {
	l := &inbox{}
	c := spoolConfig(t, l)
	path, data, _, frames := waitingSegment(t, l, c, "1", "2", "3")
	l.answers(nil)
	opened, err := OpenSpool(c)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte{data[frames[1]+20] ^ 1}, frames[1]+20)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	s := goSpool(t, opened)
	s.drained(t)
	if ids := l.ids(); !slices.Equal(ids, []string{"1", "3"}) || len(s.Depth().Problems) != 1 {
		t.Errorf("the log has %v, problems %q", ids, s.Depth().Problems)
	}
}

// beside returns streams of the partition of a/x that don't wait with it.
func (s *runningSpool) beside(n int) domain.Stream {
	for i, seen := 0, 0; ; i++ {
		stream := domain.Stream(fmt.Sprintf("b/%d", i))
		if partitionOf(stream) != partitionOf("a/x") || s.bucket(stream) == s.bucket("a/x") {
			continue
		}
		if seen++; seen > n {
			return stream
		}
	}
}

func (s *runningSpool) stuckOn(what string) bool {
	return slices.ContainsFunc(s.Depth().Problems, func(p string) bool {
		return strings.Contains(p, fmt.Sprintf("[%d] can't be sent on", partitionOf("a/x"))) && strings.Contains(p, what)
	})
}

// A segment that can't be read used to keep its whole partition in the spool: the log was taken to be away until somebody
// drained, and nobody could. Only the streams that wait may wait for the disk, and the node must say so.
func TestSpoolIsNotWedgedByReads(t *testing.T) {
	for _, call := range []string{"open", "read"} {
		for _, err := range []error{syscall.EIO, syscall.ENOENT} {
			t.Run(fmt.Sprint(call, ", ", err), func(t *testing.T) {
				l := &inbox{}
				l.answers(gone)
				d := &failingDisk{}
				s := runSpool(t, spoolConfig(t, l), d.disk())
				s.add(t, "1", "a/x", Spooled)
				s.add(t, "2", "a/x", Spooled)
				if got := s.Depth(); len(got.Problems) > 0 {
					t.Errorf("the log alone is away, and the problems are %q", got.Problems)
				}
				d.set(map[string]error{call: err}, nil)
				eventstoretest.Until(t, "the problem shows", func() bool { return s.stuckOn(err.Error()) })
				s.add(t, "3", "a/x", Spooled)

				l.answers(nil)
				fresh := 0 // a stream each: one that is spooled before the log is tried again waits as well
				eventstoretest.Until(t, "another stream reaches the log", func() bool {
					fresh++
					got, err := s.Append(t.Context(), delivery(fmt.Sprint("b", fresh), s.beside(fresh)))
					if err != nil {
						t.Fatal(err)
					}
					return got == Logged
				})
				s.add(t, "c", s.beside(fresh+1), Logged)
				s.add(t, "d", s.beside(fresh), Logged)
				s.add(t, "4", "a/x", Spooled) // behind those that wait
				if !s.stuckOn(err.Error()) || len(s.Depth().Problems) != 1 {
					t.Errorf("problems: %q", s.Depth().Problems)
				}

				d.set(nil, nil)
				s.drained(t)
				eventstoretest.Until(t, "the problem is gone", func() bool { return len(s.Depth().Problems) == 0 })
				s.add(t, "5", "a/x", Logged)
				var got []string
				for _, e := range l.taken {
					if e.Stream == "a/x" {
						got = append(got, e.ID)
					}
				}
				if !slices.Equal(got, []string{"1", "2", "3", "4", "5"}) || len(l.ids()) != 5+fresh+2 {
					t.Errorf("the log has %v of the stream, %d of %d in all", got, len(l.ids()), 5+fresh+2)
				}
			})
		}
	}
}

// What can't be kept where it is set aside stays, and is said; what stands before it doesn't wait for that.
func TestSpoolSaysThatItCantSetAside(t *testing.T) {
	for _, way := range []string{"damaged", "refused"} {
		t.Run(way, func(t *testing.T) {
			l := &inbox{}
			c := spoolConfig(t, l)
			path, data, _, frames := waitingSegment(t, l, c, "1", "2", "3")
			d := &failingDisk{}
			opened, err := openSpool(c, d.disk())
			if err != nil {
				t.Fatal(err)
			}
			l.answers(nil)
			if way == "damaged" {
				f, err := os.OpenFile(path, os.O_WRONLY, 0)
				if err == nil {
					_, err = f.WriteAt([]byte{data[frames[1]+20] ^ 1}, frames[1]+20)
				}
				if err = errors.Join(err, f.Close()); err != nil {
					t.Fatal(err)
				}
			} else {
				l.answers(func(e eventstore.Entry) error {
					if e.ID == "2" {
						return &domain.Error{Class: domain.TooLarge, Message: "too large"}
					}
					return nil
				})
			}
			d.set(nil, syscall.ENOSPC)
			s := goSpool(t, opened)
			eventstoretest.Until(t, "the problem shows", func() bool { return s.stuckOn(syscall.ENOSPC.Error()) })
			eventstoretest.Until(t, "what stands before it is sent", func() bool { return slices.Contains(l.ids(), "1") })
			s.add(t, "b", s.beside(0), Logged)
			if kept := s.Depth(); kept.Records == 0 || kept.Refused > 0 {
				t.Errorf("nothing is kept yet: %+v", kept)
			}
			d.set(nil, nil)
			s.drained(t)
			eventstoretest.Until(t, "the problem is gone", func() bool { return !s.stuckOn("") })
			kept, _ := filepath.Glob(filepath.Join(c.Dir, way, "*"))
			if ids := l.ids(); slices.Index(ids, "1") > slices.Index(ids, "3") || slices.Contains(ids, "2") || len(ids) != 3 || len(kept) == 0 {
				t.Errorf("the log has %v, kept %q", ids, kept)
			}
		})
	}
}

// A sender who writes frames into its delivery's body can't have them taken for deliveries of others, also when a
// damaged segment is searched for what is whole.
func TestSpoolIsNotForged(t *testing.T) {
	l := &inbox{}
	c := spoolConfig(t, l)
	l.answers(gone)
	s := runSpool(t, c, realDisk)
	_, other := newSegmentHeader(1)
	evil := delivery("evil", "a/x")
	evil.Body = make([]byte, 1000)
	frame, err := appendFrame(nil, other, headerSize, evil)
	if err != nil {
		t.Fatal(err)
	}
	body := len(frame) - len(evil.Body) // where it will stand can be guessed
	forged, err := appendFrame(nil, other, headerSize+int64(body), delivery("forged", "a/x"))
	if err != nil {
		t.Fatal(err)
	}
	copy(evil.Body, forged)
	if got, err := s.Append(t.Context(), evil); got != Spooled {
		t.Fatal(err)
	}
	s.add(t, "2", "a/x", Spooled)
	s.stop()
	files, _ := filepath.Glob(filepath.Join(c.Dir, "*"+spoolSuffix))
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	data[headerSize+5] ^= 1 // the length of the first frame
	if err := os.WriteFile(files[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	l.answers(nil)
	runSpool(t, c, realDisk).drained(t)
	if ids := l.ids(); !slices.Equal(ids, []string{"2"}) {
		t.Errorf("the log has %v", ids)
	}
}

// Marks that are lost or wrong cost a repeat, never a delivery.
func TestSpoolMarksAreOnlyHints(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	l := &inbox{}
	c := spoolConfig(t, l)
	c.Logger = nil
	path, data, _, frames := waitingSegment(t, l, c, "1", "2", "3")
	notes := strings.TrimSuffix(path, spoolSuffix) + marksSuffix
	good, err := os.ReadFile(notes)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		good = append(good, newMark(markDone, frames[i], sumOf(data[frames[i]:]))...)
	}
	for range 200 {
		spoiled := slices.Clone(good)[:random.IntN(len(good)+1)]
		for range random.IntN(4) {
			if len(spoiled) > 0 {
				spoiled[random.IntN(len(spoiled))] ^= byte(1 + random.IntN(255))
			}
		}
		wrong := spoiled
		if random.IntN(2) == 0 { // of another segment
			wrong = append(slices.Clip(spoiled), newMark(markDone, frames[0], 7)...)
		}
		for name, b := range map[string][]byte{path: data, notes: wrong} {
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := OpenSpool(c)
		if err != nil {
			t.Fatal(err)
		}
		want := 3
		for i := range 3 {
			if bytes.Contains(wrong, newMark(markDone, frames[i], sumOf(data[frames[i]:]))) {
				want--
			}
		}
		if d := s.Depth(); d.Records < want || len(d.Problems) > 0 {
			t.Errorf("with marks %x: %+v, at least %d must wait", wrong, d, want)
		}
		s.Close()
	}
}

// TestSpoolOnAFullDisk fills a small ext4 file system.
func TestSpoolOnAFullDisk(t *testing.T) {
	dir := smallDisk(t, 8<<20)
	l := &inbox{}
	c := spoolConfig(t, l)
	c.Dir, c.MaxBytes = filepath.Join(dir, "spool"), 1<<30
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	l.answers(gone)
	s := runSpool(t, c, realDisk)
	var acknowledged []string
	fill := func() (refused error) {
		for {
			e := delivery(fmt.Sprint(len(acknowledged)), "a/x")
			e.Body = bytes.Repeat([]byte{'x'}, 60<<10)
			got, err := s.Append(t.Context(), e)
			if got != Spooled {
				return err
			}
			acknowledged = append(acknowledged, e.ID)
		}
	}
	if err := fill(); !errors.Is(err, syscall.ENOSPC) || domain.ClassOf(err) != domain.Unavailable {
		t.Fatalf("a full disk: %v", err)
	}
	first := len(acknowledged)
	if d := s.Depth(); len(d.Problems) != 1 || first < 10 {
		t.Errorf("%d accepted, problems %q", first, d.Problems)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventstoretest.Until(t, "the disk works again", func() bool { return len(s.Depth().Problems) == 0 })
	if err := fill(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("full again: %v", err)
	}
	t.Logf("%d accepted, %d after there was room again", len(acknowledged), len(acknowledged)-first)
	if len(acknowledged) < first+10 {
		t.Error("there was room again, and it wasn't used")
	}
	s.stop() // on the full disk, and started on it
	s = runSpool(t, c, realDisk)
	l.answers(nil)
	s.drained(t)
	if !slices.Equal(l.ids(), acknowledged) {
		t.Errorf("acknowledged %v, the log has %v", acknowledged, l.ids())
	}
	l.answers(gone)
	eventstoretest.Until(t, "a delivery is spooled again", func() bool {
		got, _ := s.Append(t.Context(), delivery("last", "a/x"))
		return got == Spooled
	})
}

// smallDisk mounts an ext4 file system of the given size; it takes root and a loop device.
func smallDisk(t *testing.T, size int64) string {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	f, err := os.Create(image)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-F", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("a full disk needs root, a loop device and ext4: %s: %v: %s", args[0], err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}
