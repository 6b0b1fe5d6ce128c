package eventstore

import (
	"context"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// Record is one record as followers see it. It is shared by all of them: nothing in it may be changed.
type Record struct {
	Partition int32
	Offset    int64
	// Exactly one of these is set. Err tells of a record that some other program wrote into the topic; it is left
	// out, the same way on every node.
	Event   *domain.Event
	Outcome *domain.Outcome
	Change  *Change
	Err     error

	size   int64
	frames [2]atomic.Pointer[[]byte]
}

// Frame returns the record's encoding number kind, made by encode at most a few times however many followers there
// are. encode must give the same bytes for everybody. Use it only in a Batch that is Shared.
func (r *Record) Frame(kind int, encode func() []byte) []byte {
	if b := r.frames[kind].Load(); b != nil {
		return *b
	}
	b := encode()
	r.frames[kind].Store(&b)
	return b
}

// Batch is what arrived together. Next is the position after its last record: it also passes markers and records that
// were aborted, so it is never derived from the last record's offset.
type Batch struct {
	Records []*Record
	// Next is empty while Rows are given that are not all there yet: then there is no position to go on from.
	Next Position
	// Rows says that the records are rows as they are now, not changes in their order.
	Rows bool
	// Arrived is when a batch came to this node's tail; zero for one that was read from elsewhere.
	Arrived time.Time
	// Shared says that every follower gets this batch whole and after the same position, so that encodings which
	// depend on the position may be shared too.
	Shared bool
	// Release is set on a batch that was read for one follower alone: it gives its place in a bounded pool back. See
	// Done.
	Release func()

	size   int64
	short  bool // more had been read; see cut
	pieces [2]atomic.Pointer[[]byte]
	// later makes the records, when somebody asks for them first. In a backlog most batches leave the tail before that: the
	// projections are far behind and read from Kafka.
	later  func() []*Record
	opened sync.Once
}

// Open makes the records if that was left for later, and returns b. Only who follows with Unopened needs it.
func (b *Batch) Open() *Batch {
	b.opened.Do(func() {
		if b.later != nil {
			b.Records, b.later = b.later(), nil
		}
	})
	return b
}

// Piece is to a whole batch what Frame is to a record: a form that only depends on all of its records. Use it only in a
// Batch that is Shared.
func (b *Batch) Piece(kind int, encode func() []byte) []byte {
	if p := b.pieces[kind].Load(); p != nil {
		return *p
	}
	p := encode()
	b.pieces[kind].Store(&p)
	return p
}

// Done says that the batch has been used. Until then one that was read for its follower alone counts against the memory
// that all of them may take together. Calling it again, or on a batch from the tail, does nothing.
func (b *Batch) Done() {
	if b.Release != nil {
		b.Release()
		b.Release = nil
	}
}

// Bytes is about how much memory the records take.
func (b *Batch) Bytes() (n int64) {
	for _, r := range b.Records {
		n += r.size
	}
	return n
}

// Tail keeps the newest records of something that grows, bounded in bytes. One writer appends; any number of followers
// pull, each at its own pace, so memory does not depend on how many there are or how slow they are.
type Tail struct {
	max int64

	mu     sync.Mutex
	chunks []*Batch
	first  int      // number of chunks[0], counted from the tail's beginning
	start  Position // before chunks[0]
	end    Position // after the last chunk
	bytes  int64
	asleep []*sleeper // until the next append or tick
	err    error
}

// NewTail returns an empty tail at position at, holding at most maxBytes (and always the newest batch).
func NewTail(at Position, maxBytes int64) *Tail {
	return &Tail{max: maxBytes, start: at.Clone(), end: at.Clone()}
}

// Reset empties the tail: it begins at position at.
func (t *Tail) Reset(at Position) {
	defer t.wake()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.first += len(t.chunks)
	t.chunks, t.bytes = nil, 0
	t.start, t.end = at.Clone(), at.Clone()
}

// Append adds a batch of about size bytes. Only one goroutine may append.
func (t *Tail) Append(b *Batch, size int64) {
	b.size = size + 256
	b.Arrived = time.Now()
	defer t.wake()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.chunks = append(t.chunks, b)
	t.end = b.Next
	t.bytes += b.size
	drop := 0
	for t.bytes > t.max && drop < len(t.chunks)-1 {
		t.bytes -= t.chunks[drop].size
		t.start = t.chunks[drop].Next
		t.chunks[drop] = nil
		drop++
	}
	t.chunks = t.chunks[drop:]
	t.first += drop
}

// Tick wakes every waiting follower without a record, so that they can look at the clock.
func (t *Tail) Tick() { t.wake() }

// Fail ends the tail: followers get err from now on.
func (t *Tail) Fail(err error) {
	defer t.wake()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.err = err
	}
}

// sleeper is a follower that waits. Each has a channel of its own: with one that all wait for beside their contexts, the
// runtime spent a tenth of delivering an event on the locks of both.
type sleeper struct {
	up    chan struct{} // holds one
	place int           // in Tail.asleep, while it is there
	// done is that of the context of the last wait, whose end wakes too. Most followers come with the same one all their
	// life.
	done   <-chan struct{}
	forget func() bool
}

