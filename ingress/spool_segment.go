package ingress

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// disk is what the spool asks of the file system and what may fail there; tests have one call after the other fail.
type disk struct {
	open   func(name string, flag int, perm os.FileMode) (*os.File, error)
	read   func(f *os.File, b []byte, at int64) (int, error)
	write  func(f *os.File, b []byte, at int64) (int, error)
	sync   func(f *os.File) error
	remove func(name string) error
}

var realDisk = disk{open: os.OpenFile, read: (*os.File).ReadAt, write: (*os.File).WriteAt, sync: (*os.File).Sync, remove: os.Remove}

const (
	spoolSuffix   = ".spool"
	marksSuffix   = ".marks"
	damagedSuffix = ".bin"
	// syncMarks is how many deliveries may be sent again after a power cut for each segment, because the marks that they
	// are done were not synced yet.
	syncMarks = 1000
)

// segmentName is the time of creation in ns; what was set aside has the offset where it stood behind that.
var segmentName = regexp.MustCompile(`^\d{19}(-\d{10})*$`)

// segment is one file of waiting deliveries and its marks. It is written once, in order, by one goroutine, and read as
// often as needed; when everything in it is done it is removed.
type segment struct {
	name string
	path string // without the suffix
	n    segmentNonce

	// Guarded by Spool.mu.
	size   int64 // bytes on disk, the marks left out
	live   int   // frames that are not done
	sealed bool  // nothing is written to it any more

	marking  sync.Mutex
	marks    *os.File
	marked   int64
	unsynced int
}

// writer is the segment that is being written. It belongs to the goroutine that commits.
type writer struct {
	*segment
	file *os.File
	end  int64 // all before it is synced
}

// syncDir makes the creation and removal of files in dir last.
func (d disk) syncDir(dir string) error {
	f, err := d.open(dir, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(d.sync(f), f.Close())
}

// makeDir makes a folder, and has it last.
func (d disk) makeDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.syncDir(filepath.Dir(dir))
}

