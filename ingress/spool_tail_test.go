package ingress

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unsynced is a disk for tests that cut nothing and open many spools.
var unsynced = disk{
	open: os.OpenFile, read: (*os.File).ReadAt, write: (*os.File).WriteAt, sync: func(*os.File) error { return nil }, remove: os.Remove,
}

// spoolFiles puts a segment and its marks into a new spool and opens it.
func spoolFiles(t *testing.T, c SpoolConfig, name string, data, notes []byte) (*Spool, string) {
	t.Helper()
	c.Dir = filepath.Join(t.TempDir(), "spool")
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(c.Dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if notes != nil {
		if err := os.WriteFile(strings.TrimSuffix(path, spoolSuffix)+marksSuffix, notes, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := openSpool(c, unsynced)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, path
}

// keptBytes are those of the quarantine, in the order of their places.
func keptBytes(t *testing.T, s *Spool) (all []byte) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(s.cfg.Dir, damagedDir, "*"+damagedSuffix))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

// notesOf are the marks of a segment as they are left by a process that dies, or by a machine that does.
func notesOf(t *testing.T, path string, data []byte) map[string][]byte {
	t.Helper()
	all, err := os.ReadFile(strings.TrimSuffix(path, spoolSuffix) + marksSuffix)
	if err != nil {
		t.Fatal(err)
	}
	known := readMarks(all)
	if known.synced != int64(len(data)) || !known.tellAll(thisBoot()) {
		t.Fatalf("marks %+v of a segment of %d bytes", known, len(data))
	}
	other := newMark(markBoot, 1, 2)
	return map[string][]byte{
		"the process died":                        all,
		"the machine died, all marks outlived it": append(slices.Clip(other), all[markSize:]...),
		"the machine died, one mark is lost":      append(slices.Clip(other), all[markSize:len(all)-markSize]...),
		"the machine died, no mark is left":       nil,
		"the last mark has gone bad":              append(slices.Clip(all[:len(all)-1]), all[len(all)-1]^1),
		"the last mark is half there":             all[:len(all)-markSize/2],
	}
}

// TestSpoolNeverDropsSilently changes each byte of a segment's last frames, with and without a write behind them that was
// cut off: what was acknowledged is sent, or kept and said. An end that was damaged used to pass for a write that was cut
// off when the mark that tells them apart had not outlived the machine.
func TestSpoolNeverDropsSilently(t *testing.T) {
	l := &inbox{}
	c := spoolConfig(t, l)
	c.Logger = nil
	path, data, n, frames := waitingSegment(t, l, c, "1", "2", "3")
	next, err := appendFrame(nil, n, frames[3], delivery("4", "a/x"))
	if err != nil {
		t.Fatal(err)
	}
	for name, notes := range notesOf(t, path, data) {
		t.Run(name, func(t *testing.T) {
			for i, torn := range []int{0, 1, frameSize, len(next) - 1} {
				for at := frames[1] + int64(i); at < frames[3]; at += 4 { // together each byte
					spoilt := slices.Concat(data, next[:torn])
					spoilt[at] ^= 1 << (at % 8)
					s, _ := spoolFiles(t, c, filepath.Base(path), spoilt, notes)
					if d := s.Depth(); d.Records != 2 || len(d.Problems) != 1 {
						t.Fatalf("byte %d, %d bytes behind: %+v", at, torn, d)
					}
					frame := spoilt[frames[1]:frames[2]]
					if at >= frames[2] {
						frame = spoilt[frames[2]:frames[3]]
					}
					if kept := keptBytes(t, s); !bytes.Contains(kept, frame) {
						t.Fatalf("byte %d, %d bytes behind: the frame isn't kept among %d bytes", at, torn, len(kept))
					}
				}
			}
		})
	}
}

// A file that is shorter than what was synced has lost something, at whatever byte it ends.
func TestSpoolSaysThatAnEndIsMissing(t *testing.T) {
	l := &inbox{}
	c := spoolConfig(t, l)
	c.Logger = nil
	path, data, _, frames := waitingSegment(t, l, c, "1", "2", "3")
	for name, notes := range notesOf(t, path, data) {
		known := readMarks(notes).synced
		t.Run(name, func(t *testing.T) {
			for size := range int64(len(data)) {
				s, _ := spoolFiles(t, c, filepath.Base(path), data[:size], notes)
				whole, end := 0, int64(headerSize)
				for i := range 3 {
					if frames[i+1] <= size {
						whole, end = i+1, frames[i+1]
					}
				}
				// Where the machine died and took the mark along, a file that ends between two frames shows nothing.
				silent := known <= max(size, headerSize) && (size <= headerSize || size == end)
				d := s.Depth()
				if d.Records != whole || (len(d.Problems) == 0) != silent {
					t.Fatalf("%d of %d bytes: %+v", size, len(data), d)
				}
				if kept := keptBytes(t, s); size > headerSize && !bytes.Equal(kept, data[end:size]) {
					t.Fatalf("%d of %d bytes: kept %d of %d", size, len(data), len(kept), size-end)
				}
				again, err := openSpool(s.cfg, unsynced)
				if err != nil {
					t.Fatal(err)
				}
				if d := again.Depth(); d.Records != whole || (len(d.Problems) == 0) != silent {
					t.Fatalf("%d of %d bytes, after a start: %+v", size, len(data), d)
				}
				again.Close()
			}
		})
	}
}

// What was being written when the machine went down is kept once, for somebody to look at, and not again at each start.
func TestSpoolKeepsAnUnsureEndOnce(t *testing.T) {
	l := &inbox{}
	c := spoolConfig(t, l)
	c.Logger = nil
	path, data, n, frames := waitingSegment(t, l, c, "1", "2")
	next, err := appendFrame(nil, n, frames[2], delivery("3", "a/x"))
	if err != nil {
		t.Fatal(err)
	}
	torn := next[:len(next)/2]
	s, path := spoolFiles(t, c, filepath.Base(path), append(slices.Clip(data), torn...), notesOf(t, path, data)["the machine died, all marks outlived it"])
	if d := s.Depth(); d.Records != 2 || len(d.Problems) != 1 || !bytes.Equal(keptBytes(t, s), torn) {
		t.Errorf("%+v, kept %d bytes", d, len(keptBytes(t, s)))
	}
	if err := os.RemoveAll(filepath.Join(s.cfg.Dir, damagedDir)); err != nil {
		t.Fatal(err)
	}
	again, err := OpenSpool(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if left, err := os.ReadFile(path); err != nil || !bytes.Equal(left, data) || len(again.Depth().Problems) > 0 {
		t.Errorf("after somebody has looked: %d bytes, %v, %+v", len(left), err, again.Depth())
	}
}

// A delivery is acknowledged only once the mark of its end is written: a disk that takes the segment and not the mark
// refuses it.
func TestSpoolMarksBeforeItAcknowledges(t *testing.T) {
	l := &inbox{}
	l.answers(gone)
	c := spoolConfig(t, l)
	d := &failingDisk{}
	files := d.disk()
	write, fails := files.write, false
	files.write = func(f *os.File, b []byte, at int64) (int, error) {
		if fails && strings.HasSuffix(f.Name(), marksSuffix) {
			return 0, fmt.Errorf("no room for a mark")
		}
		return write(f, b, at)
	}
	s := runSpool(t, c, files)
	s.add(t, "1", "a/x", Spooled)
	s.stop()
	fails = true
	s = runSpool(t, c, files)
	if got, err := s.Append(t.Context(), delivery("2", "a/x")); got == Spooled || err == nil {
		t.Errorf("acknowledged: %q, %v", got, err)
	}
	s.stop()
	fails = false
	s = runSpool(t, c, files)
	if d := s.Depth(); d.Records != 1 || len(d.Problems) > 0 {
		t.Errorf("%+v", d)
	}
}
