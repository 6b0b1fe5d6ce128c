package ingress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

const (
	windowCount = 256 // deliveries that a partition takes in hand at once
	// windowBytes is less than any sensible max.message.bytes, because a broker says of a batch as a whole that it is too
	// large. One delivery may be larger.
	windowBytes = 256 << 10
	drainBytes  = 64 << 20 // what all partitions have in hand

	// drainPatience is longer than the log itself tries (10 s): so a delivery is rarely in flight twice.
	drainPatience = 15 * time.Second
	drainPause    = 50 * time.Millisecond // doubled with each failure up to
	drainPauseMax = 2 * time.Second

	// dedupeHorizon is how long ids are promised to be remembered; see docs/internals.md.
	dedupeHorizon = 30 * 24 * time.Hour
)

// drain sends on what waits for a partition, until ctx ends.
func (s *Spool) drain(ctx context.Context, l *lane) {
	for pause := s.pause; ctx.Err() == nil; {
		window := s.window(l)
		if len(window) == 0 {
			select {
			case <-l.wake:
			case <-ctx.Done():
			}
			continue
		}
		err := s.send(ctx, l, window)
		if ctx.Err() == nil {
			s.sent(l, err)
		}
		if err == nil {
			pause = s.pause
			continue
		}
		if ctx.Err() == nil && !away(err) {
			s.log.Warn("the spool isn't drained", "partition", l.partition, "error", err, "again in", pause)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, drainPauseMax)
	}
}

// sent notes whether a lane is stuck, after a send that ended with err.
func (s *Spool) sent(l *lane, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := l.stuck
	if l.stuck = nil; halts(err) {
		l.stuck = err
	} else if was != nil {
		s.log.Info("what waits in the spool can be sent on again", "partition", l.partition)
	}
}

// halts reports whether an error of send is one that the log has no part in, or a defect: the disk doesn't give or keep
// something. The log's silence and its refusals end by themselves; so does a batch that is too large as a whole, of which
// the next are sent one by one.
func halts(err error) bool {
	if err == nil {
		return false
	}
	e, ok := errors.AsType[*domain.Error](err)
	return !ok || e.Class != domain.TooLarge && (e.Class != domain.Unavailable || e.Rule == SpoolDisk)
}

// window returns the oldest deliveries of a lane. While the log is away it is one: more would only be in flight in
// vain, and come twice. What may be too large goes alone too, so that only the one that is gets set aside.
func (s *Spool) window(l *lane) []spot {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, size := 0, 0
	for n < len(l.queue) && n < windowCount {
		size += int(l.queue[n].size)
		if n > 0 && (size > windowBytes || l.down || l.refusal != nil || l.alone > 0) {
			break
		}
		n++
	}
	l.alone = max(0, l.alone-1)
	window := slices.Clone(l.queue[:n])
	if eventstore.Broken("spool-order") {
		slices.Reverse(window)
	}
	return window
}

// send sends a window on in its order. An error means that some are left; they stay at the front, in order. What stands
// before the first that the disk doesn't give, or doesn't keep where it is set aside, is sent all the same.
func (s *Spool) send(ctx context.Context, l *lane, window []spot) error {
	size := int64(0)
	for _, r := range window {
		size += int64(r.size)
	}
	if err := s.inHand.Acquire(ctx, size); err != nil {
		return err
	}
	defer s.inHand.Release(size)
	frames, blocked := s.read(window)
	done := map[spot]bool{}
	var sent []spot
	var entries []eventstore.Entry
	for i := range frames {
		r := window[i]
		frame, ok := frameAt(frames[i], r.segment.n, int64(r.offset))
		if !ok || len(frame) != int(r.size) {
			// It was whole when it was written, or at the start. Its bytes are kept, and the node says so.
			if err := s.quarantine(r.segment, int64(r.offset), frames[i], spoiled); err != nil {
				blocked = err
				break
			}
			s.finish(r, 0)
			done[r] = true
			continue
		}
		var e eventstore.Entry
		if err := e.UnmarshalBinary(frame[frameSize:]); err != nil {
			if err := s.setAside(r, frame, e, err); err != nil {
				blocked = err
				break
			}
			s.finish(r, sumOf(frame))
			done[r] = true
			continue
		}
		if age := time.Since(e.Received); age > dedupeHorizon {
			s.log.Warn("a delivery is older than ids are promised to be remembered: if its sender repeated it since, it may take effect twice",
				"source", e.Source, "delivery", e.ID, "received", e.Received)
		}
		sent, entries = append(sent, r), append(entries, e)
	}
	if len(entries) == 0 {
		return s.advance(l, window, done, blocked)
	}
	patience, cancel := context.WithTimeout(ctx, drainPatience)
	answers := s.cfg.AppendAll(patience, entries)
	cancel()
	var left error
	for i, err := range answers {
		r := sent[i]
		switch class := domain.ClassOf(err); {
		case err == nil:
			s.metrics.drained.Inc()
		case class == domain.TooLarge && len(entries) > 1:
			s.goAlone(l, len(window))
			left = errors.Join(left, err)
			continue
		case class == domain.TooLarge, class == domain.Invalid:
			if e := s.setAside(r, frames[slices.Index(window, r)], entries[i], err); e != nil {
				left = errors.Join(left, e)
				continue
			}
		default: // for now, or a defect: never thrown away
			left = cmp.Or(left, err)
			continue
		}
		s.finish(r, sumOf(frames[slices.Index(window, r)]))
		done[r] = true
	}
	if ctx.Err() == nil { // told to stop says nothing about the log
		s.mu.Lock()
		s.answered(l, left)
		s.mu.Unlock()
	}
	return s.advance(l, window, done, cmp.Or(left, blocked))
}

