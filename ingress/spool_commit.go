package ingress

import (
	"context"
	"fmt"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// commit hands a delivery to the goroutine that writes, and waits until it is synced.
func (s *Spool) commit(ctx context.Context, e eventstore.Entry) error {
	if err := s.refuses(); err != nil {
		return err
	}
	r := &spoolRequest{ctx, e, make(chan error, 1)}
	select {
	case s.requests <- r:
	case <-s.stopped:
		return &domain.Error{Class: domain.Unavailable, Rule: "closed", Message: "the spool is not written any more"}
	case <-ctx.Done():
		return &domain.Error{Class: domain.Unavailable, Rule: SpoolDisk, Message: "the spool is busy", Err: ctx.Err()}
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done(): // it may be written all the same, and is sent then
		return &domain.Error{Class: domain.Unavailable, Rule: SpoolDisk, Message: "the disk didn't sync in time", Err: ctx.Err()}
	}
}

// refuses spares a disk that has just failed: whether it works again is found out by trouble's own tick, not by
// deliveries.
func (s *Spool) refuses() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.cfg.MaxBytes == 0:
		return &domain.Error{Class: domain.Unavailable, Rule: SpoolFull, Message: "nothing new is spooled, and earlier deliveries of the stream still wait"}
	case s.trouble != nil:
		return diskError(s.trouble)
	}
	return nil
}

func spoolFull(bytes, most int64) error {
	return &domain.Error{Class: domain.Unavailable, Rule: SpoolFull, Message: fmt.Sprintf("%d of %d bytes wait already", bytes, most)}
}

func diskError(err error) error {
	return &domain.Error{Class: domain.Unavailable, Rule: SpoolDisk, Message: "the disk doesn't take it", Err: err}
}

// commits writes what comes until ctx ends. Many deliveries share one sync: those that come while the disk syncs are
// the next batch.
func (s *Spool) commits(ctx context.Context) {
	retry := time.NewTicker(s.retry)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			if s.active != nil {
				s.seal(s.active, false)
				s.active = nil
			}
			return
		case r := <-s.requests:
			s.write(s.gather(r))
		case <-s.idle:
			s.closeIdle()
		case <-retry.C:
			s.recover()
		}
	}
}

// gather returns r and what waits beside it, up to the bounds of a batch.
func (s *Spool) gather(r *spoolRequest) []*spoolRequest {
	batch, size := []*spoolRequest{r}, len(r.entry.Body)
	for len(batch) < batchCount && size < batchBytes {
		select {
		case r := <-s.requests:
			batch, size = append(batch, r), size+len(r.entry.Body)+1024
		default:
			return batch
		}
	}
	return batch
}

// write writes and syncs a batch and answers each of its requests.
func (s *Spool) write(batch []*spoolRequest) {
	if s.active != nil && s.active.end >= s.segmentBytes() {
		s.seal(s.active, false)
		s.active = nil
	}
	if s.active == nil {
		w, err := s.create()
		if err != nil {
			s.failed(batch, err)
			return
		}
		s.active = w
	}
	w := s.active
	s.mu.Lock()
	bytes := s.bytes
	s.mu.Unlock()
	var taken []*spoolRequest
	var waiting []waitingFrame
	full := false
	buffer := s.buffer[:0]
	for _, r := range batch {
		if err := r.ctx.Err(); err != nil { // answered already
			continue
		}
		from := len(buffer)
		var err error
		buffer, err = appendFrame(buffer, w.n, w.end+int64(from), r.entry)
		size := len(buffer) - from
		switch {
		case err != nil:
		case size > maxFrame:
			err = &domain.Error{Class: domain.TooLarge, Field: "body", Message: fmt.Sprintf("the log takes records of at most %d bytes", maxFrame)}
		case bytes+int64(len(buffer)) > s.cfg.MaxBytes:
			err, full = spoolFull(bytes, s.cfg.MaxBytes), true
		}
		if err != nil {
			buffer = buffer[:from]
			defer func() { r.done <- err }() // once the status says it too
			continue
		}
		taken = append(taken, r)
		waiting = append(waiting, waitingFrame{spot{
			segment: w.segment, offset: uint32(w.end + int64(from)), size: uint32(size), received: unixSeconds(r.entry.Received),
		}, r.entry.Stream})
	}
	if s.buffer = buffer; cap(buffer) > 2*batchBytes {
		s.buffer = nil // of one large delivery
	}
	s.mu.Lock()
	s.full = full
	s.mu.Unlock()
	if len(taken) == 0 {
		s.closeIdle()
		return
	}
	_, err := s.disk.write(w.file, buffer, w.end)
	if err == nil {
		// Never twice: after a failed sync the system takes the pages for clean, and the next sync would say that all is
		// well (https://wiki.postgresql.org/wiki/Fsync_Errors). So the segment ends here.
		err = s.disk.sync(w.file)
	}
	if err == nil {
		// Before anybody is told: without the mark, what stands here would pass for a write that was cut off, if it went
		// bad before the next start.
		err = s.mark(w.segment, markSynced, w.end+int64(len(buffer)), 0)
	}
	if err != nil {
		s.active = nil
		s.seal(w, true)
		s.failed(taken, err)
		return
	}
	w.end += int64(len(buffer))
	s.mu.Lock()
	w.size = w.end
	s.bytes += int64(len(buffer))
	for _, f := range waiting {
		s.enqueue(f)
	}
	s.mu.Unlock()
	for _, r := range taken {
		r.done <- nil
	}
}

// segmentBytes is when a segment is full: small enough that what is done makes room, and never so many that they
// can't all be open.
func (s *Spool) segmentBytes() int64 {
	return max(1<<20, min(16<<20, s.cfg.MaxBytes/8), min(256<<20, s.cfg.MaxBytes/512))
}

func (s *Spool) failed(batch []*spoolRequest, err error) {
	s.mu.Lock()
	first := s.trouble == nil
	s.trouble = err
	s.mu.Unlock()
	if first {
		s.log.Error("the spool's disk fails; deliveries are refused while the log is away", "error", err)
	}
	for _, r := range batch {
		r.done <- diskError(err)
	}
}

// closeIdle removes the segment that is written when everything in it is done.
func (s *Spool) closeIdle() {
	if s.active == nil {
		return
	}
	s.mu.Lock()
	done := s.active.live == 0
	s.mu.Unlock()
	if done {
		s.seal(s.active, false)
		s.active = nil
	}
}

// recover finds out whether a disk that failed takes a segment again.
func (s *Spool) recover() {
	s.mu.Lock()
	trouble := s.trouble
	s.mu.Unlock()
	if trouble == nil {
		return
	}
	w, err := s.create()
	if err == nil {
		s.seal(w, false) // empty, so it goes
	}
	s.mu.Lock()
	s.trouble = err
	s.mu.Unlock()
	if err == nil {
		s.log.Info("the spool's disk works again")
	}
}
