package ingress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
)

// SpoolConfig says where deliveries wait while the log is away.
type SpoolConfig struct {
	// Dir is the spool's folder, of this process alone.
	Dir string
	// MaxBytes bounds the segments on disk. Beyond it deliveries are refused. 0: nothing new is spooled, and what
	// waits from before is still drained.
	MaxBytes int64
	// After is how long the log may take to acknowledge before a delivery is spooled. It must leave time within the
	// handler's Budget for a sync of the disk.
	After time.Duration
	// Append writes to the log. An error of class Unavailable without a Rule means that the log didn't answer; with a
	// Rule somebody refuses, for a reason that a spool would only hide, and the refusal stands.
	Append func(context.Context, eventstore.Entry) error
	// AppendAll does the same for entries of one partition, in their order, with an error for each; what it writes is a
	// prefix of them, but for those that are too large.
	AppendAll func(context.Context, []eventstore.Entry) []error
	// Partitions of the log, and the one of a stream: a partition that is away holds nothing else up.
	Partitions  int32
	PartitionOf func(domain.Stream) int32
	Logger      *slog.Logger          // none by default
	Registerer  prometheus.Registerer // none by default
}

// The refusals of the spool, as rules of errors of class Unavailable.
const (
	SpoolFull = "spool-full" // MaxBytes are there
	SpoolDisk = "spool-disk" // the disk doesn't take it
)

const (
	refusedDir = "refused" // what the log will never take
	damagedDir = "damaged" // what the disk has spoiled: whole segments, and parts of others

	batchBytes = 1 << 20 // written and synced at once, or one larger delivery
	batchCount = 1024

	// buckets is how finely streams are told apart: what shares a bucket waits together, which costs time and never
	// order. So the memory for it doesn't depend on how many streams there are.
	buckets = 1 << 16
)

// Spool keeps deliveries on this node's disk while the log doesn't acknowledge, and sends them on when it does. A
// delivery is acknowledged only when it is synced. Of each stream they reach the log in the order in which they were
// acknowledged: while one of a stream waits, newer ones of that stream go behind it.
//
// For each waiting delivery 24 bytes are kept in memory.
type Spool struct {
	cfg     SpoolConfig
	disk    disk
	log     *slog.Logger
	metrics spoolMetrics
	seed    maphash.Seed
	boot    bootMark

	requests chan *spoolRequest
	idle     chan struct{}       // everything in the segment that is written is done
	stopped  chan struct{}       // closed when Run has ended
	inHand   *semaphore.Weighted // bytes that are being drained
	retry    time.Duration       // of a disk that failed
	pause    time.Duration       // after the log didn't take one, at first

	mu      sync.Mutex
	lanes   []*lane // by partition
	waiting []int32 // by bucket
	records int
	bytes   int64
	full    bool  // the last delivery didn't fit
	trouble error // of the disk, at the last try

	// Of the goroutine that commits.
	last   uint64 // number of the newest segment
	active *writer
	buffer []byte
}

// lane is what waits for one partition, and whether that is known to be away.
type lane struct {
	partition int32
	wake      chan struct{}

	// Guarded by Spool.mu.
	queue   []spot
	down    bool      // the log didn't answer: whoever drains finds out when it does again
	look    time.Time // nothing waits, or it is stuck: when a delivery may try the log in its place
	refusal error     // the log answers, and doesn't take it
	stuck   error     // what waits can't be sent on, for a reason that isn't the log's; see halts
	alone   int       // how many of the next are sent one by one
}

// spot is a delivery that waits.
type spot struct {
	segment  *segment
	offset   uint32
	size     uint32
	received uint32 // Unix seconds
	bucket   uint16
}

type waitingFrame struct {
	spot   spot
	stream domain.Stream
}

// spoolRequest is a delivery on its way to the disk.
type spoolRequest struct {
	ctx   context.Context
	entry eventstore.Entry
	done  chan error // of capacity 1
}

// OpenSpool checks the configuration and takes over what an earlier process left. Damage is kept and said; see
// SpoolStatus. The caller runs Run and, at the end, calls Close.
func OpenSpool(c SpoolConfig) (*Spool, error) { return openSpool(c, realDisk) }