// read reads the frames of a window. With an error come those before the first that can't be read.
func (s *Spool) read(window []spot) ([][]byte, error) {
	files := map[*segment]*os.File{}
	defer func() {
		for _, f := range files {
			f.Close() // only read
		}
	}()
	frames := make([][]byte, 0, len(window))
	for _, r := range window {
		if files[r.segment] == nil {
			f, err := s.disk.open(r.segment.path+spoolSuffix, os.O_RDONLY, 0)
			if err != nil {
				return frames, fmt.Errorf("read the spool: %w", err)
			}
			files[r.segment] = f
		}
		frame := make([]byte, r.size)
		if _, err := s.disk.read(files[r.segment], frame, int64(r.offset)); err != nil && err != io.EOF {
			return frames, fmt.Errorf("read the spool: %w", err)
		}
		frames = append(frames, frame)
	}
	return frames, nil
}

func (s *Spool) goAlone(l *lane, count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.alone = count
}

// advance takes what is done out of a lane's queue, whose front is window. It returns err.
func (s *Spool) advance(l *lane, window []spot, done map[spot]bool, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var left []spot
	for _, r := range window {
		if !done[r] {
			left = append(left, r)
		}
	}
	front := len(window) - len(left)
	copy(l.queue[front:], left)
	if l.queue = l.queue[front:]; len(l.queue) == 0 {
		l.queue = nil // and with it the array that all of it stood in
	}
	if s.records == 0 && front > 0 {
		s.log.Info("the spool is drained")
	}
	return err
}

// finish notes that the log has a delivery, or never will.
func (s *Spool) finish(r spot, sum uint32) {
	if err := s.mark(r.segment, markDone, int64(r.offset), sum); err != nil { // as on a full disk: it may be sent again
		s.log.Debug("a mark of a spool segment is missing", "segment", r.segment.name, "error", err)
	}
	s.mu.Lock()
	s.records--
	s.waiting[r.bucket]--
	r.segment.live--
	last, sealed := r.segment.live == 0, r.segment.sealed
	s.mu.Unlock()
	switch {
	case last && sealed:
		s.drop(r.segment)
	case last:
		select {
		case s.idle <- struct{}{}:
		default:
		}
	}
}

// setAside keeps a delivery that the log will never take as it is, so that it doesn't hold back its stream. It becomes
// a segment of its own: moved back into the spool's folder, it is tried again at the next start.
func (s *Spool) setAside(r spot, frame []byte, e eventstore.Entry, reason error) error {
	dir := filepath.Join(s.cfg.Dir, refusedDir)
	if err := s.disk.makeDir(dir); err != nil {
		return fmt.Errorf("set a delivery aside: %w", err)
	}
	header, n := newSegmentHeader(uint64(time.Now().UnixNano()))
	segment := append(header, newFrame(n, headerSize, frame[frameSize:])...)
	path := filepath.Join(dir, fmt.Sprintf("%s-%010d", r.segment.name, r.offset))
	why := fmt.Sprintf("The log doesn't take this delivery: %v\nsource %s\ntype %s\ndelivery %s\nstream %s\nreceived %s\n",
		reason, e.Source, e.Type, e.ID, e.Stream, e.Received.UTC().Format(time.RFC3339Nano))
	if err := errors.Join(s.disk.put(path+".txt", []byte(why)), s.disk.put(path+spoolSuffix, segment)); err != nil {
		return fmt.Errorf("set a delivery aside: %w", err)
	}
	s.metrics.refused.Inc()
	s.log.Error("the log will never take a delivery that was accepted: it is set aside", "source", e.Source, "delivery", e.ID,
		"stream", e.Stream, "error", reason, "kept", path+spoolSuffix)
	return nil
}
