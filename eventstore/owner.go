package eventstore

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// sessionTimeout is after how long without a heartbeat the group gives up a node.
const sessionTimeout = 6 * time.Second

func (l *Log) writersGroup() string { return l.cfg.Prefix + ".writers" }

// Own takes part in dividing the partitions among the nodes and runs serve for each partition while this node owns it.
// serve must return soon after its context ends; when it returns by itself, the partition rests until it is assigned
// anew. handled tells from which inbox offset on a partition is still to be handled.
//
// The consumer group behind it decides who works, never who is right: that is what the writer's fence is for. The
// group never fetches a record. The offsets committed to it are for lag tools and for a node that starts without a
// fold of its own.
func (l *Log) Own(ctx context.Context, serve func(ctx context.Context, partition int32), handled func(partition int32) int64) error {
	dead, err := l.predecessor()
	if err != nil {
		return err
	}
	o := &owner{log: l, ctx: ctx, serve: serve, handled: handled, running: map[int32]*ownership{}}
	cl, err := kgo.NewClient(l.options("owner",
		kgo.ConsumerGroup(l.writersGroup()),
		kgo.ConsumeTopics(l.Topics.Inbox),
		kgo.DisableAutoCommit(),
		kgo.SessionTimeout(sessionTimeout),
		kgo.HeartbeatInterval(1500*time.Millisecond),
		kgo.RebalanceTimeout(8*time.Second),
		kgo.OnPartitionsAssigned(func(_ context.Context, cl *kgo.Client, m map[string][]int32) {
			o.start(m[l.Topics.Inbox])
			l.joined.Store(true)
			if err := l.keepMember(cl); err != nil {
				l.cfg.Logger.Warn("a restart after a crash will wait until the group gives this process up", "error", err)
			}
		}),
		kgo.OnPartitionsRevoked(func(_ context.Context, cl *kgo.Client, m map[string][]int32) {
			o.stop(m[l.Topics.Inbox])
			o.commit(cl, m[l.Topics.Inbox])
		}),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { o.stop(m[l.Topics.Inbox]) }),
	)...)
	if err != nil {
		return err
	}
	cl.PauseFetchTopics(l.Topics.Inbox)
	var burial sync.WaitGroup
	defer burial.Wait()
	burial.Go(func() {
		if err := l.bury(ctx, cl, dead); err != nil {
			l.cfg.Logger.Warn("the partitions wait until the group gives up the process before this one", "error", err)
		}
	})
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			o.commit(cl, o.owned())
		case <-ctx.Done():
			// Leaving revokes: the writers finish the batch in hand first. With Kafka away nobody can be told; the
			// others find out when the session has expired.
			leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			err := cl.LeaveGroupContext(leave)
			o.stop(o.owned())
			if err != nil {
				l.cfg.Logger.Warn("the group was not told that this node leaves", "error", err)
				go cl.Close() // it tries to leave once more, for as long as its retries take
				return nil
			}
			cl.Close()
			return nil
		}
	}
}

// Joined reports whether the group has once told this node its partitions, which may be none.
func (l *Log) Joined() bool { return l.joined.Load() }

// ownership is one partition that this node works on.
type ownership struct {
	cancel context.CancelFunc
	done   chan struct{}
}

type owner struct {
	log     *Log
	ctx     context.Context // of Own
	serve   func(context.Context, int32)
	handled func(int32) int64

	mu      sync.Mutex
	running map[int32]*ownership
}

func (o *owner) start(partitions []int32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range partitions {
		if o.running[p] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(o.ctx)
		w := &ownership{cancel: cancel, done: make(chan struct{})}
		o.running[p] = w
		go func() {
			defer close(w.done)
			o.serve(ctx, p)
		}()
	}
}

// stop tells all of them first and waits then, so that they finish side by side.
func (o *owner) stop(partitions []int32) {
	o.mu.Lock()
	var waiting []*ownership
	for _, p := range partitions {
		if w := o.running[p]; w != nil {
			w.cancel()
			waiting = append(waiting, w)
			delete(o.running, p)
		}
	}
	o.mu.Unlock()
	for _, w := range waiting {
		<-w.done
	}
}

func (o *owner) owned() []int32 {
	o.mu.Lock()
	defer o.mu.Unlock()
	var ps []int32
	for p := range o.running {
		ps = append(ps, p)
	}
	return ps
}

// commit moves the group's offsets. Losing one is harmless: handling is idempotent.
func (o *owner) commit(cl *kgo.Client, partitions []int32) {
	offsets := map[int32]kgo.EpochOffset{}
	for _, p := range partitions {
		if n := o.handled(p); n > 0 {
			offsets[p] = kgo.EpochOffset{Epoch: -1, Offset: n}
		}
	}
	if len(offsets) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(o.ctx), 2*time.Second)
	defer cancel()
	cl.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{o.log.Topics.Inbox: offsets}, nil)
}