func openSpool(c SpoolConfig, d disk) (*Spool, error) {
	var errs []error
	for _, need := range []struct {
		wrong bool
		what  string
	}{
		{c.Dir == "", "Dir"},
		{c.MaxBytes < 0, "MaxBytes of at least 0"},
		{c.MaxBytes > 0 && c.After <= 0, "After"},
		{c.Append == nil || c.AppendAll == nil, "Append and AppendAll"},
		{c.Partitions < 1 || c.PartitionOf == nil, "Partitions and PartitionOf"},
	} {
		if need.wrong {
			errs = append(errs, errors.New("the spool needs "+need.what))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Spool{
		cfg: c, disk: d, log: c.Logger, metrics: newSpoolMetrics(), seed: maphash.MakeSeed(), boot: thisBoot(),
		requests: make(chan *spoolRequest), idle: make(chan struct{}, 1), stopped: make(chan struct{}),
		inHand: semaphore.NewWeighted(drainBytes), retry: time.Second, pause: drainPause, waiting: make([]int32, buckets),
	}
	for p := range c.Partitions {
		s.lanes = append(s.lanes, &lane{partition: p, wake: make(chan struct{}, 1)})
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := d.syncDir(filepath.Dir(c.Dir)); err != nil {
		return nil, err
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	if s.records > 0 {
		s.log.Info("deliveries wait in the spool", "count", s.records, "bytes", s.bytes, "oldest", s.oldest().UTC())
	}
	if c.Registerer != nil {
		if err := s.register(c.Registerer); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Run commits and drains until ctx ends. What waits then stays for the next process.
func (s *Spool) Run(ctx context.Context) error {
	defer close(s.stopped)
	var all sync.WaitGroup
	all.Go(func() { s.commits(ctx) })
	for _, l := range s.lanes {
		all.Go(func() { s.drain(ctx, l) })
	}
	all.Wait()
	return nil
}

// Close closes the files. It is for after Run.
func (s *Spool) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lanes {
		for _, r := range l.queue {
			r.segment.closeMarks()
		}
	}
}

// Append puts a delivery into the log or, if that doesn't acknowledge in time, on the disk, and says where it is safe.
// Its errors are those of the log that a spool is no answer to, and SpoolFull and SpoolDisk. Nothing is known then
// about a delivery that the log may still write; its sender's retry is recognised.
func (s *Spool) Append(ctx context.Context, e eventstore.Entry) (Durability, error) {
	direct, err := s.route(e.Stream)
	if err != nil {
		return "", err
	}
	var missed error
	if direct {
		if missed = s.try(ctx, e); missed == nil {
			return Logged, nil
		}
		if !away(missed) || s.cfg.MaxBytes == 0 {
			return "", missed
		}
	}
	if err := s.commit(ctx, e); err != nil {
		return "", errors.Join(err, missed)
	}
	s.metrics.spooled.Inc()
	return Spooled, nil
}

// route says whether a delivery may go to the log at once.
func (s *Spool) route(stream domain.Stream) (direct bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lane(stream)
	if s.waiting[s.bucket(stream)] > 0 && !eventstore.Broken("spool-order") {
		return false, l.refusal
	}
	if !l.down || s.cfg.MaxBytes == 0 {
		return true, nil
	}
	// Whoever drains finds out when the log is back. If there is nothing to drain, or it can't be, one delivery at a time
	// does: a segment that can't be read would otherwise keep all of its partition away from a log that works.
	if now := time.Now(); (len(l.queue) == 0 || l.stuck != nil) && now.After(l.look) {
		l.look = now.Add(s.cfg.After)
		return true, nil
	}
	return false, nil
}

// try appends to the log within After, and notes whether it answered.
func (s *Spool) try(ctx context.Context, e eventstore.Entry) error {
	if s.cfg.MaxBytes > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.cfg.After)
		defer cancel()
	}
	err := s.cfg.Append(ctx, e)
	if s.cfg.MaxBytes == 0 {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered(s.lane(e.Stream), err)
	return err
}

// answered notes what an append says about a partition. The caller holds mu.
func (s *Spool) answered(l *lane, err error) {
	was := l.down
	switch {
	case away(err):
		l.down = true
		if !was {
			l.look = time.Now().Add(s.cfg.After)
			s.log.Warn("the log doesn't acknowledge; deliveries go to the spool", "partition", l.partition, "error", err)
		}
	case domain.ClassOf(err) == domain.Unavailable:
		l.down, l.refusal = false, err
	default: // taken, or refused for what it is
		l.down, l.refusal = false, nil
		if was {
			s.log.Info("the log acknowledges again", "partition", l.partition, "waiting", len(l.queue))
		}
	}
}

// away reports whether the log didn't answer. An error with a Rule is somebody's answer.
func away(err error) bool {
	e, ok := errors.AsType[*domain.Error](err)
	return ok && e.Class == domain.Unavailable && e.Rule == ""
}

// lane returns where the deliveries of a stream wait.
func (s *Spool) lane(stream domain.Stream) *lane {
	p := s.cfg.PartitionOf(stream)
	return s.lanes[max(0, min(p, int32(len(s.lanes)-1)))]
}

func (s *Spool) bucket(stream domain.Stream) uint16 {
	return uint16(maphash.String(s.seed, string(stream)))
}

// enqueue counts a frame that is synced as waiting. The caller holds mu, or is alone.
func (s *Spool) enqueue(f waitingFrame) {
	f.spot.bucket = s.bucket(f.stream)
	l := s.lane(f.stream)
	l.queue = append(l.queue, f.spot)
	s.waiting[f.spot.bucket]++
	f.spot.segment.live++
	s.records++
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// oldest is when the oldest waiting delivery was received; zero if nothing waits. The caller holds mu, or is alone.
func (s *Spool) oldest() time.Time {
	least := uint32(0)
	for _, l := range s.lanes {
		if len(l.queue) > 0 && (least == 0 || l.queue[0].received < least) {
			least = l.queue[0].received
		}
	}
	if least == 0 {
		return time.Time{}
	}
	return time.Unix(int64(least), 0)
}

func unixSeconds(t time.Time) uint32 { return uint32(max(1, min(t.Unix(), 1<<32-1))) }

// SpoolStatus is how a spool is doing.
type SpoolStatus struct {
	Records  int       // waiting
	Bytes    int64     // on disk
	MaxBytes int64     // how many there may be
	Oldest   time.Time // when the oldest waiting delivery was received; zero if none waits
	Refused  int       // set aside, because the log will never take them
	// Problems are what an operator must see to, a sentence each: then nothing more is accepted, or something that was is
	// damaged or can't be sent on.
	Problems []string
}

// Depth says how much waits, and what is wrong.
func (s *Spool) Depth() SpoolStatus {
	s.mu.Lock()
	st := SpoolStatus{Records: s.records, Bytes: s.bytes, MaxBytes: s.cfg.MaxBytes, Oldest: s.oldest()}
	full := s.full && s.bytes > s.cfg.MaxBytes/10*9
	trouble := s.trouble
	var stuck error // of the first of them
	var where []int32
	for _, l := range s.lanes {
		if l.stuck != nil {
			stuck, where = cmp.Or(stuck, l.stuck), append(where, l.partition)
		}
	}
	s.mu.Unlock()
	st.Refused = s.countFiles(refusedDir, spoolSuffix)
	if full {
		st.Problems = append(st.Problems, fmt.Sprintf("the spool is full: %d deliveries wait in %d bytes", st.Records, st.Bytes))
	}
	if trouble != nil {
		st.Problems = append(st.Problems, fmt.Sprintf("the spool's disk fails: %v", trouble))
	}
	if stuck != nil {
		st.Problems = append(st.Problems, fmt.Sprintf("what waits in the spool for the partitions %d can't be sent on: %v", where, stuck))
	}
	if n := s.countFiles(damagedDir, spoolSuffix) + s.countFiles(damagedDir, damagedSuffix); n > 0 {
		st.Problems = append(st.Problems, fmt.Sprintf("the spool's disk has spoiled deliveries that were accepted, or that may have been: see the %d files in %s",
			n, filepath.Join(s.cfg.Dir, damagedDir)))
	}
	return st
}

func (s *Spool) countFiles(dir, suffix string) (n int) {
	files, err := os.ReadDir(filepath.Join(s.cfg.Dir, dir))
	if err != nil {
		return 0 // it isn't there, which is how it should be
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), suffix) {
			n++
		}
	}
	return n
}