// put writes a whole file and has it last.
func (d disk) put(path string, content []byte) error {
	f, err := d.open(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = d.write(f, content, 0)
	if err == nil {
		err = d.sync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return d.syncDir(filepath.Dir(path))
}

// create begins a segment that comes after all others. It has lasted before anything is written to it.
func (s *Spool) create() (*writer, error) {
	s.last = max(s.last+1, uint64(time.Now().UnixNano()))
	name := fmt.Sprintf("%019d", s.last)
	path := filepath.Join(s.cfg.Dir, name)
	f, err := s.disk.open(path+spoolSuffix, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	header, n := newSegmentHeader(s.last)
	_, err = s.disk.write(f, header, 0)
	if err == nil {
		err = s.disk.sync(f)
	}
	if err == nil {
		err = s.disk.syncDir(s.cfg.Dir)
	}
	if err != nil {
		// A header alone holds nothing; what can't be removed now goes at the next start.
		return nil, errors.Join(err, f.Close(), s.disk.remove(path+spoolSuffix))
	}
	g := &segment{name: name, path: path, n: n, size: headerSize}
	s.mu.Lock()
	s.bytes += g.size
	s.mu.Unlock()
	if s.boot != (bootMark{}) {
		if err := s.mark(g, markBoot, int64(s.boot.value), s.boot.sum); err != nil { // a tail that isn't whole will be kept then
			s.log.Debug("the mark of the machine's run is missing", "segment", g.name, "error", err)
		}
	}
	return &writer{segment: g, file: f, end: headerSize}, nil
}

// seal ends writing. A segment that failed is cut back to what is synced: the rest was never acknowledged.
func (s *Spool) seal(w *writer, failed bool) {
	if failed {
		// As far as it goes. A frame that stays all the same is sent as well, which its sender's retry makes a repeat.
		err := w.file.Truncate(w.end)
		if err == nil {
			err = s.disk.sync(w.file)
		}
		if err != nil {
			s.log.Warn("the end of a spool segment can't be cut off", "segment", w.name, "error", err)
		}
	}
	if err := w.file.Close(); err != nil { // everything that counts was synced
		s.log.Warn("a spool segment can't be closed", "segment", w.name, "error", err)
	}
	s.mu.Lock()
	w.sealed = true
	done := w.live == 0
	s.mu.Unlock()
	w.closeMarks()
	if done {
		s.drop(w.segment)
	}
}

// drop removes a segment that is done. The marks go last: if the segment comes back after a power cut, they tell that
// nothing of it has to be sent again.
func (s *Spool) drop(g *segment) {
	g.closeMarks()
	err := s.disk.remove(g.path + spoolSuffix)
	if err == nil {
		err = s.disk.syncDir(s.cfg.Dir)
	}
	if err == nil {
		err = s.disk.remove(g.path + marksSuffix)
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
	}
	if err != nil { // its bytes go on counting; the next start tries again
		s.log.Error("a spool segment that is done can't be removed", "segment", g.name, "error", err)
		return
	}
	s.mu.Lock()
	s.bytes -= g.size
	s.mu.Unlock()
}

// mark notes something about the segment. The next mark is written over what may stand there of one that failed.
func (s *Spool) mark(g *segment, kind byte, value int64, sum uint32) (err error) {
	g.marking.Lock()
	defer g.marking.Unlock()
	if g.marks == nil {
		if g.marks, err = s.disk.open(g.path+marksSuffix, os.O_WRONLY|os.O_CREATE, 0o600); err != nil {
			return err
		}
	}
	if _, err = s.disk.write(g.marks, newMark(kind, value, sum), g.marked); err != nil {
		return err
	}
	g.marked += markSize
	if g.unsynced++; g.unsynced >= syncMarks {
		g.unsynced = 0
		if err := s.disk.sync(g.marks); err != nil { // the mark stands all the same, for as long as the machine runs
			s.log.Debug("the marks of a spool segment can't be synced", "segment", g.name, "error", err)
		}
	}
	return nil
}

func (g *segment) closeMarks() {
	g.marking.Lock()
	defer g.marking.Unlock()
	if g.marks != nil {
		g.marks.Close() // nothing to lose but a repeat
		g.marks = nil
	}
}

// load takes over what an earlier process left.
func (s *Spool) load() error {
	files, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return err
	}
	var names []string
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), spoolSuffix)
		if ok && segmentName.MatchString(name) {
			names = append(names, name)
		} else if name, ok := strings.CutSuffix(f.Name(), marksSuffix); ok && segmentName.MatchString(name) {
			if _, err := os.Stat(filepath.Join(s.cfg.Dir, name+spoolSuffix)); errors.Is(err, os.ErrNotExist) {
				s.disk.remove(filepath.Join(s.cfg.Dir, f.Name())) // its segment was removed; once more at the next start
			}
		}
	}
	slices.SortFunc(names, func(a, b string) int { // by time, and in a segment by offset
		return cmp.Or(cmp.Compare(a[:19], b[:19]), cmp.Compare(a, b))
	})
	for _, name := range names {
		if err := s.loadSegment(name); err != nil {
			return fmt.Errorf("spool segment %s: %w", name, err)
		}
	}
	return nil
}