func (s *sleeper) wake() {
	select {
	case s.up <- struct{}{}:
	default:
	}
}

// waitsFor has the end of ctx wake s.
func (s *sleeper) waitsFor(ctx context.Context) {
	if s.done == ctx.Done() {
		return
	}
	if s.forget != nil {
		s.forget()
	}
	s.done, s.forget = ctx.Done(), context.AfterFunc(ctx, s.wake)
}

// wake wakes everybody who is asleep, outside the lock, because all of them ask for it next.
func (t *Tail) wake() {
	t.mu.Lock()
	all := t.asleep
	t.asleep = make([]*sleeper, 0, len(all))
	t.mu.Unlock()
	for _, s := range all {
		s.wake()
	}
}

// lists reports whether s is asleep. The caller holds the lock.
func (t *Tail) lists(s *sleeper) bool { return s.place < len(t.asleep) && t.asleep[s.place] == s }

// gone takes s from those who are asleep: it was woken by its context.
func (t *Tail) gone(s *sleeper) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.lists(s) {
		return
	}
	end := len(t.asleep) - 1
	t.asleep[s.place] = t.asleep[end]
	t.asleep[s.place].place = s.place
	t.asleep[end] = nil
	t.asleep = t.asleep[:end]
}

// End returns the position after the newest record. The caller must not change it.
func (t *Tail) End() Position {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.end
}

// Reach returns the positions before the oldest and after the newest record. The caller must not change them.
func (t *Tail) Reach() (start, end Position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.start, t.end
}

// TailReader is one follower's place in a Tail. Its zero value with At set starts anywhere. Not for concurrent use.
type TailReader struct {
	At      Position // everything before it was given out
	next    int      // number of the chunk to read
	aligned bool     // At is exactly the position before that chunk
	sleeper *sleeper // nil before the first wait
	closed  bool     // it opens the batches that it wants itself
}

// MoveTo has r go on from another place.
func (r *TailReader) MoveTo(at Position) {
	*r = TailReader{At: at, sleeper: r.sleeper, closed: r.closed}
}

// Next returns the next batch after r.At and moves r. It waits for one until ctx ends, but only until the next tick: then
// the batch is empty. covered is false, and batch nil, when the tail no longer reaches back to r.At: the records between
// must come from elsewhere.
func (t *Tail) Next(ctx context.Context, r *TailReader) (batch *Batch, covered bool, err error) {
	if r.sleeper == nil {
		if batch, covered, err = t.read(r, nil); err != nil || batch != nil || !covered {
			return batch, covered, err
		}
		r.sleeper = &sleeper{up: make(chan struct{}, 1)}
	}
	s := r.sleeper
	s.waitsFor(ctx)
	if batch, covered, err = t.read(r, s); err != nil || batch != nil || !covered {
		return batch, covered, err
	}
	if ctx.Err() == nil {
		<-s.up
	}
	if err := ctx.Err(); err != nil {
		t.gone(s)
		return nil, true, err
	}
	if batch, covered, err = t.read(r, nil); err == nil && batch == nil && covered {
		batch = &Batch{Next: r.At}
	}
	return batch, covered, err
}

// read is Next without a wait: with nothing new, batch is nil, and s, if given, is asleep.
func (t *Tail) read(r *TailReader, s *sleeper) (batch *Batch, covered bool, err error) {
	t.mu.Lock()
	if t.err != nil {
		t.mu.Unlock()
		return nil, true, t.err
	}
	if !r.aligned || r.next < t.first {
		if !r.At.Covers(t.start) {
			t.mu.Unlock()
			return nil, false, nil
		}
		// Next positions only grow, so chunks that r has wholly seen are a prefix.
		i := sort.Search(len(t.chunks), func(i int) bool { return !r.At.Covers(t.chunks[i].Next) })
		r.next = t.first + i
		before := t.start
		if i > 0 {
			before = t.chunks[i-1].Next
		}
		r.aligned = before.Covers(r.At)
	}
	i := r.next - t.first
	if i >= len(t.chunks) {
		if s != nil && !t.lists(s) {
			s.place = len(t.asleep)
			t.asleep = append(t.asleep, s)
		}
		t.mu.Unlock()
		return nil, true, nil
	}
	chunk := t.chunks[i]
	t.mu.Unlock()
	if !r.aligned || !r.closed {
		chunk.Open()
	}

	if r.aligned {
		r.next++
		r.At = chunk.Next
		return chunk, true, nil
	}
	// The follower comes from another order of the same records (a catch-up read, or another node): give it what
	// it hasn't seen, and keep its own position.
	own := &Batch{Next: r.At.Clone()}
	for _, rec := range chunk.Records {
		if rec.Offset >= r.At.Next[rec.Partition] {
			own.Records = append(own.Records, rec)
		}
	}
	for p, n := range chunk.Next.Next {
		own.Next.Next[p] = max(own.Next.Next[p], n)
	}
	r.next++
	r.At = own.Next
	r.aligned = chunk.Next.Covers(r.At)
	return own, true, nil
}