func (s *Spool) loadSegment(name string) error {
	g := &segment{name: name, path: filepath.Join(s.cfg.Dir, name), sealed: true}
	data, err := os.ReadFile(g.path + spoolSuffix) // segmentBytes of the process that wrote it, at most a batch more
	if err != nil {
		return err
	}
	notes, err := os.ReadFile(g.path + marksSuffix)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	known := readMarks(notes)
	number, n, ok := readSegmentHeader(data)
	if !ok {
		return s.noHeader(g, data, known)
	}
	g.n, g.size, s.last = n, int64(len(data)), max(s.last, number)
	g.marked = int64(len(notes) / markSize * markSize)
	var waiting []waitingFrame
	damaged, end := scanFrames(data, n, func(offset int64, frame []byte) {
		if sum, ok := known.done[offset]; ok && sum == sumOf(frame) {
			return
		}
		f := waitingFrame{spot: spot{segment: g, offset: uint32(offset), size: uint32(len(frame))}}
		var e eventstore.Entry
		if err := e.UnmarshalBinary(frame[frameSize:]); err != nil {
			s.log.Error("an entry of the spool can't be read", "segment", name, "offset", offset, "error", err) // it is set aside
		}
		f.stream, f.spot.received = e.Stream, unixSeconds(e.Received)
		waiting = append(waiting, f)
	})
	for _, part := range damaged {
		if err := s.quarantine(g, part.from, data[part.from:part.to], spoiled); err != nil {
			return err
		}
	}
	if err := s.loadTail(g, data[end:], end, known); err != nil {
		return err
	}
	s.bytes += g.size
	for _, f := range waiting {
		s.enqueue(f)
	}
	if g.live == 0 {
		s.drop(g)
	}
	return nil
}

// loadTail deals with what stands behind the last whole frame, which ends at end. The bytes don't tell a write that was cut
// off, of which nobody was told that it is safe, from something acknowledged that has gone bad since; the marks do, for as
// long as the machine has run. Only what is known never to have been acknowledged is cut off.
func (s *Spool) loadTail(g *segment, tail []byte, end int64, known marks) error {
	switch {
	case end < known.synced: // also if nothing is left of it: the file is shorter than it was
		return s.quarantine(g, end, tail, spoiled)
	case len(tail) == 0:
		return nil
	case known.tellAll(s.boot):
		s.log.Warn("the end of a spool segment was being written when the process ended; it was never acknowledged",
			"segment", g.name, "bytes", len(tail))
	default:
		if err := s.quarantine(g, end, tail, unsure); err != nil {
			return err
		}
	}
	g.size = end
	return os.Truncate(g.path+spoolSuffix, end)
}

// noHeader deals with a segment that doesn't begin as one. The header is synced before anything follows it, so a short
// one is only a creation that was cut off, unless its marks know of more.
func (s *Spool) noHeader(g *segment, data []byte, known marks) error {
	if len(data) > headerSize || known.synced > headerSize {
		dir := filepath.Join(s.cfg.Dir, damagedDir)
		if err := s.disk.makeDir(dir); err != nil {
			return err
		}
		s.log.Error("a spool segment has no header: it is set aside whole, and what was acknowledged in it is not in the log",
			"segment", g.name, "bytes", len(data), "to", dir)
		for _, suffix := range []string{marksSuffix, spoolSuffix} { // the marks tell whoever looks what was done in it
			if err := os.Rename(g.path+suffix, filepath.Join(dir, g.name+suffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return errors.Join(s.disk.syncDir(dir), s.disk.syncDir(s.cfg.Dir))
	}
	return s.disk.remove(g.path + spoolSuffix)
}

// Why bytes are kept in quarantine.
const (
	spoiled = "a spool segment is damaged: what was acknowledged there may not be in the log"
	unsure  = "the end of a spool segment isn't whole: it was being written when the machine went down, or was acknowledged and has gone bad since"
)

// quarantine keeps bytes of a segment that are no frame any more; none at all where the file has lost its end. While they
// are there the node says so; only an operator removes them.
func (s *Spool) quarantine(g *segment, at int64, bytes []byte, why string) error {
	dir := filepath.Join(s.cfg.Dir, damagedDir)
	err := s.disk.makeDir(dir)
	path := filepath.Join(dir, fmt.Sprintf("%s-%010d%s", g.name, at, damagedSuffix))
	if err == nil {
		err = s.disk.put(path, bytes)
	}
	if err != nil {
		return &domain.Error{Class: domain.Unavailable, Rule: "spool-disk", Message: "damaged bytes of the spool can't be kept", Err: err}
	}
	s.log.Error(why, "segment", g.name, "offset", at, "bytes", len(bytes), "kept", path)
	return nil
}
